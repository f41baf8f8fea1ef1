//! How many positions of values along a cache are there: `history` may keep the last of them only, and what is computed
//! from what it keeps is there for no others. It knows no masks, which say what counts.

use diptych_ir::{Graph, NodeId, Op};
use diptych_passes::fuse::Group;
use diptych_passes::layout::{Leading, leading, symbol};
use std::collections::HashSet;

/// How many positions of a value each position finds, its own the last: the fewest that a `history` it depends on
/// keeps. `None`: all.
pub(super) fn kept(graph: &Graph, id: NodeId) -> Option<usize> {
    let along = |&id: &NodeId| graph.axes(id).iter().any(|&axis| symbol(axis) == Some("past"));
    let mut stack = vec![id];
    let mut seen = HashSet::new();
    let mut fewest: Option<usize> = None;
    while let Some(id) = stack.pop() {
        match graph.op(id) {
            _ if !seen.insert(id) => {}
            Op::History(history) => fewest = fewest.into_iter().chain(history.window).min(),
            _ => stack.extend(graph.operands(id).into_iter().filter(along)),
        }
    }
    fewest
}

/// How many positions the instances of a group along a cache have to compute: the most that one of its values has.
pub(super) fn computed(graph: &Graph, group: &Group) -> Option<usize> {
    let rows = group.nodes.iter().filter(|&&id| leading(graph.axes(id)) == Ok(Leading::Past));
    let each: Option<Vec<usize>> = rows.map(|&id| kept(graph, id)).collect();
    each?.into_iter().max()
}
