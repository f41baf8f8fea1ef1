//! Axes put one after the other: what a right side builds when it joins values,
//! takes one of them out again, or cuts two concats alike. It knows no rule.

use super::building::{build, summed};
use super::language::{EGraph, add};
use super::matching::{Bindings, Bound, ids, names, payload};
use super::pattern::{Over, Term};
use diptych_ir::ops::{Concat, Merge, Rename, Slice, Split};
use diptych_ir::{Axis, Op, Symbol};
use egg::Id;
use std::collections::BTreeSet;

/// Two sets of axes, each made one, one after the other.
pub(super) struct Along {
    sides: [Vec<Axis>; 2],
    pieces: [Axis; 2],
    /// The axis that they become.
    pub whole: Axis,
}

/// How axes are joined. The new ones get names that nothing else has which the rule speaks of, or an
/// outer product would become an inner one. They are named by size, so that what is joined in several
/// ways becomes one value.
pub(super) fn along(egraph: &EGraph, along: &[Over; 2], bindings: &Bindings) -> Option<Along> {
    let sides = [summed(egraph, &along[0], bindings)?, summed(egraph, &along[1], bindings)?];
    let sides = sides.map(|side| egraph.analysis.ordered(side));
    let mut taken: BTreeSet<Symbol> = BTreeSet::new();
    for bound in bindings.iter().flatten() {
        match bound {
            Bound::Class(id) | Bound::Item(id, _) => taken.extend(names(egraph, &[*id])),
            Bound::Rest(ids) => taken.extend(names(egraph, ids)),
            Bound::Axes(axes) => taken.extend(axes.iter().map(|axis| axis.name)),
            Bound::Payload(_) => {}
        }
    }
    for axis in sides.iter().flatten() {
        taken.remove(&axis.name);
    }
    let fresh = |name: &str, size: usize| {
        let mut names = (0..).map(|n| match n {
            0 => Symbol::new(&format!("{name}.{size}")),
            _ => Symbol::new(&format!("{name}.{size}.{n}")),
        });
        names
            .find(|name| !taken.contains(name))
            .map(|name| Axis { name, size: diptych_ir::Size::Fixed(size) })
    };
    let piece = |side: &[Axis]| match side {
        [] => None,
        [axis] => axis.fixed_size().map(|_| *axis),
        axes => {
            let size = axes.iter().try_fold(1usize, |size, axis| size.checked_mul(axis.fixed_size()?))?;
            fresh("merged", size)
        }
    };
    let pieces = [piece(&sides[0])?, piece(&sides[1])?];
    let whole = fresh("joined", pieces[0].fixed_size()?.checked_add(pieces[1].fixed_size()?)?)?;
    Some(Along { sides, pieces, whole })
}

impl Along {
    /// The two values, joined.
    pub fn join(&self, egraph: &mut EGraph, values: [Id; 2]) -> Option<Id> {
        let mut operands = values.to_vec();
        for ((operand, side), &piece) in operands.iter_mut().zip(&self.sides).zip(&self.pieces) {
            if side.len() > 1 {
                *operand = add(egraph, Merge { axes: side.clone(), into: piece }.into(), vec![*operand])?;
            }
        }
        add(egraph, Concat { pieces: self.pieces.to_vec(), into: self.whole }.into(), operands)
    }

    /// The part of a value that lies where the first or the second does.
    pub fn part(&self, egraph: &mut EGraph, second: bool, value: Id) -> Option<Id> {
        let (start, side, into) = match second {
            false => (0, &self.sides[0], self.pieces[0]),
            true => (self.pieces[0].fixed_size()?, &self.sides[1], self.pieces[1]),
        };
        let part = add(egraph, Slice { axis: self.whole, start, into }.into(), vec![value])?;
        match side.len() {
            1 => Some(part),
            _ => add(egraph, Split { axis: into, into: side.clone() }.into(), vec![part]),
        }
    }
}

/// What a value was joined from, in order: each a number that stays the same whichever axes were merged
/// for it.
pub(super) fn parts(egraph: &EGraph, values: &[Id]) -> Vec<Id> {
    let unmerged = |id: Id| {
        let merged = egraph[id].nodes.iter().filter(|node| matches!(node.op, Op::Merge(_)));
        merged.flat_map(|node| &node.operands).map(|&id| egraph.find(id)).min().unwrap_or(id)
    };
    let parts = values.iter().flat_map(|&id| {
        let concats = egraph[id].nodes.iter().filter(|node| matches!(node.op, Op::Concat(_)));
        match concats.max_by_key(|node| node.operands.len()) {
            Some(node) => node.operands.iter().map(|&id| unmerged(egraph.find(id))).collect(),
            None => vec![unmerged(id)],
        }
    });
    parts.collect()
}

/// A value where one piece of a concat lies.
pub(super) fn cut(egraph: &mut EGraph, concat: &Op, place: usize, value: Id) -> Option<Id> {
    let Op::Concat(concat) = concat else { return None };
    let (start, into) = (*concat.starts().get(place)?, *concat.pieces.get(place)?);
    let axes = &egraph[value].data.ty.axes;
    match axes.contains(concat.into) {
        true => add(egraph, Slice { axis: concat.into, start, into }.into(), vec![value]),
        // The same all along it; an axis of its own that has the piece's name would be captured.
        false => axes.get(into.name).is_none().then_some(value),
    }
}

/// The concat of what a term becomes for each pair of pieces that lie in the same place, where the
/// bounds of the one are among those of the other. What is the same all along a piece is cut for free.
pub(super) fn zip(
    egraph: &mut EGraph,
    concats: [usize; 2],
    lists: [usize; 2],
    each: &Term,
    bindings: &Bindings,
) -> Option<Id> {
    let mut ops = Vec::with_capacity(2);
    for concat in concats {
        let Op::Concat(concat) = payload(bindings, concat)? else { return None };
        ops.push(concat.clone());
    }
    if ops[0].into != ops[1].into {
        return None;
    }
    let mut bounds: BTreeSet<usize> = ops.iter().flat_map(Concat::starts).collect();
    bounds.insert(ops[0].into.fixed_size()?);
    let bounds: Vec<usize> = bounds.into_iter().collect();
    let (mut pieces, mut operands) = (Vec::new(), Vec::new());
    for (place, ends) in bounds.windows(2).enumerate() {
        let (start, size) = (ends[0], ends[1] - ends[0]);
        let mut values = Vec::with_capacity(2);
        for (op, list) in ops.iter().zip(lists) {
            let number = op.starts().iter().rposition(|&first| first <= start)?;
            let (value, piece) = (*ids(bindings, list).get(number)?, *op.pieces.get(number)?);
            let along = egraph[value].data.ty.axes.contains(piece);
            if along && piece.fixed_size() != Some(size) {
                return None;
            }
            values.push((value, piece, along));
        }
        // The piece keeps the name that the first value has for it, or else the second.
        let named = values.iter().find(|value| value.2).map_or(values[0].1, |value| value.1);
        let named = Axis { size: diptych_ir::Size::Fixed(size), ..named };
        let mut items = bindings.clone();
        for ((value, piece, along), list) in values.into_iter().zip(lists) {
            let taken = egraph[value].data.ty.axes.get(named.name).is_some();
            let value = match along {
                true if piece == named => value,
                true => add(egraph, Rename { from: piece, to: named }.into(), vec![value])?,
                false if taken => return None,
                false => value,
            };
            items[list] = Some(Bound::Item(value, place));
        }
        operands.push(build(egraph, each, &items)?);
        pieces.push(named);
    }
    add(egraph, Concat { pieces, into: ops[0].into }.into(), operands)
}
