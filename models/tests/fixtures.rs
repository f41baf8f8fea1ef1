//! Checkpoints that transformers wrote, imported and evaluated: logits and loss
//! must be what transformers got (tests/fixtures/README.md).

use diptych_ir::evaluate::{Context, Value, evaluate};
use diptych_ir::{EntryKind, Symbol, UpdateRule};
use diptych_models::hugging_face::{Checkpoint, export};
use diptych_models::{Registry, build};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

/// One tensor of four-byte elements, as numbers.
fn numbers(file: &SafeTensors<'_>, name: &str) -> Vec<f64> {
    let tensor = file.tensor(name).unwrap();
    let words = tensor.data().chunks_exact(4).map(|word| word.try_into().unwrap());
    match tensor.dtype() {
        safetensors::Dtype::I32 => words.map(|word| f64::from(i32::from_le_bytes(word))).collect(),
        _ => words.map(|word| f64::from(f32::from_le_bytes(word))).collect(),
    }
}

/// Evaluates the checkpoint on both sequences of `expected` and compares.
fn agrees(weights: &str, expected: &str) {
    let bytes = std::fs::read(folder(expected).join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let checkpoint = Checkpoint::open(&folder(weights), &Registry::zoo()).unwrap();
    let program = checkpoint.program();
    let (batch, time) = (2, 24);
    let mut context = Context::default();
    for (name, size) in [("batch", batch), ("time", time), ("past", time)] {
        context.sizes.insert(name.into(), size);
    }
    let axes: [(Symbol, usize); 2] = [("batch".into(), batch), ("time".into(), time)];
    let ids = numbers(&expected, "input_ids");
    let targets = (0..ids.len()).map(|at| if at % time == time - 1 { -1.0 } else { ids[at + 1] }).collect();
    let last = [9, time - 1];
    context.inputs.insert("tokens".into(), Value::new(&axes, ids).unwrap());
    context.inputs.insert("targets".into(), Value::new(&axes, targets).unwrap());
    context.inputs.insert("inverse_tokens".into(), Value::scalar(1.0 / 46.0));
    let positions = last.map(|position| position as f64).to_vec();
    context.inputs.insert("last".into(), Value::new(&axes[..1], positions).unwrap());
    for (&name, info) in &program.params {
        let values = checkpoint.load_param(name.as_str()).unwrap();
        let axes: Vec<_> = info.order.iter().map(|axis| (axis.name, axis.fixed_size().unwrap())).collect();
        let value = Value::new(&axes, values.into_iter().map(f64::from).collect()).unwrap();
        context.params.insert(name, value);
    }

    let train = program.entry(EntryKind::Train).unwrap();
    let prefill = program.entry(EntryKind::Prefill).unwrap();
    let roots = [train.root("loss"), prefill.root("logits")].map(Option::unwrap);
    let [loss, logits] = evaluate(program, &roots, &context).unwrap().try_into().unwrap();
    let wanted = numbers(&expected, "loss")[0];
    assert!((loss.data[0] / wanted - 1.0).abs() < 1e-6, "{weights}: loss {} is not {wanted}", loss.data[0]);

    let all = numbers(&expected, "logits");
    let vocab = checkpoint.architecture().vocab();
    let largest = all.iter().fold(0.0, |largest: f64, logit| largest.max(logit.abs()));
    for (row, position) in last.into_iter().enumerate() {
        let wanted = &all[(row * time + position) * vocab..][..vocab];
        let error = logits.data[row * vocab..][..vocab]
            .iter()
            .zip(wanted)
            .fold(0.0, |error: f64, (ours, theirs)| error.max((ours - theirs).abs()));
        assert!(error < 1e-5 * largest, "{weights}: logits differ by {error} of {largest}");
    }
}

macro_rules! agrees {
    ($($name:ident $expected:literal,)*) => {
        $(#[test]
        fn $name() {
            agrees(stringify!($name), $expected);
        })*
    };
}

agrees! {
    gpt2 "gpt2",
    llama "llama",
    llama3 "llama3",
    llama_linear "llama_linear",
    llama_sharded "llama",
    mistral "mistral",
    qwen2 "qwen2",
    qwen3 "qwen3",
    mamba2 "mamba2",
    deepseek_v3 "deepseek_v3",
    deepseek_v3_no_q_lora "deepseek_v3_no_q_lora",
    deepseek_v3_yarn "deepseek_v3_yarn",
    deepseek_v3_experts "deepseek_v3_experts",
    mixtral "mixtral",
    qwen3_moe "qwen3_moe",
}

/// Every tensor of a checkpoint by name, with type, shape and bytes.
fn tensors(path: &Path) -> Vec<(String, Vec<usize>, Vec<u8>)> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut all: Vec<_> = file
        .tensors()
        .into_iter()
        .map(|(name, tensor)| (name, tensor.shape().to_vec(), tensor.data().to_vec()))
        .collect();
    all.sort();
    all
}

#[test]
fn what_is_exported_is_what_was_imported() {
    let names = ["gpt2", "llama", "llama3", "llama_linear", "mistral", "qwen2", "qwen3", "mamba2"];
    let latent = ["deepseek_v3", "deepseek_v3_no_q_lora", "deepseek_v3_yarn"];
    let routed = ["mixtral", "qwen3_moe", "deepseek_v3_experts"];
    for name in names.into_iter().chain(latent).chain(routed) {
        let checkpoint = Checkpoint::open(&folder(name), &Registry::zoo()).unwrap();
        let target = tempfile::tempdir().unwrap();
        export(target.path(), checkpoint.architecture(), |param| checkpoint.load_param(param)).unwrap();
        let weights = "model.safetensors";
        assert_eq!(tensors(&folder(name).join(weights)), tensors(&target.path().join(weights)), "{name}");
        let files = std::fs::read_dir(target.path()).unwrap().count();
        assert_eq!(files, 2, "{name}: nothing half written stays");
        let again = Checkpoint::open(target.path(), &Registry::zoo()).unwrap();
        let (before, after) = (checkpoint.architecture().describe(), again.architecture().describe());
        assert_eq!(before, after, "{name}");
        assert_eq!(build(again.architecture()).unwrap().params, checkpoint.program().params, "{name}");
    }
}

#[test]
fn older_configurations_say_the_same() {
    for name in ["llama3", "deepseek_v3_yarn"] {
        let read = |file: &str| {
            let text = std::fs::read_to_string(folder(name).join(file)).unwrap();
            Registry::zoo().from_hugging_face(&serde_json::from_str(&text).unwrap()).unwrap().describe()
        };
        assert_eq!(read("config.json"), read("config.older.json"), "{name}");
    }
}

#[test]
fn what_decays_is_what_the_fixtures_let_decay() {
    for name in ["gpt2_two_steps", "llama_two_steps"] {
        let text = std::fs::read_to_string(folder(name).join("optimizer.json")).unwrap();
        let optimizer: serde_json::Value = serde_json::from_str(&text).unwrap();
        let listed = |key: &str| -> Vec<String> { serde_json::from_value(optimizer[key].clone()).unwrap() };
        let checkpoint = Checkpoint::open(&folder(name), &Registry::zoo()).unwrap();
        for row in checkpoint.architecture().hugging_face().unwrap().tensors {
            let update = checkpoint.program().params[&Symbol::new(&row.param)].update;
            let tensor = row.tensor.replace("{layer}", "1");
            let key = if update == (UpdateRule::AdamW { decay: true }) { "decayed" } else { "not_decayed" };
            assert!(listed(key).contains(&tensor), "{name}: {tensor}");
        }
    }
}

/// A copy of a fixture, with its tensors passed through `change`.
fn copy(
    name: &str,
    change: impl Fn(String, &[u8]) -> (String, safetensors::Dtype, Vec<u8>),
) -> tempfile::TempDir {
    let target = tempfile::tempdir().unwrap();
    std::fs::copy(folder(name).join("config.json"), target.path().join("config.json")).unwrap();
    let tensors: Vec<_> = tensors(&folder(name).join("model.safetensors"))
        .into_iter()
        .map(|(name, shape, bytes)| (change(name, &bytes), shape))
        .collect();
    let views = tensors.iter().map(|((name, dtype, bytes), shape)| {
        (name.clone(), safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &target.path().join("model.safetensors")).unwrap();
    target
}

/// Rounds a number to two bytes.
type Round = fn(f32) -> [u8; 2];

/// A type of two bytes, with how to round to it and what is left of a number.
type Narrow = (safetensors::Dtype, Round, fn(f32) -> f32);

#[test]
fn half_precision_weights_are_widened() {
    let narrow = |bytes: &[u8], round: Round| -> Vec<u8> {
        let words = bytes.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap()));
        words.flat_map(round).collect()
    };
    let exact = Checkpoint::open(&folder("llama"), &Registry::zoo()).unwrap();
    let types: [Narrow; 2] = [
        (
            safetensors::Dtype::BF16,
            |x| half::bf16::from_f32(x).to_le_bytes(),
            |x| half::bf16::from_f32(x).to_f32(),
        ),
        (
            safetensors::Dtype::F16,
            |x| half::f16::from_f32(x).to_le_bytes(),
            |x| half::f16::from_f32(x).to_f32(),
        ),
    ];
    for (dtype, round, rounded) in types {
        let target = copy("llama", |name, bytes| (name, dtype, narrow(bytes, round)));
        let read = Checkpoint::open(target.path(), &Registry::zoo()).unwrap();
        for name in ["layers.q", "norm"] {
            let wanted: Vec<f32> = exact.load_param(name).unwrap().into_iter().map(rounded).collect();
            assert_eq!(read.load_param(name).unwrap(), wanted, "{dtype:?} {name}");
        }
    }
    let whole = copy("llama", |name, bytes| (name, safetensors::Dtype::I32, bytes.to_vec()));
    let refused = Checkpoint::open(whole.path(), &Registry::zoo()).err().unwrap().to_string();
    assert!(refused.contains("is I32; supported: F32, F16, BF16"), "{refused}");
}

#[test]
fn names_without_their_prefix_are_found() {
    let target = copy("gpt2", |name, bytes| {
        (name.trim_start_matches("transformer.").to_owned(), safetensors::Dtype::F32, bytes.to_vec())
    });
    let [exact, read] = [folder("gpt2"), target.path().to_owned()]
        .map(|folder| Checkpoint::open(&folder, &Registry::zoo()).unwrap());
    for name in exact.program().params.keys() {
        assert_eq!(
            exact.load_param(name.as_str()).unwrap(),
            read.load_param(name.as_str()).unwrap(),
            "{name}"
        );
    }
}
