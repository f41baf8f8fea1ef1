//! The normal forms of routing: contractions with chosen weights sum over the
//! weights' axes alone, gradients of tables of matrices are sums of products, and
//! gradients of chosen elements are sums of selections. It knows no kernel.

use crate::fuse::gathered;
use crate::layout::{Leading, leading};
use diptych_ir::ops::{Contract, Index, Literal, Map, PutAdd, Reduce};
use diptych_ir::{Axis, DType, Graph, NodeId, Op, ReduceKind, Result, ScalarFn};

/// Whether a product of two is one of rows with weights that ids choose for each.
pub(super) fn takes_weights(graph: &Graph, pair: [NodeId; 2], over: &[Axis]) -> bool {
    let of = |take: NodeId, rows: NodeId| {
        let Op::Take(op) = graph.op(take) else { return false };
        let [table, ids] = graph.operands(take)[..] else { return false };
        let shared = |axis: &&Axis| graph.axes(table).contains(**axis) && graph.axes(rows).contains(**axis);
        let own = graph.axes(table).iter().any(|axis| *axis != op.axis && !graph.axes(rows).contains(*axis));
        let with_rows = |id: NodeId| matches!(leading(graph.axes(id)), Ok(Leading::Rows | Leading::Batch));
        leading(graph.axes(table)) == Ok(Leading::None)
            && with_rows(rows)
            && with_rows(ids)
            && own
            && over.iter().any(|axis| shared(&axis))
    };
    of(pair[1], pair[0]) || of(pair[0], pair[1])
}

/// A contraction with chosen weights in its normal form: the sum over what each row has chosen comes
/// after the sum over the weights' axes. `None` for any other contraction.
pub(super) fn contraction(graph: &mut Graph, id: NodeId, contract: &Contract) -> Result<Option<NodeId>> {
    if gathered(graph, id).is_some() {
        return Ok(Some(id));
    }
    let [left, right] = graph.operands(id)[..] else { return Ok(None) };
    if !takes_weights(graph, [left, right], &contract.over) {
        return Ok(None);
    }
    let both = |axis: &Axis| graph.axes(left).contains(*axis) && graph.axes(right).contains(*axis);
    let of_ids = |take: NodeId, axis: &Axis| match graph.op(take) {
        Op::Take(_) => graph.axes(graph.operands(take)[1]).contains(*axis),
        _ => false,
    };
    let chosen = |axis: &Axis| of_ids(left, axis) || of_ids(right, axis);
    let (choices, rest): (Vec<Axis>, Vec<Axis>) = contract.over.iter().partition(|axis| chosen(axis));
    if choices.is_empty() || !rest.iter().all(both) {
        return Ok(None);
    }
    let inner = graph.add(Contract { over: rest }, &[left, right])?;
    if gathered(graph, inner).is_none() {
        return Ok(None);
    }
    let (span, label) = (graph.node(id).span, graph.node(id).label);
    graph.annotate(inner, span, label);
    graph.add(Reduce { kind: ReduceKind::Sum, over: choices }, &[inner]).map(Some)
}

/// A gradient of chosen elements in its normal form.
pub(super) fn put_add(graph: &mut Graph, id: NodeId, put: &PutAdd) -> Result<Option<NodeId>> {
    let [ids, values] = graph.operands(id)[..] else { return Ok(None) };
    let with_rows = |id: NodeId| matches!(leading(graph.axes(id)), Ok(Leading::Rows | Leading::Batch));
    if with_rows(id) && graph.axes(values).contains_all(graph.axes(ids)) {
        return select_and_sum(graph, id, put, (ids, values)).map(Some);
    }
    if leading(graph.axes(id)) == Ok(Leading::None) && with_rows(ids) {
        return sum_of_products(graph, id, put, (ids, values));
    }
    Ok(None)
}

/// Elements that each row chose of its own: the sum, over what it chose, of what is at its place.
fn select_and_sum(
    graph: &mut Graph,
    id: NodeId,
    put: &PutAdd,
    (ids, values): (NodeId, NodeId),
) -> Result<NodeId> {
    let dtype = graph.ty(values).dtype;
    let index = graph.add(Index { axis: put.axis, origin: None }, &[])?;
    let here = graph.add(Map(ScalarFn::Equal), &[ids, index])?;
    let zero = graph.add(Literal::scalar(dtype, 0.0), &[])?;
    let selected = graph.add(Map(ScalarFn::Select), &[here, values, zero])?;
    let over: Vec<Axis> =
        put.over.iter().copied().filter(|axis| graph.axes(selected).contains(*axis)).collect();
    let sum = match (over.is_empty(), dtype) {
        (false, _) => graph.add(Reduce { kind: ReduceKind::Sum, over }, &[selected])?,
        (true, DType::F32) => selected,
        (true, _) => graph.add(diptych_ir::ops::Cast(DType::F32), &[selected])?,
    };
    debug_assert_eq!(graph.ty(sum), graph.ty(id));
    Ok(sum)
}

/// Outer products that are added by id, as the two factors of each.
fn sum_of_products(
    graph: &mut Graph,
    id: NodeId,
    put: &PutAdd,
    (ids, values): (NodeId, NodeId),
) -> Result<Option<NodeId>> {
    let of_table: Vec<Axis> = graph.axes(id).without(&[put.axis]).iter().copied().collect();
    let own = |graph: &Graph, factor: NodeId| -> Vec<Axis> {
        of_table.iter().copied().filter(|axis| graph.axes(factor).contains(*axis)).collect()
    };
    let mut factors = Vec::new();
    let mut stack = vec![values];
    while let Some(factor) = stack.pop() {
        let product = match graph.op(factor) {
            Op::Map(map) => map.0 == ScalarFn::Mul,
            Op::Contract(contract) => contract.over.is_empty(),
            _ => false,
        };
        if product && own(graph, factor).len() == of_table.len() {
            stack.extend(graph.operands(factor).into_iter().rev());
        } else {
            factors.push(factor);
        }
    }
    // Factors that share an axis of the table go together; those with none of them go with the first.
    let mut sides: Vec<(Vec<Axis>, Vec<NodeId>)> = Vec::new();
    let mut shared: Vec<NodeId> = Vec::new();
    for &factor in &factors {
        let axes = own(graph, factor);
        if axes.is_empty() {
            shared.push(factor);
            continue;
        }
        let (joined, mut apart): (Vec<_>, Vec<_>) =
            sides.into_iter().partition(|side| side.0.iter().any(|axis| axes.contains(axis)));
        let (mut all, mut members) = (axes, Vec::new());
        for side in joined {
            all.extend(side.0);
            members.extend(side.1);
        }
        members.push(factor);
        apart.push((all, members));
        sides = apart;
    }
    if sides.len() < 2 || !put.over.iter().all(|axis| graph.axes(ids).contains(*axis)) {
        return Ok(None);
    }
    let (_, mut left) = sides.remove(0);
    let mut right: Vec<NodeId> = sides.into_iter().flat_map(|side| side.1).collect();
    // What is a number a row goes to the side that has the ids' axes anyway.
    let chosen =
        |side: &[NodeId]| side.iter().any(|&factor| graph.axes(factor).contains_all(graph.axes(ids)));
    if chosen(&right) {
        right.extend(shared)
    } else {
        left.extend(shared)
    }
    let mut product = |side: Vec<NodeId>| {
        let mut factors = side.into_iter();
        let Some(first) = factors.next() else { return graph.add(Literal::scalar(DType::F32, 1.0), &[]) };
        factors.try_fold(first, |product, factor| graph.add(Map(ScalarFn::Mul), &[product, factor]))
    };
    let (left, right) = (product(left)?, product(right)?);
    graph.add(put.clone(), &[ids, left, right]).map(Some)
}
