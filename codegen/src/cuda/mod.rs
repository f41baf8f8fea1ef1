//! The CUDA back end: tile programs become CUDA C++ text for NVRTC, an instance a thread block, with its tiles in shared
//! memory. The text includes no header: what kernels share is in `prelude`, in `prelude/*.cu`. Nothing here knows of
//! graphs, ops or drivers.

mod addresses;
mod architecture;
mod barriers;
mod boxes;
mod dots;
mod error;
mod exchange;
mod fragment_nests;
mod fragments;
mod held_sums;
mod lifetimes;
mod nest;
mod operations;
mod padding;
mod passes;
mod placement;
mod prelude;
mod ranges;
mod routing;
mod same_bits;
mod statements;
pub mod step;
mod tcgen05;
mod tensor_map;
mod warpgroups;
mod writer;

pub use architecture::Architecture;
pub use error::CudaError;
pub use same_bits::{Compared, SameBitsError, SummedIn, verify_same_bits};
pub use tensor_map::{PIECE_BYTES, ResolvedMap, Swizzle, TensorDim, TensorExtent, TensorMap};
pub use writer::{KernelText, file_text, write};

/// Columns of a packed panel: 128 bytes of bf16, which is a row of the widest swizzle of TMA, and of a wgmma operand.
pub const PANEL: usize = 64;
