//! Every kernel that the zoo's programs generate is taken by NVRTC for every architecture, spills no register, and keeps
//! its tiles in shared memory.

use diptych_codegen::cuda::{Architecture, KernelText, file_text};
use diptych_codegen::driver::{CompiledProgram, compile_program};
use diptych_codegen::entry::EntryOptions;
use diptych_ir::EntryKind;
use diptych_models::{Registry, build};
use diptych_nvrtc::{Form, KernelCache, Nvrtc};
use diptych_passes::AdamWOptions;
use std::collections::BTreeMap;

const KINDS: [EntryKind; 6] = [
    EntryKind::Train,
    EntryKind::Accumulate,
    EntryKind::Step,
    EntryKind::Score,
    EntryKind::Prefill,
    EntryKind::Decode,
];

fn compiled(preset: &str, dtype: &str, architecture: Architecture) -> CompiledProgram {
    let registry = Registry::zoo();
    let preset = registry.preset(preset).expect("a preset");
    let mut config = preset.describe();
    config.as_object_mut().expect("fields").insert("dtype".into(), dtype.into());
    let model = registry.architecture(preset.name(), &config).expect("an architecture");
    let program = build(&*model).expect("a program");
    compile_program(
        &program,
        &KINDS,
        &AdamWOptions { clip_norm: None, ..AdamWOptions::default() },
        EntryOptions::cuda(architecture),
    )
    .unwrap_or_else(|error| panic!("{}: {error}", preset.name()))
}

/// All kernels of a program by name, each once.
fn kernels(program: &CompiledProgram) -> BTreeMap<&str, &KernelText> {
    let all = program.entries.values().flat_map(|entry| &entry.device_kernels);
    all.map(|kernel| (kernel.name.as_str(), kernel)).collect()
}

#[test]
fn kernels_of_the_zoo_compile_without_spills() {
    let nvrtc = match Nvrtc::find() {
        Ok(nvrtc) => nvrtc,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    let cache = KernelCache::standard();
    let mut wrong = Vec::new();
    for architecture in Architecture::ALL {
        let target = architecture.name().parse().expect("a target");
        for preset in ["gpt2-tiny", "llama-tiny", "mla-tiny"] {
            for dtype in ["f32", "bf16"] {
                let program = compiled(preset, dtype, architecture);
                let kernels = kernels(&program);
                assert!(kernels.len() > 20, "{preset}: {}", kernels.len());
                for (name, kernel) in kernels {
                    let text = file_text([kernel]);
                    let compiled = cache
                        .compile(&nvrtc, &text, &format!("{name}.cu"), target, Form::Cubin)
                        .unwrap_or_else(|error| panic!("{preset} {dtype} {architecture}: {error}"));
                    let used = compiled.kernel(name).expect("what it uses");
                    let spills = used.spill_stores + used.spill_loads + used.stack_bytes;
                    if spills > 0 || used.registers > 128 || !kernel.scratch_tiles.is_empty() {
                        wrong.push(format!(
                            "{preset} {dtype}: {used:?}, in scratch {:?}",
                            kernel.scratch_tiles
                        ));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn dump() {
    let Ok(folder) = std::env::var("DUMP_CUDA") else { return };
    for architecture in Architecture::ALL {
        for preset in ["gpt2-tiny", "llama-tiny", "mla-tiny"] {
            for dtype in ["f32", "bf16"] {
                let program = compiled(preset, dtype, architecture);
                for (name, kernel) in kernels(&program) {
                    std::fs::write(
                        format!("{folder}/{architecture}_{preset}_{dtype}_{name}.cu"),
                        file_text([kernel]),
                    )
                    .unwrap();
                }
            }
        }
    }
}
