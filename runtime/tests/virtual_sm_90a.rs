//! The virtual GPU with the instructions of `sm_90a`: training beside the CPU, and the promise of same bits. One
//! process has one driver, so that all tests here are of one architecture.

#[path = "support/batches.rs"]
mod batches;
#[path = "support/runner.rs"]
mod runner;
#[path = "support/runs.rs"]
mod runs;
#[path = "support/virtual_gpu.rs"]
mod virtual_gpu;

use batches::batches_agree;
use diptych_models::initialize;
use diptych_nvrtc::Target;
use diptych_runtime::session::Device;
use diptych_runtime::train::Trainer;
use runs::{model, options, text};
use serde_json::json;
use virtual_gpu::virtual_gpu;

const STEPS: usize = 20;

/// The loss of each step.
fn losses(device: &Device, dtype: &str) -> Vec<f64> {
    let (program, identity) = model("llama", "llama-tiny", json!({ "dtype": dtype }));
    let schedule = json!({ "kind": "cosine", "peak": 0.01, "warmup_steps": 4, "total_steps": STEPS });
    let options = options(json!({ "steps": STEPS, "schedule": schedule }));
    let mut trainer = Trainer::new(device, &program, identity, options).unwrap();
    trainer.initialize(|name| initialize(&program, name, 3).unwrap()).unwrap();
    (0..STEPS).map(|_| trainer.step(text).unwrap().loss).collect()
}

#[test]
fn a_tiny_llama_trains_as_on_the_cpu() {
    let Some(gpu) = virtual_gpu(Target::SM_90A) else { return };
    let cpu = Device::cpu(Some(2)).unwrap();
    for dtype in ["f32", "bf16"] {
        let [expected, found] = [&cpu, &gpu].map(|device| losses(device, dtype));
        println!("{dtype}: {expected:?} {found:?}");
        assert!(expected[STEPS - 1] < 0.8 * expected[0], "{dtype}: nothing is learned");
        for (step, (expected, found)) in expected.iter().zip(&found).enumerate() {
            assert!((found / expected - 1.0).abs() < 0.01, "{dtype}, step {step}: {found}, not {expected}");
        }
    }
}

#[test]
fn every_entry_gives_the_same_bits_at_every_batch() {
    let Some(device) = virtual_gpu(Target::SM_90A) else { return };
    batches_agree(&device, "llama", "bf16", 1..=9);
    for (family, dtype) in
        [("llama", "f32"), ("gpt2", "f32"), ("gpt2", "bf16"), ("mla", "f32"), ("mla", "bf16")]
    {
        batches_agree(&device, family, dtype, [4, 9]);
    }
}
