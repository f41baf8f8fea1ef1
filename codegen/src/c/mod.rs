//! The C back end: tile programs become C text for the system's compiler.
//! What every generated file begins with is in `prelude`.
//! Nothing here knows of graphs or ops.

mod columns;
mod folds;
mod nest;
mod operations;
pub mod prelude;
mod routing;
mod statements;
pub mod step;
mod writer;

pub use writer::{KernelText, file_text, write};
