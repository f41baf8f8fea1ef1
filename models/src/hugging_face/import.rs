//! Opening a checkpoint of transformers: a folder with a configuration and safetensors.

use crate::checkpoint::{Checkpoint, MappedFile, Reader, StoredTensor};
use crate::{ModelError, Registry, Result};
use diptych_ir::DType;
use memmap2::Mmap;
use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl Checkpoint {
    /// Opens a folder of Hugging Face with `config.json` and weights: `model.safetensors`, or
    /// several files with `model.safetensors.index.json`.
    ///
    /// # Errors
    /// For a configuration that no family of the registry can take; for a file
    /// that is missing, truncated or malformed; for a tensor that is missing,
    /// unknown, or of another shape or type.
    pub fn open(folder: &Path, registry: &Registry) -> Result<Checkpoint> {
        let config = read_json(&folder.join("config.json"))?;
        let architecture = registry
            .from_hugging_face(&config)
            .map_err(|error| ModelError::file(folder.join("config.json"), error.to_string()))?;
        let names = architecture.hugging_face().ok_or_else(|| {
            let problem =
                format!("the family `{}` has no table of Hugging Face's names", architecture.name());
            ModelError::file(folder, problem)
        })?;
        let (mut files, mut tensors) = (Vec::new(), BTreeMap::new());
        for (number, path) in weight_files(folder)?.into_iter().enumerate() {
            let (map, start, metadata) = map_file(&path)?;
            for (name, info) in metadata.tensors() {
                let prefix = if name.starts_with(names.prefix) { "" } else { names.prefix };
                let tensor = StoredTensor {
                    file: number,
                    shape: info.shape.clone(),
                    bytes: start + info.data_offsets.0..start + info.data_offsets.1,
                    reader: reader(info.dtype)
                        .ok_or_else(|| format!("is {:?}; supported: F32, F16, BF16", info.dtype)),
                    blocks: None,
                    dtype: match info.dtype {
                        Dtype::F16 => DType::F16,
                        Dtype::BF16 => DType::BF16,
                        _ => DType::F32,
                    },
                };
                if tensors.insert(format!("{prefix}{name}"), tensor).is_some() {
                    return Err(ModelError::file(&path, format!("tensor `{name}` is in another file too")));
                }
            }
            files.push(MappedFile { path, map: Arc::new(map) });
        }
        Checkpoint::new(architecture, names.tensors, names.ignored, files, tensors, "config.json")
    }
}

/// How to read an element, by its position, from the bytes of a tensor.
fn reader(dtype: Dtype) -> Option<Reader> {
    match dtype {
        Dtype::F32 => Some(|bytes, at| f32::from_le_bytes(std::array::from_fn(|byte| bytes[4 * at + byte]))),
        Dtype::F16 => Some(|bytes, at| half::f16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]).to_f32()),
        Dtype::BF16 => {
            Some(|bytes, at| half::bf16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]).to_f32())
        }
        _ => None,
    }
}

fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(|error| ModelError::file(path, error.to_string()))?;
    let parsed = serde_json::from_str(&text);
    // Python writes what has no bound as `Infinity`, which JSON does not know: it is read as null.
    let parsed =
        parsed.or_else(|error| serde_json::from_str(&text.replace("Infinity", "null")).map_err(|_| error));
    parsed.map_err(|error| ModelError::file(path, format!("not JSON: {error}")))
}

/// The files of weights in a folder, by the index if there is one.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (single, index) = (folder.join("model.safetensors"), folder.join("model.safetensors.index.json"));
    if single.exists() || !index.exists() {
        return Ok(vec![single]);
    }
    let json = read_json(&index)?;
    let files = json.get("weight_map").and_then(Value::as_object);
    let files =
        files.ok_or_else(|| ModelError::file(&index, "no object `weight_map` of tensor names and files"))?;
    let mut names = std::collections::BTreeSet::new();
    for (tensor, file) in files {
        let name = file.as_str().unwrap_or("");
        // A path could lead out of the folder.
        if name.is_empty() || Path::new(name).file_name() != Some(name.as_ref()) {
            let problem =
                format!("tensor `{tensor}` is in {file}; it must be the name of a file in the same folder");
            return Err(ModelError::file(&index, problem));
        }
        names.insert(name);
    }
    match names.is_empty() {
        true => Err(ModelError::file(&index, "`weight_map` names no file")),
        false => Ok(names.into_iter().map(|name| folder.join(name)).collect()),
    }
}

/// A mapped file, where its data start, in bytes, and what its header says.
fn map_file(path: &Path) -> Result<(Mmap, usize, Metadata)> {
    let problem = |error: std::io::Error| ModelError::file(path, error.to_string());
    let file = std::fs::File::open(path).map_err(problem)?;
    // SAFETY: the map is only read. Changing the file while it is open
    // would change the weights, as it would for any program that reads it.
    let map = unsafe { Mmap::map(&file) }.map_err(problem)?;
    let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|error| {
        let problem = match &error {
            SafeTensorError::MetadataIncompleteBuffer | SafeTensorError::InvalidHeaderLength => {
                format!("truncated, or not a safetensors file: {error}; it has {} bytes", map.len())
            }
            SafeTensorError::InvalidOffset(name) => {
                format!("tensor `{name}` overlaps another or leaves a gap before it")
            }
            _ => format!("not a safetensors file: {error}"),
        };
        ModelError::file(path, problem)
    })?;
    Ok((map, header + size_of::<u64>(), metadata))
}
