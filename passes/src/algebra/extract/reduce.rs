//! Takes away candidates that no best choice needs, and tells which classes
//! every choice needs. What is left of a layer has few classes with a choice.
//!
//! A class is *necessary* for another if each way to compute that one, without
//! cycles, computes this one too: the dominators of flow graphs, where a node
//! needs one candidate of each class and all operands of a candidate.

use super::{Candidate, Problem, joint};

/// What is left to be chosen.
#[derive(Clone, Debug)]
pub(super) struct Reduced {
    /// The candidates of each class that remain, by number; none of a class that nothing needs.
    pub forms: Vec<Vec<usize>>,
    /// For each binding, and last for all that must be there: the classes that every choice needs.
    pub needed: Vec<Vec<bool>>,
    /// Likewise the classes that some choice needs.
    pub usable: Vec<Vec<bool>>,
}

/// Reduces a problem; `None` if a root cannot be computed.
pub(super) fn reduce(problem: &Problem) -> Option<Reduced> {
    let mut roots = problem.roots.clone();
    roots.push(joint::everything(problem));
    let finite = |candidate: &Candidate| candidate.costs.iter().all(|cost| cost.is_finite());
    let mut forms: Vec<Vec<usize>> = (problem.classes.iter())
        .map(|candidates| (0..candidates.len()).filter(|&number| finite(&candidates[number])).collect())
        .collect();
    keep_computable(problem, &mut forms);
    loop {
        let usable: Vec<Vec<bool>> = roots.iter().map(|roots| usable(problem, &forms, roots)).collect();
        for (class, forms) in
            forms.iter_mut().enumerate().filter(|(class, _)| !usable[roots.len() - 1][*class])
        {
            debug_assert!(usable.iter().all(|usable| !usable[class]));
            forms.clear();
        }
        if roots.iter().flatten().any(|&root| forms[root].is_empty()) {
            return None;
        }
        let necessary = necessary(problem, &forms);
        let mut changed = false;
        for (class, forms) in forms.iter_mut().enumerate() {
            let kept = undominated(problem, class, forms, &necessary, &usable);
            changed |= kept.len() < forms.len();
            *forms = kept;
        }
        if !changed {
            let needed = roots.iter().map(|roots| {
                let mut all = vec![0; necessary.words];
                roots.iter().for_each(|&root| unite(&mut all, necessary.row(root)));
                (0..forms.len()).map(|class| has(&all, class)).collect()
            });
            return Some(Reduced { needed: needed.collect(), usable, forms });
        }
    }
}

/// Takes away candidates with operands that nothing computes.
fn keep_computable(problem: &Problem, forms: &mut [Vec<usize>]) {
    let mut users: Vec<Vec<(usize, usize)>> = vec![Vec::new(); forms.len()];
    let mut missing: Vec<Vec<usize>> = problem.classes.iter().map(|c| vec![0; c.len()]).collect();
    let mut known = vec![false; forms.len()];
    let mut waiting = Vec::new();
    for (class, numbers) in forms.iter().enumerate() {
        for &number in numbers {
            let operands = &problem.classes[class][number].operands;
            operands.iter().for_each(|&operand| users[operand].push((class, number)));
            missing[class][number] = operands.len();
            if operands.is_empty() && !std::mem::replace(&mut known[class], true) {
                waiting.push(class);
            }
        }
    }
    while let Some(computed) = waiting.pop() {
        for &(class, number) in &users[computed] {
            missing[class][number] -= 1;
            if missing[class][number] == 0 && !std::mem::replace(&mut known[class], true) {
                waiting.push(class);
            }
        }
    }
    for (class, numbers) in forms.iter_mut().enumerate() {
        numbers.retain(|&number| missing[class][number] == 0);
    }
}

fn usable(problem: &Problem, forms: &[Vec<usize>], roots: &[usize]) -> Vec<bool> {
    let mut usable = vec![false; forms.len()];
    let mut waiting = roots.to_vec();
    while let Some(class) = waiting.pop() {
        if !std::mem::replace(&mut usable[class], true) {
            let candidates = forms[class].iter().map(|&number| &problem.classes[class][number]);
            waiting.extend(candidates.flat_map(|candidate| &candidate.operands));
        }
    }
    usable
}

/// A set of classes for each class, as bits.
struct Sets {
    words: usize,
    bits: Vec<u64>,
}

impl Sets {
    fn row(&self, class: usize) -> &[u64] {
        &self.bits[class * self.words..(class + 1) * self.words]
    }
}

fn has(set: &[u64], class: usize) -> bool {
    set[class / 64] >> (class % 64) & 1 == 1
}

fn unite(set: &mut [u64], other: &[u64]) {
    set.iter_mut().zip(other).for_each(|(word, other)| *word |= other);
}

/// What computing all operands of a candidate computes.
fn below(candidate: &Candidate, necessary: &Sets) -> Vec<u64> {
    let mut set = vec![0; necessary.words];
    candidate.operands.iter().for_each(|&operand| unite(&mut set, necessary.row(operand)));
    set
}

/// The greatest solution of: a class needs itself, and what each of its candidates needs.
fn necessary(problem: &Problem, forms: &[Vec<usize>]) -> Sets {
    let words = forms.len().div_ceil(64);
    let mut sets = Sets { words, bits: vec![u64::MAX; words * forms.len()] };
    let order = operands_first(problem, forms);
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); forms.len()];
    for &class in &order {
        let candidates = forms[class].iter().map(|&number| &problem.classes[class][number]);
        for &operand in candidates.flat_map(|candidate| &candidate.operands) {
            if users[operand].last() != Some(&class) {
                users[operand].push(class);
            }
        }
    }
    let (mut shared, mut set) = (vec![0; words], vec![0; words]);
    // Only what changed below is looked at again.
    let mut stale = vec![true; forms.len()];
    let mut any = true;
    while std::mem::take(&mut any) {
        for &class in &order {
            if !std::mem::take(&mut stale[class]) {
                continue;
            }
            shared.fill(u64::MAX);
            for &number in &forms[class] {
                set.fill(0);
                let operands = &problem.classes[class][number].operands;
                operands.iter().for_each(|&operand| unite(&mut set, sets.row(operand)));
                shared.iter_mut().zip(&set).for_each(|(word, below)| *word &= below);
            }
            shared[class / 64] |= 1 << (class % 64);
            if sets.row(class) != shared {
                sets.bits[class * words..(class + 1) * words].copy_from_slice(&shared);
                users[class].iter().for_each(|&user| stale[user] = true);
                any = true;
            }
        }
    }
    sets
}

/// The classes that have candidates, operands first but for cycles.
fn operands_first(problem: &Problem, forms: &[Vec<usize>]) -> Vec<usize> {
    let mut seen: Vec<bool> = forms.iter().map(Vec::is_empty).collect();
    let mut order = Vec::with_capacity(forms.len());
    for first in 0..forms.len() {
        let mut stack = vec![(first, false)];
        while let Some((class, done)) = stack.pop() {
            if done {
                order.push(class);
            } else if !std::mem::replace(&mut seen[class], true) {
                stack.push((class, true));
                for &number in &forms[class] {
                    stack.extend(problem.classes[class][number].operands.iter().map(|&below| (below, false)));
                }
            }
        }
    }
    order
}

/// The candidates of a class that can be part of a choice without cycles and
/// are not replaced, at no cost whatever else is chosen, by another one: one
/// that is as cheap in all bindings, and whose operands are there anyway.
fn undominated(
    problem: &Problem,
    class: usize,
    forms: &[usize],
    necessary: &Sets,
    usable: &[Vec<bool>],
) -> Vec<usize> {
    let all = &problem.classes[class];
    let possible = forms.iter().map(|&number| (number, below(&all[number], necessary)));
    let possible: Vec<(usize, Vec<u64>)> = possible.filter(|(_, below)| !has(below, class)).collect();
    let paying: Vec<usize> =
        (0..problem.factors.len()).filter(|&b| problem.factors[b] > 0.0 && usable[b][class]).collect();
    let replaces = |number: usize, other: &(usize, Vec<u64>)| {
        let (one, two) = (&all[number], &all[other.0]);
        paying.iter().all(|&binding| one.costs[binding] <= two.costs[binding])
            && (one.original || !two.original)
            && one.operands.iter().all(|&operand| has(&other.1, operand))
    };
    // Of two that replace each other: the form that the class had, then the first. That form goes only if another is
    // cheaper: where none is, it is to be kept in the end.
    let rank = |number: usize| (problem.original[class] != Some(number), number);
    let differs = |one: usize, two: usize| {
        paying.iter().any(|&binding| all[one].costs[binding] != all[two].costs[binding])
            || all[one].original != all[two].original
    };
    let is_kept = |one: &&(usize, Vec<u64>)| {
        !possible.iter().any(|other| {
            other.0 != one.0
                && replaces(other.0, one)
                && (rank(other.0) < rank(one.0) || !replaces(one.0, other))
                && (problem.original[class] != Some(one.0) || differs(one.0, other.0))
        })
    };
    possible.iter().filter(is_kept).map(|one| one.0).collect()
}
