//! What a binding of a program takes: the judge between forms of a program, once they are fused and scheduled.

use crate::{Machine, RunSizes, predict_entry};
use diptych_codegen::driver::CompiledProgram;
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
