//! Training within a memory limit: which of the values that layers keep for the backward pass are computed again
//! there instead. Every choice is taken through the whole compiler, so that memory and time are those of the real
//! plan. It knows no machine: what a plan takes is asked of the caller.

use crate::driver::{CompiledProgram, Passed};
use crate::entry::{CompileError, EntryOptions};
use diptych_ir::{Axis, EntryKind, Program};
use diptych_passes::AdamWOptions;
use diptych_passes::rematerialize::{InBody, Kept, kept_values};
use std::collections::BTreeSet;

/// What a plan may take, and how to tell.
pub struct Limit<'a> {
    /// Bytes that a plan may take.
    pub bytes: usize,
    /// Bytes that a plan takes.
    pub memory: &'a dyn Fn(&CompiledProgram) -> usize,
    /// Seconds of a training step.
    pub seconds: &'a dyn Fn(&CompiledProgram) -> f64,
    /// The size of an axis in a step, in elements.
    pub size: &'a dyn Fn(Axis) -> f64,
}

/// What was chosen.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Values that are computed again.
    pub recomputed: Vec<Kept>,
    /// Bytes and seconds of a step with everything kept.
    pub without: (usize, f64),
    /// Bytes and seconds of a step as chosen.
    pub with: (usize, f64),
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum WithinError {
    /// The program cannot be compiled at all.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// It takes more than it may, whatever is computed again.
    #[error("the run takes at least {least} bytes, more than the {allowed} that it may")]
    TooLittle {
        /// The limit.
        allowed: usize,
        /// The least limit that works.
        least: usize,
    },
}

/// As [`crate::driver::compile_program`], within a memory limit: the cheapest set of recomputed values that was
/// found to keep it. Values are given up in the order of the work that a byte of them costs, and those that need
/// not have been are then kept after all, the dearest first. No choice changes a bit of the results.
///
/// # Errors
/// When a pass refuses the program, or the limit cannot be kept: then with the least that can.
pub fn compile_within(
    program: &Program,
    kinds: &[EntryKind],
    optimizer: &AdamWOptions,
    options: EntryOptions,
    limit: &Limit<'_>,
) -> Result<(CompiledProgram, Choice), WithinError> {
    let passed = Passed::through(program, kinds, optimizer)?;
    let compile = |values: &[Kept]| {
        let recomputed: BTreeSet<InBody> = values.iter().map(|value| value.place).collect();
        passed.compile(kinds, options, &recomputed)
    };
    let everything = compile(&[])?;
    let bytes = (limit.memory)(&everything);
    let without = (bytes, (limit.seconds)(&everything));
    if bytes <= limit.bytes {
        return Ok((everything, Choice { recomputed: Vec::new(), without, with: without }));
    }

    let mut values = kept_values(&passed.program);
    let flops = |value: &Kept| value.flops(limit.size);
    let flops_per_byte = |value: &Kept| flops(value) / value.bytes(limit.size).max(1.0);
    values.sort_by(|a, b| flops_per_byte(a).total_cmp(&flops_per_byte(b)));
    let mut least = bytes;
    let mut fits = |values: &[Kept]| -> Result<Option<CompiledProgram>, CompileError> {
        let compiled = compile(values)?;
        let bytes = (limit.memory)(&compiled);
        least = least.min(bytes);
        Ok((bytes <= limit.bytes).then_some(compiled))
    };
    // The shortest start of the list that is enough, as if more were never worse.
    let (mut too_few, mut enough, mut chosen) = (0, values.len(), fits(&values)?);
    while chosen.is_some() && enough - too_few > 1 {
        let middle = (too_few + enough) / 2;
        match fits(&values[..middle])? {
            Some(compiled) => (chosen, enough) = (Some(compiled), middle),
            None => too_few = middle,
        }
    }
    // More can be worse where what a value is computed from is then alive for longer.
    while chosen.is_none() && enough > 1 {
        enough -= 1;
        chosen = fits(&values[..enough])?;
    }
    let Some(mut chosen) = chosen else {
        return Err(WithinError::TooLittle { allowed: limit.bytes, least });
    };
    values.truncate(enough);
    let mut dearest: Vec<Kept> = values.clone();
    dearest.sort_by(|a, b| flops(b).total_cmp(&flops(a)));
    for value in dearest {
        let others: Vec<Kept> = values.iter().filter(|other| other.place != value.place).cloned().collect();
        if let Some(compiled) = fits(&others)? {
            (chosen, values) = (compiled, others);
        }
    }
    let with = ((limit.memory)(&chosen), (limit.seconds)(&chosen));
    Ok((chosen, Choice { recomputed: values, without, with }))
}
