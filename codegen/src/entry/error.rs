//! Why a program cannot be compiled: what each stage refuses. It decides nothing.

use crate::cuda::{CudaError, SameBitsError};
use crate::lower::LowerError;
use diptych_ir::IrError;
use diptych_passes::algebra::AlgebraError;
use diptych_passes::fuse::FuseError;

/// Why an entry cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The graph is not well formed.
    #[error(transparent)]
    Ir(#[from] IrError),
    /// The algebra refuses it.
    #[error(transparent)]
    Algebra(#[from] AlgebraError),
    /// It cannot be divided into kernels.
    #[error(transparent)]
    Fuse(#[from] FuseError),
    /// A group cannot be lowered.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// A kernel cannot be written for a GPU.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// Entries would add up a sum in different ways.
    #[error(transparent)]
    SameBits(#[from] SameBitsError),
    /// Its values cannot be given buffers.
    #[error("cannot plan entry `{entry}`: {problem}")]
    Plan {
        /// The entry.
        entry: String,
        /// What was wrong.
        problem: String,
    },
    /// It could be compiled, but will not do: why.
    #[error("{0}")]
    Unfit(String),
}
