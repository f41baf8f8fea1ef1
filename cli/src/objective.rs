//! What a model is compiled for: how much training and how much serving, and
//! whether entries may differ in rounding. A run keeps it in its configuration, so that what was trained is
//! served in the form that was meant.

use crate::failure::{Failure, Result};
use crate::format::{bytes, parse_bytes};
use clap::{Args, ValueEnum};
use diptych_codegen::driver::{CompiledProgram, Rewriting, Rewritten, SecondsOfRun, rewrite};
use diptych_codegen::entry::{CompileError, EntryOptions};
use diptych_cost::ratios::{RatioSweep, ratios, sweep_ratios};
use diptych_cost::{Target, predict_binding, serving_bytes};
use diptych_ir::{EntryKind, Program};
use diptych_passes::algebra::{Binding, Class, Numerics, Objective};
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use toml::{Table, Value as Toml};

/// The machine whose costs pick the form of a program that runs here. It is described in a file rather than measured:
/// bits depend on the form, and are to be the same tomorrow.
const REFERENCE: &str = "reference-cpu";

/// Points of a sweep over ratios, four a decade.
const RATIOS: usize = 21;

/// What the algebra may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Each entry its own form, if that costs less: entries differ in rounding.
    Fast,
    /// One form for all entries: a token's logits have the same bits in all of them.
    Same,
    /// The model as it is written.
    AsWritten,
}

impl Form {
    /// How far entries may differ, if anything is rewritten at all.
    fn numerics(self) -> Option<Numerics> {
        match self {
            Form::Fast => Some(Numerics::Fast),
            Form::Same => Some(Numerics::Same),
            Form::AsWritten => None,
        }
    }
}

/// What a model is compiled for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectiveConfig {
    /// Whether entries may differ in rounding.
    pub numerics: Form,
    /// Whether roundings to the type that the model computes in may be left out between products, or moved.
    pub approximate: bool,
    /// Tokens trained over the model's life, or in proportion to those served.
    pub train_tokens: f64,
    /// Tokens served over the model's life, half of them of prompts.
    pub serve_tokens: f64,
    /// Sequences that are decoded at once, typically.
    pub serve_batch: usize,
    /// Positions that a decoded token sees, typically; at most the model's context.
    pub serve_context: usize,
    /// Tokens of a prompt, typically; at most the model's context.
    pub prompt: usize,
    /// The machine that it is for: a target with speeds.
    pub machine: String,
    /// The most memory that serving so many sequences at such a context may take, such as `600MiB`; empty: any.
    pub serve_memory: String,
}

impl Default for ObjectiveConfig {
    fn default() -> ObjectiveConfig {
        ObjectiveConfig {
            numerics: Form::Same,
            approximate: false,
            train_tokens: 1.0,
            serve_tokens: 1.0,
            serve_batch: 1,
            serve_context: 1024,
            prompt: 256,
            machine: REFERENCE.to_owned(),
            serve_memory: String::new(),
        }
    }
}

/// The same on the command line.
#[derive(Args, Clone, Debug, Default)]
pub struct ObjectiveArguments {
    /// `same`: a token's logits have the same bits in every entry; `fast`: each entry takes its own form if that
    /// costs less; `as-written`: nothing is rewritten. Without it, what the run was trained with, or `same`.
    #[arg(long, value_name = "WHICH")]
    numerics: Option<Form>,
    /// Also forms that leave out roundings to the type that the model computes in, or move them: between products, and
    /// of a norm's weight. In bfloat16, logits then differ from those of the model as it is written by such roundings.
    #[arg(long, value_name = "WHETHER", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    approximate: Option<bool>,
    /// Tokens trained over the model's life, or in proportion to those served (1 if not given).
    #[arg(long, value_name = "N")]
    train_tokens: Option<f64>,
    /// Tokens served over the model's life, half of them of prompts (1 if not given).
    #[arg(long, value_name = "N")]
    serve_tokens: Option<f64>,
    /// Sequences that are decoded at once, typically (1).
    #[arg(long, value_name = "N")]
    serve_batch: Option<usize>,
    /// Positions that a decoded token sees, typically (1024).
    #[arg(long, value_name = "N")]
    serve_context: Option<usize>,
    /// The most memory that decoding `--serve-batch` sequences at `--serve-context` positions may take, such as
    /// 600MiB: weights, what is derived from them, caches and what a run keeps.
    #[arg(long, value_name = "BYTES")]
    serve_memory: Option<String>,
}

impl ObjectiveArguments {
    /// The flags as a table `[objective]` of a configuration file.
    ///
    /// # Errors
    /// When a number is too large.
    pub fn overrides(&self) -> Result<Table> {
        let mut table = Table::new();
        if let Some(form) = self.numerics {
            table.insert("numerics".to_owned(), Toml::try_from(form)?);
        }
        table.extend(self.approximate.map(|whether| ("approximate".to_owned(), Toml::Boolean(whether))));
        for (name, tokens) in [("train_tokens", self.train_tokens), ("serve_tokens", self.serve_tokens)] {
            table.extend(tokens.map(|tokens| (name.to_owned(), Toml::Float(tokens))));
        }
        for (name, count) in [("serve_batch", self.serve_batch), ("serve_context", self.serve_context)] {
            let count = count.map(i64::try_from).transpose();
            let count = count.map_err(|_| Failure(format!("--{} is too large", name.replace('_', "-"))))?;
            table.extend(count.map(|count| (name.to_owned(), Toml::Integer(count))));
        }
        table.extend(self.serve_memory.clone().map(|bytes| ("serve_memory".to_owned(), Toml::String(bytes))));
        Ok(table)
    }

    /// The flags as the tables of a configuration file.
    ///
    /// # Errors
    /// When a number is too large.
    pub fn table(&self) -> Result<Table> {
        Ok(Table::from_iter([("objective".to_owned(), Toml::Table(self.overrides()?))]))
    }

    /// This configuration with what the command line says on top.
    ///
    /// # Errors
    /// When a number is too large.
    pub fn over(&self, config: &ObjectiveConfig) -> Result<ObjectiveConfig> {
        let mut table = Table::try_from(config)?;
        table.extend(self.overrides()?);
        Ok(table.try_into()?)
    }
}

impl ObjectiveConfig {
    /// The objective, for a model of this context that is trained on so many sequences of so many tokens at once.
    ///
    /// # Errors
    /// Which field does not fit, and what would.
    pub fn objective(&self, context: usize, batch: usize, time: usize) -> Result<Objective> {
        for (name, tokens) in [("train_tokens", self.train_tokens), ("serve_tokens", self.serve_tokens)] {
            if !(tokens.is_finite() && tokens >= 0.0) {
                return Err(Failure(format!(
                    "objective: `{name}` is {tokens}; it must be a number from 0 on"
                )));
            }
        }
        if self.train_tokens + self.serve_tokens == 0.0 {
            return Err(Failure::new(
                "objective: neither trained nor served; one of the tokens must be more than 0",
            ));
        }
        if self.approximate && self.numerics == Form::AsWritten {
            return Err(Failure::new(
                "objective: `approximate` allows rewrites that `numerics = \"as-written\"` does without; drop one of them",
            ));
        }
        let sizes = [
            ("serve_batch", self.serve_batch),
            ("serve_context", self.serve_context),
            ("prompt", self.prompt),
        ];
        if let Some((name, _)) = sizes.iter().find(|size| size.1 == 0) {
            return Err(Failure(format!("objective: `{name}` is 0; it must be at least 1")));
        }
        let (past, prompt) = (self.serve_context.min(context), self.prompt.min(context));
        Ok(Objective {
            bindings: vec![
                Binding::new(EntryKind::Train, batch, time, time, self.train_tokens),
                Binding::new(EntryKind::Prefill, 1, prompt, prompt, self.serve_tokens / 2.0),
                Binding::new(EntryKind::Decode, self.serve_batch, 1, past, self.serve_tokens / 2.0),
            ],
            class: if self.approximate { Class::Approximate } else { Class::Real },
            ..Rewriting::default().objective
        })
    }

    /// Calls with what judges a compiled program, by this objective's machine and limit on memory.
    fn judged<T>(&self, choose: impl FnOnce(&SecondsOfRun) -> Result<T, CompileError>) -> Result<T> {
        let machine = Target::load(&self.machine)?.into_machine(None)?;
        let threads = machine.rates.threads;
        let wrong = || {
            Failure(format!(
                "objective: `serve_memory` is `{}`: give a number of bytes, such as 600MiB",
                self.serve_memory
            ))
        };
        let allowed = match self.serve_memory.as_str() {
            "" => None,
            text => Some(parse_bytes(text).ok_or_else(wrong)? as usize),
        };
        let least = Cell::new(usize::MAX);
        let seconds = |compiled: &CompiledProgram, binding: &Binding| {
            if let (Some(allowed), EntryKind::Decode) = (allowed, binding.entry) {
                let needed = serving_bytes(compiled, binding);
                least.set(least.get().min(needed));
                if needed > allowed {
                    return Err(format!("serving takes {}", bytes(needed as f64)));
                }
            }
            Ok(predict_binding(compiled, binding, &machine, threads))
        };
        choose(&seconds).map_err(|error| match allowed {
            Some(allowed) if allowed < least.get() && least.get() < usize::MAX => Failure(format!(
                "--serve-memory {}: decoding {} sequences at {} positions takes at least {} in every form",
                self.serve_memory,
                self.serve_batch,
                self.serve_context,
                bytes(least.get() as f64)
            )),
            _ => error.into(),
        })
    }

    /// Chooses the form of a program for this objective, by what its entries take once they are fused.
    ///
    /// # Errors
    /// When the program cannot be compiled, or the machine is unknown.
    pub fn rewrite(
        &self,
        program: &Program,
        objective: Objective,
        options: EntryOptions,
    ) -> Result<Rewritten> {
        let (algebra, numerics) = (self.numerics.numerics().is_some(), self.numerics.numerics());
        self.judged(|seconds| {
            let numerics = numerics.unwrap_or_default();
            rewrite(program, &Rewriting { algebra, objective, numerics, seconds: Some(seconds) }, options)
        })
    }

    /// As [`Self::rewrite`], with the forms of each entry's own among what is compared even where they would not be chosen.
    ///
    /// # Errors
    /// As said there.
    pub fn compare(
        &self,
        program: &Program,
        objective: Objective,
        options: EntryOptions,
    ) -> Result<Rewritten> {
        let numerics = match self.numerics {
            Form::Same => Form::Fast,
            other => other,
        };
        ObjectiveConfig { numerics, ..self.clone() }.rewrite(program, objective, options)
    }

    /// The forms that are chosen as more and more is served for each token trained, whatever the objective says of that.
    ///
    /// # Errors
    /// When the program cannot be compiled or is to stay as it is written, or the machine is unknown.
    pub fn sweep(
        &self,
        program: &Program,
        objective: &Objective,
        options: EntryOptions,
    ) -> Result<RatioSweep> {
        let one_form = || Failure::new("--ratios: as it is written, a model has one form only");
        let numerics = self.numerics.numerics().ok_or_else(one_form)?;
        self.judged(|seconds| sweep_ratios(program, objective, numerics, &ratios(RATIOS), seconds, options))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use diptych_codegen::driver::compile_rewritten;
    use diptych_models::{Registry, build};

    const OPTIONS: EntryOptions = EntryOptions::new(16, 144, 2);

    #[test]
    fn a_limit_on_memory_takes_the_best_form_that_keeps_it() {
        let architecture = Registry::zoo().preset("mla-tiny").unwrap();
        let program = build(&*architecture).unwrap();
        // Trained only: nothing else would ask for small caches.
        let config = ObjectiveConfig { serve_tokens: 0.0, serve_batch: 256, ..Default::default() };
        let objective = config.objective(architecture.context(), 8, 64).unwrap();
        let decode = objective.bindings[2].clone();
        let within = |serve_memory: String| -> Result<(usize, usize)> {
            let config = ObjectiveConfig { serve_memory, ..config.clone() };
            let rewritten = config.rewrite(&program, objective.clone(), OPTIONS)?;
            let kinds = [EntryKind::Prefill, EntryKind::Decode];
            let compiled = compile_rewritten(&rewritten, &kinds, &Default::default(), OPTIONS)?;
            Ok((serving_bytes(&compiled, &decode), rewritten.refused.len()))
        };
        let (free, _) = within(String::new()).unwrap();
        let (bound, refused) = within(format!("{}", free - 1)).unwrap();
        assert!(bound < free && refused > 0, "{bound} bytes instead of {free}, {refused} forms refused");
        let problem = within("1KiB".to_owned()).unwrap_err().0;
        assert!(problem.contains("decoding 256 sequences"), "{problem}");
        let problem = within("much".to_owned()).unwrap_err().0;
        assert!(problem.contains("give a number of bytes"), "{problem}");
    }
}
