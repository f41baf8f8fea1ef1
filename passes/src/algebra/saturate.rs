//! Applies all rules to all classes, round by round, until nothing new comes
//! or a limit is reached. A rule looks only where something has changed since it
//! last looked. It chooses nothing.

use super::building::apply;
use super::cost::Limits;
use super::language::{EGraph, Shape, give};
use super::matching::{Bindings, Budget, search};
use super::pairs::search_pairs;
use super::pattern::Term;
use super::report::StopReason;
use super::rules::Compiled;
use egg::Id;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

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
    let budget = Budget::new(limits.steps);
    let depths: Vec<usize> = rules.iter().map(|rule| depth(&rule.left)).collect();
    let mut seen = HashMap::new();
    // What was applied once brings nothing a second time.
    let mut applied: HashSet<u64> = HashSet::new();
    // Where a rule has found as much as one round may bring it looks again in the next.
    let mut behind: Vec<HashSet<Id>> = vec![HashSet::new(); rules.len()];
    egraph.rebuild();
    give(egraph);
    while done.rounds < limits.rounds {
        done.rounds += 1;
        let mut matches: Vec<(usize, Vec<Id>, Bindings)> = Vec::new();
        let changed = changes(egraph, &mut seen, depths.iter().copied().max().unwrap_or(1));
        for (number, rule) in rules.iter().enumerate() {
            let mut is_new =
                |roots: &[Id], bindings: &Bindings| applied.insert(hash_of(&(number, roots, bindings)));
            let first = candidates(egraph, &rule.left);
            if let Some((second, _)) = &rule.beside {
                let classes = [&first[..], &candidates(egraph, second)];
                let most = limits.matches * first.len();
                let mut wanted = |roots: &[Id; 2], bindings: &Bindings| is_new(roots, bindings);
                let found = search_pairs(egraph, rule, classes, most, &budget, &mut wanted);
                behind[number] =
                    if found.len() < most { HashSet::new() } else { first.into_iter().collect() };
                matches.extend(found.into_iter().map(|(roots, bindings)| (number, roots.to_vec(), bindings)));
                continue;
            }
            let again = std::mem::take(&mut behind[number]);
            for class in first {
                if !again.contains(&class) && !changed[depths[number] - 1].contains(&class) {
                    continue;
                }
                let mut wanted = |bindings: &Bindings| is_new(&[class], bindings);
                let found = search(egraph, rule, class, limits.matches, &budget, &mut wanted);
                if found.len() == limits.matches {
                    behind[number].insert(class);
                }
                matches.extend(found.into_iter().map(|bindings| (number, vec![class], bindings)));
            }
        }
        let mut changed = false;
        // Each node that is new is one more until the e-graph is rebuilt; to count them anew takes all classes.
        let (nodes, ever) = (egraph.total_number_of_nodes(), egraph.nodes().len());
        for (number, roots, bindings) in matches {
            if nodes + (egraph.nodes().len() - ever) >= limits.nodes {
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
        if done.stop == StopReason::Nodes || egraph.total_number_of_nodes() >= limits.enough {
            done.stop = StopReason::Nodes;
            break;
        }
        if budget.is_spent() {
            done.stop = StopReason::Steps;
            break;
        }
        if !changed && behind.iter().all(HashSet::is_empty) {
            done.stop = StopReason::Saturated;
            break;
        }
    }
    Ok(done)
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// How many classes, one below the other, a pattern looks at.
fn depth(term: &Term) -> usize {
    match term {
        Term::Node { operands, each, .. } => {
            1 + operands.iter().chain(each.as_deref()).map(depth).max().unwrap_or(1)
        }
        _ => 1,
    }
}

/// The classes that have changed since the last round; those and the ones right above them; and so on.
fn changes(egraph: &EGraph, seen: &mut HashMap<Id, u64>, levels: usize) -> Vec<HashSet<Id>> {
    let mut now = HashMap::new();
    for class in egraph.classes() {
        let facts = &class.data;
        let flags = (facts.param_only, facts.given, facts.scales_weights, facts.chosen);
        now.insert(class.id, hash_of(&(&class.nodes, facts.constant.map(f64::to_bits), flags)));
    }
    let first = now.iter().filter(|(id, hash)| seen.get(id) != Some(hash)).map(|(id, _)| *id).collect();
    *seen = now;
    let mut sets: Vec<HashSet<Id>> = vec![first];
    while sets.len() < levels {
        let below = &sets[sets.len() - 1];
        let above = egraph.classes().filter(|class| {
            below.contains(&class.id)
                || class
                    .nodes
                    .iter()
                    .any(|node| node.operands.iter().any(|&id| below.contains(&egraph.find(id))))
        });
        sets.push(above.map(|class| class.id).collect());
    }
    sets
}

/// The classes that have a node of the kind that a left side begins with; none
/// if the e-graph lacks another kind that it names.
fn candidates(egraph: &EGraph, left: &Term) -> Vec<Id> {
    let known = |shape: &Shape| egraph.classes_for_op(shape).into_iter().flatten();
    let shapes = left.shapes();
    let is_any = |shape: Shape| matches!(shape, Shape::AnyMap | Shape::AnyMove);
    if shapes.iter().any(|shape| !is_any(*shape) && known(shape).next().is_none()) {
        return Vec::new();
    }
    let mut classes: Vec<Id> = match shapes.first() {
        Some(&first) if is_any(first) => {
            let begins = |id: &Id| egraph[*id].nodes.iter().any(|node| first.takes(Shape::of(&node.op)));
            egraph.classes().map(|class| class.id).filter(begins).collect()
        }
        Some(first) => known(first).collect(),
        None => Vec::new(),
    };
    classes.sort_unstable();
    classes
}
