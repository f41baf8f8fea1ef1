//! Products that sum over the tokens and, with them, over heads that share keys, cut in two: first each head's sum over the
//! tokens, then the sum over heads. Heads are then apart, and instances of a kernel can have one each. It knows no kernel.

use super::{rename_roots, replace};
use crate::layout::{Leading, leading, product, symbol};
use diptych_ir::ops::{Contract, Reduce};
use diptych_ir::{Axis, Graph, NodeId, Op, Program, ReduceKind, Result};

/// More heads than this are summed as before: each has a result of its own, which is stored.
const MOST: usize = 8;

/// Cuts such products of every region, of a program in normal form: those are the gradients of keys and values.
///
/// # Errors
/// Only when an op refuses operands that it took before, which is a bug.
pub fn sum_heads_apart(program: &Program) -> Result<Program> {
    let mut program = program.clone();
    for index in 0..program.regions.len() {
        for id in program.regions[index].graph.topological_order() {
            let graph = &mut program.regions[index].graph;
            let Some((over, heads)) = heads_of(graph, id) else { continue };
            let operands = graph.operands(id);
            let each = graph.add(Contract { over }, &operands)?;
            let sum = graph.add(Reduce { kind: ReduceKind::Sum, over: heads }, &[each])?;
            let (span, label) = (graph.node(id).span, graph.node(id).label);
            graph.annotate(sum, span, label);
            replace(graph, id, sum)?;
            rename_roots(&mut program, index, id, sum);
        }
    }
    Ok(program)
}

/// What a product sums over, in two parts, if it is one with a value for each token and each position that it sees.
fn heads_of(graph: &Graph, id: NodeId) -> Option<(Vec<Axis>, Vec<Axis>)> {
    let Op::Contract(contract) = graph.op(id) else { return None };
    let quadratic = |operand: NodeId| leading(graph.axes(operand)) == Ok(Leading::Quadratic);
    if !graph.operands(id).into_iter().any(quadratic) {
        return None;
    }
    let (heads, tokens): (Vec<Axis>, Vec<Axis>) =
        contract.over.iter().partition(|axis| axis.fixed_size().is_some());
    let sums_tokens = tokens.iter().any(|&axis| symbol(axis) == Some("time"));
    (sums_tokens && !heads.is_empty() && product(&heads) <= MOST).then_some((tokens, heads))
}
