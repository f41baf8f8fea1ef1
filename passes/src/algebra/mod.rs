//! Equality saturation on egg, one e-graph a region, and the choice of one form
//! for all entries by what they cost together. It rewrites graphs; it knows no
//! layout, no kernel and no device.

mod account;
mod building;
mod cost;
mod extract;
mod forms;
mod gap;
#[cfg(test)]
mod harness;
mod joined;
mod language;
mod liveness;
mod matching;
mod mesh;
#[cfg(test)]
mod mutations;
mod pairs;
mod pattern;
mod region;
mod report;
mod rules;
mod saturate;
#[cfg(test)]
mod simulated_ranks;
mod space;
#[cfg(test)]
mod tests;
mod twins;
mod variety;
#[cfg(test)]
mod weights_tests;
#[cfg(test)]
mod whole;

pub use account::{Account, RuleGain, Saving, account, rule_gains};
pub use cost::{Binding, Limits, Objective};
pub use forms::{Form, Forms, Numerics, Part, forms, optimize_forward};
pub use gap::{ExtractionGap, Stage, extraction_gaps};
pub use liveness::{Live, live, parameter_arguments};
pub use report::{AlgebraReport, Change, EntryCost, RegionReport, RegionSeconds, Seconds, StopReason};
pub use rules::{Class, RULES, Rule, When};
pub use variety::{Variation, additive_seconds, forms_for_each, varied_forms};

use diptych_ir::{EntryKind, IrError, NodeId, Program, Symbol};
use region::Wanted;
use space::Space;
use std::collections::HashSet;

/// Why the algebra could not rewrite a program.
#[derive(Debug, thiserror::Error)]
pub enum AlgebraError {
    /// A rule is not well formed.
    #[error("{0}")]
    Rule(String),
    /// The objective leaves out a size.
    #[error("the objective's binding of `{entry}` has no value for the size `{symbol}`")]
    Size {
        /// The entry.
        entry: &'static str,
        /// The size.
        symbol: Symbol,
    },
    /// A rule found two values equal that are not, or a graph refused a rewrite: a bug.
    #[error("algebra of region `{region}`: {problem}")]
    Unsound {
        /// The region.
        region: Symbol,
        /// What happened.
        problem: String,
    },
    /// The program was or became malformed.
    #[error(transparent)]
    Ir(#[from] IrError),
}

/// Rewrites what only the gradients of `train` use, after
/// differentiation. Every value that a root of any entry depends on stays as
/// it is, node for node: its bits are those of the other entries.
///
/// # Errors
/// When the objective lacks a size, or when the program is malformed.
pub fn optimize_backward(
    program: &Program,
    objective: &Objective,
) -> Result<(Program, AlgebraReport), AlgebraError> {
    let frozen = seen_by_all_entries(program);
    optimize_with(program, objective, &rules::keeping(objective.class), frozen, 1.0)
}

/// Rewrites every region but for the frozen nodes of each: one form for all entries, the one that costs least.
fn optimize_with(
    program: &Program,
    objective: &Objective,
    rules: &[Rule],
    frozen: Vec<HashSet<NodeId>>,
    training_passes: f64,
) -> Result<(Program, AlgebraReport), AlgebraError> {
    let space = Space::saturate(program, objective, rules, frozen, training_passes)?;
    let entries: Vec<EntryKind> = program.entries.iter().map(|entry| entry.kind).collect();
    let factors = vec![1.0; objective.bindings.len()];
    let chosen =
        space.choose(Wanted { factors: &factors, entries: &entries, histories: None, without: None });
    space.rebuild(&chosen, &entries, &Default::default())
}

/// What a root of any entry depends on, the gradients of training aside, by region.
fn seen_by_all_entries(program: &Program) -> Vec<HashSet<NodeId>> {
    let roots: Vec<NodeId> = (program.entries.iter())
        .flat_map(|entry| {
            let updates = entry.updates.iter().filter(move |_| entry.kind != EntryKind::Train);
            entry.roots.iter().chain(updates).map(|root| root.1)
        })
        .collect();
    live(program, &roots, &|_| 1.0).nodes
}
