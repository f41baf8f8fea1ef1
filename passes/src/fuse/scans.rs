//! What fusion must know of recurrences: which values at their start are one
//! number, which no kernel needs to write down.

use diptych_ir::{DType, Graph, NodeId, Op, ScalarFn};
use std::collections::HashSet;

/// What the roots depend on, operands first, without what recurrences start
/// from where that is one number.
pub fn needed(graph: &Graph, roots: &[NodeId]) -> Vec<NodeId> {
    let (mut seen, mut stack) = (HashSet::new(), roots.to_vec());
    while let Some(id) = stack.pop() {
        if seen.insert(id) {
            let carried = match graph.op(id) {
                Op::Scan(scan) => scan.carried,
                _ => 0,
            };
            let operands = graph.operands(id).into_iter().enumerate();
            let read = operands.filter(|&(at, operand)| at >= carried || constant(graph, operand).is_none());
            stack.extend(read.map(|(_, operand)| operand));
        }
    }
    graph.topological_order().into_iter().filter(|id| seen.contains(id)).collect()
}

/// Whether a step of a recurrence computes a value wherever it reads it, as groups do elsewhere.
pub fn in_place(graph: &Graph, id: NodeId) -> bool {
    match graph.op(id) {
        Op::Literal(_) | Op::Index(_) => true,
        Op::Map(_) => matches!(graph.ty(id).dtype, DType::Bool | DType::I32),
        Op::Cast(_) => {
            graph.ty(id).dtype == DType::F32 && graph.ty(graph.operands(id)[0]).dtype != DType::F32
        }
        _ => false,
    }
}

/// The number that every element of a value is, if that can be seen: literals,
/// comparisons of positions with what they never reach, and functions of these.
pub fn constant(graph: &Graph, id: NodeId) -> Option<f64> {
    let operands = graph.operands(id);
    match graph.op(id) {
        Op::Literal(literal) => {
            let values = literal.values();
            let first = *values.first()?;
            values.iter().all(|&value| value == first).then_some(first)
        }
        Op::Cast(_) => constant(graph, operands[0]),
        Op::Map(map) => {
            let known: Vec<Option<f64>> = operands.iter().map(|&operand| constant(graph, operand)).collect();
            match (map.0, &known[..]) {
                (ScalarFn::And, [left, right]) if *left == Some(0.0) || *right == Some(0.0) => Some(0.0),
                (ScalarFn::Less, [None, Some(least)])
                    if *least <= 0.0 && matches!(graph.op(operands[0]), Op::Index(_)) =>
                {
                    Some(0.0)
                }
                (ScalarFn::Mul, [left, right]) if *left == Some(0.0) || *right == Some(0.0) => Some(0.0),
                (ScalarFn::Equal, _) if operands[0] == operands[1] => Some(1.0),
                (function, known) => {
                    let known: Option<Vec<f64>> = known.iter().copied().collect();
                    Some(function.apply(&known?))
                }
            }
        }
        _ => None,
    }
}
