//! Rotary position embeddings (Su et al. 2021) and the ways of stretching them
//! to longer texts. It knows frequencies and halves, not heads.

use crate::{ModelBuilder, Tensor};
use diptych_ir::{Axis, DType};
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// A rotary embedding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rope {
    /// The base of the wavelengths.
    pub theta: f64,
    /// How the frequencies are scaled.
    #[serde(default)]
    pub scaling: RopeScaling,
}

/// How rotary frequencies are scaled to texts longer than those trained on;
/// the formulas are those of Hugging Face transformers (`modeling_rope_utils`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RopeScaling {
    /// Not at all.
    #[default]
    None,
    /// All divided by a factor (Chen et al. 2023).
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Long wavelengths divided by a factor, short ones kept (Llama 3.1).
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wavelengths above the original context over this are divided.
        low_frequency_factor: f64,
        /// Wavelengths below the original context over this are kept.
        high_frequency_factor: f64,
        /// The context trained on, in positions.
        original_context: usize,
    },
    /// A ramp between kept and divided frequencies, and a factor on cosine and
    /// sine (Peng et al. 2023).
    Yarn {
        /// The factor.
        factor: f64,
        /// The context trained on, in positions.
        original_context: usize,
        /// Turns over the original context above which a frequency is kept.
        #[serde(default = "thirty_two")]
        beta_fast: f64,
        /// Turns over the original context below which a frequency is divided.
        #[serde(default = "one")]
        beta_slow: f64,
        /// DeepSeek's factor of the magnitude; 0 if there is none.
        #[serde(default)]
        mscale: f64,
        /// DeepSeek's factor of the magnitude of all dimensions; 0 if there is none.
        #[serde(default)]
        mscale_all_dim: f64,
    },
}

fn thirty_two() -> f64 {
    32.0
}

fn one() -> f64 {
    1.0
}

impl Rope {
    /// Radians per position of each pair of a head's `size` elements, computed
    /// in f32 as transformers does.
    pub fn frequencies(&self, size: usize) -> Vec<f64> {
        let power = |pair: usize| {
            let exponent = (2 * pair) as f32 / size as f32;
            self.theta.powf(f64::from(exponent)) as f32
        };
        let plain = (0..size / 2).map(|pair| f64::from(1.0 / power(pair)));
        match self.scaling {
            RopeScaling::None => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|frequency| frequency / factor).collect(),
            RopeScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_context } => {
                let context = original_context as f64;
                let scaled = plain.map(|frequency| {
                    let wavelength = 2.0 * PI / frequency;
                    if wavelength < context / high_frequency_factor {
                        frequency
                    } else if wavelength > context / low_frequency_factor {
                        frequency / factor
                    } else {
                        let kept = (context / wavelength - low_frequency_factor)
                            / (high_frequency_factor - low_frequency_factor);
                        (1.0 - kept) * frequency / factor + kept * frequency
                    }
                });
                scaled.collect()
            }
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, .. } => {
                let pair_of = |turns: f64| {
                    let turn = original_context as f64 / (turns * 2.0 * PI);
                    size as f64 * turn.ln() / (2.0 * self.theta.ln())
                };
                let low = pair_of(beta_fast).floor().max(0.0);
                let high = pair_of(beta_slow).ceil().min(size as f64 - 1.0);
                let high = if low == high { high + 0.001 } else { high };
                let ramp = |pair: usize| ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                let blend = |(pair, frequency): (usize, f64)| {
                    frequency / factor * ramp(pair) + frequency * (1.0 - ramp(pair))
                };
                plain.enumerate().map(blend).collect()
            }
        }
    }

    /// The factor on cosine and sine.
    pub fn magnitude(&self) -> f64 {
        match self.scaling {
            RopeScaling::Yarn { factor, mscale, mscale_all_dim, .. } if mscale * mscale_all_dim != 0.0 => {
                yarn_magnitude(factor, mscale) / yarn_magnitude(factor, mscale_all_dim)
            }
            RopeScaling::Yarn { factor, .. } => yarn_magnitude(factor, 1.0),
            _ => 1.0,
        }
    }

    /// DeepSeek's factor on the scale of the scores, by which YaRN's magnitude
    /// reaches the elements that are not rotated.
    pub fn score_factor(&self) -> f64 {
        match self.scaling {
            RopeScaling::Yarn { factor, mscale_all_dim, .. } if mscale_all_dim != 0.0 => {
                yarn_magnitude(factor, mscale_all_dim).powi(2)
            }
            _ => 1.0,
        }
    }

    /// What is wrong with the numbers, if anything, naming the field.
    pub fn problem(&self) -> Option<String> {
        let wrong = |field: &str, value: f64, wanted: &str| Some(format!("`{field}` is {value}; {wanted}"));
        if !(self.theta.is_finite() && self.theta > 1.0) {
            return wrong("rope.theta", self.theta, "it must be greater than 1");
        }
        let (factor, context) = match self.scaling {
            RopeScaling::None => (1.0, 1),
            RopeScaling::Linear { factor } => (factor, 1),
            RopeScaling::Llama3 { factor, original_context, low_frequency_factor, high_frequency_factor } => {
                if !(0.0 < low_frequency_factor && low_frequency_factor < high_frequency_factor) {
                    let wanted =
                        format!("it must lie between 0 and `high_frequency_factor`, {high_frequency_factor}");
                    return wrong("rope.scaling.low_frequency_factor", low_frequency_factor, &wanted);
                }
                (factor, original_context)
            }
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, .. } => {
                if !(0.0 < beta_slow && beta_slow < beta_fast) {
                    let wanted = format!("it must lie between 0 and `beta_fast`, {beta_fast}");
                    return wrong("rope.scaling.beta_slow", beta_slow, &wanted);
                }
                (factor, original_context)
            }
        };
        if !(factor.is_finite() && factor >= 1.0) {
            return wrong("rope.scaling.factor", factor, "it must be at least 1");
        }
        match context {
            0 => wrong("rope.scaling.original_context", 0.0, "it must be at least 1"),
            _ => None,
        }
    }
}

fn yarn_magnitude(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// Cosine and sine of every position's angles: f32[batch, time, half], where
/// `half` is half of the rotated axis.
#[derive(Clone, Copy)]
pub struct RotaryTable<'m> {
    axis: Axis,
    half: Axis,
    cos: Tensor<'m>,
    sin: Tensor<'m>,
}

impl ModelBuilder {
    /// The table for rotating `axis`. Made outside of a repeat, it is computed
    /// once for all layers.
    #[track_caller]
    pub fn rotary_table(&self, axis: Axis, rope: &Rope) -> RotaryTable<'_> {
        let size = axis.fixed_size().unwrap_or(0);
        let none = Tensor::poisoned(self);
        if size == 0 || size % 2 == 1 {
            self.fail(
                "rotary_table",
                format!("rotates pairs, so its axis must have an even size, not {axis}"),
            );
            return RotaryTable { axis, half: axis, cos: none, sin: none };
        }
        let half = self.axis(&format!("{}.half", axis.name), size / 2);
        let frequencies = self.table(half, &rope.frequencies(size));
        let angle = self.index(self.time()).cast(DType::F32) * frequencies;
        let (cos, sin) = match rope.magnitude() {
            1.0 => (angle.cos(), angle.sin()),
            magnitude => (angle.cos() * magnitude, angle.sin() * magnitude),
        };
        RotaryTable { axis, half, cos, sin }
    }
}

impl<'m> Tensor<'m> {
    /// Rotates `axis` by each position's angles: element i turns with element
    /// i + size/2, as in transformers' `rotate_half`. Computed in f32 and
    /// rounded to the type of x.
    #[track_caller]
    pub fn rotary(self, axis: Axis, table: &RotaryTable<'m>) -> Tensor<'m> {
        let builder = self.builder();
        let Some(ty) = self.ty() else { return Tensor::poisoned(builder) };
        if axis != table.axis {
            return builder.fail("rotary", format!("the table is for {}, not for {axis}", table.axis));
        }
        let RotaryTable { half, cos, sin, .. } = *table;
        let first = self.slice(axis, 0, half);
        let second = self.slice(axis, half.fixed_size().unwrap_or(0), half);
        let parts = [(first * cos - second * sin, half), (second * cos + first * sin, half)];
        builder.concat(&parts, axis).cast(ty.dtype)
    }
}
