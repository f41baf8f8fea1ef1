//! Graph to graph: differentiation, algebra, layout, fusion and planning.

pub mod algebra;
pub mod caches;
pub mod differentiate;
pub mod fuse;
pub mod layout;
pub mod micro_batches;
pub mod narrow_weights;
pub mod normalize;
pub mod optimizer;
pub mod plan;
pub mod rematerialize;
pub mod simplify;
pub mod step;
pub mod weight_blocks;

pub use differentiate::differentiate;
pub use micro_batches::add_accumulate;
pub use optimizer::{AdamWOptions, add_adamw};
pub use simplify::simplify;
pub use step::{add_step, keep_step_alone};

#[cfg(test)]
mod test_net;
#[cfg(test)]
mod test_support;
