//! Gathers and their adjoints: which element of a table an id names, and rows
//! added to a table at ids. It knows no other op.

use super::emit::{NestBuilder, Schedule};
use super::places::take_along;
use super::stages::{Lowering, Phase};
use super::{LowerError, Source};
use crate::tile::{Id, Instr, Place, RowMap, ValueId};
use diptych_ir::{Axis, DType, NodeId, Op, Size};
use diptych_passes::layout::{Leading, symbol};

impl Lowering<'_> {
    /// The element of a table that an id names.
    pub(super) fn compute_take(
        &mut self,
        nest: &mut NestBuilder,
        id: NodeId,
        axis: Axis,
        operands: &[NodeId],
    ) -> Result<ValueId, LowerError> {
        let (table, ids) = (operands[0], operands[1]);
        if symbol(axis).is_some() {
            if self.group_leading() != Leading::Batch || self.leading(table) != Leading::Rows {
                return Err(self.error(
                    id,
                    "takes along a run-time axis: only one token of each sequence can be taken".into(),
                ));
            }
            let arg = self.arg(Source::Value(ids), DType::I32, false);
            if let (Op::Index(_), Some(dim)) = (self.graph.op(table), self.dims.row) {
                return Ok(nest.push(Instr::PositionOf { dim, chosen: arg }));
            }
            let Place::Strided(mut view) = self.place(table, false)? else {
                return Err(self.error(id, "takes tokens of a packed value".into()));
            };
            view.rows = RowMap::Chosen(arg);
            return Ok(nest.push(Instr::Load(Place::Strided(view))));
        }
        let which = self.id(nest, id, ids, axis)?;
        let dim = self.dims.of(axis);
        let mut table = self.place(table, false)?;
        let along = take_along(&mut table, dim);
        let size = axis.fixed_size().unwrap_or(1);
        Ok(nest.push(Instr::LoadAt { table, id: which, along, size }))
    }

    /// Zeros, or what is stored already, and rows added to them in the order in which they stand.
    pub(super) fn emit_scatter(&mut self, schedule: &mut Schedule, id: NodeId) -> Result<(), LowerError> {
        let Op::PutAdd(put) = self.graph.op(id).clone() else { return Ok(()) };
        let [ids, values] = self.graph.operands(id)[..] else { return Ok(()) };
        if symbol(put.axis).is_some() {
            return Err(self.error(id, "adds to values along a run-time axis".into()));
        }
        let computed = self.computed[&id].clone();
        let table = self.stored(id, true)?;
        let dims = self.result_order(&table, &computed.dims);
        if !(self.context.goes_on)(id) {
            let zeros = schedule.nest(Phase::Before, 0, &dims);
            let zero = zeros.push(Instr::Float(0.0));
            zeros.push(Instr::Store(table.clone(), zero));
        }
        let axis = self.dims.of(put.axis);
        let mut walked = self.walked(id);
        walked.retain(|dim| !dims.contains(dim));
        walked.extend(dims.into_iter().filter(|&dim| Some(dim) != axis));
        let stage = if computed.phase == Phase::Stream { 0 } else { 1 };
        let nest = schedule.nest(computed.phase, stage, &walked);
        let which = self.id(nest, id, ids, put.axis)?;
        let value = self.value(nest, values, computed.phase)?;
        let mut table = table;
        let along = take_along(&mut table, axis);
        let size = put.axis.fixed_size().unwrap_or(1);
        nest.push(Instr::AddAt { table, id: which, along, size, value });
        Ok(())
    }

    /// What says which row of a table, along `axis`, a node means.
    fn id(
        &mut self,
        nest: &mut NestBuilder,
        node: NodeId,
        ids: NodeId,
        axis: Axis,
    ) -> Result<Id, LowerError> {
        if let Op::Index(index) = self.graph.op(ids) {
            let most = match index.axis.size {
                Size::Fixed(size) => Some(size),
                Size::Symbolic(symbol) => self.context.program.bounds.get(&symbol).map(|bounds| bounds.most),
            };
            if most > axis.fixed_size() {
                let most = most.unwrap_or(0);
                let problem = format!(
                    "has positions along {} as ids: there can be {most}, but {axis} has fewer",
                    index.axis
                );
                return Err(self.error(node, problem));
            }
            let dim = self.dims.of(index.axis);
            return dim
                .map(Id::Position)
                .ok_or_else(|| self.error(node, "has ids that are not walked".into()));
        }
        if self.is_free(ids) {
            return Ok(Id::Computed(self.value(nest, ids, Phase::Before)?));
        }
        match self.place(ids, false)? {
            Place::Strided(view) => Ok(Id::Stored(view)),
            Place::Packed(_) => Err(self.error(node, "has packed ids".into())),
        }
    }
}
