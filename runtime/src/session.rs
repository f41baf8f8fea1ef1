//! What training, serving and scoring share: a device, and a program compiled
//! and loaded on it with its parameters.

use crate::blocking;
use crate::cpu::compile::{CompileError as CompilerError, Compiler, KernelCache};
use crate::cpu::pool::{Pool, PoolError};
use crate::executor::{
    BindingError, CacheRooms, Executable, Kernels, LoadError, OutOfMemory, ParameterError, ParameterStore,
    SharedMemory, load_kernels,
};
use diptych_codegen::c::prelude::{Blocking, VectorWidth, WIDTH_VARIABLE, WidthError};
use diptych_codegen::driver::{CompiledProgram, Rewritten, compile_program, compile_rewritten};
use diptych_codegen::entry::{CompileError, EntryOptions, Limits};
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
    /// The session was not compiled for this job.
    #[error("the session has no entry `{0}`: compile it with that entry")]
    NoEntry(&'static str),
}

/// The CPU: threads, compiler and vector width.
pub struct Device {
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

impl Device {
    /// This machine's CPU with so many threads (all cores that the process may use, if `None`). The first time it takes
    /// some seconds to find out which blocks are the fastest here, see [`crate::blocking`].
    ///
    /// # Errors
    /// When there is no C compiler, threads cannot be started, or [`WIDTH_VARIABLE`] names no width that can be run.
    pub fn cpu(threads: Option<usize>) -> Result<Device, SessionError> {
        let threads = threads.unwrap_or_else(crate::cpu::default_threads).max(1);
        let (pool, compiler) = (Pool::new(threads)?, Compiler::find()?);
        let (cache, width) = (KernelCache::standard(), VectorWidth::chosen()?);
        let blocking = blocking::fastest(&pool, &compiler, &cache, width);
        Ok(Device { pool, compiler, cache, width, blocking })
    }

    /// What code is generated for.
    pub fn options(&self) -> EntryOptions {
        EntryOptions::new(self.width.panel(), self.blocking.rows, self.pool.threads())
    }
}

/// The stage of compile time in which the C compiler makes machine code of kernels, or finds it made.
pub const NATIVE_CODE: &str = "native code";

/// A program compiled for some jobs, with its parameters.
pub struct Session {
    /// The compiled program.
    pub compiled: CompiledProgram,
    /// Its kernels.
    pub kernels: Kernels,
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
        let texts = compiled.entries.values().flat_map(|entry| &entry.kernels);
        let start = std::time::Instant::now();
        let Device { pool, compiler, cache, width, blocking } = device;
        let kernels = load_kernels(texts, *width, *blocking, compiler, cache, pool.threads())?;
        compiled.stages.push((NATIVE_CODE.to_owned(), start.elapsed().as_secs_f64()));
        let trains = compiled.entries.keys().copied().any(EntryKind::trains);
        let store = ParameterStore::new(&compiled.program, &compiled.layouts, device.width.panel(), trains)?;
        Ok(Session { compiled, kernels, store, context })
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
        let (kernels, store) = (&self.kernels, &self.store);
        Ok(Executable::load(entry, kernels, store, shared, limits, device.pool.threads(), device.width)?)
    }
}
