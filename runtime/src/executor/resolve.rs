//! From an entry's plan to addresses: each argument resolved to where its buffer lies, each launch to its kernel.
//! The same for every device: addresses are computed here and followed elsewhere, kernels are whatever a device calls
//! them.

use super::binding::{Binding, CacheSize};
use super::recording::RecordedLaunch;
use diptych_codegen::entry::{
    ArgRef, Buffer, CompiledEntry, GridCount, Launch, Limits, PlanStep, Role, Slot,
};
use diptych_ir::{DType, Symbol};
use diptych_passes::layout::{CHECKPOINT, Leading};
use std::collections::BTreeMap;

/// Where an argument of a launch lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Argument {
    base: *mut u8,
    slot_bytes: usize,
    slot: Slot,
    /// From one row to the next, where rows of the run are walked in turns and lie one after the other here.
    row_bytes: usize,
}

impl Argument {
    /// The address, in an iteration on a layer, from a row of the run on.
    pub fn at(&self, iteration: usize, layer: usize, row: usize) -> *mut u8 {
        // The buffer has a slot at every position that its plan names, and a row for each of the run.
        self.base.wrapping_add(self.slot.position(iteration, layer) * self.slot_bytes + row * self.row_bytes)
    }

    /// Bytes that its slot has from a row of the run on.
    pub fn room(&self, row: usize) -> usize {
        self.slot_bytes.saturating_sub(row * self.row_bytes)
    }
}

/// A launch of a kernel `F`.
pub(crate) struct LoadedLaunch<F> {
    pub function: F,
    pub args: Vec<Argument>,
    pub flat: i64,
    pub grid: Vec<GridCount>,
    /// Its position among the entry's launches.
    pub position: usize,
}

/// A step of an entry that launches kernels `F`.
pub(crate) enum LoadedStep<F> {
    /// Launches that need nothing of one another; mostly one.
    Launches(Vec<LoadedLaunch<F>>),
    Repeat {
        layers: usize,
        reverse: bool,
        body: Vec<LoadedStep<F>>,
    },
    Turns {
        rows: usize,
        body: Vec<LoadedStep<F>>,
    },
    Copy {
        from: Argument,
        to: Argument,
        leading: Leading,
        row_bytes: usize,
    },
}

/// The steps of an entry.
pub(crate) struct Resolved<F> {
    /// Those of a run.
    pub steps: Vec<LoadedStep<F>>,
    /// Those once after parameters were loaded.
    pub load_steps: Vec<LoadedStep<F>>,
    /// All launches, in program order, those of a run first.
    pub launches: Vec<RecordedLaunch>,
}

/// Resolves an entry, given where each of its buffers begins, how far slots of a buffer are apart, and its kernels by
/// position.
///
/// # Errors
/// The name of a kernel that is not there.
pub(crate) fn resolve<F>(
    entry: &CompiledEntry,
    bases: &[*mut u8],
    slot_bytes: &dyn Fn(usize) -> usize,
    kernel: &dyn Fn(usize) -> Option<F>,
) -> Result<Resolved<F>, String> {
    let mut loader = Loader { entry, bases, slot_bytes, kernel, launches: Vec::new(), in_turns: false };
    let steps = loader.steps(&entry.steps)?;
    let load_steps = loader.steps(&entry.load_steps)?;
    Ok(Resolved { steps, load_steps, launches: loader.launches })
}

struct Loader<'a, F> {
    entry: &'a CompiledEntry,
    bases: &'a [*mut u8],
    slot_bytes: &'a dyn Fn(usize) -> usize,
    kernel: &'a dyn Fn(usize) -> Option<F>,
    launches: Vec<RecordedLaunch>,
    in_turns: bool,
}

impl<F> Loader<'_, F> {
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

    fn steps(&mut self, steps: &[PlanStep]) -> Result<Vec<LoadedStep<F>>, String> {
        steps.iter().map(|step| self.step(step)).collect()
    }

    fn step(&mut self, step: &PlanStep) -> Result<LoadedStep<F>, String> {
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
    fn launch(&mut self, launch: &Launch, first: usize) -> Result<LoadedLaunch<F>, String> {
        let name = &self.entry.programs[launch.kernel].name;
        let function = (self.kernel)(launch.kernel).ok_or_else(|| format!("no kernel `{name}`"))?;
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

/// The size of a run, or of a turn of one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct RunSize {
    /// Tokens.
    pub rows: usize,
    /// Sequences.
    pub batch: usize,
    /// Pairs of a sequence and a chunk of its tokens.
    pub blocks: usize,
    /// Pairs of a sequence and a chunk of its positions so far.
    pub past_blocks: usize,
}

impl RunSize {
    /// Rows of a kind.
    pub fn rows(&self, leading: Leading) -> usize {
        match leading {
            Leading::None => 1,
            Leading::Batch => self.batch,
            Leading::Checkpoints => self.rows / CHECKPOINT + self.batch,
            _ => self.rows,
        }
    }

    /// Instances of a launch, where so many threads share the work.
    pub fn instances(&self, grid: &[GridCount], threads: usize) -> usize {
        let chunks = [self.blocks, self.past_blocks];
        grid.iter().map(|count| count.instances(|leading| self.rows(leading), chunks, threads)).product()
    }
}

/// Turns of at most so many rows each, evenly: how many rows each has but the last, and how many turns there are. A run
/// without rows has one turn, in which sums become zero.
pub(crate) fn even_turns(all: usize, most: usize) -> (usize, usize) {
    let rows = all.div_ceil(all.div_ceil(most).max(1)).max(1);
    (rows, all.div_ceil(rows).max(1))
}

/// Inputs and roots by name.
pub(crate) struct Ports {
    named: BTreeMap<Symbol, (usize, bool)>,
    buffers: Vec<Buffer>,
    limits: Limits,
    panel: usize,
}

impl Ports {
    /// Those of an entry.
    pub fn of(entry: &CompiledEntry, limits: Limits) -> Ports {
        let port = |(id, buffer): (usize, &Buffer)| match buffer.role {
            Role::Input(name) => Some((name, (id, true))),
            Role::Root(name) => Some((name, (id, false))),
            _ => None,
        };
        let named = entry.buffers.iter().enumerate().filter_map(port).collect();
        Ports { named, buffers: entry.buffers.clone(), limits, panel: entry.panel }
    }

    /// The buffer of an input.
    pub fn input(&self, name: &str) -> Option<usize> {
        self.named.get(&Symbol::new(name)).filter(|port| port.1).map(|port| port.0)
    }

    /// The buffer of a root of this type, read as elements of so many bytes, and how many they are.
    pub fn root(&self, dtype: DType, element_bytes: usize, name: &str) -> Option<(usize, usize)> {
        let &(id, is_input) = self.named.get(&Symbol::new(name))?;
        let buffer = &self.buffers[id];
        let fits = !is_input && buffer.dtype == dtype && element_bytes == dtype.bytes();
        fits.then(|| (id, buffer.slot_elements(self.limits, self.panel)))
    }

    /// Elements of a root, or an input, for each of its rows.
    pub fn width(&self, name: &str) -> Option<usize> {
        let &(id, _) = self.named.get(&Symbol::new(name))?;
        Some(self.buffers[id].layout.row_elements(self.panel))
    }

    /// The largest run.
    pub fn limits(&self) -> Limits {
        self.limits
    }
}

/// Whether a temporary value has padding, for which it has memory of its own that begins as zero.
pub(crate) fn keeps_padding(buffer: &Buffer, panel: usize) -> bool {
    buffer.role == Role::Temporary && buffer.has_padding(panel)
}

/// Refuses a binding that is not for an executable with these limits, with one token of each sequence if so, and these
/// caches.
///
/// # Panics
/// When it does not fit: who makes both knows both.
pub(crate) fn assert_fits(binding: &Binding, limits: Limits, one_each: bool, cache: Option<CacheSize>) {
    let room = binding.rows() <= limits.rows && binding.batch() <= limits.batch;
    assert!(room, "the run is larger than the executable was loaded for");
    let one_each = !one_each || binding.rows() == binding.batch();
    assert!(one_each, "where threads share chunks of positions, a run has one token of each sequence");
    let named = binding.cache();
    let reached = cache.is_none_or(|cache| {
        (1..=cache.chunks).contains(&named.chunks) && (1..=cache.sequences).contains(&named.sequences)
    });
    assert!(reached, "the binding is for another cache than the executable was loaded with");
}
