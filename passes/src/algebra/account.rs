//! What the algebra's choices bring, each looked at by leaving it out: what
//! caches keep, weights that are derived from others, and rules. Costs are those of the additive model.

use super::gap::Stage;
use super::region::Wanted;
use super::rules::keeping;
use super::space::{Chosen, Space};
use super::{AlgebraError, Objective, seen_by_all_entries};
use diptych_ir::{EntryKind, Program};
use std::collections::{BTreeMap, BTreeSet};

/// What a decision saves.
#[derive(Clone, PartialEq, Debug)]
pub struct Saving {
    /// What is kept or derived, for people to read.
    pub what: String,
    /// How much longer a run of each binding takes where it is not, in seconds; negative where it takes longer with it.
    pub seconds: Vec<f64>,
}

/// What a rule brings.
#[derive(Clone, PartialEq, Debug)]
pub struct RuleGain {
    /// The rule.
    pub rule: &'static str,
    /// How often it brought something new, in all regions.
    pub fired: usize,
    /// How much dearer the best choice without it is, as a part of the joint cost.
    pub gain: f64,
}

/// The best form for all entries together, and what it is made of.
#[derive(Clone, PartialEq, Debug)]
pub struct Account {
    /// Seconds that all entries take over the model's life.
    pub cost: f64,
    /// The same of the graph as it was.
    pub before: f64,
    /// No choice costs less.
    pub lower_bound: f64,
    /// What each decision saves.
    pub savings: Vec<Saving>,
}

/// Accounts for the best form that all entries of a forward program share.
///
/// # Errors
/// When the objective lacks a size, or when the program is malformed.
pub fn account(program: &Program, objective: &Objective) -> Result<Account, AlgebraError> {
    let frozen = vec![Default::default(); program.regions.len()];
    let space = Space::saturate(program, objective, &keeping(objective.class), frozen, 3.0)?;
    let (factors, entries) = everything(program, objective);
    let wanted = Wanted { factors: &factors, entries: &entries, histories: None, without: None };
    let (written, chosen) = (space.as_written(wanted), space.choose(wanted));
    let costs = space.costs(&chosen);
    let saved = |what: String, other: &Chosen| {
        let seconds = space.costs(other).iter().zip(&costs).map(|(without, with)| without - with).collect();
        Saving { what, seconds }
    };
    let mut savings = Vec::new();
    let kept = |chosen: &Chosen| -> BTreeSet<_> {
        entries.iter().filter(|kind| kind.cached()).flat_map(|&kind| space.histories(chosen, kind)).collect()
    };
    let (now, then) = (kept(&chosen), kept(&written));
    if now != then
        && let Some(other) = space.choose_within(Wanted { histories: Some(&then), ..wanted })
    {
        let [now, then] = [&now, &then].map(|kept| {
            let kept: Vec<String> = kept.iter().map(|kept| space.describe(kept)).collect();
            kept.join(" and ")
        });
        savings.push(saved(format!("caches keep {now} instead of {then}"), &other));
    }
    for (place, what) in space.derived(&chosen) {
        let without = BTreeSet::from([place]);
        if let Some(other) = space.choose_within(Wanted { without: Some(&without), ..wanted }) {
            savings.push(saved(format!("weights {what}, derived"), &other));
        }
    }
    Ok(Account {
        cost: objective.total(&costs),
        before: objective.total(&space.costs(&written)),
        lower_bound: space.lower_bound(&chosen),
        savings,
    })
}

/// What each rule brings to a program that fires, the one that brings most first: the program is saturated
/// anew without it.
///
/// # Errors
/// As of [`account`].
pub fn rule_gains(
    program: &Program,
    objective: &Objective,
    stage: Stage,
) -> Result<Vec<RuleGain>, AlgebraError> {
    let (factors, entries) = everything(program, objective);
    let wanted = Wanted { factors: &factors, entries: &entries, histories: None, without: None };
    let cost_without =
        |left_out: Option<&str>| -> Result<(f64, BTreeMap<&'static str, usize>), AlgebraError> {
            let (frozen, passes) = match stage {
                Stage::Forward => (vec![Default::default(); program.regions.len()], 3.0),
                Stage::Backward => (seen_by_all_entries(program), 1.0),
            };
            let mut rules = keeping(objective.class);
            rules.retain(|rule| Some(rule.name) != left_out);
            let space = Space::saturate(program, objective, &rules, frozen, passes)?;
            Ok((objective.total(&space.costs(&space.choose(wanted))), space.fired()))
        };
    let (cost, fired) = cost_without(None)?;
    let mut gains = Vec::new();
    for (rule, fired) in fired {
        let (without, _) = cost_without(Some(rule))?;
        gains.push(RuleGain { rule, fired, gain: if cost > 0.0 { without / cost - 1.0 } else { 0.0 } });
    }
    gains.sort_by(|a, b| b.gain.total_cmp(&a.gain));
    Ok(gains)
}

/// Every binding as it is weighed, and every entry.
fn everything(program: &Program, objective: &Objective) -> (Vec<f64>, Vec<EntryKind>) {
    (vec![1.0; objective.bindings.len()], program.entries.iter().map(|entry| entry.kind).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::algebra::Binding;
    use crate::algebra::tests::{finish, normed};

    #[test]
    fn a_folded_weight_is_accounted_for_where_it_saves() {
        let (program, _, root) = normed(64, 256);
        let program = finish(program, root);
        let serving = Binding::new(EntryKind::Prefill, 1, 256, 256, 1e6);
        let training = Binding::new(EntryKind::Train, 1, 16, 16, 1e2);
        let objective =
            Objective { bindings: vec![training, serving], ..Objective::typical(1e11, 1e10, 1.0, 1.0) };
        let found = account(&program, &objective).unwrap();
        assert!(found.lower_bound <= found.cost && found.cost < found.before, "{found:?}");
        let [saving] = &found.savings[..] else { panic!("{found:?}") };
        assert!(saving.what.contains("norm") && saving.what.contains("matrix"), "{saving:?}");
        // It takes time at each step of training.
        assert!(saving.seconds[0] < 0.0 && saving.seconds[1] > 0.0, "{saving:?}");
        let gains = rule_gains(&program, &objective, Stage::Forward).unwrap();
        assert!(
            gains[0].gain > 0.0 && gains.iter().all(|gain| gain.fired > 0 && gain.gain >= 0.0),
            "{gains:?}"
        );
    }
}
