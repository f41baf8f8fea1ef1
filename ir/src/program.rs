//! A program: regions (the main graph and the bodies of its repeats), the
//! parameters, and the entries that bind it to a job. It knows no device.

use crate::blocks::Blocks;
use crate::ops::{Argument, Output, Repeat, loop_results};
use crate::{Axis, DType, Graph, NodeId, Op, Result, Symbol, TensorType};
use std::collections::BTreeMap;

/// A region's identity within its program.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RegionId(pub u32);

/// A graph with ports: the main graph, or the body of a `repeat`.
#[derive(Clone, Debug)]
pub struct Region {
    /// A name for the reader, such as `layers`.
    pub name: Symbol,
    /// The nodes.
    pub graph: Graph,
    /// `argument` nodes, by index. Empty for the main region.
    pub arguments: Vec<NodeId>,
    /// What the region yields. For the main region: the roots of all entries.
    pub results: Vec<NodeId>,
}

impl Region {
    /// An empty region.
    pub fn new(name: impl Into<Symbol>) -> Region {
        Region { name: name.into(), graph: Graph::new(), arguments: Vec::new(), results: Vec::new() }
    }

    /// Adds the next argument, of this type.
    pub fn add_argument(&mut self, ty: TensorType) -> Result<NodeId> {
        let id = self.graph.add(Argument { index: self.arguments.len(), ty }, &[])?;
        self.arguments.push(id);
        Ok(id)
    }
}

/// How a parameter starts.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Initializer {
    /// Every element has this value.
    Constant(f64),
    /// Normal with mean 0 and this standard deviation.
    Normal {
        /// Standard deviation.
        standard_deviation: f64,
    },
    /// Uniform in plus or minus this bound.
    Uniform {
        /// Largest magnitude.
        bound: f64,
    },
    /// Uniform between two numbers.
    Between {
        /// The smaller.
        least: f64,
        /// The larger.
        most: f64,
    },
}

/// How an optimiser's step changes a parameter.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum UpdateRule {
    /// AdamW.
    AdamW {
        /// Whether weight decay applies.
        decay: bool,
    },
    /// `rate` against the sign of the gradient, element by element, and nothing where that is zero.
    /// The gradient is no part of the global norm and is not clipped.
    SignDescent {
        /// What an element changes by, at every step.
        rate: f64,
    },
}

/// What is known of a parameter beside its type.
#[derive(Clone, PartialEq, Debug)]
pub struct ParamInfo {
    /// Type, with the layer axis if it belongs to a stack.
    pub ty: TensorType,
    /// How it starts.
    pub initializer: Initializer,
    /// How a step changes it.
    pub update: UpdateRule,
    /// The axis that counts layers, if it belongs to a stack.
    pub layers: Option<Axis>,
    /// Axes in the order in which the user declared them (layer axis first, if
    /// any): the order of checkpoints and exports.
    pub order: Vec<Axis>,
    /// Whether its numbers are held in blocks of small integers, which is for serving.
    pub blocks: Option<Blocks>,
}

impl ParamInfo {
    /// Whether its numbers are held in fewer bytes than an f32 takes, which is for serving: a step of training would be
    /// rounded away.
    pub fn is_for_serving(&self) -> bool {
        self.blocks.is_some() || self.ty.dtype != DType::F32
    }
}

/// Inclusive bounds of a symbolic size, in elements.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Smallest value.
    pub least: usize,
    /// Largest value.
    pub most: usize,
}

/// The job that an entry binds the graph to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum EntryKind {
    /// Loss, and the gradient of every parameter written to its state `gradient.NAME`.
    Train,
    /// As `Train`, but gradients are added to what is there: further micro-batches. Where the update of a state is
    /// the state plus a sum over tokens, that sum goes on from what the state holds, as if the micro-batches were one.
    Accumulate,
    /// One optimiser update: parameters and moments from the gradients.
    Update,
    /// `Train` and `Update` in one: a parameter gets its new value as soon as its gradient is there and nothing reads the
    /// old one any more, so that no gradient is kept for longer.
    Step,
    /// Log-probability of each target token.
    Score,
    /// Prompt to last logits, growing the cache.
    Prefill,
    /// One token to logits, growing the cache.
    Decode,
}

impl EntryKind {
    /// Every kind.
    pub const ALL: [EntryKind; 7] = [
        EntryKind::Train,
        EntryKind::Accumulate,
        EntryKind::Update,
        EntryKind::Step,
        EntryKind::Score,
        EntryKind::Prefill,
        EntryKind::Decode,
    ];

    /// `train`, `accumulate`, `update`, `step`, `score`, `prefill` or `decode`.
    pub fn name(self) -> &'static str {
        match self {
            EntryKind::Train => "train",
            EntryKind::Accumulate => "accumulate",
            EntryKind::Update => "update",
            EntryKind::Step => "step",
            EntryKind::Score => "score",
            EntryKind::Prefill => "prefill",
            EntryKind::Decode => "decode",
        }
    }

    /// Whether `history` reads a cache (prefill and decode) rather than being a rename.
    pub fn cached(self) -> bool {
        matches!(self, EntryKind::Prefill | EntryKind::Decode)
    }

    /// Whether it is part of training, where parameters change from run to run.
    pub fn trains(self) -> bool {
        matches!(self, EntryKind::Train | EntryKind::Accumulate | EntryKind::Update | EntryKind::Step)
    }
}

/// A set of roots in the main region, and the job they are for.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The job.
    pub kind: EntryKind,
    /// Named roots, nodes of the main region.
    pub roots: Vec<(Symbol, NodeId)>,
    /// Parameters and states that the entry overwrites once all of it has run,
    /// each with the node that gives the new value.
    pub updates: Vec<(Symbol, NodeId)>,
}

impl Entry {
    /// The root of this name.
    pub fn root(&self, name: &str) -> Option<NodeId> {
        self.roots.iter().find(|(root, _)| root.as_str() == name).map(|&(_, id)| id)
    }
}

/// One architecture, for all its jobs.
#[derive(Clone, Debug)]
pub struct Program {
    /// The architecture's name.
    pub name: String,
    /// Regions; the first is the main one.
    pub regions: Vec<Region>,
    /// Parameters by full name.
    pub params: BTreeMap<Symbol, ParamInfo>,
    /// What is kept from step to step beside the parameters, by name: gradients
    /// (`gradient.NAME`) and the optimiser's moments. They start at zero and are
    /// read by `param` nodes as parameters are.
    pub states: BTreeMap<Symbol, TensorType>,
    /// Bounds of the symbolic sizes.
    pub bounds: BTreeMap<Symbol, Bounds>,
    /// Entries.
    pub entries: Vec<Entry>,
}

impl Program {
    /// The ops of all regions.
    pub fn ops(&self) -> impl Iterator<Item = &Op> {
        self.regions.iter().flat_map(|region| region.graph.ids().into_iter().map(|id| region.graph.op(id)))
    }

    /// The parameter that a state goes with: `NAME`, of a state `KIND.NAME`. A parameter's own name may read so, too.
    pub fn owner(&self, state: Symbol) -> Option<Symbol> {
        let owner = state.as_str().split_once('.').map(|(_, owner)| Symbol::new(owner));
        owner.filter(|owner| self.params.contains_key(owner))
    }

    /// A program with an empty main region.
    pub fn new(name: &str) -> Program {
        Program {
            name: name.to_owned(),
            regions: vec![Region::new("main")],
            params: BTreeMap::new(),
            states: BTreeMap::new(),
            bounds: BTreeMap::new(),
            entries: Vec::new(),
        }
    }

    /// The main region's id.
    pub const MAIN: RegionId = RegionId(0);

    /// The main region.
    pub fn main(&self) -> &Region {
        &self.regions[0]
    }

    /// The main region, to change.
    pub fn main_mut(&mut self) -> &mut Region {
        &mut self.regions[0]
    }

    /// The region of this id.
    pub fn region(&self, id: RegionId) -> &Region {
        &self.regions[id.0 as usize]
    }

    /// The region of this id, to change.
    pub fn region_mut(&mut self, id: RegionId) -> &mut Region {
        &mut self.regions[id.0 as usize]
    }

    /// Adds a region.
    pub fn add_region(&mut self, region: Region) -> RegionId {
        self.regions.push(region);
        RegionId(self.regions.len() as u32 - 1)
    }

    /// The entry of this kind.
    pub fn entry(&self, kind: EntryKind) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.kind == kind)
    }

    /// Adds to `parent` a repeat of `body` over `layers`, and returns one node
    /// for each result. The body's arguments are the `carried` values, then one
    /// layer's slice of each of the `stacked` operands, then `invariant` ones;
    /// its results are the carried values, then what each layer yields, which
    /// come out stacked along `layers`.
    ///
    /// # Errors
    /// When arguments or carried results do not match the operands.
    pub fn add_repeat(
        &mut self,
        parent: RegionId,
        body: RegionId,
        layers: Axis,
        reverse: bool,
        carried: &[NodeId],
        stacked: &[NodeId],
        invariant: &[NodeId],
    ) -> Result<Vec<NodeId>> {
        let operands: Vec<NodeId> = [carried, stacked, invariant].concat();
        let graph = &self.region(parent).graph;
        let types: Vec<&TensorType> = operands.iter().map(|&operand| graph.ty(operand)).collect();
        let results =
            loop_results("repeat", self.region(body), layers, carried.len(), stacked.len(), &types)?;
        let count = results.len();
        let repeat =
            Repeat { body, layers, reverse, carried: carried.len(), stacked: stacked.len(), results };
        let graph = &mut self.region_mut(parent).graph;
        let node = graph.add(Op::Repeat(repeat), &operands)?;
        (0..count).map(|index| graph.add(Output { index }, &[node])).collect()
    }
}
