//! Devices: the CPU, NVIDIA GPUs, virtual GPUs; how users name them, and what the rest of the crate asks of one.

use crate::blocking;
use crate::cpu::compile::{Compiler, KernelCache};
use crate::cpu::pool::Pool;
use crate::cuda::{Gpu, GpuExecutable, GpuKernels};
use crate::executor::{
    CacheRooms, CacheSize, CpuExecutable, Executable, Kernels, MemoryBound, ParameterStore, SharedMemory,
    Workspace, load_kernels,
};
use crate::session::SessionError;
use diptych_codegen::c::prelude::{Blocking, VectorWidth};
use diptych_codegen::entry::{CompiledEntry, EntryOptions, Limits};
use diptych_nvrtc::Target;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A device by the name that users give it: `cpu`, `cuda`, `cuda:1`, `virtual:sm_80`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DeviceName {
    /// `cpu`: this machine's processor.
    #[default]
    Cpu,
    /// `cuda:N`: the NVIDIA GPU of this number; `cuda` is the first.
    Cuda(usize),
    /// `virtual:ARCHITECTURE`: GPU code of an architecture, executed on the processor with checks.
    Virtual(Target),
}

/// The architectures of virtual GPUs.
pub const VIRTUAL: [Target; 3] = [Target::SM_80, Target::SM_90A, Target::SM_100A];

/// A name that is no device's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "`{0}` is no device: write cpu, cuda or cuda:N for an NVIDIA GPU, virtual:sm_80, virtual:sm_90a or virtual:sm_100a"
)]
pub struct NoSuchDevice(String);

impl FromStr for DeviceName {
    type Err = NoSuchDevice;

    fn from_str(name: &str) -> Result<DeviceName, NoSuchDevice> {
        let none = || NoSuchDevice(name.to_owned());
        match name.split_once(':') {
            None if name == "cpu" => Ok(DeviceName::Cpu),
            None if name == "cuda" => Ok(DeviceName::Cuda(0)),
            Some(("cuda", number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                number.parse().map(DeviceName::Cuda).map_err(|_| none())
            }
            Some(("virtual", target)) => {
                let target: Target = target.parse().map_err(|_| none())?;
                VIRTUAL.contains(&target).then_some(DeviceName::Virtual(target)).ok_or_else(none)
            }
            _ => Err(none()),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceName::Cpu => f.write_str("cpu"),
            DeviceName::Cuda(index) => write!(f, "cuda:{index}"),
            DeviceName::Virtual(target) => write!(f, "virtual:{target}"),
        }
    }
}

/// The CPU: threads, compiler and vector width.
pub struct Cpu {
    /// The threads.
    pub pool: Pool,
    /// The C compiler.
    pub compiler: Compiler,
    /// Where compiled kernels are kept.
    pub cache: KernelCache,
    /// The vector width that code is generated for.
    pub width: VectorWidth,
    /// The blocks in which contractions are computed.
    pub blocking: Blocking,
}

impl Cpu {
    /// This machine's CPU with so many threads (all cores that the process may use, if `None`). The first time it takes
    /// some seconds to find out which blocks are the fastest here, see [`crate::blocking`].
    ///
    /// # Errors
    /// When there is no C compiler, threads cannot be started, or the environment names no width that can be run.
    pub fn new(threads: Option<usize>) -> Result<Cpu, SessionError> {
        let threads = threads.unwrap_or_else(crate::cpu::default_threads).max(1);
        let (pool, compiler) = (Pool::new(threads)?, Compiler::find()?);
        let (cache, width) = (KernelCache::standard(), VectorWidth::chosen()?);
        let blocking = blocking::fastest(&pool, &compiler, &cache, width);
        Ok(Cpu { pool, compiler, cache, width, blocking })
    }
}

/// What programs run on.
pub enum Device {
    /// The CPU.
    Cpu(Cpu),
    /// A GPU, real or virtual.
    Gpu(Arc<Gpu>),
}

/// Kernels loaded on a device.
pub enum DeviceKernels {
    /// On the CPU.
    Cpu(Kernels),
    /// On a GPU.
    Gpu(GpuKernels),
}

impl Device {
    /// This machine's CPU: see [`Cpu::new`].
    ///
    /// # Errors
    /// As said there.
    pub fn cpu(threads: Option<usize>) -> Result<Device, SessionError> {
        Ok(Device::Cpu(Cpu::new(threads)?))
    }

    /// The device of a name; if it is the CPU, with so many threads.
    ///
    /// # Errors
    /// As of [`Cpu::new`], [`Gpu::open`] and [`Gpu::open_virtual`].
    pub fn open(name: DeviceName, threads: Option<usize>) -> Result<Device, SessionError> {
        Ok(match name {
            DeviceName::Cpu => Device::cpu(threads)?,
            DeviceName::Cuda(index) => Device::Gpu(Arc::new(Gpu::open(index)?)),
            DeviceName::Virtual(target) => Device::Gpu(Arc::new(Gpu::open_virtual(target)?)),
        })
    }

    /// Its name.
    pub fn name(&self) -> DeviceName {
        match self {
            Device::Cpu(_) => DeviceName::Cpu,
            Device::Gpu(gpu) => gpu.device_name(),
        }
    }

    /// The CPU, if it is that.
    pub fn as_cpu(&self) -> Option<&Cpu> {
        match self {
            Device::Cpu(cpu) => Some(cpu),
            Device::Gpu(_) => None,
        }
    }

    /// How many share the work of a run: threads, or multiprocessors.
    pub fn threads(&self) -> usize {
        match self {
            Device::Cpu(cpu) => cpu.pool.threads(),
            Device::Gpu(gpu) => gpu.multiprocessors(),
        }
    }

    /// What code is generated for.
    pub fn options(&self) -> EntryOptions {
        match self {
            Device::Cpu(cpu) => EntryOptions::new(cpu.width.panel(), cpu.blocking.rows, cpu.pool.threads()),
            Device::Gpu(gpu) => gpu.options(),
        }
    }

    /// What an entry will take, before anything is taken, with caches of this size, if it has any.
    pub fn memory_bound(&self, entry: &CompiledEntry, limits: Limits, cache: CacheSize) -> MemoryBound {
        match self {
            Device::Cpu(cpu) => {
                CpuExecutable::memory_bound(entry, limits, cache, cpu.pool.threads(), cpu.width)
            }
            Device::Gpu(gpu) => GpuExecutable::memory_bound(gpu, entry, limits, cache),
        }
    }

    /// Room for entries that take so much, one of them at a time.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn workspace(
        &self,
        entries: impl IntoIterator<Item = MemoryBound>,
    ) -> Result<Arc<Workspace>, SessionError> {
        Ok(match self {
            Device::Cpu(_) => Workspace::new(entries)?,
            Device::Gpu(gpu) => Workspace::on(gpu, entries)?,
        })
    }

    /// Rooms of this size for every cache and every state of an entry.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn caches(&self, entry: &CompiledEntry, size: CacheSize) -> Result<CacheRooms, SessionError> {
        Ok(match self {
            Device::Cpu(_) => CacheRooms::new(entry, size)?,
            Device::Gpu(gpu) => CacheRooms::on(gpu, entry, size)?,
        })
    }

    /// Compiles and loads the kernels of entries.
    ///
    /// # Errors
    /// When a compiler is missing, or refuses a kernel.
    pub(crate) fn kernels<'e>(
        &self,
        entries: impl Iterator<Item = &'e CompiledEntry>,
    ) -> Result<DeviceKernels, SessionError> {
        Ok(match self {
            Device::Cpu(Cpu { pool, compiler, cache, width, blocking }) => {
                let texts = entries.flat_map(|entry| &entry.kernels);
                DeviceKernels::Cpu(load_kernels(texts, *width, *blocking, compiler, cache, pool.threads())?)
            }
            Device::Gpu(gpu) => DeviceKernels::Gpu(GpuKernels::of_entries(gpu, entries)?),
        })
    }

    /// Loads an entry for sequences of at most `context` positions.
    ///
    /// # Errors
    /// When memory is short, or the entry asks for what is not there.
    pub(crate) fn load(
        &self,
        entry: &CompiledEntry,
        kernels: &DeviceKernels,
        store: &ParameterStore,
        shared: SharedMemory<'_>,
        limits: Limits,
        context: usize,
    ) -> Result<Executable, SessionError> {
        match (self, kernels) {
            (Device::Cpu(cpu), DeviceKernels::Cpu(kernels)) => {
                let threads = cpu.pool.threads();
                let entry = CpuExecutable::load(entry, kernels, store, shared, limits, threads, cpu.width)?;
                Ok(Executable::Cpu(Box::new(entry)))
            }
            (Device::Gpu(gpu), DeviceKernels::Gpu(kernels)) => {
                let entry = GpuExecutable::load(gpu, entry, kernels, store, shared, limits, context)?;
                Ok(Executable::Gpu(Box::new(entry)))
            }
            _ => Err(SessionError::OtherDevice(self.name())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_they_are_written() {
        for (name, device) in [
            ("cpu", DeviceName::Cpu),
            ("cuda:0", DeviceName::Cuda(0)),
            ("cuda:12", DeviceName::Cuda(12)),
            ("virtual:sm_80", DeviceName::Virtual(Target::SM_80)),
            ("virtual:sm_90a", DeviceName::Virtual(Target::SM_90A)),
            ("virtual:sm_100a", DeviceName::Virtual(Target::SM_100A)),
        ] {
            assert_eq!(name.parse(), Ok(device));
            assert_eq!(device.to_string(), name);
        }
        assert_eq!("cuda".parse(), Ok(DeviceName::Cuda(0)));
    }

    #[test]
    fn what_is_no_device_is_refused_with_what_would_be_right() {
        for name in
            ["", "gpu", "cpu:0", "cuda:", "cuda:-1", "cuda:+1", "cuda:x", "virtual", "virtual:sm_100", "CUDA"]
        {
            let error = name.parse::<DeviceName>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{name}`")) && error.contains("cuda:N"), "{error}");
        }
    }
}
