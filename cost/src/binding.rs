//! What a binding of a program takes: the judge between forms of a program, once they are fused and scheduled.

use crate::{Machine, RunSizes, predict_entry};
use diptych_codegen::driver::CompiledProgram;
use diptych_codegen::entry::{Limits, Role};
use diptych_codegen::tile::CHUNK;
use diptych_ir::Symbol;
use diptych_passes::algebra::Binding;

/// The sequences of a run of a binding: as many as its `batch`, with `time` new tokens each, that see `past` positions.
pub fn sizes_of(binding: &Binding) -> RunSizes {
    let size = |name: &str| binding.sizes.get(&Symbol::new(name)).copied().unwrap_or(1);
    let (time, past) = (size("time"), size("past"));
    let origin = if binding.entry.cached() { past.saturating_sub(time) } else { 0 };
    RunSizes::equal(size("batch"), origin, time)
}

/// Seconds of a run of a binding on so many threads of a machine; 0 if the program lacks the entry.
pub fn predict_binding(
    compiled: &CompiledProgram,
    binding: &Binding,
    machine: &Machine,
    threads: usize,
) -> f64 {
    let entry = compiled.entries.get(&binding.entry);
    entry.map_or(0.0, |entry| predict_entry(entry, machine, threads, &sizes_of(binding)).seconds())
}

/// Bytes that serving a binding takes: weights, what this and other entries with caches derive from them, caches and states
/// of its sequences, and what a run keeps for itself. 0 if the program lacks the entry.
pub fn serving_bytes(compiled: &CompiledProgram, binding: &Binding) -> usize {
    let Some(entry) = compiled.entries.get(&binding.entry) else { return 0 };
    let run = sizes_of(binding);
    let limits = Limits { rows: run.rows(), batch: run.batch() };
    let positions =
        run.sequences.iter().map(|sequence| (sequence.origin + sequence.length).next_multiple_of(CHUNK));
    let positions: usize = positions.sum();
    let of_buffer = |buffer: &diptych_codegen::entry::Buffer| {
        let rows = match buffer.role {
            Role::Cache { .. } => positions,
            Role::State { .. } => run.batch(),
            Role::Temporary => return 0,
            _ => return buffer.bytes(limits, entry.panel),
        };
        rows * buffer.layout.row_elements(entry.panel) * buffer.dtype.bytes() * buffer.slots
    };
    let arena = diptych_passes::plan::place(&entry.lifetimes(limits, run.cached())).bytes;
    let others = compiled.entries.iter().filter(|(kind, _)| kind.cached() && **kind != binding.entry);
    let derived = others.flat_map(|(_, other)| {
        let derived = other.buffers.iter().filter(|buffer| matches!(buffer.role, Role::Derived));
        derived.map(|buffer| buffer.bytes(limits, other.panel))
    });
    arena + entry.buffers.iter().map(of_buffer).sum::<usize>() + derived.sum::<usize>()
}
