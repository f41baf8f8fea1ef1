//! Checkpoints in llama.cpp's GGUF: which of its architectures are which families of the zoo, with
//! the sizes that the metadata tell and the tensors' names. One file for each architecture. What is
//! in the metadata and not understood is refused, where it could change what the model computes.

mod keys;
mod llama;

use crate::checkpoint::{Checkpoint, MappedFile, StoredTensor, TensorMap};
use crate::{ModelError, Registry, Result};
use diptych_gguf::{File, Format, GgufError, format_name};
use diptych_ir::DType;
use diptych_ir::blocks::BlockFormat;
use keys::Keys;
use serde_json::Value;
use std::sync::Arc;

/// What a file says of its model.
struct Description {
    /// The family of the registry.
    family: &'static str,
    /// The configuration of that family.
    config: Value,
    /// Where each parameter is.
    tensors: Vec<TensorMap>,
    /// Tensors that are no parameters.
    ignored: &'static [&'static str],
}

/// Reads the metadata of an architecture.
type Describe = fn(&Keys<'_>) -> Result<Description>;

/// How to read each architecture, by its name in `general.architecture`.
const ARCHITECTURES: [(&str, Describe); 1] = [("llama", llama::describe)];

impl Checkpoint {
    /// The model of a GGUF file; tensors are read as the f32 values that their formats define.
    ///
    /// # Errors
    /// For an architecture or an option that is not supported, for sizes that do not fit, and for a
    /// tensor that is missing, unknown, or of another shape or a format that cannot be read.
    pub fn of_gguf(file: &File, registry: &Registry) -> Result<Checkpoint> {
        let name = file.string("general.architecture")?;
        let name = name.ok_or_else(|| file.wrong("the metadata have no `general.architecture`"))?;
        let known = ARCHITECTURES.map(|row| row.0).join(", ");
        let (_, describe) = ARCHITECTURES
            .iter()
            .find(|row| row.0 == name)
            .ok_or_else(|| file.wrong(format!("`general.architecture` is `{name}`; supported: {known}")))?;
        if file.count("split.count")?.is_some_and(|parts| parts > 1) {
            return Err(file
                .wrong("a part of a model that is split into several files; join them first")
                .into());
        }
        let keys = Keys::new(file, &name);
        let description = describe(&keys)?;
        keys.finish()?;
        let architecture = registry
            .architecture(description.family, &description.config)
            .map_err(|error| file.wrong(error.to_string()))?;
        let tensors = file.tensors().iter().map(|(name, info)| {
            let reader = info.format.map(|format| format.reader()).map_err(|number| {
                let readable: Vec<&str> = diptych_gguf::Format::all().map(|format| format.name()).collect();
                format!("is {}; supported: {}", format_name(number), readable.join(", "))
            });
            let tensor = StoredTensor {
                file: 0,
                shape: info.shape.clone(),
                bytes: info.bytes.clone(),
                reader,
                blocks: info.format.ok().and_then(block_format),
                dtype: match info.format {
                    Ok(Format::F16) => DType::F16,
                    Ok(Format::Bf16) => DType::BF16,
                    _ => DType::F32,
                },
            };
            (name.clone(), tensor)
        });
        let files = vec![MappedFile { path: file.path().to_owned(), map: Arc::clone(file.map()) }];
        let Description { tensors: rows, ignored, .. } = description;
        Checkpoint::new(architecture, rows, ignored, files, tensors.collect(), "the metadata")
    }
}

/// The format in which products are computed as the file has it.
fn block_format(format: Format) -> Option<BlockFormat> {
    match format {
        Format::F32 | Format::F16 | Format::Bf16 => None,
        Format::Q8_0 => Some(BlockFormat::Q8_0),
        Format::Q4_0 => Some(BlockFormat::Q4_0),
        Format::Q4_1 => Some(BlockFormat::Q4_1),
        Format::Q4K => Some(BlockFormat::Q4K),
        Format::Q6K => Some(BlockFormat::Q6K),
    }
}

impl From<GgufError> for ModelError {
    fn from(error: GgufError) -> ModelError {
        ModelError::File { path: error.path, problem: error.problem }
    }
}
