//! Rows added to the sum of a table, where it lies: rows of one id are added up first, in their order, and then their sum
//! to the table's row, so that each element is the sum that the graph says.

use super::places::take_along;
use super::stages::Lowering;
use super::{Context, LowerError, Lowered, Source};
use crate::tile::{AddedRows, Place, Stmt, TileProgram};
use diptych_ir::{DType, Graph, NodeId, Op};
use diptych_passes::fuse::Group;

/// The nodes of such a group: the sum that is there, the rows, and both together.
pub fn added_rows(graph: &Graph, group: &Group) -> Option<[NodeId; 3]> {
    let &[rows, both] = &group.nodes[..] else { return None };
    let sum = graph.operands(both).into_iter().find(|&operand| operand != rows)?;
    Some([sum, rows, both])
}

/// The kernel of such a group.
pub(super) fn lower(group: &Group, context: &Context) -> Result<Lowered, LowerError> {
    let mut lowering = Lowering::new(group, context)?;
    let graph = lowering.graph;
    let unknown = |what: &str| LowerError { node: "added rows".to_owned(), problem: what.to_owned() };
    let [_, rows, both] = added_rows(graph, group).ok_or_else(|| unknown("are not a sum and rows"))?;
    let Op::PutAdd(put) = graph.op(rows).clone() else { return Err(unknown("are no `put_add`")) };
    let [ids, values] = graph.operands(rows)[..] else { return Err(unknown("are products")) };
    let count = put.axis.fixed_size().unwrap_or(1);
    let order = lowering.arg(Source::Order(ids, count), DType::I32, false);
    let starts = lowering.arg(Source::Starts(ids, count), DType::I32, false);
    let axes: Vec<_> = graph.axes(both).iter().copied().collect();
    let dims = lowering.axes_dims(&axes);
    let (Place::Strided(id), Place::Strided(from)) =
        (lowering.place(ids, false)?, lowering.place(values, false)?)
    else {
        return Err(lowering.error(rows, "adds rows that are packed".into()));
    };
    let mut table = lowering.stored(both, true)?;
    let mut dims = lowering.result_order(&table, &dims);
    let along = lowering.dims.of(put.axis);
    dims.retain(|&dim| Some(dim) != along);
    let along = take_along(&mut table, along);
    let row = lowering.dims.row.ok_or_else(|| lowering.error(rows, "has no rows".into()))?;
    let program = TileProgram {
        name: lowering.program_name(),
        notes: lowering.notes(),
        args: lowering.args,
        dims: lowering.dims.list,
        grid: lowering.dims.grid,
        tiles: Vec::new(),
        tables: Vec::new(),
        body: vec![Stmt::AddRows(AddedRows { row, dims, ids: id, count, order, starts, from, table, along })],
    };
    Ok(Lowered { program, args: lowering.sources, sums: lowering.sums })
}
