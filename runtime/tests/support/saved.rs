//! What tests/fixtures/ holds, for tests that compare with transformers.

use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

/// The models that transformers ran.
pub const FIXTURES: [&str; 14] = [
    "gpt2",
    "llama",
    "llama3",
    "llama_linear",
    "mistral",
    "qwen2",
    "qwen3",
    "mamba2",
    "deepseek_v3",
    "deepseek_v3_no_q_lora",
    "deepseek_v3_yarn",
    "deepseek_v3_experts",
    "mixtral",
    "qwen3_moe",
];

/// Where a model and what transformers got are.
pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

/// A tensor of f32 or i32.
pub fn numbers(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).unwrap();
    let words = tensor.data().chunks_exact(4).map(|word| word.try_into().unwrap());
    match tensor.dtype() {
        safetensors::Dtype::I32 => words.map(|word| i32::from_le_bytes(word) as f32).collect(),
        _ => words.map(f32::from_le_bytes).collect(),
    }
}
