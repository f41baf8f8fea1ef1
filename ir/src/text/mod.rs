//! The text form of a program: what a person reads in a report, and what a test
//! states. Each op says how its own attributes read (`Operator::attributes`,
//! `Operator::parse`); nothing here knows one op from another.
//!
//! ```text
//! program tiny
//! size batch from 1 to 64
//! param embedding: f32[vocabulary=100, embed=8] normal 0.02 decay
//! state gradient.embedding: f32[embed=8, vocabulary=100]
//!
//! region @0 main {
//!   axes [batch, embed, vocabulary]
//!   %0: i32[batch] = input tokens
//!   %1: f32[embed=8, vocabulary=100] = param embedding
//!   %2: f32[batch, embed=8] = take(%1, %0) along vocabulary=100  # embedding.row
//!   results [%2]
//! }
//!
//! entry score {
//!   root row %2
//! }
//! ```
//!
//! A parameter says how it starts and how a step changes it: `decay` is AdamW with weight decay,
//! `sign_descent 0.001` goes by that much against the sign of the gradient, nothing is AdamW without decay.
//! A parameter's axes stand in the order in which the user declared them. `#`
//! gives a node its label; `//` starts a comment. Names that are not plain words
//! are quoted. The user's source lines are not part of the text.

mod parser;
mod printer;
mod reader;
mod token;

pub use parser::parse;
pub use printer::print;
pub use reader::Reader;

use crate::{Axis, Size, Symbol, TensorType};

/// A name as it stands in a text: quoted if it is not a plain word.
pub(crate) fn name(symbol: Symbol) -> String {
    let text = symbol.as_str();
    if text.starts_with(token::starts_word) && text.chars().all(token::continues_word) {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => quoted += &format!("\\u{{{:x}}}", u32::from(control)),
            other => quoted.push(other),
        }
    }
    quoted + "\""
}

/// An axis as it stands in a text: `batch`, `embed=288` or `past=time`.
pub(crate) fn axis(axis: Axis) -> String {
    match axis.size {
        Size::Fixed(size) => format!("{}={size}", name(axis.name)),
        Size::Symbolic(symbol) if symbol == axis.name => name(symbol),
        Size::Symbolic(symbol) => format!("{}={}", name(axis.name), name(symbol)),
    }
}

/// Items as they stand in a text: `[first, second]`.
pub(crate) fn list<T: Copy>(items: &[T], item: impl Fn(T) -> String) -> String {
    let items: Vec<String> = items.iter().map(|&each| item(each)).collect();
    format!("[{}]", items.join(", "))
}

/// A type as it stands in a text: `f32[batch, embed=288]`.
pub(crate) fn ty(ty: &TensorType) -> String {
    format!("{}{}", ty.dtype, list(&ty.axes, axis))
}

/// A number as it stands in a text: the shortest decimal that reads back to the
/// same bits, or the bits themselves where there is none (NaN).
pub(crate) fn number(value: f64) -> String {
    if value.is_nan() { format!("0x{:016x}", value.to_bits()) } else { format!("{value:?}") }
}
