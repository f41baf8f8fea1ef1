//! Entries of small models on a device against the reference evaluator, which computes in f64, and training beside the
//! processor, for what a single step does not run. Sizes are no multiples of tiles.

use super::changed;
use crate::bench::SEED;
use crate::check::{Differences, Pair, reference_context, relative_error, relative_errors};
use crate::config::identity;
use crate::failure::{Failure, Result};
use crate::output::tell;
use crate::start::initialize_trainer;
use diptych_models::{Architecture, Registry, build};
use diptych_runtime::sampling::random_bits;
use diptych_runtime::schedule::{ScheduleConfig, ScheduleKind};
use diptych_runtime::session::Device;
use diptych_runtime::train::{OptimizerOptions, TrainOptions, Trainer};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;

/// Presets and types.
pub const MODELS: [(&str, &str); 6] = [
    ("gpt2-tiny", "f32"),
    ("gpt2-tiny", "bf16"),
    ("llama-tiny", "f32"),
    ("llama-tiny", "bf16"),
    ("mla-tiny", "f32"),
    ("mla-tiny", "bf16"),
];
/// Texts, and tokens of each: more than a chunk of attention.
const TEXTS: usize = 2;
const TOKENS: usize = 67;
/// Of these, how many are decoded one by one after the others.
const DECODED: usize = 2;
/// Positions of a sequence.
const CONTEXT: usize = 128;

/// What the names of AdamW's moments begin with.
const MOMENTS: [&str; 2] = ["mean.", "variance."];
/// Steps of training beside the processor.
const STEPS: u64 = 2;
/// Their learning rate: large enough for the loss to fall.
const LEARNING_RATE: f64 = 1e-2;

/// How a comparison is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Norm of the difference over the norm of what is right.
    RelativeError,
    /// How many texts or tokens have other bits.
    Differing,
}

/// A comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// The preset.
    pub model: String,
    /// Its type.
    pub dtype: &'static str,
    /// What was compared.
    pub what: String,
    /// How.
    pub measure: Measure,
    /// What was found.
    pub found: f64,
    /// The most that holds.
    pub allowed: f64,
}

impl Check {
    /// Whether it holds. What is not a number does not.
    pub fn holds(&self) -> bool {
        self.found <= self.allowed
    }
}

/// Compares the entries of each model.
///
/// # Errors
/// When a model cannot be compiled, or the device fails.
pub fn run(registry: &Registry, device: &Device, small: bool) -> Result<Vec<Check>> {
    let cpu = Device::cpu(None)?;
    let mut checks = Vec::new();
    // Where it is to be quick, each model is there in one type, and each type in some model.
    let chosen =
        MODELS.into_iter().filter(|(preset, dtype)| !small || (*preset == "gpt2-tiny") == (*dtype == "f32"));
    for (preset, dtype) in chosen {
        tell(format!("checking {preset} in {dtype}"));
        let architecture = changed(
            registry,
            preset,
            json!({ "dtype": dtype, "context": CONTEXT, "standard_deviation": 0.2 }),
        )?;
        let program = build(&*architecture)?;
        let texts: Vec<Vec<i32>> =
            (0..TEXTS as u64).map(|text| ids(text, TOKENS, architecture.vocab())).collect();
        let texts: Vec<&[i32]> = texts.iter().map(Vec::as_slice).collect();
        let context = reference_context(&program, &texts, SEED)?;
        let Differences { score, serving, gradients } =
            relative_errors(device, &program, &context, TOKENS - DECODED)?;
        let allowed = if dtype == "bf16" { 2e-2 } else { 1e-4 };
        let against_reference =
            [("score", score), ("prefill and decode", serving), ("train, gradients", gradients)];
        let mut add = |what: String, found: f64, allowed: f64| {
            let (model, measure) = (preset.to_owned(), Measure::RelativeError);
            checks.push(Check { model, dtype, what, measure, found, allowed });
        };
        for (what, found) in against_reference {
            add(format!("{what}, against the evaluator in f64"), found, allowed);
        }
        // Where it is to be quick, one model is trained beside the processor.
        if small && preset != "llama-tiny" {
            continue;
        }
        for (what, clip_norm, accumulation) in
            [("train, accumulate, update", Some(1.0), 2), ("step", None, 1)]
        {
            let options = options(clip_norm, accumulation);
            let [expected, found] =
                [&cpu, device].map(|device| trained(device, &*architecture, options.clone()));
            let (expected, found) = (expected?, found?);
            add(
                format!("{what}: AdamW's moments, beside the CPU"),
                moments_apart(&found, &expected)?,
                allowed,
            );
            let falls = [&found, &expected].map(|run| run.losses[0] - run.losses[run.losses.len() - 1]);
            let apart = (falls[0] / falls[1] - 1.0).abs();
            add(format!("{what}: fall of the loss in {STEPS} steps, beside the CPU"), apart, 5e-2);
        }
    }
    Ok(checks)
}

fn ids(text: u64, length: usize, vocabulary: usize) -> Vec<i32> {
    (0..length as u64).map(|at| (random_bits(text, at) % vocabulary.max(1) as u64) as i32).collect()
}

fn options(clip_norm: Option<f64>, accumulation: usize) -> TrainOptions {
    TrainOptions {
        batch: TEXTS,
        time: TOKENS,
        accumulation,
        steps: Some(STEPS),
        tokens: None,
        optimizer: OptimizerOptions { clip_norm, ..OptimizerOptions::default() },
        schedule: ScheduleConfig {
            kind: ScheduleKind::Constant,
            peak: LEARNING_RATE,
            floor: 0.0,
            warmup_steps: 0,
            total_steps: STEPS,
            decay_steps: 0,
        },
        seed: SEED,
        evaluate_every: 0,
    }
}

/// What some steps gave.
struct Trained {
    losses: Vec<f64>,
    /// AdamW's moments after the first, by the name of the state: means of gradients, and of their squares.
    moments: BTreeMap<String, Vec<f32>>,
}

/// Steps on the same ids, so that the loss falls.
fn trained(device: &Device, architecture: &dyn Architecture, options: TrainOptions) -> Result<Trained> {
    let program = build(architecture)?;
    let mut trainer = Trainer::new(device, &program, identity(architecture), options)?;
    initialize_trainer(&mut trainer, &program, SEED)?;
    let (mut losses, mut moments) = (Vec::new(), BTreeMap::new());
    for step in 0..STEPS {
        let report = trainer.step(|_, inputs, targets| {
            inputs.copy_from_slice(&ids(0, inputs.len(), architecture.vocab()));
            targets.copy_from_slice(&ids(1, targets.len(), architecture.vocab()));
        })?;
        losses.push(report.loss);
        // AdamW divides by roots of squares, so that the least difference of a gradient may turn a parameter's way around:
        // only the first gradients are of the same parameters.
        if step == 0 {
            let store = &trainer.session().store;
            let is_moment = |name: &str| MOMENTS.iter().any(|moment| name.starts_with(moment));
            for name in store.names().filter(|name| is_moment(name.as_str())) {
                moments.insert(name.to_string(), store.get(name)?);
            }
        }
    }
    Ok(Trained { losses, moments })
}

/// The relative error of moments, of means and of squares by themselves.
fn moments_apart(found: &Trained, expected: &Trained) -> Result<f64> {
    let mut most: f64 = 0.0;
    for moment in MOMENTS {
        let expected = expected.moments.iter().filter(|(name, _)| name.starts_with(moment));
        let pairs: Vec<Pair> = expected
            .map(|(name, expected)| Pair {
                found: found.moments.get(name).cloned().unwrap_or_default(),
                wanted: expected.iter().copied().map(f64::from).collect(),
            })
            .collect();
        if pairs.is_empty() {
            return Err(Failure(format!("training keeps no `{moment}…`")));
        }
        most = most.max(relative_error(&pairs));
    }
    Ok(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_number_does_not_hold() {
        let of = |found: f64| Check {
            model: String::new(),
            dtype: "f32",
            what: String::new(),
            measure: Measure::RelativeError,
            found,
            allowed: 1e-4,
        };
        assert!(of(1e-4).holds() && !of(1.1e-4).holds() && !of(f64::NAN).holds());
        let of = |mean: &[f32]| Trained {
            losses: Vec::new(),
            moments: [("mean.w", mean), ("variance.w", &[1.0][..])]
                .map(|(name, numbers)| (name.to_owned(), numbers.to_vec()))
                .into(),
        };
        let apart = |found: &[f32]| moments_apart(&of(found), &of(&[3.0, 4.0])).ok();
        assert!(apart(&[3.0, 4.5]).is_some_and(|apart| (apart - 0.1).abs() < 1e-6));
        assert_eq!(apart(&[3.0, f32::NAN]), Some(f64::INFINITY));
        let none = || Trained { losses: Vec::new(), moments: BTreeMap::new() };
        assert_eq!(moments_apart(&none(), &of(&[1.0])).ok(), Some(f64::INFINITY));
        assert!(moments_apart(&none(), &none()).is_err());
    }
}
