//! How kernels go about memory, counted on the virtual GPU at sizes that tiles divide: passes through the banks of shared
//! memory in kernels that multiply, and sectors of the device's memory in those that do not. Nor do threads, or blocks,
//! get in each other's way at these sizes.

#[path = "../../../codegen/tests/support/nvrtc.rs"]
mod installed;
#[allow(dead_code)]
#[path = "../cuda_kernels/job.rs"]
mod job;
#[path = "../../../codegen/tests/support/maps.rs"]
mod maps;
#[path = "../cuda_kernels/memory.rs"]
mod memory;
#[path = "../cuda_kernels/places.rs"]
mod places;
#[allow(dead_code)]
#[path = "../cuda_kernels/reference.rs"]
mod reference;
#[path = "../cuda_kernels/run.rs"]
mod run;

use diptych_codegen::cuda::Architecture;
use diptych_codegen::driver::compile_program;
use diptych_codegen::entry::EntryOptions;
use diptych_ir::EntryKind;
use diptych_nvrtc::{Form, KernelCache};
use diptych_passes::AdamWOptions;
use diptych_virtual_gpu::Device;
use installed::nvrtc;
use job::{Job, program_of_size, run_entry, target_of, text_of, tolerance};
use reference::Reference;
use serde_json::{Value, json};

/// What is more than without conflicts, or than whole sectors, in kernels whose sizes tiles divide.
const MOST: f64 = 1.05;

/// A preset with one layer, and heads of 64 or of 128.
fn config(preset: &str) -> Value {
    match preset {
        "gpt2-tiny" => json!({ "layers": 1, "vocab": 512, "embed": 256, "heads": 4, "hidden": 512 }),
        "llama-tiny" => json!({
            "layers": 1, "vocab": 512, "embed": 256, "heads": 4, "key_value_heads": 2, "head_dim": 128, "hidden": 512,
        }),
        _ => json!({
            "layers": 1, "vocab": 512, "embed": 256, "heads": 2, "query_latent": 128, "latent": 128,
            "content_dim": 64, "rotary_dim": 64, "value_dim": 64, "hidden": 512,
        }),
    }
}

/// A kernel and what was counted.
struct Row {
    ratio: f64,
    what: &'static str,
    kernel: String,
    /// Its products.
    calls: String,
    is_asserted: bool,
}

fn check(preset: &str, dtype: &str, architecture: Architecture) {
    let Some(nvrtc) = nvrtc() else { return };
    let (program, vocab) = program_of_size(preset, dtype, &config(preset));
    let kinds = [EntryKind::Train, EntryKind::Update];
    let options = EntryOptions::cuda(architecture);
    let compiled = compile_program(&program, &kinds, &AdamWOptions::default(), options)
        .unwrap_or_else(|error| panic!("{error}"));
    let mut rows = Vec::new();
    for kind in kinds {
        let entry = &compiled.entries[&kind];
        let job = Job::of(kind, vec![(0, 128)], vocab);
        let reference = Reference::unevaluated(compiled.program_of(kind), &[entry], &job.bound);
        let mut device = Device::new(target_of(architecture), 1 << 30);
        let text = text_of(entry, &entry.device_kernels);
        let target = architecture.name().parse().unwrap();
        let ptx = KernelCache::standard().compile(&nvrtc, &text, "kernels.cu", target, Form::Ptx).unwrap();
        let module = device.load(&ptx.ptx).unwrap();
        let name = format!("{preset} {dtype} {} on {architecture}", kind.name());
        let device = (&mut device, &module);
        let counted = run_entry(&name, &job, &reference, (entry, None), device, tolerance(dtype), None);
        for (kernel, counted) in counted {
            let kernel = &entry.device_kernels[kernel];
            let has = |part: &str| kernel.text.contains(part);
            let mut row = |what, ratio, is_asserted| {
                let calls = kernel.text.lines().filter(|line| line.contains("dot_"));
                let calls: String = calls.map(|line| format!("\n{}", line.trim())).collect();
                let calls = format!("{}{calls}", kernel.name);
                rows.push(Row { ratio, what, kernel: kernel.name.clone(), calls, is_asserted });
            };
            if has("dot<") || has("dot_") {
                row("passes", counted.total.bank_conflict_ratio(), false);
                // Scores that queries of floats give lie across the rows of gradients of keys in registers.
                let reads_across = has("fragment<") && has("// Grid: chunks of past");
                row("passes in the main loop", counted.main_loop.bank_conflict_ratio(), !reads_across);
            } else {
                // Of a table in panels an id names a column.
                let is_along = !has("id_");
                row("sectors loaded", counted.total.load_sector_ratio(), is_along);
                row("sectors stored", counted.total.store_sector_ratio(), is_along);
            }
        }
    }
    rows.sort_by(|one, other| other.ratio.total_cmp(&one.ratio));
    for Row { ratio, what, kernel, is_asserted, .. } in rows.iter().take_while(|row| row.ratio > 1.01) {
        let asserted = if *is_asserted { "" } else { ", not asserted" };
        println!("{ratio:5.2} {what:24} {kernel} ({preset}, {dtype}, {architecture}{asserted})");
    }
    let asserted = rows.iter().filter(|row| row.is_asserted);
    let wrong: Vec<&str> = asserted.filter(|row| row.ratio > MOST).map(|row| row.calls.as_str()).collect();
    assert!(wrong.is_empty(), "{preset} in {dtype} on {architecture}: {}", wrong.join(", "));
}

macro_rules! checks {
    ($($name:ident: $preset:literal $dtype:literal $architecture:ident;)*) => {$(
        #[test]
        fn $name() {
            check($preset, $dtype, Architecture::$architecture);
        }
    )*};
}
checks! {
    gpt2_in_f32: "gpt2-tiny" "f32" Sm80;
    gpt2_in_bf16_on_sm_80: "gpt2-tiny" "bf16" Sm80;
    gpt2_in_bf16_on_sm_90a: "gpt2-tiny" "bf16" Sm90a;
    llama_in_f32: "llama-tiny" "f32" Sm80;
    llama_in_bf16_on_sm_80: "llama-tiny" "bf16" Sm80;
    llama_in_bf16_on_sm_90a: "llama-tiny" "bf16" Sm90a;
    mla_in_bf16_on_sm_80: "mla-tiny" "bf16" Sm80;
    mla_in_bf16_on_sm_90a: "mla-tiny" "bf16" Sm90a;
}
