//! The zoo: one file an architecture, each with its configuration, its
//! definition, its presets and its table of Hugging Face names.

mod attention;
mod config;
mod gpt2;
mod hybrid;
mod llama;
mod mla;
mod moe;
mod published;

pub use gpt2::Gpt2;
pub use hybrid::{Hybrid, Recurrence};
pub use llama::Llama;
pub use mla::Mla;
pub use moe::{LatentAttention, Moe, Scores};
pub use published::{Published, published};

use crate::Family;

/// All families of the zoo.
pub(crate) fn families() -> Vec<Family> {
    vec![gpt2::family(), hybrid::family(), llama::family(), mla::family(), moe::family()]
}
