//! The architecture `llama`: Llama 1 to 3, SmolLM2, Mistral without a window.
//!
//! llama.cpp turns neighbouring elements of a head together, where transformers turns an element with
//! the one half a head further; files have the rows of queries and keys in the order that llama.cpp
//! needs, and the table of tensors puts them back.

use super::Description;
use super::keys::Keys;
use crate::checkpoint::{TensorMap, tensor};
use crate::{Result, Rope, RopeScaling};
use serde_json::json;

/// The factors by which Llama 3.1 divides frequencies, one for each pair of a head's elements.
const FREQUENCY_FACTORS: &str = "rope_freqs.weight";
/// What files do not say of these factors and published models agree in: the low and high frequency
/// factors. Neither do they say the original context, a power of two.
const LLAMA3: (f64, f64) = (1.0, 4.0);
/// As a power of two.
const LARGEST_CONTEXT: u32 = 24;

pub(super) fn describe(keys: &Keys<'_>) -> Result<Description> {
    let file = keys.file;
    if keys.count("expert_count")?.is_some_and(|experts| experts > 0) {
        return Err(file.wrong("the model has experts, which the import of `llama` does not support").into());
    }
    keys.ignore(&["expert_used_count", "rope.scaling.finetuned", "tensor_data_layout"]);
    let embed = keys.required_count("embedding_length")?;
    let heads = keys.required_count("attention.head_count")?;
    let head_dim = match keys.count("attention.key_length")? {
        Some(length) => length,
        None => embed / heads.max(1),
    };
    keys.expect("attention.value_length", head_dim, "as wide as a key")?;
    keys.expect("rope.dimension_count", head_dim, "the whole width of a head")?;
    let table = file.tensors().get("token_embd.weight");
    let vocab = table.ok_or_else(|| file.wrong("no tensor `token_embd.weight`"))?.shape[0];
    keys.expect("vocab_size", vocab, "the rows of `token_embd.weight`")?;
    let has = |name: &str| file.tensors().contains_key(name);
    let (qkv_bias, output_bias) = (has("blk.0.attn_q.bias"), has("blk.0.attn_output.bias"));
    let (mlp_bias, tied) = (has("blk.0.ffn_gate.bias"), !has("output.weight"));
    let config = json!({
        "vocab": vocab,
        "context": keys.required_count("context_length")?,
        "layers": keys.required_count("block_count")?,
        "embed": embed,
        "heads": heads,
        "key_value_heads": keys.count("attention.head_count_kv")?.unwrap_or(heads),
        "head_dim": head_dim,
        "hidden": keys.required_count("feed_forward_length")?,
        "rope": rope(keys, head_dim)?,
        "norm_epsilon": keys.required_float("attention.layer_norm_rms_epsilon")?,
        "query_key_value_bias": qkv_bias,
        "attention_output_bias": output_bias,
        "mlp_bias": mlp_bias,
        "tied": tied,
    });
    Ok(Description {
        family: "llama",
        config,
        tensors: tensors(qkv_bias, output_bias, mlp_bias, tied),
        ignored: &[FREQUENCY_FACTORS],
    })
}

fn tensors(qkv_bias: bool, output_bias: bool, mlp_bias: bool, tied: bool) -> Vec<TensorMap> {
    let mut tensors = vec![
        tensor("token_embd.weight", "embedding", "vocab, embed"),
        tensor("output_norm.weight", "norm", "embed"),
    ];
    if !tied {
        tensors.push(tensor("output.weight", "head", "vocab, embed"));
    }
    let mut layer = |name: &str, param: &str, dims: &str| {
        tensors.push(tensor(&format!("blk.{{layer}}.{name}"), &format!("layers.{param}"), dims));
    };
    layer("attn_norm.weight", "attention_norm", "embed");
    layer("ffn_norm.weight", "mlp_norm", "embed");
    let maps = [
        ("attn_q", "q", "kv_head group head_dim~", "embed", qkv_bias),
        ("attn_k", "k", "kv_head head_dim~", "embed", qkv_bias),
        ("attn_v", "v", "kv_head head_dim", "embed", qkv_bias),
        ("attn_output", "o", "embed", "kv_head group head_dim", output_bias),
        ("ffn_gate", "gate", "hidden", "embed", mlp_bias),
        ("ffn_up", "up", "hidden", "embed", mlp_bias),
        ("ffn_down", "down", "embed", "hidden", mlp_bias),
    ];
    for (name, param, to, from, bias) in maps {
        layer(&format!("{name}.weight"), param, &format!("{to}, {from}"));
        if bias {
            layer(&format!("{name}.bias"), &format!("{param}.bias"), to);
        }
    }
    tensors
}

/// The rotary embedding, with what scales it.
fn rope(keys: &Keys<'_>, head_dim: usize) -> Result<Rope> {
    let file = keys.file;
    let theta = keys.float("rope.freq_base")?.unwrap_or(10000.0);
    let kind = keys.string("rope.scaling.type")?;
    let (newer, older) = (keys.float("rope.scaling.factor")?, keys.float("rope.scale_linear")?);
    // A factor of 0 stands for none.
    let factor = newer.or(older).filter(|&factor| factor != 0.0).unwrap_or(1.0);
    let original_context = keys.count("rope.scaling.original_context_length")?;
    let scaling = match kind.as_deref() {
        Some("none") => RopeScaling::None,
        None | Some("linear") if factor == 1.0 => RopeScaling::None,
        None | Some("linear") => RopeScaling::Linear { factor },
        Some("yarn") => RopeScaling::Yarn {
            factor,
            original_context: match original_context {
                Some(context) => context,
                None => keys.required_count("context_length")?,
            },
            beta_fast: keys.float("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: keys.float("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            mscale: 0.0,
            mscale_all_dim: 0.0,
        },
        Some(other) => {
            let problem = format!("`rope.scaling.type` is `{other}`; supported: none, linear, yarn");
            return Err(file.wrong(problem).into());
        }
    };
    let scaling = match (frequency_factors(keys)?, scaling) {
        (None, scaling) => scaling,
        (Some(factors), RopeScaling::None) => llama3(keys, theta, head_dim, &factors)?,
        (Some(_), _) => {
            let problem = format!("`{FREQUENCY_FACTORS}` and `rope.scaling` both scale the rotary embedding");
            return Err(file.wrong(problem).into());
        }
    };
    Ok(Rope { theta, scaling })
}

/// The values of `rope_freqs.weight`, if it is there.
fn frequency_factors(keys: &Keys<'_>) -> Result<Option<Vec<f32>>> {
    let file = keys.file;
    let Some(info) = file.tensors().get(FREQUENCY_FACTORS) else { return Ok(None) };
    match (info.format, &info.shape[..]) {
        (Ok(format), &[elements]) => {
            let (bytes, read) = (&file.map()[info.bytes.clone()], format.reader());
            Ok(Some((0..elements).map(|at| read(bytes, at)).collect()))
        }
        _ => Err(file.wrong(format!("tensor `{FREQUENCY_FACTORS}` must be a row of numbers")).into()),
    }
}

/// The scaling of Llama 3.1 that has these factors.
fn llama3(keys: &Keys<'_>, theta: f64, head_dim: usize, factors: &[f32]) -> Result<RopeScaling> {
    if factors.iter().all(|&factor| factor == 1.0) {
        return Ok(RopeScaling::None);
    }
    let (low_frequency_factor, high_frequency_factor) = LLAMA3;
    // The longest wavelength is divided by the whole factor.
    let factor = f64::from(factors.last().copied().unwrap_or(1.0));
    let plain = Rope { theta, scaling: RopeScaling::None };
    let found = (0..=LARGEST_CONTEXT).rev().map(|bits| 1 << bits).find_map(|original_context| {
        let scaling =
            RopeScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_context };
        let scaled = Rope { theta, scaling };
        let same = factors.len() == head_dim / 2
            && plain.problem().is_none()
            && scaled.problem().is_none()
            && (plain.frequencies(head_dim).iter().zip(scaled.frequencies(head_dim)).zip(factors))
                .all(|((plain, scaled), &factor)| (plain / scaled / f64::from(factor) - 1.0).abs() < 1e-5);
        same.then_some(scaled.scaling)
    });
    found.ok_or_else(|| {
        let problem = format!(
            "tensor `{FREQUENCY_FACTORS}` scales the rotary embedding otherwise than Llama 3.1 does, \
             which is the only way supported"
        );
        keys.file.wrong(problem).into()
    })
}
