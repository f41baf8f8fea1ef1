//! The way of a program through all passes, to compiled entries. Every stage is
//! timed, so that compile time has owners. It touches no file and no device.

use crate::entry::{CompileError, CompiledEntry, EntryOptions, compile_entry};
use diptych_ir::{EntryKind, Program, verify};
use diptych_passes::algebra::{AlgebraReport, Objective, optimize_backward, optimize_forward};
use diptych_passes::fuse::StreamedAxes;
use diptych_passes::layout::Layouts;
use diptych_passes::normalize::{divide_after_sums, normalize};
use diptych_passes::rematerialize::{InBody, rematerialize};
use diptych_passes::{AdamWOptions, add_accumulate, add_adamw, differentiate, simplify};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// A program with its compiled entries.
#[derive(Clone, Debug)]
pub struct CompiledProgram {
    /// After all passes that all entries share.
    pub program: Program,
    /// How parameters are stored, the same for all entries.
    pub layouts: Layouts,
    /// The entries.
    pub entries: BTreeMap<EntryKind, CompiledEntry>,
    /// What equality saturation found: in the forward program, and in what only training uses.
    pub algebra: Vec<AlgebraReport>,
    /// Seconds of each stage, in order.
    pub stages: Vec<(String, f64)>,
}

/// What the algebra weighs where nothing else is asked for: a desktop processor's
/// two cores, as much training as serving.
pub fn objective() -> Objective {
    Objective::typical(200e9, 25e9, 1.0, 1.0)
}

/// Compiles entries of a program; if one of them trains, with gradients and the optimiser.
///
/// # Errors
/// When a pass refuses the program: which op, and why.
pub fn compile_program(
    program: &Program,
    kinds: &[EntryKind],
    optimizer: &AdamWOptions,
    options: EntryOptions,
) -> Result<CompiledProgram, CompileError> {
    compile_program_for(program, kinds, optimizer, options, &objective())
}

/// As [`compile_program`], with an objective of one's own.
///
/// # Errors
/// As said there, and when the objective lacks a size.
pub fn compile_program_for(
    program: &Program,
    kinds: &[EntryKind],
    optimizer: &AdamWOptions,
    options: EntryOptions,
    objective: &Objective,
) -> Result<CompiledProgram, CompileError> {
    Passed::through(program, kinds, optimizer, objective)?.compile(kinds, options, &BTreeSet::new())
}

/// A program after the passes that rewrite it, before it is laid out and divided into kernels.
pub(crate) struct Passed {
    pub(crate) program: Program,
    layouts: Layouts,
    streamed: StreamedAxes,
    algebra: Vec<AlgebraReport>,
    stages: Vec<(String, f64)>,
}

impl Passed {
    pub(crate) fn through(
        program: &Program,
        kinds: &[EntryKind],
        optimizer: &AdamWOptions,
        objective: &Objective,
    ) -> Result<Passed, CompileError> {
        let mut stages = Vec::new();
        let mut lap = laps(&mut stages);
        verify(program)?;
        let (rewritten, forward) = optimize_forward(program, objective)?;
        let mut program = divide_after_sums(&rewritten)?;
        let mut algebra = vec![forward];
        lap("algebra");
        let trains =
            |kind: &EntryKind| matches!(kind, EntryKind::Train | EntryKind::Accumulate | EntryKind::Update);
        if kinds.iter().any(trains) {
            program = differentiate(&program)?;
            lap("differentiate");
            program = add_adamw(&program, optimizer)?;
            lap("optimizer");
        }
        program = simplify(&program)?;
        lap("simplify");
        if kinds.iter().any(trains) {
            let (rewritten, backward) = optimize_backward(&program, objective)?;
            program = rewritten;
            algebra.push(backward);
            lap("algebra of the backward pass");
        }
        if kinds.contains(&EntryKind::Accumulate) {
            program = add_accumulate(&program)?;
            lap("micro-batches");
        }
        // What is streamed, and in what order sums over whole weights go, decides bits: they are chosen now, and are
        // the same whatever is computed again, and whether the program is trained or not.
        let layouts = Layouts::choose(&program);
        lap("layout");
        let streamed = StreamedAxes::of(&normalize(&program, false)?)?;
        lap("long axes");
        if !kinds.iter().any(trains) {
            // Layers may add to the training loss what no other entry should compute.
            program.entries.retain(|entry| !trains(&entry.kind));
            program = simplify(&program)?;
            lap("simplify for serving");
        }
        drop(lap);
        Ok(Passed { program, layouts, streamed, algebra, stages })
    }

    /// The rest of the way; backward passes compute `recomputed` again.
    pub(crate) fn compile(
        &self,
        kinds: &[EntryKind],
        options: EntryOptions,
        recomputed: &BTreeSet<InBody>,
    ) -> Result<CompiledProgram, CompileError> {
        let mut stages = self.stages.clone();
        let mut lap = laps(&mut stages);
        let program = rematerialize(&self.program, recomputed)?;
        lap("recomputation");
        verify(&program)?;
        lap("verify");
        let mut entries = BTreeMap::new();
        for &kind in kinds {
            entries.insert(kind, compile_entry(&program, kind, &self.layouts, &self.streamed, options)?);
            lap(kind.name());
        }
        drop(lap);
        Ok(CompiledProgram {
            program,
            layouts: self.layouts.clone(),
            entries,
            algebra: self.algebra.clone(),
            stages,
        })
    }
}

/// Notes the seconds since the last call, under a name.
fn laps(stages: &mut Vec<(String, f64)>) -> impl FnMut(&str) {
    let mut start = Instant::now();
    move |name| {
        stages.push((name.to_owned(), start.elapsed().as_secs_f64()));
        start = Instant::now();
    }
}
