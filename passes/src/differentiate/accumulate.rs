//! Sums of gradients. The gradients of slices that partition an axis come as
//! concatenations with zeros; their sum is one concatenation and no addition.

use diptych_ir::ops::{Concat, Literal, Map};
use diptych_ir::{Axis, DType, Graph, NodeId, Op, Result, ScalarFn};

/// A stretch of an axis that holds something else than zeros.
#[derive(Clone)]
struct Stretch {
    start: usize,
    piece: Axis,
    terms: Vec<NodeId>,
}

/// Stretches along an axis, disjoint and ascending; zeros between them.
struct Partition {
    into: Axis,
    stretches: Vec<Stretch>,
}

/// Adds to the graph the sum of gradients of one node, in the order given.
///
/// # Errors
/// When there is none, or their axes do not fit.
pub(super) fn sum(graph: &mut Graph, terms: &[NodeId]) -> Result<NodeId> {
    if let [only] = terms {
        return Ok(*only);
    }
    let mut plain: Vec<NodeId> = Vec::new();
    let mut partitions: Vec<Partition> = Vec::new();
    for &term in terms {
        match partition(graph, term) {
            Some(next) if !partitions.iter_mut().any(|known| join(known, &next)) => partitions.push(next),
            Some(_) => {}
            None => plain.push(term),
        }
    }
    for partition in partitions {
        plain.push(build(graph, partition)?);
    }
    fold(graph, &plain)
}

fn fold(graph: &mut Graph, terms: &[NodeId]) -> Result<NodeId> {
    let (&first, rest) = terms
        .split_first()
        .ok_or_else(|| diptych_ir::IrError::Invalid("the sum of no gradients was asked for".into()))?;
    rest.iter().try_fold(first, |sum, &term| graph.add(Map(ScalarFn::Add), &[sum, term]))
}

/// The stretches of a concatenation with zeros.
fn partition(graph: &Graph, id: NodeId) -> Option<Partition> {
    let Op::Concat(concat) = graph.op(id) else { return None };
    let is_zero = |id: NodeId| match graph.op(id) {
        Op::Literal(literal) => literal.as_scalar() == Some(0.0),
        _ => false,
    };
    let places = concat.starts().into_iter().zip(&concat.pieces).zip(graph.operands(id));
    let stretches: Vec<Stretch> = places
        .filter(|(_, operand)| !is_zero(*operand))
        .map(|((start, &piece), operand)| Stretch { start, piece, terms: vec![operand] })
        .collect();
    (stretches.len() < concat.pieces.len()).then_some(Partition { into: concat.into, stretches })
}

fn length(stretch: &Stretch) -> usize {
    stretch.piece.fixed_size().unwrap_or(0)
}

/// Takes `next` into `known` if each of its stretches is one of those there or
/// overlaps none of them.
fn join(known: &mut Partition, next: &Partition) -> bool {
    let same = |a: &Stretch, b: &Stretch| a.start == b.start && a.piece == b.piece;
    let apart = |a: &Stretch, b: &Stretch| a.start + length(a) <= b.start || b.start + length(b) <= a.start;
    let fits = |b: &Stretch| known.stretches.iter().all(|a| apart(a, b) || same(a, b));
    if known.into != next.into || !next.stretches.iter().all(fits) {
        return false;
    }
    for stretch in &next.stretches {
        match known.stretches.iter_mut().find(|other| same(other, stretch)) {
            Some(other) => other.terms.extend(&stretch.terms),
            None => known.stretches.push(stretch.clone()),
        }
    }
    known.stretches.sort_by_key(|stretch| stretch.start);
    true
}

fn build(graph: &mut Graph, partition: Partition) -> Result<NodeId> {
    let (mut pieces, mut operands) = (Vec::new(), Vec::new());
    let mut at = 0;
    let into = partition.into;
    let gap =
        |graph: &mut Graph, from: usize, to: usize, pieces: &mut Vec<Axis>, operands: &mut Vec<NodeId>| {
            if from < to {
                pieces.push(Axis::fixed(&format!("{}.from_{from}", into.name), to - from));
                operands.push(graph.add(Literal::scalar(DType::F32, 0.0), &[])?);
            }
            Result::Ok(())
        };
    for stretch in &partition.stretches {
        gap(graph, at, stretch.start, &mut pieces, &mut operands)?;
        pieces.push(stretch.piece);
        operands.push(fold(graph, &stretch.terms)?);
        at = stretch.start + length(stretch);
    }
    gap(graph, at, into.fixed_size().unwrap_or(at), &mut pieces, &mut operands)?;
    graph.add(Concat { pieces, into }, &operands)
}
