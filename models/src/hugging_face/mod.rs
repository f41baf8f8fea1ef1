//! Checkpoints as Hugging Face transformers writes them: config.json and
//! safetensors. Which tensor is which is data (one table a family, with the
//! architecture); this folder reads and writes them and knows no family.

mod export;
mod import;
mod names;

pub use export::export;
pub use import::Checkpoint;
pub use names::{NameMap, TensorMap, tensor};
