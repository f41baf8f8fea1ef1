//! The choice of one form for each class: greedy over directed acyclic graphs,
//! then local search on the true joint cost of all entries. The form that was
//! there is kept where nothing cheaper is found. It knows neither ops nor rules.

use std::collections::{BTreeSet, HashSet};

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

/// How many changes the local search may try: enough for a few hundred classes.
const TRIALS: usize = 4_000;

/// The choice with the least joint cost that was found. What the graph had may be forbidden: then there is no such start.
pub(super) fn extract(problem: &Problem) -> Choice {
    let start = problem.original.clone();
    let start_cost = joint(problem, &start, 0.0);
    let penalty = start_cost.unwrap_or(0.0) * WORTH_IT;
    let mut best = (start_cost.unwrap_or(f64::INFINITY), start);
    let greedy = greedy(problem, penalty);
    if let Some(cost) = joint(problem, &greedy, penalty) {
        let improved = improve(problem, greedy, cost, penalty);
        if improved.0 < best.0 {
            best = improved;
        }
    }
    best.1
}

/// Cost of each binding, in seconds a run; `None` if the choice has a cycle or lacks a class.
pub(super) fn costs(problem: &Problem, choice: &Choice) -> Option<Vec<f64>> {
    (0..problem.factors.len())
        .map(|binding| {
            let used = reach(problem, choice, &problem.roots[binding])?;
            let candidates = used.iter().filter_map(|&class| chosen(problem, choice, class));
            // From positive zero: the sum of nothing is otherwise a negative one.
            Some(candidates.fold(0.0, |sum, candidate| sum + candidate.costs[binding]))
        })
        .collect()
}

fn chosen<'a>(problem: &'a Problem, choice: &Choice, class: usize) -> Option<&'a Candidate> {
    choice[class].and_then(|number| problem.classes[class].get(number))
}

fn joint(problem: &Problem, choice: &Choice, penalty: f64) -> Option<f64> {
    let costs = costs(problem, choice)?;
    let kept: Vec<usize> = problem.roots.iter().flatten().chain(&problem.kept).copied().collect();
    let all = reach(problem, choice, &kept)?;
    let new =
        all.iter().filter(|&&class| chosen(problem, choice, class).is_some_and(|c| !c.original)).count();
    let sum: f64 = costs.iter().zip(&problem.factors).map(|(cost, factor)| cost * factor).sum();
    Some(sum + penalty * new as f64)
}

/// The classes that these need under a choice, operands first.
pub(super) fn reach(problem: &Problem, choice: &Choice, roots: &[usize]) -> Option<Vec<usize>> {
    let mut order = Vec::new();
    // 0: not seen, 1: being visited, 2: done.
    let mut state = vec![0u8; problem.classes.len()];
    for &root in roots {
        let mut stack = vec![(root, 0usize)];
        while let Some((class, next)) = stack.pop() {
            if next == 0 {
                match state[class] {
                    0 => state[class] = 1,
                    1 => return None,
                    _ => continue,
                }
            }
            let candidate = chosen(problem, choice, class)?;
            match candidate.operands.get(next) {
                Some(&operand) => {
                    stack.push((class, next + 1));
                    if state[operand] == 1 {
                        return None;
                    }
                    if state[operand] == 0 {
                        stack.push((operand, 0));
                    }
                }
                None => {
                    state[class] = 2;
                    order.push(class);
                }
            }
        }
    }
    Some(order)
}

/// Bindings that may need each class, under some choice.
fn users(problem: &Problem) -> Vec<Vec<bool>> {
    let mut users = vec![vec![false; problem.factors.len()]; problem.classes.len()];
    for (binding, roots) in problem.roots.iter().enumerate() {
        let mut waiting = roots.clone();
        while let Some(class) = waiting.pop() {
            if !std::mem::replace(&mut users[class][binding], true) {
                waiting.extend(problem.classes[class].iter().flat_map(|candidate| &candidate.operands));
            }
        }
    }
    users
}

/// For each class the candidate whose whole set of classes, each counted once,
/// costs least. (What `extraction-gym` calls faster greedy DAG.)
fn greedy(problem: &Problem, penalty: f64) -> Choice {
    struct Best {
        candidate: usize,
        total: f64,
        set: Vec<(usize, f64)>,
    }
    let users = users(problem);
    let mut parents: Vec<Vec<usize>> = vec![Vec::new(); problem.classes.len()];
    for (class, candidates) in problem.classes.iter().enumerate() {
        for &operand in candidates.iter().flat_map(|candidate| &candidate.operands) {
            if parents[operand].last() != Some(&class) {
                parents[operand].push(class);
            }
        }
    }
    let mut best: Vec<Option<Best>> = (0..problem.classes.len()).map(|_| None).collect();
    let mut waiting: BTreeSet<usize> = (0..problem.classes.len()).collect();
    let mut stamps = vec![0usize; problem.classes.len()];
    let mut stamp = 0;
    // Each class is looked at a bounded number of times, cycles of equal cost or not.
    let mut visits = problem.classes.len() * 40;
    while let (Some(class), true) = (waiting.pop_first(), visits > 0) {
        visits -= 1;
        let mut improved = false;
        for (number, candidate) in problem.classes[class].iter().enumerate() {
            if candidate.operands.iter().any(|&operand| best[operand].is_none()) {
                continue;
            }
            stamp += 1;
            let own: f64 = (candidate.costs.iter().zip(&problem.factors).zip(&users[class]))
                .filter(|(_, used)| **used)
                .map(|((cost, factor), _)| cost * factor)
                .sum();
            let own = own + if candidate.original { 0.0 } else { penalty };
            let mut set = vec![(class, own)];
            let mut total = own;
            let mut cyclic = false;
            for part in candidate.operands.iter().filter_map(|&operand| best[operand].as_ref()) {
                for &(below, cost) in &part.set {
                    cyclic |= below == class;
                    if stamps[below] != stamp {
                        stamps[below] = stamp;
                        total += cost;
                        set.push((below, cost));
                    }
                }
            }
            let known = best[class].as_ref().map_or(f64::INFINITY, |best| best.total);
            if !cyclic && total < known * (1.0 - 1e-14) {
                best[class] = Some(Best { candidate: number, total, set });
                improved = true;
            }
        }
        if improved {
            waiting.extend(&parents[class]);
        }
    }
    best.into_iter().map(|best| best.map(|best| best.candidate)).collect()
}

/// Tries other candidates, one class at a time and first of all the original
/// one, while the joint cost falls.
fn improve(problem: &Problem, mut choice: Choice, mut cost: f64, penalty: f64) -> (f64, Choice) {
    let roots: Vec<usize> = problem.roots.iter().flatten().chain(&problem.kept).copied().collect();
    let mut trials = TRIALS;
    loop {
        let Some(used) = reach(problem, &choice, &roots) else { return (cost, choice) };
        let mut changed = false;
        for class in used.into_iter().rev() {
            let original = problem.original[class];
            let others = (0..problem.classes[class].len()).filter(|&number| Some(number) != original);
            let mut tried = HashSet::new();
            for number in original.into_iter().chain(others).take(24) {
                let before = choice[class];
                if Some(number) == before || trials == 0 || !tried.insert(number) {
                    continue;
                }
                trials -= 1;
                choice[class] = Some(number);
                match joint(problem, &choice, penalty) {
                    Some(new) if new < cost => {
                        cost = new;
                        changed = true;
                    }
                    _ => choice[class] = before,
                }
            }
        }
        if !changed || trials == 0 {
            return (cost, choice);
        }
    }
}
