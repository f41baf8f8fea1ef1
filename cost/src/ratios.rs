//! Training and serving may want different forms of a model: which is chosen as the ratio of tokens served to tokens
//! trained goes up, and what it costs beside what training alone or serving alone would choose. Predicted after fusion.

use diptych_codegen::driver::{Candidate, Judge, SecondsOfRun, as_written, candidates};
use diptych_codegen::entry::{CompileError, EntryOptions};
use diptych_ir::Program;
use diptych_passes::algebra::{Numerics, Objective, forms_for_each};
use std::collections::HashMap;

/// So many ratios from 0.01 to 1000, evenly on a logarithmic scale.
pub fn ratios(count: usize) -> Vec<f64> {
    let step = 5.0 / count.saturating_sub(1).max(1) as f64;
    (0..count).map(|at| 10f64.powf(-2.0 + step * at as f64)).collect()
}

/// What is chosen at a ratio.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RatioPoint {
    /// Tokens served for each token trained.
    pub ratio: f64,
    /// The form: an index into those of the sweep.
    pub chosen: usize,
}

/// Choices over ratios.
#[derive(Clone, Debug)]
pub struct RatioSweep {
    /// The forms that are chosen at any ratio, or by training or serving alone.
    pub forms: Vec<Candidate>,
    /// What is chosen if there is nothing but training.
    pub training_only: usize,
    /// What is chosen if there is nothing but serving.
    pub serving_only: usize,
    /// The choices, in the order of the ratios that were asked for.
    pub points: Vec<RatioPoint>,
    objective: Objective,
}

impl RatioSweep {
    /// Seconds a token, of those trained and served at a ratio taken together, of something that takes so many seconds for a
    /// run of each binding.
    pub fn seconds_per_token(&self, ratio: f64, seconds: &[f64]) -> f64 {
        self.at(ratio).total(seconds)
    }

    /// The objective at a ratio.
    pub fn at(&self, ratio: f64) -> Objective {
        at_ratio(&self.objective, ratio)
    }

    /// Predicted seconds a token of a form at a ratio.
    pub fn cost(&self, form: usize, ratio: f64) -> f64 {
        self.seconds_per_token(ratio, self.forms[form].seconds())
    }

    /// Where the choice changes: the ratios before and after, and what is chosen at each.
    pub fn flips(&self) -> Vec<(RatioPoint, RatioPoint)> {
        let pairs = self.points.windows(2).map(|pair| (pair[0], pair[1]));
        pairs.filter(|(before, after)| before.chosen != after.chosen).collect()
    }
}

/// An objective with the tokens of training and of serving at this ratio, one token in all. Given a ratio of
/// infinity, nothing is trained. How serving is divided stays as it is.
fn at_ratio(objective: &Objective, ratio: f64) -> Objective {
    let mut objective = objective.clone();
    let sum = |training: bool| -> (f64, f64) {
        let bindings = objective.bindings.iter().filter(|binding| binding.entry.trains() == training);
        bindings.fold((0.0, 0.0), |(sum, count), binding| (sum + binding.tokens, count + 1.0))
    };
    let (trained, served) = (sum(true), sum(false));
    let share_served = if ratio.is_finite() { ratio / (1.0 + ratio) } else { 1.0 };
    for binding in &mut objective.bindings {
        let (share, (sum, count)) = match binding.entry.trains() {
            true => (1.0 - share_served, trained),
            false => (share_served, served),
        };
        // An objective may leave out what it is swept over.
        binding.tokens = share * if sum > 0.0 { binding.tokens / sum } else { 1.0 / count };
    }
    objective
}

/// Chooses a form at each ratio of tokens served to tokens trained, as a program is compiled for that ratio, by the
/// seconds of a run of each binding, with what training and serving alone would choose as candidates everywhere. The
/// objective says how entries are run and how serving is divided among them.
///
/// # Errors
/// When the program is malformed, or no form of it will do: why the best does not.
pub fn sweep_ratios(
    program: &Program,
    objective: &Objective,
    numerics: Numerics,
    ratios: &[f64],
    seconds: &SecondsOfRun<'_>,
    options: EntryOptions,
) -> Result<RatioSweep, CompileError> {
    let both = at_ratio(objective, 1.0);
    // The single-minded ones first: what is known of their forms is then known at every ratio.
    let asked = [0.0, f64::INFINITY].iter().chain(ratios);
    let objectives: Vec<Objective> = asked.map(|&ratio| at_ratio(objective, ratio)).collect();
    let written = as_written(program, &both)?;
    let mut judge = Judge::new(&both.bindings, seconds, options.panel);
    let mut forms: Vec<Candidate> = Vec::new();
    let mut known: HashMap<(Vec<String>, bool), usize> = HashMap::new();
    let mut chosen = Vec::new();
    for (found, objective) in forms_for_each(program, &objectives, numerics)?.into_iter().zip(&objectives) {
        // What only training computes is the best for training at any ratio: else a form that is chosen
        // for serving alone would not be rewritten there at all.
        let mut found = candidates(found, &written, &both);
        // Those of the single-minded are candidates at every ratio: the choice then never costs more than they do.
        found.extend(chosen.iter().take(2).map(|&form: &usize| forms[form].clone()));
        let (found, refused) = judge.compare(found, objective);
        let Some(candidate) = found.into_iter().next() else {
            return Err(CompileError::Unfit(
                refused.into_iter().next().map_or_else(String::new, |r| r.problem),
            ));
        };
        let number =
            known.entry((candidate.form.printed(), candidate.backward.is_some())).or_insert_with(|| {
                forms.push(candidate.clone());
                forms.len() - 1
            });
        chosen.push(*number);
    }
    let points = ratios.iter().zip(&chosen[2..]);
    let points = points.map(|(&ratio, &chosen)| RatioPoint { ratio, chosen }).collect();
    Ok(RatioSweep { forms, training_only: chosen[0], serving_only: chosen[1], points, objective: both })
}
