//! `diptych models`: what there is to choose from.

use crate::failure::Result;
use crate::format::thousands;
use crate::output::print;
use diptych_models::{Registry, build, count_parameters};

/// Lists families and presets.
///
/// # Errors
/// When a preset cannot be built.
pub fn run(registry: &Registry) -> Result<()> {
    let mut text = String::new();
    for family in registry.families() {
        let covers = match family.model_types.is_empty() {
            true => String::new(),
            false => format!(" (Hugging Face: {})", family.model_types.join(", ")),
        };
        text.push_str(&format!("{}{covers}\n", family.name));
        for (name, _) in &family.presets {
            let architecture = registry.preset(name)?;
            let parameters = count_parameters(&build(&*architecture)?);
            text.push_str(&format!(
                "  {name:<22} {:>13} parameters, context {}, vocabulary {}\n",
                thousands(parameters as u64),
                thousands(architecture.context() as u64),
                thousands(architecture.vocab() as u64)
            ));
        }
    }
    print(&text)
}
