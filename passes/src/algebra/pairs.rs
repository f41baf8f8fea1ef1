//! Finds two values that a rule speaks of together: each is looked for by
//! itself, and those that agree in the variables that both have are paired.

use super::language::EGraph;
use super::matching::{Bindings, Bound, Budget, allows, find};
use super::pattern::Term;
use super::rules::Compiled;
use egg::Id;
use std::collections::HashMap;

/// Pairs of classes where the two left sides of a rule stand and its conditions
/// hold, up to `most` of those that are wanted.
pub(super) fn search_pairs(
    egraph: &EGraph,
    rule: &Compiled,
    classes: [&[Id]; 2],
    most: usize,
    budget: &Budget,
    wanted: &mut dyn FnMut(&[Id; 2], &Bindings) -> bool,
) -> Vec<([Id; 2], Bindings)> {
    let Some((second, _)) = &rule.beside else { return Vec::new() };
    let lefts = [&rule.left, second];
    let bound = lefts.map(|left| {
        let mut variables = Vec::new();
        left.bound(&mut variables);
        variables
    });
    let shared: Vec<usize> =
        bound[0].iter().copied().filter(|variable| bound[1].contains(variable)).collect();
    let [firsts, seconds] =
        [0, 1].map(|side| single(egraph, rule, lefts[side], &bound[side], classes[side], budget));
    let key = |bindings: &Bindings| -> Vec<Option<Bound>> {
        shared.iter().map(|&variable| bindings[variable].clone()).collect()
    };
    let mut agreeing: HashMap<Vec<Option<Bound>>, Vec<usize>> = HashMap::new();
    for (number, (_, bindings)) in seconds.iter().enumerate() {
        agreeing.entry(key(bindings)).or_default().push(number);
    }
    let mut found = Vec::new();
    for (first, bindings) in &firsts {
        for (second, others) in agreeing.get(&key(bindings)).into_iter().flatten().map(|&n| &seconds[n]) {
            if budget.step().is_none() {
                return found;
            }
            let both: Bindings = bindings
                .iter()
                .zip(others)
                .map(|(one, other)| one.clone().or_else(|| other.clone()))
                .collect();
            let holds = rule.conditions.iter().all(|&condition| allows(egraph, condition, *first, &both));
            let roots = [*first, *second];
            if found.len() < most && holds && wanted(&roots, &both) {
                found.push((roots, both));
            }
        }
    }
    found
}

/// Where one left side stands and what is said of it alone holds.
fn single(
    egraph: &EGraph,
    rule: &Compiled,
    left: &Term,
    bound: &[usize],
    classes: &[Id],
    budget: &Budget,
) -> Vec<(Id, Bindings)> {
    let about = |condition: &&super::rules::Condition| {
        condition.variables().iter().all(|variable| bound.contains(variable))
    };
    let conditions: Vec<_> = rule.conditions.iter().filter(about).collect();
    let mut found: Vec<(Id, Bindings)> = Vec::new();
    for &class in classes {
        let start = found.len();
        find(egraph, rule, left, class, budget, &mut |bindings| {
            let holds = conditions.iter().all(|&&condition| allows(egraph, condition, class, bindings));
            if holds && !found[start..].iter().any(|known| known.1 == *bindings) {
                found.push((class, bindings.clone()));
            }
        });
    }
    found
}
