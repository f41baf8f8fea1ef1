//! An entry ready to run on whichever device it was loaded for: who runs it need not know which.

use super::binding::Binding;
use super::memory::OutOfMemory;
use super::recording::Recording;
use super::run::CpuExecutable;
use super::workspace::MemoryBound;
use crate::cuda::{CudaError, GpuExecutable};
use crate::device::Device;
use diptych_codegen::entry::Limits;
use diptych_ir::DType;

/// Why an entry cannot be loaded.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LoadError {
    /// No memory.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
    /// The entry asks for what is not there.
    #[error("cannot load entry `{entry}`: {problem}")]
    Missing {
        /// The entry.
        entry: String,
        /// What is not there.
        problem: String,
    },
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The device is not the one that the entry was loaded for.
    #[error("the entry was loaded for another kind of device than it is to run on, {0}")]
    OtherDevice(String),
    /// The GPU, or its driver.
    #[error(transparent)]
    Cuda(#[from] CudaError),
}

/// An entry with its memory.
pub enum Executable {
    /// On the CPU.
    Cpu(Box<CpuExecutable>),
    /// On a GPU.
    Gpu(Box<GpuExecutable>),
}

impl Executable {
    /// What it took.
    pub fn bound(&self) -> MemoryBound {
        match self {
            Executable::Cpu(entry) => entry.bound(),
            Executable::Gpu(entry) => entry.bound(),
        }
    }

    /// The largest run that it has room for.
    pub fn limits(&self) -> Limits {
        match self {
            Executable::Cpu(entry) => entry.limits(),
            Executable::Gpu(entry) => entry.limits(),
        }
    }

    /// The elements of an input, to fill before a run; `None` if the entry has no such input.
    pub fn input<T: bytemuck::Pod>(&mut self, name: &str) -> Option<&mut [T]> {
        match self {
            Executable::Cpu(entry) => entry.input(name),
            Executable::Gpu(entry) => entry.input(name),
        }
    }

    /// The elements of an f32 root after a run, a row one after the other. Rows beyond those of the run have any value.
    pub fn root(&self, name: &str) -> Option<&[f32]> {
        self.root_as(DType::F32, name)
    }

    /// The elements of a root of this type: f32, i32, or bytes for bool (0 or 1).
    pub fn root_as<T: bytemuck::Pod>(&self, dtype: DType, name: &str) -> Option<&[T]> {
        match self {
            Executable::Cpu(entry) => entry.root_as(dtype, name),
            Executable::Gpu(entry) => entry.root_as(dtype, name),
        }
    }

    /// Elements of a root for each of its rows.
    pub fn root_width(&self, name: &str) -> Option<usize> {
        match self {
            Executable::Cpu(entry) => entry.root_width(name),
            Executable::Gpu(entry) => entry.root_width(name),
        }
    }

    /// Records the next runs, of which there are at most so many; what was recorded before is dropped.
    pub fn record(&mut self, runs: usize) {
        match self {
            Executable::Cpu(entry) => entry.record(runs),
            Executable::Gpu(entry) => entry.record(runs),
        }
    }

    /// What was recorded since [`Executable::record`], which ends with this; empty if nothing was.
    pub fn take_recording(&mut self) -> Recording {
        match self {
            Executable::Cpu(entry) => entry.take_recording(),
            Executable::Gpu(entry) => entry.take_recording(),
        }
    }

    /// Computes what depends on parameters alone. To be called after parameters change.
    ///
    /// # Errors
    /// As those of [`Executable::run`].
    pub fn refresh(&mut self, device: &Device, binding: &Binding) -> Result<(), RunError> {
        match (self, device) {
            (Executable::Cpu(entry), Device::Cpu(cpu)) => entry.refresh(&cpu.pool, binding),
            (Executable::Gpu(entry), Device::Gpu(_)) => entry.refresh(binding)?,
            _ => return Err(RunError::OtherDevice(device.name().to_string())),
        }
        Ok(())
    }

    /// Runs the entry once. A run of `decode` has one token of each sequence.
    ///
    /// # Errors
    /// When a GPU fails, or parameters were set and not copied there; on the CPU none.
    pub fn run(&mut self, device: &Device, binding: &Binding) -> Result<(), RunError> {
        match (self, device) {
            (Executable::Cpu(entry), Device::Cpu(cpu)) => entry.run(&cpu.pool, binding),
            (Executable::Gpu(entry), Device::Gpu(_)) => entry.run(binding)?,
            _ => return Err(RunError::OtherDevice(device.name().to_string())),
        }
        Ok(())
    }
}
