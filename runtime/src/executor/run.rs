//! An entry ready to run on the CPU: every argument resolved to memory. One
//! parallel region is one run; threads take instances of a launch as they come
//! free, which changes no bit, since an instance is computed by one thread in
//! one order.

use super::binding::{Binding, CacheSize};
use super::caches::CacheRooms;
use super::executable::LoadError;
use super::library::{KernelFn, Kernels};
use super::memory::AlignedBytes;
use super::parameters::ParameterStore;
use super::recording::{Part, Pen, RecordedLaunch, Recorder, Recording, RunPen};
use super::resolve::{
    self, Argument, LoadedLaunch, LoadedStep, Ports, Resolved, RunSize, assert_fits, even_turns,
    keeps_padding,
};
use super::workspace::{MemoryBound, SharedMemory, Workspace};
use crate::cpu::pool::{Barrier, Pool};
use diptych_codegen::c::prelude::{BLOCK_FUNCTIONS, DOT_FUNCTIONS, VectorWidth};
use diptych_codegen::c::step::StepTables;
use diptych_codegen::entry::{CompiledEntry, GridCount, Limits, MOST_ARGS, Role};
use diptych_codegen::tile::CHUNK;
use diptych_ir::DType;
use diptych_passes::layout::Leading;
use diptych_passes::plan::place;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// An entry with its memory, for the CPU.
pub struct CpuExecutable {
    /// Whether a run has one token of each sequence, since chunks of positions are shared.
    one_each: bool,
    steps: Vec<LoadedStep<KernelFn>>,
    load_steps: Vec<LoadedStep<KernelFn>>,
    ports: Ports,
    owned: HashMap<usize, AlignedBytes>,
    workspace: Arc<Workspace>,
    scratch_floats: usize,
    counters: [AtomicUsize; 2],
    launches: Vec<RecordedLaunch>,
    recorder: Option<Recorder>,
    threads: usize,
    dots: [*const c_void; DOT_FUNCTIONS.len()],
    /// Those that they call for weights in blocks.
    in_blocks: [*const c_void; BLOCK_FUNCTIONS.len()],
    /// Of its caches; `None` where it has none.
    cache: Option<CacheSize>,
    bound: MemoryBound,
}

// The pointers are into memory that the executable owns, or that its user keeps alive; a run has it alone.
unsafe impl Send for CpuExecutable {}
unsafe impl Sync for CpuExecutable {}

impl CpuExecutable {
    /// What an entry will take, before anything is taken, with caches of this size, if it has any.
    pub fn memory_bound(
        entry: &CompiledEntry,
        limits: Limits,
        cache: CacheSize,
        threads: usize,
        width: VectorWidth,
    ) -> MemoryBound {
        let scratch = entry.kernels.iter().map(|kernel| kernel.scratch_floats).max().unwrap_or(0)
            + width.dot_scratch_floats();
        let arena = place(&entry.lifetimes(limits, cache.chunks * CHUNK)).bytes;
        let scratch = threads * scratch.next_multiple_of(1024) * size_of::<f32>();
        MemoryBound::of(entry, limits, arena, scratch)
    }

    /// Takes memory and resolves every argument.
    ///
    /// The parameters and caches must outlive the executable, and stay where they are.
    ///
    /// # Errors
    /// When there is not enough memory, a parameter, a cache or a kernel is missing, or
    /// the workspace is too small.
    pub fn load(
        entry: &CompiledEntry,
        kernels: &Kernels,
        parameters: &ParameterStore,
        SharedMemory { caches, workspace }: SharedMemory<'_>,
        limits: Limits,
        threads: usize,
        width: VectorWidth,
    ) -> Result<CpuExecutable, LoadError> {
        let missing = |problem: String| LoadError::Missing { entry: entry.kind.name().to_owned(), problem };
        let cache = caches.map(CacheRooms::size).unwrap_or_default();
        let bound = Self::memory_bound(entry, limits, cache, threads, width);
        let layout = place(&entry.lifetimes(limits, cache.chunks * CHUNK));
        let workspace = match workspace {
            Some(workspace) if workspace.is_of_gpu() => {
                return Err(missing("a workspace of the CPU".to_owned()));
            }
            Some(workspace) if workspace.has_room_for(&bound) => workspace.clone(),
            Some(_) => return Err(missing("room in the workspace".to_owned())),
            None => Workspace::new([bound])?,
        };
        let mut owned = HashMap::new();
        let mut bases = Vec::with_capacity(entry.buffers.len());
        for (id, buffer) in entry.buffers.iter().enumerate() {
            let base = match &buffer.role {
                Role::Temporary if !keeps_padding(buffer, entry.panel) => {
                    // SAFETY: the arena was taken with room for every offset.
                    unsafe { workspace.arena().add(layout.offsets[id]) }
                }
                Role::Stored(name) => {
                    let bytes = parameters.stored(*name).map_or(0, |stored| stored.bytes.len());
                    if bytes != buffer.bytes(limits, entry.panel) {
                        return Err(missing(format!(
                            "parameter `{name}` is not there, or is stored in another way"
                        )));
                    }
                    parameters.pointer(*name).ok_or_else(|| missing(format!("no parameter `{name}`")))?
                }
                role @ (Role::Cache { .. } | Role::State { .. }) => {
                    let room = caches.and_then(|caches| caches.room(role)).filter(|room| !room.is_of_gpu());
                    room.ok_or_else(|| missing("no room for a cache".to_owned()))?.pointer()
                }
                Role::Input(_) | Role::Root(_) | Role::Derived | Role::Temporary => {
                    let bytes = AlignedBytes::zeroed(buffer.bytes(limits, entry.panel))?;
                    let start = bytes.as_ptr();
                    owned.insert(id, bytes);
                    start
                }
            };
            bases.push(base);
        }
        let slot_bytes = |id: usize| {
            let buffer = &entry.buffers[id];
            match (&buffer.role, caches) {
                (Role::Cache { .. } | Role::State { .. }, Some(caches)) => {
                    CacheRooms::layer_bytes(buffer, entry.panel, caches.size())
                }
                _ => buffer.slot_elements(limits, entry.panel) * buffer.dtype.bytes(),
            }
        };
        let function = |kernel: usize| kernels.function(&entry.kernels.get(kernel)?.name);
        let resolved = resolve::resolve(entry, &bases, &slot_bytes, &function).map_err(missing)?;
        let Resolved { steps, load_steps, launches } = resolved;
        let scratch_floats = bound.scratch / size_of::<f32>() / threads;
        let cached = CacheRooms::each(entry, CacheSize::default()).next().is_some();
        Ok(CpuExecutable {
            one_each: entry.buffers.iter().any(|buffer| buffer.layout.leading() == Leading::Chunks),
            steps,
            load_steps,
            ports: Ports::of(entry, limits),
            owned,
            workspace,
            scratch_floats,
            counters: Default::default(),
            launches,
            recorder: None,
            threads,
            dots: kernels.dots(),
            in_blocks: kernels.in_blocks(),
            cache: caches.filter(|_| cached).map(CacheRooms::size),
            bound,
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
        self.owned.get_mut(&self.ports.input(name)?).map(AlignedBytes::as_mut_slice)
    }

    /// The elements of an f32 root after a run, a row one after the other.
    pub fn root(&self, name: &str) -> Option<&[f32]> {
        self.root_as(DType::F32, name)
    }

    /// The elements of a root of this type: f32, i32, or bytes for bool (0 or 1).
    pub fn root_as<T: bytemuck::Pod>(&self, dtype: DType, name: &str) -> Option<&[T]> {
        let (id, elements) = self.ports.root(dtype, size_of::<T>(), name)?;
        self.owned.get(&id).map(|bytes| &bytes.as_slice::<T>()[..elements])
    }

    /// Elements of a root for each of its rows.
    pub fn root_width(&self, name: &str) -> Option<usize> {
        self.ports.width(name)
    }

    /// Records the next runs, of which there are at most so many; what was recorded before is dropped.
    pub fn record(&mut self, runs: usize) {
        let rows = self.limits().rows;
        let slices = slices(&self.steps, rows).max(slices(&self.load_steps, rows));
        self.recorder = (runs > 0).then(|| Recorder::new(runs, slices, self.threads));
    }

    /// What was recorded since [`CpuExecutable::record`], which ends with this; empty if nothing was.
    pub fn take_recording(&mut self) -> Recording {
        let recorder = self.recorder.take().unwrap_or_else(|| Recorder::new(0, 0, self.threads));
        recorder.finish(self.launches.clone())
    }

    /// Computes what depends on parameters alone. To be called after parameters change.
    pub fn refresh(&mut self, pool: &Pool, binding: &Binding) {
        let steps = std::mem::take(&mut self.load_steps);
        self.execute(&steps, pool, binding);
        self.load_steps = steps;
    }

    /// Runs the entry once. A run of `decode` has one token of each sequence.
    pub fn run(&mut self, pool: &Pool, binding: &Binding) {
        let steps = std::mem::take(&mut self.steps);
        self.execute(&steps, pool, binding);
        self.steps = steps;
    }

    fn execute(&mut self, steps: &[LoadedStep<KernelFn>], pool: &Pool, binding: &Binding) {
        assert_fits(binding, self.limits(), self.one_each, self.cache);
        let scratch = self.scratch_floats * size_of::<f32>() * pool.threads();
        assert!(
            scratch <= self.bound.scratch,
            "the pool has more threads than the executable was loaded for"
        );
        let workspace = self.workspace.alone();
        let mut tables = binding.tables();
        tables.threads = pool.threads() as i64;
        tables.dots = self.dots;
        tables.in_blocks = self.in_blocks;
        self.counters.iter().for_each(|counter| counter.store(0, Ordering::Relaxed));
        let pen = self.recorder.as_mut().and_then(Recorder::begin);
        let run = Run {
            tables: &tables,
            counters: &self.counters,
            scratch: workspace.scratch(),
            scratch_bytes: self.scratch_floats * size_of::<f32>(),
            pen,
            steps,
        };
        pool.run(&|thread, barrier| {
            // SAFETY: each thread asks for its own pen, and the recorder is kept until the run has ended.
            let pen = run.pen.map_or_else(Pen::none, |pen| unsafe { pen.of(thread) });
            let mut walk = Walk { run: &run, tables: *run.tables, row: 0, thread, barrier, launches: 0, pen };
            walk.steps(run.steps, 0, 0);
        });
        if pen.is_some() {
            self.recorder.as_mut().into_iter().for_each(Recorder::end);
        }
    }
}

/// The most slices that a thread records in a run of these steps over so many rows.
fn slices<F>(steps: &[LoadedStep<F>], rows: usize) -> usize {
    let of = |step: &LoadedStep<F>| match step {
        // Looking up and computing each, and a wait for all.
        LoadedStep::Launches(launches) => 2 * launches.len() + 1,
        LoadedStep::Repeat { layers, body, .. } => layers * slices(body, rows),
        LoadedStep::Turns { rows: of_turn, body } => rows.div_ceil(*of_turn).max(1) * slices(body, rows),
        LoadedStep::Copy { .. } => 2,
    };
    steps.iter().map(of).sum()
}

/// Of the instances that are left a thread takes one in so many times the number of threads.
const PARTS: usize = 4;

struct Run<'a> {
    tables: &'a StepTables,
    counters: &'a [AtomicUsize; 2],
    scratch: *mut u8,
    scratch_bytes: usize,
    pen: Option<RunPen>,
    steps: &'a [LoadedStep<KernelFn>],
}

// Threads read the tables, and each writes its own scratch and its own track.
unsafe impl Sync for Run<'_> {}

struct Walk<'a> {
    run: &'a Run<'a>,
    /// What kernels are told: of a turn, its rows alone.
    tables: StepTables,
    /// The first row of the turn at hand.
    row: usize,
    thread: usize,
    barrier: &'a Barrier,
    launches: usize,
    pen: Pen<'a>,
}

impl Walk<'_> {
    fn steps(&mut self, steps: &[LoadedStep<KernelFn>], iteration: usize, layer: usize) {
        for step in steps {
            match step {
                LoadedStep::Launches(launches) => self.launches(launches, iteration, layer),
                LoadedStep::Repeat { layers, reverse, body } => {
                    for iteration in 0..*layers {
                        let layer = if *reverse { layers - 1 - iteration } else { iteration };
                        self.steps(body, iteration, layer);
                    }
                }
                LoadedStep::Turns { rows, body } => self.turns(*rows, body, iteration, layer),
                LoadedStep::Copy { from, to, leading, row_bytes } => {
                    self.copy((*from, *to), self.size().rows(*leading) * row_bytes, iteration, layer);
                }
            }
        }
    }

    /// Steps over so many rows after so many.
    fn turns(&mut self, rows: usize, body: &[LoadedStep<KernelFn>], iteration: usize, layer: usize) {
        let whole = self.tables;
        let all = whole.rows as usize;
        let (rows, turns) = even_turns(all, rows);
        for turn in 0..turns {
            self.row = turn * rows;
            self.tables.turn = turn as i64;
            self.tables.rows = rows.min(all - self.row) as i64;
            // SAFETY: the tables have an element for each row of the run.
            self.tables.row_position = unsafe { whole.row_position.add(self.row) };
            self.steps(body, iteration, layer);
        }
        (self.row, self.tables) = (0, whole);
    }

    fn size(&self) -> RunSize {
        let StepTables { rows, batch, blocks, past_blocks, .. } = self.tables;
        let [rows, batch, blocks, past_blocks] = [rows, batch, blocks, past_blocks].map(|size| size as usize);
        RunSize { rows, batch, blocks, past_blocks }
    }

    fn instances(&self, grid: &[GridCount]) -> usize {
        self.size().instances(grid, self.tables.threads as usize)
    }

    /// Runs launches that need nothing of one another, and waits for the last of them.
    fn launches(&mut self, launches: &[LoadedLaunch<KernelFn>], iteration: usize, layer: usize) {
        // SAFETY: each thread has this part of the scratch to itself.
        let scratch = unsafe { self.run.scratch.add(self.thread * self.run.scratch_bytes) };
        let next = &self.run.counters[self.launches % 2];
        if self.thread == 0 {
            // Nobody looks at the other counter before all have passed the barrier below.
            self.run.counters[(self.launches + 1) % 2].store(0, Ordering::Relaxed);
        }
        // Instances are numbered through all launches, and taken in that order: while many are left, several at a time,
        // since neighbours often read what lies side by side.
        let all: usize = launches.iter().map(|launch| self.instances(&launch.grid)).sum();
        let parts = PARTS * self.barrier.threads();
        let take = || {
            let left = all.saturating_sub(next.load(Ordering::Relaxed));
            let count = (left / parts).max(1);
            let first = next.fetch_add(count, Ordering::Relaxed);
            (first, first + count)
        };
        let (mut instance, mut end) = take();
        let mut before = 0;
        for launch in launches {
            let total = self.instances(&launch.grid);
            if instance < before + total {
                let mut args = [std::ptr::null_mut::<c_void>(); MOST_ARGS];
                for (arg, argument) in args.iter_mut().zip(&launch.args) {
                    *arg = argument.at(iteration, layer, self.row).cast();
                }
                let sizes = [launch.flat];
                self.pen.mark(Part::Executor, Some(launch.position), layer, 0);
                let mut instances = 0;
                while instance < before + total {
                    let own = (instance - before) as i64;
                    // SAFETY: the arguments are the buffers that the kernel was compiled for; instances write apart.
                    unsafe {
                        (launch.function)(&self.tables, args.as_ptr(), sizes.as_ptr(), scratch.cast(), own)
                    };
                    instances += 1;
                    instance += 1;
                    if instance == end {
                        (instance, end) = take();
                    }
                }
                self.pen.mark(Part::Kernel, Some(launch.position), layer, instances);
            }
            before += total;
        }
        self.launches += 1;
        self.barrier.wait();
        self.pen.mark(Part::Wait, launches.first().map(|launch| launch.position), layer, 0);
    }

    fn copy(&mut self, (from, to): (Argument, Argument), bytes: usize, iteration: usize, layer: usize) {
        let (from, to) = (from.at(iteration, layer, self.row), to.at(iteration, layer, self.row));
        let share = bytes.div_ceil(self.barrier.threads()).next_multiple_of(64);
        let start = (self.thread * share).min(bytes);
        let end = (start + share).min(bytes);
        // SAFETY: both buffers have room for this many bytes, and are not the same.
        unsafe { std::ptr::copy_nonoverlapping(from.add(start), to.add(start), end - start) };
        self.pen.mark(Part::Copy, None, layer, 0);
        self.barrier.wait();
        self.pen.mark(Part::Wait, None, layer, 0);
    }
}
