//! Everything that can be wrong with a file of tensors, each with the file, the tensor, and what would be right.

use std::io;
use std::path::PathBuf;

use super::{Dtype, describe};
use crate::files::FileError;

/// Why tensors could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file could not be opened or read.
    #[error("could not {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file could not be written; the old one is as it was.
    #[error(transparent)]
    Write(#[from] FileError),
    /// The folder holds no model in a form that we know.
    #[error(
        "{} holds no weights: expected model.safetensors, model.safetensors.index.json or one file *.safetensors, found {found}",
        path.display()
    )]
    NoWeights {
        /// The folder.
        path: PathBuf,
        /// Which `.safetensors` files there are.
        found: String,
    },
    /// The file ends before its header or its data does.
    #[error("{} is truncated: {found} bytes, but {what} needs {expected}", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
        /// Bytes in the file.
        found: u64,
        /// Bytes that it must have at least.
        expected: u64,
    },
    /// The header is not what the format says.
    #[error("{} is not a safetensors file: {cause}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// A data type that the format does not have.
    #[error("{}: tensor `{tensor}` has the unknown dtype {found}; expected one of F32, BF16, F16, F64, I32, I64, U64, U8, …", path.display())]
    UnknownDtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What stands there.
        found: String,
    },
    /// The byte range of a tensor has another length than its shape and dtype take.
    #[error(
        "{}: tensor `{tensor}` of {} takes {expected}, but its range {}..{} has {} bytes",
        path.display(), .described, range.0, range.1, range.1.saturating_sub(range.0)
    )]
    WrongLength {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its dtype and shape in words.
        described: String,
        /// How many bytes that takes, in words.
        expected: String,
        /// Where the header says that they are.
        range: (u64, u64),
    },
    /// Two tensors share bytes.
    #[error(
        "{}: tensors `{first}` and `{second}` overlap: bytes {}..{} and {}..{}",
        path.display(), first_range.0, first_range.1, second_range.0, second_range.1
    )]
    Overlap {
        /// The file.
        path: PathBuf,
        /// The one that begins first.
        first: String,
        /// Its bytes.
        first_range: (u64, u64),
        /// The other.
        second: String,
        /// Its bytes.
        second_range: (u64, u64),
    },
    /// Bytes of the file belong to no tensor.
    #[error("{}: bytes {}..{} of the data belong to no tensor (before {before}); expected no gaps", path.display(), range.0, range.1)]
    Gap {
        /// The file.
        path: PathBuf,
        /// What comes after the gap.
        before: String,
        /// The bytes.
        range: (u64, u64),
    },
    /// A tensor is not there.
    #[error("{} has no tensor `{tensor}`{nearest}", path.display())]
    Missing {
        /// The file, or the index of the files.
        path: PathBuf,
        /// The tensor asked for.
        tensor: String,
        /// The most similar name there, in words.
        nearest: String,
    },
    /// A tensor has another shape than the model's.
    #[error("{}: tensor `{tensor}` has shape {found:?}, expected {expected:?}", path.display())]
    WrongShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// The model's.
        expected: Vec<usize>,
    },
    /// A tensor has another dtype than it can be used as.
    #[error("{}: tensor `{tensor}` has dtype {found}, expected {expected}", path.display())]
    WrongDtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its dtype.
        found: Dtype,
        /// What it can be used as.
        expected: String,
    },
    /// The index of a model in several files is not what it must be.
    #[error("{} is not an index of safetensors files: {cause}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// A file lacks metadata, or has what cannot be read.
    #[error("{}: metadata `{key}` {cause}", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with it, and what would be right.
        cause: String,
    },
    /// The checkpoint is of another architecture.
    #[error("{} was saved by a model of another architecture: fingerprint {found}, expected {expected}", path.display())]
    OtherArchitecture {
        /// The file.
        path: PathBuf,
        /// The fingerprint in the file.
        found: String,
        /// The model's.
        expected: String,
    },
    /// The writer was used against its plan.
    #[error("{}: {cause}", path.display())]
    Plan {
        /// The file.
        path: PathBuf,
        /// What was wrong.
        cause: String,
    },
}

impl CheckpointError {
    pub(super) fn length(
        path: &std::path::Path,
        tensor: &str,
        dtype: Dtype,
        shape: &[usize],
        range: (u64, u64),
    ) -> Self {
        let expected = match super::byte_count(dtype, shape) {
            Some(bytes) => format!("{bytes} bytes"),
            None => "no whole, countable number of bytes".into(),
        };
        let (path, tensor) = (path.to_path_buf(), tensor.into());
        CheckpointError::WrongLength { path, tensor, described: describe(dtype, shape), expected, range }
    }
}
