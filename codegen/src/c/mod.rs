//! The C back end: tile programs become C text for the system's compiler.
//! What every generated file begins with is in `prelude`.
//! Nothing here knows of graphs or ops.

pub mod prelude;
