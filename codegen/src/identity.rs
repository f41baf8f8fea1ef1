//! What a value is, told from what it is computed from: entries of a program have copies of the forward pass, with
//! nodes of their own, but what they compute from the same parameters and inputs in the same way is one value. It knows
//! no kernel.

use diptych_ir::{Loop, NodeId, Op, Program, RegionId, ScalarFn};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A value's identity: that of all other values that are computed alike. Copies have the identity of what they copy,
/// and what is asked of some tokens that of what is asked of all.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Identity(u64);

/// The identity of each node of a region.
pub type Identities = HashMap<(RegionId, NodeId), Identity>;

/// The identities of what these nodes of the main region are computed from, and of what is in the bodies of its loops.
pub fn identities(program: &Program, nodes: &[NodeId]) -> Identities {
    let mut found = Identities::new();
    walk(program, Program::MAIN, &[], nodes, &mut found);
    found
}

fn identity(of: impl Hash) -> Identity {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    Identity(hasher.finish())
}

/// The identity of what an op makes of operands. A product of two has the same bits in either order; in what order a sum
/// has its axes is for the verifier of same bits to look at. Neither is a part of it.
fn of_op(op: &Op, mut known: Vec<Identity>) -> Identity {
    match op {
        Op::Contract(contract) => {
            let mut over = contract.over.clone();
            over.sort_unstable();
            known.sort_unstable();
            identity(("contract", over, known))
        }
        Op::Reduce(reduce) => {
            let mut over = reduce.over.clone();
            over.sort_unstable();
            identity(("reduce", reduce.kind, over, known))
        }
        Op::Map(map) if matches!(map.0, ScalarFn::Add | ScalarFn::Mul) => {
            known.sort_unstable();
            identity((op, known))
        }
        op => identity((op, known)),
    }
}

fn walk(
    program: &Program,
    region: RegionId,
    arguments: &[Identity],
    nodes: &[NodeId],
    found: &mut Identities,
) {
    let graph = &program.region(region).graph;
    for id in graph.ancestors(nodes) {
        let operands = graph.operands(id);
        let known: Vec<Identity> = operands.iter().map(|&operand| found[&(region, operand)]).collect();
        let op = graph.op(id);
        let own = match op {
            Op::Argument(argument) => arguments[argument.index],
            // A copy.
            Op::Cast(cast) if graph.ty(operands[0]).dtype == cast.0 => known[0],
            // Some of the tokens.
            Op::Take(take) if take.axis.fixed_size().is_none() => known[0],
            Op::Output(output) => match graph.op(operands[0]).as_loop() {
                Some(of) => {
                    let result = program.region(of.body).results[output.index];
                    let carried = output.index < of.carried;
                    identity(("output", of.over, of.reverse, carried, found[&(of.body, result)]))
                }
                None => known[0],
            },
            op => match op.as_loop() {
                Some(of) => {
                    body(program, (region, &operands), of, found);
                    identity(("loop", &known))
                }
                None => of_op(op, known),
            },
        };
        found.insert((region, id), own);
    }
}

/// The identities of what is in a loop's body, if it has none yet.
fn body(program: &Program, (region, operands): (RegionId, &[NodeId]), of: Loop<'_>, found: &mut Identities) {
    let body = program.region(of.body);
    if body.results.iter().any(|&result| found.contains_key(&(of.body, result))) {
        return;
    }
    let graph = &program.region(region).graph;
    let argument = |(position, &operand): (usize, &NodeId)| {
        let known = found[&(region, operand)];
        if position < of.carried {
            return identity(("carried", position, known));
        }
        if position >= of.carried + of.sequenced {
            return known;
        }
        // What each run of another loop along the axis has yielded is what it was there.
        let Op::Output(output) = graph.op(operand) else { return identity(("slice", known)) };
        match graph.op(graph.operands(operand)[0]).as_loop() {
            Some(other) if other.over == of.over && output.index >= other.carried => {
                found[&(other.body, program.region(other.body).results[output.index])]
            }
            _ => identity(("slice", known)),
        }
    };
    let arguments: Vec<Identity> = operands.iter().enumerate().map(argument).collect();
    walk(program, of.body, &arguments, &body.results, found);
}
