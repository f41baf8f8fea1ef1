//! Whether a parameter's new value may be written where the old one lies while
//! others still need the old one. It knows groups and graphs, and no buffer.

use diptych_ir::{Graph, NodeId, Op, Program, Symbol};
use diptych_passes::fuse::{GroupKind, Step};
use std::collections::HashSet;

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

/// Whether something in the main region reads a parameter after the step that
/// writes its new value, or while that step writes it.
pub(super) fn is_overwritten_too_soon(program: &Program, steps: &[Step], name: Symbol, node: NodeId) -> bool {
    let graph = &program.main().graph;
    let computed: HashSet<NodeId> = steps.iter().flat_map(Step::nodes).collect();
    let produced_by = match graph.op(node) {
        Op::Output(_) => graph.operands(node)[0],
        _ => node,
    };
    let mut written = false;
    for step in steps {
        let nodes = step.nodes();
        let readings = nodes.iter().map(|&id| reading(graph, &computed, name, id));
        let most = readings.max().unwrap_or(Reading::None);
        if written && most != Reading::None {
            return true;
        }
        if nodes.contains(&produced_by) {
            written = true;
            let elementwise = matches!(step, Step::Group(group) if group.kind == GroupKind::Flat);
            if most == Reading::Otherwise || most == Reading::Alike && !elementwise {
                return true;
            }
        }
    }
    false
}

/// How a node reads a parameter: directly, or through what is read in place.
fn reading(graph: &Graph, computed: &HashSet<NodeId>, name: Symbol, id: NodeId) -> Reading {
    let mut most = Reading::None;
    let mut stack: Vec<(NodeId, bool)> =
        graph.operands(id).into_iter().map(|operand| (operand, true)).collect();
    let mut seen = HashSet::new();
    while let Some((operand, alike)) = stack.pop() {
        match graph.op(operand) {
            Op::Param(param) if param.name == name => {
                let alike = alike && graph.axes(operand) == graph.axes(id);
                most = most.max(if alike { Reading::Alike } else { Reading::Otherwise });
            }
            _ if computed.contains(&operand) || !seen.insert((operand, alike)) => {}
            op => {
                let alike = alike && matches!(op, Op::Map(_) | Op::Cast(_));
                stack.extend(graph.operands(operand).into_iter().map(|operand| (operand, alike)));
            }
        }
    }
    most
}
