//! The choice in one part: a good one, branch and bound from there, and local
//! search from other beginnings only where that does not end.

use super::branch::{Found, branch_and_bound};
use super::derive::{PartChoice, derive};
use super::dual::{Duals, Pick, ascend};
use super::greedy::greedy;
use super::local::{Random, improve, shaken};
use super::parts::Part;
use super::usage::Usage;

/// A part with at most this many classes to choose in is searched to the end.
const EXACT: usize = 12;

/// How much work the first local search gets, in classes and forms looked at: the search that follows goes better
/// from a good choice.
const FIRST: usize = 500_000;

/// The best choice in a part that is found from one that may lack classes, and
/// a bound: the best there is if the part is small or the search ends while
/// `goes_on`. `None` if the part cannot be computed.
pub(super) fn solve(part: &Part, given: PartChoice, goes_on: &mut dyn FnMut(usize) -> bool) -> Option<Found> {
    let all = vec![true; part.forms.len()];
    let mut best: Option<Duals> = None;
    // Each ascent is one of many; the search goes on from the best.
    for pick in Pick::ALL {
        let mut duals = Duals::new(part, pick);
        ascend(part, &all, &mut duals)?;
        if best.as_ref().is_none_or(|best| duals.bound > best.bound) {
            best = Some(duals);
        }
    }
    let duals = best?;
    // What the bound leaves nothing of is the start of a good choice.
    let derived = derive(part, &all, &|form| (duals.total(form), part.total(form)));
    // A class that lacks a form takes the derived one, unless that makes a cycle.
    let given: PartChoice = given.iter().zip(&derived).map(|(given, derived)| given.or(*derived)).collect();
    let start = best_of(part, [given, derived])?;
    let mut work = FIRST;
    let start = improve(part, &start.1, &mut work)?;
    let is_small = part.choices() <= EXACT;
    Some(branch_and_bound(part, duals, start, &mut |work| goes_on(work) || is_small))
}

/// A better choice in a part whose search did not end, with so much work: local
/// search from the choices that are greedy by the costs of all and by those of
/// each payer alone, and then from the best one with some classes changed at random.
pub(super) fn retry(part: &Part, mut found: Found, mut work: usize) -> Found {
    let together = greedy(part, &|form| part.total(form));
    let alone = part.costs.iter().filter(|_| part.costs.len() > 1);
    let alone = alone.map(|costs| greedy(part, &|form| costs[form]));
    let mut starts: Vec<PartChoice> = alone.chain([together]).collect();
    let mut random = Random(part.forms.len() as u64);
    while work > 0 {
        let start = starts.pop().unwrap_or_else(|| shaken(part, &found.choice, &mut random));
        // Each has a part of what is left, so that the first does not take all.
        let share = (work / 4).max(1);
        let mut left = share;
        if let Some((cost, choice)) = improve(part, &start, &mut left)
            && cost < found.cost
        {
            (found.cost, found.choice) = (cost, choice);
        }
        work = work.saturating_sub(share - left + part.forms.len());
    }
    found
}

/// The cheapest of some choices, of equal ones the first; `None` if all have cycles.
fn best_of(part: &Part, choices: impl IntoIterator<Item = PartChoice>) -> Option<(f64, PartChoice)> {
    let mut best: Option<(f64, PartChoice)> = None;
    for choice in choices {
        if let Some(cost) = Usage::new(part, &choice).map(|usage| usage.cost())
            && best.as_ref().is_none_or(|best| cost < best.0)
        {
            best = Some((cost, choice));
        }
    }
    best
}
