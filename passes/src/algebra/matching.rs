//! Finds where the left side of a rule stands and its conditions hold, and what its variables stand for there: operands
//! of a contraction in any order, within a budget of steps. It adds nothing.

use super::joined;
use super::language::{EGraph, ENode, Shape};
use super::mesh::Ranks;
use super::pattern::{Over, Payload, Term};
use super::rules::{Compiled, Condition};
use diptych_ir::{Axis, Op, Symbol};
use egg::Id;
use std::cell::Cell;
use std::collections::BTreeSet;

/// What a variable stands for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Bound {
    Class(Id),
    Rest(Vec<Id>),
    /// A value of a list, with its place there.
    Item(Id, usize),
    Axes(Vec<Axis>),
    /// Boxed, so that what else is bound stays small.
    Payload(Box<Op>),
}

/// What the variables of a rule stand for, by number.
pub(super) type Bindings = Vec<Option<Bound>>;

/// A budget of matching steps, the same on every machine: time would make
/// what is compiled depend on how busy the machine is.
pub(super) struct Budget {
    left: Cell<usize>,
}

impl Budget {
    pub fn new(steps: usize) -> Budget {
        Budget { left: Cell::new(steps) }
    }

    /// Takes a step, if one is left.
    pub fn step(&self) -> Option<()> {
        self.left.set(self.left.get().checked_sub(1)?);
        Some(())
    }

    pub fn is_spent(&self) -> bool {
        self.left.get() == 0
    }
}

/// Whether a node multiplies with weights that ids choose.
fn takes_weights(egraph: &EGraph, node: &ENode) -> bool {
    matches!(node.op, Op::Contract(_)) && node.operands.iter().any(|&id| egraph[id].data.chosen)
}

/// All places in a class where the left side of a rule stands and its
/// conditions hold, up to `most` of those that are wanted.
pub(super) fn search(
    egraph: &EGraph,
    rule: &Compiled,
    class: Id,
    most: usize,
    budget: &Budget,
    wanted: &mut dyn FnMut(&Bindings) -> bool,
) -> Vec<Bindings> {
    let mut found: Vec<Bindings> = Vec::new();
    find(egraph, rule, &rule.left, class, budget, &mut |bindings| {
        if found.len() < most && holds(egraph, rule, class, bindings) && wanted(bindings) {
            found.push(bindings.clone());
        }
    });
    found
}

/// Everything in a class that one of a rule's left sides fits.
pub(super) fn find(
    egraph: &EGraph,
    rule: &Compiled,
    left: &Term,
    class: Id,
    budget: &Budget,
    then: &mut dyn FnMut(&mut Bindings),
) {
    let mut bindings: Bindings = vec![None; rule.variables.0.len()];
    Search { egraph, budget }.class(left, class, &mut bindings, then);
}

struct Search<'a> {
    egraph: &'a EGraph,
    budget: &'a Budget,
}

type Then<'a> = &'a mut dyn FnMut(&mut Bindings);

/// What a pattern says of the operands that are left.
#[derive(Clone, Copy)]
enum Tail<'a> {
    None,
    Rest(usize),
    /// Each fits the pattern, which has one item of the list.
    Each(&'a Term, usize),
}

impl Search<'_> {
    fn class(&self, term: &Term, class: Id, bindings: &mut Bindings, then: Then) {
        if self.budget.step().is_none() {
            return;
        }
        let egraph = self.egraph;
        match term {
            Term::Class(variable) | Term::Item(variable) => {
                bind(*variable, Bound::Class(class), bindings, then);
            }
            Term::Constant(variable) if egraph[class].data.constant.is_some() => {
                bind(*variable, Bound::Class(class), bindings, then);
            }
            Term::Number(number) if egraph[class].data.constant == Some(*number) => then(bindings),
            Term::Node { shape, payload, operands, rests, each } => {
                let mut lists = Vec::new();
                each.iter().for_each(|each| each.lists(&mut lists));
                let rest = match (each, &lists[..], &rests[..]) {
                    (Some(each), &[list, ..], _) => Tail::Each(each, list),
                    (_, _, &[rest, ..]) => Tail::Rest(rest),
                    _ => Tail::None,
                };
                // Without this, every order of operands would be tried before there is found to be one too many.
                let enough = |node: &ENode| match rest {
                    Tail::None => node.operands.len() == operands.len(),
                    _ => node.operands.len() >= operands.len(),
                };
                let fits = |node: &&ENode| {
                    shape.takes(Shape::of(&node.op)) && enough(node) && !takes_weights(egraph, node)
                };
                for node in egraph[class].nodes.iter().filter(fits) {
                    let over = match &node.op {
                        Op::Contract(contract) => Some(&contract.over),
                        Op::Reduce(reduce) => Some(&reduce.over),
                        _ => None,
                    };
                    let mut inner = |bindings: &mut Bindings| {
                        if Shape::of(&node.op).is_commutative() {
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
                            bind(*variable, Bound::Payload(Box::new(node.op.clone())), bindings, &mut inner);
                        }
                        _ => inner(bindings),
                    }
                }
            }
            _ => {}
        }
    }

    /// Operands in order; those left over are the rest.
    fn sequence(&self, terms: &[Term], ids: &[Id], rest: Tail, bindings: &mut Bindings, then: Then) {
        match (terms, rest) {
            ([], Tail::Rest(rest)) => bind(rest, Bound::Rest(ids.to_vec()), bindings, then),
            ([], Tail::Each(term, list)) => {
                let known = bindings[list].take();
                self.each((term, list, known.as_ref()), ids, &mut Vec::new(), bindings, then);
                bindings[list] = known;
            }
            ([], Tail::None) if ids.is_empty() => then(bindings),
            ([term, terms @ ..], _) => {
                if let [id, ids @ ..] = ids {
                    self.class(term, *id, bindings, &mut |bindings| {
                        self.sequence(terms, ids, rest, bindings, then);
                    });
                }
            }
            _ => {}
        }
    }

    /// Operands that all fit one pattern; what its item stands for in each makes up the list.
    fn each(
        &self,
        what: (&Term, usize, Option<&Bound>),
        ids: &[Id],
        done: &mut Vec<Id>,
        bindings: &mut Bindings,
        then: Then,
    ) {
        let (term, list, known) = what;
        let [id, others @ ..] = ids else {
            let all = Bound::Rest(done.clone());
            if known.is_none_or(|known| *known == all) {
                bindings[list] = Some(all);
                then(bindings);
                bindings[list] = None;
            }
            return;
        };
        self.class(term, *id, bindings, &mut |bindings| {
            let item = bindings[list].take();
            if let Some(Bound::Class(id)) = item {
                done.push(id);
                self.each(what, others, done, bindings, then);
                done.pop();
            }
            bindings[list] = item;
        });
    }

    /// Operands in any order; those left over are the rest.
    fn multiset(&self, terms: &[Term], ids: &[Id], rest: Tail, bindings: &mut Bindings, then: Then) {
        let [term, terms @ ..] = terms else { return self.sequence(&[], ids, rest, bindings, then) };
        for position in 0..ids.len() {
            if position > 0 && ids[position] == ids[position - 1] {
                continue;
            }
            let mut others = ids.to_vec();
            let id = others.remove(position);
            self.class(term, id, bindings, &mut |bindings| {
                self.multiset(terms, &others, rest, bindings, then);
            });
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

pub(super) fn ids(bindings: &Bindings, variable: usize) -> &[Id] {
    match &bindings[variable] {
        Some(Bound::Class(id) | Bound::Item(id, _)) => std::slice::from_ref(id),
        Some(Bound::Rest(ids)) => ids,
        _ => &[],
    }
}

pub(super) fn axes(bindings: &Bindings, variable: usize) -> &[Axis] {
    match &bindings[variable] {
        Some(Bound::Axes(axes)) => axes,
        _ => &[],
    }
}

pub(super) fn payload(bindings: &Bindings, variable: usize) -> Option<&Op> {
    match &bindings[variable] {
        Some(Bound::Payload(op)) => Some(op),
        _ => None,
    }
}

pub(super) fn names(egraph: &EGraph, ids: &[Id]) -> BTreeSet<Symbol> {
    ids.iter().flat_map(|&id| egraph[id].data.ty.axes.iter().map(|axis| axis.name)).collect()
}

fn holds(egraph: &EGraph, rule: &Compiled, root: Id, bindings: &Bindings) -> bool {
    rule.conditions.iter().all(|&condition| allows(egraph, condition, root, bindings))
}

/// Whether a condition holds of a place where the rule's (first) left side stands.
pub(super) fn allows(egraph: &EGraph, condition: Condition, root: Id, bindings: &Bindings) -> bool {
    match condition {
        Condition::ParamOnly(x) => ids(bindings, x).iter().all(|&id| egraph[id].data.param_only),
        Condition::Given(x) => ids(bindings, x).iter().all(|&id| egraph[id].data.given),
        Condition::AtRun(x) => ids(bindings, x).iter().all(|&id| !egraph[id].data.param_only),
        Condition::Light(x, most) => {
            let elements = |id: Id| -> f64 {
                let sizes = egraph[id].data.ty.axes.iter().filter_map(|axis| axis.fixed_size());
                sizes.map(|size| size as f64).product()
            };
            ids(bindings, x).iter().all(|&id| elements(id) <= most as f64 * elements(root))
        }
        Condition::OverTokens(over) => axes(bindings, over).iter().any(|axis| axis.fixed_size().is_none()),
        Condition::Ordered(x, y) => {
            let (before, after) =
                (joined::parts(egraph, ids(bindings, x)), joined::parts(egraph, ids(bindings, y)));
            matches!((before.iter().max(), &after[..]), (Some(last), [next]) if last < next)
        }
        Condition::Lacks(x, over) => {
            let names = names(egraph, ids(bindings, x));
            let of = payload(bindings, over).map(taken).unwrap_or_default();
            axes(bindings, over).iter().chain(&of).all(|axis| !names.contains(&axis.name))
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
        Condition::SameRanks(left, right) => {
            let ranks = |variable| payload(bindings, variable).and_then(Ranks::of);
            ranks(left).zip(ranks(right)).is_some_and(|(left, right)| left.agrees(right))
        }
        Condition::Alone(over, ys) => {
            let names = names(egraph, ids(bindings, ys));
            axes(bindings, over).iter().any(|axis| !names.contains(&axis.name))
        }
        Condition::ScalesWeights(x) => ids(bindings, x).iter().all(|&id| egraph[id].data.scales_weights),
        Condition::Symmetric(x, y) => ids(bindings, x) <= ids(bindings, y),
        Condition::Positive(c) => {
            ids(bindings, c).iter().all(|&id| egraph[id].data.constant.is_some_and(|c| c > 0.0))
        }
        Condition::NotZero(c) => {
            ids(bindings, c).iter().all(|&id| egraph[id].data.constant.is_some_and(|c| c != 0.0))
        }
        Condition::Varies(x) => ids(bindings, x).iter().all(|&id| egraph[id].data.constant.is_none()),
        // Names can always be found: this one acts when the right side is built.
        Condition::Fresh { .. } => true,
    }
}

/// The axes that an op takes from its operands, or, of a collective, all that it is of.
pub(super) fn taken(op: &Op) -> Vec<Axis> {
    match op {
        Op::Rename(rename) => vec![rename.from],
        Op::Slice(slice) => vec![slice.axis],
        Op::Split(split) => vec![split.axis],
        Op::Merge(merge) => merge.axes.clone(),
        Op::Concat(concat) => concat.pieces.clone(),
        Op::History(history) => vec![history.time],
        op => Ranks::of(op).map(Ranks::axes).unwrap_or_default(),
    }
}

fn inverse(outer: &Op, inner: &Op) -> bool {
    match (outer, inner) {
        (Op::Rename(outer), Op::Rename(inner)) => outer.from == inner.to && outer.to == inner.from,
        (Op::Split(outer), Op::Merge(inner)) => outer.axis == inner.into && outer.into == inner.axes,
        (Op::Merge(outer), Op::Split(inner)) => outer.into == inner.axis && outer.axes == inner.into,
        _ => false,
    }
}
