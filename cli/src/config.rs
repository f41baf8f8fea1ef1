//! A run's configuration: a TOML file, a preset, or both, with what the command
//! line sets on top. Every field that is unknown or does not fit is refused.

use crate::arguments::ModelArguments;
use crate::failure::{Failure, Result, file_failure};
use crate::objective::ObjectiveConfig;
use diptych_models::{Architecture, Registry};
use diptych_runtime::schedule::{ScheduleConfig, ScheduleKind};
use diptych_runtime::train::{ModelIdentity, Moments, OptimizerOptions, TrainOptions};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};
use toml::{Table, Value as Toml};

/// How to train. Lengths are in optimizer steps unless they say otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimizer steps of the whole run.
    pub steps: u64,
    /// Sequences of a micro-batch.
    pub batch: usize,
    /// Tokens of a sequence; at most the model's context. 0 is 256, or the context if that is less.
    pub time: usize,
    /// Micro-batches of a step.
    pub accumulation: usize,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// The last learning rate.
    pub final_learning_rate: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// The shape after warm-up.
    pub schedule: ScheduleKind,
    /// Of a warmup-stable-decay schedule: how many of the last steps decay.
    pub decay_steps: u64,
    /// AdamW: decay of the mean of gradients.
    pub beta1: f64,
    /// AdamW: decay of the mean of squared gradients.
    pub beta2: f64,
    /// AdamW: what is added to the root of the mean of squares.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// The largest global norm of the gradients; 0 does not clip.
    pub clip_norm: f64,
    /// The type of AdamW's moments between steps: `f32`, or `bf16`, rounded at random, in half the memory.
    pub moments: Moments,
    /// Of the weights and of the order of the text.
    pub seed: u64,
    /// A checkpoint after so many steps, and at the end; 0 is only at the end.
    pub checkpoint_every: u64,
    /// The held-out loss after so many steps, and at the end; 0 is only at the end.
    pub evaluate_every: u64,
    /// Held-out tokens of these losses, about.
    pub evaluate_tokens: usize,
    /// The most memory that the process may take, such as `600MiB`; empty: as much as it needs.
    pub memory: String,
}

impl Default for TrainConfig {
    fn default() -> TrainConfig {
        TrainConfig {
            steps: 500,
            batch: 8,
            time: 0,
            accumulation: 1,
            learning_rate: 1e-3,
            final_learning_rate: 1e-4,
            warmup_steps: 50,
            schedule: ScheduleKind::Cosine,
            decay_steps: 0,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            clip_norm: 1.0,
            moments: Moments::F32,
            seed: 1,
            checkpoint_every: 100,
            evaluate_every: 100,
            evaluate_tokens: 16384,
            memory: String::new(),
        }
    }
}

impl TrainConfig {
    /// Tokens of a sequence, for a model of this context.
    pub fn time(&self, context: usize) -> usize {
        if self.time == 0 { context.min(256) } else { self.time }
    }

    /// What the trainer takes, checked for a model of this context.
    ///
    /// # Errors
    /// Which field does not fit, and what would.
    pub fn options(&self, context: usize) -> Result<TrainOptions> {
        let clip_norm = (self.clip_norm > 0.0).then_some(self.clip_norm);
        let options = TrainOptions {
            batch: self.batch,
            time: self.time(context),
            accumulation: self.accumulation,
            steps: Some(self.steps),
            tokens: None,
            optimizer: OptimizerOptions {
                beta1: self.beta1,
                beta2: self.beta2,
                epsilon: self.epsilon,
                weight_decay: self.weight_decay,
                clip_norm,
                moments: self.moments,
            },
            schedule: ScheduleConfig {
                kind: self.schedule,
                peak: self.learning_rate,
                floor: if self.schedule == ScheduleKind::Constant { 0.0 } else { self.final_learning_rate },
                warmup_steps: self.warmup_steps.min(self.steps),
                total_steps: self.steps,
                decay_steps: self.decay_steps,
            },
            seed: self.seed,
            evaluate_every: self.evaluate_every,
        };
        if self.evaluate_tokens == 0 {
            return Err(Failure::new("training: `evaluate_tokens` is 0; it must be at least 1"));
        }
        options.check(context).map_err(diptych_runtime::train::TrainError::from)?;
        Ok(options)
    }
}

/// Which text a run is trained on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextConfig {
    /// As `--data`.
    pub data: Option<PathBuf>,
    /// SHA-256 of the text that a run began with; a resumed run must find the same.
    pub content_hash: Option<String>,
}

/// A whole configuration.
pub struct RunConfig {
    /// The model.
    pub architecture: Box<dyn Architecture>,
    /// How to train it, not yet checked against the model.
    pub train: TrainConfig,
    /// On what.
    pub text: TextConfig,
    /// What it is compiled for.
    pub objective: ObjectiveConfig,
}

impl RunConfig {
    /// From the command line; `more` is set after the file and before `--set`.
    ///
    /// # Errors
    /// When neither or both of a preset and a file are named, and for every
    /// field that is unknown, missing or does not fit.
    pub fn read(registry: &Registry, arguments: &ModelArguments, more: &Table) -> Result<RunConfig> {
        let mut table = match (&arguments.config, &arguments.model) {
            (Some(path), _) => {
                let text = std::fs::read_to_string(path).map_err(file_failure("read", path))?;
                text.parse::<Table>().map_err(|error| Failure(format!("{}: {error}", path.display())))?
            }
            (None, Some(preset)) => {
                let mut model = Table::new();
                model.insert("preset".to_owned(), Toml::String(preset.clone()));
                Table::from_iter([("model".to_owned(), Toml::Table(model))])
            }
            (None, None) => {
                return Err(Failure::new("no model: name a preset with --model or a file with --config"));
            }
        };
        merge(&mut table, more);
        for setting in &arguments.set {
            merge(&mut table, &parse_setting(setting)?);
        }
        let mut take = |name: &str| table.remove(name);
        let (model, train, text, objective) = (take("model"), take("train"), take("text"), take("objective"));
        if let Some(name) = table.keys().next() {
            return Err(Failure(format!(
                "configuration: unknown table `{name}`; there are: model, train, text, objective"
            )));
        }
        let model = model.ok_or_else(|| Failure::new("configuration: no table `[model]`"))?;
        let train: TrainConfig = section("train", train)?;
        Ok(RunConfig {
            architecture: architecture(registry, model)?,
            train,
            text: section("text", text)?,
            objective: section("objective", objective)?,
        })
    }

    /// As a file from which [`RunConfig::read`] makes it again.
    ///
    /// # Errors
    /// When the architecture's description is none that TOML can hold.
    pub fn to_toml(&self) -> Result<String> {
        let mut model = self.architecture.describe();
        if let Value::Object(fields) = &mut model {
            // TOML has no null; a field that is left out means the same.
            fields.retain(|_, value| !value.is_null());
            fields.insert("family".to_owned(), self.architecture.name().into());
        }
        let mut table = Table::new();
        table.insert("model".to_owned(), Toml::try_from(model)?);
        table.insert("train".to_owned(), Toml::try_from(&self.train)?);
        table.insert("text".to_owned(), Toml::try_from(&self.text)?);
        table.insert("objective".to_owned(), Toml::try_from(&self.objective)?);
        Ok(toml::to_string(&table)?)
    }
}

/// What the run whose configuration lies in this file was compiled for; `None` if there is no such file.
///
/// # Errors
/// When the file is none of a run's.
pub fn compiled_for(path: &Path) -> Result<Option<(ObjectiveConfig, TrainConfig)>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file_failure("read", path)(error)),
    };
    let table = text.parse::<Table>().map_err(|error| Failure(format!("{}: {error}", path.display())))?;
    let objective = section("objective", table.get("objective").cloned())?;
    Ok(Some((objective, section("train", table.get("train").cloned())?)))
}

/// What checkpoints say of an architecture.
pub fn identity(architecture: &dyn Architecture) -> ModelIdentity {
    ModelIdentity {
        family: architecture.name().to_owned(),
        config: architecture.describe(),
        context: architecture.context(),
    }
}

fn section<T: serde::de::DeserializeOwned>(name: &str, found: Option<Toml>) -> Result<T> {
    T::deserialize(found.unwrap_or_else(|| Toml::Table(Table::new())))
        .map_err(|error| Failure(format!("configuration of `{name}`: {}", error.to_string().trim())))
}

fn architecture(registry: &Registry, model: Toml) -> Result<Box<dyn Architecture>> {
    let wrong = |problem: &str| Failure(format!("configuration of `model`: {problem}"));
    let fields = serde_json::to_value(model).map_err(|error| wrong(&error.to_string()))?;
    let Value::Object(mut fields) = fields else { return Err(wrong("it must be a table")) };
    let mut name = |key: &str| match fields.remove(key) {
        None => Ok(None),
        Some(Value::String(name)) => Ok(Some(name)),
        Some(other) => Err(wrong(&format!("`{key}` is {other}; it must be a name in quotes"))),
    };
    match (name("family")?, name("preset")?) {
        (Some(family), None) => Ok(registry.architecture(&family, &Value::Object(fields))?),
        (family, Some(preset)) => {
            let base = registry.preset(&preset)?;
            if family.is_some_and(|family| family != base.name()) {
                return Err(wrong(&format!(
                    "preset `{preset}` is of family `{}`; leave `family` out",
                    base.name()
                )));
            }
            if fields.is_empty() {
                return Ok(base);
            }
            let mut all = base.describe();
            if let Value::Object(all) = &mut all {
                all.extend(fields);
            }
            Ok(registry.architecture(base.name(), &all)?)
        }
        (None, None) => {
            let known: Vec<&str> = registry.families().map(|family| family.name.as_str()).collect();
            Err(wrong(&format!("no `family` (there are: {}) and no `preset`", known.join(", "))))
        }
    }
}

/// `a.b=value` as a table; a value that is no TOML is taken for a string.
fn parse_setting(setting: &str) -> Result<Table> {
    let wrong = || Failure(format!("--set {setting}: give KEY=VALUE, such as model.layers=4"));
    let (key, value) = setting.split_once('=').ok_or_else(wrong)?;
    let quoted = || format!("{key} = {}", Toml::String(value.to_owned()));
    let line = format!("{key} = {value}");
    line.parse::<Table>().or_else(|_| quoted().parse::<Table>()).map_err(|_| wrong())
}

fn merge(into: &mut Table, from: &Table) {
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (Some(Toml::Table(into)), Toml::Table(from)) => merge(into, from),
            _ => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, set: &[&str]) -> Result<RunConfig> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(&path, text).unwrap();
        let set = set.iter().map(|text| (*text).to_owned()).collect();
        let arguments = ModelArguments { model: None, config: Some(path), set };
        RunConfig::read(&Registry::zoo(), &arguments, &Table::new())
    }

    #[test]
    fn files_presets_and_settings_add_up() {
        let text = "[model]\npreset = 'llama-tiny'\nlayers = 3\n[train]\nsteps = 7\n";
        let run = read(text, &["model.hidden=64", "train.schedule=constant"]).unwrap();
        let fields = run.architecture.describe();
        assert_eq!((fields["layers"].as_u64(), fields["hidden"].as_u64()), (Some(3), Some(64)));
        assert_eq!((run.train.steps, run.train.schedule), (7, ScheduleKind::Constant));
        let again = read(&run.to_toml().unwrap(), &[]).unwrap();
        assert_eq!((again.architecture.describe(), again.train), (fields, run.train));
    }

    #[test]
    fn what_does_not_fit_is_told() {
        for (text, set, expected) in [
            ("[model]\nfamily = 'lama'", "", "no family `lama`; there are: gpt2, hybrid, llama, mla, moe"),
            ("[model]\npreset = 'llama-tin'", "", "no preset `llama-tin`; there are: "),
            ("[model]\npreset = 'llama-tiny'\nlayer = 3", "", "unknown field `layer`"),
            ("[model]\nfamily = 'llama'\nlayers = 3", "", "missing field `vocab`"),
            ("[model]\npreset = 'llama-tiny'\nheads = 5", "", "does not divide"),
            ("[model]\npreset = 'llama-tiny'", "train.step=3", "unknown field `step`"),
            ("[model]\npreset = 'llama-tiny'\n[serve]", "", "unknown table `serve`"),
            ("[model]\nlayers = 1", "", "no `family` (there are: gpt2, hybrid, llama, mla, moe)"),
            ("[train]\nsteps = 1", "", "no table `[model]`"),
            ("[model\n", "", "run.toml"),
            ("[model]\npreset = 'llama-tiny'", "layers", "give KEY=VALUE"),
        ] {
            let set: Vec<&str> = if set.is_empty() { vec![] } else { vec![set] };
            let message = read(text, &set).err().map_or_else(String::new, |failure| failure.0);
            assert!(message.contains(expected), "{text}: {message}");
        }
        let long = TrainConfig { time: 65, ..TrainConfig::default() };
        assert!(long.options(64).unwrap_err().0.contains("1 to the model's context, 64"));
    }
}
