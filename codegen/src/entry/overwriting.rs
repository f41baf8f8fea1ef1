//! Whether a parameter's new value may be written where the old one lies while
//! others still need the old one. It knows groups and graphs, and no buffer.

use diptych_ir::ops::Repeat;
use diptych_ir::{Graph, NodeId, Op, Program, RegionId, Symbol};
use diptych_passes::fuse::{GroupKind, RegionSteps, Step};
use std::collections::{HashMap, HashSet};

/// How a step reads a parameter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reading {
    /// Not at all.
    None,
    /// Each element where its new value is computed.
    Alike,
    /// In some other way: seen through a view, summed, gathered.
    Otherwise,
}

/// Whether something reads a parameter after the step that writes its new value, or while that step writes it.
pub(super) fn is_overwritten_too_soon(
    program: &Program,
    fused: &HashMap<RegionId, RegionSteps>,
    name: Symbol,
    node: NodeId,
) -> bool {
    let graph = &program.main().graph;
    let is_old = |id: NodeId| matches!(graph.op(id), Op::Param(param) if param.name == name);
    is_too_soon(program, fused, Program::MAIN, &is_old, node)
}

/// The same of a value of a region that is to be written where these nodes lie.
fn is_too_soon(
    program: &Program,
    fused: &HashMap<RegionId, RegionSteps>,
    region: RegionId,
    is_old: &dyn Fn(NodeId) -> bool,
    node: NodeId,
) -> bool {
    let graph = &program.region(region).graph;
    let steps = &fused[&region].steps;
    let computed: HashSet<NodeId> = steps.iter().flat_map(Step::nodes).collect();
    let produced_by = match graph.op(node) {
        Op::Output(_) => graph.operands(node)[0],
        _ => node,
    };
    let mut written = false;
    for step in steps {
        let nodes = step.nodes();
        let readings = nodes.iter().map(|&id| reading(graph, &computed, is_old, id));
        let most = readings.max().unwrap_or(Reading::None);
        if written && most != Reading::None {
            return true;
        }
        if nodes.contains(&produced_by) {
            written = true;
            let in_place = match (step, graph.op(produced_by)) {
                (Step::Group(group), _) => most == Reading::Alike && group.kind == GroupKind::Flat,
                (Step::Repeat(_), Op::Repeat(repeat)) => {
                    layer_by_layer(program, fused, (graph, produced_by, repeat), &computed, is_old, node)
                }
                _ => false,
            };
            if most != Reading::None && !in_place {
                return true;
            }
        }
    }
    false
}

/// Whether a repeat is given a slice for each layer and writes its new value there when nothing in the body needs the
/// old one any more.
fn layer_by_layer(
    program: &Program,
    fused: &HashMap<RegionId, RegionSteps>,
    (graph, id, repeat): (&Graph, NodeId, &Repeat),
    computed: &HashSet<NodeId>,
    is_old: &dyn Fn(NodeId) -> bool,
    node: NodeId,
) -> bool {
    let Op::Output(output) = graph.op(node) else { return false };
    let body = program.region(repeat.body);
    let reads = |&(_, operand): &(usize, NodeId)| {
        let seen_through =
            !computed.contains(&operand) && reading(graph, computed, is_old, operand) != Reading::None;
        is_old(operand) || seen_through
    };
    let mut given = graph.operands(id).into_iter().enumerate().filter(reads);
    let (Some((at, operand)), None) = (given.next(), given.next()) else { return false };
    let is_slice = (repeat.carried..repeat.carried + repeat.stacked).contains(&at) && is_old(operand);
    let result = body.results[output.index];
    let once = body.results.iter().filter(|&&other| other == result).count() == 1;
    let by_itself = fused[&repeat.body].steps.iter().any(|step| step.nodes().contains(&result));
    let argument = body.arguments[at];
    output.index >= repeat.carried
        && is_slice
        && once
        && by_itself
        && !is_too_soon(program, fused, repeat.body, &|id| id == argument, result)
}

/// How a node reads a parameter: directly, or through what is read in place.
fn reading(
    graph: &Graph,
    computed: &HashSet<NodeId>,
    is_old: &dyn Fn(NodeId) -> bool,
    id: NodeId,
) -> Reading {
    let mut most = Reading::None;
    let mut stack: Vec<(NodeId, bool)> =
        graph.operands(id).into_iter().map(|operand| (operand, true)).collect();
    let mut seen = HashSet::new();
    while let Some((operand, alike)) = stack.pop() {
        if is_old(operand) {
            let alike = alike && graph.axes(operand) == graph.axes(id);
            most = most.max(if alike { Reading::Alike } else { Reading::Otherwise });
        } else if !computed.contains(&operand) && seen.insert((operand, alike)) {
            let alike = alike && matches!(graph.op(operand), Op::Map(_) | Op::Cast(_));
            stack.extend(graph.operands(operand).into_iter().map(|operand| (operand, alike)));
        }
    }
    most
}
