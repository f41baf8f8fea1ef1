//! The tables that say which tensor of a checkpoint holds which parameter. They
//! know names and axes, not files.

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

/// One parameter's place in a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorMap {
    /// The tensor's name, with `{layer}` for the number of the layer.
    pub tensor: String,
    /// The parameter's full name.
    pub param: String,
    /// The tensor's dimensions, in order, with commas between: each one or more
    /// of the parameter's axes (without that of layers), the first slowest. An
    /// axis that fills only a part of a fused tensor is written
    /// `axis@start/total` (`_@start/total` where the part is one wide and the
    /// parameter has no axis for it); one whose two halves are interleaved in
    /// the tensor, element by element, has a `~` after its name.
    pub dims: String,
}

/// A row of a table: tensor, parameter, dimensions.
pub fn tensor(tensor: &str, param: &str, dims: impl Into<String>) -> TensorMap {
    TensorMap { tensor: tensor.to_owned(), param: param.to_owned(), dims: dims.into() }
}
