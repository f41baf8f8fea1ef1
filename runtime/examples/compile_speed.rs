//! Times the compilation of every entry of a model with 2 layers and with 48,
//! each with an empty kernel cache: one JSON line a model.
//!
//! `cargo run --release -p diptych-runtime --example compile_speed -- [--model llama-15m]`

use diptych_ir::EntryKind;
use diptych_models::{Registry, build};
use diptych_passes::AdamWOptions;
use diptych_runtime::cpu::compile::KernelCache;
use diptych_runtime::device::Cpu;
use diptych_runtime::session::{Device, Session};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == "--model");
    let model = at.and_then(|at| arguments.get(at + 1)).map_or("llama-15m", String::as_str);
    let registry = Registry::zoo();
    let preset = registry.preset(model)?;
    for layers in [2, 48, 2, 48, 2, 48] {
        let mut config = preset.describe();
        config["layers"] = layers.into();
        let architecture = registry.architecture(preset.name(), &config)?;
        let folder = tempfile::tempdir()?;
        let device = Device::Cpu(Cpu { cache: KernelCache::at(folder.path()), ..Cpu::new(None)? });
        let start = Instant::now();
        let program = build(architecture.as_ref())?;
        let kinds =
            [EntryKind::Train, EntryKind::Update, EntryKind::Score, EntryKind::Prefill, EntryKind::Decode];
        let session =
            Session::compile(&device, &program, architecture.context(), &kinds, &AdamWOptions::default())?;
        let seconds = start.elapsed().as_secs_f64();
        let stages: Vec<String> = session
            .compiled
            .stages
            .iter()
            .map(|(name, seconds)| format!("\"{name}\": {seconds:.3}"))
            .collect();
        println!(
            "{{\"layers\": {layers}, \"seconds\": {seconds:.3}, \"stages\": {{{}}}}}",
            stages.join(", ")
        );
    }
    Ok(())
}
