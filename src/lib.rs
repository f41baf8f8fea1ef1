//! Diptych: an architecture is written once and compiled once; the program both
//! pretrains the model and serves it.
pub use diptych_ir as ir;
