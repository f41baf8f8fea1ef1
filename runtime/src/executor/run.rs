//! An entry ready to run: every argument resolved to memory. One parallel
//! region is one run; threads take instances of a launch as they come free,
//! which changes no bit, since an instance is computed by one thread in one
//! order.

use super::binding::{Binding, CacheSize};
use super::caches::CacheRooms;
use super::library::{KernelFn, Kernels};
use super::memory::{AlignedBytes, OutOfMemory};
use super::parameters::ParameterStore;
use super::recording::{Part, Pen, RecordedLaunch, Recorder, Recording, RunPen};
use super::workspace::{MemoryBound, Workspace};
use crate::cpu::pool::{Barrier, Pool};
use diptych_codegen::c::prelude::{BLOCK_FUNCTIONS, DOT_FUNCTIONS, VectorWidth};
use diptych_codegen::c::step::StepTables;
use diptych_codegen::entry::{
    ArgRef, Buffer, CompiledEntry, GridCount, Launch, Limits, MOST_ARGS, PlanStep, Role, Slot,
};
use diptych_codegen::tile::CHUNK;
use diptych_ir::{DType, Symbol};
use diptych_passes::layout::{CHECKPOINT, Leading};
use diptych_passes::plan::place;
use std::collections::{BTreeMap, HashMap};
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Memory that an entry shares with others.
#[derive(Clone, Copy, Default)]
pub struct SharedMemory<'a> {
    /// The caches, if it has any; they must outlive the executable.
    pub caches: Option<&'a CacheRooms>,
    /// Where it works; one of its own, if `None`.
    pub workspace: Option<&'a Arc<Workspace>>,
}

#[derive(Clone, Copy)]
struct Argument {
    base: *mut u8,
    slot_bytes: usize,
    slot: Slot,
    /// From one row to the next, where rows of the run are walked in turns and lie one after the other here.
    row_bytes: usize,
}

struct LoadedLaunch {
    function: KernelFn,
    args: Vec<Argument>,
    flat: i64,
    grid: Vec<GridCount>,
    /// Its position among the entry's launches.
    position: usize,
}

enum LoadedStep {
    /// Launches that need nothing of one another; mostly one.
    Launches(Vec<LoadedLaunch>),
    Repeat {
        layers: usize,
        reverse: bool,
        body: Vec<LoadedStep>,
    },
    Turns {
        rows: usize,
        body: Vec<LoadedStep>,
    },
    Copy {
        from: Argument,
        to: Argument,
        leading: Leading,
        row_bytes: usize,
    },
}

/// An entry with its memory.
pub struct Executable {
    /// Whether a run has one token of each sequence, since chunks of positions are shared.
    one_each: bool,
    steps: Vec<LoadedStep>,
    load_steps: Vec<LoadedStep>,
    named: BTreeMap<Symbol, (usize, bool)>,
    buffers: Vec<Buffer>,
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
    limits: Limits,
    /// Of its caches; `None` where it has none.
    cache: Option<CacheSize>,
    panel: usize,
    bound: MemoryBound,
}

// The pointers are into memory that the executable owns, or that its user keeps alive; a run has it alone.
unsafe impl Send for Executable {}
unsafe impl Sync for Executable {}

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

impl Executable {
    /// What an entry will take, before anything is taken, with caches of this size, if it has any.
    pub fn memory_bound(
        entry: &CompiledEntry,
        limits: Limits,
        cache: CacheSize,
        threads: usize,
        width: VectorWidth,
    ) -> MemoryBound {
        let of = |wanted: fn(&Role) -> bool| {
            let buffers = entry.buffers.iter().filter(|buffer| wanted(&buffer.role));
            buffers.map(|buffer| buffer.bytes(limits, entry.panel)).sum::<usize>()
        };
        let padded = entry.buffers.iter().filter(|buffer| keeps_padding(buffer, entry.panel));
        let padded = padded.map(|buffer| buffer.bytes(limits, entry.panel)).sum();
        let scratch = entry.kernels.iter().map(|kernel| kernel.scratch_floats).max().unwrap_or(0)
            + width.dot_scratch_floats();
        MemoryBound {
            arena: place(&entry.lifetimes(limits, cache.chunks * CHUNK)).bytes,
            inputs_and_roots: of(|role| matches!(role, Role::Input(_) | Role::Root(_))),
            derived: of(|role| *role == Role::Derived),
            padded,
            scratch: threads * scratch.next_multiple_of(1024) * size_of::<f32>(),
        }
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
    ) -> Result<Executable, LoadError> {
        let missing = |problem: String| LoadError::Missing { entry: entry.kind.name().to_owned(), problem };
        let cache = caches.map(CacheRooms::size).unwrap_or_default();
        let bound = Self::memory_bound(entry, limits, cache, threads, width);
        let layout = place(&entry.lifetimes(limits, cache.chunks * CHUNK));
        let workspace = match workspace {
            Some(workspace) if workspace.has_room_for(&bound) => workspace.clone(),
            Some(_) => return Err(missing("room in the workspace".to_owned())),
            None => Workspace::new([bound])?,
        };
        let mut owned = HashMap::new();
        let mut named = BTreeMap::new();
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
                    let room = caches.and_then(|caches| caches.room(role));
                    room.ok_or_else(|| missing("no room for a cache".to_owned()))?.as_ptr()
                }
                Role::Input(_) | Role::Root(_) | Role::Derived | Role::Temporary => {
                    let bytes = AlignedBytes::zeroed(buffer.bytes(limits, entry.panel))?;
                    let start = bytes.as_ptr();
                    owned.insert(id, bytes);
                    match buffer.role {
                        Role::Input(name) => named.insert(name, (id, true)),
                        Role::Root(name) => named.insert(name, (id, false)),
                        _ => None,
                    };
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
        let mut loader = Loader {
            entry,
            kernels,
            bases: &bases,
            slot_bytes: &slot_bytes,
            launches: Vec::new(),
            in_turns: false,
        };
        let steps = loader.steps(&entry.steps).map_err(missing)?;
        let load_steps = loader.steps(&entry.load_steps).map_err(missing)?;
        let launches = loader.launches;
        let scratch_floats = bound.scratch / size_of::<f32>() / threads;
        let cached = CacheRooms::each(entry, CacheSize::default()).next().is_some();
        Ok(Executable {
            one_each: entry.buffers.iter().any(|buffer| buffer.layout.leading() == Leading::Chunks),
            steps,
            load_steps,
            named,
            buffers: entry.buffers.clone(),
            owned,
            workspace,
            scratch_floats,
            counters: Default::default(),
            launches,
            recorder: None,
            threads,
            dots: kernels.dots(),
            in_blocks: kernels.in_blocks(),
            limits,
            cache: caches.filter(|_| cached).map(CacheRooms::size),
            panel: entry.panel,
            bound,
        })
    }

    /// What it took.
    pub fn bound(&self) -> MemoryBound {
        self.bound
    }

    /// The largest run that it has room for.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The elements of an input, to fill before a run; `None` if the entry has no such input.
    pub fn input<T: bytemuck::Pod>(&mut self, name: &str) -> Option<&mut [T]> {
        match self.named.get(&Symbol::new(name)) {
            Some(&(id, true)) => self.owned.get_mut(&id).map(AlignedBytes::as_mut_slice),
            _ => None,
        }
    }

    /// The elements of an f32 root after a run, a row one after the other.
    pub fn root(&self, name: &str) -> Option<&[f32]> {
        self.root_as(DType::F32, name)
    }

    /// The elements of a root of this type: f32, i32, or bytes for bool (0 or 1).
    pub fn root_as<T: bytemuck::Pod>(&self, dtype: DType, name: &str) -> Option<&[T]> {
        match self.named.get(&Symbol::new(name)) {
            Some(&(id, false)) if self.buffers[id].dtype == dtype && size_of::<T>() == dtype.bytes() => {
                let elements = self.buffers[id].slot_elements(self.limits, self.panel);
                self.owned.get(&id).map(|bytes| &bytes.as_slice::<T>()[..elements])
            }
            _ => None,
        }
    }

    /// Elements of a root for each of its rows.
    pub fn root_width(&self, name: &str) -> Option<usize> {
        let &(id, _) = self.named.get(&Symbol::new(name))?;
        Some(self.buffers[id].layout.row_elements(self.panel))
    }

    /// Records the next runs, of which there are at most so many; what was recorded before is dropped.
    pub fn record(&mut self, runs: usize) {
        let rows = self.limits.rows;
        let slices = slices(&self.steps, rows).max(slices(&self.load_steps, rows));
        self.recorder = (runs > 0).then(|| Recorder::new(runs, slices, self.threads));
    }

    /// What was recorded since [`Executable::record`], which ends with this; empty if nothing was.
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

    fn execute(&mut self, steps: &[LoadedStep], pool: &Pool, binding: &Binding) {
        let room = binding.rows() <= self.limits.rows && binding.batch() <= self.limits.batch;
        assert!(room, "the run is larger than the executable was loaded for");
        let one_each = !self.one_each || binding.rows() == binding.batch();
        assert!(one_each, "where threads share chunks of positions, a run has one token of each sequence");
        let named = binding.cache();
        let reached = self.cache.is_none_or(|cache| {
            (1..=cache.chunks).contains(&named.chunks) && (1..=cache.sequences).contains(&named.sequences)
        });
        assert!(reached, "the binding is for another cache than the executable was loaded with");
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

/// Whether a temporary value has padding, for which it has memory of its own that begins as zero.
fn keeps_padding(buffer: &Buffer, panel: usize) -> bool {
    buffer.role == Role::Temporary && buffer.has_padding(panel)
}

struct Loader<'a> {
    entry: &'a CompiledEntry,
    kernels: &'a Kernels,
    bases: &'a [*mut u8],
    slot_bytes: &'a dyn Fn(usize) -> usize,
    launches: Vec<RecordedLaunch>,
    in_turns: bool,
}

impl Loader<'_> {
    fn argument(&self, place: ArgRef) -> Argument {
        let buffer = &self.entry.buffers[place.buffer];
        let moves = self.in_turns && buffer.turn.is_none() && buffer.layout.leading() == Leading::Rows;
        let row_bytes = buffer.layout.row_elements(self.entry.panel) * buffer.dtype.bytes();
        Argument {
            base: self.bases[place.buffer],
            slot_bytes: (self.slot_bytes)(place.buffer),
            slot: place.slot,
            row_bytes: if moves { row_bytes } else { 0 },
        }
    }

    fn steps(&mut self, steps: &[PlanStep]) -> Result<Vec<LoadedStep>, String> {
        steps.iter().map(|step| self.step(step)).collect()
    }

    fn step(&mut self, step: &PlanStep) -> Result<LoadedStep, String> {
        Ok(match step {
            PlanStep::Launch(launch) => LoadedStep::Launches(vec![self.launch(launch, self.launches.len())?]),
            PlanStep::Together(launches) => {
                let first = self.launches.len();
                LoadedStep::Launches(
                    launches.iter().map(|launch| self.launch(launch, first)).collect::<Result<_, _>>()?,
                )
            }
            PlanStep::Repeat { layers, reverse, body } => {
                LoadedStep::Repeat { layers: *layers, reverse: *reverse, body: self.steps(body)? }
            }
            PlanStep::Turns { rows, body } => {
                self.in_turns = true;
                let body = self.steps(body);
                self.in_turns = false;
                LoadedStep::Turns { rows: *rows, body: body? }
            }
            PlanStep::Copy { from, to } => {
                let buffer = &self.entry.buffers[from.buffer];
                let row = buffer.layout.row_elements(self.entry.panel) * buffer.dtype.bytes();
                let leading = buffer.layout.leading();
                // A stack of layers without run-time rows is copied whole.
                let row_bytes = if leading == Leading::None && from.slot == Slot::First {
                    row * buffer.slots
                } else {
                    row
                };
                LoadedStep::Copy { from: self.argument(*from), to: self.argument(*to), leading, row_bytes }
            }
        })
    }

    /// Loads a launch that runs together with others from the position `first` on.
    fn launch(&mut self, launch: &Launch, first: usize) -> Result<LoadedLaunch, String> {
        let name = &self.entry.kernels[launch.kernel].name;
        let function = self.kernels.function(name).ok_or_else(|| format!("no kernel `{name}`"))?;
        self.launches.push(RecordedLaunch { kernel: launch.kernel, region: launch.region, first });
        Ok(LoadedLaunch {
            function,
            args: launch.args.iter().map(|&place| self.argument(place)).collect(),
            flat: launch.flat as i64,
            grid: launch.grid.clone(),
            position: self.launches.len() - 1,
        })
    }
}

/// The most slices that a thread records in a run of these steps over so many rows.
fn slices(steps: &[LoadedStep], rows: usize) -> usize {
    let of = |step: &LoadedStep| match step {
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
    steps: &'a [LoadedStep],
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
    fn steps(&mut self, steps: &[LoadedStep], iteration: usize, layer: usize) {
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
                    self.copy((*from, *to), self.rows(*leading) * row_bytes, iteration, layer);
                }
            }
        }
    }

    /// Steps over so many rows after so many. A run without rows has one turn, in which sums become zero.
    fn turns(&mut self, rows: usize, body: &[LoadedStep], iteration: usize, layer: usize) {
        let whole = self.tables;
        let all = whole.rows as usize;
        let rows = all.div_ceil(all.div_ceil(rows).max(1)).max(1);
        for turn in 0..all.div_ceil(rows).max(1) {
            self.row = turn * rows;
            self.tables.turn = turn as i64;
            self.tables.rows = rows.min(all - self.row) as i64;
            // SAFETY: the tables have an element for each row of the run.
            self.tables.row_position = unsafe { whole.row_position.add(self.row) };
            self.steps(body, iteration, layer);
        }
        (self.row, self.tables) = (0, whole);
    }

    fn rows(&self, leading: Leading) -> usize {
        match leading {
            Leading::None => 1,
            Leading::Batch => self.tables.batch as usize,
            Leading::Checkpoints => self.tables.rows as usize / CHECKPOINT + self.tables.batch as usize,
            _ => self.tables.rows as usize,
        }
    }

    fn instances(&self, grid: &[GridCount]) -> usize {
        let chunks = [self.tables.blocks, self.tables.past_blocks].map(|chunks| chunks as usize);
        let threads = self.tables.threads as usize;
        grid.iter().map(|count| count.instances(|leading| self.rows(leading), chunks, threads)).product()
    }

    /// Runs launches that need nothing of one another, and waits for the last of them.
    fn launches(&mut self, launches: &[LoadedLaunch], iteration: usize, layer: usize) {
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

impl Argument {
    fn at(&self, iteration: usize, layer: usize, row: usize) -> *mut u8 {
        // SAFETY: the buffer has a slot at every position that its plan names, and a row for each of the run.
        unsafe {
            self.base.add(self.slot.position(iteration, layer) * self.slot_bytes + row * self.row_bytes)
        }
    }
}
