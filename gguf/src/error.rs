//! What can be wrong with a file.

use std::path::PathBuf;

/// What is wrong with which file, and what would be right.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", .path.display())]
pub struct GgufError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

/// Shorthand for results of this crate.
pub(crate) type Result<T, E = GgufError> = std::result::Result<T, E>;
