//! Every kernel of gpt2, llama and mla against the f64 evaluator: compiled, with no register spilled, entries run launch
//! by launch on the virtual GPU, with all checks on, and what each launch writes is compared with the values of the graph.
//! Sizes are multiples of no tile.
//! In f32 what serves is compared with a processor's kernels of the same tile programs, too.

#[path = "../../../codegen/tests/support/nvrtc.rs"]
mod installed;
#[allow(dead_code)]
mod job;
#[path = "../../../codegen/tests/support/maps.rs"]
mod maps;
mod memory;
mod places;
#[allow(dead_code)]
mod reference;
mod run;

use diptych_codegen::c::prelude::VectorWidth;
use diptych_codegen::cuda::{Architecture, KernelText};
use diptych_codegen::driver::{CompiledProgram, compile_program};
use diptych_codegen::entry::{CompiledEntry, EntryOptions, Language};
use diptych_ir::{EntryKind, text};
use diptych_nvrtc::{Form, Nvrtc};
use diptych_passes::AdamWOptions;
use diptych_runtime::cpu::compile::{Compiler, KernelCache};
use diptych_runtime::executor::load_kernels;
use diptych_virtual_gpu::Device;
use installed::nvrtc;
use job::{Job, program, program_of_size, run_entry, target_of, text_of, tolerance, wide_heads};
use reference::Reference;
use std::collections::BTreeMap;
use std::time::Instant;

/// Checks entries that are compiled together, on each architecture; what serves in f32, on the first also against a
/// processor's kernels.
fn check(preset: &str, dtype: &str, kinds: &[EntryKind], clip_norm: Option<f64>) {
    let Some(nvrtc) = nvrtc() else { return };
    let (program, vocab) = program(preset, dtype);
    let optimizer = AdamWOptions { clip_norm, ..AdamWOptions::default() };
    let compile = |options: EntryOptions| -> CompiledProgram {
        compile_program(&program, kinds, &optimizer, options).unwrap_or_else(|error| panic!("{error}"))
    };
    let width = VectorWidth::detect();
    // Where nothing sums in tensor memory, kernels are written as for sm_90a.
    let architectures = Architecture::ALL
        .into_iter()
        .filter(|architecture| dtype != "f32" || !architecture.has_tensor_memory());
    let compiled = architectures.enumerate().map(|(at, architecture)| {
        // So few that rows are walked in two turns.
        let options = EntryOptions { turn_rows: 48, ..EntryOptions::cuda(architecture) };
        if dtype != "f32" || at > 0 || kinds.iter().any(|kind| kind.trains()) {
            return (architecture, compile(options), None);
        }
        // The processor's panels are as wide as its vectors.
        let options = EntryOptions { panel: width.panel(), ..options };
        let of_processor = EntryOptions { language: Language::C, ..options };
        (architecture, compile(options), Some(compile(of_processor)))
    });
    let compiled: Vec<(Architecture, CompiledProgram, Option<CompiledProgram>)> = compiled.collect();
    let ptx: Vec<String> =
        compiled.iter().map(|(architecture, compiled, _)| ptx(&nvrtc, compiled, *architecture)).collect();
    for &kind in kinds {
        let program = compiled[0].1.program_of(kind);
        let entries: Vec<&CompiledEntry> =
            compiled.iter().map(|compiled| &compiled.1.entries[&kind]).collect();
        let graph = text::print(program);
        assert!(compiled.iter().all(|compiled| text::print(compiled.1.program_of(kind)) == graph));
        let job = Job::new(kind, vocab);
        let start = Instant::now();
        let reference = Reference::of(program, &entries, &job.bound);
        println!("{preset} {dtype} {}: {:.1} s of the evaluator", kind.name(), start.elapsed().as_secs_f64());
        for (((architecture, _, of_processor), entry), ptx) in compiled.iter().zip(entries).zip(&ptx) {
            let of_processor = of_processor.as_ref().map(|compiled| {
                let of_processor = &compiled.entries[&kind];
                assert!(of_processor.buffers == entry.buffers && of_processor.steps == entry.steps);
                let (compiler, cache) = (Compiler::find().unwrap(), KernelCache::standard());
                let texts = &of_processor.kernels;
                let kernels = load_kernels(texts, width, width.blocking(), &compiler, &cache, 2).unwrap();
                (of_processor, kernels)
            });
            let mut device = Device::new(target_of(*architecture), 1 << 30);
            let module = device.load(ptx).unwrap();
            let of_processor = of_processor.as_ref().map(|(entry, kernels)| (*entry, kernels));
            let name = format!("{preset} {dtype} {} on {architecture}", kind.name());
            let (entry, device) = ((entry, of_processor), (&mut device, &module));
            run_entry(&name, &job, &reference, entry, device, tolerance(dtype), None);
        }
    }
}

/// The kernels of all entries, each once. Their machine code spills no register, and waits for no single product.
fn ptx(nvrtc: &Nvrtc, compiled: &CompiledProgram, architecture: Architecture) -> String {
    let kernels = compiled.entries.values().flat_map(|entry| &entry.device_kernels);
    let kernels: BTreeMap<&str, &KernelText> = kernels.map(|kernel| (kernel.name.as_str(), kernel)).collect();
    let entry = compiled.entries.values().next().expect("an entry");
    let text = text_of(entry, kernels.into_values());
    let (target, cache) = (architecture.name().parse().unwrap(), diptych_nvrtc::KernelCache::standard());
    let compiled = cache.compile(nvrtc, &text, "kernels.cu", target, Form::Both).unwrap();
    assert!(!compiled.log.contains("wgmma.mma_async instructions are serialized"), "{}", compiled.log);
    for kernel in &compiled.kernels {
        let spilled = kernel.spill_stores + kernel.spill_loads + kernel.stack_bytes;
        assert!(spilled == 0 && kernel.registers <= 255, "{architecture}: {kernel:?}");
    }
    compiled.ptx
}

const SERVING: [EntryKind; 3] = [EntryKind::Score, EntryKind::Prefill, EntryKind::Decode];
const TRAINING: [EntryKind; 3] = [EntryKind::Train, EntryKind::Accumulate, EntryKind::Update];
/// With a step in one, which has most kernels of the others, and no norm of all gradients.
const STEPPING: [EntryKind; 4] =
    [EntryKind::Train, EntryKind::Accumulate, EntryKind::Update, EntryKind::Step];

macro_rules! checks {
    ($($name:ident: $preset:literal $dtype:literal $kinds:expr, $clip_norm:expr;)*) => {
        $(#[test] fn $name() { check($preset, $dtype, &$kinds, $clip_norm); })*
    };
}
checks! {
    gpt2_serves_in_f32: "gpt2-tiny" "f32" SERVING, None;
    gpt2_serves_in_bf16: "gpt2-tiny" "bf16" SERVING, None;
    gpt2_trains_in_f32: "gpt2-tiny" "f32" TRAINING, Some(1.0);
    gpt2_trains_in_bf16: "gpt2-tiny" "bf16" STEPPING, None;
    llama_serves_in_f32: "llama-tiny" "f32" SERVING, None;
    llama_serves_in_bf16: "llama-tiny" "bf16" SERVING, None;
    llama_trains_in_f32: "llama-tiny" "f32" STEPPING, None;
    llama_trains_in_bf16: "llama-tiny" "bf16" TRAINING, Some(1.0);
    mla_serves_in_f32: "mla-tiny" "f32" SERVING, None;
    mla_serves_in_bf16: "mla-tiny" "bf16" SERVING, None;
    mla_trains_in_f32: "mla-tiny" "f32" TRAINING, Some(1.0);
    mla_trains_in_bf16: "mla-tiny" "bf16" STEPPING, None;
}

/// Heads as wide as those of large models, and texts so long that nothing is masked of some chunks, or that a window
/// leaves some out.
#[test]
fn wide_heads_train_in_bf16() {
    let Some(nvrtc) = nvrtc() else { return };
    for (window, length) in [(None, 190), (Some(60), 192)] {
        let (program, vocab) = program_of_size("llama-tiny", "bf16", &wide_heads(window));
        let (kind, architecture) = (EntryKind::Train, Architecture::Sm90a);
        let options = EntryOptions::cuda(architecture);
        let compiled = compile_program(&program, &[kind], &AdamWOptions::default(), options)
            .unwrap_or_else(|error| panic!("{error}"));
        let entry = &compiled.entries[&kind];
        let held = entry.device_kernels.iter().filter(|kernel| kernel.text.contains("fragment<64>"));
        let held: Vec<&str> = held.map(|kernel| kernel.text.as_str()).collect();
        assert!(held.len() >= 3, "attention, and its gradients of queries and of keys: {}", held.len());
        assert!(held.iter().any(|text| text.contains("f_exp_at_most_zero(")));
        let job = Job::of(kind, vec![(0, length), (0, 3)], vocab);
        let reference = Reference::of(compiled.program_of(kind), &[entry], &job.bound);
        let mut device = Device::new(target_of(architecture), 1 << 30);
        let module = device.load(&ptx(&nvrtc, &compiled, architecture)).unwrap();
        let name = format!("wide heads in training, window {window:?}");
        let device = (&mut device, &module);
        run_entry(&name, &job, &reference, (entry, None), device, tolerance("bf16"), None);
    }
}

/// Experts and recurrences: what they choose, group, walk and round.
#[test]
fn experts_score_and_train() {
    check("moe-tiny", "f32", &[EntryKind::Score, EntryKind::Train], None);
}

#[test]
fn recurrences_score_and_train() {
    for preset in ["gated-linear-tiny", "mamba2-tiny"] {
        check(preset, "f32", &[EntryKind::Score, EntryKind::Train], None);
    }
}
