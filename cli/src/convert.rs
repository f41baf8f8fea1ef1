//! `diptych export`: a checkpoint in the format of Hugging Face. (Reading that
//! format needs no conversion: `--hugging-face` takes it wherever weights are.)

use crate::arguments::WeightArguments;
use crate::failure::{Failure, Result, file_failure};
use crate::output::{claim_folder, tell};
use crate::weights::{VOCABULARY_FILE, Weights};
use clap::Args;
use diptych_models::{ModelError, Registry, hugging_face};
use std::path::PathBuf;

/// What `export` takes.
#[derive(Args)]
pub struct ExportArguments {
    #[command(flatten)]
    weights: WeightArguments,
    /// The folder to write; it must be empty or not there.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Write into a folder that has something in it.
    #[arg(long)]
    force: bool,
}

/// Writes `config.json`, `model.safetensors` and `tokenizer.json`.
///
/// # Errors
/// When transformers has no such model, or the folder cannot be written.
pub fn export(registry: &Registry, arguments: &ExportArguments) -> Result<()> {
    let weights = Weights::open(registry, &arguments.weights)?;
    if weights.architecture.hugging_face().is_none() {
        return Err(Failure(format!(
            "the family `{}` with these options has no form in Hugging Face's transformers",
            weights.architecture.name()
        )));
    }
    let vocabulary = weights.vocabulary(None).ok();
    claim_folder(&arguments.out, arguments.force)?;
    hugging_face::export(&arguments.out, &*weights.architecture, |name| {
        weights.values(name).map_err(|failure| ModelError::file(&arguments.out, failure.0))
    })?;
    if let Some(vocabulary) = vocabulary {
        vocabulary.save(&arguments.out.join(VOCABULARY_FILE))?;
        let path = arguments.out.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(file_failure("read", &path))?;
        let mut config: serde_json::Value = serde_json::from_str(&text)?;
        if let Ok(id) = vocabulary.end_of_text() {
            config["eos_token_id"] = id.into();
        }
        crate::output::write_file(&path, (serde_json::to_string_pretty(&config)? + "\n").as_bytes())?;
    }
    tell(format!("written: {}", arguments.out.display()));
    Ok(())
}
