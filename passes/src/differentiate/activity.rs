//! Which values have a gradient worth computing: floats that depend, without a
//! detached or discrete step in between, on a parameter.

use diptych_ir::ops::{Loop, Map};
use diptych_ir::{NodeId, Op, Program, RegionId, ScalarFn};
use std::collections::{HashMap, HashSet};

/// The active nodes of a region, given which of its arguments are. A loop
/// counts as active when one of its results is.
pub(super) fn activity(program: &Program, region: RegionId, arguments: &[bool]) -> HashSet<NodeId> {
    let graph = &program.region(region).graph;
    let mut active = HashSet::new();
    let mut results: HashMap<NodeId, Vec<bool>> = HashMap::new();
    for id in graph.topological_order() {
        let operands = graph.operands(id);
        let holds = match graph.op(id) {
            Op::Param(param) => program.params.contains_key(&param.name),
            Op::Argument(argument) => arguments.get(argument.index).copied().unwrap_or(false),
            Op::Output(output) => {
                results.get(&operands[0]).is_some_and(|results| results.get(output.index) == Some(&true))
            }
            op if op.as_loop().is_some() => {
                let given: Vec<bool> = operands.iter().map(|operand| active.contains(operand)).collect();
                let Some(looped) = op.as_loop() else { continue };
                let (_, of_results) = loop_activity(program, looped, &given);
                let any = of_results.contains(&true);
                results.insert(id, of_results);
                any
            }
            Op::Map(Map(ScalarFn::Detach)) => false,
            _ => operands.iter().any(|operand| active.contains(operand)),
        };
        if holds && graph.ty(id).dtype.is_float() {
            active.insert(id);
        }
    }
    active
}

/// Which arguments of a loop's body and which of its results are active, given
/// its operands: what is carried is active as soon as any run makes it so.
pub(super) fn loop_activity(
    program: &Program,
    looped: Loop<'_>,
    operands: &[bool],
) -> (Vec<bool>, Vec<bool>) {
    let mut arguments = operands.to_vec();
    loop {
        let active = activity(program, looped.body, &arguments);
        let body = program.region(looped.body);
        let results: Vec<bool> = body.results.iter().map(|result| active.contains(result)).collect();
        let before = arguments.clone();
        for (argument, &result) in arguments[..looped.carried].iter_mut().zip(&results) {
            *argument |= result;
        }
        if arguments == before {
            let carried = arguments[..looped.carried].iter().copied();
            let yielded = results[looped.carried..].iter().copied();
            let outputs = carried.chain(yielded).collect();
            return (arguments, outputs);
        }
    }
}
