//! NVIDIA GPUs, and virtual ones, as devices: the driver through cudarc, kernels through NVRTC, memory, and entries as
//! graphs of launches. Nothing here knows of graphs of ops, files or layouts.

mod buckets;
mod context;
mod driver;
mod error;
mod executable;
mod gpu;
mod kernels;
mod maps;
mod memory;
mod parameters;
mod staging;
mod timing;
mod virtual_gpu;
mod walk;

pub use error::CudaError;
pub use executable::GpuExecutable;
pub use gpu::Gpu;
pub use kernels::GpuKernels;
pub use memory::DeviceBytes;
pub(crate) use parameters::GpuParameters;
