//! `diptych train`: pretrains an architecture on a text, in a folder of its own
//! with checkpoints, metrics and all that a resume needs.

use crate::arguments::{DeviceArguments, ModelArguments, TextArguments};
use crate::config::{RunConfig, identity};
use crate::failure::{Failure, Result};
use crate::format::{bytes, parse_bytes, seconds, short, thousands};
use crate::held_out::HeldOutSet;
use crate::machine::{MemoryBound, memory_text, open_device, open_machine, peak_text};
use crate::objective::ObjectiveArguments;
use crate::output::{claim_folder, numbered_folder, print, tell, write_file};
use crate::progress::StepProgress;
use crate::stages::CompileTime;
use crate::start::initialize_trainer;
use crate::text::{prepare_text, read_vocabulary};
use crate::weights::{VOCABULARY_FILE, checkpoint_name, newest_checkpoint};
use clap::Args;
use diptych_codegen::driver::{CompiledProgram, Rewritten};
use diptych_codegen::within::Choice;
use diptych_cost::{StepSizes, predict_step};
use diptych_data::{HeldOut, TrainingOrder, loss_per_token};
use diptych_models::{Registry, build, count_parameters};
use diptych_passes::rematerialize::Kept;
use diptych_runtime::metrics::MetricsWriter;
use diptych_runtime::session::{Device, NATIVE_CODE};
use diptych_runtime::train::{ModelIdentity, Plan, TrainError, TrainOptions, Trainer};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toml::{Table, Value as Toml};

/// What a run's configuration is called in its folder.
pub const CONFIG_FILE: &str = "run.toml";

/// What `train` takes.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    text: TextArguments,
    #[command(flatten)]
    device: DeviceArguments,
    #[command(flatten)]
    objective: ObjectiveArguments,
    /// The run's folder; it must be empty or not there. Without it, the first free of runs/FAMILY, runs/FAMILY-2, …
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Write into a folder that has something in it.
    #[arg(long)]
    force: bool,
    /// Go on with the run in this folder, from its newest checkpoint.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["out", "force"])]
    resume: Option<PathBuf>,
    /// A tokenizer.json to use; without it, a vocabulary is trained on the text.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Optimizer steps.
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Sequences of a micro-batch.
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Tokens of a sequence.
    #[arg(long, value_name = "N")]
    time: Option<usize>,
    /// Micro-batches of a step.
    #[arg(long, value_name = "N")]
    accumulation: Option<usize>,
    /// The most memory that the process may take, such as 600MiB or 1.5GB: where it does not suffice, values that
    /// layers keep for the backward pass are computed again instead, and fewer sequences run at a time, whichever
    /// takes less time; the results have the same bits.
    #[arg(long, value_name = "BYTES")]
    memory: Option<String>,
    /// The highest learning rate.
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    learning_rate: Option<f64>,
    /// Of the weights and of the order of the text.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Steps between checkpoints; 0: one at the end.
    #[arg(long, value_name = "N")]
    checkpoint_every: Option<u64>,
    /// Steps between held-out losses; 0: one at the end.
    #[arg(long, value_name = "N")]
    evaluate_every: Option<u64>,
}

impl Arguments {
    /// The flags as the tables of a configuration file.
    fn overrides(&self) -> Result<Table> {
        let mut train = Table::new();
        let integers = [
            ("steps", self.steps),
            ("batch", self.batch.map(|n| n as u64)),
            ("time", self.time.map(|n| n as u64)),
            ("accumulation", self.accumulation.map(|n| n as u64)),
            ("seed", self.seed),
            ("checkpoint_every", self.checkpoint_every),
            ("evaluate_every", self.evaluate_every),
        ];
        for (name, value) in integers {
            if let Some(value) = value {
                let value = i64::try_from(value)
                    .map_err(|_| Failure(format!("--{} {value} is too large", name.replace('_', "-"))))?;
                train.insert(name.to_owned(), Toml::Integer(value));
            }
        }
        if let Some(rate) = self.learning_rate {
            train.insert("learning_rate".to_owned(), Toml::Float(rate));
        }
        if let Some(memory) = &self.memory {
            train.insert("memory".to_owned(), Toml::String(memory.clone()));
        }
        let mut table = Table::from_iter([("train".to_owned(), Toml::Table(train))]);
        table.insert("objective".to_owned(), Toml::Table(self.objective.overrides()?));
        if let Some(data) = &self.text.data {
            let data = Toml::String(data.display().to_string());
            table.insert("text".to_owned(), Toml::Table(Table::from_iter([("data".to_owned(), data)])));
        }
        Ok(table)
    }
}

/// Trains.
///
/// # Errors
/// When the configuration, the text or a checkpoint does not fit, the disk is
/// full, or the run diverges.
pub fn run(registry: &Registry, arguments: &Arguments) -> Result<()> {
    let mut model = arguments.model.clone();
    let checkpoint = match &arguments.resume {
        Some(folder) => {
            let newest = newest_checkpoint(folder)?;
            if model.model.is_none() && model.config.is_none() {
                model.config = Some(folder.join(CONFIG_FILE));
            }
            Some(newest)
        }
        None => None,
    };
    let mut config = RunConfig::read(registry, &model, &arguments.overrides()?)?;
    let architecture = &*config.architecture;
    let options = config.train.options(architecture.context())?;
    let mut time = CompileTime::start();
    let program = build(architecture)?;
    time.lap("model");
    let device = open_device(&arguments.device)?;
    let vocabulary = match (&arguments.tokenizer, &arguments.resume) {
        (Some(path), _) => Some(Arc::new(read_vocabulary(path, None)?)),
        (None, Some(folder)) => Some(Arc::new(read_vocabulary(&folder.join(VOCABULARY_FILE), None)?)),
        (None, None) => None,
    };
    let text = TextArguments { data: config.text.data.clone() };
    // A configuration taken from another run's folder may name another text; a run that goes on may not.
    let began_with = config.text.content_hash.as_deref().filter(|_| arguments.resume.is_some());
    let (prepared, summary) = prepare_text(&text, architecture.vocab(), vocabulary, began_with)?;
    if prepared.vocabulary.vocab_size() > architecture.vocab() {
        return Err(Failure(format!(
            "the vocabulary has {} tokens, but the model has {}; set model.vocab to as many",
            prepared.vocabulary.vocab_size(),
            architecture.vocab()
        )));
    }
    config.text.content_hash = Some(summary.content_hash.clone());
    let order = TrainingOrder::new(prepared.training.clone(), options.seed, options.time)?;
    let held_out = HeldOut::new(prepared.held_out.clone());
    let set =
        HeldOutSet::new(&held_out, &prepared.vocabulary, options.time, 4, config.train.evaluate_tokens)?;

    time.skip();
    let identity = identity(architecture);
    let objective = config.objective.objective(architecture.context(), options.batch, options.time)?;
    let rewritten = config.objective.rewrite(&program, objective, device.options())?;
    let plan = match config.train.memory.as_str() {
        "" => Plan::new(&device, &rewritten, identity, options.clone(), &[])?,
        memory => within(memory, &arguments.device, &device, &rewritten, identity, &options)?,
    };
    time.lap_of(&plan.compiled().stages, Some("memory plan"));
    tell(format!(
        "{}: {} parameters; {}",
        architecture.name(),
        thousands(count_parameters(&program) as u64),
        memory_text(&device, plan.memory_bound().total(), plan.memory_bound().on_host())
    ));
    let mut trainer = Trainer::load(&device, plan)?;
    let stages = &trainer.session().compiled.stages;
    let native: Vec<(String, f64)> = stages.iter().filter(|stage| stage.0 == NATIVE_CODE).cloned().collect();
    time.lap_of(&native, Some("memory"));
    tell(time.taken().line());
    let folder = match (&arguments.resume, &arguments.out, &checkpoint) {
        (Some(folder), _, Some(checkpoint)) => {
            trainer.resume(checkpoint)?;
            tell(format!("resumed after step {} of {}", trainer.steps_done(), options.total_steps()));
            // A checkpoint was named rather than the folder of its run.
            if folder.is_dir() {
                folder.clone()
            } else {
                checkpoint.parent().unwrap_or(Path::new(".")).to_owned()
            }
        }
        (_, out, _) => {
            initialize_trainer(&mut trainer, &program, options.seed)?;
            match out {
                Some(out) => {
                    claim_folder(out, arguments.force)?;
                    out.clone()
                }
                None => {
                    std::fs::create_dir_all("runs")
                        .map_err(crate::failure::file_failure("make the folder", Path::new("runs")))?;
                    numbered_folder(&format!("runs/{}", architecture.name()))?
                }
            }
        }
    };
    write_file(&folder.join(CONFIG_FILE), config.to_toml()?.as_bytes())?;
    prepared.vocabulary.save(&folder.join(VOCABULARY_FILE))?;
    tell(format!("run: {}", folder.display()));
    let done = train(&mut trainer, &config, &order, &set, &folder)?;
    print(&format!(
        "{} steps, {} tokens in {}: {} tokens/s; held-out loss {}{}\n{}\n",
        thousands(trainer.steps_done()),
        thousands(trainer.tokens_seen()),
        seconds(done.seconds),
        short(done.tokens as f64 / done.seconds.max(1e-9)),
        done.held_out,
        peak_text(),
        folder.join(checkpoint_name(trainer.steps_done())).display()
    ))
}

/// The plan within a limit on the memory of the process, and what it gives up for that, told.
fn within(
    memory: &str,
    arguments: &DeviceArguments,
    device: &Device,
    rewritten: &Rewritten,
    identity: ModelIdentity,
    options: &TrainOptions,
) -> Result<Plan> {
    let wrong = || Failure(format!("--memory {memory}: give a number of bytes, such as 600MiB or 1.5GB"));
    let allowed = parse_bytes(memory).ok_or_else(wrong)?;
    let (machine, _) = open_machine(arguments, device)?;
    let beside = MemoryBound::now(0).total();
    let sizes = StepSizes { batch: options.batch, time: options.time, accumulation: options.accumulation };
    let seconds_of = |compiled: &CompiledProgram, at_a_time: usize| {
        predict_step(compiled, &machine, device.threads(), sizes, at_a_time)
    };
    let own = usize::try_from(allowed.saturating_sub(beside)).unwrap_or(usize::MAX);
    let planned = Plan::within(device, rewritten, identity, options.clone(), &[], own, &seconds_of);
    let (plan, choice) = planned.map_err(|error| match error {
        TrainError::Memory { least, whole, .. } => {
            let uncut = match whole.first() {
                Some(state) => format!(
                    "; the batch runs as a whole, since `{state}` is not a sum over tokens alone and would have other \
                     bits otherwise: --batch and --accumulation can cut it"
                ),
                None => String::new(),
            };
            let least = least as u64 + beside;
            Failure(format!(
                "--memory {memory}: the run takes at least {} ({least} bytes), however few sequences run at a time \
                 and whatever is computed again{uncut}",
                bytes(least as f64)
            ))
        }
        other => other.into(),
    })?;
    let Choice { at_a_time, recomputed, without, with } = choice;
    let mut given_up = Vec::new();
    if at_a_time < options.batch {
        given_up.push(format!("{at_a_time} of {} sequences at a time", options.batch));
    }
    if !recomputed.is_empty() {
        let name =
            |value: &Kept| value.label.map_or_else(|| value.op.name().to_owned(), |label| label.to_string());
        let names: Vec<String> = recomputed.iter().map(name).collect();
        given_up.push(format!("computed again in the backward pass: {}", names.join(", ")));
    }
    if !given_up.is_empty() {
        tell(format!(
            "{}; the run takes {} instead of {}, a step about {} instead of {}",
            given_up.join("; "),
            bytes(with.0 as f64),
            bytes(without.0 as f64),
            seconds(with.1),
            seconds(without.1)
        ));
    }
    Ok(plan)
}

struct Done {
    seconds: f64,
    tokens: u64,
    held_out: String,
}

#[derive(Serialize)]
struct HeldOutLine {
    held_out_loss: f64,
    standard_error: Option<f64>,
    documents: usize,
}

fn train(
    trainer: &mut Trainer<'_>,
    config: &RunConfig,
    order: &TrainingOrder,
    set: &HeldOutSet<'_>,
    folder: &Path,
) -> Result<Done> {
    let options = trainer.options().clone();
    let total = options.total_steps();
    let path = folder.join("metrics.jsonl");
    let mut metrics = match trainer.steps_done() {
        0 => MetricsWriter::create(&path)?,
        steps => MetricsWriter::resume(&path, steps)?,
    };
    let mut progress = StepProgress::new("training", trainer.steps_done(), total);
    let mut done = Done { seconds: 0.0, tokens: 0, held_out: "–".to_owned() };
    let mut saved = None;
    while trainer.steps_done() < total {
        let step = trainer.steps_done();
        let report = trainer.step(|number, inputs, targets| {
            order.batch(number, options.batch, inputs, targets);
        })?;
        done.seconds += report.seconds;
        done.tokens += report.tokens;
        metrics.record(step, &report)?;
        progress.step(report.loss, report.tokens, report.seconds);
        let steps = trainer.steps_done();
        let due = |every: u64| steps == total || (every > 0 && steps.is_multiple_of(every));
        if due(config.train.evaluate_every) {
            let estimate = loss_per_token(&set.losses(trainer)?);
            let (held_out_loss, standard_error) = (estimate.mean, estimate.standard_error);
            metrics.record(
                step,
                &HeldOutLine { held_out_loss, standard_error, documents: estimate.documents },
            )?;
            done.held_out =
                crate::report::loss_text(&crate::report::Loss { mean: held_out_loss, standard_error });
            progress.note(&format!("step {steps}: held-out loss {}", done.held_out));
        }
        if due(config.train.checkpoint_every) {
            trainer.save(&folder.join(checkpoint_name(steps)))?;
            saved = Some(steps);
        }
    }
    progress.finish();
    if saved.is_none() {
        // Nothing was left to do; the checkpoint that it was resumed from is the end of the run.
        tell(format!("the run was at its end, step {total}, already; --steps asks for more"));
    }
    Ok(done)
}
