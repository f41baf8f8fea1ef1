//! One safetensors file, mapped into memory and checked whole before any tensor is handed out.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::tensor::TensorInfo;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::Deserialize;

use super::{CheckpointError, byte_count};

/// An open file of tensors. Its pages are read when they are touched; another process that shortens the
/// file meanwhile ends this one (SIGBUS), as with every memory map. Our writer never does: it renames.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    map: Mmap,
    data_start: usize,
    tensors: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
}

/// A tensor in a file: the bytes are little-endian, the last axis of the shape varies fastest.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    /// The file.
    pub path: &'a Path,
    /// The tensor's name there.
    pub name: &'a str,
    /// Its element type.
    pub dtype: Dtype,
    /// Its sizes.
    pub shape: &'a [usize],
    /// Its contents.
    pub bytes: &'a [u8],
}

impl Checkpoint {
    /// Opens and checks a file.
    ///
    /// # Errors
    /// It cannot be read, is truncated, is not safetensors, has tensors that overlap, leave gaps, reach beyond the end,
    /// have an unknown dtype, or whose bytes are not what their shape takes.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let failed = |action, source| CheckpointError::File { action, path: path.to_path_buf(), source };
        let file = File::open(path).map_err(|source| failed("open", source))?;
        // SAFETY: the map is read only; see the type for what a concurrent change does.
        let map = unsafe { Mmap::map(&file) }.map_err(|source| failed("map", source))?;
        let (header, parsed) = match SafeTensors::read_metadata(&map) {
            Ok(parsed) => parsed,
            Err(error) => return Err(diagnose(path, &map, error)),
        };
        let tensors = parsed.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        let metadata = parsed.metadata().clone().unwrap_or_default().into_iter().collect();
        Ok(Checkpoint { path: path.to_path_buf(), map, data_start: 8 + header, tensors, metadata })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The text that stands under `key`, if any.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// The tensor `name`.
    ///
    /// # Errors
    /// The file has none; the error names the most similar one.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, CheckpointError> {
        let Some((name, info)) = self.tensors.get_key_value(name) else {
            return Err(missing(&self.path, name, self.names()));
        };
        let (start, end) = info.data_offsets;
        let bytes = &self.map[self.data_start + start..self.data_start + end];
        Ok(TensorView { path: &self.path, name, dtype: info.dtype, shape: &info.shape, bytes })
    }

    /// Gives back the memory of a tensor's contents, if the system lets it; they are read anew when they are touched.
    pub fn release(&self, name: &str) {
        #[cfg(unix)]
        if let Some(info) = self.tensors.get(name) {
            let (start, end) = info.data_offsets;
            // SAFETY: the map is of a file and is only read, so that the pages hold nothing but the file's.
            let _ = unsafe {
                self.map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    self.data_start + start,
                    end - start,
                )
            };
        }
    }

    /// The tensor `name`, which must have this dtype and shape.
    ///
    /// # Errors
    /// It is missing or has others.
    pub fn expect(
        &self,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
    ) -> Result<TensorView<'_>, CheckpointError> {
        self.tensor(name)?.with_shape(shape)?.with_dtype(dtype)
    }
}

impl<'a> TensorView<'a> {
    /// Itself, if it has this shape.
    ///
    /// # Errors
    /// It has another.
    pub fn with_shape(self, expected: &[usize]) -> Result<Self, CheckpointError> {
        if self.shape == expected {
            return Ok(self);
        }
        Err(CheckpointError::WrongShape {
            path: self.path.to_path_buf(),
            tensor: self.name.into(),
            found: self.shape.to_vec(),
            expected: expected.to_vec(),
        })
    }

    /// Itself, if it has this dtype.
    ///
    /// # Errors
    /// It has another.
    pub fn with_dtype(self, expected: Dtype) -> Result<Self, CheckpointError> {
        if self.dtype == expected { Ok(self) } else { Err(self.wrong_dtype(&expected.to_string())) }
    }

    /// How many elements it has.
    pub fn elements(&self) -> usize {
        // Checked against the bytes when the file was opened.
        self.shape.iter().product()
    }

    /// Writes the elements into `out`, from F32, BF16, F16 or F64 (rounded to nearest).
    ///
    /// # Errors
    /// It has another dtype, or `out` another length.
    pub fn read_f32(&self, out: &mut [f32]) -> Result<(), CheckpointError> {
        match self.dtype {
            Dtype::F32 => self.decode(out, f32::from_le_bytes),
            Dtype::BF16 => self.decode(out, |bytes| bf16::from_le_bytes(bytes).to_f32()),
            Dtype::F16 => self.decode(out, |bytes| f16::from_le_bytes(bytes).to_f32()),
            Dtype::F64 => self.decode(out, |bytes| f64::from_le_bytes(bytes) as f32),
            _ => Err(self.wrong_dtype("F32, BF16, F16 or F64")),
        }
    }

    /// Writes the elements from position `start` on into `out`, as [`TensorView::read_f32`] does.
    ///
    /// # Errors
    /// It has another dtype, or ends before.
    pub fn read_f32_part(&self, start: usize, out: &mut [f32]) -> Result<(), CheckpointError> {
        let size = self.dtype.bitsize() / 8;
        let bytes = self.bytes.get(start * size..(start + out.len()) * size);
        let bytes = bytes.ok_or_else(|| self.wrong_length(start + out.len()))?;
        TensorView { bytes, ..*self }.read_f32(out)
    }

    /// Writes the elements into `out`, from BF16, F32, F16 or F64 (rounded to nearest even).
    ///
    /// # Errors
    /// It has another dtype, or `out` another length.
    pub fn read_bf16(&self, out: &mut [bf16]) -> Result<(), CheckpointError> {
        match self.dtype {
            Dtype::BF16 => self.decode(out, bf16::from_le_bytes),
            Dtype::F32 => self.decode(out, |bytes| bf16::from_f32(f32::from_le_bytes(bytes))),
            Dtype::F16 => self.decode(out, |bytes| bf16::from_f32(f16::from_le_bytes(bytes).to_f32())),
            Dtype::F64 => self.decode(out, |bytes| bf16::from_f64(f64::from_le_bytes(bytes))),
            _ => Err(self.wrong_dtype("BF16, F32, F16 or F64")),
        }
    }

    /// Writes the elements into `out`, from I32.
    ///
    /// # Errors
    /// It has another dtype, or `out` another length.
    pub fn read_i32(&self, out: &mut [i32]) -> Result<(), CheckpointError> {
        self.with_dtype(Dtype::I32)?.decode(out, i32::from_le_bytes)
    }

    /// Writes the elements into `out`, from U64.
    ///
    /// # Errors
    /// It has another dtype, or `out` another length.
    pub fn read_u64(&self, out: &mut [u64]) -> Result<(), CheckpointError> {
        self.with_dtype(Dtype::U64)?.decode(out, u64::from_le_bytes)
    }

    fn decode<T, const N: usize>(
        &self,
        out: &mut [T],
        decode: impl Fn([u8; N]) -> T,
    ) -> Result<(), CheckpointError> {
        let (elements, _) = self.bytes.as_chunks::<N>();
        if elements.len() != out.len() {
            return Err(self.wrong_length(out.len()));
        }
        for (out, bytes) in out.iter_mut().zip(elements) {
            *out = decode(*bytes);
        }
        Ok(())
    }

    fn wrong_length(&self, expected: usize) -> CheckpointError {
        CheckpointError::WrongShape {
            path: self.path.to_path_buf(),
            tensor: self.name.into(),
            found: self.shape.to_vec(),
            expected: vec![expected],
        }
    }

    fn wrong_dtype(&self, expected: &str) -> CheckpointError {
        CheckpointError::WrongDtype {
            path: self.path.to_path_buf(),
            tensor: self.name.into(),
            found: self.dtype,
            expected: expected.into(),
        }
    }
}

/// The error for a name that is not among `names`.
pub(super) fn missing<'a>(path: &Path, name: &str, names: impl Iterator<Item = &'a str>) -> CheckpointError {
    let nearest = names.map(|candidate| (distance(name, candidate), candidate)).min();
    let nearest = match nearest {
        Some((distance, candidate)) if distance <= name.len() / 3 => {
            format!("; the nearest is `{candidate}`")
        }
        Some(_) => String::new(),
        None => "; it has no tensors at all".into(),
    };
    CheckpointError::Missing { path: path.to_path_buf(), tensor: name.into(), nearest }
}

/// How many single-character edits lead from `a` to `b` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// A header's entry as it stands, before it is known to make sense.
#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// Why the `safetensors` crate refused a file, in terms of its tensors. The crate checks all that matters
/// but mostly does not say where; this reads the header again, leniently, and looks.
fn diagnose(path: &Path, bytes: &[u8], error: SafeTensorError) -> CheckpointError {
    let header_error = |cause: String| CheckpointError::Header { path: path.to_path_buf(), cause };
    let truncated = |what: &str, expected: u64| CheckpointError::Truncated {
        path: path.to_path_buf(),
        what: what.into(),
        found: bytes.len() as u64,
        expected,
    };
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return truncated("the length of the header", 8);
    };
    let length = u64::from_le_bytes(*length);
    if length > 100_000_000 {
        return header_error(format!(
            "its first 8 bytes give a header of {length} bytes; at most 100000000 are allowed"
        ));
    }
    let Some((header, data)) = rest.split_at_checked(length as usize) else {
        return truncated("the header", length + 8);
    };
    let entries: BTreeMap<String, serde_json::Value> = match serde_json::from_slice(header) {
        Ok(entries) => entries,
        Err(cause) => return header_error(format!("its header is not a JSON object: {cause}")),
    };
    let mut tensors = Vec::new();
    for (name, value) in entries.into_iter().filter(|(name, _)| name != "__metadata__") {
        let entry: RawEntry = match serde_json::from_value(value) {
            Ok(entry) => entry,
            Err(cause) => return header_error(format!("the header's entry for `{name}`: {cause}")),
        };
        let Ok(dtype) = serde_json::from_value::<Dtype>(entry.dtype.clone().into()) else {
            return CheckpointError::UnknownDtype {
                path: path.to_path_buf(),
                tensor: name,
                found: entry.dtype,
            };
        };
        let (start, end) = entry.data_offsets;
        if end < start || byte_count(dtype, &entry.shape) != usize::try_from(end - start).ok() {
            return CheckpointError::length(path, &name, dtype, &entry.shape, entry.data_offsets);
        }
        tensors.push((entry.data_offsets, name));
    }
    tensors.sort();
    misplaced(path, &tensors, (bytes.len(), data.len())).unwrap_or_else(|| header_error(error.to_string()))
}

/// The first overlap, gap or excess among tensors sorted by place, in a file of these lengths (whole, data).
fn misplaced(
    path: &Path,
    tensors: &[((u64, u64), String)],
    (file, data): (usize, usize),
) -> Option<CheckpointError> {
    let gap = |from: u64, to: u64, before: String| CheckpointError::Gap {
        path: path.to_path_buf(),
        before,
        range: (from, to),
    };
    let mut covered = 0;
    for (index, (range, name)) in tensors.iter().enumerate() {
        if range.0 < covered {
            let (first_range, first) = tensors[index - 1].clone();
            return Some(CheckpointError::Overlap {
                path: path.to_path_buf(),
                first,
                first_range,
                second: name.clone(),
                second_range: *range,
            });
        }
        if range.0 > covered {
            return Some(gap(covered, range.0, format!("tensor `{name}`")));
        }
        covered = range.1;
    }
    match covered.cmp(&(data as u64)) {
        std::cmp::Ordering::Equal => None,
        std::cmp::Ordering::Less => Some(gap(covered, data as u64, "the end of the file".into())),
        std::cmp::Ordering::Greater => Some(CheckpointError::Truncated {
            path: path.to_path_buf(),
            what: tensors.last().map_or_else(String::new, |(_, name)| format!("the tensor `{name}`")),
            found: file as u64,
            expected: (file - data) as u64 + covered,
        }),
    }
}
