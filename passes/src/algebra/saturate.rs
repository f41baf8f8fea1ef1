//! Applies all rules to all classes, round by round, until nothing new comes
//! or a limit is reached. It chooses nothing.

use super::cost::Limits;
use super::language::{EGraph, Shape};
use super::pairs::search_pairs;
use super::pattern::Term;
use super::report::StopReason;
use super::rewrite::{Bindings, Budget, apply, search};
use super::rules::Compiled;
use egg::Id;
use std::collections::BTreeMap;

/// What saturation did.
pub(super) struct Saturation {
    pub fired: BTreeMap<&'static str, usize>,
    pub rounds: usize,
    pub stop: StopReason,
}

/// Saturates the e-graph.
///
/// # Errors
/// When a rule made two values equal that have different types.
pub(super) fn saturate(
    egraph: &mut EGraph,
    rules: &[Compiled],
    limits: &Limits,
) -> Result<Saturation, String> {
    let mut done = Saturation { fired: BTreeMap::new(), rounds: 0, stop: StopReason::Rounds };
    let mut budget = Budget { steps: limits.steps };
    egraph.rebuild();
    while done.rounds < limits.rounds {
        done.rounds += 1;
        let mut matches: Vec<(usize, Vec<Id>, Bindings)> = Vec::new();
        for (number, rule) in rules.iter().enumerate() {
            let mut left = limits.matches;
            if let Some((second, _)) = &rule.beside {
                let classes = [candidates(egraph, &rule.left), candidates(egraph, second)];
                let found = search_pairs(egraph, rule, [&classes[0], &classes[1]], left, &mut budget);
                matches.extend(found.into_iter().map(|(roots, bindings)| (number, roots.to_vec(), bindings)));
                continue;
            }
            for class in candidates(egraph, &rule.left) {
                let found = search(egraph, rule, class, left, &mut budget);
                left -= found.len().min(left);
                matches.extend(found.into_iter().map(|bindings| (number, vec![class], bindings)));
            }
        }
        let mut changed = false;
        for (number, roots, bindings) in matches {
            if egraph.total_number_of_nodes() >= limits.nodes {
                done.stop = StopReason::Nodes;
                break;
            }
            let rule = &rules[number];
            let Some(added) = apply(egraph, rule, &roots, bindings) else { continue };
            let mut new = false;
            for (&root, added) in roots.iter().zip(added) {
                new |= egraph.union(root, added);
            }
            if new {
                *done.fired.entry(rule.rule.name).or_default() += 1;
                changed = true;
            }
        }
        egraph.rebuild();
        if let Some(conflict) = &egraph.analysis.conflict {
            return Err(conflict.clone());
        }
        if done.stop == StopReason::Nodes {
            break;
        }
        if budget.steps == 0 {
            done.stop = StopReason::Steps;
            break;
        }
        if !changed {
            done.stop = StopReason::Saturated;
            break;
        }
    }
    Ok(done)
}

/// The classes that have a node of the kind that a left side begins with; none
/// if the e-graph lacks another kind that it names.
fn candidates(egraph: &EGraph, left: &Term) -> Vec<Id> {
    let known = |shape: Shape| -> Vec<Id> {
        egraph.classes_for_op(&shape).map(Iterator::collect).unwrap_or_default()
    };
    let shapes = left.shapes();
    let is_any = |shape: Shape| matches!(shape, Shape::AnyMap | Shape::AnyMove);
    if shapes.iter().any(|&shape| !is_any(shape) && known(shape).is_empty()) {
        return Vec::new();
    }
    let mut classes = match shapes.first() {
        Some(&first) if is_any(first) => {
            let begins = |id: &Id| egraph[*id].nodes.iter().any(|node| first.takes(Shape::of(&node.op)));
            egraph.classes().map(|class| class.id).filter(begins).collect()
        }
        Some(&first) => known(first),
        None => Vec::new(),
    };
    classes.sort_unstable();
    classes
}
