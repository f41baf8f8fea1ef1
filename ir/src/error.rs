//! Errors of the graph, told in the architecture's terms: the op, the axes of
//! its operands, and the line of the user's code. It knows no other error.

use std::fmt;
use std::panic::Location;

/// A place in the user's code.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Span {
    /// Source file, as the compiler names it.
    pub file: &'static str,
    /// Line, from 1.
    pub line: u32,
}

impl Span {
    /// The place that called the function marked `#[track_caller]`.
    #[track_caller]
    pub fn caller() -> Span {
        let location = Location::caller();
        Span { file: location.file(), line: location.line() }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// What is wrong with a graph.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum IrError {
    /// An op was given operands that it cannot take.
    #[error("{op}: {problem}{}", place(.span))]
    Type {
        /// The op's name.
        op: String,
        /// What was wrong and what would be right.
        problem: String,
        /// The user's line, where known.
        span: Option<Span>,
    },
    /// The verifier found a program that no pass should have made.
    #[error("invalid program: {0}")]
    Invalid(String),
    /// The reference evaluator lacks a value or a size.
    #[error("cannot evaluate: {0}")]
    Evaluate(String),
    /// A text could not be read as a program.
    #[error("line {line}: {problem}")]
    Parse {
        /// Line of the text, from 1.
        line: usize,
        /// What was wrong and what would be right.
        problem: String,
    },
}

fn place(span: &Option<Span>) -> String {
    span.map(|span| format!(" (at {span})")).unwrap_or_default()
}

impl IrError {
    /// A type error of an op, at no known place.
    pub fn of(op: &str, problem: impl Into<String>) -> IrError {
        IrError::Type { op: op.to_owned(), problem: problem.into(), span: None }
    }

    /// The same error, placed at the user's line if it has no place yet.
    pub fn at(mut self, place: Span) -> IrError {
        if let IrError::Type { span, .. } = &mut self {
            span.get_or_insert(place);
        }
        self
    }
}

/// Shorthand for results of this crate.
pub type Result<T, E = IrError> = std::result::Result<T, E>;
