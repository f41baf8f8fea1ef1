//! Which model parameters belong to: its family, its configuration and its
//! parameters' shapes, as one fingerprint and as words. It must not know how
//! architectures are defined.

use diptych_ir::Program;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// A model, as its architecture describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelIdentity {
    /// The family's name.
    pub family: String,
    /// The configuration from which the family makes the architecture again.
    pub config: Value,
    /// The most positions of a sequence.
    pub context: usize,
}

/// The sizes of a parameter's axes, in the user's order, layers first.
pub(super) fn shape(info: &diptych_ir::ParamInfo) -> Vec<usize> {
    info.order.iter().map(|axis| axis.fixed_size().unwrap_or(1)).collect()
}

impl ModelIdentity {
    /// A hash of the family, the configuration, and the names and shapes of the
    /// program's parameters: equal for equal models, whatever order the fields of the configuration have.
    pub fn fingerprint(&self, program: &Program) -> String {
        let mut text = format!("{}\n", self.family);
        canonical(&self.config, &mut text);
        for (name, info) in &program.params {
            text += &format!("\n{name} {:?}", shape(info));
        }
        Sha256::digest(text).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The first field in which another model's family or configuration differs, in words.
    pub(super) fn difference(&self, family: &str, config: &Value) -> Option<String> {
        if family != self.family {
            return Some(format!("its family is `{family}`, expected `{}`", self.family));
        }
        let fields = |value: &Value| -> Vec<String> {
            let mut names: Vec<String> =
                value.as_object().map_or_else(Vec::new, |map| map.keys().cloned().collect());
            names.sort_unstable();
            names
        };
        let mut names = fields(&self.config);
        names.extend(fields(config));
        names.sort_unstable();
        names.dedup();
        let told = |value: Option<&Value>| value.map_or("not there".to_owned(), Value::to_string);
        names.iter().find(|name| self.config.get(name) != config.get(name)).map(|name| {
            let (found, expected) = (told(config.get(name)), told(self.config.get(name)));
            format!("its `{name}` is {found}, expected {expected}")
        })
    }
}

fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let mut fields: Vec<_> = map.iter().collect();
            fields.sort_by_key(|field| field.0);
            text.push('{');
            for (name, value) in fields {
                *text += &format!("{name:?}:");
                canonical(value, text);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(values) => {
            text.push('[');
            for value in values {
                canonical(value, text);
                text.push(',');
            }
            text.push(']');
        }
        plain => *text += &plain.to_string(),
    }
}
