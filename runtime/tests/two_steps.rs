//! Two steps of training in native code against two of PyTorch's
//! (tests/fixtures/README.md): losses, norms, and every parameter after each.

use diptych_models::Registry;
use diptych_models::hugging_face::{Checkpoint, export};
use diptych_runtime::session::Device;
use diptych_runtime::train::{ModelIdentity, TrainOptions, Trainer};
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const BATCH: usize = 2;
const TIME: usize = 24;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

fn tensors(path: &Path) -> BTreeMap<String, Vec<f32>> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |tensor: safetensors::tensor::TensorView<'_>| -> Vec<f32> {
        let words = tensor.data().chunks_exact(4).map(|word| word.try_into().unwrap());
        match tensor.dtype() {
            safetensors::Dtype::I32 => words.map(|word| i32::from_le_bytes(word) as f32).collect(),
            _ => words.map(f32::from_le_bytes).collect(),
        }
    };
    file.tensors().into_iter().map(|(name, tensor)| (name, numbers(tensor))).collect()
}

/// The rates of both steps, as the start of a linear decay over two steps.
fn options(settings: &serde_json::Value, batch: usize, accumulation: usize) -> TrainOptions {
    assert_eq!(settings["learning_rate"], serde_json::json!([0.01, 0.005]));
    serde_json::from_value(serde_json::json!({
        "batch": batch,
        "time": TIME,
        "accumulation": accumulation,
        "steps": 2,
        "optimizer": {
            "beta1": settings["betas"][0],
            "beta2": settings["betas"][1],
            "epsilon": settings["eps"],
            "weight_decay": settings["weight_decay"],
            "clip_norm": settings["max_norm"],
        },
        "schedule": { "kind": "warmup_stable_decay", "peak": 0.01, "total_steps": 2, "decay_steps": 2 },
    }))
    .unwrap()
}

fn norm(numbers: impl Iterator<Item = f32>) -> f64 {
    numbers.map(|x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}

fn two_steps_agree(name: &str, batch: usize, accumulation: usize) {
    let device = Device::cpu(Some(2)).unwrap();
    let checkpoint = Checkpoint::open(&folder(name), &Registry::zoo()).unwrap();
    let settings = std::fs::read_to_string(folder(name).join("optimizer.json")).unwrap();
    let options = options(&serde_json::from_str(&settings).unwrap(), batch, accumulation);
    let architecture = checkpoint.architecture();
    let identity = ModelIdentity {
        family: architecture.name().to_owned(),
        config: architecture.describe(),
        context: architecture.context(),
    };
    let mut trainer = Trainer::new(&device, checkpoint.program(), identity, options).unwrap();
    trainer.initialize(|name| checkpoint.load_param(name).unwrap()).unwrap();

    let expected = tensors(&folder(name).join("expected.safetensors"));
    let ids: Vec<i32> = expected["input_ids"].iter().map(|&id| id as i32).collect();
    for step in 0..2 {
        let report = trainer
            .step(|micro, inputs, targets| {
                let first = micro as usize * inputs.len();
                inputs.copy_from_slice(&ids[first..first + inputs.len()]);
                for (at, target) in targets.iter_mut().enumerate() {
                    *target = if at % TIME == TIME - 1 { -1 } else { ids[first + at + 1] };
                }
            })
            .unwrap();
        assert_eq!(report.tokens as usize, BATCH * (TIME - 1));
        for (what, ours, theirs) in [
            ("loss", report.loss, expected["loss"][step]),
            ("gradient norm", report.gradient_norm, expected["grad_norm"][step]),
        ] {
            let theirs = f64::from(theirs);
            assert!(
                (ours / theirs - 1.0).abs() < 1e-4,
                "{name}: {what} {ours} of step {step} is not {theirs}"
            );
        }
        let place = tempfile::tempdir().unwrap();
        export(place.path(), architecture, |param| Ok(trainer.session().store.get(param.into()).unwrap()))
            .unwrap();
        let prefix = format!("param.{}.", step + 1);
        let ours = tensors(&place.path().join("model.safetensors"));
        assert!(ours.len() > 10);
        for (tensor, ours) in &ours {
            let theirs = &expected[&format!("{prefix}{tensor}")];
            assert_eq!(ours.len(), theirs.len());
            let error = norm(ours.iter().zip(theirs).map(|(a, b)| a - b));
            let length = norm(theirs.iter().copied());
            assert!(error < 1e-4 * length, "{name}: {prefix}{tensor} is off by {error} of {length}");
        }
    }
}

#[test]
fn two_steps_of_llama_are_pytorch_s() {
    two_steps_agree("llama_two_steps", BATCH, 1);
}

#[test]
fn two_steps_of_gpt2_are_pytorch_s() {
    two_steps_agree("gpt2_two_steps", BATCH, 1);
}

#[test]
fn two_micro_batches_of_one_are_pytorch_s() {
    two_steps_agree("llama_two_steps", 1, 2);
    two_steps_agree("gpt2_two_steps", 1, 2);
}
