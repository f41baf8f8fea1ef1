//! Contractions with weights that ids choose (`take` of a table of matrices),
//! and the gradients of such tables: experts. Their rows are grouped by id, so
//! that the chosen weights are read in place and never stored by row.

use crate::layout::{Leading, leading, product, symbol};
use diptych_ir::{Axis, Graph, NodeId, Op};

/// By what ids rows are grouped.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Grouping {
    /// The ids, i32: one for each run-time row and position of its fixed axes.
    pub ids: NodeId,
    /// The axis that they point along.
    pub axis: Axis,
    /// Their run-time rows.
    pub leading: Leading,
    /// Their fixed axes, in the graph's order: what each row chooses.
    pub choices: Vec<Axis>,
}

/// A contraction with chosen weights.
#[derive(Clone, PartialEq, Debug)]
pub struct Gathered {
    /// The node that takes the weights.
    pub take: NodeId,
    /// The table that it takes them from.
    pub table: NodeId,
    /// The other operand.
    pub rows: NodeId,
    /// By what its rows are grouped.
    pub grouping: Grouping,
}

/// The grouping of rows by these ids along an axis, if they have run-time rows.
pub fn grouping(graph: &Graph, ids: NodeId, axis: Axis) -> Option<Grouping> {
    let leading = leading(graph.axes(ids)).ok()?;
    let choices = graph.ordered(graph.axes(ids).iter().copied().filter(|&axis| symbol(axis).is_none()));
    (axis.fixed_size().is_some() && matches!(leading, Leading::Rows | Leading::Batch)).then_some(Grouping {
        ids,
        axis,
        leading,
        choices,
    })
}

/// What a contraction with chosen weights is made of; `None` for any other node.
pub fn gathered(graph: &Graph, id: NodeId) -> Option<Gathered> {
    let Op::Contract(contract) = graph.op(id) else { return None };
    let [left, right] = graph.operands(id)[..] else { return None };
    let of = |take: NodeId, rows: NodeId| {
        let Op::Take(op) = graph.op(take) else { return None };
        let [table, ids] = graph.operands(take)[..] else { return None };
        let grouping = grouping(graph, ids, op.axis)?;
        let sums = |axis: &Axis| graph.axes(table).contains(*axis) && graph.axes(rows).contains(*axis);
        let own = graph.axes(table).iter().any(|axis| *axis != op.axis && !graph.axes(rows).contains(*axis));
        let fits = leading(graph.axes(table)) == Ok(Leading::None)
            && leading(graph.axes(rows)) == Ok(grouping.leading)
            && !contract.over.is_empty()
            && contract.over.iter().all(sums)
            && own;
        fits.then_some(Gathered { take, table, rows, grouping })
    };
    of(right, left).or_else(|| of(left, right))
}

/// Whether a node takes weights for contractions alone, so that nothing computes it.
pub fn is_gathered(graph: &Graph, id: NodeId) -> bool {
    let users = graph.users(id);
    matches!(graph.op(id), Op::Take(_))
        && !users.is_empty()
        && users.into_iter().all(|user| gathered(graph, user).is_some_and(|found| found.take == id))
}

/// The grouping of the gradient of a table of matrices: products of rows, added by id.
pub fn grouped_gradient(graph: &Graph, id: NodeId) -> Option<Grouping> {
    let Op::PutAdd(put) = graph.op(id) else { return None };
    let operands = graph.operands(id);
    let grouping = grouping(graph, operands[0], put.axis)?;
    (operands.len() == 3 && leading(graph.axes(id)) == Ok(Leading::None)).then_some(grouping)
}

impl Grouping {
    /// How many ids a row has.
    pub fn ids_of_row(&self) -> usize {
        product(&self.choices)
    }
}
