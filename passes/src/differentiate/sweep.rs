//! The reverse sweep over one region: from given gradients of some nodes to
//! those of all active nodes before them. It knows no op by name but loops.

use super::policy::Policy;
use super::{accumulate, loops};
use diptych_ir::{NodeId, Op, Program, RegionId, Result, Symbol};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Adds to a region the gradients of its active nodes, given gradients of some
/// (`seeds`: node, gradient). Returns the gradient of each node that has one.
///
/// A loop is replaced by one that yields what its backward pass needs; nodes
/// added for that belong to the forward pass and are noted in `forward`.
///
/// # Errors
/// When a gradient cannot be built: see [`super::differentiate`].
pub(super) fn sweep(
    program: &mut Program,
    region: RegionId,
    seeds: &[(NodeId, NodeId)],
    active: &HashSet<NodeId>,
    forward: &mut HashSet<NodeId>,
    saves: Policy,
) -> Result<HashMap<NodeId, NodeId>> {
    let targets: Vec<NodeId> = seeds.iter().map(|seed| seed.0).collect();
    let order = program.region(region).graph.ancestors(&targets);
    let mut pending: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
    for &(node, gradient) in seeds {
        pending.entry(node).or_default().push(gradient);
    }
    let mut gradients: HashMap<NodeId, NodeId> = HashMap::new();
    for id in order.into_iter().rev().filter(|id| active.contains(id)) {
        let graph = &mut program.region_mut(region).graph;
        let op = graph.op(id).clone();
        let operands = graph.operands(id);
        let parts = if op.as_loop().is_some() {
            let outputs = graph.users(id).into_iter();
            let of_results: BTreeMap<usize, NodeId> = outputs
                .filter_map(|output| match graph.op(output) {
                    Op::Output(port) => Some((port.index, *gradients.get(&output)?)),
                    _ => None,
                })
                .collect();
            if of_results.is_empty() {
                continue;
            }
            let given: Vec<bool> = operands.iter().map(|operand| active.contains(operand)).collect();
            loops::differentiate_loop(program, region, id, &of_results, &given, forward, saves)?
        } else {
            let Some(terms) = pending.remove(&id) else { continue };
            let gradient = accumulate::sum(graph, &terms)?;
            gradients.insert(id, gradient);
            if let Op::Output(_) = op {
                continue;
            }
            op.operator().gradient(graph, id, gradient)?
        };
        let graph = &mut program.region_mut(region).graph;
        let (span, label) = (graph.node(id).span, graph.node(id).label);
        let label = label.map(|label| Symbol::new(&format!("{label}.gradient")));
        for (operand, part) in operands.into_iter().zip(parts) {
            if let (Some(part), true) = (part, active.contains(&operand)) {
                if graph.node(part).label.is_none() && graph.node(part).span.is_none() {
                    graph.annotate(part, span, label);
                }
                pending.entry(operand).or_default().push(part);
            }
        }
    }
    Ok(gradients)
}
