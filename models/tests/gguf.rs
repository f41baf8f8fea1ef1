//! Checkpoints that transformers wrote, written anew as GGUF and imported: the same parameters, bit
//! for bit, and so the same logits; and what does not fit is refused.

#[path = "../../gguf/tests/support/mod.rs"]
mod support;

use diptych_gguf::File;
use diptych_ir::EntryKind;
use diptych_ir::evaluate::{Context, evaluate};
use diptych_models::{Checkpoint, Registry};
use safetensors::SafeTensors;
use serde_json::Value as Json;
use std::path::{Path, PathBuf};
use support::{Gguf, Value};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

/// Puts the two halves of each head's rows side by side, as llama.cpp wants them.
fn interleave(values: &[f32], rows: usize, head_dim: usize) -> Vec<f32> {
    let width = values.len() / rows;
    let mut out = Vec::with_capacity(values.len());
    for head in 0..rows / head_dim {
        for pair in 0..head_dim / 2 {
            for half in 0..2 {
                let row = head * head_dim + half * head_dim / 2 + pair;
                out.extend_from_slice(&values[row * width..][..width]);
            }
        }
    }
    out
}

/// A fixture of the family `llama` as GGUF.
fn converted(name: &str) -> Gguf {
    let read = |file: &str| std::fs::read(fixture(name).join(file)).unwrap();
    let config: Json = serde_json::from_slice(&read("config.json")).unwrap();
    let size = |field: &str| config[field].as_u64().unwrap() as u32;
    let mut file = Gguf::default();
    file.set("general.architecture", "llama");
    for (key, field) in [
        ("llama.block_count", "num_hidden_layers"),
        ("llama.context_length", "max_position_embeddings"),
        ("llama.embedding_length", "hidden_size"),
        ("llama.feed_forward_length", "intermediate_size"),
        ("llama.attention.head_count", "num_attention_heads"),
        ("llama.attention.head_count_kv", "num_key_value_heads"),
        ("llama.vocab_size", "vocab_size"),
        ("llama.rope.dimension_count", "head_dim"),
    ] {
        file.set(key, Value::U32(size(field)));
    }
    file.set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
    let rope = &config["rope_parameters"];
    file.set("llama.rope.freq_base", Value::F32(rope["rope_theta"].as_f64().unwrap() as f32));
    match rope["rope_type"].as_str() {
        Some("linear") => {
            file.set("llama.rope.scaling.type", "linear");
            file.set("llama.rope.scaling.factor", Value::F32(rope["factor"].as_f64().unwrap() as f32));
        }
        Some("llama3") => {
            // The factors as transformers' formula has them, from the published description.
            let number = |field: &str| rope[field].as_f64().unwrap();
            let (factor, context) = (number("factor"), number("original_max_position_embeddings"));
            let (low, high) = (number("low_freq_factor"), number("high_freq_factor"));
            let head_dim = f64::from(size("head_dim"));
            let factors: Vec<f32> = (0..size("head_dim") / 2)
                .map(|pair| {
                    let length =
                        std::f64::consts::TAU * number("rope_theta").powf(f64::from(2 * pair) / head_dim);
                    let kept = (context / length - low) / (high - low);
                    (1.0 / ((1.0 - kept.clamp(0.0, 1.0)) / factor + kept.clamp(0.0, 1.0))) as f32
                })
                .collect();
            file.tensor_f32("rope_freqs.weight", &[factors.len()], &factors);
        }
        _ => {}
    }
    let bytes = read("model.safetensors");
    let weights = SafeTensors::deserialize(&bytes).unwrap();
    for (name, tensor) in weights.tensors() {
        let words = tensor.data().chunks_exact(4);
        let mut values: Vec<f32> = words.map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect();
        if name.contains("q_proj") || name.contains("k_proj") {
            values = interleave(&values, tensor.shape()[0], size("head_dim") as usize);
        }
        let name = [
            ("model.layers.", "blk."),
            ("model.embed_tokens", "token_embd"),
            ("model.norm", "output_norm"),
            ("lm_head", "output"),
            ("self_attn.q_proj", "attn_q"),
            ("self_attn.k_proj", "attn_k"),
            ("self_attn.v_proj", "attn_v"),
            ("self_attn.o_proj", "attn_output"),
            ("mlp.gate_proj", "ffn_gate"),
            ("mlp.up_proj", "ffn_up"),
            ("mlp.down_proj", "ffn_down"),
            ("input_layernorm", "attn_norm"),
            ("post_attention_layernorm", "ffn_norm"),
        ]
        .into_iter()
        .fold(name, |name, (from, to)| name.replace(from, to));
        file.tensor_f32(&name, tensor.shape(), &values);
    }
    file
}

fn open(file: &Gguf) -> Result<Checkpoint, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, file.bytes()).unwrap();
    let file = File::open(&path).map_err(|error| error.to_string())?;
    Checkpoint::of_gguf(&file, &Registry::zoo()).map_err(|error| error.to_string())
}

/// The logits after three tokens.
fn logits(checkpoint: &Checkpoint) -> Vec<f64> {
    let program = checkpoint.program();
    let mut context = Context::default();
    let axes = [("batch".into(), 1), ("time".into(), 3)];
    for (name, size) in [("batch", 1), ("time", 3), ("past", 3)] {
        context.sizes.insert(name.into(), size);
    }
    let value = |axes: &[_], values: Vec<f64>| diptych_ir::evaluate::Value::new(axes, values).unwrap();
    context.inputs.insert("tokens".into(), value(&axes, vec![3.0, 50.0, 9.0]));
    context.inputs.insert("last".into(), value(&axes[..1], vec![2.0]));
    for (&name, info) in &program.params {
        let values = checkpoint.load_param(name.as_str()).unwrap().into_iter().map(f64::from).collect();
        let axes: Vec<_> = info.order.iter().map(|axis| (axis.name, axis.fixed_size().unwrap())).collect();
        context.params.insert(name, value(&axes, values));
    }
    let root = program.entry(EntryKind::Prefill).unwrap().root("logits").unwrap();
    evaluate(program, &[root], &context).unwrap().remove(0).data
}

#[test]
fn a_converted_model_is_the_same_model() {
    for name in ["llama", "llama3", "llama_linear"] {
        let theirs = Checkpoint::open(&fixture(name), &Registry::zoo()).unwrap();
        let ours = open(&converted(name)).unwrap();
        assert_eq!(ours.architecture().describe(), theirs.architecture().describe(), "{name}");
        assert_eq!(ours.program().params, theirs.program().params, "{name}");
        for param in theirs.program().params.keys() {
            let bits = |checkpoint: &Checkpoint| -> Vec<u32> {
                checkpoint.load_param(param.as_str()).unwrap().into_iter().map(f32::to_bits).collect()
            };
            assert!(bits(&ours) == bits(&theirs), "{name}: {param} differs");
        }
        assert_eq!(logits(&ours), logits(&theirs), "{name}");
    }
}

#[test]
fn what_does_not_fit_is_told() {
    type Change = fn(&mut Gguf);
    let cases: [(&str, Change); 16] = [
        ("`general.architecture` is `gemma`; supported: llama", |file| {
            file.set("general.architecture", "gemma")
        }),
        ("no `general.architecture`", |file| file.metadata.retain(|row| row.0 != "general.architecture")),
        ("no `llama.block_count`", |file| file.metadata.retain(|row| row.0 != "llama.block_count")),
        ("`llama.block_count` is of type String", |file| file.set("llama.block_count", "two")),
        ("no tensor `blk.2.", |file| file.set("llama.block_count", Value::U32(3))),
        ("unknown tensor `blk.1.", |file| file.set("llama.block_count", Value::U32(1))),
        ("`llama.vocab_size` is 7; it must be 112", |file| file.set("llama.vocab_size", Value::U32(7))),
        ("it must be 12, the whole width of a head", |file| {
            file.set("llama.rope.dimension_count", Value::U32(6))
        }),
        ("unknown metadata `llama.logit_scale`", |file| file.set("llama.logit_scale", Value::F32(2.0))),
        ("the model has experts", |file| file.set("llama.expert_count", Value::U32(8))),
        ("`rope.scaling.type` is `longrope`", |file| file.set("llama.rope.scaling.type", "longrope")),
        ("does not divide", |file| file.set("llama.attention.head_count_kv", Value::U32(3))),
        ("`heads` is 0", |file| {
            file.set("llama.attention.head_count", Value::U32(0));
            file.set("llama.rope.dimension_count", Value::U32(48));
        }),
        ("a part of a model", |file| file.set("split.count", Value::U32(2))),
        (
            "tensor `blk.0.attn_v.weight` is Q5_0; supported: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q6_K",
            |file| {
                let tensor = file.tensors.iter_mut().find(|row| row.0 == "blk.0.attn_v.weight").unwrap();
                tensor.2 = 6;
            },
        ),
        ("otherwise than Llama 3.1", |file| {
            file.tensor_f32("rope_freqs.weight", &[6], &[1.0, 1.0, 3.0, 1.0, 8.0, 8.0]);
        }),
    ];
    for (expected, change) in cases {
        let mut file = converted("llama");
        change(&mut file);
        let told = open(&file).err().unwrap_or_default();
        assert!(told.contains(expected) && told.contains("model.gguf"), "{expected}: {told}");
    }
    let mut transposed = converted("llama");
    transposed.tensors.iter_mut().find(|row| row.0 == "blk.0.ffn_up.weight").unwrap().1.reverse();
    let told = open(&transposed).err().unwrap_or_default();
    assert!(told.contains("has shape [48, 80]; the metadata asks for [80, 48]"), "{told}");
}
