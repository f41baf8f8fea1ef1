//! An open file: what its header says, checked against its length.

use crate::cursor::Cursor;
use crate::error::{GgufError, Result};
use crate::format::{Format, format_name};
use crate::metadata::{self, Entries, Scalar};
use memmap2::Mmap;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most dimensions of a tensor, as the format has it.
const MOST_DIMENSIONS: u32 = 4;
/// Where data is aligned to when the metadata do not say.
const ALIGNMENT: u64 = 32;

/// A GGUF file, mapped.
pub struct File {
    path: PathBuf,
    map: Arc<Mmap>,
    entries: Entries,
    tensors: BTreeMap<String, TensorInfo>,
}

/// A tensor's row in the header.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// The dimensions, the slowest first (a file has them the other way round).
    pub shape: Vec<usize>,
    /// How its numbers are stored, or the format's number in the file if it is none that can be read.
    pub format: Result<Format, u32>,
    /// Where it lies in the file; empty if the format is none that can be read.
    pub bytes: Range<usize>,
}

impl File {
    /// Opens a file and checks its header. Formats of tensors that cannot be read are no error here,
    /// so that the caller can say whose they are.
    ///
    /// # Errors
    /// For a file that cannot be read, is none in this format (version 2 or 3, little-endian), is
    /// truncated, or whose header contradicts itself.
    pub fn open(path: &Path) -> Result<File> {
        let wrong = |problem: String| GgufError { path: path.to_owned(), problem };
        let system = |error: std::io::Error| wrong(error.to_string());
        let file = std::fs::File::open(path).map_err(system)?;
        if !file.metadata().map_err(system)?.is_file() {
            return Err(wrong("not a file; name the .gguf itself".to_owned()));
        }
        // SAFETY: the map is only read. Changing the file while it is open would change what is
        // read, as it would for any program; every access is checked.
        let map = unsafe { Mmap::map(&file) }.map_err(system)?;
        let (entries, tensors) = read_header(&map).map_err(wrong)?;
        Ok(File { path: path.to_owned(), map: Arc::new(map), entries, tensors })
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All its bytes.
    pub fn map(&self) -> &Arc<Mmap> {
        &self.map
    }

    /// The tensors, by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// The keys of the metadata, in alphabetical order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// An error about this file.
    pub fn wrong(&self, problem: impl Into<String>) -> GgufError {
        GgufError { path: self.path.clone(), problem: problem.into() }
    }

    /// A string, if the key is there.
    ///
    /// # Errors
    /// When it is something else, or not UTF-8.
    pub fn string(&self, key: &str) -> Result<Option<String>> {
        self.scalar(key)
    }

    /// A boolean, if the key is there.
    ///
    /// # Errors
    /// When it is something else.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>> {
        self.scalar(key)
    }

    /// A floating-point number, if the key is there: of an f32, the shortest decimal that it stands for.
    ///
    /// # Errors
    /// When it is something else.
    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        self.scalar(key)
    }

    /// An integer that is not negative, of any width, if the key is there.
    ///
    /// # Errors
    /// When it is something else.
    pub fn count(&self, key: &str) -> Result<Option<usize>> {
        let value: Option<i128> = self.scalar(key)?;
        value.map(|value| self.to_count(key, value)).transpose()
    }

    /// As [`File::count`], of a key that may have an array of one value for each layer: they must be the same.
    ///
    /// # Errors
    /// As there, and when the values differ or are none.
    pub fn one_count(&self, key: &str) -> Result<Option<usize>> {
        if !self.entries.get(key).is_some_and(metadata::is_array) {
            return self.count(key);
        }
        let values: Vec<i128> = self.array(key)?.unwrap_or_default();
        match values.split_first() {
            Some((first, rest)) if rest.iter().all(|other| other == first) => {
                self.to_count(key, *first).map(Some)
            }
            _ => {
                Err(self
                    .wrong(format!("`{key}` differs between layers; only one value for all is supported")))
            }
        }
    }

    /// An array of strings, if the key is there.
    ///
    /// # Errors
    /// When it is something else, or one is not UTF-8.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<String>>> {
        self.array(key)
    }

    /// An array of floating-point numbers, if the key is there.
    ///
    /// # Errors
    /// When it is something else.
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.array(key)
    }

    /// An array of integers that are not negative, if the key is there.
    ///
    /// # Errors
    /// When it is something else.
    pub fn counts(&self, key: &str) -> Result<Option<Vec<usize>>> {
        let values: Option<Vec<i128>> = self.array(key)?;
        values.map(|values| values.into_iter().map(|value| self.to_count(key, value)).collect()).transpose()
    }

    fn to_count(&self, key: &str, value: i128) -> Result<usize> {
        usize::try_from(value).map_err(|_| self.wrong(format!("`{key}` is {value}; it must not be negative")))
    }

    fn scalar<T: Scalar>(&self, key: &str) -> Result<Option<T>> {
        let entry = self.entries.get(key);
        entry
            .map(|entry| metadata::scalar(&self.map, key, entry))
            .transpose()
            .map_err(|problem| self.wrong(problem))
    }

    fn array<T: Scalar>(&self, key: &str) -> Result<Option<Vec<T>>> {
        let entry = self.entries.get(key);
        entry
            .map(|entry| metadata::array(&self.map, key, entry))
            .transpose()
            .map_err(|problem| self.wrong(problem))
    }
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File").field("path", &self.path).finish_non_exhaustive()
    }
}

fn read_header(bytes: &[u8]) -> Result<(Entries, BTreeMap<String, TensorInfo>), String> {
    let mut cursor = Cursor::new(bytes, 0);
    if !bytes.starts_with(b"GGUF") {
        return Err("not a GGUF file: it does not begin with `GGUF`".to_owned());
    }
    cursor.skip(4, "the magic")?;
    let version = cursor.u32("the version")?;
    if !(2..=3).contains(&version) {
        let swapped = matches!(version.swap_bytes(), 1..=3);
        let why = if swapped { "it is big-endian" } else { "its version cannot be read" };
        return Err(format!("{why} (version {version}); supported: little-endian files of version 2 or 3"));
    }
    let tensor_count = cursor.u64("the number of tensors")?;
    let entry_count = cursor.u64("the number of metadata")?;
    let entries = metadata::read_entries(&mut cursor, entry_count)?;
    let key = "general.alignment";
    let alignment = match entries.get(key) {
        Some(entry) => metadata::scalar::<i128>(bytes, key, entry)?,
        None => ALIGNMENT.into(),
    };
    let alignment = u64::try_from(alignment).ok().filter(|alignment| alignment.is_power_of_two());
    let alignment = alignment.ok_or_else(|| format!("`{key}` must be a power of two"))?;

    let mut rows = Vec::new();
    for number in 0..tensor_count {
        let name = cursor.text(&format!("the name of tensor {number} of {tensor_count}"))?;
        let what = format!("the row of tensor `{name}`");
        let dimensions = cursor.u32(&what)?;
        if !(1..=MOST_DIMENSIONS).contains(&dimensions) {
            return Err(format!(
                "tensor `{name}` has {dimensions} dimensions; it must have 1 to {MOST_DIMENSIONS}"
            ));
        }
        let sizes = (0..dimensions).map(|_| cursor.u64(&what)).collect::<Result<Vec<u64>, String>>()?;
        rows.push((name, sizes, cursor.u32(&what)?, cursor.u64(&what)?));
    }
    let start = (cursor.at() as u64).checked_next_multiple_of(alignment);
    let start = start.ok_or_else(|| format!("`{key}` is {alignment}, which lies beyond the file"))?;
    let mut tensors = BTreeMap::new();
    for (name, sizes, number, offset) in rows {
        let info = tensor_info(&sizes, number, bytes.len(), start, (offset, alignment))
            .map_err(|problem| format!("tensor `{name}` ({}) {problem}", format_name(number)))?;
        if tensors.insert(name.to_owned(), info).is_some() {
            return Err(format!("the tensor `{name}` is there twice"));
        }
    }
    Ok((entries, tensors))
}

/// A row of the header whose data begin at `offset` from `start` on, checked against the file's length.
fn tensor_info(
    sizes: &[u64],
    number: u32,
    length: usize,
    start: u64,
    (offset, alignment): (u64, u64),
) -> Result<TensorInfo, String> {
    let too_large = || format!("has the dimensions {sizes:?}, which no file can hold");
    let elements = sizes.iter().try_fold(1u64, |product, size| product.checked_mul(*size));
    let elements = elements.filter(|elements| isize::try_from(*elements).is_ok()).ok_or_else(too_large)?;
    if elements == 0 {
        return Err(format!("has the dimensions {sizes:?}; none may be 0"));
    }
    let shape = sizes
        .iter()
        .rev()
        .map(|size| usize::try_from(*size).map_err(|_| too_large()))
        .collect::<Result<_, _>>()?;
    let Some(format) = Format::of_number(number) else {
        return Ok(TensorInfo { shape, format: Err(number), bytes: 0..0 });
    };
    let block = format.block_elements() as u64;
    if !sizes[0].is_multiple_of(block) {
        return Err(format!("has rows of {} elements; this format needs a multiple of {block}", sizes[0]));
    }
    if offset % alignment != 0 {
        return Err(format!("begins at {offset}, which is no multiple of the alignment, {alignment}"));
    }
    let size = (elements / block).checked_mul(format.block_bytes() as u64).ok_or_else(too_large)?;
    let first = start.checked_add(offset);
    let end = first.and_then(|first| first.checked_add(size));
    match (first, end) {
        (Some(first), Some(end)) if end <= length as u64 => {
            Ok(TensorInfo { shape, format: Ok(format), bytes: first as usize..end as usize })
        }
        _ => Err(format!(
            "takes {size} bytes from byte {start} + {offset} on, but the file has {length}: it is truncated"
        )),
    }
}
