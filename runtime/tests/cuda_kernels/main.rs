//! Every kernel of gpt2, llama and mla against the f64 evaluator: entries run launch by launch on the virtual GPU, with all
//! checks on, and what each launch writes is compared with the values of the graph. Sizes are multiples of no tile. What is
//! added up by chains of floats has a processor's bits, and is compared with its kernels, too.

#[path = "../../../codegen/tests/support/nvrtc.rs"]
mod installed;
#[allow(dead_code)]
mod job;
mod memory;
mod places;
#[allow(dead_code)]
mod reference;
mod run;

use diptych_codegen::c::prelude::VectorWidth;
use diptych_codegen::cuda::Architecture;
use diptych_codegen::driver::{CompiledProgram, compile_program};
use diptych_codegen::entry::{CompiledEntry, EntryOptions, Language};
use diptych_ir::{EntryKind, text};
use diptych_nvrtc::Form;
use diptych_passes::AdamWOptions;
use diptych_runtime::cpu::compile::{Compiler, KernelCache};
use diptych_runtime::executor::load_kernels;
use diptych_virtual_gpu::Device;
use installed::nvrtc;
use job::{Job, program, run_entry, target_of, text_of, tolerance};
use reference::Reference;
use std::time::Instant;

/// Checks entries that are compiled together, on each architecture; where bits are a processor's, on the first also against
/// its kernels.
fn check(preset: &str, dtype: &str, kinds: &[EntryKind], clip_norm: Option<f64>) {
    let Some(nvrtc) = nvrtc() else { return };
    let (program, vocab) = program(preset, dtype);
    let optimizer = AdamWOptions { clip_norm, ..AdamWOptions::default() };
    let compile = |options: EntryOptions| -> CompiledProgram {
        compile_program(&program, kinds, &optimizer, options).unwrap_or_else(|error| panic!("{error}"))
    };
    let width = VectorWidth::detect();
    let compiled = Architecture::ALL.iter().enumerate().map(|(at, &architecture)| {
        // So few that rows are walked in two turns.
        let options = EntryOptions { turn_rows: 48, ..EntryOptions::cuda(architecture) };
        if dtype != "f32" || at > 0 {
            return (architecture, compile(options), None);
        }
        // The processor's panels are as wide as its vectors.
        let options = EntryOptions { panel: width.panel(), ..options };
        let of_processor = EntryOptions { language: Language::C, ..options };
        (architecture, compile(options), Some(compile(of_processor)))
    });
    let compiled: Vec<(Architecture, CompiledProgram, Option<CompiledProgram>)> = compiled.collect();
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
        for ((architecture, _, of_processor), entry) in compiled.iter().zip(entries) {
            let of_processor = of_processor.as_ref().map(|compiled| {
                let of_processor = &compiled.entries[&kind];
                assert!(of_processor.buffers == entry.buffers && of_processor.steps == entry.steps);
                let (compiler, cache) = (Compiler::find().unwrap(), KernelCache::standard());
                let texts = &of_processor.kernels;
                let kernels = load_kernels(texts, width, width.blocking(), &compiler, &cache, 2).unwrap();
                (of_processor, kernels)
            });
            let text = text_of(entry, &entry.device_kernels);
            let target = architecture.name().parse().unwrap();
            let cache = diptych_nvrtc::KernelCache::standard();
            let ptx = cache.compile(&nvrtc, &text, "kernels.cu", target, Form::Ptx).unwrap();
            let mut device = Device::new(target_of(*architecture), 1 << 30);
            let module = device.load(std::str::from_utf8(&ptx.bytes).unwrap()).unwrap();
            let of_processor = of_processor.as_ref().map(|(entry, kernels)| (*entry, kernels));
            let name = format!("{preset} {dtype} {} on {architecture}", kind.name());
            let (entry, device) = ((entry, of_processor), (&mut device, &module));
            run_entry(&name, &job, &reference, entry, device, tolerance(dtype), None);
        }
    }
}

const SERVING: [EntryKind; 3] = [EntryKind::Score, EntryKind::Prefill, EntryKind::Decode];
const TRAINING: [EntryKind; 3] = [EntryKind::Train, EntryKind::Accumulate, EntryKind::Update];

macro_rules! checks {
    ($($preset:literal $dtype:ident: $serves:ident $trains:ident $steps:ident;)*) => {$(
        #[test]
        fn $serves() {
            check($preset, stringify!($dtype), &SERVING, None);
        }

        #[test]
        fn $trains() {
            check($preset, stringify!($dtype), &TRAINING, Some(1.0));
        }

        #[test]
        fn $steps() {
            check($preset, stringify!($dtype), &[EntryKind::Step], None);
        }
    )*};
}
checks! {
    "gpt2-tiny" f32: gpt2_serves_in_f32 gpt2_trains_in_f32 gpt2_steps_in_f32;
    "gpt2-tiny" bf16: gpt2_serves_in_bf16 gpt2_trains_in_bf16 gpt2_steps_in_bf16;
    "llama-tiny" f32: llama_serves_in_f32 llama_trains_in_f32 llama_steps_in_f32;
    "llama-tiny" bf16: llama_serves_in_bf16 llama_trains_in_bf16 llama_steps_in_bf16;
    "mla-tiny" f32: mla_serves_in_f32 mla_trains_in_f32 mla_steps_in_f32;
    "mla-tiny" bf16: mla_serves_in_bf16 mla_trains_in_bf16 mla_steps_in_bf16;
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
