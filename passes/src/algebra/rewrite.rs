//! Finds where a rule fits and puts its right side there. Matching looks for
//! operands of a contraction in any order; types are checked on what is added.

use super::language::{EGraph, ENode, Shape, add};
use super::pattern::{Over, Payload, Term};
use super::rules::{Compiled, Condition};
use diptych_ir::ops::{Contract, Literal, Map, Reduce, Rename, Slice};
use diptych_ir::{Axis, DType, Op, ReduceKind, Symbol};
use egg::Id;
use std::collections::BTreeSet;

/// What a variable stands for.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Bound {
    Class(Id),
    Rest(Vec<Id>),
    Axes(Vec<Axis>),
    Payload(Op),
}

/// What the variables of a rule stand for, by number.
pub(super) type Bindings = Vec<Option<Bound>>;

/// A budget of matching steps, the same on every machine: time would make
/// what is compiled depend on how busy the machine is.
pub(super) struct Budget {
    pub steps: usize,
}

/// Whether a node multiplies with weights that ids choose. Such a contraction is computed where the weights
/// lie, and never in another order: no rule looks into it.
fn takes_weights(egraph: &EGraph, node: &ENode) -> bool {
    let fixed = |id: Id| egraph[id].data.ty.axes.iter().all(|axis| axis.fixed_size().is_some());
    let chosen = |node: &ENode| match (&node.op, &node.operands[..]) {
        (Op::Take(_), &[table, ids]) => fixed(table) && !fixed(ids) && egraph[table].data.ty.axes.len() > 2,
        _ => false,
    };
    matches!(node.op, Op::Contract(_)) && node.operands.iter().any(|&id| egraph[id].nodes.iter().any(chosen))
}

/// All places in a class where the left side of a rule stands and its
/// conditions hold, up to `most` of them.
pub(super) fn search(
    egraph: &EGraph,
    rule: &Compiled,
    class: Id,
    most: usize,
    budget: &mut Budget,
) -> Vec<Bindings> {
    let mut found: Vec<Bindings> = Vec::new();
    let mut bindings: Bindings = vec![None; rule.variables.0.len()];
    let mut search = Search { egraph, budget };
    search.class(&rule.left, class, &mut bindings, &mut |bindings| {
        if found.len() < most && holds(egraph, rule, class, bindings) && !found.contains(bindings) {
            found.push(bindings.clone());
        }
    });
    found
}

struct Search<'a> {
    egraph: &'a EGraph,
    budget: &'a mut Budget,
}

type Then<'a> = &'a mut dyn FnMut(&mut Bindings);

impl Search<'_> {
    fn class(&mut self, term: &Term, class: Id, bindings: &mut Bindings, then: Then) {
        let Some(left) = self.budget.steps.checked_sub(1) else { return };
        self.budget.steps = left;
        let egraph = self.egraph;
        match term {
            Term::Class(variable) => bind(*variable, Bound::Class(class), bindings, then),
            Term::Constant(variable) if egraph[class].data.constant.is_some() => {
                bind(*variable, Bound::Class(class), bindings, then);
            }
            Term::Number(number) if egraph[class].data.constant == Some(*number) => then(bindings),
            Term::Node { shape, payload, operands, rests } => {
                let rest = rests.first().copied();
                let fits = |node: &&ENode| Shape::of(&node.op) == *shape && !takes_weights(egraph, node);
                for node in egraph[class].nodes.iter().filter(fits) {
                    let over = match &node.op {
                        Op::Contract(contract) => Some(&contract.over),
                        Op::Reduce(reduce) => Some(&reduce.over),
                        _ => None,
                    };
                    let mut inner = |bindings: &mut Bindings| {
                        if shape.is_commutative() {
                            self.multiset(operands, &node.operands, rest, bindings, then);
                        } else {
                            self.sequence(operands, &node.operands, rest, bindings, then);
                        }
                    };
                    match payload {
                        Payload::Over(Over::Bound(variable)) => {
                            bind(
                                *variable,
                                Bound::Axes(over.cloned().unwrap_or_default()),
                                bindings,
                                &mut inner,
                            );
                        }
                        Payload::Over(Over::Empty) if over.is_some_and(|over| !over.is_empty()) => {}
                        Payload::Bound(variable) => {
                            bind(*variable, Bound::Payload(node.op.clone()), bindings, &mut inner);
                        }
                        _ => inner(bindings),
                    }
                }
            }
            _ => {}
        }
    }

    /// Operands in order; those left over are the rest.
    fn sequence(
        &mut self,
        terms: &[Term],
        ids: &[Id],
        rest: Option<usize>,
        bindings: &mut Bindings,
        then: Then,
    ) {
        match (terms, rest) {
            ([], Some(rest)) => bind(rest, Bound::Rest(ids.to_vec()), bindings, then),
            ([], None) if ids.is_empty() => then(bindings),
            ([term, terms @ ..], _) => {
                if let [id, ids @ ..] = ids {
                    // `self` is borrowed by the closure, so the rest of the search gets its own.
                    let (egraph, budget) = (self.egraph, self.budget.steps);
                    let mut inner = Budget { steps: budget };
                    self.class(term, *id, bindings, &mut |bindings| {
                        Search { egraph, budget: &mut inner }.sequence(terms, ids, rest, bindings, then);
                    });
                    self.budget.steps = self.budget.steps.min(inner.steps);
                }
            }
            _ => {}
        }
    }

    /// Operands in any order; those left over are the rest.
    fn multiset(
        &mut self,
        terms: &[Term],
        ids: &[Id],
        rest: Option<usize>,
        bindings: &mut Bindings,
        then: Then,
    ) {
        let [term, terms @ ..] = terms else { return self.sequence(&[], ids, rest, bindings, then) };
        for position in 0..ids.len() {
            if position > 0 && ids[position] == ids[position - 1] {
                continue;
            }
            let mut others = ids.to_vec();
            let id = others.remove(position);
            let (egraph, budget) = (self.egraph, self.budget.steps);
            let mut inner = Budget { steps: budget };
            self.class(term, id, bindings, &mut |bindings| {
                Search { egraph, budget: &mut inner }.multiset(terms, &others, rest, bindings, then);
            });
            self.budget.steps = self.budget.steps.min(inner.steps);
        }
    }
}

fn bind(variable: usize, bound: Bound, bindings: &mut Bindings, then: Then) {
    match &bindings[variable] {
        Some(known) if *known == bound => then(bindings),
        Some(_) => {}
        None => {
            bindings[variable] = Some(bound);
            then(bindings);
            bindings[variable] = None;
        }
    }
}

fn ids(bindings: &Bindings, variable: usize) -> &[Id] {
    match &bindings[variable] {
        Some(Bound::Class(id)) => std::slice::from_ref(id),
        Some(Bound::Rest(ids)) => ids,
        _ => &[],
    }
}

fn axes(bindings: &Bindings, variable: usize) -> &[Axis] {
    match &bindings[variable] {
        Some(Bound::Axes(axes)) => axes,
        _ => &[],
    }
}

fn payload(bindings: &Bindings, variable: usize) -> Option<&Op> {
    match &bindings[variable] {
        Some(Bound::Payload(op)) => Some(op),
        _ => None,
    }
}

fn names(egraph: &EGraph, ids: &[Id]) -> BTreeSet<Symbol> {
    ids.iter().flat_map(|&id| egraph[id].data.ty.axes.iter().map(|axis| axis.name)).collect()
}

fn holds(egraph: &EGraph, rule: &Compiled, root: Id, bindings: &Bindings) -> bool {
    rule.conditions.iter().all(|condition| match *condition {
        Condition::ParamOnly(x) => ids(bindings, x).iter().all(|&id| egraph[id].data.param_only),
        Condition::Lacks(x, over) => {
            let names = names(egraph, ids(bindings, x));
            axes(bindings, over).iter().all(|axis| !names.contains(&axis.name))
        }
        Condition::Some(xs) => !ids(bindings, xs).is_empty() || !axes(bindings, xs).is_empty(),
        Condition::AtMost(xs, ys, most) => ids(bindings, xs).len() + ids(bindings, ys).len() <= most,
        Condition::Covers(x, y) => {
            names(egraph, ids(bindings, x)).is_superset(&names(egraph, ids(bindings, y)))
        }
        Condition::Joins(x, y, over, zs) => {
            let [x, y, zs] = [x, y, zs].map(|variable| names(egraph, ids(bindings, variable)));
            let done =
                |axis: &Axis| x.contains(&axis.name) && y.contains(&axis.name) && !zs.contains(&axis.name);
            x.is_superset(&y) || y.is_superset(&x) || axes(bindings, over).iter().any(done)
        }
        Condition::Narrower(x) => {
            ids(bindings, x).iter().all(|&id| egraph[id].data.ty.axes.len() < egraph[root].data.ty.axes.len())
        }
        Condition::Inverse(outer, inner) => match (payload(bindings, outer), payload(bindings, inner)) {
            (Some(outer), Some(inner)) => inverse(outer, inner),
            _ => false,
        },
        Condition::NotZero(c) => {
            ids(bindings, c).iter().all(|&id| egraph[id].data.constant.is_some_and(|c| c != 0.0))
        }
        Condition::Varies(x) => ids(bindings, x).iter().all(|&id| egraph[id].data.constant.is_none()),
        // Names can always be found: this one acts when the right side is built.
        Condition::Fresh { .. } => true,
    })
}

fn inverse(outer: &Op, inner: &Op) -> bool {
    match (outer, inner) {
        (Op::Rename(outer), Op::Rename(inner)) => outer.from == inner.to && outer.to == inner.from,
        (Op::Split(outer), Op::Merge(inner)) => outer.axis == inner.into && outer.into == inner.axes,
        (Op::Merge(outer), Op::Split(inner)) => outer.into == inner.axis && outer.axes == inner.into,
        _ => false,
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
        _ => None,
    }
}

/// Adds the right side for a match; `None` if it does not fit, as when its
/// type is not that of the left side.
pub(super) fn apply(egraph: &mut EGraph, rule: &Compiled, root: Id, mut bindings: Bindings) -> Option<Id> {
    for condition in &rule.conditions {
        if let Condition::Fresh { over, within, apart, outer } = *condition {
            freshen(egraph, &mut bindings, over, within, apart, outer)?;
        }
    }
    let added = build(egraph, &rule.right, &bindings)?;
    (egraph[added].data.ty == egraph[root].data.ty).then_some(added)
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

fn build(egraph: &mut EGraph, term: &Term, bindings: &Bindings) -> Option<Id> {
    match term {
        Term::Class(variable) | Term::Constant(variable) => ids(bindings, *variable).first().copied(),
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
        Term::Node { shape, payload: bracket, operands, rests } => {
            let mut given = Vec::with_capacity(operands.len());
            for operand in operands {
                given.push(build(egraph, operand, bindings)?);
            }
            given.extend(rests.iter().flat_map(|&rest| ids(bindings, rest)));
            let over = match bracket {
                Payload::Over(over) => summed(egraph, over, bindings),
                _ => Vec::new(),
            };
            let op = match (shape, bracket) {
                (Shape::Map(function), _) => Map(*function).into(),
                (Shape::Contract, _) => Contract { over }.into(),
                (Shape::Sum, _) => Reduce { kind: ReduceKind::Sum, over }.into(),
                (Shape::Max, _) => Reduce { kind: ReduceKind::Max, over }.into(),
                (_, Payload::Bound(variable)) => payload(bindings, *variable)?.clone(),
                (_, Payload::Composed(outer, inner)) => {
                    composed(payload(bindings, *outer)?, payload(bindings, *inner)?)?
                }
                _ => return None,
            };
            add(egraph, op, given)
        }
    }
}

fn literal(egraph: &mut EGraph, value: f64) -> Option<Id> {
    add(egraph, Literal::scalar(DType::F32, value).into(), Vec::new())
}

fn summed(egraph: &EGraph, over: &Over, bindings: &Bindings) -> Vec<Axis> {
    let among = |over: &Over, variable: usize, wanted: bool| -> Vec<Axis> {
        let names = names(egraph, ids(bindings, variable));
        summed(egraph, over, bindings)
            .into_iter()
            .filter(|axis| names.contains(&axis.name) == wanted)
            .collect()
    };
    match over {
        Over::Empty => Vec::new(),
        Over::Bound(variable) => axes(bindings, *variable).to_vec(),
        Over::Both(left, right) => [summed(egraph, left, bindings), summed(egraph, right, bindings)].concat(),
        Over::Within(over, variable) => among(over, *variable, true),
        Over::Outside(over, variable) => among(over, *variable, false),
    }
}
