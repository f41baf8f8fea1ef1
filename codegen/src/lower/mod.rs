//! Lowering: a fused group becomes a tile program. The same steps serve every
//! kind of group: name the dimensions, find where each value lies, order the
//! computations in stages, write them down. It knows no instruction set.

mod added_rows;
mod block_sizes;
mod chunks;
mod dims;
mod dots;
mod emit;
mod grouped;
mod padding;
mod past;
mod places;
mod recurrence;
mod rounding;
mod stages;
mod tables;
mod whole_sums;

use crate::condense::condense;
use crate::identity::{Identities, Identity};
use crate::tile::TileProgram;
use diptych_ir::{NodeId, Program, RegionId};
use diptych_passes::fuse::{Group, GroupKind};
use diptych_passes::layout::{Layout, Layouts};
use std::collections::HashSet;

/// Why a group cannot be lowered.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("cannot lower {node}: {problem}")]
pub struct LowerError {
    /// The node, as op and type.
    pub node: String,
    /// What was wrong.
    pub problem: String,
}

/// What lowering must know of the rest of the program.
pub struct Context<'a> {
    /// The program.
    pub program: &'a Program,
    /// The region that the group is of.
    pub region: RegionId,
    /// What nodes are in all entries that have them.
    pub identities: &'a Identities,
    /// The order of axes in memory.
    pub layouts: &'a Layouts,
    /// How each stored value of the region is laid out (without its layer axis).
    pub layout: &'a dyn Fn(NodeId) -> Layout,
    /// What is computed wherever it is read, as fusion decided.
    pub in_place: &'a HashSet<NodeId>,
    /// Whether a sum goes on from what is stored where it is written, instead of from zero.
    pub goes_on: &'a dyn Fn(NodeId) -> bool,
    /// Whether the group sums over rows of which it is given some at a time: it then goes on from what the turn before
    /// left.
    pub in_turns: bool,
    /// Whether `history` is a rename (no cache).
    pub history_is_rename: bool,
    /// Where there are few rows: the threads among which columns are divided.
    pub few_rows: Option<usize>,
    /// Columns of a packed panel.
    pub panel: usize,
    /// Sizes of blocks.
    pub blocks: BlockSizes,
    /// Whether a dot takes operands of any float type as they lie, as a GPU's does, which copies them to where it wants
    /// them in any case. A processor's wants floats at its left, and columns one after the other at its right.
    pub operands_as_they_lie: bool,
}

/// What an argument of a kernel is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Source {
    /// A stored value of the region.
    Value(NodeId),
    /// The cache of a `history` node.
    Cache(NodeId),
    /// The pairs of a row and one of its ids, sorted by id: their order. The ids and how many there may be.
    Order(NodeId, usize),
    /// Where each id's pairs and blocks begin.
    Starts(NodeId, usize),
    /// What is left of each chunk of positions so far, of a value that is folded over them.
    Chunks(NodeId),
    /// The state of each sequence, of a value that a scan carries.
    State {
        /// The scan.
        scan: NodeId,
        /// Which of the carried values.
        index: usize,
    },
}

/// A lowered group.
#[derive(Clone, PartialEq, Debug)]
pub struct Lowered {
    /// The program.
    pub program: TileProgram,
    /// What each argument is.
    pub args: Vec<Source>,
    /// What its dots and reductions sum.
    pub sums: Vec<Sum>,
}

/// A contraction or a reduction of the graph.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Sum {
    /// What it is in all entries that have it.
    pub identity: Identity,
    /// What it is called, for people.
    pub name: String,
}

pub use added_rows::added_rows;
pub use block_sizes::BlockSizes;
pub use grouped::lower_grouping;

/// Lowers a group to programs that run one after the other: mostly one.
///
/// # Errors
/// When a value would have to be moved in a way that no statement expresses.
pub fn lower(group: &Group, context: &Context) -> Result<Vec<Lowered>, LowerError> {
    let mut lowered = match group.kind {
        GroupKind::Scan => vec![recurrence::lower(group, context)?],
        GroupKind::AddedRows => vec![added_rows::lower(group, context)?],
        _ => {
            let mut lowering = stages::Lowering::new(group, context)?;
            lowering.order()?;
            lowering.emit()?
        }
    };
    for Lowered { program, .. } in &mut lowered {
        condense(program);
        // A dot that copies its operands takes any number of rows.
        if context.operands_as_they_lie {
            whole_sums::take_all_rows(program);
        }
    }
    Ok(lowered)
}
