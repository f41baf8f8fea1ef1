//! A value as the ranks of a mesh axis would compute it, each from what it
//! holds: the reference evaluator on one rank's part of every value, and
//! collectives as exchanges between ranks. An op that would need what another
//! rank holds is refused. The harness holds each rule of collectives against it.

use super::language::EGraph;
use super::mesh::{Cut, Ranks};
use diptych_ir::evaluate::{Context, Value};
use diptych_ir::ops::Split;
use diptych_ir::{Axis, Op, TensorType};
use egg::Id;

/// What each rank holds of a class of an e-graph in which nothing was united.
///
/// # Errors
/// Which op needs what other ranks hold.
pub(super) fn evaluate(egraph: &EGraph, id: Id, mesh: Axis, context: &Context) -> Result<Vec<Value>, String> {
    let node = &egraph[id].nodes[0];
    let ty = egraph[id].data.ty.without_axis(mesh);
    let ranks = context.size(mesh).map_err(|problem| problem.to_string())?;
    let held: Vec<Vec<Value>> = node
        .operands
        .iter()
        .map(|&operand| evaluate(egraph, operand, mesh, context))
        .collect::<Result<_, _>>()?;
    (0..ranks).map(|rank| on_rank(&node.op, &held, rank, mesh, &ty, context)).collect()
}

fn on_rank(
    op: &Op,
    held: &[Vec<Value>],
    rank: usize,
    mesh: Axis,
    ty: &TensorType,
    context: &Context,
) -> Result<Value, String> {
    let fail = |problem: diptych_ir::IrError| problem.to_string();
    let shape = context.shape(&ty.axes).map_err(fail)?;
    let cut = Ranks::of(op).filter(|ranks| ranks.mesh == mesh).map(|ranks| ranks.cut);
    Ok(match (op, cut) {
        (Op::AllReduce(_), Some(_)) => {
            Value::build(shape, |index| held[0].iter().map(|value| value.at(index)).sum())
        }
        (Op::AllGather(_), Some(Some(Cut { whole, piece }))) => {
            let piece_size = context.size(piece).map_err(fail)?;
            Value::build(shape, |index| {
                let position = index.get(whole.name);
                held[0][position / piece_size].at(&index.with(piece.name, position % piece_size))
            })
        }
        (Op::ReduceScatter(_), Some(Some(cut))) => Value::build(shape, |index| {
            let index = index.with(cut.whole.name, rank * size(cut.piece) + index.get(cut.piece.name));
            held[0].iter().map(|value| value.at(&index)).sum()
        }),
        (Op::Split(Split { .. }), Some(Some(cut))) => Value::build(shape, |index| {
            let position = rank * size(cut.piece) + index.get(cut.piece.name);
            held[0][rank].at(&index.with(cut.whole.name, position))
        }),
        _ => {
            if needs(op).iter().any(|axis| axis.name == mesh.name) {
                return Err(format!("`{}` needs what other ranks hold", op.name()));
            }
            let operands: Vec<&Value> = held.iter().map(|values| &values[rank]).collect();
            let value = op.operator().evaluate(&operands, ty, context).map_err(fail)?;
            // Of a leaf that has the mesh axis, a rank holds its own position.
            match (held.is_empty(), value.axes.iter().any(|axis| axis.0 == mesh.name)) {
                (true, true) => Value::build(shape, |index| value.at(&index.with(mesh.name, rank))),
                _ => value,
            }
        }
    })
}

/// The axes along which an op needs more of a value than one position, or gives it others.
fn needs(op: &Op) -> Vec<Axis> {
    match op {
        Op::Contract(contract) => contract.over.clone(),
        Op::Reduce(reduce) => reduce.over.clone(),
        Op::Rename(rename) => vec![rename.from, rename.to],
        Op::Slice(slice) => vec![slice.axis, slice.into],
        Op::Concat(concat) => concat.pieces.iter().copied().chain([concat.into]).collect(),
        Op::Split(split) => split.into.iter().copied().chain([split.axis]).collect(),
        Op::Merge(merge) => merge.axes.iter().copied().chain([merge.into]).collect(),
        op => Ranks::of(op).map(Ranks::axes).unwrap_or_default(),
    }
}

fn size(axis: Axis) -> usize {
    axis.fixed_size().unwrap_or(1)
}

/// Where what a rank holds is not its part of a value.
pub(super) fn difference(
    egraph: &EGraph,
    id: Id,
    mesh: Axis,
    context: &Context,
    whole: &Value,
) -> Option<String> {
    let held = match evaluate(egraph, id, mesh, context) {
        Ok(held) => held,
        Err(problem) => return Some(problem),
    };
    held.iter().enumerate().find_map(|(rank, part)| {
        let its = Value::build(part.axes.clone(), |index| whole.at(&index.with(mesh.name, rank)));
        let same = |(a, b): (&f64, &f64)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        let unequal = part.data.iter().zip(&its.data).find(|&(a, b)| !same((a, b)));
        unequal.map(|(a, b)| format!("rank {rank} holds {a}, not {b}"))
    })
}
