//! The choice of one form for each class, by what all entries pay together. The
//! form that was there is kept where nothing cheaper is found. It knows neither
//! ops nor rules.
//!
//! `reduce` takes away what no best choice needs, `parts` divides the rest into
//! what has to be chosen together, `solve` finds the choice in a part: `derive`,
//! `greedy` and `local` make good ones, `dual` bounds from below what any costs,
//! and `branch` searches between the two.

mod branch;
mod derive;
mod dual;
mod greedy;
mod joint;
mod local;
mod parts;
mod reduce;
mod solve;
#[cfg(test)]
mod tests;
mod usage;

pub(super) use joint::{costs, reach};

use derive::PartChoice;
use joint::joint;
use local::restore;
use parts::{Part, Parts, divide};
use reduce::{Reduced, reduce};
use solve::{retry, solve};

/// A way to compute a class.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// Classes of its operands.
    pub operands: Vec<usize>,
    /// Cost of one run in each binding, beside that of its operands, in seconds.
    pub costs: Vec<f64>,
    /// Whether the graph had it before, or it is free.
    pub original: bool,
}

/// What is to be chosen. Classes are numbered from 0.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    /// The candidates of each class.
    pub classes: Vec<Vec<Candidate>>,
    /// What each binding needs.
    pub roots: Vec<Vec<usize>>,
    /// What must be there although no binding needs it.
    pub kept: Vec<usize>,
    /// Weight of each binding's cost.
    pub factors: Vec<f64>,
    /// The candidate of each class that stands for the graph as it was.
    pub original: Vec<Option<usize>>,
}

/// A candidate for each class that can be computed.
pub(super) type Choice = Vec<Option<usize>>;

/// What a new node has to bring, as a part of the joint cost: less is within
/// the error of any model of cost, and what was there is kept.
const WORTH_IT: f64 = 1e-4;

/// How much work the search between the best choice and the bound gets, in forms looked at, of all parts together: a
/// million take some 40 ms. Parts with few classes to choose in are searched to the end whatever it takes.
const SEARCHING: usize = 2_000_000;

/// Where that search does not end, a choice this close to the bound, as a part of its cost, is good enough.
const NEAR: f64 = 1e-3;

/// How much work goes into better choices where it is not.
const IMPROVING: usize = 1_000_000;

/// Sums of many costs differ by less than this part of them, in whatever order they are added.
const ROUNDING: f64 = 1e-9;

/// A choice, and how far it may be from the best one.
#[derive(Clone, Debug)]
pub(super) struct Extraction {
    /// A candidate for each class that it needs.
    pub choice: Choice,
    /// What all bindings pay together, in seconds, without what is asked of new nodes.
    pub cost: f64,
    /// No choice costs less than this.
    pub lower_bound: f64,
}

/// The choice with the least joint cost that was found: the least there is,
/// but for rounding, if no part of the problem has many classes to choose in.
/// Where no choice was found that has no cycle, the cost is infinite.
pub(super) fn extract(problem: &Problem) -> Extraction {
    let choice = best_found(problem);
    let cost = joint(problem, &choice, 0.0).unwrap_or(f64::INFINITY);
    let lower_bound = proven_bound(problem, &choice).min(cost);
    Extraction { choice, cost, lower_bound }
}

/// What no choice costs less than, looking at so many forms.
pub(super) fn proven_bound(problem: &Problem, choice: &Choice) -> f64 {
    search_bound(problem, choice, &mut within(SEARCHING))
}

/// The choice of [`extract`], without a bound. What the graph had may be forbidden: then it is no start, and
/// new nodes are asked nothing.
pub(super) fn best_found(problem: &Problem) -> Choice {
    let mut choice = problem.original.clone();
    let Some(reduced) = reduce(problem) else { return choice };
    let start_cost = joint(problem, &choice, 0.0);
    let penalty = start_cost.unwrap_or(0.0) * WORTH_IT;
    if let Some(found) = search(problem, &reduced, penalty)
        && let Some(cost) = joint(problem, &found, penalty)
        && start_cost.is_none_or(|start_cost| cost < start_cost)
    {
        choice = found;
    }
    choice
}

/// A limit for parts searched one after the other, which is told how many are
/// left and each piece of work: what is left of it is shared evenly by the parts that are left.
fn within(work: usize) -> impl FnMut(usize, usize) -> bool {
    let (mut all, mut share, mut of) = (work, 0, 0);
    move |left, work| {
        if of != left {
            (share, of) = (all / left, left);
        }
        share = share.saturating_sub(work);
        all = all.saturating_sub(work);
        share > 0
    }
}

/// What no choice costs less than, after a search that starts from a good choice. It goes on with a part while
/// `goes_on`, which is told how many parts are left, this one included, and how much it worked.
pub(super) fn search_bound(
    problem: &Problem,
    choice: &Choice,
    goes_on: &mut dyn FnMut(usize, usize) -> bool,
) -> f64 {
    reduce(problem).map_or(0.0, |reduced| bound(problem, &reduced, choice, goes_on))
}

/// The best choice found, with a cost for each new node.
fn search(problem: &Problem, reduced: &Reduced, penalty: f64) -> Option<Choice> {
    let divided = divide(problem, reduced, penalty);
    let mut choice: Choice = vec![None; problem.classes.len()];
    divided.fixed.iter().for_each(|&(class, number)| choice[class] = Some(number));
    let mut goes_on = within(SEARCHING);
    for (left, part) in smallest_first(&divided) {
        let original = forms_of(part, &problem.original);
        let mut found = solve(part, original.clone(), &mut |work| goes_on(left, work))?;
        if found.bound < found.cost * (1.0 - NEAR) {
            found = retry(part, found, IMPROVING / left);
        }
        let restored = restore(part, &found.choice, &original)?;
        for (local, form) in restored.into_iter().enumerate() {
            choice[part.classes[local]] = form.map(|form| part.forms[form].number);
        }
    }
    Some(choice)
}

/// The bound of [`search_bound`].
fn bound(
    problem: &Problem,
    reduced: &Reduced,
    choice: &Choice,
    goes_on: &mut dyn FnMut(usize, usize) -> bool,
) -> f64 {
    let divided = divide(problem, reduced, 0.0);
    let mut bound = divided.base;
    for (left, part) in smallest_first(&divided) {
        let start = forms_of(part, choice);
        let found = solve(part, start, &mut |work| goes_on(left, work));
        bound += found.map_or(0.0, |found| found.bound);
    }
    bound - bound.abs() * ROUNDING
}

/// The parts, with how many are left at each; what the small ones don't need is there for the large ones.
fn smallest_first(divided: &Parts) -> impl Iterator<Item = (usize, &Part)> {
    let mut parts: Vec<&Part> = divided.parts.iter().collect();
    parts.sort_by_key(|part| part.forms.len());
    let count = parts.len();
    parts.into_iter().enumerate().map(move |(number, part)| (count - number, part))
}

/// A choice in a part by candidates' numbers; `None` for those that were reduced away.
fn forms_of(part: &Part, choice: &Choice) -> PartChoice {
    let form = |(local, &class): (usize, &usize)| {
        part.forms_of[local].clone().find(|&form| Some(part.forms[form].number) == choice[class])
    };
    part.classes.iter().enumerate().map(form).collect()
}
