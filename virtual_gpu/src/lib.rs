//! A virtual GPU: executes PTX, as NVRTC emits it, on the CPU, and checks what no GPU checks.
//!
//! A [`Device`] has memory, loads modules and launches kernels. 32 lanes are driven by one decoded instruction; warps
//! take turns in an order that a seed decides; asynchronous copies land as late as the rules allow. What is wrong ends
//! the launch with a [`Diagnostic`] that names kernel, block, warp, lane, PTX line and source line. What is modelled
//! and what is not stands in `docs/gpu.md`.
//!
//! ```
//! use diptych_virtual_gpu::{Arguments, Configuration, Device, LaunchSizes, Target};
//!
//! let ptx = "
//!     .version 8.0
//!     .target sm_80
//!     .address_size 64
//!     .visible .entry twice(.param .u64 x) {
//!         .reg .b64 %p<3>; .reg .b32 %r<4>;
//!         ld.param.u64 %p0, [x];
//!         mov.u32 %r0, %tid.x;
//!         mul.wide.u32 %p1, %r0, 4;
//!         add.s64 %p2, %p0, %p1;
//!         ld.global.u32 %r1, [%p2];
//!         shl.b32 %r2, %r1, 1;
//!         st.global.u32 [%p2], %r2;
//!         ret;
//!     }";
//! let mut device = Device::new(Target::Sm80, 1 << 20);
//! let module = device.load(ptx)?;
//! let x = device.allocate(4 * 64)?;
//! device.write(x, &[7; 4 * 64])?;
//! let kernel = module.kernel("twice").unwrap();
//! let sizes = LaunchSizes { grid: [1, 1, 1], block: [64, 1, 1], dynamic_shared: 0 };
//! let report = device.launch(kernel, &sizes, Arguments::new().pointer(x).bytes(), &Configuration::default())?;
//! assert_eq!(report.total.load_sector_ratio(), 1.0);
//! let mut first = [0; 4];
//! device.read(x, &mut first)?;
//! assert_eq!(first, [14; 4]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod arguments;
mod clocks;
mod control_flow;
mod counters;
mod decode;
mod device;
mod diagnostic;
mod error;
mod execute;
mod liveness;
mod memory;
mod parse;
mod program;
mod target;
mod tensor_map;

pub use arguments::Arguments;
pub use counters::{Counters, InstructionReport, LaunchReport};
pub use device::{Device, Module};
pub use diagnostic::{Diagnostic, Fault};
pub use error::{LaunchError, LoadError, MemoryError};
pub use execute::{Configuration, LaunchSizes};
pub use parse::{Parameter, SourceLine};
pub use program::Kernel;
pub use target::Target;
pub use tensor_map::{Swizzle, TensorMap};
