//! What is particular to the gradients of recurrences: which states are worth
//! keeping, and sums over sequences, which the sequences' own walks leave to what
//! comes after them. It adds no loop.

use diptych_ir::ops::{Cast, Contract, Loop, Map, Reduce};
use diptych_ir::{Axis, DType, Graph, NodeId, Op, ReduceKind, Region, Result, ScalarFn};

/// Elements of values for each row.
pub(super) fn elements(graph: &Graph, values: &[NodeId]) -> usize {
    let of = |&id: &NodeId| graph.axes(id).iter().filter_map(|axis| axis.fixed_size()).product::<usize>();
    values.iter().map(of).sum()
}

/// Elements that a step is given at each position.
pub(super) fn given(region: &Region, looped: Loop<'_>) -> usize {
    elements(&region.graph, &region.arguments[looped.carried..looped.carried + looped.sequenced])
}

/// The positions of the arguments that the next carried values depend on.
pub(super) fn read_by_states(region: &Region, looped: Loop<'_>) -> Vec<usize> {
    let needed = region.graph.ancestors(&region.results[..looped.carried]);
    let position = |id: &NodeId| region.arguments.iter().position(|argument| argument == id);
    needed.iter().filter_map(position).collect()
}

/// A value that is summed over sequences, as it is before that sum: with the
/// axis of the sequences. None where that cannot be seen.
pub(super) fn for_each_sequence(graph: &mut Graph, id: NodeId) -> Result<Option<NodeId>> {
    let is_batch = |axis: &Axis| axis.name.as_str() == "batch";
    if graph.axes(id).iter().any(is_batch) {
        return Ok(Some(id));
    }
    let operands = graph.operands(id);
    let through = |graph: &mut Graph, at: usize| -> Result<Option<NodeId>> {
        let Some(inner) = for_each_sequence(graph, operands[at])? else { return Ok(None) };
        let mut operands = operands.clone();
        operands[at] = inner;
        let op = graph.op(id).clone();
        graph.add(op, &operands).map(Some)
    };
    match graph.op(id).clone() {
        Op::Reduce(Reduce { kind: ReduceKind::Sum, over }) if over.iter().any(is_batch) => {
            let over: Vec<Axis> = over.into_iter().filter(|axis| !is_batch(axis)).collect();
            match over.is_empty() {
                true if graph.ty(operands[0]).dtype == DType::F32 => Ok(Some(operands[0])),
                true => graph.add(Cast(DType::F32), &operands).map(Some),
                false => graph.add(Reduce { kind: ReduceKind::Sum, over }, &operands).map(Some),
            }
        }
        Op::Contract(Contract { over }) if over.iter().any(is_batch) => {
            let over = over.into_iter().filter(|axis| !is_batch(axis)).collect();
            graph.add(Contract { over }, &operands).map(Some)
        }
        Op::Reduce(Reduce { kind: ReduceKind::Sum, .. })
        | Op::Cast(Cast(DType::F32))
        | Op::Rename(_)
        | Op::Split(_)
        | Op::Merge(_)
        | Op::Slice(_)
        | Op::Map(Map(ScalarFn::Neg | ScalarFn::Div)) => through(graph, 0),
        Op::Map(Map(ScalarFn::Mul)) => match through(graph, 0)? {
            Some(product) => Ok(Some(product)),
            None => through(graph, 1),
        },
        Op::Map(Map(function @ (ScalarFn::Add | ScalarFn::Sub))) => {
            let parts = (for_each_sequence(graph, operands[0])?, for_each_sequence(graph, operands[1])?);
            let (Some(left), Some(right)) = parts else { return Ok(None) };
            graph.add(Map(function), &[left, right]).map(Some)
        }
        Op::Concat(concat) => {
            let mut any = false;
            let mut pieces = Vec::new();
            for &operand in &operands {
                let piece = for_each_sequence(graph, operand)?;
                // A piece of zeros is the same for each.
                let zero = crate::fuse::constant(graph, operand) == Some(0.0);
                if piece.is_none() && !zero {
                    return Ok(None);
                }
                any |= piece.is_some();
                pieces.push(piece.unwrap_or(operand));
            }
            if any { graph.add(concat, &pieces).map(Some) } else { Ok(None) }
        }
        _ => Ok(None),
    }
}
