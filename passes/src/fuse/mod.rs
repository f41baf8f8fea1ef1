//! Fusion: which nodes become one kernel. It decides groups, their grid and
//! what they stream; it writes no code and knows no device.

mod assign;
mod gathered;
mod huge;
mod past;
mod roles;
mod scans;
mod streams;
mod units;

pub use gathered::{Gathered, Grouping, gathered, grouped_gradient, grouping};
pub use huge::StreamedAxes;
pub use roles::{Roles, is_view};
pub use scans::{constant, in_place};

use crate::layout::Leading;
use diptych_ir::{Axis, NodeId, Program, Region, RegionId};
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

/// One step of a region.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// A kernel.
    Group(Group),
    /// A repeat; its body has steps of its own.
    Repeat(NodeId),
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

/// What fusion is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FuseOptions {
    /// Whether sums over a contraction's own columns may join its kernel. It
    /// then cannot be divided by columns, which needs many rows to keep all
    /// threads at work: right for training, wrong for decoding.
    pub many_rows: bool,
    /// Whether `history` is a rename of the tokens at hand (no cache).
    pub history_is_rename: bool,
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
    let mut regions = HashMap::new();
    let mut waiting = vec![(Program::MAIN, roots.to_vec())];
    while let Some((id, roots)) = waiting.pop() {
        if regions.contains_key(&id) {
            continue;
        }
        let steps = assign::region(program, id, &roots, streamed, options)?;
        for step in &steps.steps {
            if let Step::Repeat(node) = step
                && let diptych_ir::Op::Repeat(repeat) = program.region(id).graph.op(*node)
            {
                waiting.push((repeat.body, program.region(repeat.body).results.clone()));
            }
        }
        regions.insert(id, steps);
    }
    Ok(regions)
}
