//! The executor: runs compiled entries on the CPU. It resolves buffers to
//! memory once, at load; a run allocates nothing and never compiles.

mod binding;
mod blocks;
mod caches;
mod library;
mod memory;
mod parameters;
mod recording;
mod run;
mod workspace;

pub use binding::{Binding, BindingError, CacheSize, Sequence};
pub use blocks::{Panels, round_to_blocks};
pub use caches::CacheRooms;
pub(crate) use library::kernel_flags;
pub use library::{KernelFn, Kernels, load_kernels};
pub use memory::{AlignedBytes, OutOfMemory, give_back_freed};
pub use parameters::{Columns, PART_ELEMENTS, ParameterError, ParameterStore, Stored, parts};
pub use recording::{LaunchTime, Part, RecordedLaunch, Recording, Slice, Span};
pub use run::{Executable, LoadError, SharedMemory};
pub use workspace::{MemoryBound, Workspace};
