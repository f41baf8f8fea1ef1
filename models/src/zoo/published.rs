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
    vec![
        gpt2("gpt2-small", 124_439_808, 12, 768, 12),
        gpt2("gpt2-medium", 354_823_168, 24, 1024, 16),
        gpt2("gpt2-large", 774_030_080, 36, 1280, 20),
        gpt2("gpt2-xl", 1_557_611_200, 48, 1600, 25),
        llama3("llama-3-8b", 8_030_261_248, (32, 4096, 32, 14336)),
        llama3("llama-3-70b", 70_553_706_496, (80, 8192, 64, 28672)),
        llama3("llama-3-405b", 405_853_388_800, (126, 16384, 128, 53248)),
        qwen("qwen2.5-72b", 72_706_203_648, 80, 8192, 29568, 152064, json!({ "query_key_value_bias": true })),
        qwen("qwen3-32b", 32_762_123_264, 64, 5120, 25600, 151936, json!({ "query_key_norm": true })),
    ]
}

/// Those of a family, as its presets.
pub(crate) fn presets(family: &str) -> impl Iterator<Item = (String, Value)> {
    published()
        .into_iter()
        .filter(move |row| row.family == family)
        .map(|row| (row.name.to_owned(), row.config))
}
