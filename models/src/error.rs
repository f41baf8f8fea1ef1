//! What can be wrong with an architecture, its configuration or its files.

use diptych_ir::IrError;
use std::path::PathBuf;

/// What is wrong, where, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The definition of a model does not fit together; names the user's line.
    #[error(transparent)]
    Graph(#[from] IrError),
    /// A configuration has a field that is unknown, missing, or has a value
    /// that does not fit the others.
    #[error("configuration of `{family}`: {problem}")]
    Config {
        /// The family of architectures.
        family: String,
        /// Which field, and what would be right.
        problem: String,
    },
    /// No family or preset of this name.
    #[error("no {what} `{name}`; there are: {known}")]
    Unknown {
        /// What was looked for: a family, a preset, a parameter.
        what: &'static str,
        /// The name given.
        name: String,
        /// Names that would be right.
        known: String,
    },
    /// A file cannot be read, written, or used for this model.
    #[error("{}: {problem}", .path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl ModelError {
    /// An error in a configuration.
    pub fn config(family: &str, problem: impl Into<String>) -> ModelError {
        ModelError::Config { family: family.to_owned(), problem: problem.into() }
    }

    /// An error about a file.
    pub fn file(path: impl Into<PathBuf>, problem: impl Into<String>) -> ModelError {
        ModelError::File { path: path.into(), problem: problem.into() }
    }
}

/// Shorthand for results of this crate.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;
