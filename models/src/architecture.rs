//! What an architecture is to the rest of Diptych, and the registry by which
//! configurations find theirs. A user's crate registers its own here.

use crate::hugging_face::NameMap;
use crate::{ModelBuilder, ModelError, Result, Tensor};
use diptych_ir::{DType, Program};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::collections::BTreeMap;

/// A model with all of its sizes chosen.
pub trait Architecture: Send + Sync {
    /// The family, such as `llama`.
    fn name(&self) -> &str;

    /// The configuration, from which the family makes this architecture again.
    fn describe(&self) -> Value;

    /// The most positions of a sequence.
    fn context(&self) -> usize;

    /// How many token ids there are.
    fn vocab(&self) -> usize;

    /// Builds the model on `m` and returns its logits, f32[batch, time, vocabulary].
    fn define<'m>(&self, m: &'m ModelBuilder) -> Tensor<'m>;

    /// How transformers writes this model, if it can.
    fn hugging_face(&self) -> Option<NameMap> {
        None
    }
}

/// The verified program of an architecture, with the entries `train` (without
/// gradients), `score`, `prefill` and `decode`.
///
/// # Errors
/// The first mistake in the definition, with its line.
pub fn build(architecture: &dyn Architecture) -> Result<Program> {
    let program = ModelBuilder::new(architecture.name(), architecture.context()).finish(|m| {
        let logits = architecture.define(m);
        if let Some(ty) = logits.ty()
            && !ty.axes.iter().any(|axis| axis.fixed_size() == Some(architecture.vocab()))
        {
            let vocab = architecture.vocab();
            let problem = format!("the logits {ty} have no axis of the vocabulary's size, {vocab}");
            return m.fail(architecture.name(), problem);
        }
        logits
    })?;
    countable(&program, architecture)?;
    Ok(program)
}

/// Refuses parameters of more elements than anybody has memory for, so that no later product of sizes overflows.
fn countable(program: &Program, architecture: &dyn Architecture) -> Result<()> {
    for (name, info) in &program.params {
        let sizes = || info.order.iter().map(|axis| axis.fixed_size().unwrap_or(1));
        let elements = sizes().try_fold(1usize, usize::checked_mul);
        if elements.is_none_or(|elements| elements > MOST_ELEMENTS) {
            let problem = format!(
                "the parameter `{name}` would have {} elements; it can have at most {MOST_ELEMENTS}",
                sizes().map(|size| size.to_string()).collect::<Vec<_>>().join(" × ")
            );
            return Err(ModelError::config(architecture.name(), problem));
        }
    }
    Ok(())
}

/// The most elements of a parameter: a terabyte of `f32`.
const MOST_ELEMENTS: usize = 1 << 38;

/// Makes an architecture from a configuration.
pub type Constructor = fn(&Value) -> Result<Box<dyn Architecture>>;

/// A family of architectures: what its configurations look like.
#[derive(Clone)]
pub struct Family {
    /// The name by which configurations choose it.
    pub name: String,
    /// Makes an architecture from a configuration of ours.
    pub parse: Constructor,
    /// Configurations with names, for tests and benches.
    pub presets: Vec<(String, Value)>,
    /// The `model_type`s of Hugging Face that it covers.
    pub model_types: Vec<String>,
    /// Makes an architecture from a `config.json` with one of these types.
    pub parse_hugging_face: Constructor,
}

/// The families that are known by name.
#[derive(Clone, Default)]
pub struct Registry {
    families: BTreeMap<String, Family>,
}

impl Registry {
    /// A registry with the zoo.
    pub fn zoo() -> Registry {
        let mut registry = Registry::default();
        for family in crate::zoo::families() {
            registry.register(family);
        }
        registry
    }

    /// Adds a family, or replaces the one of that name.
    pub fn register(&mut self, family: Family) {
        self.families.insert(family.name.clone(), family);
    }

    /// The families, by name.
    pub fn families(&self) -> impl Iterator<Item = &Family> {
        self.families.values()
    }

    /// The architecture of a family with this configuration.
    ///
    /// # Errors
    /// For an unknown family, and for fields that are unknown, missing or do not fit.
    pub fn architecture(&self, family: &str, config: &Value) -> Result<Box<dyn Architecture>> {
        let found = self.families.get(family).ok_or_else(|| ModelError::Unknown {
            what: "family",
            name: family.to_owned(),
            known: self.families.keys().cloned().collect::<Vec<_>>().join(", "),
        })?;
        (found.parse)(config)
    }

    /// The architecture with a preset's configuration.
    ///
    /// # Errors
    /// When no family has such a preset.
    pub fn preset(&self, name: &str) -> Result<Box<dyn Architecture>> {
        let all = || self.families().flat_map(|family| family.presets.iter().map(move |row| (family, row)));
        match all().find(|(_, preset)| preset.0 == name) {
            Some((family, preset)) => (family.parse)(&preset.1),
            None => Err(ModelError::Unknown {
                what: "preset",
                name: name.to_owned(),
                known: all().map(|(_, preset)| preset.0.as_str()).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// The architecture of a Hugging Face configuration, by its `model_type`.
    ///
    /// # Errors
    /// For an unknown type, and for fields that are unknown, missing or ask for
    /// what the family cannot do.
    pub fn from_hugging_face(&self, config: &Value) -> Result<Box<dyn Architecture>> {
        let wanted = config.get("model_type").and_then(Value::as_str);
        let name = wanted.ok_or_else(|| ModelError::config("config.json", "no field `model_type`"))?;
        let found = self.families().find(|family| family.model_types.iter().any(|known| known == name));
        let family = found.ok_or_else(|| ModelError::Unknown {
            what: "model_type",
            name: name.to_owned(),
            known: self
                .families()
                .flat_map(|family| family.model_types.clone())
                .collect::<Vec<_>>()
                .join(", "),
        })?;
        (family.parse_hugging_face)(config)
    }
}

/// A configuration from its fields; one that is unknown, missing or of another
/// type is an error that names it.
///
/// # Errors
/// As said.
pub fn parse_config<T: DeserializeOwned>(family: &str, config: &Value) -> Result<T> {
    T::deserialize(config).map_err(|error| ModelError::config(family, error.to_string()))
}

/// The type in which matrices are multiplied: see `ModelBuilder::compute_in`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Single precision.
    #[default]
    F32,
    /// bfloat16, accumulated in f32.
    BF16,
}

impl Precision {
    /// The element type.
    pub fn dtype(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::BF16 => DType::BF16,
        }
    }
}
