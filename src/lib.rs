//! Diptych: an architecture is written once and compiled once; the program both
//! pretrains the model and serves it.
//!
//! A crate of yours gets the whole command line, with architectures of its own
//! beside the zoo's:
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     let registry = diptych::Registry::zoo();
//!     // registry.register(my_family());
//!     diptych::main(registry)
//! }
//! ```
//!
//! `examples/parallel_block.rs` is such a program; [`guide`] tells how models are written and checked.

mod check;
pub mod guide;

pub use check::{CheckError, Differences, check, reference_context, relative_errors};
pub use diptych_cli::main;
pub use diptych_codegen as codegen;
pub use diptych_cost as cost;
pub use diptych_data as data;
pub use diptych_gguf as gguf;
pub use diptych_ir as ir;
pub use diptych_models as models;
pub use diptych_models::{
    Architecture, Family, Linear, ModelBuilder, ModelError, Precision, Registry, Result, Rope, RopeScaling,
    Tensor, build, parse_config,
};
pub use diptych_passes as passes;
pub use diptych_runtime as runtime;
