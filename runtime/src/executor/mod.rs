//! The executor: runs compiled entries. It resolves buffers to memory once, at
//! load; a run allocates nothing and never compiles. What is here is for the
//! CPU or for all devices; how entries run on a GPU is in [`crate::cuda`].

mod binding;
mod blocks;
mod caches;
mod columns;
mod executable;
mod library;
mod memory;
mod parameters;
mod recording;
pub(crate) mod resolve;
mod run;
mod workspace;

pub use binding::{Binding, BindingError, CacheSize, Sequence};
pub use blocks::{Panels, round_to_blocks};
pub use caches::CacheRooms;
pub use columns::Columns;
pub use executable::{Executable, LoadError, RunError};
pub(crate) use library::kernel_flags;
pub use library::{KernelFn, Kernels, load_kernels};
pub use memory::{AlignedBytes, OutOfMemory, give_back_freed};
pub use parameters::{PART_ELEMENTS, ParameterError, ParameterStore, Stored, parts};
pub use recording::{LaunchTime, Part, RecordedLaunch, Recording, Slice, Span};
pub use run::CpuExecutable;
pub use workspace::{MemoryBound, SharedMemory, Workspace};
