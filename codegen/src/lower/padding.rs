//! What fills up the last panel of packed values: zeros, unless a flat kernel
//! made something else of them. Sums that run over it must know.

use diptych_ir::{Graph, NodeId, Op, Program, RegionId, ScalarFn};
use diptych_passes::fuse::is_view;
use diptych_passes::layout::{Leading, leading};

/// Whether zeros fill up the panels of a value, if it is stored in panels; where that is not sure, they are said not
/// to.
pub(super) fn is_zero(program: &Program, region: RegionId, id: NodeId) -> bool {
    let graph = &program.region(region).graph;
    let operands = graph.operands(id);
    let zero = |id: &NodeId| is_zero(program, region, *id);
    let number = |id: &NodeId| graph.axes(*id).is_empty();
    match graph.op(id) {
        Op::Param(_) | Op::Input(_) => true,
        Op::Map(_) if is_walked(graph, id) => true,
        Op::Map(map) => match map.0 {
            ScalarFn::Mul => operands.iter().all(|id| number(id) || zero(id)),
            ScalarFn::Neg | ScalarFn::Abs | ScalarFn::Sqrt => operands.iter().all(zero),
            ScalarFn::Add | ScalarFn::Sub => operands.iter().all(|id| !number(id) && zero(id)),
            _ => false,
        },
        Op::Cast(_) => operands.iter().all(zero),
        op if is_view(op) && !matches!(op, Op::Output(_)) => operands.iter().all(zero),
        // A product of panels may be one with what fills them up; rows of tokens lie in none.
        Op::Contract(_) => {
            operands.iter().all(|id| leading(graph.axes(*id)) != Ok(Leading::None) || zero(id))
        }
        Op::Output(output) => match graph.op(operands[0]) {
            Op::Repeat(repeat) => {
                is_zero(program, repeat.body, program.region(repeat.body).results[output.index])
            }
            _ => true,
        },
        // What is carried is what it starts from, or a result, of which the same is asked.
        Op::Argument(_) => {
            giver(program, region, id).is_some_and(|(region, id)| is_zero(program, region, id))
        }
        // What is written element by element leaves the rest alone.
        Op::Reduce(_) | Op::Concat(_) | Op::Take(_) | Op::PutAdd(_) => true,
        _ => false,
    }
}

/// Whether no flat kernel computes a map, since what it reads does not lie alike.
fn is_walked(graph: &Graph, id: NodeId) -> bool {
    graph.operands(id).into_iter().any(|operand| {
        let axes = graph.axes(operand);
        let op = graph.op(operand);
        let moved =
            is_view(op) && !matches!(op, Op::Output(_)) || matches!(op, Op::Literal(_) | Op::Index(_));
        !axes.is_empty() && (axes != graph.axes(id) || moved)
    })
}

/// What the first repeat that runs a region gives it for an argument.
fn giver(program: &Program, region: RegionId, argument: NodeId) -> Option<(RegionId, NodeId)> {
    let position = program.region(region).arguments.iter().position(|&other| other == argument)?;
    program.regions.iter().enumerate().find_map(|(index, outer)| {
        let runs = |id: &NodeId| matches!(outer.graph.op(*id), Op::Repeat(repeat) if repeat.body == region);
        let repeat = outer.graph.ids().into_iter().find(runs)?;
        Some((RegionId(index as u32), outer.graph.operands(repeat)[position]))
    })
}
