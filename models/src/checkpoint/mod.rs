//! Weights on disk, whoever wrote them: which tensor of a mapped file holds which parameter, checked
//! against the architecture before any weight is read. It changes nothing on disk, and knows no
//! format of files: `hugging_face` and `gguf` open them.

mod blocks;
mod names;

pub use blocks::Held;
pub(crate) use names::{Place, places};
pub use names::{TensorMap, tensor};

use crate::{Architecture, ModelError, Result, build};
use diptych_ir::blocks::BlockFormat;
use diptych_ir::{DType, Program};
use memmap2::Mmap;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// A checkpoint on disk that fits its architecture.
pub struct Checkpoint {
    architecture: Box<dyn Architecture>,
    program: Program,
    rows: Vec<TensorMap>,
    files: Vec<MappedFile>,
    /// By full name.
    tensors: BTreeMap<String, StoredTensor>,
    described_by: &'static str,
}

/// A file of weights.
pub(crate) struct MappedFile {
    pub path: PathBuf,
    pub map: Arc<Mmap>,
}

/// Where a tensor lies.
pub(crate) struct StoredTensor {
    /// Which file.
    pub file: usize,
    /// Its dimensions, the first slowest.
    pub shape: Vec<usize>,
    /// Its bytes in the file, all of which are there.
    pub bytes: Range<usize>,
    /// How to read an element, by its position, from these bytes; or why it cannot be read.
    pub reader: Result<Reader, String>,
    /// The format of its blocks, if it is in blocks.
    pub blocks: Option<BlockFormat>,
    /// The type that holds its numbers: f16 or bf16 if it is in these, and otherwise f32.
    pub dtype: DType,
}

/// Reads an element, by its position, from all bytes of a tensor.
pub(crate) type Reader = fn(&[u8], usize) -> f32;

impl Checkpoint {
    /// A checkpoint of these files. Tensors whose names end as `ignored` says are passed over;
    /// `described_by` is what told of the architecture, in words.
    ///
    /// # Errors
    /// For a tensor that is missing, unknown, of another shape, or not to be read.
    pub(crate) fn new(
        architecture: Box<dyn Architecture>,
        rows: Vec<TensorMap>,
        ignored: &[&str],
        files: Vec<MappedFile>,
        tensors: BTreeMap<String, StoredTensor>,
        described_by: &'static str,
    ) -> Result<Checkpoint> {
        let program = build(&*architecture)?;
        let checkpoint = Checkpoint { architecture, program, rows, files, tensors, described_by };
        checkpoint.check(ignored)?;
        Ok(checkpoint)
    }

    /// The architecture.
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
        let place = self.place(name)?;
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
        let place = self.place(name)?;
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
            let name = place.name(number);
            let tensor = self.tensors.get(&name).ok_or_else(|| self.missing(&name))?;
            let file = &self.files[tensor.file];
            let bytes = &file.map[tensor.bytes.clone()];
            let read = tensor.reader.as_ref().map_err(|problem| self.unreadable(&name, tensor, problem))?;
            place.for_each(part, |position| {
                if let Some(value) = values.next() {
                    *value = read(bytes, position);
                }
            });
            file.release(&tensor.bytes);
        }
        Ok(())
    }

    /// The bytes of the largest tensor, of which [`Checkpoint::load_part`] may have all in memory for a moment.
    pub fn largest_tensor(&self) -> usize {
        self.tensors.values().map(|tensor| tensor.bytes.len()).max().unwrap_or(0)
    }

    /// Where a parameter is.
    fn place(&self, name: &str) -> Result<Place<'_>> {
        names::place(&self.rows, &self.program, name)
    }

    /// Whether every tensor is there, in the right shape and a type that can be
    /// read, and none that is unknown.
    fn check(&self, ignored: &[&str]) -> Result<()> {
        let mut known = BTreeSet::new();
        for place in places(&self.rows, &self.program)? {
            for number in 0..place.tensors {
                let name = place.name(number);
                let tensor = self.tensors.get(&name).ok_or_else(|| self.missing(&name))?;
                if tensor.shape != place.shape {
                    let problem = format!(
                        "tensor `{name}` has shape {:?}; {} asks for {:?}",
                        tensor.shape, self.described_by, place.shape
                    );
                    return Err(ModelError::file(&self.files[tensor.file].path, problem));
                }
                if let Err(problem) = &tensor.reader {
                    return Err(self.unreadable(&name, tensor, problem));
                }
                known.insert(name);
            }
        }
        let ignored = |name: &str| ignored.iter().any(|end| name.ends_with(end));
        match self.tensors.iter().find(|(name, _)| !known.contains(*name) && !ignored(name)) {
            Some((name, tensor)) => {
                let problem = format!(
                    "unknown tensor `{name}`; the model that {} describes has none",
                    self.described_by
                );
                Err(ModelError::file(&self.files[tensor.file].path, problem))
            }
            None => Ok(()),
        }
    }

    /// There is at least one file, and a tensor that is nowhere is told of with the folder of several.
    fn missing(&self, name: &str) -> ModelError {
        let path = match &self.files[..] {
            [file] => &file.path,
            files => files[0].path.parent().unwrap_or(&files[0].path),
        };
        let problem = format!("no tensor `{name}`, which the model that {} describes has", self.described_by);
        ModelError::file(path, problem)
    }

    fn unreadable(&self, name: &str, tensor: &StoredTensor, problem: &str) -> ModelError {
        ModelError::file(&self.files[tensor.file].path, format!("tensor `{name}` {problem}"))
    }
}

impl MappedFile {
    /// Gives back the memory of a tensor, if the system lets it; its pages are read anew when they are touched.
    fn release(&self, bytes: &Range<usize>) {
        // SAFETY: the map is of a file and is only read, so that the pages hold nothing but the file's.
        #[cfg(unix)]
        let _ = unsafe {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            self.map.unchecked_advise_range(advice, bytes.start, bytes.len())
        };
    }
}
