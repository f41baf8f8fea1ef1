//! An entry ready to run on a GPU: every argument resolved to an address there. A run is one copy to the GPU, launches
//! on one stream, and a copy of each root back; what runs again is captured once as a graph and replayed.

use super::buckets::{Buckets, Choice, bucket};
use super::error::CudaError;
use super::gpu::Gpu;
use super::kernels::{GpuKernel, GpuKernels, Module, told};
use super::maps::Maps;
use super::memory::DeviceBytes;
use super::parameters::GpuParameters;
use super::staging::{Given, Twins};
use super::timing::Timing;
use super::virtual_gpu;
use super::walk::Walk;
use crate::executor::resolve::{self, LoadedStep, Ports, Resolved, RunSize, assert_fits, keeps_padding};
use crate::executor::{
    Binding, CacheRooms, CacheSize, MemoryBound, ParameterStore, RecordedLaunch, Recording, SharedMemory,
    Workspace,
};
use cudarc::driver::{CudaGraph, DriverError, sys};
use diptych_codegen::entry::{CompiledEntry, Limits, PlanStep, Role};
use diptych_codegen::tile::CHUNK;
use diptych_ir::{DType, Symbol};
use diptych_passes::layout::Leading;
use diptych_passes::plan::place;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

/// Graphs that an entry keeps: those of a server's usual sizes.
const MOST_GRAPHS: usize = 64;

/// Blocks that a multiprocessor is given at most, of kernels with scratch in memory.
const BLOCKS_WITH_SCRATCH: usize = 2;

/// Values begin at multiples of this, in bytes.
const ALIGNMENT: usize = 256;

/// An entry with its memory, on a GPU.
pub struct GpuExecutable {
    pub(super) gpu: Arc<Gpu>,
    pub(super) entry: &'static str,
    steps: Vec<LoadedStep<GpuKernel>>,
    load_steps: Vec<LoadedStep<GpuKernel>>,
    pub(super) launches: Vec<RecordedLaunch>,
    /// The name of each kernel, by position.
    pub(super) kernel_names: Vec<String>,
    ports: Ports,
    pub(super) given: Given,
    pub(super) maps: Maps,
    roots: Vec<(usize, Leading, usize)>,
    pub(super) root_memory: Twins,
    parameters: Arc<GpuParameters>,
    /// Parameters and states that a run writes.
    writes: Vec<Symbol>,
    workspace: Arc<Workspace>,
    _owned: Vec<DeviceBytes>,
    /// Of kernels with scratch, the most blocks of a launch.
    pub(super) blocks_with_scratch: usize,
    one_each: bool,
    cache: Option<CacheSize>,
    bound: MemoryBound,
    graphs: Buckets<CudaGraph>,
    /// The code that is launched, also by the graphs.
    _modules: Rc<Vec<Module>>,
    timing: Option<Timing>,
    /// Whether a run failed, after which the GPU's memory is not to be trusted.
    failed: bool,
}

// The pointers are addresses on the GPU, and handles that any thread may use while nobody else does: runs have the
// executable alone.
unsafe impl Send for GpuExecutable {}
unsafe impl Sync for GpuExecutable {}

impl GpuExecutable {
    /// What an entry will take on a GPU, before anything is taken.
    pub fn memory_bound(gpu: &Gpu, entry: &CompiledEntry, limits: Limits, cache: CacheSize) -> MemoryBound {
        let bytes = entry.device_kernels.iter().map(|kernel| kernel.scratch_bytes);
        let scratch = bytes.max().unwrap_or(0) * BLOCKS_WITH_SCRATCH * gpu.multiprocessors();
        let arena = place(&lifetimes(entry, limits, cache)).bytes;
        MemoryBound { maps: Maps::bytes(entry, limits), ..MemoryBound::of(entry, limits, arena, scratch) }
    }

    /// Takes memory and resolves every argument, for sequences of at most `context` positions.
    ///
    /// The caches must outlive the executable.
    ///
    /// # Errors
    /// When the GPU has not enough memory, a parameter, a cache or a kernel is missing, or the workspace is too small.
    pub fn load(
        gpu: &Arc<Gpu>,
        entry: &CompiledEntry,
        kernels: &GpuKernels,
        store: &ParameterStore,
        SharedMemory { caches, workspace }: SharedMemory<'_>,
        limits: Limits,
        context: usize,
    ) -> Result<GpuExecutable, CudaError> {
        let missing = |problem: String| CudaError::Missing { entry: entry.kind.name(), problem };
        let parameters = store.on_gpu().ok_or_else(|| missing("no parameters on a GPU".to_owned()))?;
        let cache = caches.map_or(CacheSize::default(), CacheRooms::size);
        let bound = Self::memory_bound(gpu, entry, limits, cache);
        let layout = place(&lifetimes(entry, limits, cache));
        let workspace = match workspace {
            Some(workspace) if !workspace.is_of_gpu() => {
                return Err(missing("a workspace on the GPU".to_owned()));
            }
            Some(workspace) if workspace.has_room_for(&bound) => workspace.clone(),
            Some(_) => return Err(missing("room in the workspace".to_owned())),
            None => Workspace::on(gpu, [bound])?,
        };
        let given = Given::new(gpu, entry, limits, context)?;
        let root_memory = Twins::of_roots(gpu, entry, limits)?;
        let mut owned = Vec::new();
        let mut bases = Vec::with_capacity(entry.buffers.len());
        for (id, buffer) in entry.buffers.iter().enumerate() {
            let bytes = buffer.bytes(limits, entry.panel);
            let base = match &buffer.role {
                Role::Temporary if !keeps_padding(buffer, entry.panel) => {
                    Some(workspace.arena().wrapping_add(layout.offsets[id]))
                }
                Role::Stored(name) => {
                    let stored = parameters.pointer(*name).filter(|stored| stored.1 == bytes);
                    let problem = || format!("parameter `{name}` is not there, or is stored in another way");
                    Some(stored.ok_or_else(|| missing(problem()))?.0)
                }
                role @ (Role::Cache { .. } | Role::State { .. }) => {
                    let room = caches.and_then(|caches| caches.room(role)).filter(|room| room.is_of_gpu());
                    room.map(|room| room.pointer())
                }
                Role::Input(_) => given.pointer(id),
                Role::Root(_) => root_memory.pointer(id),
                Role::Derived | Role::Temporary => {
                    let memory =
                        DeviceBytes::zeroed(gpu.context(), bytes, "values computed from parameters")?;
                    let base = memory.pointer();
                    owned.push(memory);
                    Some(base)
                }
            };
            bases.push(base.ok_or_else(|| missing("no room for a cache on the GPU".to_owned()))?);
        }
        let sizes: Vec<usize> =
            entry.lifetimes(limits, cache.chunks * CHUNK).iter().map(|value| value.bytes).collect();
        let slot_bytes = |id: usize| {
            let buffer = &entry.buffers[id];
            match (&buffer.role, caches) {
                (Role::Cache { .. } | Role::State { .. }, Some(caches)) => {
                    CacheRooms::layer_bytes(buffer, entry.panel, caches.size())
                }
                _ if entry.lies_along_cache(buffer) => sizes[id] / buffer.slots.max(1),
                _ => buffer.slot_elements(limits, entry.panel) * buffer.dtype.bytes(),
            }
        };
        let kernel = |kernel: usize| kernels.kernel(&entry.device_kernels.get(kernel)?.name);
        let resolved = resolve::resolve(entry, &bases, &slot_bytes, &kernel).map_err(missing)?;
        let maps = Maps::new(gpu, entry, &resolved, limits)?;
        let Resolved { steps, load_steps, launches } = resolved;
        let root = |(id, buffer): (usize, &diptych_codegen::entry::Buffer)| {
            let row = buffer.layout.row_elements(entry.panel) * buffer.dtype.bytes();
            matches!(buffer.role, Role::Root(_)).then(|| (id, buffer.layout.leading(), row))
        };
        let cached = CacheRooms::each(entry, CacheSize::default()).next().is_some();
        Ok(GpuExecutable {
            gpu: gpu.clone(),
            entry: entry.kind.name(),
            steps,
            load_steps,
            launches,
            kernel_names: entry.device_kernels.iter().map(|kernel| kernel.name.clone()).collect(),
            ports: Ports::of(entry, limits),
            given,
            maps,
            roots: entry.buffers.iter().enumerate().filter_map(root).collect(),
            root_memory,
            parameters,
            writes: writes(entry),
            workspace,
            _owned: owned,
            blocks_with_scratch: BLOCKS_WITH_SCRATCH * gpu.multiprocessors(),
            one_each: entry.buffers.iter().any(|buffer| buffer.layout.leading() == Leading::Chunks),
            cache: caches.filter(|_| cached).map(CacheRooms::size),
            bound,
            graphs: Buckets::new(MOST_GRAPHS),
            _modules: kernels.modules(),
            timing: None,
            failed: false,
        })
    }

    /// What it took.
    pub fn bound(&self) -> MemoryBound {
        self.bound
    }

    /// The largest run that it has room for.
    pub fn limits(&self) -> Limits {
        self.ports.limits()
    }

    /// The elements of an input, to fill before a run; `None` if the entry has no such input.
    pub fn input<T: bytemuck::Pod>(&mut self, name: &str) -> Option<&mut [T]> {
        let id = self.ports.input(name)?;
        self.given.inputs().elements_mut(id)
    }

    /// The elements of a root after a run, if it is of this type.
    pub fn root_as<T: bytemuck::Pod>(&self, dtype: DType, name: &str) -> Option<&[T]> {
        let (id, elements) = self.ports.root(dtype, size_of::<T>(), name)?;
        self.root_memory.elements(id).map(|root| &root[..elements])
    }

    /// Elements of a root for each of its rows.
    pub fn root_width(&self, name: &str) -> Option<usize> {
        self.ports.width(name)
    }

    /// Records the next runs, of which there are at most so many.
    ///
    /// Recorded runs are launched kernel by kernel: what a graph saves is not seen.
    pub fn record(&mut self, runs: usize) {
        self.timing = (runs > 0).then(|| Timing::new(runs));
    }

    /// What was recorded since [`GpuExecutable::record`], which ends with this. The GPU is its one thread.
    pub fn take_recording(&mut self) -> Recording {
        let timing = self.timing.take().unwrap_or_else(|| Timing::new(0));
        timing.finish(self.launches.clone())
    }

    /// Computes what depends on parameters alone. To be called after parameters change.
    ///
    /// # Errors
    /// When a kernel fails, or parameters were not copied to the GPU.
    pub fn refresh(&mut self, binding: &Binding) -> Result<(), CudaError> {
        self.check(binding)?;
        let (workspace, gpu) = (self.workspace.clone(), self.gpu.clone());
        let (alone, _gpu) = (workspace.alone(), gpu.context().alone());
        self.prepare(binding)?;
        let mut walk = Walk::new(self, binding.size(), alone.scratch(), None);
        let done = walk.start().and_then(|()| walk.steps(&self.load_steps, 0, 0));
        self.wait(done)
    }

    /// Runs the entry once, and waits for its roots.
    ///
    /// # Errors
    /// When a kernel fails, or parameters were not copied to the GPU.
    pub fn run(&mut self, binding: &Binding) -> Result<(), CudaError> {
        self.check(binding)?;
        let (workspace, gpu) = (self.workspace.clone(), self.gpu.clone());
        let (alone, _gpu) = (workspace.alone(), gpu.context().alone());
        self.prepare(binding)?;
        // Before they are written, so that nobody takes what the host has for them if the run fails.
        for &name in &self.writes {
            self.parameters.gpu_is_newer(name);
        }
        if self.gpu.is_virtual() {
            virtual_gpu::forget(workspace.arena(), workspace.arena_bytes());
        }
        let size = bucket(binding.size(), self.given.largest(), self.given.has_turns());
        let records = self.timing.as_ref().is_some_and(Timing::has_room);
        let launches_apart = records || self.gpu.waits();
        let done = if launches_apart {
            let mut timing = self.timing.take();
            let mut walk = Walk::new(self, size, alone.scratch(), timing.as_mut().filter(|_| records));
            let done = walk.all(&self.steps, &self.roots);
            self.timing = timing;
            done
        } else {
            self.launch(size, alone.scratch())
        };
        self.wait(done)?;
        if let Some(timing) = self.timing.as_mut().filter(|_| records) {
            timing.end()?;
        }
        Ok(())
    }

    /// Writes down what kernels are told of a run.
    fn prepare(&mut self, binding: &Binding) -> Result<(), CudaError> {
        self.given.bind(binding)?;
        self.gpu.context().bind()?;
        self.maps.prepare(binding.size(), self.gpu.stream())
    }

    /// Launches a run of a bucket, as a graph if there is one, or can be.
    fn launch(&mut self, size: RunSize, scratch: *mut u8) -> Result<(), CudaError> {
        let launched = match self.graphs.choose(size) {
            Choice::Replay(graph) => graph.launch().map(|()| true),
            Choice::Launch => Ok(false),
            Choice::Capture => self.capture(size, scratch)?,
        };
        match launched {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            // Graphs take memory that is in no bound. What they save, a run can do without.
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => self.graphs.refuse(size),
            Err(error) => return Err(self.failure(error)),
        }
        Walk::new(self, size, scratch, None).all(&self.steps, &self.roots)
    }

    /// Captures a run as a graph, and launches that. Where the graph could not be made nothing was launched, and the driver's
    /// word for it is the inner result.
    fn capture(&mut self, size: RunSize, scratch: *mut u8) -> Result<Result<bool, DriverError>, CudaError> {
        let stream = self.gpu.stream().clone();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).map_err(|error| self.failure(error))?;
        let walked = Walk::capturing(self, size, scratch).all(&self.steps, &self.roots);
        // Whatever came of it, the stream must not be left capturing.
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0));
        walked?;
        let nothing = DriverError(sys::CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        let launched = graph.and_then(|graph| graph.ok_or(nothing)).and_then(|graph| {
            graph.launch()?;
            self.graphs.keep(size, graph);
            Ok(true)
        });
        Ok(launched)
    }

    /// Refuses what cannot be run.
    fn check(&self, binding: &Binding) -> Result<(), CudaError> {
        assert_fits(binding, self.limits(), self.one_each, self.cache);
        if self.failed {
            let cause = "an earlier run failed".to_owned();
            return Err(CudaError::Run { entry: self.entry, cause });
        }
        self.parameters.check()?;
        match self.parameters.waiting() {
            Some(name) => Err(CudaError::NotUploaded(name.to_string())),
            None => Ok(()),
        }
    }

    /// Waits for the GPU, whatever came of asking it.
    fn wait(&mut self, asked: Result<(), CudaError>) -> Result<(), CudaError> {
        let waited = self.gpu.stream().synchronize();
        let done = asked.and_then(|()| waited.map_err(|error| self.failure(error)));
        if done.is_err() {
            self.failed = true;
            if !self.writes.is_empty() {
                self.parameters.lose();
            }
        }
        done
    }

    /// A failure of which it is not known whose it is.
    fn failure(&self, error: DriverError) -> CudaError {
        CudaError::Run { entry: self.entry, cause: told(error) }
    }
}

/// The lifetimes of values in an arena on a GPU.
fn lifetimes(entry: &CompiledEntry, limits: Limits, cache: CacheSize) -> Vec<diptych_passes::plan::Lifetime> {
    let mut lifetimes = entry.lifetimes(limits, cache.chunks * CHUNK);
    lifetimes.iter_mut().for_each(|value| value.bytes = value.bytes.next_multiple_of(ALIGNMENT));
    lifetimes
}

/// Parameters and states that a run of an entry writes.
fn writes(entry: &CompiledEntry) -> Vec<Symbol> {
    fn collect(entry: &CompiledEntry, steps: &[PlanStep], written: &mut BTreeSet<usize>) {
        for step in steps {
            let launches = match step {
                PlanStep::Launch(launch) => std::slice::from_ref(launch),
                PlanStep::Together(launches) => launches,
                PlanStep::Repeat { body, .. } | PlanStep::Turns { body, .. } => {
                    collect(entry, body, written);
                    &[]
                }
                PlanStep::Copy { to, .. } => {
                    written.insert(to.buffer);
                    &[]
                }
            };
            for launch in launches {
                let args = launch.args.iter().zip(&entry.programs[launch.kernel].args);
                written.extend(args.filter(|(_, arg)| arg.written).map(|(place, _)| place.buffer));
            }
        }
    }
    let mut written = BTreeSet::new();
    collect(entry, &entry.steps, &mut written);
    let name = |id: usize| match entry.buffers[id].role {
        Role::Stored(name) => Some(name),
        _ => None,
    };
    written.into_iter().filter_map(name).collect()
}
