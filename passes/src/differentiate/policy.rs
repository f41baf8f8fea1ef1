//! What a layer keeps for its backward pass, and what is computed again there.
//! It looks at one node and its neighbours; it moves nothing.
//!
//! Kept: what is dear to compute for its size. Recomputed: what reads kept
//! values once and costs an operation or two an element (maps, casts, slices,
//! renames), since on any machine a load of the result costs as much.

use diptych_ir::{Axis, Graph, NodeId, Op};

/// Whether the backward pass reads a forward value from memory, given the
/// graph's [`sequence_pairs`].
pub(super) type Policy = fn(&Graph, NodeId, &[(Axis, Axis)]) -> bool;

/// Pairs of a sequence axis and the axis of the positions that it sees. A value
/// over both grows with the square of the text.
pub(super) fn sequence_pairs(graph: &Graph) -> Vec<(Axis, Axis)> {
    let pair = |id: &NodeId| match graph.op(*id) {
        Op::History(history) => Some((history.time, history.past)),
        Op::Rename(rename) if rename.from.fixed_size().is_none() && rename.to.fixed_size().is_none() => {
            Some((rename.from, rename.to))
        }
        _ => None,
    };
    let mut pairs: Vec<(Axis, Axis)> = graph.ids().iter().filter_map(pair).collect();
    pairs.sort_unstable();
    pairs.dedup();
    pairs
}

/// The policy described above.
pub(super) fn saves(graph: &Graph, id: NodeId, pairs: &[(Axis, Axis)]) -> bool {
    let axes = graph.axes(id);
    // Attention scores: a layer's would take more memory than all else that it
    // keeps, and the fused backward pass computes them again tile by tile.
    if pairs.iter().any(|pair| axes.contains(pair.0) && axes.contains(pair.1)) {
        return false;
    }
    match graph.op(id) {
        // Many operations for each element: never twice.
        Op::Contract(_) | Op::PutAdd(_) => true,
        // What was chosen: a few integers a row, after a search.
        Op::TopK(_) => true,
        // Row statistics, the detached maximum of a softmax too: a pass over
        // all that is reduced, for one number.
        Op::Reduce(_) => true,
        // Half the bytes of the contraction that it rounds, if nobody needs that one unrounded.
        Op::Cast(cast) if cast.0.is_narrow() => {
            let rounded = graph.operands(id)[0];
            matches!(graph.op(rounded), Op::Contract(_))
                && graph.users(rounded) == [id]
                && saves(graph, rounded, pairs)
        }
        _ => false,
    }
}
