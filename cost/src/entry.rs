//! What an entry takes, launch by launch in the order of the run: how far away an operand has been pushed since it
//! was last touched follows from what ran meanwhile, in this run and at the end of the one before.
//! It must not know what kernels compute, and it runs nothing.

use crate::gpu::predict_launch;
use crate::launch::Whole;
use crate::launch::{Counted, RunSizes, count, whole_work};
use crate::machine::{Kind, Machine};
use crate::roofline::{Bound, Breakdown, predict};
use crate::work::{Direction, Dot, Traffic, Work};
use diptych_codegen::entry::{ArgRef, BufferId, CompiledEntry, Launch, Limits, PlanStep, Role};
use diptych_ir::RegionId;
use diptych_passes::layout::Leading;
use diptych_passes::plan::place;
use std::collections::HashMap;
use std::rc::Rc;

/// A launch, over all layers in which it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct LaunchPrediction {
    /// The kernel, by position in the entry.
    pub kernel: usize,
    /// What the kernel is called after, and what it fuses, a line each.
    pub name: String,
    /// See [`diptych_codegen::tile::TileProgram::notes`].
    pub notes: Vec<String>,
    /// The region that it is of.
    pub region: RegionId,
    /// Its position among the entry's launches, in program order: that of its time in the executor.
    pub launch: usize,
    /// How often it runs: layers, within a repeat.
    pub runs: usize,
    /// What all of its runs do.
    pub work: Work,
    /// What all of its runs take.
    pub seconds: f64,
    /// What that is mostly due to.
    pub bound: Bound,
    /// The parts.
    pub breakdown: Breakdown,
}

/// All that a run of an entry does.
#[derive(Clone, Debug, PartialEq)]
pub struct EntryPrediction {
    /// Its launches, in program order.
    pub launches: Vec<LaunchPrediction>,
    /// Copies between buffers, which are no kernels.
    pub copy_seconds: f64,
    /// Bytes that these copies read; they write as many.
    pub copied_bytes: f64,
}

impl EntryPrediction {
    /// Seconds of a run.
    pub fn seconds(&self) -> f64 {
        self.copy_seconds + self.launches.iter().map(|launch| launch.seconds).sum::<f64>()
    }

    /// All that its kernels do.
    pub fn work(&self) -> Work {
        self.launches.iter().map(|launch| launch.work.clone()).sum()
    }
}

/// Predicts a run of an entry with these sequences on so many threads of a machine, one run after another.
///
/// Layers are predicted one by one, since what is near to the first may be far from the last.
pub fn predict_entry(
    entry: &CompiledEntry,
    machine: &Machine,
    threads: usize,
    run: &RunSizes,
) -> EntryPrediction {
    if machine.kind == Kind::Gpu {
        return predict_on_gpu(entry, machine, run);
    }
    let mut launches = Vec::new();
    number(&entry.steps, 1, run.rows(), &mut launches);
    let mut predictions: Vec<LaunchPrediction> = Vec::with_capacity(launches.len());
    for (position, (launch, runs)) in launches.iter().enumerate() {
        let program = &entry.programs[launch.kernel];
        predictions.push(LaunchPrediction {
            kernel: launch.kernel,
            name: program.name.clone(),
            notes: program.notes.clone(),
            region: launch.region,
            launch: position,
            runs: *runs,
            work: Work::default(),
            seconds: 0.0,
            bound: Bound::Launch,
            breakdown: Breakdown::default(),
        });
    }
    let mut walk = Walk {
        entry,
        machine,
        threads,
        run,
        counted: HashMap::new(),
        rows: run.rows(),
        memory: Memory::new(entry, run),
        next: 0,
        found: None,
        copy_seconds: 0.0,
        copied_bytes: 0.0,
    };
    // The first time only tells where operands are left.
    walk.steps(&entry.steps, 0, 0);
    walk.found = Some(predictions);
    (walk.copy_seconds, walk.copied_bytes) = (0.0, 0.0);
    walk.next = 0;
    walk.steps(&entry.steps, 0, 0);
    let (copy_seconds, copied_bytes) = (walk.copy_seconds, walk.copied_bytes);
    let mut launches = walk.found.unwrap_or_default();
    for launch in &mut launches {
        launch.bound = launch.breakdown.bound();
    }
    EntryPrediction { launches, copy_seconds, copied_bytes }
}

/// As [`predict_entry`] on a machine that cuts kernels its own way. Operands come from main memory and results
/// go there; launches that wait for nothing of one another are one.
fn predict_on_gpu(entry: &CompiledEntry, machine: &Machine, run: &RunSizes) -> EntryPrediction {
    let mut prediction = EntryPrediction { launches: Vec::new(), copy_seconds: 0.0, copied_bytes: 0.0 };
    steps_on_gpu(entry, &entry.steps, 1, machine, run, &mut prediction);
    prediction
}

fn steps_on_gpu(
    entry: &CompiledEntry,
    steps: &[PlanStep],
    runs: usize,
    machine: &Machine,
    run: &RunSizes,
    into: &mut EntryPrediction,
) {
    for step in steps {
        match step {
            PlanStep::Launch(launch) => into.launches.push(on_gpu(entry, launch, runs, machine, run, 1.0)),
            PlanStep::Together(together) => {
                for (position, launch) in together.iter().enumerate() {
                    let launches = if position == 0 { 1.0 } else { 0.0 };
                    into.launches.push(on_gpu(entry, launch, runs, machine, run, launches));
                }
            }
            PlanStep::Repeat { layers, body, .. } => {
                steps_on_gpu(entry, body, runs * layers, machine, run, into);
            }
            // There, a turn is the whole run.
            PlanStep::Turns { body, .. } => steps_on_gpu(entry, body, runs, machine, run, into),
            PlanStep::Copy { from, .. } => {
                let bytes = copied_bytes(entry, *from, run);
                let whole = Whole { read_bytes: bytes, written_bytes: bytes, ..Whole::default() };
                into.copied_bytes += runs as f64 * bytes;
                into.copy_seconds += runs as f64 * predict_launch(&whole, machine, 1.0).seconds;
            }
        }
    }
    for (position, launch) in into.launches.iter_mut().enumerate() {
        launch.launch = position;
    }
}

fn on_gpu(
    entry: &CompiledEntry,
    launch: &Launch,
    runs: usize,
    machine: &Machine,
    run: &RunSizes,
    launches: f64,
) -> LaunchPrediction {
    let program = &entry.programs[launch.kernel];
    let whole = whole_work(program, launch, run);
    let one = predict_launch(&whole, machine, launches);
    let times = runs as f64;
    let dots = whole.contractions.iter().map(|each| Dot {
        flops: each.flops * times,
        issued_flops: each.flops * times,
        rows: each.rows,
        depth: each.depth,
        precision: each.precision,
    });
    let moved = [Traffic::read(whole.read_bytes * times), Traffic::write(whole.written_bytes * times)];
    let work = Work {
        dots: dots.collect(),
        scalar: whole.scalar * times,
        traffic: moved.into_iter().filter(|traffic| traffic.bytes > 0.0).collect(),
        launches: launches * times,
        ..Work::default()
    };
    LaunchPrediction {
        kernel: launch.kernel,
        name: program.name.clone(),
        notes: program.notes.clone(),
        region: launch.region,
        launch: 0,
        runs,
        work,
        seconds: one.seconds * times,
        bound: one.bound,
        breakdown: one.breakdown.times(times),
    }
}

/// The launches of a run of so many rows, each with how often it runs.
fn number<'a>(steps: &'a [PlanStep], times: usize, rows: usize, launches: &mut Vec<(&'a Launch, usize)>) {
    for step in steps {
        match step {
            PlanStep::Launch(launch) => launches.push((launch, times)),
            PlanStep::Together(together) => launches.extend(together.iter().map(|launch| (launch, times))),
            PlanStep::Repeat { layers, body, .. } => number(body, times * layers, rows, launches),
            PlanStep::Turns { rows: of_turn, body } => {
                number(body, times * rows.div_ceil(*of_turn).max(1), rows, launches);
            }
            PlanStep::Copy { .. } => {}
        }
    }
}

struct Walk<'a> {
    entry: &'a CompiledEntry,
    machine: &'a Machine,
    threads: usize,
    run: &'a RunSizes,
    /// By the launch's position and the rows of a turn.
    counted: HashMap<(usize, usize), Rc<Counted>>,
    /// Rows of the run, or of the turn at hand.
    rows: usize,
    memory: Memory<'a>,
    /// Position of the next launch in program order.
    next: usize,
    found: Option<Vec<LaunchPrediction>>,
    copy_seconds: f64,
    copied_bytes: f64,
}

impl Walk<'_> {
    fn steps(&mut self, steps: &[PlanStep], iteration: usize, layer: usize) {
        for step in steps {
            match step {
                PlanStep::Launch(launch) => self.launch(launch, iteration, layer),
                PlanStep::Together(together) => {
                    together.iter().for_each(|launch| self.launch(launch, iteration, layer));
                }
                PlanStep::Repeat { layers, reverse, body } => {
                    let first = self.next;
                    for iteration in 0..*layers {
                        self.next = first;
                        let layer = if *reverse { layers - 1 - iteration } else { iteration };
                        self.steps(body, iteration, layer);
                    }
                }
                PlanStep::Turns { rows, body } => {
                    let (first, all) = (self.next, self.rows);
                    for start in (0..all.max(1)).step_by(*rows) {
                        self.next = first;
                        self.rows = (*rows).min(all - start);
                        self.steps(body, iteration, layer);
                    }
                    self.rows = all;
                }
                PlanStep::Copy { from, to } => self.copy((*from, *to), iteration, layer),
            }
        }
    }

    /// What a launch does, in a turn with its rows alone: they belong to no sequence there.
    fn count(&mut self, position: usize, launch: &Launch) -> Rc<Counted> {
        let counted = self.counted.entry((position, self.rows)).or_insert_with(|| {
            let turn = (self.rows < self.run.rows()).then(|| RunSizes::equal(1, 0, self.rows));
            let program = &self.entry.programs[launch.kernel];
            Rc::new(count(program, launch, turn.as_ref().unwrap_or(self.run), self.entry.panel))
        });
        counted.clone()
    }

    fn launch(&mut self, launch: &Launch, iteration: usize, layer: usize) {
        let position = self.next;
        self.next += 1;
        let counted = self.count(position, launch);
        let at = |arg: usize| slot(launch.args[arg], iteration, layer);
        let mut work = counted.work.clone();
        for (arg, traffic) in &counted.operands {
            for (bytes, distance) in self.memory.distances(at(*arg), traffic.footprint_bytes) {
                let part = traffic.part(bytes / traffic.footprint_bytes.max(1.0));
                work.traffic.push(part.last_used(distance.max(traffic.footprint_bytes)));
            }
        }
        // An argument that several statements look at, or that is read and written, is there once.
        let mut touched: HashMap<(BufferId, usize), f64> = HashMap::new();
        for (arg, traffic) in &counted.operands {
            let bytes = touched.entry(at(*arg)).or_insert(0.0);
            *bytes = bytes.max(traffic.footprint_bytes);
        }
        self.memory.touch(&touched);
        if let Some(found) = &mut self.found {
            let prediction = predict(&work, self.machine, self.threads);
            let launch = &mut found[position];
            launch.seconds += prediction.seconds;
            launch.breakdown += &prediction.breakdown;
            launch.work += work;
        }
    }

    fn copy(&mut self, (from, to): (ArgRef, ArgRef), iteration: usize, layer: usize) {
        let bytes = copied_bytes(self.entry, from, self.run);
        self.copied_bytes += bytes;
        let (from, to) = (slot(from, iteration, layer), slot(to, iteration, layer));
        let moves = [(from, Direction::Read), (to, Direction::Write)].map(|(place, direction)| Traffic {
            direction,
            ..Traffic::read(bytes).last_used(self.memory.farthest(place, bytes).max(bytes))
        });
        self.memory.touch(&HashMap::from([(from, bytes), (to, bytes)]));
        let instances = self.threads as f64;
        let work = Work { traffic: moves.to_vec(), instances, launches: 1.0, ..Work::default() };
        self.copy_seconds += predict(&work, self.machine, self.threads).seconds;
    }
}

fn copied_bytes(entry: &CompiledEntry, from: ArgRef, run: &RunSizes) -> f64 {
    let buffer = &entry.buffers[from.buffer];
    let slots = match buffer.layout.leading() {
        Leading::None if from.slot == diptych_codegen::entry::Slot::First => buffer.slots,
        _ => 1,
    };
    (slots * buffer.slot_elements(limits(run), entry.panel)) as f64 * buffer.dtype.bytes() as f64
}

fn slot(arg: ArgRef, iteration: usize, layer: usize) -> (BufferId, usize) {
    (arg.buffer, arg.slot.position(iteration, layer))
}

fn limits(run: &RunSizes) -> Limits {
    Limits { rows: run.rows(), batch: run.batch() }
}

/// When each value was last touched, counted in bytes touched since the start.
struct Memory<'a> {
    entry: &'a CompiledEntry,
    clock: f64,
    /// Of each value, newest last: when, and how many of its bytes. What a newer touch covers is not kept, so
    /// the bytes fall.
    touched: HashMap<(BufferId, usize), Vec<(f64, f64)>>,
    /// Distinct bytes that a run touches: nothing is farther away.
    all: f64,
    sizes: HashMap<(BufferId, usize), f64>,
    /// The values that share memory with each temporary value.
    neighbours: Vec<Vec<BufferId>>,
}

impl<'a> Memory<'a> {
    fn new(entry: &'a CompiledEntry, run: &RunSizes) -> Memory<'a> {
        let lifetimes = entry.lifetimes(limits(run), run.cached());
        let arena = place(&lifetimes);
        let temporary = |id: &BufferId| entry.buffers[*id].role == Role::Temporary;
        let range = |id: BufferId| (arena.offsets[id], arena.offsets[id] + lifetimes[id].bytes);
        let neighbours = (0..entry.buffers.len())
            .map(|id| {
                if !temporary(&id) {
                    return vec![id];
                }
                let (start, end) = range(id);
                let shares = |other: &BufferId| {
                    let (from, to) = range(*other);
                    temporary(other) && (*other == id || (from < end && start < to))
                };
                (0..entry.buffers.len()).filter(shares).collect()
            })
            .collect();
        Memory { entry, clock: 0.0, touched: HashMap::new(), all: 0.0, sizes: HashMap::new(), neighbours }
    }

    /// `bytes` of a value, in parts: how many, and how many bytes were touched since they were last, at most all.
    fn distances(&self, place: (BufferId, usize), bytes: f64) -> Vec<(f64, f64)> {
        let last = |place: (BufferId, usize)| self.touched.get(&place).and_then(|touches| touches.last());
        let others = self.neighbours[place.0].iter().filter(|other| **other != place.0);
        // A value that this run has not yet touched finds what lay in its place.
        let of_others = others
            .flat_map(|&other| (0..self.entry.buffers[other].slots).map(move |slot| (other, slot)))
            .filter_map(last)
            .map(|touch| self.clock - touch.0)
            .fold(self.all, f64::min);
        let mut parts = Vec::new();
        let mut covered = 0.0;
        for &(clock, of_touch) in self.touched.get(&place).into_iter().flatten().rev() {
            let more = of_touch.min(bytes) - covered;
            if more > 0.0 {
                parts.push((more, (self.clock - clock).min(of_others)));
                covered += more;
            }
        }
        if covered < bytes || parts.is_empty() {
            parts.push((bytes - covered, of_others));
        }
        parts
    }

    /// The largest of [`Memory::distances`].
    fn farthest(&self, place: (BufferId, usize), bytes: f64) -> f64 {
        self.distances(place, bytes).into_iter().map(|part| part.1).fold(0.0, f64::max)
    }

    /// Values are touched together, each with so many bytes.
    fn touch(&mut self, places: &HashMap<(BufferId, usize), f64>) {
        let bytes: f64 = places.values().sum();
        for (&place, &bytes) in places {
            let size = self.sizes.entry(place).or_insert(0.0);
            if bytes > *size {
                self.all += bytes - *size;
                *size = bytes;
            }
        }
        self.clock += bytes;
        for (&place, &bytes) in places {
            let touches = self.touched.entry(place).or_default();
            while touches.pop_if(|touch| touch.1 <= bytes).is_some() {}
            touches.push((self.clock, bytes));
        }
    }
}
