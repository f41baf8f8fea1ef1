//! Reading a checkpoint: files are memory-mapped, and checked against the
//! architecture before any weight is read. It changes nothing on disk.

use super::names::NameMap;
use crate::{Architecture, ModelError, Registry, Result, build};
use diptych_ir::Program;
use memmap2::Mmap;
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A checkpoint on disk that fits its architecture.
pub struct Checkpoint {
    architecture: Box<dyn Architecture>,
    program: Program,
    names: NameMap,
    files: Vec<Weights>,
    /// The file of each tensor, by the tensor's full name.
    tensors: BTreeMap<String, usize>,
}

/// A mapped file of weights.
struct Weights {
    path: PathBuf,
    map: Mmap,
    /// Where the data starts, in bytes.
    start: usize,
    metadata: Metadata,
}

impl Checkpoint {
    /// Opens a folder with `config.json` and weights: `model.safetensors`, or
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
        let program = build(&*architecture)?;
        let files =
            weight_files(folder)?.iter().map(|path| Weights::open(path)).collect::<Result<Vec<_>>>()?;
        let mut tensors = BTreeMap::new();
        for (number, file) in files.iter().enumerate() {
            for name in file.metadata.offset_keys() {
                let full = if name.starts_with(names.prefix) {
                    name.clone()
                } else {
                    format!("{}{name}", names.prefix)
                };
                if tensors.insert(full, number).is_some() {
                    return Err(ModelError::file(
                        &file.path,
                        format!("tensor `{name}` is in another file too"),
                    ));
                }
            }
        }
        let checkpoint = Checkpoint { architecture, program, names, files, tensors };
        checkpoint.check(folder)?;
        Ok(checkpoint)
    }

    /// The architecture that the configuration describes.
    pub fn architecture(&self) -> &dyn Architecture {
        &*self.architecture
    }

    /// The architecture's program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// All values of a parameter, in the order of its axes as declared,
    /// converted to f32.
    ///
    /// # Errors
    /// When there is no such parameter.
    pub fn load_param(&self, name: &str) -> Result<Vec<f32>> {
        let place = self.names.place(&self.program, name)?;
        let mut values = vec![0.0; place.tensors * place.elements];
        self.load_part(name, 0, &mut values)?;
        Ok(values)
    }

    /// As [`Checkpoint::load_param`], from position `start` on: as many values as
    /// there is room for in `values`. What was read of the file is given back to the system.
    ///
    /// # Errors
    /// When there is no such parameter, or it ends before.
    pub fn load_part(&self, name: &str, start: usize, values: &mut [f32]) -> Result<()> {
        let place = self.names.place(&self.program, name)?;
        let (elements, end) = (place.tensors * place.elements, start.saturating_add(values.len()));
        if end > elements {
            let problem = format!("parameter `{name}` has {elements} elements; {end} were asked for");
            return Err(ModelError::file(&self.files[0].path, problem));
        }
        let (mut at, mut values) = (start, values.iter_mut());
        while at < end {
            let (number, first) = (at / place.elements, at % place.elements);
            let part = first..place.elements.min(first + end - at);
            at += part.len();
            let tensor = place.name(number);
            let (file, info) = self.info(&tensor).ok_or_else(|| missing(&tensor, &self.files[0].path))?;
            let bytes = &file.map[file.start + info.data_offsets.0..file.start + info.data_offsets.1];
            let read = reader(info.dtype).ok_or_else(|| wrong_type(file, &tensor, info.dtype))?;
            place.for_each(part, |position| {
                if let Some(value) = values.next() {
                    *value = read(bytes, position);
                }
            });
            file.release(info);
        }
        Ok(())
    }

    /// The bytes of the largest tensor, of which [`Checkpoint::load_part`] may have all in memory for a moment.
    pub fn largest_tensor(&self) -> usize {
        let bytes = |info: &TensorInfo| info.data_offsets.1 - info.data_offsets.0;
        self.tensors
            .keys()
            .filter_map(|tensor| self.info(tensor))
            .map(|(_, info)| bytes(info))
            .max()
            .unwrap_or(0)
    }

    fn info(&self, tensor: &str) -> Option<(&Weights, &TensorInfo)> {
        let file = &self.files[*self.tensors.get(tensor)?];
        let stored = file.metadata.info(tensor);
        let stored = stored.or_else(|| file.metadata.info(tensor.strip_prefix(self.names.prefix)?))?;
        Some((file, stored))
    }

    /// Whether every tensor is there, in the right shape and a type that can be
    /// read, and none that is unknown.
    fn check(&self, folder: &Path) -> Result<()> {
        let mut known = std::collections::BTreeSet::new();
        for place in self.names.places(&self.program)? {
            for number in 0..place.tensors {
                let tensor = place.name(number);
                let (file, info) = self.info(&tensor).ok_or_else(|| missing(&tensor, folder))?;
                if info.shape != place.shape {
                    let problem = format!(
                        "tensor `{tensor}` has shape {:?}; config.json asks for {:?}",
                        info.shape, place.shape
                    );
                    return Err(ModelError::file(&file.path, problem));
                }
                reader(info.dtype).ok_or_else(|| wrong_type(file, &tensor, info.dtype))?;
                known.insert(tensor);
            }
        }
        let ignored = |name: &str| self.names.ignored.iter().any(|end| name.ends_with(end));
        match self.tensors.iter().find(|(name, _)| !known.contains(*name) && !ignored(name)) {
            Some((name, &file)) => {
                let problem =
                    format!("unknown tensor `{name}`; the model that config.json describes has none");
                Err(ModelError::file(&self.files[file].path, problem))
            }
            None => Ok(()),
        }
    }
}

fn missing(tensor: &str, path: &Path) -> ModelError {
    ModelError::file(path, format!("no tensor `{tensor}`, which the model that config.json describes has"))
}

fn wrong_type(file: &Weights, tensor: &str, dtype: Dtype) -> ModelError {
    ModelError::file(&file.path, format!("tensor `{tensor}` is {dtype:?}; supported: F32, F16, BF16"))
}

/// How to read an element, by its position, from the bytes of a tensor.
fn reader(dtype: Dtype) -> Option<fn(&[u8], usize) -> f32> {
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

impl Weights {
    /// Gives back the memory of a tensor, if the system lets it; its pages are read anew when they are touched.
    fn release(&self, info: &TensorInfo) {
        let (begin, end) = info.data_offsets;
        // SAFETY: the map is of a file and is only read, so that the pages hold nothing but the file's.
        #[cfg(unix)]
        let _ = unsafe {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            self.map.unchecked_advise_range(advice, self.start + begin, end - begin)
        };
    }

    fn open(path: &Path) -> Result<Weights> {
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
        Ok(Weights { path: path.to_owned(), map, start: header + size_of::<u64>(), metadata })
    }
}
