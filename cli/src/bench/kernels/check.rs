//! Entries of small models on a device against the reference evaluator, which computes in f64, and training beside the
//! processor, for what a single step does not run. Sizes are no multiples of tiles.

use super::changed;
use crate::bench::SEED;
use crate::check::{Differences, reference_context, relative_errors};
use crate::config::identity;
use crate::failure::Result;
use crate::output::tell;
use crate::start::initialize_trainer;
use diptych_models::{Architecture, Registry, build};
use diptych_runtime::sampling::random_bits;
use diptych_runtime::schedule::{ScheduleConfig, ScheduleKind};
use diptych_runtime::session::Device;
use diptych_runtime::train::{OptimizerOptions, TrainOptions, Trainer};
use serde::Serialize;
use serde_json::json;

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
        let architecture = changed(registry, preset, json!({ "dtype": dtype, "context": CONTEXT }))?;
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
        let mut add = |what: String, found: f64| {
            let (model, measure) = (preset.to_owned(), Measure::RelativeError);
            checks.push(Check { model, dtype, what, measure, found, allowed });
        };
        for (what, found) in against_reference {
            add(format!("{what}, against the evaluator in f64"), found);
        }
        // Where it is to be quick, one model is trained beside the processor, one step.
        if small && preset != "llama-tiny" {
            continue;
        }
        let steps = if small { 1 } else { 2 };
        for (what, clip_norm, accumulation) in
            [("train, accumulate, update", Some(1.0), 2), ("step", None, 1)]
        {
            let options = options(steps, clip_norm, accumulation);
            let [expected, found] =
                [&cpu, device].map(|device| trained(device, &*architecture, options.clone()));
            let (expected, found) = (expected?, found?);
            add(format!("{what}, steps beside the CPU"), apart(&found, &expected));
        }
    }
    Ok(checks)
}

fn ids(text: u64, length: usize, vocabulary: usize) -> Vec<i32> {
    (0..length as u64).map(|at| (random_bits(text, at) % vocabulary.max(1) as u64) as i32).collect()
}

fn options(steps: u64, clip_norm: Option<f64>, accumulation: usize) -> TrainOptions {
    TrainOptions {
        batch: TEXTS,
        time: TOKENS,
        accumulation,
        steps: Some(steps),
        tokens: None,
        optimizer: OptimizerOptions { clip_norm, ..OptimizerOptions::default() },
        schedule: ScheduleConfig {
            kind: ScheduleKind::Constant,
            peak: 1e-3,
            floor: 0.0,
            warmup_steps: 0,
            total_steps: steps,
            decay_steps: 0,
        },
        seed: SEED,
        evaluate_every: 0,
    }
}

/// Losses and parameters after some steps.
fn trained(device: &Device, architecture: &dyn Architecture, options: TrainOptions) -> Result<Vec<Vec<f32>>> {
    let program = build(architecture)?;
    let steps = options.steps.unwrap_or(1);
    let mut trainer = Trainer::new(device, &program, identity(architecture), options)?;
    initialize_trainer(&mut trainer, &program, SEED)?;
    let mut losses = Vec::new();
    for _ in 0..steps {
        let report = trainer.step(|number, inputs, targets| {
            inputs.copy_from_slice(&ids(2 * number, inputs.len(), architecture.vocab()));
            targets.copy_from_slice(&ids(2 * number + 1, targets.len(), architecture.vocab()));
        })?;
        losses.push(report.loss as f32);
    }
    let mut found = vec![losses];
    for &name in program.params.keys() {
        found.push(trainer.session().store.get(name)?);
    }
    Ok(found)
}

/// The largest relative error of any of these; infinite where one is not a number.
fn apart(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f64 {
    let errors = found.iter().zip(expected).map(|(found, expected)| {
        let expected: Vec<f64> = expected.iter().copied().map(f64::from).collect();
        crate::check::relative_error(found, &expected)
    });
    errors.fold(0.0, f64::max)
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
        let expected = vec![vec![3.0, 4.0], vec![1.0]];
        assert!((apart(&[vec![3.0, 4.5], vec![1.0]], &expected) - 0.1).abs() < 1e-9);
        assert_eq!(apart(&[vec![3.0, f32::NAN], vec![1.0]], &expected), f64::INFINITY);
    }
}
