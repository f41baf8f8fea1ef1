//! Sizes of models that others have published, as configurations of the zoo's families: what the comparison of
//! costs is about. A row each, with the parameters that its publisher states; it must not know how families
//! build them.

use serde_json::{Value, json};

/// A published model.
pub struct Published {
    /// The preset's name.
    pub name: &'static str,
    /// The family that builds it.
    pub family: &'static str,
    /// Its configuration.
    pub config: Value,
    /// Parameters, exactly.
    pub parameters: u64,
}

fn gpt2(name: &'static str, parameters: u64, layers: usize, embed: usize, heads: usize) -> Published {
    let config = json!({
        "vocab": 50257, "context": 1024, "layers": layers, "embed": embed, "heads": heads,
    });
    Published { name, family: "gpt2", config, parameters }
}

fn llama3(
    name: &'static str,
    parameters: u64,
    (layers, embed, heads, hidden): (usize, usize, usize, usize),
) -> Published {
    let config = json!({
        "vocab": 128256, "context": 131072, "layers": layers, "embed": embed, "heads": heads,
        "key_value_heads": 8, "hidden": hidden, "tied": false,
        "rope": {
            "theta": 500000.0,
            "scaling": {
                "kind": "llama3", "factor": 8.0, "low_frequency_factor": 1.0, "high_frequency_factor": 4.0,
                "original_context": 8192,
            },
        },
    });
    Published { name, family: "llama", config, parameters }
}

/// Mixtures of experts: Mixtral (Jiang et al. 2024, arXiv:2401.04088), Qwen3 (arXiv:2505.09388) and DeepSeek-V3
/// (arXiv:2412.19437, without the layer that predicts a further token).
fn mixtures() -> Vec<Published> {
    let rope = |theta: f64| json!({ "theta": theta, "scaling": { "kind": "none" } });
    let row = |name, parameters, config| Published { name, family: "moe", config, parameters };
    vec![
        row(
            "mixtral-8x7b",
            46_702_792_704,
            json!({
                "vocab": 32000, "context": 32768, "layers": 32, "embed": 4096, "heads": 32, "key_value_heads": 8,
                "head_dim": 128, "experts": 8, "chosen": 2, "expert_hidden": 14336, "rope": rope(1e6),
            }),
        ),
        row(
            "qwen3-235b-a22b",
            235_093_634_560,
            json!({
                "vocab": 151936, "context": 40960, "layers": 94, "embed": 4096, "heads": 64, "key_value_heads": 4,
                "head_dim": 128, "query_key_norm": true, "experts": 128, "chosen": 8, "expert_hidden": 1536,
                "rope": rope(1e6), "norm_epsilon": 1e-6,
            }),
        ),
        row(
            "deepseek-v3",
            671_026_419_200,
            json!({
                "vocab": 129280, "context": 163840, "layers": 61, "dense_layers": 3, "embed": 7168, "heads": 128,
                "latent": {
                    "query_latent": 1536, "latent": 512, "content_dim": 128, "rotary_dim": 64, "value_dim": 128,
                },
                "hidden": 18432, "experts": 256, "chosen": 8, "expert_hidden": 2048, "shared_hidden": 2048,
                "scores": "sigmoid", "scale": 2.5, "groups": 8, "chosen_groups": 4, "selection_bias": true,
                "rope": {
                    "theta": 1e4,
                    "scaling": {
                        "kind": "yarn", "factor": 40.0, "original_context": 4096, "beta_fast": 32.0,
                        "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
                    },
                },
                "norm_epsilon": 1e-6, "standard_deviation": 0.006,
            }),
        ),
    ]
}

/// All of them, by family and then by size.
///
/// GPT-2: Radford et al. 2019, table 2 (whose counts were later corrected to those here). Llama 3: Grattafiori
/// et al. 2024, arXiv:2407.21783, table 3, with the context of its release 3.1. Qwen: the configurations
/// released with Qwen2.5 (arXiv:2412.15115) and Qwen3 (arXiv:2505.09388).
pub fn published() -> Vec<Published> {
    let qwen = |name, parameters, layers, embed, hidden, vocab, own: Value| {
        let mut config = json!({
            "vocab": vocab, "context": 32768, "layers": layers, "embed": embed, "heads": 64,
            "key_value_heads": 8, "head_dim": 128, "hidden": hidden, "tied": false,
            "rope": { "theta": 1e6, "scaling": { "kind": "none" } }, "norm_epsilon": 1e-6,
        });
        if let (Value::Object(all), Value::Object(own)) = (&mut config, own) {
            all.extend(own);
        }
        Published { name, family: "llama", config, parameters }
    };
    let dense = vec![
        gpt2("gpt2-small", 124_439_808, 12, 768, 12),
        gpt2("gpt2-medium", 354_823_168, 24, 1024, 16),
        gpt2("gpt2-large", 774_030_080, 36, 1280, 20),
        gpt2("gpt2-xl", 1_557_611_200, 48, 1600, 25),
        llama3("llama-3-8b", 8_030_261_248, (32, 4096, 32, 14336)),
        llama3("llama-3-70b", 70_553_706_496, (80, 8192, 64, 28672)),
        llama3("llama-3-405b", 405_853_388_800, (126, 16384, 128, 53248)),
        qwen("qwen2.5-72b", 72_706_203_648, 80, 8192, 29568, 152064, json!({ "query_key_value_bias": true })),
        qwen("qwen3-32b", 32_762_123_264, 64, 5120, 25600, 151936, json!({ "query_key_norm": true })),
    ];
    dense.into_iter().chain(mixtures()).collect()
}

/// Those of a family, as its presets.
pub(crate) fn presets(family: &str) -> impl Iterator<Item = (String, Value)> {
    published()
        .into_iter()
        .filter(move |row| row.family == family)
        .map(|row| (row.name.to_owned(), row.config))
}
