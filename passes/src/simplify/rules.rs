//! The rules of `simplify`, one function each: given an op and its operands,
//! a node of the same value, bit for bit, or nothing. NaN is one value here.
//!
//! Signed zeros are two: `x + 0` is not `x` for -0, but `x + -0` and `x - 0` are.

use super::Builder;
use diptych_ir::ops::{Cast, Concat, Literal, Map, Merge, Reduce, Rename, Slice, Split};
use diptych_ir::{Axes, Axis, DType, NodeId, Op, ReduceKind, Result, ScalarFn};

/// A rewrite of one node.
pub(super) struct Rule {
    /// Its name, for tests and reports.
    pub name: &'static str,
    /// The node that may stand for the op, if the rule applies.
    pub apply: fn(&mut Builder, &Op, &[NodeId]) -> Result<Option<NodeId>>,
}

/// All rules, in the order in which they are tried.
pub(super) const RULES: &[Rule] = &[
    Rule { name: "add nothing", apply: add_nothing },
    Rule { name: "multiply by one", apply: multiply_by_one },
    Rule { name: "negation", apply: negation },
    Rule { name: "negation of a factor", apply: negation_of_a_factor },
    Rule { name: "signs in sums", apply: signs_in_sums },
    Rule { name: "equal operands", apply: equal_operands },
    Rule { name: "ones beside their axis", apply: ones_beside_their_axis },
    Rule { name: "cast of cast", apply: cast_of_cast },
    Rule { name: "rename of rename", apply: rename_of_rename },
    Rule { name: "split and merge", apply: split_and_merge },
    Rule { name: "slice", apply: slice },
    Rule { name: "slice of concat", apply: slice_of_concat },
    Rule { name: "concat of slices", apply: concat_of_slices },
    Rule { name: "concat of concat", apply: concat_of_concat },
    Rule { name: "reduce over nothing", apply: reduce_over_nothing },
    Rule { name: "contract of one", apply: contract_of_one },
    Rule { name: "contract with ones", apply: contract_with_ones },
];

/// The bits of a scalar literal.
fn scalar(builder: &Builder, id: NodeId) -> Option<f64> {
    match builder.graph.op(id) {
        Op::Literal(literal) => literal.as_scalar(),
        _ => None,
    }
}

fn is(builder: &Builder, id: NodeId, value: f64) -> bool {
    scalar(builder, id).is_some_and(|found| found.to_bits() == value.to_bits())
}

/// The operands of a node if it is this scalar function.
fn map_operands(builder: &Builder, id: NodeId, function: ScalarFn) -> Option<Vec<NodeId>> {
    match builder.graph.op(id) {
        Op::Map(map) if map.0 == function => Some(builder.graph.operands(id)),
        _ => None,
    }
}

/// Whether every element is 1: a literal, or a position compared with itself.
fn is_ones(builder: &Builder, id: NodeId) -> bool {
    let graph = &builder.graph;
    match graph.op(id) {
        Op::Literal(literal) => {
            literal.dtype.is_float() && literal.values().iter().all(|&value| value == 1.0)
        }
        Op::Cast(_) => {
            let compared = graph.operands(id)[0];
            map_operands(builder, compared, ScalarFn::Equal)
                .is_some_and(|x| x[0] == x[1] && matches!(graph.op(x[0]), Op::Index(_)))
        }
        _ => false,
    }
}

/// x + -0, -0 + x, x - 0 = x
fn add_nothing(builder: &mut Builder, op: &Op, x: &[NodeId]) -> Result<Option<NodeId>> {
    Ok(match op {
        Op::Map(Map(ScalarFn::Add)) if is(builder, x[1], -0.0) => Some(x[0]),
        Op::Map(Map(ScalarFn::Add)) if is(builder, x[0], -0.0) => Some(x[1]),
        Op::Map(Map(ScalarFn::Sub)) if is(builder, x[1], 0.0) => Some(x[0]),
        _ => None,
    })
}

/// x · 1, 1 · x, x / 1 = x, also for a table of ones along an axis of x
fn multiply_by_one(builder: &mut Builder, op: &Op, x: &[NodeId]) -> Result<Option<NodeId>> {
    Ok(match op {
        Op::Map(Map(ScalarFn::Mul | ScalarFn::Div)) if is_ones(builder, x[1]) => Some(x[0]),
        Op::Map(Map(ScalarFn::Mul)) if is_ones(builder, x[0]) => Some(x[1]),
        _ => None,
    })
}

/// -(-x) = x; -(literal); -0 - x, x · -1, x / -1 = -x
fn negation(builder: &mut Builder, op: &Op, x: &[NodeId]) -> Result<Option<NodeId>> {
    let negated = match op {
        Op::Map(Map(ScalarFn::Neg)) => {
            if let Some(inner) = map_operands(builder, x[0], ScalarFn::Neg) {
                return Ok(Some(inner[0]));
            }
            let Some(value) = scalar(builder, x[0]) else { return Ok(None) };
            let dtype = builder.graph.ty(x[0]).dtype;
            return builder.add(Literal::scalar(dtype, -value), &[]).map(Some);
        }
        Op::Map(Map(ScalarFn::Sub)) if is(builder, x[0], -0.0) => x[1],
        Op::Map(Map(ScalarFn::Mul | ScalarFn::Div)) if is(builder, x[1], -1.0) => x[0],
        Op::Map(Map(ScalarFn::Mul)) if is(builder, x[0], -1.0) => x[1],
        _ => return Ok(None),
    };
    builder.add(Map(ScalarFn::Neg), &[negated]).map(Some)
}

/// -x · y, y · -x = -(x · y); -x / y = -(x / y): there a sum may take the sign
/// in. Only where it negates no more elements than before.
fn negation_of_a_factor(builder: &mut Builder, op: &Op, x: &[NodeId]) -> Result<Option<NodeId>> {
    let (Op::Map(Map(ScalarFn::Mul | ScalarFn::Div)), &[left, right]) = (op, x) else { return Ok(None) };
    let whole = |builder: &Builder, factor: NodeId, other: NodeId| {
        let inner = map_operands(builder, factor, ScalarFn::Neg)?[0];
        builder.graph.axes(inner).contains_all(builder.graph.axes(other)).then_some(inner)
    };
    let factors = match (whole(builder, left, right), whole(builder, right, left)) {
        (Some(inner), _) => [inner, right],
        (None, Some(inner)) if *op == Op::Map(Map(ScalarFn::Mul)) => [left, inner],
        _ => return Ok(None),
    };
    let product = builder.add(op.clone(), &factors)?;
    builder.add(Map(ScalarFn::Neg), &[product]).map(Some)
}

/// x + -y = x - y; -x + y = y - x; x - -y = x + y
fn signs_in_sums(builder: &mut Builder, op: &Op, x: &[NodeId]) -> Result<Option<NodeId>> {
    let (function, left, right) = match op {
        Op::Map(Map(ScalarFn::Add)) => match map_operands(builder, x[1], ScalarFn::Neg) {
            Some(y) => (ScalarFn::Sub, x[0], y[0]),
            None => match map_operands(builder, x[0], ScalarFn::Neg) {
                Some(y) => (ScalarFn::Sub, x[1], y[0]),
                None => return Ok(None),
            },
        },
        Op::Map(Map(ScalarFn::Sub)) => match map_operands(builder, x[1], ScalarFn::Neg) {
            Some(y) => (ScalarFn::Add, x[0], y[0]),
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    builder.add(Map(function), &[left, right]).map(Some)
}

/// select(c, x, x), max(x, x), min(x, x), x and x, x or x = x; not not x = x
fn equal_operands(builder: &mut Builder, op: &Op, x: &[NodeId]) -> Result<Option<NodeId>> {
    use ScalarFn::{And, Max, Min, Not, Or, Select};
    Ok(match op {
        Op::Map(Map(Select)) if x[1] == x[2] => Some(x[1]),
        Op::Map(Map(Max | Min | And | Or)) if x[0] == x[1] => Some(x[0]),
        Op::Map(Map(Not)) => map_operands(builder, x[0], Not).map(|inner| inner[0]),
        _ => None,
    })
}

/// If a node only repeats a value along axes that `elsewhere` has: the value.
fn without_ones(builder: &Builder, id: NodeId, elsewhere: &Axes) -> Option<NodeId> {
    let x = map_operands(builder, id, ScalarFn::Mul)?;
    [(x[0], x[1]), (x[1], x[0])]
        .into_iter()
        .find(|&(value, ones)| {
            let graph = &builder.graph;
            let added = graph.axes(id).without(graph.axes(value));
            is_ones(builder, ones) && elsewhere.contains_all(&added) && graph.ty(value).dtype == DType::F32
        })
        .map(|pair| pair.0)
}

/// f(x · ones(a), y) = f(x, y) where y has the axis a
fn ones_beside_their_axis(builder: &mut Builder, op: &Op, x: &[NodeId]) -> Result<Option<NodeId>> {
    let (Op::Map(_), true) = (op, x.len() > 1) else { return Ok(None) };
    for position in 0..x.len() {
        let elsewhere = axes_of_others(builder, x, position);
        if let Some(value) = without_ones(builder, x[position], &elsewhere) {
            let mut operands = x.to_vec();
            operands[position] = value;
            return builder.add(op.clone(), &operands).map(Some);
        }
    }
    Ok(None)
}

/// The axes of all operands but one.
fn axes_of_others(builder: &Builder, x: &[NodeId], position: usize) -> Axes {
    let others = x.iter().enumerate().filter(|(other, _)| *other != position);
    others.fold(Axes::none(), |axes, (_, &id)| axes.union(builder.graph.axes(id)).unwrap_or(axes))
}

/// A cast to the type that is there; a cast of a widened float.
fn cast_of_cast(builder: &mut Builder, op: &Op, x: &[NodeId]) -> Result<Option<NodeId>> {
    let Op::Cast(cast) = op else { return Ok(None) };
    let graph = &builder.graph;
    if graph.ty(x[0]).dtype == cast.0 {
        return Ok(Some(x[0]));
    }
    let Op::Cast(Cast(DType::F32)) = graph.op(x[0]) else { return Ok(None) };
    let narrow = graph.operands(x[0])[0];
    match graph.ty(narrow).dtype.is_float() {
        true => builder.add(*cast, &[narrow]).map(Some),
        false => Ok(None),
    }
}

/// A value with an axis under another name.
fn renamed(builder: &mut Builder, id: NodeId, from: Axis, to: Axis) -> Result<Option<NodeId>> {
    match builder.graph.axes(id).contains(from) {
        true if from == to => Ok(Some(id)),
        true => builder.add(Rename { from, to }, &[id]).map(Some),
        false => Ok(None),
    }
}

/// a→a; a→b→c = a→c
fn rename_of_rename(builder: &mut Builder, op: &Op, x: &[NodeId]) -> Result<Option<NodeId>> {
    let Op::Rename(rename) = op else { return Ok(None) };
    if rename.from == rename.to {
        return Ok(Some(x[0]));
    }
    let Op::Rename(inner) = *builder.graph.op(x[0]) else { return Ok(None) };
    if inner.to != rename.from {
        return Ok(None);
    }
    let origin = builder.graph.operands(x[0])[0];
    renamed(builder, origin, inner.from, rename.to)
}

/// A split of the merge of the same axes, the other way round, and those of one axis.
fn split_and_merge(builder: &mut Builder, op: &Op, x: &[NodeId]) -> Result<Option<NodeId>> {
    match op {
        Op::Split(Split { axis, into }) => match (into.as_slice(), builder.graph.op(x[0])) {
            (&[only], _) => renamed(builder, x[0], *axis, only),
            (_, Op::Merge(inner)) if inner.into == *axis && inner.axes == *into => {
                Ok(Some(builder.graph.operands(x[0])[0]))
            }
            _ => Ok(None),
        },
        Op::Merge(Merge { axes, into }) => match (axes.as_slice(), builder.graph.op(x[0])) {
            (&[only], _) => renamed(builder, x[0], only, *into),
            (_, Op::Split(inner)) if inner.axis == *into && inner.into == *axes => {
                Ok(Some(builder.graph.operands(x[0])[0]))
            }
            _ => Ok(None),
        },
        _ => Ok(None),
    }
}

/// A slice of all of an axis; a slice of a slice.
fn slice(builder: &mut Builder, op: &Op, x: &[NodeId]) -> Result<Option<NodeId>> {
    let Op::Slice(slice) = op else { return Ok(None) };
    if slice.axis.fixed_size() == slice.into.fixed_size() {
        return renamed(builder, x[0], slice.axis, slice.into);
    }
    let Op::Slice(inner) = *builder.graph.op(x[0]) else { return Ok(None) };
    if inner.into != slice.axis {
        return Ok(None);
    }
    let origin = builder.graph.operands(x[0])[0];
    let start = inner.start + slice.start;
    builder.add(Slice { axis: inner.axis, start, into: slice.into }, &[origin]).map(Some)
}

/// A slice that lies within one piece of a concatenation.
fn slice_of_concat(builder: &mut Builder, op: &Op, x: &[NodeId]) -> Result<Option<NodeId>> {
    let Op::Slice(slice) = op else { return Ok(None) };
    let Op::Concat(concat) = builder.graph.op(x[0]) else { return Ok(None) };
    if concat.into != slice.axis {
        return Ok(None);
    }
    let end = slice.start + slice.into.fixed_size().unwrap_or(0);
    let places = concat.starts().into_iter().zip(concat.pieces.clone()).zip(builder.graph.operands(x[0]));
    for ((start, piece), operand) in places {
        let within = start <= slice.start && end <= start + piece.fixed_size().unwrap_or(0);
        if within && builder.graph.axes(operand).contains(piece) {
            let part = Slice { axis: piece, start: slice.start - start, into: slice.into };
            let clash = builder.graph.ty(operand).without_axis(piece).axes.get(part.into.name).is_some();
            return if clash { Ok(None) } else { builder.add(part, &[operand]).map(Some) };
        }
    }
    Ok(None)
}

/// A concatenation of one piece; one of consecutive slices that are all of a value.
fn concat_of_slices(builder: &mut Builder, op: &Op, x: &[NodeId]) -> Result<Option<NodeId>> {
    let Op::Concat(concat) = op else { return Ok(None) };
    if let [piece] = concat.pieces[..] {
        return renamed(builder, x[0], piece, concat.into);
    }
    let mut whole: Option<(NodeId, Axis)> = None;
    for ((start, &piece), &operand) in concat.starts().into_iter().zip(&concat.pieces).zip(x) {
        let Op::Slice(part) = *builder.graph.op(operand) else { return Ok(None) };
        let source = (builder.graph.operands(operand)[0], part.axis);
        if part.start != start || part.into != piece || whole.is_some_and(|whole| whole != source) {
            return Ok(None);
        }
        whole = Some(source);
    }
    match whole {
        Some((source, axis)) if axis.fixed_size() == concat.into.fixed_size() => {
            renamed(builder, source, axis, concat.into)
        }
        _ => Ok(None),
    }
}

/// A concatenation with a piece that is one itself.
fn concat_of_concat(builder: &mut Builder, op: &Op, x: &[NodeId]) -> Result<Option<NodeId>> {
    let Op::Concat(concat) = op else { return Ok(None) };
    let (mut pieces, mut operands) = (Vec::new(), Vec::new());
    for (&piece, &operand) in concat.pieces.iter().zip(x) {
        match builder.graph.op(operand) {
            Op::Concat(inner) if inner.into == piece => {
                pieces.extend(&inner.pieces);
                operands.extend(builder.graph.operands(operand));
            }
            _ => {
                pieces.push(piece);
                operands.push(operand);
            }
        }
    }
    if operands.len() == x.len() {
        return Ok(None);
    }
    let flat = Op::from(Concat { pieces, into: concat.into });
    let types: Vec<_> = operands.iter().map(|&operand| builder.graph.ty(operand)).collect();
    // Names of pieces that were out of each other's sight may clash.
    match flat.operator().infer(&types) {
        Ok(_) => builder.add(flat, &operands).map(Some),
        Err(_) => Ok(None),
    }
}

/// A value that is already f32, or widened to it.
fn widened(builder: &mut Builder, id: NodeId) -> Result<Option<NodeId>> {
    builder.add(Cast(DType::F32), &[id]).map(Some)
}

/// A reduction over no axis.
fn reduce_over_nothing(builder: &mut Builder, op: &Op, x: &[NodeId]) -> Result<Option<NodeId>> {
    match op {
        Op::Reduce(reduce) if reduce.over.is_empty() => widened(builder, x[0]),
        _ => Ok(None),
    }
}

/// The product of one factor is that factor: its sum is a plain one.
fn contract_of_one(builder: &mut Builder, op: &Op, x: &[NodeId]) -> Result<Option<NodeId>> {
    match op {
        Op::Contract(contract) if x.len() == 1 => {
            let over = contract.over.clone();
            builder.add(Reduce { kind: ReduceKind::Sum, over }, x).map(Some)
        }
        _ => Ok(None),
    }
}

/// A contraction whose axes another operand has too, without ones.
fn contract_with_ones(builder: &mut Builder, op: &Op, x: &[NodeId]) -> Result<Option<NodeId>> {
    let (Op::Contract(_), true) = (op, x.len() > 1) else { return Ok(None) };
    for position in 0..x.len() {
        let elsewhere = axes_of_others(builder, x, position);
        let mut operands = x.to_vec();
        if is_ones(builder, x[position]) && elsewhere.contains_all(builder.graph.axes(x[position])) {
            operands.remove(position);
        } else if let Some(value) = without_ones(builder, x[position], &elsewhere) {
            operands[position] = value;
        } else {
            continue;
        }
        return builder.add(op.clone(), &operands).map(Some);
    }
    Ok(None)
}
