//! What a command fails with: one message that names the thing and what would
//! be right. Every error of the libraries becomes one; what they mean is the
//! libraries' business.

/// A message for the user, printed after `error: `.
#[derive(Debug)]
pub struct Failure(pub String);

impl Failure {
    /// A failure of the command line's own.
    pub fn new(message: impl Into<String>) -> Failure {
        Failure(message.into())
    }
}

/// Not for `Failure` itself, which for this reason is no `Error`.
impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure(error.to_string())
    }
}

/// Says what was being done, to which path, when the system refused.
pub fn file_failure(doing: &str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Failure {
    let path = path.display().to_string();
    let doing = doing.to_owned();
    move |error| Failure(format!("cannot {doing} {path}: {error}"))
}

/// Shorthand for results of this crate.
pub type Result<T, E = Failure> = std::result::Result<T, E>;
