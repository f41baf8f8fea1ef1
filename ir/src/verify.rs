//! The verifier: what a well-formed program is. It runs between any two
//! passes in tests and debug builds, and mends nothing.

use crate::ops::loop_results;
use crate::{IrError, Op, Program, Region, Result, Symbol, TensorType};

/// Checks that every node's type is what its op infers, that ports and repeats
/// fit their regions, and that roots exist.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(program: &Program) -> Result<()> {
    for region in &program.regions {
        verify_region(program, region)?;
    }
    let main = program.main();
    for entry in &program.entries {
        for (name, root) in entry.roots.iter().chain(&entry.updates) {
            if !main.graph.ids().contains(root) {
                return Err(IrError::Invalid(format!(
                    "root `{name}` of {} is not a node of the main region",
                    entry.kind.name()
                )));
            }
        }
    }
    for entry in &program.entries {
        for &(name, value) in &entry.updates {
            let given = main.graph.ty(value);
            if stored(program, name) != Some(given) {
                let kind = entry.kind.name();
                return Err(IrError::Invalid(match stored(program, name) {
                    Some(ty) => format!("{kind} updates `{name}`, which is {ty}, with a value of {given}"),
                    None => format!("{kind} updates `{name}`, which is no parameter and no state"),
                }));
            }
        }
    }
    Ok(())
}

/// The type of a parameter or a state.
fn stored(program: &Program, name: Symbol) -> Option<&TensorType> {
    program.params.get(&name).map(|info| &info.ty).or_else(|| program.states.get(&name))
}

fn verify_region(program: &Program, region: &Region) -> Result<()> {
    let graph = &region.graph;
    let order = graph.topological_order();
    if order.len() != graph.len() {
        return Err(IrError::Invalid(format!("region `{}` has a cycle", region.name)));
    }
    for id in order {
        let node = graph.node(id);
        let operands = graph.operands(id);
        let wrong = |problem: String| {
            IrError::Invalid(format!("region `{}`, node {}: {problem}", region.name, id.index()))
        };
        match &node.op {
            Op::Output(output) => {
                let looped = operands.first().and_then(|&operand| graph.op(operand).as_loop());
                let Some(looped) = looped else {
                    return Err(wrong("an output of something that is no loop".into()));
                };
                if looped.results.get(output.index) != Some(&node.ty) {
                    return Err(wrong(format!("output {} is not {}", output.index, node.ty)));
                }
                continue;
            }
            op @ (Op::Repeat(_) | Op::Scan(_)) => {
                let Some(looped) = op.as_loop() else { continue };
                let Some(body) = program.regions.get(looped.body.0 as usize) else {
                    return Err(wrong(format!("no region {}", looped.body.0)));
                };
                let types: Vec<&TensorType> = operands.iter().map(|&operand| graph.ty(operand)).collect();
                let (carried, sequenced) = (looped.carried, looped.sequenced);
                let results = loop_results(looped.name, body, looped.over, carried, sequenced, &types)?;
                if results != looped.results {
                    return Err(wrong(format!("the {}'s results are not its body's", looped.name)));
                }
            }
            Op::Argument(argument) if region.arguments.get(argument.index) != Some(&id) => {
                return Err(wrong(format!("argument {} is not that of its region", argument.index)));
            }
            Op::Param(param) => match stored(program, param.name) {
                Some(ty) if *ty == param.ty => {}
                Some(ty) => {
                    return Err(wrong(format!("parameter `{}` is {ty}, not {}", param.name, param.ty)));
                }
                None => return Err(wrong(format!("unknown parameter `{}`", param.name))),
            },
            _ => {}
        }
        let types: Vec<&TensorType> = operands.iter().map(|&operand| graph.ty(operand)).collect();
        let inferred = node.op.operator().infer(&types)?;
        if inferred != node.ty {
            return Err(wrong(format!("{} gives {inferred}, but the node says {}", node.op.name(), node.ty)));
        }
    }
    Ok(())
}
