//! The CPU as a device: native code made by the system's C compiler, and a pool of pinned threads to run it.
//! Knows nothing of graphs, tensors or layouts.

mod affinity;
pub mod compile;
mod float_mode;
pub mod pool;
mod wait;

pub use affinity::{allowed_cores, default_threads};
