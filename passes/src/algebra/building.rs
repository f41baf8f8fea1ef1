//! Builds the right side of a rule from what its variables stand for; types are checked on what is added. It must not
//! know how a place was found.

use super::joined;
use super::language::{EGraph, Shape, add};
use super::matching::{Bindings, Bound, axes, ids, names, payload, taken};
use super::mesh::Ranks;
use super::pattern::{Over, Payload, Term};
use super::rules::{Compiled, Condition};
use diptych_ir::ops::{Concat, Contract, Literal, Map, Reduce, Rename, Slice};
use diptych_ir::{Axis, DType, Op, ReduceKind, ScalarFn, Symbol};
use egg::Id;

/// Adds the right side for a match, and the second one of a rule about two values; nothing if one does
/// not fit, as when its type is not that of its left side.
pub(super) fn apply(
    egraph: &mut EGraph,
    rule: &Compiled,
    roots: &[Id],
    mut bindings: Bindings,
) -> Option<Vec<Id>> {
    for condition in &rule.conditions {
        if let Condition::Fresh { over, within, apart, outer } = *condition {
            freshen(egraph, &mut bindings, over, within, apart, outer)?;
        }
    }
    let rights = std::iter::once(&rule.right).chain(rule.beside.as_ref().map(|beside| &beside.1));
    let mut added = Vec::with_capacity(roots.len());
    for (right, &root) in rights.zip(roots) {
        let id = build(egraph, right, &bindings)?;
        if egraph[id].data.ty != egraph[root].data.ty {
            return None;
        }
        added.push(id);
    }
    Some(added)
}

/// Gives new names to the summed axes that would be captured.
fn freshen(
    egraph: &mut EGraph,
    bindings: &mut Bindings,
    over: usize,
    within: usize,
    apart: usize,
    outer: usize,
) -> Option<()> {
    let mut taken = names(egraph, ids(bindings, apart));
    taken.extend(axes(bindings, outer).iter().map(|axis| axis.name));
    let mut own = names(egraph, ids(bindings, within));
    let (mut summed, mut values) = (axes(bindings, over).to_vec(), ids(bindings, within).to_vec());
    for axis in &mut summed {
        if !taken.contains(&axis.name) {
            continue;
        }
        let name = (1..).map(|n| Symbol::new(&format!("{}.{n}", axis.name)));
        let name = name.into_iter().find(|name| !taken.contains(name) && !own.contains(name))?;
        let fresh = Axis { name, size: axis.size };
        own.insert(name);
        for value in &mut values {
            if egraph[*value].data.ty.axes.contains(*axis) {
                *value = add(egraph, Rename { from: *axis, to: fresh }.into(), vec![*value])?;
            }
        }
        *axis = fresh;
    }
    bindings[over] = Some(Bound::Axes(summed));
    bindings[within] = Some(Bound::Rest(values));
    Some(())
}

pub(super) fn build(egraph: &mut EGraph, term: &Term, bindings: &Bindings) -> Option<Id> {
    match term {
        Term::Class(variable) | Term::Constant(variable) | Term::Item(variable) => {
            ids(bindings, *variable).first().copied()
        }
        Term::Number(number) => literal(egraph, *number),
        Term::Fold { function, operands } => {
            let mut values = Vec::with_capacity(operands.len());
            for operand in operands {
                let id = build(egraph, operand, bindings)?;
                values.push(egraph[id].data.constant?);
            }
            let value = function.apply(&values);
            // A literal that is no number helps nobody and hides where it came from.
            if value.is_finite() { literal(egraph, value) } else { None }
        }
        Term::Size(over) => {
            let axes = summed(egraph, over, bindings)?;
            let sizes = axes.iter().map(|axis| axis.fixed_size());
            literal(egraph, sizes.product::<Option<usize>>()? as f64)
        }
        Term::Pick { slice, concat, from } => {
            let (Op::Slice(slice), Op::Concat(concat)) =
                (payload(bindings, *slice)?, payload(bindings, *concat)?)
            else {
                return None;
            };
            if slice.axis != concat.into {
                return None;
            }
            let length = slice.into.fixed_size();
            let position = (concat.starts().iter().zip(&concat.pieces))
                .position(|(&start, piece)| start == slice.start && piece.fixed_size() == length)?;
            let (piece, operand) = (concat.pieces[position], *ids(bindings, *from).get(position)?);
            match piece == slice.into {
                true => Some(operand),
                false => add(egraph, Rename { from: piece, to: slice.into }.into(), vec![operand]),
            }
        }
        Term::Total(each) => {
            let parts = list(egraph, each, bindings)?;
            let (&first, others) = parts.split_first()?;
            others
                .iter()
                .try_fold(first, |sum, &part| add(egraph, Map(ScalarFn::Add).into(), vec![sum, part]))
        }
        Term::Cut { concat, value } => {
            let value = build(egraph, value, bindings)?;
            joined::cut(egraph, payload(bindings, *concat)?, place(bindings)?, value)
        }
        Term::Zip { concats, lists, each } => joined::zip(egraph, *concats, *lists, each, bindings),
        Term::Join { along, values: [left, right] } => {
            let along = joined::along(egraph, along, bindings)?;
            let values = [build(egraph, left, bindings)?, build(egraph, right, bindings)?];
            along.join(egraph, values)
        }
        Term::Part { along, second, of } => {
            let along = joined::along(egraph, along, bindings)?;
            let of = build(egraph, of, bindings)?;
            along.part(egraph, *second, of)
        }
        Term::Node { shape, payload: bracket, operands, rests, each } => {
            let mut given = Vec::with_capacity(operands.len());
            for operand in operands {
                given.push(build(egraph, operand, bindings)?);
            }
            given.extend(rests.iter().flat_map(|&rest| ids(bindings, rest)));
            if let Some(each) = each {
                given.extend(list(egraph, each, bindings)?);
            }
            let over = match bracket {
                Payload::Over(over) => summed(egraph, over, bindings)?,
                _ => Vec::new(),
            };
            let op = match (shape, bracket) {
                (Shape::Map(function), _) => Map(*function).into(),
                (Shape::Contract, _) => Contract { over }.into(),
                (Shape::Sum, _) => Reduce { kind: ReduceKind::Sum, over }.into(),
                (Shape::Max, _) => Reduce { kind: ReduceKind::Max, over }.into(),
                (_, Payload::Bound(variable)) => {
                    let op = payload(bindings, *variable)?;
                    if place(bindings).is_some() && stays(egraph, op, &given) {
                        return given.first().copied();
                    }
                    of_shape(op, *shape)?
                }
                (_, Payload::Cutting(ranks, value)) => {
                    let value = *ids(bindings, *value).first()?;
                    Ranks::of(payload(bindings, *ranks)?)?.cutting(&egraph[value].data.ty.axes)?.op(*shape)?
                }
                (_, Payload::Composed(outer, inner)) => {
                    composed(payload(bindings, *outer)?, payload(bindings, *inner)?)?
                }
                _ => return None,
            };
            add(egraph, op, given)
        }
    }
}

/// One op that does what two do, one after the other.
fn composed(outer: &Op, inner: &Op) -> Option<Op> {
    match (outer, inner) {
        (Op::Rename(outer), Op::Rename(inner)) if outer.from == inner.to && outer.to != inner.from => {
            Some(Rename { from: inner.from, to: outer.to }.into())
        }
        (Op::Slice(outer), Op::Slice(inner)) if outer.axis == inner.into => {
            Some(Slice { axis: inner.axis, start: inner.start + outer.start, into: outer.into }.into())
        }
        (Op::Concat(outer), Op::Concat(inner)) if outer.pieces.first() == Some(&inner.into) => {
            let pieces = inner.pieces.iter().chain(&outer.pieces[1..]).copied().collect();
            Some(Concat { pieces, into: outer.into }.into())
        }
        _ => None,
    }
}

/// The op that a variable stands for, or one of another kind that speaks of the same ranks.
fn of_shape(op: &Op, shape: Shape) -> Option<Op> {
    if shape.takes(Shape::of(op)) { Some(op.clone()) } else { Ranks::of(op)?.op(shape) }
}

fn literal(egraph: &mut EGraph, value: f64) -> Option<Id> {
    add(egraph, Literal::scalar(DType::F32, value).into(), Vec::new())
}

/// What a term becomes for each item of its lists.
fn list(egraph: &mut EGraph, each: &Term, bindings: &Bindings) -> Option<Vec<Id>> {
    let mut lists = Vec::new();
    each.lists(&mut lists);
    let count = ids(bindings, *lists.first()?).len();
    let mut items = bindings.clone();
    let mut built = Vec::with_capacity(count);
    for place in 0..count {
        for &list in &lists {
            items[list] = Some(Bound::Item(*ids(bindings, list).get(place)?, place));
        }
        built.push(build(egraph, each, &items)?);
    }
    Some(built)
}

/// Which item of a list is being built.
fn place(bindings: &Bindings) -> Option<usize> {
    bindings.iter().find_map(|bound| match bound {
        Some(Bound::Item(_, place)) => Some(*place),
        _ => None,
    })
}

/// Whether a value has nothing of what an op moves: it is the same all along it. That does not hold of a
/// history, since at the next call the value may be another.
fn stays(egraph: &EGraph, op: &Op, given: &[Id]) -> bool {
    let names = names(egraph, given);
    Shape::AnyMove.takes(Shape::of(op)) && taken(op).iter().all(|axis| !names.contains(&axis.name))
}

pub(super) fn summed(egraph: &EGraph, over: &Over, bindings: &Bindings) -> Option<Vec<Axis>> {
    let among = |over: &Over, variable: usize, wanted: bool| -> Option<Vec<Axis>> {
        let names = names(egraph, ids(bindings, variable));
        let axes = summed(egraph, over, bindings)?.into_iter();
        Some(axes.filter(|axis| names.contains(&axis.name) == wanted).collect())
    };
    match over {
        Over::Empty => Some(Vec::new()),
        Over::Bound(variable) => Some(axes(bindings, *variable).to_vec()),
        Over::Both(left, right) => {
            Some([summed(egraph, left, bindings)?, summed(egraph, right, bindings)?].concat())
        }
        Over::Within(over, variable) => among(over, *variable, true),
        Over::Outside(over, variable) => among(over, *variable, false),
        Over::Of(variable) => {
            let axes = ids(bindings, *variable).iter().flat_map(|&id| egraph[id].data.ty.axes.iter());
            Some(axes.copied().collect())
        }
        Over::Piece(over, cut) => {
            let (whole, piece) = match payload(bindings, *cut)? {
                Op::Concat(concat) => (concat.into, *concat.pieces.get(place(bindings)?)?),
                op => Ranks::of(op)?.cut.map(|cut| (cut.whole, cut.piece))?,
            };
            let mut axes = summed(egraph, over, bindings)?;
            *axes.iter_mut().find(|axis| **axis == whole)? = piece;
            Some(axes)
        }
        Over::Joined(along) => Some(vec![joined::along(egraph, along, bindings)?.whole]),
    }
}
