//! Branch and bound in a part: exact when it ends, and else a choice with a
//! bound. It knows no clock: whoever calls it says when it has worked enough.

use super::derive::{PartChoice, derive};
use super::dual::{Duals, ascend};
use super::parts::Part;
use super::usage::Usage;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// What a search found.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// The best choice.
    pub choice: PartChoice,
    /// What it costs.
    pub cost: f64,
    /// No choice costs less.
    pub bound: f64,
}

/// Bounds closer to the best cost than this part of it are taken to be it.
const ROUNDING: f64 = 1e-11;

/// How much longer it takes to put a form in its order than to look at it.
const ORDERING: usize = 8;

/// Some classes have their forms, the others all that are allowed.
struct Node {
    bound: f64,
    /// Nodes of the same bound: those with more decided, then the newest first.
    depth: usize,
    number: usize,
    decided: Vec<usize>,
}

impl Ord for Node {
    fn cmp(&self, other: &Node) -> Ordering {
        (other.bound.total_cmp(&self.bound))
            .then(self.depth.cmp(&other.depth))
            .then(self.number.cmp(&other.number))
    }
}

impl PartialOrd for Node {
    fn partial_cmp(&self, other: &Node) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Node {
    fn eq(&self, other: &Node) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Node {}

/// Searches from what the duals of all forms leave and a choice with its cost, while `goes_on`, which is told of each
/// piece of work, in forms that were looked at.
pub(super) fn branch_and_bound(
    part: &Part,
    root: Duals,
    start: (f64, PartChoice),
    goes_on: &mut dyn FnMut(usize) -> bool,
) -> Found {
    let (mut cost, mut choice) = start;
    let mut allowed = vec![true; part.forms.len()];
    fix(part, &root, cost, &mut allowed);
    let mut going = goes_on(part.forms.len());
    let mut heap = BinaryHeap::from([Node { bound: root.bound, depth: 0, number: 0, decided: Vec::new() }]);
    let mut numbers = 0;
    let mut least_closed = f64::INFINITY;
    while let Some(node) = heap.pop() {
        let is_worse = |bound: f64, cost: f64| bound >= cost - cost.abs() * ROUNDING;
        if is_worse(node.bound, cost) {
            // So are all others, which have no lower bound.
            least_closed = least_closed.min(node.bound);
            break;
        }
        if !going {
            return Found { choice, cost, bound: node.bound.min(cost) };
        }
        let mut here = allowed.clone();
        for &form in &node.decided {
            part.forms_of[part.forms[form].class].clone().for_each(|other| here[other] = other == form);
        }
        let used = part.surely_used(&here);
        // Cuts found at the root may have two forms that are paid for here: both ways are tried.
        let mut duals = root.clone();
        let mut paid = Duals::new(part, root.pick);
        paid.pay(part, &here, &used);
        let (Some(one), Some(two)) = (ascend(part, &here, &mut duals), ascend(part, &here, &mut paid)) else {
            continue;
        };
        if paid.bound >= duals.bound {
            duals = paid;
        }
        // Besides, forms are put in order of their cost, for all payers together and for each.
        let work = one + two + part.forms.len() * (part.roots.len() + 1) * ORDERING;
        let bound = duals.bound.max(node.bound);
        going = goes_on(work);
        if is_worse(bound, cost) {
            least_closed = least_closed.min(bound);
            continue;
        }
        // What the bound leaves nothing of is the start of a good choice.
        let derived = derive(part, &here, &|form| (duals.total(form), part.total(form)));
        let usage = Usage::new(part, &derived);
        if let Some(usage) = usage.as_ref().filter(|usage| usage.cost() < cost) {
            cost = usage.cost();
            choice = usage.choice().clone();
            fix(part, &root, cost, &mut allowed);
        }
        if is_worse(bound, cost) {
            least_closed = least_closed.min(bound);
            continue;
        }
        let above = duals.above(part, &here, &used);
        let cheap = |form: &usize| here[*form] && !is_worse(bound + above[*form], cost);
        let Some(class) = open_class(part, &here, &used, &cheap, &above) else {
            // All is decided: the bound is what it costs, but for rounding.
            least_closed = least_closed.min(bound);
            continue;
        };
        for form in part.forms_of[class].clone().filter(|&form| here[form]) {
            let raised = bound + above[form];
            if is_worse(raised, cost) {
                least_closed = least_closed.min(raised);
                continue;
            }
            numbers += 1;
            let mut decided = node.decided.clone();
            decided.push(form);
            heap.push(Node { bound: raised, depth: decided.len(), number: numbers, decided });
        }
    }
    Found { choice, bound: least_closed.min(cost), cost }
}

/// Takes away forms that are in no choice cheaper than this, as the duals of all forms show.
fn fix(part: &Part, root: &Duals, cost: f64, allowed: &mut [bool]) {
    let above = root.above(part, allowed, &part.surely_used(allowed));
    allowed.iter_mut().zip(above).for_each(|(allowed, above)| *allowed &= root.bound + above < cost);
}

/// Of the classes that are used for sure and not decided, the one with the fewest forms that can be part of a better
/// choice; of these, the one whose forms raise the bound most.
fn open_class(
    part: &Part,
    allowed: &[bool],
    used: &[Vec<bool>],
    cheap: &dyn Fn(&usize) -> bool,
    above: &[f64],
) -> Option<usize> {
    let mut best: Option<(usize, f64, usize)> = None;
    for class in (0..part.classes.len()).filter(|&class| used[part.everything][class]) {
        let forms = part.forms_of[class].clone();
        if forms.clone().filter(|&form| allowed[form]).count() < 2 {
            continue;
        }
        let count = forms.clone().filter(cheap).count();
        let raise = forms.filter(cheap).fold(0.0, |sum, form| sum + above[form]);
        if best.is_none_or(|(fewest, most, _)| count < fewest || count == fewest && raise > most) {
            best = Some((count, raise, class));
        }
    }
    best.map(|(_, _, class)| class)
}
