//! Checkpoints that transformers wrote: the gradient of every parameter, and
//! two steps of AdamW, against what PyTorch got (tests/fixtures/README.md).
//! Ours are exported under transformers' names and compared tensor by tensor.

use diptych_ir::evaluate::{Context, Value, evaluate};
use diptych_ir::{EntryKind, Program, Symbol, verify};
use diptych_models::Registry;
use diptych_models::hugging_face::{Checkpoint, export};
use diptych_passes::{AdamWOptions, add_adamw, differentiate, simplify};
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const BATCH: usize = 2;
const TIME: usize = 24;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

/// The tensors of a file, by name, as numbers.
fn tensors(path: &Path) -> BTreeMap<String, Vec<f64>> {
    let bytes = std::fs::read(path).expect("a file of tensors");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let numbers = |tensor: safetensors::tensor::TensorView<'_>| -> Vec<f64> {
        let words = tensor.data().chunks_exact(4).map(|word| word.try_into().expect("four bytes"));
        match tensor.dtype() {
            safetensors::Dtype::I32 => words.map(|word| f64::from(i32::from_le_bytes(word))).collect(),
            _ => words.map(|word| f64::from(f32::from_le_bytes(word))).collect(),
        }
    };
    file.tensors().into_iter().map(|(name, tensor)| (name, numbers(tensor))).collect()
}

/// Parameters, and a text of two sequences.
fn context(checkpoint: &Checkpoint, ids: &[f64]) -> Context {
    let mut context = Context::default();
    for (name, size) in [("batch", BATCH), ("time", TIME), ("past", TIME)] {
        context.sizes.insert(name.into(), size);
    }
    set_text(&mut context, ids);
    for (&name, info) in &checkpoint.program().params {
        let values = checkpoint.load_param(name.as_str()).expect("a parameter");
        let axes: Vec<_> =
            info.order.iter().map(|axis| (axis.name, axis.fixed_size().expect("fixed"))).collect();
        let values = values.into_iter().map(f64::from).collect();
        context.params.insert(name, Value::new(&axes, values).expect("a value"));
    }
    context
}

/// The ids, each the target of the position before it.
fn set_text(context: &mut Context, ids: &[f64]) {
    let axes: [(Symbol, usize); 2] = [("batch".into(), BATCH), ("time".into(), TIME)];
    let targets = (0..ids.len()).map(|at| if at % TIME == TIME - 1 { -1.0 } else { ids[at + 1] }).collect();
    let predictions = (BATCH * (TIME - 1)) as f64;
    let inputs = [
        ("tokens", Value::new(&axes, ids.to_vec())),
        ("targets", Value::new(&axes, targets)),
        ("inverse_tokens", Ok(Value::scalar(1.0 / predictions))),
    ];
    for (name, value) in inputs {
        context.inputs.insert(name.into(), value.expect("an input"));
    }
}

/// Runs an entry: the named root, and the new values of what it updates.
fn run(program: &Program, kind: EntryKind, root: &str, context: &Context) -> (f64, BTreeMap<Symbol, Value>) {
    let entry = program.entry(kind).expect("entry");
    let mut nodes = vec![entry.root(root).expect("root")];
    nodes.extend(entry.updates.iter().map(|update| update.1));
    let mut values = evaluate(program, &nodes, context).expect("evaluate");
    let updates = values.split_off(1);
    (values[0].data[0], entry.updates.iter().map(|update| update.0).zip(updates).collect())
}

/// Values by parameter, under transformers' names.
fn exported(checkpoint: &Checkpoint, values: &BTreeMap<Symbol, Value>) -> BTreeMap<String, Vec<f64>> {
    let target = tempfile::tempdir().expect("a folder");
    export(target.path(), checkpoint.architecture(), |param| {
        let value = &values[&Symbol::new(param)];
        let order = &checkpoint.program().params[&Symbol::new(param)].order;
        Ok(value.in_order(order).into_iter().map(|x| x as f32).collect())
    })
    .expect("export");
    tensors(&target.path().join("model.safetensors"))
}

fn norm(x: impl Iterator<Item = f64>) -> f64 {
    x.map(|x| x * x).sum::<f64>().sqrt()
}

/// Checks tensors against those of `expected` whose names begin with `prefix`.
fn compare(
    ours: &BTreeMap<String, Vec<f64>>,
    expected: &BTreeMap<String, Vec<f64>>,
    prefix: &str,
    limit: f64,
) {
    let theirs: Vec<_> =
        expected.iter().filter_map(|(name, values)| Some((name.strip_prefix(prefix)?, values))).collect();
    assert_eq!(theirs.len(), ours.len(), "tensors named {prefix}…");
    // A gradient that is zero but for rounding (a key's bias) is judged by the others' size.
    let largest = theirs.iter().map(|(_, values)| norm(values.iter().copied())).fold(0.0, f64::max);
    for (name, values) in theirs {
        let length = norm(values.iter().copied()).max(1e-5 * largest);
        let error = norm(ours[name].iter().zip(values).map(|(ours, theirs)| ours - theirs));
        assert!(error <= limit * length, "{prefix}{name}: off by {error} of {length}");
    }
}

fn gradients_agree(name: &str) {
    let checkpoint = Checkpoint::open(&folder(name), &Registry::zoo()).expect("a checkpoint");
    let program = differentiate(checkpoint.program()).expect("differentiate");
    verify(&program).expect("well-formed");
    let program = simplify(&program).expect("simplify");
    verify(&program).expect("well-formed");
    let expected = tensors(&folder(name).join("expected.safetensors"));
    let context = context(&checkpoint, &expected["input_ids"]);
    let (loss, updates) = run(&program, EntryKind::Train, "loss", &context);
    assert!((loss / expected["loss"][0] - 1.0).abs() < 1e-6, "loss {loss}");
    let gradients = updates.into_iter().map(|(state, value)| {
        let param = state.as_str().strip_prefix("gradient.").expect("a gradient");
        (Symbol::new(param), value)
    });
    // What transformers stores in f32 is itself up to 3e-6 away from the truth.
    compare(&exported(&checkpoint, &gradients.collect()), &expected, "grad.", 2e-5);
}

macro_rules! gradients_agree {
    ($($name:ident)*) => {
        mod gradients {
            $(#[test]
            fn $name() {
                super::gradients_agree(stringify!($name));
            })*
        }
    };
}

gradients_agree! {
    gpt2 llama llama3 llama_linear mistral qwen2 qwen3
    deepseek_v3 deepseek_v3_no_q_lora deepseek_v3_yarn
}

fn two_steps_agree(name: &str) {
    let folder = folder(name);
    let checkpoint = Checkpoint::open(&folder, &Registry::zoo()).expect("a checkpoint");
    let text = std::fs::read_to_string(folder.join("optimizer.json")).expect("settings");
    let settings: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let number = |value: &serde_json::Value| value.as_f64().expect("a number");
    let options = AdamWOptions {
        beta1: number(&settings["betas"][0]),
        beta2: number(&settings["betas"][1]),
        epsilon: number(&settings["eps"]),
        weight_decay: number(&settings["weight_decay"]),
        clip_norm: Some(number(&settings["max_norm"])),
        ..AdamWOptions::default()
    };
    let program = differentiate(checkpoint.program()).expect("differentiate");
    let program = add_adamw(&program, &options).expect("adamw");
    verify(&program).expect("well-formed");
    let program = simplify(&program).expect("simplify");
    verify(&program).expect("well-formed");

    let expected = tensors(&folder.join("expected.safetensors"));
    let texts: Vec<&[f64]> = expected["input_ids"].chunks(BATCH * TIME).collect();
    let mut context = context(&checkpoint, texts[0]);
    for (&state, ty) in &program.states {
        let shape = context.shape(&ty.axes).expect("sizes");
        context.params.insert(state, Value::build(shape, |_| 0.0));
    }
    for (step, text) in texts.into_iter().enumerate() {
        set_text(&mut context, text);
        let (loss, gradients) = run(&program, EntryKind::Train, "loss", &context);
        assert!((loss / expected["loss"][step] - 1.0).abs() < 1e-5, "loss {loss} of step {step}");
        context.params.extend(gradients);
        let power = step as i32 + 1;
        let scalars = [
            ("learning_rate", number(&settings["learning_rate"][step])),
            ("bias_correction_mean", 1.0 - options.beta1.powi(power)),
            ("bias_correction_variance", 1.0 - options.beta2.powi(power)),
        ];
        context.inputs.extend(scalars.map(|(name, value)| (Symbol::new(name), Value::scalar(value))));
        let (length, updates) = run(&program, EntryKind::Update, "gradient_norm", &context);
        assert!((length / expected["grad_norm"][step] - 1.0).abs() < 1e-4, "norm {length} of step {step}");
        context.params.extend(updates);
        compare(&exported(&checkpoint, &context.params), &expected, &format!("param.{power}."), 2e-5);
    }
}

#[test]
fn two_steps_of_gpt2_are_pytorch_s() {
    two_steps_agree("gpt2_two_steps");
}

#[test]
fn two_steps_of_llama_are_pytorch_s() {
    two_steps_agree("llama_two_steps");
}
