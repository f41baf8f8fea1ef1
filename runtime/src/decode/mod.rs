//! Serving: prompts to logits, one token after the other, and the
//! log-probabilities of given text, at any batch size, with one cache for all
//! sequences. It knows no tokenizer and no terminal.

mod chunks;
mod generate;
mod memory;
mod server;

pub use generate::{Generation, Outcome, generate};
pub use memory::ServeMemory;
pub use server::{SERVING, SequenceId, ServeOptions, Server, Window};

use crate::sampling::SamplingError;
use crate::session::SessionError;

/// Why something cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// An entry cannot be loaded, or was not compiled.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// An entry is not what a server can serve.
    #[error("entry `{entry}` cannot be served: {problem}")]
    Entry {
        /// The entry.
        entry: &'static str,
        /// Which input or root is missing or has another size, and what would be right.
        problem: String,
    },
    /// A size of the options makes no sense.
    #[error("`{option}` is {found}; it must be {expected}")]
    Option {
        /// The option.
        option: &'static str,
        /// What it was.
        found: usize,
        /// What would be right.
        expected: String,
    },
    /// Longer than the model allows.
    #[error(
        "sequence {sequence} would be {length} tokens long; the model's context is {context}: \
         give it less text, or ask for fewer tokens"
    )]
    Context {
        /// Position of the sequence in the call.
        sequence: usize,
        /// Its length with what it was to be given.
        length: usize,
        /// The longest allowed.
        context: usize,
    },
    /// No room for more positions.
    #[error(
        "the cache is full: sequence {sequence} needs room for {needed} more positions, and of {total} positions \
         {free} are free; release a sequence, or serve with a larger cache"
    )]
    CacheFull {
        /// Position of the sequence in the call.
        sequence: usize,
        /// Positions that it lacks room for, in whole chunks.
        needed: usize,
        /// Positions that are free.
        free: usize,
        /// Positions of the whole cache.
        total: usize,
    },
    /// As many sequences as there may be.
    #[error("all {0} sequences are in use: release one, or serve with more")]
    Sequences(usize),
    /// More at once than memory was planned for.
    #[error("{found} {what} at once; memory was planned for {most}")]
    TooMany {
        /// What there was too much of.
        what: &'static str,
        /// How much.
        found: usize,
        /// The most allowed.
        most: usize,
    },
    /// A sequence that was not started, or was released.
    #[error("sequence {0} of the call was never started, or was released")]
    Unknown(usize),
    /// A sequence given twice.
    #[error("sequence {0} of the call is there twice; a call takes each sequence once")]
    Twice(usize),
    /// Nothing to do for a sequence.
    #[error("sequence {0} of the call has no token; it needs at least one")]
    Empty(usize),
    /// A window with other than one target a token.
    #[error("window {window} has {tokens} tokens and {targets} targets; it needs one target a token")]
    Targets {
        /// Position of the window in the call.
        window: usize,
        /// Its tokens.
        tokens: usize,
        /// Its targets.
        targets: usize,
    },
    /// An id that the vocabulary does not have.
    #[error("token {token} of sequence {sequence}: the vocabulary has {vocabulary} tokens, from 0 on")]
    Token {
        /// Position of the sequence in the call.
        sequence: usize,
        /// The id.
        token: i32,
        /// How many ids there are.
        vocabulary: usize,
    },
    /// The next token cannot be chosen.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
}
