//! One GPU: its context, the streams that work goes to, and what code for it is made with.

use super::context::Context;
use super::driver::{self, Kind};
use super::error::{CudaError, could_not};
use crate::device::DeviceName;
use cudarc::driver::{CudaStream, sys};
use diptych_codegen::cuda::Architecture;
use diptych_codegen::entry::EntryOptions;
use diptych_nvrtc::{Features, Form, KernelCache, Nvrtc, Target};
use std::sync::Arc;

/// Streams beside the main one, for launches that need nothing of one another.
const SIDE_STREAMS: usize = 3;

/// A GPU, real or virtual.
#[derive(Debug)]
pub struct Gpu {
    context: Arc<Context>,
    index: usize,
    stream: Arc<CudaStream>,
    side_streams: Vec<Arc<CudaStream>>,
    name: String,
    target: Target,
    multiprocessors: usize,
    /// Shared memory that a block can have, in bytes.
    shared_bytes: usize,
    is_virtual: bool,
    /// Whether the user wants each launch to end before the next.
    waits: bool,
    nvrtc: Nvrtc,
    cache: KernelCache,
}

impl Gpu {
    /// The NVIDIA GPU of this number, as the driver counts them.
    ///
    /// # Errors
    /// When there is no such GPU, no driver, no NVRTC, or one of them is too old.
    pub fn open(index: usize) -> Result<Gpu, CudaError> {
        driver::load(Kind::Nvidia)?;
        let gpu = Self::of(index, false)?;
        driver::check_code(driver::version()?, gpu.nvrtc_major(), &gpu.nvrtc.version())?;
        Ok(gpu)
    }

    /// A virtual GPU of this architecture. The process then has no other.
    ///
    /// # Errors
    /// When its library is not found, NVRTC is missing, or the process has another driver already.
    pub fn open_virtual(target: Target) -> Result<Gpu, CudaError> {
        driver::load(Kind::Virtual(target))?;
        let gpu = Self::of(0, true)?;
        match gpu.target == target {
            true => Ok(gpu),
            false => {
                let asked = Kind::Virtual(target).to_string();
                Err(CudaError::Fixed { first: Kind::Virtual(gpu.target).to_string(), asked })
            }
        }
    }

    fn of(index: usize, is_virtual: bool) -> Result<Gpu, CudaError> {
        let count = driver::count()?;
        if index >= count {
            return Err(CudaError::NoDevice { index, count });
        }
        let context = Context::of(index)?;
        let cuda = context.cuda();
        let name = cuda.name().map_err(could_not("name the GPU"))?;
        let (major, minor) = cuda.compute_capability().map_err(could_not("tell what the GPU is"))?;
        if major < 8 {
            let capability = format!("{major}.{minor}");
            return Err(CudaError::GpuTooOld { index, name, capability });
        }
        let attribute = |attribute| -> Result<usize, CudaError> {
            let number = cuda.attribute(attribute).map_err(could_not("tell what the GPU is"))?;
            Ok(usize::try_from(number).unwrap_or(0))
        };
        use sys::CUdevice_attribute as Attribute;
        let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(1);
        let shared_bytes = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let target = target_of(major, minor);
        let needed = architecture(target).shared_bytes();
        if shared_bytes < needed {
            return Err(CudaError::GpuTooSmall { index, name, found: shared_bytes, needed });
        }
        let new_stream = || cuda.new_stream().map_err(could_not("make a stream"));
        Ok(Gpu {
            index,
            stream: new_stream()?,
            side_streams: (0..SIDE_STREAMS).map(|_| new_stream()).collect::<Result<_, _>>()?,
            name,
            target,
            multiprocessors,
            shared_bytes,
            is_virtual,
            waits: std::env::var_os("CUDA_LAUNCH_BLOCKING").is_some_and(|value| value == "1"),
            nvrtc: Nvrtc::find()?,
            cache: KernelCache::standard(),
            context,
        })
    }

    fn nvrtc_major(&self) -> i32 {
        self.nvrtc.version().split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0)
    }

    /// What it is, as the driver names it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What code is compiled for.
    pub fn target(&self) -> Target {
        self.target
    }

    /// The name that users give it.
    pub fn device_name(&self) -> DeviceName {
        match self.is_virtual {
            true => DeviceName::Virtual(self.target),
            false => DeviceName::Cuda(self.index),
        }
    }

    /// What code is generated for.
    pub(crate) fn options(&self) -> EntryOptions {
        EntryOptions::cuda(architecture(self.target))
    }

    /// Its multiprocessors.
    pub fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    /// In which form it takes code: a virtual GPU executes PTX.
    pub fn form(&self) -> Form {
        if self.is_virtual { Form::Ptx } else { Form::Cubin }
    }

    /// Free and total bytes of its memory.
    ///
    /// # Errors
    /// When the GPU is lost.
    pub fn memory(&self) -> Result<(usize, usize), CudaError> {
        self.context.cuda().mem_get_info().map_err(could_not("tell how much memory is free"))
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(super) fn shared_bytes(&self) -> usize {
        self.shared_bytes
    }

    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    pub(super) fn side_streams(&self) -> &[Arc<CudaStream>] {
        &self.side_streams
    }

    pub(super) fn is_virtual(&self) -> bool {
        self.is_virtual
    }

    pub(super) fn waits(&self) -> bool {
        self.waits
    }

    pub(super) fn compiler(&self) -> (&Nvrtc, &KernelCache) {
        (&self.nvrtc, &self.cache)
    }
}

/// What code is written for, given what it is compiled for.
fn architecture(target: Target) -> Architecture {
    match target {
        Target { capability: 90, features: Features::Architecture } => Architecture::Sm90a,
        Target { capability: 100, features: Features::Architecture } => Architecture::Sm100a,
        // What else came after has no instruction of these alone, and all of sm_80.
        _ => Architecture::Sm80,
    }
}

/// The target of a compute capability. From 9.0 on there are instructions of each architecture alone, and code need run
/// nowhere else.
fn target_of(major: i32, minor: i32) -> Target {
    let features = if major >= 9 { Features::Architecture } else { Features::Portable };
    Target { capability: (major * 10 + minor).unsigned_abs(), features }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_for_the_very_gpu() {
        let of = |major, minor| target_of(major, minor).to_string();
        assert_eq!([of(8, 0), of(8, 9), of(9, 0), of(10, 0)], ["sm_80", "sm_89", "sm_90a", "sm_100a"]);
    }
}
