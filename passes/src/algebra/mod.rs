//! Equality saturation on egg, one e-graph a region, and the choice of one form
//! for all entries by what they cost together. It rewrites graphs; it knows no
//! layout, no kernel and no device.

mod cost;
mod extract;
mod gap;
#[cfg(test)]
mod harness;
mod language;
mod liveness;
mod pattern;
mod region;
mod report;
mod rewrite;
mod rules;
mod saturate;
#[cfg(test)]
mod tests;
mod twins;
#[cfg(test)]
mod whole;

pub use cost::{Binding, Limits, Objective};
pub use gap::{ExtractionGap, Stage, extraction_gaps};
pub use report::{AlgebraReport, Change, EntryCost, RegionReport, Seconds, StopReason};
pub use rules::{Class, RULES, Rule, When};

use diptych_ir::{EntryKind, IrError, NodeId, Program, Size, Symbol};
use liveness::{Live, live};
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

/// Rewrites the forward graph, before it is differentiated: all entries share
/// it, so a form is chosen for all of them at once and their bits stay equal.
/// What is computed once for all positions and once for the last alone, such
/// as the logits, keeps its form in both. Training is charged three passes over each op, two of them for gradients.
///
/// # Errors
/// When the objective lacks a size, or when the program is malformed.
pub fn optimize_forward(
    program: &Program,
    objective: &Objective,
) -> Result<(Program, AlgebraReport), AlgebraError> {
    optimize_with(program, objective, RULES, &vec![Default::default(); program.regions.len()], 3.0)
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
    optimize_with(program, objective, RULES, &seen_by_all_entries(program), 1.0)
}

/// What a root of any entry depends on, gradients and updates of `train` left out.
fn seen_by_all_entries(program: &Program) -> Vec<HashSet<NodeId>> {
    let roots: Vec<NodeId> = (program.entries.iter())
        .flat_map(|entry| {
            let updates = entry.updates.iter().filter(move |_| entry.kind != EntryKind::Train);
            entry.roots.iter().chain(updates).map(|root| root.1)
        })
        .collect();
    live(program, &roots, &|_| 1.0).nodes
}

/// Rewrites every region but for the frozen nodes of each.
pub(crate) fn optimize_with(
    program: &Program,
    objective: &Objective,
    rules: &[Rule],
    frozen: &[HashSet<NodeId>],
    training_passes: f64,
) -> Result<(Program, AlgebraReport), AlgebraError> {
    let mut optimized = program.clone();
    let mut report = AlgebraReport::default();
    for_each_region(program, objective, rules, frozen, training_passes, &mut |task| {
        report.regions.push(region::optimize(task, &mut optimized)?);
        Ok(())
    })?;
    diptych_ir::verify(&optimized)?;
    Ok((optimized, report))
}

/// Does something with the task of every region.
fn for_each_region(
    program: &Program,
    objective: &Objective,
    rules: &[Rule],
    frozen: &[HashSet<NodeId>],
    training_passes: f64,
    action: &mut dyn FnMut(&region::Task) -> Result<(), AlgebraError>,
) -> Result<(), AlgebraError> {
    check_sizes(program, objective)?;
    let rules = rules::compile(rules).map_err(AlgebraError::Rule)?;
    let param_arguments = liveness::parameter_arguments(program);
    let uses: Vec<Live> = objective
        .bindings
        .iter()
        .map(|binding| {
            let entry = program.entry(binding.entry);
            let roots: Vec<NodeId> = entry
                .map(|entry| entry.roots.iter().chain(&entry.updates).map(|root| root.1).collect())
                .unwrap_or_default();
            live(program, &roots, &|axis| binding.size(axis).unwrap_or(1.0))
        })
        .collect();
    for index in 0..program.regions.len() {
        let task = region::Task {
            program,
            index,
            rules: &rules,
            objective,
            uses: &uses,
            frozen: &frozen[index],
            param_arguments: &param_arguments[index],
            training_passes,
        };
        action(&task)?;
    }
    Ok(())
}

fn check_sizes(program: &Program, objective: &Objective) -> Result<(), AlgebraError> {
    for region in &program.regions {
        for axis in region.graph.ids().into_iter().flat_map(|id| region.graph.axes(id).iter().copied()) {
            for binding in objective.bindings.iter().filter(|binding| program.entry(binding.entry).is_some())
            {
                if let (None, Size::Symbolic(symbol)) = (binding.size(axis), axis.size) {
                    return Err(AlgebraError::Size { entry: binding.entry.name(), symbol });
                }
            }
        }
    }
    Ok(())
}
