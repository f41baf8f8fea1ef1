//! The order of a group's computations: each node gets a phase (before, in or
//! after the stream) and a stage, so that nodes of one stage and one iteration
//! space share a loop nest, and every value is there before it is read.

use super::dims::{self, Dims};
use super::{Context, LowerError, Source, Sum};
use crate::tile::{Arg, DimId, Place, Tile, View};
use diptych_ir::{Axis, DType, Graph, NodeId, Op, ReduceKind};
use diptych_passes::fuse::{Group, is_view};
use std::collections::{HashMap, HashSet};

/// When a computation runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Phase {
    /// Once, before the stream.
    Before,
    /// For each block of the stream.
    Stream,
    /// Once, after the stream.
    After,
}

/// How a node is computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// In a nest over its own dimensions.
    Pointwise,
    /// In a nest for each piece.
    Concat,
    /// In a nest over its operand's dimensions.
    Reduce,
    /// By a dot.
    Dot,
    /// By a scatter.
    Scatter,
    /// By a search for the largest.
    TopK,
    /// By rounding blocks of it.
    Round,
}

/// What is known of a node of the group.
#[derive(Clone, Debug)]
pub struct Computed {
    /// How it is computed.
    pub class: Class,
    /// When.
    pub phase: Phase,
    /// In which stage of its phase.
    pub stage: usize,
    /// The dimensions of its value.
    pub dims: Vec<DimId>,
    /// Whether it reduces along the stream, so that its value is there after it.
    pub over_stream: bool,
    /// Whether a dot writes it straight to where it is stored.
    pub direct: bool,
    /// Its tile, if its value is read from one.
    pub tile: Option<View>,
    /// Its tile for one block of the stream, if it is folded.
    pub chunk: Option<View>,
}

/// A maximum along the stream, and the sums that are rescaled as it grows.
#[derive(Clone, Debug)]
pub struct Fold {
    /// The maximum.
    pub maximum: NodeId,
    /// The sums.
    pub sums: Vec<NodeId>,
}

/// A group on its way to a tile program.
pub struct Lowering<'a> {
    pub(super) group: &'a Group,
    pub(super) context: &'a Context<'a>,
    pub(super) graph: &'a Graph,
    pub(super) dims: Dims,
    pub(super) sources: Vec<Source>,
    pub(super) sums: Vec<Sum>,
    pub(super) args: Vec<Arg>,
    pub(super) tiles: Vec<Tile>,
    pub(super) tables: Vec<Vec<f32>>,
    pub(super) computed: HashMap<NodeId, Computed>,
    pub(super) fold: Option<Fold>,
    /// In a recurrence, what its step reads and writes beside what it computes.
    pub(super) step: Option<Step>,
}

/// The step of a recurrence.
#[derive(Default)]
pub struct Step {
    /// Where arguments of the body lie, and results that are stored at each position.
    pub ports: HashMap<NodeId, Place>,
    /// The nodes that are computed anew at each position.
    pub moving: HashSet<NodeId>,
    /// For each carried value: its argument and its result, in the body.
    pub carried: Vec<(NodeId, NodeId)>,
    /// Where the next of each carried value is written, if it is not where the present one lies.
    pub next: Vec<Option<View>>,
    /// The carried values whose next is computed where the present one lies.
    pub in_place: HashSet<NodeId>,
}

impl<'a> Lowering<'a> {
    /// Chooses dimensions.
    pub fn new(group: &'a Group, context: &'a Context<'a>) -> Result<Lowering<'a>, LowerError> {
        let mut lowering = Lowering {
            group,
            context,
            graph: &context.program.region(context.region).graph,
            dims: dims::choose(group, context)?,
            sources: Vec::new(),
            sums: Vec::new(),
            args: Vec::new(),
            tiles: Vec::new(),
            tables: Vec::new(),
            computed: HashMap::new(),
            fold: None,
            step: None,
        };
        lowering.add_grouping_args();
        Ok(lowering)
    }

    pub(super) fn error(&self, id: NodeId, problem: String) -> LowerError {
        LowerError { node: format!("{}: {}", self.graph.op(id).name(), self.graph.ty(id)), problem }
    }

    /// Whether a node is computed wherever it is read.
    pub(super) fn is_free(&self, id: NodeId) -> bool {
        !self.group.nodes.contains(&id) && self.context.in_place.contains(&id)
    }

    /// The nodes of the group that a node reads, and whether through a view.
    pub(super) fn reads(&self, id: NodeId) -> Vec<(NodeId, bool)> {
        let mut found = Vec::new();
        let mut stack: Vec<(NodeId, bool)> =
            self.graph.operands(id).into_iter().map(|operand| (operand, false)).collect();
        while let Some((operand, viewed)) = stack.pop() {
            if self.group.nodes.contains(&operand) {
                found.push((operand, viewed));
            } else if is_view(self.graph.op(operand)) && !matches!(self.graph.op(operand), Op::Output(_)) {
                let stops =
                    matches!(self.graph.op(operand), Op::History(_)) && !self.context.history_is_rename;
                if !stops {
                    stack.push((self.graph.operands(operand)[0], true));
                }
            } else if self.is_free(operand) {
                stack.extend(self.graph.operands(operand).into_iter().map(|operand| (operand, viewed)));
            }
        }
        found
    }

    /// The dimensions over which a reducing node iterates.
    pub(super) fn walked(&mut self, id: NodeId) -> Vec<DimId> {
        let mut axes: Vec<Axis> = Vec::new();
        for operand in self.graph.operands(id) {
            axes.extend(self.graph.axes(operand).iter().copied());
        }
        axes.sort();
        axes.dedup();
        self.axes_dims(&axes)
    }

    /// Finds phases, stages, folds and tiles.
    pub fn order(&mut self) -> Result<(), LowerError> {
        let nodes = self.group.nodes.clone();
        let mut tiled: HashSet<NodeId> = HashSet::new();
        for &id in &nodes {
            let class = match self.graph.op(id) {
                Op::Map(_) | Op::Cast(_) | Op::Take(_) => Class::Pointwise,
                Op::Concat(_) => Class::Concat,
                Op::Reduce(_) => Class::Reduce,
                Op::Contract(_) => Class::Dot,
                Op::PutAdd(_) if self.sums_pairs() => Class::Dot,
                Op::PutAdd(_) => Class::Scatter,
                Op::TopK(_) => Class::TopK,
                Op::RoundBlocks(_) => Class::Round,
                op => return Err(self.error(id, format!("no kernel computes {}", op.name()))),
            };
            let dims = self.node_dims(id);
            let walked = match class {
                Class::Reduce | Class::Dot | Class::Scatter => self.walked(id),
                Class::Pointwise | Class::Concat | Class::TopK | Class::Round => dims.clone(),
            };
            let streams = |dims: &[DimId]| self.dims.stream.is_some_and(|stream| dims.contains(&stream));
            let over_stream = streams(&walked) && !streams(&dims);
            let reads = self.reads(id);
            let after = reads.iter().any(|(read, _)| {
                let read = &self.computed[read];
                read.over_stream || read.phase == Phase::After
            });
            let moving = self.step.as_ref().is_some_and(|step| step.moving.contains(&id));
            let phase = match (streams(&walked) || moving, after) {
                (true, _) => Phase::Stream,
                (false, true) => Phase::After,
                (false, false) => Phase::Before,
            };
            let mut stage = 0;
            for (read, viewed) in reads {
                let source = &self.computed[&read];
                let same_nest = source.class == Class::Pointwise
                    && !viewed
                    && matches!(class, Class::Pointwise | Class::Reduce)
                    && source.dims == walked
                    && source.phase == phase;
                stage = stage.max(if same_nest { source.stage } else { source.stage + 1 });
                if !same_nest {
                    tiled.insert(read);
                }
            }
            self.computed.insert(
                id,
                Computed { class, phase, stage, dims, over_stream, direct: false, tile: None, chunk: None },
            );
        }
        // A pointwise node that ended in a later stage than a reader assumed is read from its tile.
        for &id in &nodes {
            let reader = self.computed[&id].clone();
            let walked = if reader.class == Class::Reduce { self.walked(id) } else { reader.dims.clone() };
            for (read, viewed) in self.reads(id) {
                let source = &self.computed[&read];
                let same = source.class == Class::Pointwise
                    && !viewed
                    && source.dims == walked
                    && source.phase == reader.phase
                    && source.stage == reader.stage;
                if !same || reader.class == Class::Concat || reader.class == Class::Dot {
                    tiled.insert(read);
                }
            }
        }
        self.find_fold(&nodes);
        self.refuse_reading_ahead(&nodes)?;
        self.find_in_place();
        for &id in &nodes {
            let class = self.computed[&id].class;
            let direct = class == Class::Dot && self.find_direct(id)?;
            // A cache reads a pointwise value as it is computed; any other, or part of one, from its tile.
            let cached = (self.caches_of(id).iter())
                .any(|&history| class == Class::Concat || self.graph.operands(history)[0] != id);
            let needed = match class {
                Class::Pointwise | Class::Concat | Class::Round => tiled.contains(&id) || cached,
                Class::Reduce | Class::Dot => !direct,
                Class::Scatter | Class::TopK => false,
            };
            let state = self.state_tile(id);
            let needed = needed || self.is_carried(id);
            let dims = self.computed[&id].dims.clone();
            let name = self.name(id);
            let folded = self.fold.as_ref().is_some_and(|fold| fold.maximum == id || fold.sums.contains(&id));
            let dims = if class == Class::Dot && needed { self.dot_tile_dims(id) } else { dims };
            let tile = match state {
                Some(tile) => Some(tile),
                None if class == Class::Round => needed.then(|| self.rounded_tile(id)),
                None => needed.then(|| self.new_tile(&name, dims.clone(), self.graph.ty(id).dtype)),
            };
            let integers = self.graph.ty(id).dtype == DType::I32;
            let tile =
                tile.map(|tile| View { dtype: if integers { DType::I32 } else { tile.dtype }, ..tile });
            let chunk =
                folded.then(|| self.new_tile(&format!("{name}_chunk"), dims, self.graph.ty(id).dtype));
            if let Some(computed) = self.computed.get_mut(&id) {
                computed.direct = direct;
                computed.tile = tile;
                computed.chunk = chunk;
            }
        }
        Ok(())
    }

    /// What is computed along the stream cannot read what is only there after it, but for a maximum, which is folded.
    fn refuse_reading_ahead(&self, nodes: &[NodeId]) -> Result<(), LowerError> {
        let maximum = self.fold.as_ref().map(|fold| fold.maximum);
        for &id in nodes.iter().filter(|id| self.computed[id].phase == Phase::Stream) {
            for (read, _) in self.reads(id) {
                let source = &self.computed[&read];
                if (source.over_stream || source.phase == Phase::After) && maximum != Some(read) {
                    let what = self.error(read, String::new()).node;
                    return Err(self.error(
                        id,
                        format!("is formed along the axis that `{what}` sums over, and reads that sum"),
                    ));
                }
            }
        }
        Ok(())
    }

    /// A name for a node's tile.
    pub(super) fn name(&self, id: NodeId) -> String {
        let label =
            self.graph.node(id).label.map(|label| label.as_str().rsplit('.').next().unwrap_or("").to_owned());
        dims::identifier(&label.unwrap_or_else(|| self.graph.op(id).name().to_owned()))
    }

    /// The position of a node among what the program sums.
    pub(super) fn sum(&mut self, node: NodeId) -> Result<usize, LowerError> {
        let identity = self.context.identities.get(&(self.context.region, node)).copied();
        let identity = identity.ok_or_else(|| self.error(node, "is part of no result".into()))?;
        let sum = Sum { identity, name: self.name(node) };
        let known = self.sums.iter().position(|known| *known == sum);
        Ok(known.unwrap_or_else(|| {
            self.sums.push(sum);
            self.sums.len() - 1
        }))
    }

    /// The `history` nodes (with caches) whose operand is this node, seen through views.
    pub(super) fn caches_of(&self, id: NodeId) -> Vec<NodeId> {
        if self.context.history_is_rename {
            return Vec::new();
        }
        let mut found = Vec::new();
        let mut stack = self.graph.users(id);
        while let Some(user) = stack.pop() {
            match self.graph.op(user) {
                Op::History(_) => found.push(user),
                op if is_view(op) => stack.extend(self.graph.users(user)),
                _ => {}
            }
        }
        found.sort_unstable();
        found
    }

    fn find_fold(&mut self, nodes: &[NodeId]) {
        let over_stream = |id: &NodeId| self.computed[id].over_stream;
        for &maximum in nodes.iter().filter(|id| over_stream(id)) {
            let is_max =
                matches!(self.graph.op(maximum), Op::Reduce(reduce) if reduce.kind == ReduceKind::Max);
            if !is_max {
                continue;
            }
            let mut dependent: HashSet<NodeId> = HashSet::from([maximum]);
            for &id in nodes {
                let computed = &self.computed[&id];
                let reads = self.reads(id).iter().any(|(read, _)| dependent.contains(read));
                if reads && computed.phase == Phase::Stream {
                    dependent.insert(id);
                }
            }
            let sums: Vec<NodeId> = nodes
                .iter()
                .copied()
                .filter(|id| *id != maximum && dependent.contains(id) && over_stream(id))
                .collect();
            if !sums.is_empty() {
                self.fold = Some(Fold { maximum, sums });
                return;
            }
        }
    }

    /// The tile that a reader of a node of the group looks at: within the
    /// stream, a folded value is that of the present block.
    pub(super) fn value_tile(&self, id: NodeId, after_stream: bool) -> Option<View> {
        let computed = self.computed.get(&id)?;
        if after_stream {
            computed.tile.clone()
        } else {
            computed.chunk.clone().or_else(|| computed.tile.clone())
        }
    }
}
