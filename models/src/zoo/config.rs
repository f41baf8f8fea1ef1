//! What configurations share: defaults, checks of sizes that name the field, and reading
//! Hugging Face's `config.json` without passing over what it does not know.

use crate::{ModelError, Result, Rope, RopeScaling};
use serde_json::{Map, Value};

/// The most that a size may be: positions and ids have 32 bits.
const LARGEST: usize = i32::MAX as usize;
/// The most that an axis may have that is rotated: its frequencies are a table.
const LARGEST_ROTARY: usize = 1 << 16;

/// Rotary positions without scaling, by default.
pub fn plain_rope() -> Rope {
    Rope { theta: 10000.0, scaling: Default::default() }
}

/// What norms add to the mean square, by default.
pub fn norm_epsilon() -> f64 {
    1e-5
}

/// Of matrices at the start, by default: transformers' `initializer_range`.
pub fn standard_deviation() -> f64 {
    0.02
}

/// Refuses sizes of 0, and those that cannot be counted with.
pub fn positive(family: &str, fields: &[(&str, usize)]) -> Result<()> {
    match fields.iter().find(|field| field.1 == 0 || field.1 > LARGEST) {
        Some((name, 0)) => Err(ModelError::config(family, format!("`{name}` is 0; it must be at least 1"))),
        Some((name, size)) => {
            Err(ModelError::config(family, format!("`{name}` is {size}; it must be at most {LARGEST}")))
        }
        None => Ok(()),
    }
}

/// Refuses `whole` if `part` does not divide it.
pub fn divides(family: &str, part: (&str, usize), whole: (&str, usize)) -> Result<()> {
    if part.1 == 0 || !whole.1.is_multiple_of(part.1) {
        let problem = format!(
            "`{}` ({}) does not divide `{}` ({}); make the latter a multiple of it",
            part.0, part.1, whole.0, whole.1
        );
        return Err(ModelError::config(family, problem));
    }
    Ok(())
}

/// Refuses numbers that are not positive and finite.
pub fn positive_number(family: &str, name: &str, value: f64) -> Result<()> {
    match value.is_finite() && value > 0.0 {
        true => Ok(()),
        false => Err(ModelError::config(family, format!("`{name}` is {value}; it must be greater than 0"))),
    }
}

/// Refuses numbers that are negative or not finite.
pub fn not_negative(family: &str, name: &str, value: f64) -> Result<()> {
    match value.is_finite() && value >= 0.0 {
        true => Ok(()),
        false => Err(ModelError::config(family, format!("`{name}` is {value}; it must be at least 0"))),
    }
}

/// Refuses a rotary embedding whose numbers make no sense, or whose axis is odd.
pub fn rotary(family: &str, rope: &Rope, axis: (&str, usize)) -> Result<()> {
    if let Some(problem) = rope.problem() {
        return Err(ModelError::config(family, problem));
    }
    if axis.1 > LARGEST_ROTARY {
        let problem =
            format!("`{}` is {}; it must be at most {LARGEST_ROTARY} to be rotated", axis.0, axis.1);
        return Err(ModelError::config(family, problem));
    }
    if axis.1 % 2 == 1 {
        let problem = format!("`{}` is {}; it must be even, to be rotated in pairs", axis.0, axis.1);
        return Err(ModelError::config(family, problem));
    }
    Ok(())
}

/// Fields that change nothing of what a model computes without dropout.
const WITHOUT_EFFECT: &[&str] = &[
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "initializer_range",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "pretraining_tp",
    "return_dict",
    "sep_token_id",
    "task_specific_params",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "unk_token_id",
    "use_cache",
];

/// A `config.json` whose fields are taken out one by one; what is left at the
/// end is unknown.
pub struct Fields {
    family: String,
    fields: Map<String, Value>,
}

impl Fields {
    /// The fields of a `config.json`.
    pub fn new(family: &str, config: &Value) -> Result<Fields> {
        match config {
            Value::Object(fields) => {
                let mut fields = Fields { family: family.to_owned(), fields: fields.clone() };
                fields.ignore(WITHOUT_EFFECT);
                Ok(fields)
            }
            _ => Err(ModelError::config(family, "not an object of fields")),
        }
    }

    fn wrong(&self, problem: String) -> ModelError {
        ModelError::config(&self.family, problem)
    }

    /// Drops fields that have no effect.
    pub fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.fields.remove(*name);
        }
    }

    /// A field that may be missing or null.
    pub fn optional<T: serde::de::DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>> {
        match self.fields.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value.clone())
                .map(Some)
                .map_err(|error| self.wrong(format!("`{name}` is {value}: {error}"))),
        }
    }

    /// A field that must be there.
    pub fn required<T: serde::de::DeserializeOwned>(&mut self, name: &str) -> Result<T> {
        self.optional(name)?.ok_or_else(|| self.wrong(format!("missing field `{name}`")))
    }

    /// A field that may be missing, with the value that it then has.
    pub fn or<T: serde::de::DeserializeOwned>(&mut self, name: &str, default: T) -> Result<T> {
        Ok(self.optional(name)?.unwrap_or(default))
    }

    /// A field that has one of these values if it is there.
    pub fn one_of(&mut self, name: &str, supported: &[Value]) -> Result<()> {
        match self.fields.remove(name) {
            Some(value) if !value.is_null() && !supported.contains(&value) => {
                let list: Vec<String> = supported.iter().map(Value::to_string).collect();
                Err(self.wrong(format!("`{name}` is {value}; supported: {}", list.join(", "))))
            }
            _ => Ok(()),
        }
    }

    /// The rotary embedding, in the form of transformers 5 (`rope_parameters`)
    /// or the older one (`rope_theta` and `rope_scaling`).
    pub fn rope(&mut self) -> Result<Rope> {
        let older: Option<f64> = self.optional("rope_theta")?;
        let newer: Option<Map<String, Value>> = self.optional("rope_parameters")?;
        let scaling: Option<Map<String, Value>> = self.optional("rope_scaling")?;
        let inner = newer.or(scaling).unwrap_or_default();
        let mut inner = Fields { family: format!("{}: rope", self.family), fields: inner };
        let theta = match (inner.optional("rope_theta")?, older) {
            (Some(theta), _) | (None, Some(theta)) => theta,
            (None, None) => 10000.0,
        };
        let new_kind: Option<String> = inner.optional("rope_type")?;
        let old_kind: Option<String> = inner.optional("type")?;
        let kind = new_kind.or(old_kind).unwrap_or_else(|| "default".to_owned());
        let scaling = match kind.as_str() {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: inner.required("factor")? },
            "llama3" => RopeScaling::Llama3 {
                factor: inner.required("factor")?,
                low_frequency_factor: inner.required("low_freq_factor")?,
                high_frequency_factor: inner.required("high_freq_factor")?,
                original_context: inner.required("original_max_position_embeddings")?,
            },
            "yarn" => RopeScaling::Yarn {
                factor: inner.required("factor")?,
                original_context: inner.required("original_max_position_embeddings")?,
                beta_fast: inner.or("beta_fast", 32.0)?,
                beta_slow: inner.or("beta_slow", 1.0)?,
                mscale: inner.or("mscale", 0.0)?,
                mscale_all_dim: inner.or("mscale_all_dim", 0.0)?,
            },
            other => {
                let problem = format!("`rope_type` is `{other}`; supported: default, linear, llama3, yarn");
                return Err(self.wrong(problem));
            }
        };
        inner.finish()?;
        Ok(Rope { theta, scaling })
    }

    /// Refuses what is left.
    pub fn finish(self) -> Result<()> {
        match self.fields.keys().next() {
            Some(name) => {
                Err(self.wrong(format!("unknown field `{name}`; what it asks for would be left out")))
            }
            None => Ok(()),
        }
    }
}

/// The `rope_parameters` of transformers 5.
pub fn rope_parameters(rope: &Rope) -> Value {
    let theta = rope.theta;
    match rope.scaling {
        RopeScaling::None => serde_json::json!({ "rope_type": "default", "rope_theta": theta }),
        RopeScaling::Linear { factor } => {
            serde_json::json!({ "rope_type": "linear", "rope_theta": theta, "factor": factor })
        }
        RopeScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_context } => {
            serde_json::json!({
                "rope_type": "llama3",
                "rope_theta": theta,
                "factor": factor,
                "low_freq_factor": low_frequency_factor,
                "high_freq_factor": high_frequency_factor,
                "original_max_position_embeddings": original_context,
            })
        }
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, mscale, mscale_all_dim } => {
            serde_json::json!({
                "rope_type": "yarn",
                "rope_theta": theta,
                "factor": factor,
                "original_max_position_embeddings": original_context,
                "beta_fast": beta_fast,
                "beta_slow": beta_slow,
                "mscale": mscale,
                "mscale_all_dim": mscale_all_dim,
            })
        }
    }
}
