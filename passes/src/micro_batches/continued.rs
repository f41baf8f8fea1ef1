//! Which sums of the entry `Accumulate` go on from what their states hold, instead of being added to it when they
//! are done. It knows no kernel.

use super::expression::is_sum_over_tokens;
use diptych_ir::{Entry, EntryKind, Graph, NodeId, Op, Program, RegionId, ScalarFn, Symbol};
use std::collections::HashSet;

/// The updates of an entry, and the sums among them that go on.
#[derive(Clone, Debug, Default)]
pub struct Continued {
    /// The updates; one that goes on is the sum alone.
    pub updates: Vec<(Symbol, NodeId)>,
    /// The sums.
    pub sums: HashSet<(RegionId, NodeId)>,
    /// States to which what was summed is added when it is done: the bits of their gradients depend on how a
    /// batch is cut.
    pub added: Vec<Symbol>,
}

/// Finds, in a program that has this entry alone, each update `state + sum` of `Accumulate` whose sum over tokens
/// nothing else reads.
pub fn continued_sums(program: &Program, entry: &Entry) -> Continued {
    let mut found = Continued { updates: entry.updates.clone(), ..Continued::default() };
    if entry.kind != EntryKind::Accumulate {
        return found;
    }
    let graph = &program.main().graph;
    let roots: Vec<NodeId> = entry.roots.iter().chain(&entry.updates).map(|root| root.1).collect();
    let needed: HashSet<NodeId> = graph.ancestors(&roots).into_iter().collect();
    let read_by = |id: NodeId| graph.users(id).into_iter().filter(|user| needed.contains(user)).count();
    for update in &mut found.updates {
        let (name, node) = *update;
        let operands = graph.operands(node);
        let holds = |&id: &NodeId| matches!(graph.op(id), Op::Param(param) if param.name == name);
        let sum = match (graph.op(node), &operands[..]) {
            (Op::Map(map), [held, sum]) if map.0 == ScalarFn::Add && holds(held) => Some(*sum),
            (Op::Map(map), [sum, held]) if map.0 == ScalarFn::Add && holds(held) => Some(*sum),
            _ => None,
        };
        let place = sum.filter(|&sum| read_by(sum) == 1 && !roots.contains(&sum));
        match place.and_then(|sum| Some((sum, place_of(program, sum)?))) {
            Some((sum, place)) => {
                update.1 = sum;
                found.sums.insert(place);
            }
            None => found.added.push(name),
        }
    }
    found
}

/// Where a sum over tokens is computed: here, or in the body of the repeat that yields it and nothing else of it.
fn place_of(program: &Program, sum: NodeId) -> Option<(RegionId, NodeId)> {
    let graph = &program.main().graph;
    if goes_on(graph, sum) {
        return Some((Program::MAIN, sum));
    }
    let Op::Output(output) = graph.op(sum) else { return None };
    let Op::Repeat(repeat) = graph.op(graph.operands(sum)[0]) else { return None };
    let body = program.region(repeat.body);
    let inner = body.results[output.index];
    let once = body.results.iter().filter(|&&result| result == inner).count() == 1;
    let alone = once && body.graph.users(inner).is_empty();
    (output.index >= repeat.carried && alone && goes_on(&body.graph, inner)).then_some((repeat.body, inner))
}

/// Whether a node is a sum over tokens, one after the other. What has no axes but those of tokens is summed many tokens
/// at a time.
fn goes_on(graph: &Graph, sum: NodeId) -> bool {
    let along_tokens = |&id: &NodeId| graph.axes(id).iter().all(|axis| axis.fixed_size().is_none());
    let many_at_a_time =
        matches!(graph.op(sum), Op::Reduce(_)) && graph.operands(sum).iter().all(along_tokens);
    is_sum_over_tokens(graph, sum) && !many_at_a_time
}
