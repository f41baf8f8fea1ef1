//! Copies of one computation, of which one is taken at some positions: models
//! compute the last logits from the last position alone. Both must round alike,
//! so both keep the form that they have. It knows no rule.

use diptych_ir::{Graph, NodeId, Op, Size};
use std::collections::{HashMap, HashSet};

/// For each node that computes `take(x, ids)` along a run-time axis, from
/// operands taken likewise, the node that computes x.
pub(super) fn twins(graph: &Graph) -> HashMap<NodeId, NodeId> {
    let mut twins: HashMap<NodeId, NodeId> = HashMap::new();
    for id in graph.topological_order() {
        let operands = graph.operands(id);
        if let (Op::Take(take), [table, _]) = (graph.op(id), &operands[..])
            && matches!(take.axis.size, Size::Symbolic(_))
        {
            twins.insert(id, *table);
            continue;
        }
        let Some(whole) = operands.iter().find_map(|operand| twins.get(operand)) else { continue };
        let computes_whole = |&other: &NodeId| {
            let others = graph.operands(other);
            other != id
                && graph.op(other) == graph.op(id)
                && others.len() == operands.len()
                && operands.iter().zip(&others).all(|(mine, its)| mine == its || twins.get(mine) == Some(its))
        };
        if let Some(other) = graph.users(*whole).into_iter().find(computes_whole) {
            twins.insert(id, other);
        }
    }
    twins
}

/// The nodes that have a copy and the copies, but for what is merely taken:
/// of these each has to keep its form.
pub(super) fn pinned(graph: &Graph) -> HashSet<NodeId> {
    let copies = twins(graph).into_iter().filter(|(copy, _)| !matches!(graph.op(*copy), Op::Take(_)));
    copies.flat_map(|(copy, whole)| [copy, whole]).collect()
}
