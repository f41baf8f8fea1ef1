//! Training and serving may want different forms of a model: which is chosen as the ratio of tokens served to tokens
//! trained goes up, and what it costs beside what training alone or serving alone would choose. Predicted after fusion.

use crate::{Machine, predict_binding};
use diptych_codegen::driver::{Rewritten, as_written, compile_rewritten};
use diptych_codegen::entry::{CompileError, EntryOptions};
use diptych_ir::{EntryKind, Program};
use diptych_passes::AdamWOptions;
use diptych_passes::algebra::{Numerics, Objective, forms_for_each};
use std::collections::HashMap;

/// So many ratios from 0.01 to 1000, evenly on a logarithmic scale.
pub fn ratios(count: usize) -> Vec<f64> {
    let step = 5.0 / count.saturating_sub(1).max(1) as f64;
    (0..count).map(|at| 10f64.powf(-2.0 + step * at as f64)).collect()
}

/// A form, and what it takes.
#[derive(Clone, Debug)]
pub struct SweptForm {
    /// Ready to be compiled.
    pub rewritten: Rewritten,
    /// What its caches keep, for people to read.
    pub keeps: Vec<String>,
    /// Predicted seconds of a run of each binding of the objective, after fusion.
    pub seconds: Vec<f64>,
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
    /// The forms that were candidates at any ratio.
    pub forms: Vec<SweptForm>,
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
        self.seconds_per_token(ratio, &self.forms[form].seconds)
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

/// Chooses a form at each ratio of tokens served to tokens trained, as a program is compiled for that ratio, for a
/// machine. The objective says how entries are run and how serving is divided among them.
///
/// # Errors
/// When the program is malformed, or no form of it can be compiled: why the best could not.
pub fn sweep_ratios(
    program: &Program,
    objective: &Objective,
    numerics: Numerics,
    ratios: &[f64],
    (machine, threads): (&Machine, usize),
    options: EntryOptions,
) -> Result<RatioSweep, CompileError> {
    let both = at_ratio(objective, 1.0);
    let single_minded = [0.0, f64::INFINITY];
    let objectives: Vec<Objective> =
        ratios.iter().chain(&single_minded).map(|&ratio| at_ratio(objective, ratio)).collect();
    let kinds: Vec<EntryKind> = objective.bindings.iter().map(|binding| binding.entry).collect();
    let mut forms: Vec<SweptForm> = Vec::new();
    // Those that are refused have no number.
    let mut known: HashMap<(Vec<String>, bool), Option<usize>> = HashMap::new();
    let (mut chosen, mut refused) = (Vec::new(), None);
    let written = as_written(program, &both)?;
    for (candidates, objective) in
        forms_for_each(program, &objectives, numerics)?.into_iter().zip(&objectives)
    {
        let mut best: Option<usize> = None;
        // What only training computes is the best for training at any ratio: else a form that is chosen
        // for serving alone would not be rewritten there at all.
        let candidates = candidates.into_iter().map(|form| (form, Some(both.clone())));
        for (form, backward) in candidates.chain([(written.clone(), None)]) {
            let printed = (form.printed(), backward.is_some());
            let at = match known.get(&printed) {
                Some(&at) => at,
                None => {
                    let keeps = form.keeps.clone();
                    let rewritten = Rewritten::of_form(form, backward);
                    let compiled = compile_rewritten(&rewritten, &kinds, &AdamWOptions::default(), options);
                    let at = match compiled {
                        Ok(compiled) => {
                            let predict = |binding| predict_binding(&compiled, binding, machine, threads);
                            let seconds = both.bindings.iter().map(predict).collect();
                            forms.push(SweptForm { rewritten, keeps, seconds });
                            Some(forms.len() - 1)
                        }
                        // Where the program is compiled for this ratio alone, such a form is dropped, too.
                        Err(error) => {
                            refused.get_or_insert(error);
                            None
                        }
                    };
                    known.insert(printed, at);
                    at
                }
            };
            let Some(at) = at else { continue };
            let cost = |at: usize| objective.total(&forms[at].seconds);
            if best.is_none_or(|best| cost(at) < cost(best)) {
                best = Some(at);
            }
        }
        match (best, refused.take()) {
            (Some(best), _) => chosen.push(best),
            (None, Some(error)) => return Err(error),
            (None, None) => {}
        }
    }
    let serving_only = chosen.pop().unwrap_or(0);
    let training_only = chosen.pop().unwrap_or(0);
    let points = ratios.iter().zip(chosen).map(|(&ratio, chosen)| RatioPoint { ratio, chosen }).collect();
    Ok(RatioSweep { forms, training_only, serving_only, points, objective: both })
}
