//! GGUF, the file format of llama.cpp: metadata by key, tensors by name, and what the bits of their
//! number formats mean. Knows nothing of models, tokenizers or graphs.
//!
//! A file is a header and data: the magic `GGUF`, a version, the number of tensors and of metadata,
//! the metadata, a row for each tensor (name, dimensions, format, offset), and from the next multiple
//! of the alignment on the tensors' bytes. All is little-endian.
//!
//! Files are mapped, not read. All that a header claims is checked against the length of the file
//! when it is opened, so that no later access can leave it.

mod cursor;
mod error;
mod file;
mod format;
mod metadata;

pub use error::GgufError;
pub use file::{File, TensorInfo};
pub use format::{Format, Reader, format_name};
