//! Fusion: which nodes become one kernel. It decides groups, their grid and
//! what they stream; it writes no code and knows no device.

mod assign;
mod gathered;
mod huge;
mod past;
mod roles;
mod scans;
mod streams;
mod turns;
mod units;

pub use gathered::{Gathered, Grouping, gathered, grouped_gradient, grouping};
pub use huge::StreamedAxes;
pub use roles::{Roles, is_view};
pub use scans::{constant, in_place};

use crate::layout::Leading;
use diptych_ir::{Axis, Entry, NodeId, Op, Program, Region, RegionId, Symbol};
use std::collections::{HashMap, HashSet};

/// Why a program cannot be fused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("region `{region}`, {node}: {problem}")]
pub struct FuseError {
    /// The region's name.
    pub region: String,
    /// The node, as op and type.
    pub node: String,
    /// What was wrong.
    pub problem: String,
}

impl FuseError {
    fn at(region: &Region, id: NodeId, problem: String) -> FuseError {
        let node = format!("{}: {}", region.graph.op(id).name(), region.graph.ty(id));
        FuseError { region: region.name.to_string(), node, problem }
    }
}

/// The shape of a group's computation.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum GroupKind {
    /// Independent rows: blocks of tokens or sequences (or, without run-time
    /// axes, one block), each with all of its fixed axes; at most one level of
    /// contractions with weights, with what comes before and after.
    Rows(Leading),
    /// Pointwise over values that are stored alike, without run-time axes:
    /// parameters, gradients, moments.
    Flat,
    /// Sums over all elements of such a value.
    FlatSum,
    /// A contraction or sum over run-time rows, for blocks of fixed axes:
    /// gradients of weights.
    OverRows(Leading),
    /// Values over two long axes are formed block by block and reduced at
    /// once, never stored: attention, the loss.
    Stream(StreamAxes),
    /// The adjoint of a gather: rows added to a table.
    Scatter,
    /// Such rows, added to a sum over rows of tokens that is stored already, where it lies: the nodes are the `put_add` and
    /// its sum with the other.
    AddedRows,
    /// Contractions with weights that ids choose: blocks of the pairs of a row
    /// and one of its ids, sorted by id, with what follows pair by pair.
    Grouped(Grouping),
    /// The gradient of such weights: sums over the pairs of each id.
    OverGrouped(Grouping),
    /// A recurrence: each instance walks the positions of one sequence. Its one
    /// node is the scan; what a step computes is in the scan's body.
    Scan,
}

/// What a streaming group walks and what its instances are.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct StreamAxes {
    /// The long axis walked in blocks by each instance.
    pub along: StreamAxis,
    /// The long axis whose blocks are instances.
    pub across: StreamAxis,
    /// Further fixed axes that are instances.
    pub each: Vec<Axis>,
}

/// One of the two long axes of a streamed value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum StreamAxis {
    /// Tokens of one sequence.
    Time,
    /// Positions so far of one sequence.
    Past,
    /// All tokens, or all sequences.
    Rows(Leading),
    /// A long fixed axis, such as the vocabulary.
    Fixed(Axis),
}

/// Nodes that become one kernel.
#[derive(Clone, PartialEq, Debug)]
pub struct Group {
    /// The shape of the computation.
    pub kind: GroupKind,
    /// Everything computed, operands first. Views and positions are not
    /// listed: they are read where they are used. A streamed value is listed
    /// in each group that forms it.
    pub nodes: Vec<NodeId>,
    /// Those that are stored.
    pub outputs: Vec<NodeId>,
}

impl Group {
    /// Whether each instance walks all rows, block by block.
    pub fn sums_rows(&self) -> bool {
        match &self.kind {
            GroupKind::Stream(axes) => matches!(axes.along, StreamAxis::Rows(_)),
            kind => matches!(kind, GroupKind::OverRows(_)),
        }
    }
}

/// Kernels that run in turns, each turn over some of the tokens.
#[derive(Clone, PartialEq, Debug)]
pub struct Turns {
    /// In an order in which every value is computed before it is used. Sums over tokens go on from turn to turn.
    pub groups: Vec<Group>,
    /// Values along a huge axis that one group stores for others. They are there for the turn alone.
    pub kept: Vec<NodeId>,
}

/// One step of a region.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// A kernel.
    Group(Group),
    /// A repeat; its body has steps of its own.
    Repeat(NodeId),
    /// Kernels that run in turns.
    Turns(Turns),
}

impl Step {
    /// The groups that it launches itself.
    pub fn groups(&self) -> &[Group] {
        match self {
            Step::Group(group) => std::slice::from_ref(group),
            Step::Turns(turns) => &turns.groups,
            Step::Repeat(_) => &[],
        }
    }

    /// What it computes: the nodes of its groups, or a repeat.
    pub fn nodes(&self) -> Vec<NodeId> {
        match self {
            Step::Repeat(repeat) => vec![*repeat],
            _ => self.groups().iter().flat_map(|group| group.nodes.iter().copied()).collect(),
        }
    }

    /// What is there after it.
    fn stored(&self) -> Vec<NodeId> {
        match self {
            Step::Repeat(repeat) => vec![*repeat],
            Step::Group(group) if group.kind == GroupKind::Scan => group.nodes.clone(),
            _ => self.groups().iter().flat_map(|group| group.outputs.iter().copied()).collect(),
        }
    }
}

/// The steps of a region, in order.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RegionSteps {
    /// In an order in which every value is computed before it is used.
    pub steps: Vec<Step>,
    /// What every group computes where it reads it: literals, positions, masks, values of another
    /// type. What is stored of it besides has a group of its own.
    pub in_place: HashSet<NodeId>,
}

/// How many rows a run has, as far as the shape of kernels depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rows {
    /// One for each sequence: work is divided by columns, finely.
    Few,
    /// Few or many.
    Any,
    /// Enough to keep all threads at work, so that sums over a contraction's own columns may join its kernel, which
    /// then cannot be divided by columns.
    Many,
}

/// What fusion is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FuseOptions {
    /// How many rows a run has.
    pub rows: Rows,
    /// Whether `history` is a rename of the tokens at hand (no cache).
    pub history_is_rename: bool,
    /// Elements that a row of a contraction's operand has at most, if it is computed in the contraction's kernel: each block
    /// of columns computes it again, and keeps it.
    pub operand_elements: usize,
    /// Whether columns are divided finely also where there are many rows.
    pub fine_columns: bool,
}

/// Divides the regions reachable from these roots of the main region into groups. `streamed` was
/// decided before other entries were cut off.
///
/// # Errors
/// When a node has run-time axes that no kernel can walk.
pub fn fuse(
    program: &Program,
    roots: &[NodeId],
    streamed: &StreamedAxes,
    options: FuseOptions,
) -> Result<HashMap<RegionId, RegionSteps>, FuseError> {
    fuse_overwriting(program, roots, Vec::new(), streamed, options)
}

/// The same for an entry: what its updates overwrite is read before, where that can be, and updates come as soon as they
/// can, so that nothing lives for longer that only they read.
///
/// # Errors
/// As said there.
pub fn fuse_entry(
    program: &Program,
    entry: &Entry,
    streamed: &StreamedAxes,
    options: FuseOptions,
) -> Result<HashMap<RegionId, RegionSteps>, FuseError> {
    let roots: Vec<NodeId> = entry.roots.iter().chain(&entry.updates).map(|root| root.1).collect();
    let graph = &program.main().graph;
    let reading = |name: Symbol| {
        let reads = move |&id: &NodeId| matches!(graph.op(id), Op::Param(param) if param.name == name);
        graph.ids().into_iter().filter(reads)
    };
    let overwritten =
        entry.updates.iter().flat_map(|&(name, new)| reading(name).map(move |old| Overwritten { old, new }));
    fuse_overwriting(program, &roots, overwritten.collect(), streamed, options)
}

/// A value of a region that another one is to be written over.
#[derive(Clone, Copy, Debug)]
struct Overwritten {
    /// A parameter, or an argument that is a slice of one.
    old: NodeId,
    /// Its new value.
    new: NodeId,
}

fn fuse_overwriting(
    program: &Program,
    roots: &[NodeId],
    overwritten: Vec<Overwritten>,
    streamed: &StreamedAxes,
    options: FuseOptions,
) -> Result<HashMap<RegionId, RegionSteps>, FuseError> {
    let mut regions = HashMap::new();
    let mut waiting = vec![(Program::MAIN, roots.to_vec(), overwritten)];
    while let Some((id, roots, overwritten)) = waiting.pop() {
        if regions.contains_key(&id) {
            continue;
        }
        let steps = assign::region(program, id, &roots, &overwritten, streamed, options)?;
        let graph = &program.region(id).graph;
        for step in &steps.steps {
            if let Step::Repeat(node) = step
                && let Op::Repeat(repeat) = graph.op(*node)
            {
                let body = program.region(repeat.body);
                let within = overwritten.iter().filter_map(|&Overwritten { old, new }| {
                    let Op::Output(output) = graph.op(new) else { return None };
                    let at = graph.operands(*node).iter().position(|&operand| operand == old)?;
                    let of_layers = output.index >= repeat.carried && at >= repeat.carried;
                    (graph.operands(new)[0] == *node && of_layers)
                        .then(|| Overwritten { old: body.arguments[at], new: body.results[output.index] })
                });
                waiting.push((repeat.body, body.results.clone(), within.collect()));
            }
        }
        regions.insert(id, steps);
    }
    Ok(regions)
}
