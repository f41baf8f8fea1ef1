//! What the CUDA writer refuses.

/// Why a tile program cannot be written as CUDA.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot write kernel `{kernel}` for a GPU: {problem}")]
pub struct CudaError {
    /// The tile program.
    pub kernel: String,
    /// What it has that no GPU code is written for.
    pub problem: String,
}
