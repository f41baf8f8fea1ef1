//! Routing: choices, the grouping of rows by what they chose, and where the
//! factors of contractions with chosen weights are. It decides no block sizes.

use super::emit::{Order, Schedule};
use super::stages::{Lowering, Phase};
use super::{Context, LowerError, Lowered, Source};
use crate::tile::{Base, Extent, Place, Stmt, TileProgram};
use diptych_ir::{DType, Graph, NodeId, Op};
use diptych_passes::fuse::{Group, GroupKind, Grouping, gathered};
use diptych_passes::layout::Leading;

/// The two factors of a contraction, with the table in place of what was taken from it, or those whose
/// products a gradient of a table sums.
pub(super) fn factors(graph: &Graph, id: NodeId) -> Vec<NodeId> {
    match (gathered(graph, id), graph.op(id)) {
        (Some(found), _) => vec![found.rows, found.table],
        (None, Op::PutAdd(_)) => graph.operands(id).split_off(1),
        (None, _) => graph.operands(id),
    }
}

impl Lowering<'_> {
    fn grouping(&self) -> Option<&Grouping> {
        match &self.group.kind {
            GroupKind::Grouped(grouping) | GroupKind::OverGrouped(grouping) => Some(grouping),
            _ => None,
        }
    }

    /// Whether sums of the group run over the pairs of an id.
    pub(super) fn sums_pairs(&self) -> bool {
        matches!(self.group.kind, GroupKind::OverGrouped(_))
    }

    /// The tables of the grouping are the first arguments: see [`Extent::Pairs`].
    pub(super) fn add_grouping_args(&mut self) {
        if let Some(grouping) = self.grouping() {
            let (ids, count) = (grouping.ids, grouping.axis.fixed_size().unwrap_or(1));
            self.arg(Source::Order(ids, count), DType::I32, false);
            self.arg(Source::Starts(ids, count), DType::I32, false);
        }
    }

    /// Whether the rows of a place lie in another order than the pairs that walk them.
    pub(super) fn is_scattered(&self, place: &Place) -> bool {
        let follows =
            |dim: usize| matches!(self.dims.list[dim].extent, Extent::Pairs { .. } | Extent::Choice { .. });
        match place {
            Place::Strided(view) => {
                matches!(view.base, Base::Arg(_)) && view.strides.iter().any(|&(dim, _)| follows(dim))
            }
            Place::Packed(_) => false,
        }
    }

    pub(super) fn emit_top_k(&mut self, schedule: &mut Schedule, id: NodeId) -> Result<(), LowerError> {
        let Op::TopK(top) = self.graph.op(id).clone() else { return Ok(()) };
        let computed = self.computed[&id].clone();
        let operand = self.graph.operands(id)[0];
        let (Some(along), Some(ranks)) = (self.dims.of(top.axis), self.dims.of(top.into)) else {
            return Err(self.error(id, "chooses along an axis that its kernel does not walk".into()));
        };
        if self.is_free(operand) {
            return Err(self.error(id, "chooses among values that no kernel stores".into()));
        }
        let (Place::Strided(from), Place::Strided(to)) =
            (self.place(operand, computed.phase == Phase::After)?, self.stored(id, true)?)
        else {
            return Err(self.error(id, "chooses among the elements of a packed weight".into()));
        };
        let rows = computed.dims.iter().copied().filter(|&dim| dim != ranks).collect();
        let stmt = Stmt::TopK { rows, along, ranks, from, to };
        schedule.push(computed.phase, computed.stage, Order::Last, stmt);
        Ok(())
    }
}

/// The kernel that sorts the pairs of rows and ids by id, for those that group by them.
///
/// # Errors
/// When the ids are computed where they are used, and not stored.
pub fn lower_grouping(ids: NodeId, count: usize, context: &Context) -> Result<Lowered, LowerError> {
    let graph = &context.program.region(context.region).graph;
    let axes: Vec<_> = graph.axes(ids).iter().copied().collect();
    let leading = diptych_passes::layout::leading(graph.axes(ids)).unwrap_or(Leading::Quadratic);
    let group = Group { kind: GroupKind::Rows(leading), nodes: Vec::new(), outputs: Vec::new() };
    let mut lowering = Lowering::new(&group, context)?;
    if let Some(row) = lowering.dims.row {
        lowering.dims.list[row].extent = Extent::Rows { leading, block: usize::MAX };
    }
    let order = lowering.arg(Source::Order(ids, count), DType::I32, true);
    let starts = lowering.arg(Source::Starts(ids, count), DType::I32, true);
    if lowering.is_free(ids) {
        return Err(lowering.error(ids, "are ids that no kernel stores: choose them with `top_k`".into()));
    }
    let Place::Strided(view) = lowering.place(ids, false)? else {
        return Err(lowering.error(ids, "are ids that are packed".into()));
    };
    let dims = lowering.axes_dims(&axes);
    let name = format!("group_by_{}", lowering.name(ids));
    let notes = vec![format!("the order of rows by {}: {}", graph.op(ids).name(), graph.ty(ids))];
    let program = TileProgram {
        name,
        notes,
        args: lowering.args,
        dims: lowering.dims.list,
        grid: Vec::new(),
        tiles: Vec::new(),
        tables: Vec::new(),
        body: vec![Stmt::Group {
            ids: view,
            leading,
            dims,
            count,
            order,
            starts,
            block: context.blocks.pairs,
        }],
    };
    Ok(Lowered { program, args: lowering.sources, sums: lowering.sums })
}
