//! What an entry uses: the nodes of each region that its roots depend on, and
//! how often each region runs. It knows no cost.

use diptych_ir::{Axis, NodeId, Op, Program, RegionId};
use std::collections::HashSet;

/// What some roots of the main region use.
#[derive(Clone, Debug)]
pub struct Live {
    /// The nodes that they depend on, by region.
    pub nodes: Vec<HashSet<NodeId>>,
    /// How often each region runs in one run of the entry.
    pub runs: Vec<f64>,
}

/// What these roots of the main region depend on. Of a repeat or a scan, the
/// carried results are always needed, the others only where they are used.
/// `size` gives the elements along an axis.
pub fn live(program: &Program, roots: &[NodeId], size: &dyn Fn(Axis) -> f64) -> Live {
    let mut nodes = vec![HashSet::new(); program.regions.len()];
    let mut waiting: Vec<(RegionId, NodeId)> = roots.iter().map(|&root| (Program::MAIN, root)).collect();
    while let Some((region, id)) = waiting.pop() {
        let graph = &program.region(region).graph;
        if !nodes[region.0 as usize].insert(id) {
            continue;
        }
        let operands = graph.operands(id);
        match graph.op(id) {
            Op::Output(output) => {
                if let Some(looped) = operands.first().and_then(|&operand| graph.op(operand).as_loop())
                    && let Some(&result) = program.region(looped.body).results.get(output.index)
                {
                    waiting.push((looped.body, result));
                }
            }
            op => {
                if let Some(looped) = op.as_loop() {
                    let results = program.region(looped.body).results.iter().take(looped.carried);
                    waiting.extend(results.map(|&result| (looped.body, result)));
                }
            }
        }
        waiting.extend(operands.into_iter().map(|operand| (region, operand)));
    }
    let mut runs = vec![0.0; program.regions.len()];
    count_runs(program, Program::MAIN, 1.0, &nodes, size, &mut runs);
    Live { nodes, runs }
}

fn count_runs(
    program: &Program,
    region: RegionId,
    times: f64,
    nodes: &[HashSet<NodeId>],
    size: &dyn Fn(Axis) -> f64,
    runs: &mut [f64],
) {
    runs[region.0 as usize] += times;
    for &id in &nodes[region.0 as usize] {
        if let Some(looped) = program.region(region).graph.op(id).as_loop() {
            count_runs(program, looped.body, times * size(looped.over), nodes, size, runs);
        }
    }
}

/// The arguments of each region that depend on parameters only, whatever
/// repeat uses it: parameters, slices of them, and what is computed from these.
pub fn parameter_arguments(program: &Program) -> Vec<HashSet<usize>> {
    let count = |region: &diptych_ir::Region| (0..region.arguments.len()).collect();
    let mut arguments: Vec<HashSet<usize>> = program.regions.iter().map(count).collect();
    // Assumed of all at first; each pass takes away what some repeat contradicts.
    loop {
        let before = arguments.clone();
        for region in 0..program.regions.len() {
            let graph = &program.regions[region].graph;
            let mut known: HashSet<NodeId> = HashSet::new();
            for id in graph.topological_order() {
                let operands = graph.operands(id);
                let holds = match graph.op(id) {
                    Op::Param(param) => program.params.contains_key(&param.name),
                    Op::Argument(argument) => arguments[region].contains(&argument.index),
                    Op::Input(_) | Op::Output(_) | Op::Index(_) | Op::History(_) => false,
                    op if op.as_loop().is_some() => {
                        let Some(looped) = op.as_loop() else { continue };
                        let body = &mut arguments[looped.body.0 as usize];
                        let given = operands.iter().enumerate();
                        for (position, _) in given.filter(|(position, operand)| {
                            *position < looped.carried || !known.contains(operand)
                        }) {
                            body.remove(&position);
                        }
                        false
                    }
                    _ => operands.iter().all(|operand| known.contains(operand)),
                };
                if holds {
                    known.insert(id);
                }
            }
        }
        if arguments == before {
            return arguments;
        }
    }
}
