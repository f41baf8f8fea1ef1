//! A compiled entry: its kernels, the steps that launch them, and the buffers
//! that they read and write. It is data for an executor; it runs nothing.

mod build;
mod error;
mod layouts;
mod maps;
mod options;
mod overwriting;
mod repeats;
mod together;
mod turns;

pub use build::compile_entry;
pub(crate) use build::compile_entry_timed;
pub use error::CompileError;
pub use options::{EntryOptions, Language};

use crate::c::KernelText;
use crate::cuda;
use crate::lower::{Source, Sum};
use crate::tile::{CHUNK, DimId, Extent, TileProgram};
use diptych_ir::{DType, EntryKind, NodeId, RegionId, Symbol};
use diptych_passes::layout::{CHECKPOINT, Layout, Leading, product};
use diptych_passes::plan::Lifetime;

/// The most arguments of a kernel.
pub const MOST_ARGS: usize = 96;

/// A buffer, by position in [`CompiledEntry::buffers`].
pub type BufferId = usize;

/// What a buffer is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// A parameter or a state, kept from run to run.
    Stored(Symbol),
    /// What the caller gives.
    Input(Symbol),
    /// What the caller reads after the run.
    Root(Symbol),
    /// Computed from parameters alone, once after they are loaded.
    Derived,
    /// What a `history` has seen.
    Cache {
        /// Which of the program's caches it is.
        room: usize,
        /// How many positions are kept, if not all.
        window: Option<usize>,
    },
    /// The state of each sequence, of a value that a scan carries.
    State {
        /// Which of the program's recurrences it is.
        room: usize,
        /// Which of the carried values.
        index: usize,
    },
    /// Alive within a run only.
    Temporary,
}

/// A buffer of an entry.
#[derive(Clone, PartialEq, Debug)]
pub struct Buffer {
    /// What it is.
    pub role: Role,
    /// Element type.
    pub dtype: DType,
    /// How one layer's value is stored.
    pub layout: Layout,
    /// Values one after the other: layers, or places that carried values take in turn.
    pub slots: usize,
    /// Where it is there for one turn at a time: the most rows of a turn.
    pub turn: Option<usize>,
    /// When it is alive, for temporaries: steps of the top level.
    pub first: usize,
    /// The last such step.
    pub last: usize,
}

/// The largest run that an arena is planned for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Tokens of a run, all sequences together.
    pub rows: usize,
    /// Sequences.
    pub batch: usize,
}

impl Buffer {
    /// Elements of one slot.
    pub fn slot_elements(&self, limits: Limits, panel: usize) -> usize {
        let rows = match self.layout.leading() {
            Leading::None => 1,
            Leading::Rows | Leading::Past => limits.rows.min(self.turn.unwrap_or(usize::MAX)),
            Leading::Batch => limits.batch,
            Leading::Checkpoints => limits.rows / CHECKPOINT + limits.batch,
            Leading::Chunks | Leading::Quadratic => 0,
        };
        rows * self.layout.row_elements(panel)
    }

    /// Whether the last panel of its packed value is filled up. What fills it must be
    /// zero, since sums over the value run over it, and no kernel writes it.
    pub fn has_padding(&self, panel: usize) -> bool {
        matches!(&self.layout, Layout::Packed { n, .. } if !product(n).is_multiple_of(panel))
    }

    /// Whether it is the root of this name.
    pub fn is_root(&self, name: &str) -> bool {
        matches!(self.role, Role::Root(root) if root.as_str() == name)
    }

    /// Size, in bytes.
    pub fn bytes(&self, limits: Limits, panel: usize) -> usize {
        self.slots * self.slot_elements(limits, panel) * self.dtype.bytes()
    }
}

/// Which slot of a buffer a launch within a repeat uses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Slot {
    /// The first.
    First,
    /// That of the layer.
    Layer,
    /// That of how many layers have run: what the layer is given.
    Before,
    /// That of how many layers will have run after this one: what it passes on.
    After,
    /// The same, where two slots take turns.
    BeforeInTurn,
    /// The same, where two slots take turns.
    AfterInTurn,
    /// Where a repeat leaves what it carried, given its number of layers.
    Final(usize),
    /// The same, where two slots take turns.
    FinalInTurn(usize),
}

impl Slot {
    /// The slot's position, in iteration `step` of `layers`, on layer `layer`.
    pub fn position(self, step: usize, layer: usize) -> usize {
        match self {
            Slot::First => 0,
            Slot::Layer => layer,
            Slot::Before => step,
            Slot::After => step + 1,
            Slot::BeforeInTurn => step % 2,
            Slot::AfterInTurn => (step + 1) % 2,
            Slot::Final(layers) => layers,
            Slot::FinalInTurn(layers) => layers % 2,
        }
    }
}

/// An argument of a launch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ArgRef {
    /// The buffer.
    pub buffer: BufferId,
    /// Which slot.
    pub slot: Slot,
}

/// How many instances a dimension of the grid gives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GridCount {
    /// Always as many.
    Fixed(usize),
    /// Blocks of run-time rows.
    Rows {
        /// Which rows.
        leading: Leading,
        /// Rows of a block.
        block: usize,
    },
    /// Pairs of a sequence and a chunk of its tokens.
    Chunks,
    /// Pairs of a sequence and a chunk of its positions so far.
    PastChunks,
    /// At most as many as blocks of pairs of a row and an id: each id's begin anew.
    Pairs {
        /// Which rows.
        leading: Leading,
        /// Ids of a row.
        each: usize,
        /// How many ids there are.
        ids: usize,
        /// Pairs of a block.
        block: usize,
    },
}

/// Rows of an instance where it has at most `most`: so many that threads get as much each. What fits one instance is
/// one, and none has less than a quarter of the most, since each reads all that rows are multiplied with.
pub fn even_block(rows: usize, most: usize, threads: usize) -> usize {
    if rows <= most {
        return most;
    }
    let shares = rows.div_ceil(most * threads) * threads;
    rows.div_ceil(shares).max(most / 4)
}

impl GridCount {
    /// The number of instances, given how many rows there are of a kind, pairs of a sequence and a chunk (of its
    /// tokens, and of its positions so far), and threads that share them.
    pub fn instances(
        self,
        rows: impl Fn(Leading) -> usize,
        [chunks, past_chunks]: [usize; 2],
        threads: usize,
    ) -> usize {
        match self {
            GridCount::Fixed(count) => count,
            GridCount::Rows { leading, block } => {
                let rows = rows(leading);
                rows.div_ceil(even_block(rows, block, threads))
            }
            GridCount::Chunks => chunks,
            GridCount::PastChunks => past_chunks,
            GridCount::Pairs { leading, each, ids, block } => {
                let pairs = rows(leading) * each;
                pairs / block + ids.min(pairs)
            }
        }
    }

    /// The count that a dimension gives; `flat` is the length of a flat value.
    pub fn of(program: &TileProgram, dim: DimId, flat: usize) -> GridCount {
        match program.dims[dim].extent {
            Extent::Pairs { leading, each, along, block } => {
                let ids = match program.dims[along].extent {
                    Extent::Blocks { size, .. } => size,
                    other => other.most(),
                };
                GridCount::Pairs { leading, each, ids, block }
            }
            Extent::Blocks { size, block } => GridCount::Fixed(size.div_ceil(block)),
            Extent::Rows { leading, block } => GridCount::Rows { leading, block },
            Extent::Flat { block } => GridCount::Fixed(flat.div_ceil(block)),
            Extent::Time => GridCount::Chunks,
            Extent::Past { .. } => GridCount::PastChunks,
            Extent::Sequence => GridCount::Rows { leading: Leading::Batch, block: 1 },
            Extent::Whole(_) | Extent::Choice { .. } | Extent::Position => GridCount::Fixed(1),
        }
    }
}

/// The launch of a kernel.
#[derive(Clone, PartialEq, Debug)]
pub struct Launch {
    /// The kernel, by position.
    pub kernel: usize,
    /// Its arguments.
    pub args: Vec<ArgRef>,
    /// What each of them is in the graph.
    pub sources: Vec<Source>,
    /// What its dots and reductions sum.
    pub sums: Vec<Sum>,
    /// Elements of a flat value; 0 for other kernels.
    pub flat: usize,
    /// Instances: the product of these.
    pub grid: Vec<GridCount>,
    /// The region that the group is of.
    pub region: RegionId,
    /// The nodes that it computes, operands first.
    pub nodes: Vec<NodeId>,
    /// When it runs, in the steps by which lifetimes are counted.
    pub time: usize,
}

/// One step of an entry.
#[derive(Clone, PartialEq, Debug)]
pub enum PlanStep {
    /// A kernel.
    Launch(Launch),
    /// Kernels that need nothing of one another: their instances share the
    /// threads, with no wait between them.
    Together(Vec<Launch>),
    /// The steps of a body, once for each layer.
    Repeat {
        /// How often.
        layers: usize,
        /// Whether the last layer comes first.
        reverse: bool,
        /// The steps.
        body: Vec<PlanStep>,
    },
    /// Steps that compute row by row, in turns of some rows each.
    Turns {
        /// Rows of a turn; the last may have fewer.
        rows: usize,
        /// The steps.
        body: Vec<PlanStep>,
    },
    /// Copies a value.
    Copy {
        /// What.
        from: ArgRef,
        /// Where to.
        to: ArgRef,
    },
}

/// A compiled entry.
#[derive(Clone, PartialEq, Debug)]
pub struct CompiledEntry {
    /// The job.
    pub kind: EntryKind,
    /// Kernels in C, each different; none where they are written in CUDA.
    pub kernels: Vec<KernelText>,
    /// Kernels in CUDA, each different; none where they are written in C.
    pub device_kernels: Vec<cuda::KernelText>,
    /// What each kernel was written from.
    pub programs: Vec<TileProgram>,
    /// Buffers.
    pub buffers: Vec<Buffer>,
    /// What is done once after parameters were loaded.
    pub load_steps: Vec<PlanStep>,
    /// What a run does.
    pub steps: Vec<PlanStep>,
    /// Columns of a packed panel.
    pub panel: usize,
    /// In `accumulate`, the states to which a micro-batch's sum is added when it is done, so that the bits of the
    /// result depend on how a batch is cut. All other sums go on from what their states hold.
    pub added: Vec<Symbol>,
}

impl CompiledEntry {
    /// The lifetimes of all buffers in an arena. Those that are not temporary have no
    /// size there, nor those with padding: it must stay zero, while what lies in an
    /// arena shares its place with other values, and maybe with those of other entries.
    ///
    /// `cached` is the number of rows of each cache, 0 if the entry has none: what is computed for all positions so
    /// far lies as in a cache.
    pub fn lifetimes(&self, limits: Limits, cached: usize) -> Vec<Lifetime> {
        let lifetime = |buffer: &Buffer| {
            let placed = buffer.role == Role::Temporary && !buffer.has_padding(self.panel);
            let bytes = match placed {
                true if self.lies_along_cache(buffer) => {
                    let rows =
                        if buffer.layout.leading() == Leading::Chunks { cached / CHUNK } else { cached };
                    buffer.slots * rows * buffer.layout.row_elements(self.panel) * buffer.dtype.bytes()
                }
                true => buffer.bytes(limits, self.panel),
                false => 0,
            };
            Lifetime { bytes, first: buffer.first, last: buffer.last }
        };
        self.buffers.iter().map(lifetime).collect()
    }

    /// The launches of a run in program order, those of a repeat or of turns once: the order by which executors and predictions
    /// number them.
    pub fn launches(&self) -> Vec<&Launch> {
        launches_of(&self.steps)
    }

    /// The launches of what is done once after parameters were loaded, and those of a run.
    pub fn all_launches(&self) -> Vec<&Launch> {
        [launches_of(&self.load_steps), self.launches()].concat()
    }

    /// The name of a kernel, in whatever it is written.
    pub fn kernel_name(&self, kernel: usize) -> &str {
        let of_device = self.device_kernels.get(kernel).map(|kernel| kernel.name.as_str());
        of_device.unwrap_or_else(|| &self.kernels[kernel].name)
    }

    /// Whether a buffer has a row for each row of a cache, or for each chunk of it.
    pub fn lies_along_cache(&self, buffer: &Buffer) -> bool {
        self.kind.cached() && matches!(buffer.layout.leading(), Leading::Past | Leading::Chunks)
    }

    /// The buffer of a role.
    pub fn buffer(&self, role: &Role) -> Option<BufferId> {
        self.buffers.iter().position(|buffer| buffer.role == *role)
    }
}

fn launches_of(steps: &[PlanStep]) -> Vec<&Launch> {
    let mut launches = Vec::new();
    for step in steps {
        match step {
            PlanStep::Launch(launch) => launches.push(launch),
            PlanStep::Together(together) => launches.extend(together),
            PlanStep::Repeat { body, .. } | PlanStep::Turns { body, .. } => {
                launches.extend(launches_of(body))
            }
            PlanStep::Copy { .. } => {}
        }
    }
    launches
}
