//! How far extraction is from the best choice there is: for each region its
//! cost, the bound that it gives at once, and the bound after a search offline.
//! It rewrites nothing.

use super::extract::{Problem, extract, search_bound};
use super::region::Wanted;
use super::rules::keeping;
use super::space::Space;
use super::{AlgebraError, Objective, seen_by_all_entries};
use diptych_ir::{EntryKind, Program, Symbol};
use std::time::{Duration, Instant};

/// Which rewrite of a program is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// [`optimize_forward`](super::optimize_forward).
    Forward,
    /// [`optimize_backward`](super::optimize_backward), of a program with gradients.
    Backward,
}

/// The extraction of a region and what is known of the best one. Costs are seconds of all bindings together, in the
/// additive model.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ExtractionGap {
    /// The region.
    pub region: Symbol,
    /// Classes of the e-graph.
    pub classes: usize,
    /// Classes with more than one candidate.
    pub choices: usize,
    /// Seconds that extraction took.
    pub seconds: f64,
    /// What the extraction costs.
    pub cost: f64,
    /// No choice costs less, as extraction says.
    pub bound: f64,
    /// No choice costs less, after branch and bound for the time given.
    pub searched_bound: f64,
}

/// Extracts each region of a program as the stage would, and then searches for a better bound, for
/// at most so many seconds a region.
///
/// # Errors
/// As those of the stage.
pub fn extraction_gaps(
    program: &Program,
    objective: &Objective,
    stage: Stage,
    seconds: f64,
) -> Result<Vec<ExtractionGap>, AlgebraError> {
    let (frozen, passes) = match stage {
        Stage::Forward => (vec![Default::default(); program.regions.len()], 3.0),
        Stage::Backward => (seen_by_all_entries(program), 1.0),
    };
    let space = Space::saturate(program, objective, &keeping(objective.class), frozen, passes)?;
    let entries: Vec<EntryKind> = program.entries.iter().map(|entry| entry.kind).collect();
    let factors = vec![1.0; objective.bindings.len()];
    let problems =
        space.problems(Wanted { factors: &factors, entries: &entries, histories: None, without: None });
    let gap = |(region, problem, scale): (Symbol, Problem, f64)| {
        let start = Instant::now();
        let extraction = extract(&problem);
        let taken = start.elapsed().as_secs_f64();
        let searched = search_bound(&problem, &extraction.choice, &mut until(seconds));
        ExtractionGap {
            region,
            classes: problem.classes.len(),
            choices: problem.classes.iter().filter(|candidates| candidates.len() > 1).count(),
            seconds: taken,
            cost: scale * extraction.cost,
            bound: scale * extraction.lower_bound,
            searched_bound: scale * searched.max(extraction.lower_bound).min(extraction.cost),
        }
    };
    Ok(problems.map(gap).collect())
}

/// A limit by the clock: what is left of the time is shared evenly by the parts that are left.
fn until(seconds: f64) -> impl FnMut(usize, usize) -> bool {
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let (mut share, mut of) = (end, 0);
    move |left, _| {
        let now = Instant::now();
        if of != left {
            share = now + end.saturating_duration_since(now) / left.max(1) as u32;
            of = left;
        }
        now < share
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::algebra::optimize_forward;
    use crate::differentiate;
    use diptych_models::{Registry, build};

    #[test]
    fn layers_of_the_zoo_are_within_two_percent_of_the_bound() {
        let registry = Registry::zoo();
        let objective = Objective::typical(1.5e11, 1e10, 1e9, 1e9);
        let mut layers = 0;
        for preset in registry.families().filter_map(|family| family.presets.first()) {
            let program = build(registry.preset(&preset.0).expect("a preset").as_ref()).expect("a program");
            let mut gaps = extraction_gaps(&program, &objective, Stage::Forward, 0.0).expect("forward");
            let (forward, _) = optimize_forward(&program, &objective).expect("algebra");
            let backward = differentiate(&forward).expect("gradients");
            gaps.extend(extraction_gaps(&backward, &objective, Stage::Backward, 0.0).expect("backward"));
            for gap in gaps.iter().filter(|gap| gap.choices > 0) {
                assert!(gap.bound <= gap.searched_bound && gap.searched_bound <= gap.cost, "{gap:?}");
                assert!(gap.cost <= gap.bound * 1.02, "{}: {gap:?}", preset.0);
                layers += 1;
            }
        }
        assert!(layers > 10, "only {layers} regions have a choice");
    }
}
