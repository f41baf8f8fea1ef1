//! The way through an entry's steps: each becomes launches and copies on streams. It waits for nothing.

use super::error::{CudaError, could_not};
use super::executable::GpuExecutable;
use super::kernels::{GpuKernel, told};
use super::timing::Timing;
use crate::executor::Part;
use crate::executor::resolve::{Argument, LoadedLaunch, LoadedStep, RunSize, even_turns};
use cudarc::driver::{CudaStream, DriverError, result};
use diptych_codegen::entry::MOST_ARGS;
use diptych_passes::layout::Leading;
use std::ffi::c_void;
use std::sync::Arc;

/// A run on its way to the GPU.
pub(super) struct Walk<'a> {
    executable: &'a GpuExecutable,
    /// For how large a run blocks are launched; of a turn, its rows alone.
    size: RunSize,
    scratch: *mut u8,
    /// The struct of the run or the turn, on the GPU.
    tables: u64,
    /// The turn at hand, and its first row.
    turn: usize,
    row: usize,
    /// Whether what runs together goes to streams of its own: within a graph, where that costs nothing.
    forks: bool,
    timing: Option<&'a mut Timing>,
}

impl<'a> Walk<'a> {
    /// One that launches, or one that records times if there is a timing.
    pub fn new(
        executable: &'a GpuExecutable,
        size: RunSize,
        scratch: *mut u8,
        timing: Option<&'a mut Timing>,
    ) -> Self {
        let tables = executable.given.tables(None);
        Walk { executable, size, scratch, tables, turn: 0, row: 0, forks: false, timing }
    }

    /// One that captures.
    pub fn capturing(executable: &'a GpuExecutable, size: RunSize, scratch: *mut u8) -> Self {
        Walk { forks: true, ..Self::new(executable, size, scratch, None) }
    }

    fn stream(&self) -> &'a Arc<CudaStream> {
        self.executable.gpu.stream()
    }

    /// Copies inputs and tables.
    pub fn start(&mut self) -> Result<(), CudaError> {
        self.executable.gpu.context().bind()?;
        if let Some(timing) = &mut self.timing {
            timing.begin(self.executable.gpu.stream())?;
        }
        self.executable.given.upload(self.stream())
    }

    /// A whole run: copies, steps, and the roots, each given by its buffer, its rows, and the bytes of a row.
    pub fn all(
        &mut self,
        steps: &[LoadedStep<GpuKernel>],
        roots: &[(usize, Leading, usize)],
    ) -> Result<(), CudaError> {
        self.start()?;
        self.mark(Part::Executor, None, 0)?;
        self.steps(steps, 0, 0)?;
        for &(id, leading, row_bytes) in roots {
            let bytes = self.size.rows(leading) * row_bytes;
            self.executable.root_memory.download(self.stream(), id, bytes)?;
        }
        self.mark(Part::Executor, None, 0)
    }

    fn mark(&mut self, part: Part, launch: Option<usize>, layer: usize) -> Result<(), CudaError> {
        match &mut self.timing {
            Some(timing) => timing.mark(self.executable.gpu.stream(), part, launch, layer),
            None => Ok(()),
        }
    }

    /// The steps, in an iteration on a layer.
    pub fn steps(
        &mut self,
        steps: &[LoadedStep<GpuKernel>],
        iteration: usize,
        layer: usize,
    ) -> Result<(), CudaError> {
        for step in steps {
            match step {
                LoadedStep::Launches(launches) => self.launches(launches, iteration, layer)?,
                LoadedStep::Repeat { layers, reverse, body } => {
                    for iteration in 0..*layers {
                        let layer = if *reverse { layers - 1 - iteration } else { iteration };
                        self.steps(body, iteration, layer)?;
                    }
                }
                LoadedStep::Turns { rows, body } => self.turns(*rows, body, iteration, layer)?,
                LoadedStep::Copy { from, to, leading, row_bytes } => {
                    let bytes = self.size.rows(*leading) * row_bytes;
                    self.copy((*from, *to), bytes, iteration, layer)?;
                }
            }
        }
        Ok(())
    }

    fn turns(
        &mut self,
        most: usize,
        body: &[LoadedStep<GpuKernel>],
        iteration: usize,
        layer: usize,
    ) -> Result<(), CudaError> {
        let (whole, tables) = (self.size, self.tables);
        let (rows, turns) = even_turns(whole.rows, most);
        for turn in 0..turns {
            (self.turn, self.row) = (turn, turn * rows);
            self.size.rows = rows.min(whole.rows - self.row.min(whole.rows));
            self.tables = self.executable.given.tables(Some((most, turn)));
            self.steps(body, iteration, layer)?;
        }
        (self.turn, self.row, self.size, self.tables) = (0, 0, whole, tables);
        Ok(())
    }

    /// Launches that need nothing of one another.
    fn launches(
        &mut self,
        launches: &[LoadedLaunch<GpuKernel>],
        iteration: usize,
        layer: usize,
    ) -> Result<(), CudaError> {
        // All kernels share one scratch: of those that use it no two may run at once.
        let with_scratch = launches.iter().filter(|launch| launch.function.scratch_bytes > 0).count();
        if !self.forks || launches.len() < 2 || with_scratch > 1 {
            for launch in launches {
                self.launch(self.stream(), launch, iteration, layer)?;
                self.mark(Part::Kernel, Some(launch.position), layer)?;
            }
            return Ok(());
        }
        let side = self.executable.gpu.side_streams();
        let forked = &side[..side.len().min(launches.len() - 1)];
        let failed = could_not("divide work among streams");
        for stream in forked {
            stream.join(self.stream()).map_err(&failed)?;
        }
        for (at, launch) in launches.iter().enumerate() {
            let stream = match at % (forked.len() + 1) {
                0 => self.stream(),
                other => &forked[other - 1],
            };
            self.launch(stream, launch, iteration, layer)?;
        }
        for stream in forked {
            self.stream().join(stream).map_err(&failed)?;
        }
        Ok(())
    }

    fn launch(
        &self,
        stream: &CudaStream,
        launch: &LoadedLaunch<GpuKernel>,
        iteration: usize,
        layer: usize,
    ) -> Result<(), CudaError> {
        let GpuKernel { function, threads, shared_bytes, scratch_bytes } = launch.function;
        // A kernel's blocks share the instances, however many they are.
        let most = if scratch_bytes > 0 { self.executable.blocks_with_scratch } else { i32::MAX as usize };
        let blocks = self.size.instances(&launch.grid, 1).min(most);
        if blocks == 0 {
            return Ok(());
        }
        let scratch = if scratch_bytes > 0 { self.scratch } else { std::ptr::null_mut() };
        let mut args = [std::ptr::null_mut::<u8>(); MOST_ARGS];
        for (arg, argument) in args.iter_mut().zip(&launch.args) {
            *arg = argument.at(iteration, layer, self.row);
        }
        // See `diptych_codegen::cuda::step`.
        let maps = self.executable.maps.address(launch.position, iteration, self.turn);
        let mut parameters = [std::ptr::null_mut::<c_void>(); MOST_ARGS + 4];
        parameters[0] = (&raw const self.tables).cast_mut().cast();
        parameters[1] = (&raw const scratch).cast_mut().cast();
        parameters[2] = (&raw const launch.flat).cast_mut().cast();
        let mut end = 3;
        if let Some(maps) = &maps {
            parameters[end] = std::ptr::from_ref(maps).cast_mut().cast();
            end += 1;
        }
        for (parameter, arg) in parameters[end..].iter_mut().zip(&args) {
            *parameter = std::ptr::from_ref(arg).cast_mut().cast();
        }
        let parameters = &mut parameters[..end + launch.args.len()];
        // SAFETY: the kernel takes these parameters, each of 8 bytes, which the driver copies; the addresses are of
        // buffers that the kernel was compiled for, and blocks write apart.
        let launched = unsafe {
            let grid = (blocks as u32, 1, 1);
            result::launch_kernel(
                function,
                grid,
                (threads, 1, 1),
                shared_bytes,
                stream.cu_stream(),
                parameters,
            )
        };
        launched.map_err(|error| self.failure(launch, error))?;
        if self.executable.gpu.waits() {
            stream.synchronize().map_err(|error| self.failure(launch, error))?;
        }
        Ok(())
    }

    fn failure(&self, launch: &LoadedLaunch<GpuKernel>, error: DriverError) -> CudaError {
        let kernel = self.executable.launches[launch.position].kernel;
        let kernel = self.executable.kernel_names[kernel].clone();
        CudaError::Launch { kernel, entry: self.executable.entry, cause: told(error) }
    }

    fn copy(
        &mut self,
        (from, to): (Argument, Argument),
        bytes: usize,
        iteration: usize,
        layer: usize,
    ) -> Result<(), CudaError> {
        let [from, to] = [from, to].map(|place| place.at(iteration, layer, self.row) as u64);
        // SAFETY: both buffers have room for this many bytes, and are not the same.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream().cu_stream()) }
            .map_err(could_not("copy a value"))?;
        self.mark(Part::Copy, None, layer)
    }
}
