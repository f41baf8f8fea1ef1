//! `diptych bench`: on real text, trains several architectures on the same
//! tokens, serves each from the weights just trained, and reports what both
//! cost. The parts: `plan` (how much there is time for), `train`, `serve`; `profile`
//! instead tells where the time of their steps goes, `kernels` whether those of a GPU are right and fast.

mod kernels;
mod labels;
mod plan;
mod profile;
mod serve;
mod train;

use crate::arguments::{DeviceArguments, TextArguments};
use crate::failure::{Failure, Result};
use crate::format::{seconds, thousands};
use crate::held_out::HeldOutSet;
use crate::machine::{open_machine, open_measured_device};
use crate::objective::{Form, ObjectiveConfig};
use crate::output::{claim_folder, numbered_folder, print, tell, write_file};
use crate::report::{Conditions, Loss, ModelReport, Pair, Report, page, table};
use crate::text::prepare_text;
use clap::Args;
use diptych_codegen::driver::Rewritten;
use diptych_cost::Machine;
use diptych_data::{DocumentLoss, Estimate, HeldOut, Prepared, TrainingOrder, paired_difference};
use diptych_ir::Program;
use diptych_models::{Architecture, Registry, build};
use diptych_runtime::session::Device;
use std::path::PathBuf;
use std::time::Instant;

/// The models of the bench, as the table calls them, their presets, and whether their entries may differ in rounding.
const MODELS: [(&str, &str, Form); 4] = [
    ("Multi-head", "bench-multi-head", Form::Same),
    ("Grouped-query", "bench-grouped-query", Form::Same),
    ("Latent", "bench-latent", Form::Same),
    ("Latent, fast", "bench-latent", Form::Fast),
];
/// Seconds of a whole run, by default and with `--quick`, with some to spare below 5 minutes and 1.
const SECONDS: [f64; 2] = [270.0, 52.0];
/// Windows of each held-out document that the loss is taken over.
const WINDOWS_EACH: usize = 4;
/// Of the order of the text and of the weights.
const SEED: u64 = 1;

/// What `bench` takes.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    text: TextArguments,
    #[command(flatten)]
    device: DeviceArguments,
    /// Within a minute, with less training.
    #[arg(long)]
    quick: bool,
    /// Seconds that the run may take, about.
    #[arg(long, value_name = "N", conflicts_with = "quick")]
    seconds: Option<f64>,
    /// The presets to compare, in place of multi-head, grouped-query and latent attention; may be repeated.
    #[arg(long = "model", value_name = "PRESET")]
    models: Vec<String>,
    /// Sequences of a training step.
    #[arg(long, value_name = "N", default_value_t = 4)]
    batch: usize,
    /// Tokens of a sequence.
    #[arg(long, value_name = "N", default_value_t = 256)]
    time: usize,
    /// Steps of each model, in place of as many as there is time for; with --profile, those that are recorded.
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// The folder to write; it must be empty or not there. Without it, the first free of diptych-bench, diptych-bench-2, …
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Write into a folder that has something in it, or over a trace.
    #[arg(long)]
    force: bool,
    /// Train on no text, but tell where the time goes, kernel by kernel: of a training step, of a prompt, and of a token
    /// decoded after it.
    #[arg(
        long,
        value_name = "JOBS",
        num_args = 0..=1,
        require_equals = true,
        value_delimiter = ',',
        default_missing_value = "train,decode",
        conflicts_with_all = ["quick", "seconds", "out", "data"]
    )]
    profile: Vec<profile::Job>,
    /// Train on no text, but check all kernels of a GPU against the reference, and time those of a large model against their
    /// roofline. `benches/gpu.sh` does so with PyTorch's times beside.
    #[arg(long, conflicts_with_all = ["profile", "quick", "seconds", "data"])]
    kernels: bool,
    /// With --kernels: small sizes, as for a virtual GPU.
    #[arg(long, requires = "kernels")]
    small: bool,
    /// With --kernels: run nothing, but write into this file what `benches/peers/gpu_torch.py` is to time.
    #[arg(long, value_name = "FILE", requires = "kernels")]
    shapes: Option<PathBuf>,
    /// With --kernels: what that script wrote.
    #[arg(long, value_name = "FILE", requires = "kernels")]
    peer_times: Option<PathBuf>,
    /// With --profile: tokens of the prompt.
    #[arg(long, value_name = "N", default_value_t = 16, requires = "profile")]
    prompt: usize,
    /// With --profile: tokens decoded after it.
    #[arg(long, value_name = "N", default_value_t = 128, requires = "profile")]
    tokens: usize,
    /// With --profile: write what each thread did to this file, which Perfetto opens.
    #[arg(long, value_name = "FILE", requires = "profile")]
    trace: Option<PathBuf>,
}

/// One of the models compared.
struct Contender {
    title: String,
    preset: String,
    architecture: Box<dyn Architecture>,
    program: Program,
    /// The program in the form that was chosen for it.
    rewritten: Rewritten,
}

/// What all models of a bench share.
struct Bench<'a> {
    device: &'a Device,
    machine: &'a Machine,
    prepared: &'a Prepared,
    batch: usize,
    time: usize,
    contexts: Vec<usize>,
    /// Seconds of each measurement of serving.
    serve_seconds: f64,
}

/// Runs the bench.
///
/// # Errors
/// When a model, the text or the folder does not fit.
pub fn run(registry: &Registry, arguments: &Arguments) -> Result<()> {
    if arguments.kernels {
        return kernels::run(registry, arguments);
    }
    if !arguments.profile.is_empty() {
        return profile::run(registry, arguments);
    }
    let start = Instant::now();
    let budget = arguments.seconds.unwrap_or(SECONDS[usize::from(arguments.quick)]);
    if !(budget.is_finite() && budget > 0.0) {
        return Err(Failure(format!("--seconds is {budget}; it must be a positive number")));
    }
    let device = open_measured_device(&arguments.device)?;
    let contenders = contenders(registry, arguments, &device)?;
    let (vocabulary, context) = sizes(&contenders)?;
    if arguments.batch == 0 || arguments.time == 0 || arguments.time > context || arguments.steps == Some(0) {
        return Err(Failure(format!(
            "--batch and --steps must be at least 1, and --time 1 to the models' context, {context}"
        )));
    }
    let folder = match &arguments.out {
        Some(out) => {
            claim_folder(out, arguments.force)?;
            out.clone()
        }
        None => numbered_folder("diptych-bench")?,
    };
    let (machine, machine_summary) = open_machine(&arguments.device, &device)?;
    let (prepared, text) = prepare_text(&arguments.text, vocabulary, None, None)?;
    let bench = Bench {
        device: &device,
        machine: &machine,
        prepared: &prepared,
        batch: arguments.batch,
        time: arguments.time,
        contexts: contexts(context, arguments.quick),
        serve_seconds: budget / 250.0,
    };
    let order = TrainingOrder::new(prepared.training.clone(), SEED, bench.time)?;
    let compiled = plan::compile_all(&bench, &contenders, &order)?;
    let steps = match arguments.steps {
        Some(steps) => steps,
        None => plan::steps(&bench, &compiled, budget - start.elapsed().as_secs_f64()),
    };
    let tokens = steps * (bench.batch * bench.time) as u64;
    tell(format!(
        "training each of {} models on {} tokens: {} steps of {} × {}",
        contenders.len(),
        thousands(tokens),
        thousands(steps),
        bench.batch,
        bench.time
    ));
    let held_out = HeldOut::new(prepared.held_out.clone());
    let wanted = plan::held_out_tokens(tokens);
    let set = HeldOutSet::new(&held_out, &prepared.vocabulary, bench.time, WINDOWS_EACH, wanted)?;
    let (mut models, mut losses) = (Vec::new(), Vec::new());
    for (contender, compiled) in contenders.iter().zip(compiled) {
        let (report, loss) = train::run(&bench, contender, compiled, steps, &order, &set)?;
        models.push(report);
        losses.push(loss);
    }
    let report = Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine: machine_summary,
        text,
        conditions: Conditions {
            numerics: labels::numerics(&contenders),
            cache_form: labels::cache_form(&contenders),
            batch: bench.batch,
            time: bench.time,
            steps,
            tokens,
            held_out_documents: losses.first().map_or(0, Vec::len),
            held_out_tokens: set.tokens(),
            serve_batch: 1,
        },
        pairs: pairs(&models, &losses)?,
        notes: notes(&models, bench.time),
        models,
        seconds: start.elapsed().as_secs_f64(),
    };
    write_file(&folder.join("report.json"), (serde_json::to_string_pretty(&report)? + "\n").as_bytes())?;
    let page =
        page::html(&report).map_err(|problem| Failure(format!("a plot cannot be drawn: {problem}")))?;
    write_file(&folder.join("report.html"), page.as_bytes())?;
    let table = table::text(&report);
    write_file(&folder.join("table.txt"), table.as_bytes())?;
    print(&format!("\n{table}"))?;
    tell(format!(
        "in {}; written: {} (report.html, report.json, table.txt)",
        seconds(report.seconds),
        folder.display()
    ));
    Ok(())
}

fn contenders(registry: &Registry, arguments: &Arguments, device: &Device) -> Result<Vec<Contender>> {
    let presets = &arguments.models;
    let named: Vec<(&str, &str, Form)> = match presets.is_empty() {
        true => MODELS.to_vec(),
        false => presets.iter().map(|preset| (preset.as_str(), preset.as_str(), Form::Same)).collect(),
    };
    let make = |(title, preset, numerics): (&str, &str, Form)| {
        let sizes = [arguments.batch, arguments.time];
        contender(title, preset, registry.preset(preset)?, numerics, sizes, device)
    };
    named.into_iter().map(make).collect()
}

/// A model in the form that is chosen for training steps of so many sequences of so many tokens.
fn contender(
    title: &str,
    preset: &str,
    architecture: Box<dyn Architecture>,
    numerics: Form,
    [batch, time]: [usize; 2],
    device: &Device,
) -> Result<Contender> {
    let program = build(&*architecture)?;
    let config = ObjectiveConfig { numerics, ..ObjectiveConfig::default() };
    let context = architecture.context();
    let objective = config.objective(context, batch.max(1), time.clamp(1, context))?;
    let rewritten = config.rewrite(&program, objective, device.options())?;
    let (title, preset) = (title.to_owned(), preset.to_owned());
    Ok(Contender { title, preset, architecture, program, rewritten })
}

/// The vocabulary that all have, and the least context.
fn sizes(contenders: &[Contender]) -> Result<(usize, usize)> {
    let vocabulary = contenders[0].architecture.vocab();
    if let Some(other) = contenders.iter().find(|contender| contender.architecture.vocab() != vocabulary) {
        return Err(Failure(format!(
            "`{}` has a vocabulary of {} tokens, `{}` of {vocabulary}; losses can be compared over the same tokens only",
            other.preset,
            other.architecture.vocab(),
            contenders[0].preset
        )));
    }
    let context = contenders.iter().map(|contender| contender.architecture.context()).min();
    Ok((vocabulary, context.unwrap_or(0)))
}

/// Context lengths to serve at, with room for the tokens that are decoded there.
fn contexts(context: usize, quick: bool) -> Vec<usize> {
    let most = context.saturating_sub(serve::DECODE_TOKENS).max(1);
    let wanted: &[usize] = if quick { &[128, 1024] } else { &[128, 512, 1024, 1984] };
    let fitting: Vec<usize> = wanted.iter().copied().filter(|&length| length <= most).collect();
    if fitting.is_empty() { vec![most] } else { fitting }
}

fn pairs(models: &[ModelReport], losses: &[Vec<DocumentLoss>]) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for first in 0..models.len() {
        for second in first + 1..models.len() {
            let difference = paired_difference(&losses[first], &losses[second])?;
            pairs.push(Pair {
                first: models[first].title.clone(),
                second: models[second].title.clone(),
                difference: loss(difference),
                distinguishable: difference.distinguishable(),
            });
        }
    }
    Ok(pairs)
}

fn loss(estimate: Estimate) -> Loss {
    Loss { mean: estimate.mean, standard_error: estimate.standard_error }
}

fn notes(models: &[ModelReport], time: usize) -> Vec<String> {
    let parameters = models.iter().map(|model| model.parameters);
    let (least, most) = (parameters.clone().min().unwrap_or(1), parameters.max().unwrap_or(1));
    let spread = 100.0 * (most as f64 / least as f64 - 1.0);
    let mut notes = vec![
        format!(
            "parameters differ by {spread:.1} % at most; one seed each, so differences between seeds are not in the ±"
        ),
        format!(
            "model FLOPs utilisation as in the PaLM paper (6 N + 12 L H Q T at T = {time}), against the measured peak in f32"
        ),
        "the loss is taken over the start of each held-out document".to_owned(),
    ];
    if spread > 2.0 {
        notes.push("the models differ by more than 2 % in parameters".to_owned());
    }
    notes
}
