//! Devices, executor, parameters, checkpoints, the training loop and decoding.
//!
//! This crate runs what the compiler made; it never rewrites a graph.

pub mod blocking;
pub mod checkpoint;
pub mod cpu;
pub mod cuda;
pub mod decode;
pub mod device;
pub mod executor;
pub mod files;
pub mod metrics;
pub mod sampling;
pub mod schedule;
pub mod session;
pub mod train;
