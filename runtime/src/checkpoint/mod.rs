//! Named tensors on disk, in the safetensors format: written whole or not at all, read by memory map, checked first.
//! Must not know of graphs or layouts: tensors come and go as bytes in the order of their axes in the file.

mod error;
mod read;
mod run_state;
mod shards;
mod write;

pub use error::CheckpointError;
pub use read::{Checkpoint, TensorView};
pub use run_state::{RunState, keys};
pub use safetensors::Dtype;
pub use shards::TensorFiles;
pub use write::{CheckpointWriter, TensorSpec};

/// How a tensor's type and shape are told to people: `BF16 [32000, 288]`.
fn describe(dtype: Dtype, shape: &[usize]) -> String {
    format!("{dtype} {shape:?}")
}

/// Bytes of a tensor, if they can be counted and are whole.
fn byte_count(dtype: Dtype, shape: &[usize]) -> Option<usize> {
    let elements = shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size))?;
    let bits = elements.checked_mul(dtype.bitsize())?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

#[cfg(test)]
mod tests;
