//! What each node of a region is to fusion: read in place, formed and never
//! stored, or a computation of its own. It groups nothing.

use super::FuseError;
use super::gathered::{gathered, is_gathered};
use super::huge::{StreamedAxes, leadings};
use crate::layout::Leading;
use diptych_ir::{Axis, DType, Graph, NodeId, Op, Program, Region, RegionId};
use std::collections::{HashMap, HashSet};

/// Whether an op only names elements differently, so that it costs nothing.
pub fn is_view(op: &Op) -> bool {
    matches!(op, Op::Rename(_) | Op::Split(_) | Op::Merge(_) | Op::Slice(_) | Op::History(_) | Op::Output(_))
}

/// The roles of a region's nodes.
pub struct Roles<'a> {
    /// The graph.
    pub graph: &'a Graph,
    region: &'a Region,
    leading: HashMap<NodeId, Leading>,
    huge: HashSet<Axis>,
    history_is_rename: bool,
    /// What must be stored, even if it costs nothing to compute where it is read.
    wanted: HashSet<NodeId>,
}

impl<'a> Roles<'a> {
    /// Looks at every node that the region's roots depend on: `order`, operands first. Values in
    /// normal form are wanted by roots, repeats and caches.
    ///
    /// # Errors
    /// When a node has run-time axes that no kernel can walk.
    pub fn of(
        program: &'a Program,
        id: RegionId,
        order: &[NodeId],
        roots: &[NodeId],
        streamed: &StreamedAxes,
        history_is_rename: bool,
    ) -> Result<Roles<'a>, FuseError> {
        let region = program.region(id);
        let graph = &region.graph;
        let leading = leadings(program, id, order)?;
        let huge = streamed.within(graph, order, &leading);
        let mut roles = Roles { graph, region, leading, huge, history_is_rename, wanted: HashSet::new() };
        let asking = order
            .iter()
            .filter(|&&id| matches!(graph.op(id), Op::Repeat(_) | Op::Scan(_)) || roles.is_cache(id));
        let wanted = asking.flat_map(|&id| graph.operands(id)).chain(roots.iter().copied());
        roles.wanted = wanted.map(|id| roles.base(id)).collect();
        Ok(roles)
    }

    /// An error at a node.
    pub fn error(&self, id: NodeId, problem: String) -> FuseError {
        FuseError::at(self.region, id, problem)
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

    /// Whether a value is formed block by block and never stored. This depends on axes that the
    /// whole program decides on, so it is the same in every entry, and so are the bits.
    pub fn is_streamed(&self, id: NodeId) -> bool {
        self.leading(id) == Leading::Quadratic || self.huge_axis(id).is_some()
    }

    /// Whether a value is there before the region runs.
    pub fn is_given(&self, id: NodeId) -> bool {
        matches!(self.graph.op(id), Op::Input(_) | Op::Param(_) | Op::Argument(_) | Op::Output(_))
            || self.is_cache(id)
    }

    /// Whether a value is computed wherever it is used, at no cost worth a
    /// thought: literals, positions, masks. This is the one rule of it: lowering
    /// is told in [`super::RegionSteps::in_place`].
    pub fn is_free(&self, id: NodeId) -> bool {
        match self.graph.op(id) {
            Op::Literal(_) | Op::Index(_) => true,
            Op::Map(_) => matches!(self.graph.ty(id).dtype, DType::Bool | DType::I32),
            Op::Cast(_) => {
                let operand = self.graph.operands(id)[0];
                matches!(self.graph.ty(operand).dtype, DType::Bool | DType::I32)
                    || self.is_given(self.base(operand))
                        && self.graph.ty(operand).dtype.is_narrow()
                        && self.graph.ty(id).dtype == DType::F32
            }
            _ => false,
        }
    }

    /// Whether a root, a repeat or a cache needs a value as it is stored.
    pub fn is_wanted(&self, id: NodeId) -> bool {
        self.wanted.contains(&id)
    }

    /// Whether a node is a `history` that is read from a cache.
    pub fn is_cache(&self, id: NodeId) -> bool {
        !self.history_is_rename && matches!(self.graph.op(id), Op::History(_))
    }

    /// Whether a value has a row for each position that a cache holds.
    pub fn is_along_cache(&self, id: NodeId) -> bool {
        !self.history_is_rename && self.leading(id) == Leading::Past
    }

    /// The value that a chain of views looks at.
    pub fn base(&self, mut id: NodeId) -> NodeId {
        while is_view(self.graph.op(id)) && !matches!(self.graph.op(id), Op::Output(_)) && !self.is_cache(id)
        {
            id = self.graph.operands(id)[0];
        }
        id
    }

    /// The operands of a node; of chosen weights, their table and the ids.
    fn operands(&self, id: NodeId) -> Vec<NodeId> {
        match gathered(self.graph, id) {
            Some(found) => vec![found.rows, found.table, found.grouping.ids],
            None => self.graph.operands(id),
        }
    }

    /// The computed values that a node reads, through views and free nodes; but a loop reads
    /// what is stored.
    pub fn sources(&self, id: NodeId) -> Vec<NodeId> {
        let stored = matches!(self.graph.op(id), Op::Repeat(_) | Op::Scan(_)) || self.is_cache(id);
        let mut found = Vec::new();
        let mut stack = self.operands(id);
        while let Some(operand) = stack.pop() {
            let base = self.base(operand);
            if self.is_free(base) && !stored {
                stack.extend(self.graph.operands(base));
            } else if !found.contains(&base) {
                found.push(base);
            }
        }
        found
    }

    /// Whether a node is computed by some group, and not given or read in place alone.
    pub fn is_computed(&self, id: NodeId) -> bool {
        let stored = self.is_wanted(id) && matches!(self.graph.op(id), Op::Map(_) | Op::Cast(_));
        !self.is_given(id)
            && (!self.is_free(id) || stored)
            && !is_view(self.graph.op(id))
            && !matches!(self.graph.op(id), Op::Repeat(_) | Op::Scan(_))
            // Weights that are taken for contractions alone are read in place, unless they are asked for besides.
            && (self.is_wanted(id) || !is_gathered(self.graph, id))
    }
}
