//! Writes one safetensors file, tensor by tensor, so that no second copy of the model is ever in memory.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use safetensors::Dtype;

use super::{CheckpointError, byte_count, describe};
use crate::files::PendingFile;

/// What a tensor in a file will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Its sizes; the last varies fastest.
    pub shape: Vec<usize>,
}

/// A file being written: announce all tensors, write each once in any order, finish. Until then, and if dropped
/// before, the file at the path is the old one.
#[derive(Debug)]
pub struct CheckpointWriter {
    pending: PendingFile,
    path: std::path::PathBuf,
    tensors: BTreeMap<String, Slot>,
}

#[derive(Debug)]
struct Slot {
    spec: TensorSpec,
    offset: u64,
    bytes: usize,
    written: usize,
}

impl CheckpointWriter {
    /// Lays the file out, asks the disk for its room, and writes the header.
    ///
    /// # Errors
    /// Two tensors have one name, a tensor has the format's own name `__metadata__` or a size beyond counting,
    /// or the disk cannot take the file.
    pub fn create(
        path: &Path,
        tensors: &[TensorSpec],
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self, CheckpointError> {
        let plan = |cause: String| CheckpointError::Plan { path: path.to_path_buf(), cause };
        // Wide elements first: then every tensor begins at a multiple of its element's size, as the header does of 8.
        let mut order: Vec<&TensorSpec> = tensors.iter().collect();
        order.sort_by_key(|spec| std::cmp::Reverse(spec.dtype.bitsize()));

        let mut slots = BTreeMap::new();
        let mut header = serde_json::Map::new();
        if !metadata.is_empty() {
            header.insert("__metadata__".into(), serde_json::json!(metadata));
        }
        let mut offset = 0u64;
        for spec in order {
            let Some(bytes) = byte_count(spec.dtype, &spec.shape) else {
                let described = describe(spec.dtype, &spec.shape);
                return Err(plan(format!(
                    "tensor `{}` of {described} has no countable number of bytes",
                    spec.name
                )));
            };
            if spec.name == "__metadata__" {
                return Err(plan(
                    "a tensor is named `__metadata__`, which the format keeps for itself".into(),
                ));
            }
            // Room for the header, too, so that no offset in the file can overflow.
            let Some(end) = offset.checked_add(bytes as u64).filter(|end| *end <= u64::MAX / 2) else {
                return Err(plan("the tensors together have more bytes than a file can".into()));
            };
            let entry =
                serde_json::json!({"dtype": spec.dtype, "shape": spec.shape, "data_offsets": [offset, end]});
            let slot = Slot { spec: spec.clone(), offset, bytes, written: 0 };
            if slots.insert(spec.name.clone(), slot).is_some() {
                return Err(plan(format!("two tensors are named `{}`", spec.name)));
            }
            header.insert(spec.name.clone(), entry);
            offset = end;
        }
        let mut header = serde_json::Value::Object(header).to_string();
        header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));

        let data_start = 8 + header.len() as u64;
        let pending = PendingFile::create(path, Some(data_start + offset))?;
        let mut start = (header.len() as u64).to_le_bytes().to_vec();
        start.extend_from_slice(header.as_bytes());
        write_at(pending.file(), &start, 0).map_err(|source| pending.failure("write", source))?;
        for slot in slots.values_mut() {
            slot.offset += data_start;
        }
        Ok(CheckpointWriter { pending, path: path.to_path_buf(), tensors: slots })
    }

    /// Writes the tensor `name`: little-endian elements, the last axis varying fastest.
    ///
    /// # Errors
    /// It was not announced, was written before, or its bytes are not as many as announced; or the disk refused.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        if let Some(slot) = self.tensors.get(name)
            && slot.written == 0
            && bytes.len() != slot.bytes
        {
            let (dtype, shape) = (slot.spec.dtype, &slot.spec.shape);
            return Err(CheckpointError::length(&self.path, name, dtype, shape, (0, bytes.len() as u64)));
        }
        self.append(name, bytes)
    }

    /// Writes the next bytes of the tensor `name`.
    ///
    /// # Errors
    /// It was not announced, or has fewer bytes; or the disk refused.
    pub fn append(&mut self, name: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        let plan = |cause: String| CheckpointError::Plan { path: self.path.clone(), cause };
        let Some(slot) = self.tensors.get_mut(name) else {
            return Err(plan(format!("tensor `{name}` was not announced")));
        };
        if slot.written == slot.bytes && !bytes.is_empty() {
            return Err(plan(format!("tensor `{name}` was written twice")));
        }
        if bytes.len() > slot.bytes - slot.written {
            let (dtype, shape) = (slot.spec.dtype, &slot.spec.shape);
            let end = (slot.written + bytes.len()) as u64;
            return Err(CheckpointError::length(&self.path, name, dtype, shape, (0, end)));
        }
        write_at(self.pending.file(), bytes, slot.offset + slot.written as u64)
            .map_err(|source| self.pending.failure("write", source))?;
        slot.written += bytes.len();
        Ok(())
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// An announced tensor was not written, or the disk refused.
    pub fn finish(self) -> Result<(), CheckpointError> {
        let lacking = self.tensors.iter().find(|(_, slot)| slot.written < slot.bytes);
        if let Some(name) = lacking.map(|(name, _)| name) {
            let cause = format!("tensor `{name}` was announced and not written");
            return Err(CheckpointError::Plan { path: self.path, cause });
        }
        Ok(self.pending.commit()?)
    }
}

#[cfg(unix)]
fn write_at(file: &std::fs::File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(not(unix))]
fn write_at(mut file: &std::fs::File, bytes: &[u8], offset: u64) -> io::Result<()> {
    use std::io::{Seek, Write};
    file.seek(io::SeekFrom::Start(offset))?;
    file.write_all(bytes)
}
