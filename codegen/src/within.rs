//! Training within a memory limit: how many sequences of a batch run at a time, and which of the values that layers
//! keep for the backward pass are computed again there instead. Every choice is taken through the whole compiler, so
//! that memory and time are those of the real plan. It knows no machine: what a plan takes is asked of the caller.

use crate::driver::{CompiledProgram, Passed, Rewritten};
use crate::entry::{CompileError, EntryOptions};
use crate::rewriting::Refusal;
use crate::stages::{note, total};
use diptych_ir::{Axis, EntryKind, Symbol};
use diptych_passes::AdamWOptions;
use diptych_passes::rematerialize::{InBody, Kept, kept_values};
use std::collections::BTreeSet;
use std::time::Instant;

/// What a plan may take, and how to tell. The last argument of its functions is how many sequences run at a time.
pub struct Limit<'a> {
    /// Bytes that a plan may take.
    pub bytes: usize,
    /// Sequences of a batch.
    pub batch: usize,
    /// Bytes that a plan takes.
    pub memory: &'a dyn Fn(&CompiledProgram, usize) -> usize,
    /// Seconds of a training step.
    pub seconds: &'a dyn Fn(&CompiledProgram, usize) -> f64,
    /// The size of an axis in a step, in elements.
    pub size: &'a dyn Fn(Axis) -> f64,
}

/// What was chosen.
#[derive(Clone, Debug)]
pub struct Choice {
    /// How many sequences of a batch run at a time.
    pub at_a_time: usize,
    /// Values that are computed again.
    pub recomputed: Vec<Kept>,
    /// Bytes and seconds of a step with the whole batch at a time and everything kept.
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
    /// It takes more than it may, whatever is computed again and however few sequences run at a time.
    #[error("the run takes at least {least} bytes, more than the {allowed} that it may")]
    TooLittle {
        /// The limit.
        allowed: usize,
        /// The least limit that works.
        least: usize,
        /// States for whose sake a batch is not cut: their gradients would have other bits.
        whole: Vec<Symbol>,
    },
}

impl Refusal for WithinError {
    fn refused(&self) -> Option<&CompileError> {
        match self {
            WithinError::Compile(error) => Some(error),
            WithinError::TooLittle { .. } => None,
        }
    }
}

/// As [`crate::driver::compile_rewritten`], within a memory limit: the plan that is predicted to be the fastest, of those
/// that were found to keep it. Batches are halved, and for each number of sequences at a time values are given up in
/// the order of the work that a byte of them costs; those that need not have been are then kept after all, the dearest
/// first. No choice changes a bit of the results.
///
/// # Errors
/// When a pass refuses all forms of the program, or the limit cannot be kept: then with the least that can.
pub fn compile_within(
    rewritten: &Rewritten,
    kinds: &[EntryKind],
    optimizer: &AdamWOptions,
    options: EntryOptions,
    limit: &Limit<'_>,
) -> Result<(CompiledProgram, Choice), WithinError> {
    rewritten.first_of_forms(kinds, |rewritten| form_within(rewritten, kinds, optimizer, options, limit))
}

/// The same of the one form that is chosen.
fn form_within(
    rewritten: &Rewritten,
    kinds: &[EntryKind],
    optimizer: &AdamWOptions,
    options: EntryOptions,
    limit: &Limit<'_>,
) -> Result<(CompiledProgram, Choice), WithinError> {
    let start = Instant::now();
    let at_once = Search { passed: Passed::through(rewritten, kinds, optimizer)?, kinds, options, limit };
    let everything = at_once.compile(&[])?;
    let without = at_once.takes(&everything, limit.batch);
    let choice = |at_a_time, recomputed, with| Choice { at_a_time, recomputed, without, with };
    if without.0 <= limit.bytes {
        return Ok((searched(everything, rewritten, start), choice(limit.batch, Vec::new(), without)));
    }
    let mut least = without.0;
    let mut best = at_once.cheapest(limit.batch, &mut least)?;
    // Parts of a batch have sums of gradients, and the update follows the last of them.
    let mut accumulating = kinds.to_vec();
    accumulating.retain(|kind| *kind != EntryKind::Step);
    for kind in [EntryKind::Train, EntryKind::Update, EntryKind::Accumulate] {
        if !accumulating.contains(&kind) {
            accumulating.push(kind);
        }
    }
    let passed = Passed::through(rewritten, &accumulating, optimizer)?;
    let search = Search { passed, kinds: &accumulating, ..at_once };
    let everything = search.compile(&[])?;
    // Sums that do not go on from one part of a batch to the next would have other bits.
    let whole = everything.entries[&EntryKind::Accumulate].added.clone();
    let halves = std::iter::successors(Some(limit.batch), |size| (*size > 1).then(|| size.div_ceil(2)));
    // To keep sums apart until the update can take less than to add them up at once, also with the batch as a whole.
    for at_a_time in halves.take_while(|&size| whole.is_empty() || size == limit.batch) {
        // Computing again what could be kept only takes longer.
        let (bytes, seconds) = search.takes(&everything, at_a_time);
        if best.as_ref().is_some_and(|best: &Found| best.seconds <= seconds) {
            continue;
        }
        let found = match bytes <= limit.bytes {
            true => {
                let compiled = everything.clone();
                Some(Found { compiled, at_a_time, recomputed: Vec::new(), bytes, seconds })
            }
            false => search.cheapest(at_a_time, &mut least)?,
        };
        let better = |found: &Found| best.as_ref().is_none_or(|best| found.seconds < best.seconds);
        if let Some(found) = found.filter(better) {
            best = Some(found);
        }
    }
    let Found { compiled, at_a_time, recomputed, bytes, seconds } =
        best.ok_or(WithinError::TooLittle { allowed: limit.bytes, least, whole })?;
    Ok((searched(compiled, rewritten, start), choice(at_a_time, recomputed, (bytes, seconds))))
}

/// The plan that was chosen, with all other plans as a stage of what it took to compile it.
fn searched(mut compiled: CompiledProgram, rewritten: &Rewritten, start: Instant) -> CompiledProgram {
    let own = total(&compiled.stages) - total(rewritten.stages());
    note(&mut compiled.stages, "other plans", (start.elapsed().as_secs_f64() - own).max(0.0));
    compiled
}

/// A plan that keeps the limit.
struct Found {
    compiled: CompiledProgram,
    at_a_time: usize,
    recomputed: Vec<Kept>,
    bytes: usize,
    seconds: f64,
}

/// A program whose recomputation is still to be chosen.
struct Search<'a> {
    passed: Passed,
    kinds: &'a [EntryKind],
    options: EntryOptions,
    limit: &'a Limit<'a>,
}

impl Search<'_> {
    fn compile(&self, values: &[Kept]) -> Result<CompiledProgram, CompileError> {
        let recomputed: BTreeSet<InBody> = values.iter().map(|value| value.place).collect();
        self.passed.compile(self.kinds, self.options, &recomputed)
    }

    /// Bytes and seconds of a plan.
    fn takes(&self, compiled: &CompiledProgram, at_a_time: usize) -> (usize, f64) {
        ((self.limit.memory)(compiled, at_a_time), (self.limit.seconds)(compiled, at_a_time))
    }

    /// The cheapest recomputation that was found to keep the limit; `least` becomes the least that any takes.
    fn cheapest(&self, at_a_time: usize, least: &mut usize) -> Result<Option<Found>, CompileError> {
        let limit = self.limit;
        let mut values = kept_values(self.passed.trained());
        let flops = |value: &Kept| value.flops(limit.size);
        let flops_per_byte = |value: &Kept| flops(value) / value.bytes(limit.size).max(1.0);
        values.sort_by(|a, b| flops_per_byte(a).total_cmp(&flops_per_byte(b)));
        let mut fits = |values: &[Kept]| -> Result<Option<CompiledProgram>, CompileError> {
            let compiled = self.compile(values)?;
            let bytes = (limit.memory)(&compiled, at_a_time);
            *least = bytes.min(*least);
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
        // More can be worse where what a value is computed from is then alive for longer: some shorter starts are
        // tried, too, not all, as that takes seconds where nothing fits.
        let fewer = enough.div_ceil(8);
        while chosen.is_none() && enough > fewer {
            enough -= fewer;
            chosen = fits(&values[..enough])?;
        }
        let Some(mut compiled) = chosen else { return Ok(None) };
        values.truncate(enough);
        let mut dearest: Vec<Kept> = values.clone();
        dearest.sort_by(|a, b| flops(b).total_cmp(&flops(a)));
        for value in dearest {
            let others: Vec<Kept> =
                values.iter().filter(|other| other.place != value.place).cloned().collect();
            if let Some(without) = fits(&others)? {
                (compiled, values) = (without, others);
            }
        }
        let (bytes, seconds) = self.takes(&compiled, at_a_time);
        Ok(Some(Found { compiled, at_a_time, recomputed: values, bytes, seconds }))
    }
}

/// The sizes of the parts in which a batch runs.
pub fn parts_of(batch: usize, at_a_time: usize) -> impl Iterator<Item = usize> {
    (0..batch).step_by(at_a_time.max(1)).map(move |first| at_a_time.min(batch - first))
}
