//! Checkpoints as Hugging Face transformers writes them: config.json and
//! safetensors. Which tensor is which is data (one table a family, with the
//! architecture); this folder reads and writes them and knows no family.

mod export;
mod import;

pub use crate::checkpoint::{Checkpoint, TensorMap, tensor};
pub use export::export;
use serde_json::Value;

/// How transformers writes a model.
#[derive(Clone, Debug, PartialEq)]
pub struct NameMap {
    /// The `config.json`.
    pub config: Value,
    /// A prefix of names that some published checkpoints leave out, or "".
    pub prefix: &'static str,
    /// Ends of the names of tensors that are no parameters and are passed over.
    pub ignored: &'static [&'static str],
    /// Where each parameter is.
    pub tensors: Vec<TensorMap>,
}
