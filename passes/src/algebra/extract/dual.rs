//! A lower bound of what a part costs, by dual ascent.
//!
//! Take any set of classes with one that a payer needs. Of the forms that
//! compute a class of the set from operands all outside of it, every choice
//! without cycles has one, so the payer pays at least the least of their
//! costs. That much is taken off all of them and added to the bound, set after
//! set, until the needed classes can be computed from forms of which nothing
//! is left. (Wong's dual ascent for Steiner trees, 1984, with hyperedges in
//! place of edges; the landmark cuts of Helmert and Domshlak, 2009, in planning.)

use super::derive::Cheapest;
use super::parts::{Form, Part};
use std::collections::BinaryHeap;

/// What is left of the costs once the bound is taken off.
#[derive(Clone, Debug)]
pub(super) struct Duals {
    /// For each payer and form.
    pub rest: Vec<Vec<f64>>,
    /// The bound.
    pub bound: f64,
    /// Which operand a set takes in.
    pub pick: Pick,
}

/// Which operand of a form of which nothing is left a set takes in, of those that are not computed yet. None is best
/// for all parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pick {
    First,
    Last,
    /// The one with most left of its own cost, as it was before the ascent.
    Dearest,
}

impl Pick {
    pub const ALL: [Pick; 3] = [Pick::First, Pick::Last, Pick::Dearest];
}

impl Duals {
    /// Before any ascent.
    pub fn new(part: &Part, pick: Pick) -> Duals {
        Duals { rest: part.costs.clone(), bound: 0.0, pick }
    }

    /// Takes off what is paid for sure: the only allowed forms of classes that are used for sure.
    pub fn pay(&mut self, part: &Part, allowed: &[bool], used: &[Vec<bool>]) {
        for (rest, used) in self.rest.iter_mut().zip(used) {
            for class in (0..part.classes.len()).filter(|&class| used[class]) {
                if let Some(form) = part.single(class, allowed) {
                    self.bound += std::mem::take(&mut rest[form]);
                }
            }
        }
    }

    /// What a choice pays at least above the bound if it uses a form, for each form: what is left of its own cost and
    /// of a way to compute its dearest operand, for the payers that use the class for sure.
    pub fn above(&self, part: &Part, allowed: &[bool], used: &[Vec<bool>]) -> Vec<f64> {
        let mut above = vec![0.0; part.forms.len()];
        for (payer, rest) in self.rest.iter().enumerate() {
            let distances = distances(part, allowed, rest);
            for (form, Form { class, operands, .. }) in part.forms.iter().enumerate() {
                // A form that anyone uses is used by the one who needs everything.
                if used[payer][*class] || payer == part.everything {
                    let dearest =
                        operands.iter().fold(0.0, |most: f64, &operand| most.max(distances[operand]));
                    above[form] += rest[form] + dearest;
                }
            }
        }
        above
    }

    /// What is left of a form's cost, for all payers together.
    pub fn total(&self, form: usize) -> f64 {
        self.rest.iter().fold(0.0, |sum, rest| sum + rest[form])
    }
}

/// Less than this part of a cost is the error of its rounding, and counts as nothing.
const ROUNDING: f64 = 1e-13;

/// Raises the bound for choices of allowed forms alone. Returns how much work
/// it took, in forms that were looked at; `None` if there is no such choice.
pub(super) fn ascend(part: &Part, allowed: &[bool], duals: &mut Duals) -> Option<usize> {
    let mut work = 0;
    for payer in 0..part.roots.len() {
        let rest = &mut duals.rest[payer];
        let mut computed = Computed::new(part, allowed, rest);
        let order = match duals.pick {
            Pick::First => (0..part.classes.len()).rev().map(|class| class as f64).collect(),
            Pick::Last => (0..part.classes.len()).map(|class| class as f64).collect(),
            Pick::Dearest => distances(part, allowed, rest),
        };
        // The set that each class was last put into.
        let mut marks = vec![0usize; part.classes.len()];
        let mut mark = 0;
        for &root in &part.roots[payer] {
            while !computed.classes[root] {
                mark += 1;
                let cut = cut(part, allowed, rest, &computed.classes, &order, root, &mut marks, mark);
                work += cut.work;
                let least = cut.forms.iter().fold(f64::INFINITY, |least, &form| rest[form].min(least));
                if cut.forms.is_empty() {
                    return None;
                }
                duals.bound += least;
                for form in cut.forms {
                    rest[form] -= least;
                    if rest[form] <= part.total(form) * ROUNDING {
                        rest[form] = 0.0;
                        computed.free(part, allowed, rest, form);
                    }
                }
            }
        }
        work += computed.work;
    }
    Some(work)
}

/// The classes that forms of which nothing is left compute.
struct Computed {
    classes: Vec<bool>,
    /// Operands of each form that are not among them.
    missing: Vec<usize>,
    work: usize,
}

impl Computed {
    fn new(part: &Part, allowed: &[bool], rest: &[f64]) -> Computed {
        let mut computed = Computed {
            classes: vec![false; part.classes.len()],
            missing: part.forms.iter().map(|form| form.operands.len()).collect(),
            work: part.forms.len(),
        };
        for form in (0..part.forms.len()).filter(|&form| rest[form] == 0.0) {
            computed.free(part, allowed, rest, form);
        }
        computed
    }

    /// Nothing is left of a form.
    fn free(&mut self, part: &Part, allowed: &[bool], rest: &[f64], form: usize) {
        let class = part.forms[form].class;
        if allowed[form] && self.missing[form] == 0 && !std::mem::replace(&mut self.classes[class], true) {
            self.spread(part, allowed, rest, &mut vec![class]);
        }
    }

    fn spread(&mut self, part: &Part, allowed: &[bool], rest: &[f64], waiting: &mut Vec<usize>) {
        while let Some(class) = waiting.pop() {
            self.work += part.users[class].len();
            for &user in &part.users[class] {
                self.missing[user] -= 1;
                let above = part.forms[user].class;
                if self.missing[user] == 0 && rest[user] == 0.0 && allowed[user] && !self.classes[above] {
                    self.classes[above] = true;
                    waiting.push(above);
                }
            }
        }
    }
}

struct Cut {
    forms: Vec<usize>,
    work: usize,
}

/// A set with this class, as small as can be, such that something is left of
/// each form that computes a class of it from outside; and these forms.
fn cut(
    part: &Part,
    allowed: &[bool],
    rest: &[f64],
    computed: &[bool],
    order: &[f64],
    root: usize,
    marks: &mut [usize],
    mark: usize,
) -> Cut {
    let mut work = 0;
    marks[root] = mark;
    let mut set = vec![root];
    let mut crossing = Vec::new();
    let mut next = 0;
    while let Some(&class) = set.get(next) {
        next += 1;
        for form in part.forms_of[class].clone().filter(|&form| allowed[form]) {
            work += 1;
            let operands = &part.forms[form].operands;
            if operands.iter().any(|&operand| marks[operand] == mark) {
                continue;
            }
            if rest[form] > 0.0 {
                crossing.push(form);
            } else if let Some(&operand) = (operands.iter().filter(|&&operand| !computed[operand]))
                .max_by(|&&one, &&two| order[one].total_cmp(&order[two]))
            {
                // The class is not computed, so neither is some operand of a free form.
                marks[operand] = mark;
                set.push(operand);
            }
        }
    }
    crossing.retain(|&form| !part.forms[form].operands.iter().any(|&operand| marks[operand] == mark));
    Cut { forms: crossing, work }
}

/// What is left of each class's cost, at least: of its cheapest form and that form's dearest operand.
fn distances(part: &Part, allowed: &[bool], rest: &[f64]) -> Vec<f64> {
    let mut distances = vec![f64::INFINITY; part.classes.len()];
    let mut missing: Vec<usize> = part.forms.iter().map(|form| form.operands.len()).collect();
    let ready = (0..part.forms.len()).filter(|&form| allowed[form] && missing[form] == 0);
    let mut heap: BinaryHeap<Cheapest> =
        ready.map(|form| Cheapest { weight: (rest[form], 0.0), form }).collect();
    while let Some(Cheapest { weight, form }) = heap.pop() {
        let class = part.forms[form].class;
        if distances[class] < f64::INFINITY {
            continue;
        }
        distances[class] = weight.0;
        for &user in &part.users[class] {
            missing[user] -= 1;
            // The last operand is the dearest.
            if missing[user] == 0 && allowed[user] {
                heap.push(Cheapest { weight: (weight.0 + rest[user], 0.0), form: user });
            }
        }
    }
    distances
}
