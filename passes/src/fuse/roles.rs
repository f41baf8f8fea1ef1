//! What each node of a region is to fusion: read in place, formed and never
//! stored, or a computation of its own. It groups nothing.

use super::FuseError;
use crate::layout::{Leading, leading, product};
use diptych_ir::{Axis, DType, Graph, NodeId, Op, Region};
use std::collections::{HashMap, HashSet};

/// A contraction whose columns are at least this many times its summed
/// elements makes a value too large to store beside its operands.
const EXPANSION: usize = 8;

/// Whether an op only names elements differently, so that it costs nothing.
pub fn is_view(op: &Op) -> bool {
    matches!(op, Op::Rename(_) | Op::Split(_) | Op::Merge(_) | Op::Slice(_) | Op::History(_) | Op::Output(_))
}

/// The roles of a region's nodes.
pub struct Roles<'a> {
    /// The graph.
    pub graph: &'a Graph,
    region: String,
    leading: HashMap<NodeId, Leading>,
    huge: HashSet<Axis>,
    history_is_rename: bool,
}

impl<'a> Roles<'a> {
    /// Looks at every node that the roots depend on.
    pub fn of(region: &'a Region, order: &[NodeId], history_is_rename: bool) -> Result<Roles<'a>, FuseError> {
        let graph = &region.graph;
        let mut roles = Roles {
            graph,
            region: region.name.to_string(),
            leading: HashMap::new(),
            huge: HashSet::new(),
            history_is_rename,
        };
        for &id in order {
            let found = leading(graph.axes(id)).map_err(|problem| roles.error(id, problem))?;
            roles.leading.insert(id, found);
        }
        roles.huge = roles.huge_axes(order);
        Ok(roles)
    }

    /// Axes that contractions expand to, and that no value with run-time rows
    /// has from elsewhere: none that is given, gathered, or summed up to it by a
    /// contraction that does not expand.
    fn huge_axes(&self, order: &[NodeId]) -> HashSet<Axis> {
        let mut huge: HashSet<Axis> = HashSet::new();
        let mut ordinary: HashSet<Axis> = HashSet::new();
        for &id in order.iter().filter(|&&id| matches!(self.leading(id), Leading::Rows | Leading::Batch)) {
            let axes = self.graph.axes(id).iter().copied().filter(|axis| axis.fixed_size().is_some());
            match self.graph.op(id) {
                Op::Contract(contract) => {
                    let fixed = contract.over.iter().all(|axis| axis.fixed_size().is_some());
                    let least = Some(EXPANSION * product(&contract.over));
                    let (expanded, kept): (Vec<Axis>, Vec<Axis>) =
                        axes.partition(|axis| fixed && axis.fixed_size() >= least);
                    huge.extend(expanded);
                    ordinary.extend(kept);
                }
                Op::Take(_) => ordinary.extend(axes),
                _ if self.is_given(id) => ordinary.extend(axes),
                _ => {}
            }
        }
        // What is seen over other positions, or under other names, is not formed block by block beside them.
        // Weights are free to be seen in any way: an embedding's table has the axis of the vocabulary.
        let with_rows = |id: NodeId| {
            self.graph.operands(id).iter().any(|&operand| self.leading(operand) != Leading::None)
        };
        for &id in order {
            let graph = self.graph;
            match graph.op(id) {
                _ if !with_rows(id) => {}
                _ if matches!(self.leading(id), Leading::Past | Leading::Quadratic) => {
                    ordinary.extend(graph.axes(id).iter().copied());
                }
                Op::Rename(rename) => ordinary.extend([rename.from, rename.to]),
                Op::Slice(slice) => ordinary.extend([slice.axis, slice.into]),
                Op::Split(split) => ordinary.extend(split.into.iter().copied().chain([split.axis])),
                Op::Merge(merge) => ordinary.extend(merge.axes.iter().copied().chain([merge.into])),
                Op::Concat(concat) => ordinary.extend(concat.pieces.iter().copied().chain([concat.into])),
                Op::Take(take) if self.leading(graph.operands(id)[0]) != Leading::None => {
                    ordinary.extend([take.axis])
                }
                _ => {}
            }
        }
        // Where nothing reduces such a value it is wanted whole, and no other bits come of storing it.
        let reduces = |id: NodeId, axis: &Axis| {
            super::streams::summed(self.graph.op(id)).is_some_and(|over| over.contains(axis))
        };
        huge.retain(|axis| !ordinary.contains(axis) && order.iter().any(|&id| reduces(id, axis)));
        huge
    }

    /// An error at a node.
    pub fn error(&self, id: NodeId, problem: String) -> FuseError {
        let node = format!("{}: {}", self.graph.op(id).name(), self.graph.ty(id));
        FuseError { region: self.region.clone(), node, problem }
    }

    /// The run-time axes of a node's value.
    pub fn leading(&self, id: NodeId) -> Leading {
        self.leading.get(&id).copied().unwrap_or(Leading::None)
    }

    /// The huge fixed axis of a value with run-time rows, if it has one.
    pub fn huge_axis(&self, id: NodeId) -> Option<Axis> {
        let rows = matches!(self.leading(id), Leading::Rows | Leading::Batch);
        self.graph.axes(id).iter().copied().find(|axis| rows && self.huge.contains(axis))
    }

    /// Whether a value is formed block by block and never stored. This depends
    /// on axes alone, so it is the same in every entry, and so are the bits.
    pub fn is_streamed(&self, id: NodeId) -> bool {
        self.leading(id) == Leading::Quadratic || self.huge_axis(id).is_some()
    }

    /// Whether a value is there before the region runs.
    pub fn is_given(&self, id: NodeId) -> bool {
        matches!(self.graph.op(id), Op::Input(_) | Op::Param(_) | Op::Argument(_) | Op::Output(_))
            || self.is_cache(id)
    }

    /// Whether a value is computed wherever it is used, at no cost worth a
    /// thought: literals, positions, masks.
    pub fn is_free(&self, id: NodeId) -> bool {
        match self.graph.op(id) {
            Op::Literal(_) | Op::Index(_) => true,
            Op::Map(_) => matches!(self.graph.ty(id).dtype, DType::Bool | DType::I32),
            Op::Cast(_) => {
                let operand = self.graph.operands(id)[0];
                matches!(self.graph.ty(operand).dtype, DType::Bool | DType::I32)
                    || self.is_given(self.base(operand))
                        && self.graph.ty(operand).dtype == DType::BF16
                        && self.graph.ty(id).dtype == DType::F32
            }
            _ => false,
        }
    }

    /// Whether a node is a `history` that is read from a cache.
    pub fn is_cache(&self, id: NodeId) -> bool {
        !self.history_is_rename && matches!(self.graph.op(id), Op::History(_))
    }

    /// The value that a chain of views looks at.
    pub fn base(&self, mut id: NodeId) -> NodeId {
        while is_view(self.graph.op(id)) && !matches!(self.graph.op(id), Op::Output(_)) && !self.is_cache(id)
        {
            id = self.graph.operands(id)[0];
        }
        id
    }

    /// The computed values that a node reads, through views and free nodes.
    pub fn sources(&self, id: NodeId) -> Vec<NodeId> {
        let mut found = Vec::new();
        let mut stack = self.graph.operands(id);
        while let Some(operand) = stack.pop() {
            let base = self.base(operand);
            if self.is_free(base) {
                stack.extend(self.graph.operands(base));
            } else if !found.contains(&base) {
                found.push(base);
            }
        }
        found
    }

    /// Whether a node is computed by some group, and not given, read in place or free.
    pub fn is_computed(&self, id: NodeId) -> bool {
        !self.is_given(id)
            && !self.is_free(id)
            && !is_view(self.graph.op(id))
            && !matches!(self.graph.op(id), Op::Repeat(_))
    }
}
