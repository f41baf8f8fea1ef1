//! The zoo: one file an architecture, each with its configuration, its
//! definition, its presets and its table of Hugging Face names.

mod config;
mod llama;

pub use llama::Llama;

use crate::Family;

/// All families of the zoo.
pub(crate) fn families() -> Vec<Family> {
    vec![llama::family()]
}
