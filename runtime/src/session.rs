//! What training, serving and scoring share: a program compiled and loaded on
//! a device with its parameters.

use crate::cpu::compile::{CompileError as CompilerError, CompileStats};
use crate::cpu::pool::PoolError;
use crate::cuda::CudaError;
pub use crate::device::Device;
use crate::device::{DeviceKernels, DeviceName};
use crate::executor::{
    BindingError, CacheRooms, Executable, LoadError, OutOfMemory, ParameterError, ParameterStore, RunError,
    SharedMemory,
};
use diptych_codegen::c::prelude::{WIDTH_VARIABLE, WidthError};
use diptych_codegen::driver::{CompiledProgram, Rewritten, compile_program, compile_rewritten};
use diptych_codegen::entry::{CompileError, Limits};
use diptych_ir::{EntryKind, Program};
use diptych_passes::AdamWOptions;

/// Why a program cannot be compiled, loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The passes or the code generator refuse it.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The C compiler is missing or refuses its code.
    #[error(transparent)]
    Compiler(#[from] CompilerError),
    /// The environment names a vector width that cannot be had.
    #[error("{WIDTH_VARIABLE}: {0}")]
    Width(#[from] WidthError),
    /// Threads cannot be had.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// An entry cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A parameter does not fit.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    /// There is not enough memory.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
    /// The sequences of a run do not fit.
    #[error(transparent)]
    Binding(#[from] BindingError),
    /// There is no GPU to use, or it refuses.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// A run failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The session was loaded on another kind of device.
    #[error("the session was loaded on another kind of device than {0}")]
    OtherDevice(DeviceName),
    /// The session was not compiled for this job.
    #[error("the session has no entry `{0}`: compile it with that entry")]
    NoEntry(&'static str),
}

/// The stage of compile time in which a compiler makes machine code of kernels, or finds it made.
pub const NATIVE_CODE: &str = "native code";

/// A program compiled for some jobs, with its parameters.
pub struct Session {
    /// The compiled program.
    pub compiled: CompiledProgram,
    /// Its kernels.
    pub kernels: DeviceKernels,
    /// Its parameters; states too, if an entry trains.
    pub store: ParameterStore,
    /// The most positions of a sequence.
    pub context: usize,
}

impl Session {
    /// Compiles entries of a program in the form that is chosen by default, with parameters all zero.
    ///
    /// # Errors
    /// When the program cannot be compiled, or memory is short.
    pub fn compile(
        device: &Device,
        program: &Program,
        context: usize,
        kinds: &[EntryKind],
        optimizer: &AdamWOptions,
    ) -> Result<Session, SessionError> {
        Self::load(device, compile_program(program, kinds, optimizer, device.options())?, context)
    }

    /// The same of a program whose form is chosen.
    ///
    /// # Errors
    /// As of [`Session::compile`].
    pub fn compile_rewritten(
        device: &Device,
        rewritten: &Rewritten,
        context: usize,
        kinds: &[EntryKind],
        optimizer: &AdamWOptions,
    ) -> Result<Session, SessionError> {
        Self::load(device, compile_rewritten(rewritten, kinds, optimizer, device.options())?, context)
    }

    /// Compiles the kernels of a program that has been through the passes, with parameters all zero.
    ///
    /// # Errors
    /// When the compiler refuses a kernel, or memory is short.
    pub fn load(
        device: &Device,
        mut compiled: CompiledProgram,
        context: usize,
    ) -> Result<Session, SessionError> {
        let start = std::time::Instant::now();
        let kernels = device.kernels(compiled.entries.values())?;
        compiled.stages.push((NATIVE_CODE.to_owned(), start.elapsed().as_secs_f64()));
        let trains = compiled.entries.keys().copied().any(EntryKind::trains);
        let panel = device.options().panel;
        let mut store = ParameterStore::new(&compiled.program, &compiled.layouts, panel, trains)?;
        if let Device::Gpu(gpu) = device {
            store.copy_to(gpu, &compiled.program)?;
        }
        Ok(Session { compiled, kernels, store, context })
    }

    /// What compiling its kernels took.
    pub fn compile_stats(&self) -> &CompileStats {
        match &self.kernels {
            DeviceKernels::Cpu(kernels) => &kernels.stats,
            DeviceKernels::Gpu(kernels) => &kernels.stats,
        }
    }

    /// An entry with its memory, for runs of at most these sizes. It refers to
    /// the session's parameters and to the caches, which must outlive it.
    ///
    /// # Errors
    /// When the session has no such entry, or memory is short.
    pub fn executable(
        &self,
        device: &Device,
        kind: EntryKind,
        caches: Option<&CacheRooms>,
        limits: Limits,
    ) -> Result<Executable, SessionError> {
        self.executable_in(device, kind, SharedMemory { caches, workspace: None }, limits)
    }

    /// As [`Session::executable`], in a workspace that it shares with others.
    ///
    /// # Errors
    /// As said there, and when the workspace is too small.
    pub fn executable_in(
        &self,
        device: &Device,
        kind: EntryKind,
        shared: SharedMemory<'_>,
        limits: Limits,
    ) -> Result<Executable, SessionError> {
        let entry = self.compiled.entries.get(&kind).ok_or(SessionError::NoEntry(kind.name()))?;
        device.load(entry, &self.kernels, &self.store, shared, limits, self.context)
    }
}
