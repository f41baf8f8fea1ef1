//! What can go wrong between text and tokens. Each message says what was wrong, where, and what
//! would be right. Knows no terminal and no exit code.

use std::path::{Path, PathBuf};

/// An error of this crate. Nothing is overwritten when one is returned.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The path given as data does not exist.
    #[error("no file or folder at {}: give the path of a text file, or of a folder with text or code", .path.display())]
    Missing {
        /// The path that was given.
        path: PathBuf,
    },
    /// A file given by name is not UTF-8.
    #[error("{} is not UTF-8 text: byte {offset} starts no valid character; convert it, for example with `iconv -t UTF-8`", .path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The first byte that belongs to no valid character, counted from 0.
        offset: usize,
    },
    /// Nothing was left to train on.
    #[error("no text in {place}: {found}; at least one non-empty UTF-8 file is needed")]
    NoText {
        /// The file or folder, or the words for the dependencies.
        place: String,
        /// What was found instead.
        found: String,
    },
    /// The dependencies' sources could not be listed.
    #[error(
        "the sources of the project's dependencies, which are the text used when none is named, could not be listed: {problem}; use --data PATH to name a text"
    )]
    Dependencies {
        /// What cargo said.
        problem: String,
    },
    /// A share of documents that cannot be held out.
    #[error("cannot hold out a share of {share}: it must lie between 0 and 1, both excluded")]
    Share {
        /// The share that was asked for.
        share: f64,
    },
    /// A split needs documents on both sides.
    #[error(
        "the text has only {documents} document: at least 2 are needed, one to train on and one to hold out; give a longer text or more files"
    )]
    TooFewDocuments {
        /// How many there are.
        documents: usize,
    },
    /// Too little text for one training sequence.
    #[error("{path}: {tokens} tokens are too few for sequences of {time} tokens and the one that follows; give more text or a smaller time", path = .path.display())]
    TooFewTokens {
        /// The token file.
        path: PathBuf,
        /// Tokens in it.
        tokens: usize,
        /// The sequence length that was asked for.
        time: usize,
    },
    /// A vocabulary that cannot be trained.
    #[error(
        "a vocabulary of {size} tokens cannot be trained: a byte-level vocabulary has at least {least} (256 bytes and end of text) and at most {most}"
    )]
    VocabularySize {
        /// The size that was asked for.
        size: usize,
        /// The least size.
        least: usize,
        /// The largest size.
        most: usize,
    },
    /// A tokenizer file that cannot be used.
    #[error("{}: not a usable tokenizer file: {problem}", .path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What was wrong and what would be right.
        problem: String,
    },
    /// The tokenizer refused a text or tokens.
    #[error("the tokenizer failed on {what}: {problem}")]
    Encoding {
        /// The document or the call.
        what: String,
        /// What it said.
        problem: String,
    },
    /// The vocabulary has no token that ends a text.
    #[error(
        "the vocabulary has no end-of-text token, which separates documents: name its id, as in eos_token_id of the model's config.json"
    )]
    NoEndOfText,
    /// An id that the vocabulary does not have.
    #[error("token {id} is not in the vocabulary, which has {size} tokens")]
    UnknownToken {
        /// The id.
        id: u32,
        /// The size of the vocabulary.
        size: usize,
    },
    /// A token file that is not one, or is damaged.
    #[error("{}: {problem}; delete it, and it will be made again from the text", .path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// What was wrong.
        problem: String,
    },
    /// Losses that cannot be compared.
    #[error("the two losses were not taken over the same documents: {problem}")]
    NotPaired {
        /// Where they differ.
        problem: String,
    },
    /// The system refused to read or write.
    #[error("cannot {doing} {}: {source}", .path.display())]
    Io {
        /// The verb: read, write, list.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl DataError {
    /// For `map_err`: the same system error, with what was being done and to which path.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> DataError {
        let path = path.to_path_buf();
        move |source| DataError::Io { doing, path, source }
    }
}
