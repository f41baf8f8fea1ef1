//! CUDA C++ text to PTX or CUBIN, and what the machine code shows: registers, spills, opcodes, the main loop.
//!
//! Neither a GPU nor a driver is needed. NVRTC and nvdisasm are looked for at run time (see [`find_nvrtc`]); where they
//! are missing, errors say how to install them. Nothing here knows what a kernel is for.
//!
//! ```no_run
//! use diptych_nvrtc::{Form, KernelCache, Nvrtc, Target, disassemble};
//!
//! # fn main() -> Result<(), diptych_nvrtc::NvrtcError> {
//! let source = "extern \"C\" __global__ void twice(float* x) { x[threadIdx.x] *= 2.0f; }";
//! let compiled = KernelCache::standard().compile(&Nvrtc::find()?, source, "twice.cu", Target::SM_90A, Form::Cubin)?;
//! assert_eq!(compiled.kernels[0].spill_stores, 0);
//! assert_eq!(disassemble(&compiled.cubin)?[0].count("STG"), 1);
//! # Ok(())
//! # }
//! ```

mod cache;
mod compile;
mod error;
mod library;
mod loops;
mod quote;
mod resources;
mod sass;
mod target;
mod toolkit;

pub use cache::KernelCache;
pub use compile::{Compiled, Form};
pub use error::{NotFound, NvrtcError, Tool};
pub use library::Nvrtc;
pub use loops::MainLoop;
pub use resources::KernelResources;
pub use sass::{KernelCode, disassemble};
pub use target::{Features, Target};
pub use toolkit::{find_nvdisasm, find_nvrtc};
