//! What fills up the last panel of packed values: zeros, unless a flat kernel
//! made something else of them. Sums that run over it must know.

use diptych_ir::{Graph, NodeId, Op, Program, RegionId, ScalarFn};
use diptych_passes::fuse::is_view;
use diptych_passes::layout::{Leading, leading};
use std::collections::HashSet;

/// Whether zeros fill up the panels of a value, if it is stored in panels; where that is not sure, they are said not
/// to.
pub(super) fn is_zero(program: &Program, region: RegionId, id: NodeId) -> bool {
    let mut search = Search { program, seen: HashSet::new(), other: HashSet::new() };
    // What a loop carries depends on itself: it is taken for zero until it is found not to be.
    loop {
        let known = search.other.len();
        search.seen.clear();
        let zero = search.is_zero(region, id);
        if search.other.len() == known {
            return zero;
        }
    }
}

struct Search<'p> {
    program: &'p Program,
    /// What has been asked of.
    seen: HashSet<(RegionId, NodeId)>,
    /// What is filled up with anything.
    other: HashSet<(RegionId, NodeId)>,
}

impl Search<'_> {
    fn is_zero(&mut self, region: RegionId, id: NodeId) -> bool {
        if self.other.contains(&(region, id)) {
            return false;
        }
        let zero = !self.seen.insert((region, id)) || self.follows(region, id);
        if !zero {
            self.other.insert((region, id));
        }
        zero
    }

    /// Whether it does if that holds of all that has been asked of.
    fn follows(&mut self, region: RegionId, id: NodeId) -> bool {
        let program = self.program;
        let graph = &program.region(region).graph;
        let operands = graph.operands(id);
        let number = |id: NodeId| graph.axes(id).is_empty();
        let mut all = |asked: &dyn Fn(NodeId) -> bool| {
            operands.iter().all(|&id| !asked(id) || self.is_zero(region, id))
        };
        match graph.op(id) {
            Op::Param(_) | Op::Input(_) => true,
            Op::Map(_) if is_walked(graph, id) => true,
            Op::Map(map) => match map.0 {
                ScalarFn::Mul => all(&|id| !number(id)),
                ScalarFn::Neg | ScalarFn::Abs | ScalarFn::Sqrt => all(&|_| true),
                ScalarFn::Add | ScalarFn::Sub => !operands.iter().any(|&id| number(id)) && all(&|_| true),
                _ => false,
            },
            Op::Cast(_) => all(&|_| true),
            op if is_view(op) && !matches!(op, Op::Output(_)) => all(&|_| true),
            // A product of panels may be one with what fills them up; rows of tokens lie in none.
            Op::Contract(_) => all(&|id| leading(graph.axes(id)) == Ok(Leading::None)),
            Op::Output(output) => match graph.op(operands[0]) {
                Op::Repeat(repeat) => {
                    self.is_zero(repeat.body, program.region(repeat.body).results[output.index])
                }
                _ => true,
            },
            Op::Argument(_) => self.is_given_zero(region, id),
            // What is written element by element leaves the rest alone.
            Op::Reduce(_) | Op::Concat(_) | Op::Take(_) | Op::PutAdd(_) => true,
            _ => false,
        }
    }

    /// Whether the first repeat that runs a region gives it zeros for an argument; what is carried is what it starts
    /// from, or a result.
    fn is_given_zero(&mut self, region: RegionId, argument: NodeId) -> bool {
        let program = self.program;
        let Some(position) = program.region(region).arguments.iter().position(|&other| other == argument)
        else {
            return false;
        };
        let given = program.regions.iter().enumerate().find_map(|(index, outer)| {
            outer.graph.ids().into_iter().find_map(|id| match outer.graph.op(id) {
                Op::Repeat(repeat) if repeat.body == region => {
                    Some((RegionId(index as u32), outer.graph.operands(id)[position], repeat.carried))
                }
                _ => None,
            })
        });
        let Some((outer, start, carried)) = given else { return false };
        self.is_zero(outer, start)
            && (position >= carried || self.is_zero(region, program.region(region).results[position]))
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
