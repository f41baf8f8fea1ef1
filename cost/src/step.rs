//! The predicted time of a whole training step: its micro-batches, in the parts in which they run, and the update.

use crate::{Machine, RunSizes, predict_entry};
use diptych_codegen::driver::CompiledProgram;
use diptych_codegen::within::parts_of;
use diptych_ir::EntryKind;

/// The sizes of a training step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StepSizes {
    /// Sequences of a micro-batch.
    pub batch: usize,
    /// Tokens of a sequence.
    pub time: usize,
    /// Micro-batches.
    pub accumulation: usize,
}

/// Seconds of a training step of a program, on so many threads of a machine, with so many sequences at a time.
/// An entry that the program lacks counts nothing.
pub fn predict_step(
    compiled: &CompiledProgram,
    machine: &Machine,
    threads: usize,
    sizes: StepSizes,
    at_a_time: usize,
) -> f64 {
    let of = |kind: EntryKind, sequences: usize| {
        let run = RunSizes::equal(sequences, 0, sizes.time);
        let entry = compiled.entries.get(&kind);
        entry.map_or(0.0, |entry| predict_entry(entry, machine, threads, &run).seconds())
    };
    if compiled.entries.contains_key(&EntryKind::Step) {
        return of(EntryKind::Step, at_a_time);
    }
    let parts = (0..sizes.accumulation).flat_map(|_| parts_of(sizes.batch, at_a_time));
    let further: f64 = parts.skip(1).map(|sequences| of(EntryKind::Accumulate, sequences)).sum();
    of(EntryKind::Train, at_a_time) + further + of(EntryKind::Update, at_a_time)
}
