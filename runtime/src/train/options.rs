//! What a user chooses of a run, and what is checked of it before anything is
//! allocated. It must not know of programs.

use crate::schedule::ScheduleConfig;
use diptych_ir::DType;
use diptych_passes::AdamWOptions;
use serde::{Deserialize, Serialize};

/// Settings of a run. One step is `accumulation` micro-batches of `batch`
/// sequences of `time` tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainOptions {
    /// Sequences of a micro-batch.
    pub batch: usize,
    /// Tokens of a sequence.
    pub time: usize,
    /// Micro-batches of a step.
    #[serde(default = "one")]
    pub accumulation: usize,
    /// Steps of the whole run; this or `tokens`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Tokens of the whole run, rounded up to whole steps; this or `steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// AdamW's settings.
    #[serde(default)]
    pub optimizer: OptimizerOptions,
    /// The learning rate of each step.
    pub schedule: ScheduleConfig,
    /// Of the initial parameters and of the order of data.
    #[serde(default)]
    pub seed: u64,
    /// Steps between evaluations on held-out text; 0 for none.
    #[serde(default)]
    pub evaluate_every: u64,
}

fn one() -> usize {
    1
}

/// AdamW's settings (Loshchilov and Hutter 2019); defaults as in most language models.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerOptions {
    /// Decay of the mean of gradients, per step.
    pub beta1: f64,
    /// Decay of the mean of squared gradients, per step.
    pub beta2: f64,
    /// Added to the root of the mean of squares.
    pub epsilon: f64,
    /// Decoupled weight decay, times the learning rate, per step.
    pub weight_decay: f64,
    /// The largest global norm of all gradients; longer ones are scaled to it. None: never.
    pub clip_norm: Option<f64>,
    /// The type of moments between steps.
    pub moments: Moments,
}

/// The type of an optimiser's moments between steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Moments {
    /// As they are computed.
    #[default]
    F32,
    /// In half the memory, rounded at random: right in the mean.
    Bf16,
}

impl Default for OptimizerOptions {
    fn default() -> Self {
        OptimizerOptions {
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            clip_norm: Some(1.0),
            moments: Moments::F32,
        }
    }
}

impl From<OptimizerOptions> for AdamWOptions {
    fn from(options: OptimizerOptions) -> Self {
        let OptimizerOptions { beta1, beta2, epsilon, weight_decay, clip_norm, moments } = options;
        let moments = match moments {
            Moments::F32 => DType::F32,
            Moments::Bf16 => DType::BF16,
        };
        AdamWOptions { beta1, beta2, epsilon, weight_decay, clip_norm, moments }
    }
}

/// An option that cannot be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("training: `{option}` is {found}; it must be {expected}")]
pub struct OptionsError {
    /// The field of [`TrainOptions`] or [`OptimizerOptions`].
    pub option: &'static str,
    /// Its value.
    pub found: String,
    /// What it must be.
    pub expected: String,
}

impl TrainOptions {
    /// Tokens of a step, as planned: `batch` × `time` × `accumulation`.
    pub fn tokens_per_step(&self) -> usize {
        self.batch * self.time * self.accumulation
    }

    /// Steps of the whole run.
    pub fn total_steps(&self) -> u64 {
        let of_tokens = |tokens: u64| tokens.div_ceil(self.tokens_per_step().max(1) as u64);
        self.steps.or(self.tokens.map(of_tokens)).unwrap_or(0)
    }

    /// Checks the options for a model of this context, in tokens.
    ///
    /// # Errors
    /// Which option is wrong, and what it must be.
    pub fn check(&self, context: usize) -> Result<(), OptionsError> {
        let wrong = |option, found: String, expected: &str| {
            Err(OptionsError { option, found, expected: expected.to_owned() })
        };
        for (option, found) in [("batch", self.batch), ("accumulation", self.accumulation)] {
            if found == 0 {
                return wrong(option, found.to_string(), "at least 1");
            }
        }
        if self.time == 0 || self.time > context {
            return wrong("time", self.time.to_string(), &format!("1 to the model's context, {context}"));
        }
        // Positions and rows are 32-bit numbers in the kernels' tables.
        let rows = self.batch.checked_mul(self.time).filter(|&rows| i32::try_from(rows).is_ok());
        if rows.and_then(|rows| rows.checked_mul(self.accumulation)).is_none() {
            return wrong("batch", self.batch.to_string(), "so that a micro-batch has less than 2^31 tokens");
        }
        match (self.steps, self.tokens) {
            (Some(0), _) => return wrong("steps", "0".into(), "at least 1"),
            (_, Some(0)) => return wrong("tokens", "0".into(), "at least 1"),
            (Some(steps), Some(_)) => return wrong("steps", steps.to_string(), "left out beside `tokens`"),
            (None, None) => return wrong("steps", "not given".into(), "given, or `tokens`"),
            _ => {}
        }
        let optimizer = &self.optimizer;
        for (option, found) in [("beta1", optimizer.beta1), ("beta2", optimizer.beta2)] {
            if !(0.0..1.0).contains(&found) {
                return wrong(option, found.to_string(), "at least 0 and below 1");
            }
        }
        if !(optimizer.epsilon > 0.0 && optimizer.epsilon.is_finite()) {
            return wrong("epsilon", optimizer.epsilon.to_string(), "a positive number");
        }
        if !(optimizer.weight_decay >= 0.0 && optimizer.weight_decay.is_finite()) {
            return wrong("weight_decay", optimizer.weight_decay.to_string(), "a number of at least 0");
        }
        match optimizer.clip_norm {
            Some(norm) if !(norm > 0.0 && norm.is_finite()) => {
                wrong("clip_norm", norm.to_string(), "a positive number, or left out")
            }
            _ => Ok(()),
        }
    }
}
