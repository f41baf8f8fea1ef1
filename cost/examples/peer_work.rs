//! Diptych's side of the comparison with other systems in `benches/peers`: it trains or serves what the first line
//! of standard input describes, and then does, measures and answers what each further line asks. Each line and
//! each answer is a JSON object; `benches/peers/README.md` tells which.
//!
//! `cargo run --release -p diptych-cost --example peer_work < REQUESTS`

#[allow(dead_code)]
mod held;

use diptych_codegen::c::prelude::{LINK_FLAGS, prelude};
use diptych_codegen::driver::{CompiledProgram, rewrite_by_default};
use diptych_cost::{ProbeSource, StepSizes, Target, measured, predict_step};
use diptych_ir::blocks::BlockFormat;
use diptych_ir::{DType, EntryKind, Symbol};
use diptych_models::{Checkpoint, Held, Registry};
use diptych_passes::narrow_weights::hold_narrow;
use diptych_passes::weight_blocks::{candidates, hold_in_blocks};
use diptych_runtime::cpu::compile::default_folder;
use diptych_runtime::decode::{SequenceId, ServeOptions, Server};
use diptych_runtime::device::Cpu;
use diptych_runtime::executor::parts;
use diptych_runtime::schedule::{ScheduleConfig, ScheduleKind};
use diptych_runtime::session::{Device, Session};
use diptych_runtime::train::{ModelIdentity, Moments, OptimizerOptions, Plan, TrainOptions, Trainer};
use held::with_cache;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What there is to do.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Job {
    Train(Training),
    Serve(Serving),
}

/// Training on one batch, always the same, from the weights of a Hugging Face folder.
#[derive(Deserialize)]
struct Training {
    threads: usize,
    folder: PathBuf,
    /// Rows of one id more than a sequence has: inputs are all but the last, targets all but the first.
    tokens: Vec<Vec<i32>>,
    optimizer: Optimizer,
    /// The most bytes that the run itself may take, beside the program's own code and tables.
    memory: Option<usize>,
}

#[derive(Deserialize)]
struct Optimizer {
    learning_rate: f64,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: f64,
    #[serde(default)]
    moments: Moments,
}

/// Greedy text after some prompts, from the weights of a Hugging Face folder or, as it holds them, of a GGUF file.
#[derive(Deserialize)]
struct Serving {
    threads: usize,
    folder: PathBuf,
    gguf: PathBuf,
    /// In which format weights are computed with: `F32`, or that of the GGUF file.
    format: String,
    /// In which numbers caches are held: `f16`, `bf16` or `q8`, if not in f32.
    cache: Option<String>,
    /// Prompts of one length, one for each sequence.
    prompts: Vec<Vec<i32>>,
    /// The most positions of a sequence.
    positions: usize,
}

/// What a line asks for.
#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Request {
    /// A training step; its loss.
    Step,
    /// All sequences anew: their prompts, and the first token after each.
    Start,
    /// All logits after the first prompt, as `start` found them.
    Logits,
    /// So many tokens more for each sequence.
    Decode { count: usize },
}

fn main() -> ExitCode {
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peer_work: {error}");
            ExitCode::FAILURE
        }
    }
}

fn work() -> Result<()> {
    let mut lines = std::io::stdin().lock().lines();
    let first = lines.next().ok_or("standard input is empty: its first line must be a job")??;
    match serde_json::from_str(&first)? {
        Job::Train(job) => train(&job, lines),
        Job::Serve(job) => serve(&job, lines),
    }
}

/// Says that it is ready; then answers each line, with the milliseconds that the answer took.
fn answer(
    lines: impl Iterator<Item = std::io::Result<String>>,
    mut act: impl FnMut(Request) -> Result<Value>,
) -> Result<()> {
    let say = |value: &Value| writeln!(std::io::stdout().lock(), "{value}");
    say(&json!({ "ready": env!("CARGO_PKG_VERSION") }))?;
    for line in lines {
        let request = serde_json::from_str(&line?)?;
        let start = Instant::now();
        let mut found = act(request)?;
        found["milliseconds"] = json!(start.elapsed().as_secs_f64() * 1e3);
        say(&found)?;
    }
    Ok(())
}

fn train(job: &Training, lines: impl Iterator<Item = std::io::Result<String>>) -> Result<()> {
    let checkpoint = Checkpoint::open(&job.folder, &Registry::zoo())?;
    let architecture = checkpoint.architecture();
    let rows = job.tokens.iter().map(Vec::len).max().unwrap_or(0);
    if rows < 2 || job.tokens.iter().any(|row| row.len() != rows) {
        return Err("`tokens` must have rows of one length, of at least two ids".into());
    }
    let Optimizer { learning_rate, beta1, beta2, epsilon, weight_decay, moments } = job.optimizer;
    let options = TrainOptions {
        batch: job.tokens.len(),
        time: rows - 1,
        accumulation: 1,
        steps: Some(u64::from(u32::MAX)),
        tokens: None,
        optimizer: OptimizerOptions { beta1, beta2, epsilon, weight_decay, clip_norm: None, moments },
        schedule: ScheduleConfig {
            kind: ScheduleKind::Constant,
            peak: learning_rate,
            floor: 0.0,
            warmup_steps: 0,
            total_steps: u64::from(u32::MAX),
            decay_steps: 0,
        },
        seed: 0,
        evaluate_every: 0,
    };
    let identity = ModelIdentity {
        family: architecture.name().to_owned(),
        config: architecture.describe(),
        context: architecture.context(),
    };
    let cpu = Cpu::new(Some(job.threads))?;
    let flags = cpu.width.cc_flags();
    let device = Device::Cpu(cpu);
    let rewritten = rewrite_by_default(checkpoint.program(), device.options())?;
    let plan = match job.memory {
        None => Plan::new(&device, &rewritten, identity, options, &[])?,
        Some(bytes) => {
            let source = ProbeSource { prelude: prelude(), flags: &flags, link_flags: LINK_FLAGS };
            let folder = default_folder().unwrap_or_else(|| std::env::temp_dir().join("diptych"));
            let measurement = measured(&source, device.threads(), &folder)?;
            let machine = Target { rates: None, ..Target::load("this-machine")? }
                .into_machine(Some((measurement.rates, measurement.memory_bytes)))?;
            let sizes = StepSizes { batch: options.batch, time: options.time, accumulation: 1 };
            let seconds = |compiled: &CompiledProgram, at_a_time: usize| {
                predict_step(compiled, &machine, device.threads(), sizes, at_a_time)
            };
            Plan::within(&device, &rewritten, identity, options, &[], bytes, &seconds)?.0
        }
    };
    let mut trainer = Trainer::load(&device, plan)?;
    let mut unread = None;
    let set = trainer.initialize(|name| {
        checkpoint.load_param(name).unwrap_or_else(|error| {
            unread = Some(error);
            Vec::new()
        })
    });
    if let Some(error) = unread {
        return Err(error.into());
    }
    set?;
    drop(checkpoint);
    answer(lines, |request| match request {
        Request::Step => {
            let report = trainer.step(|_, inputs, targets| {
                let places = inputs.chunks_exact_mut(rows - 1).zip(targets.chunks_exact_mut(rows - 1));
                for (row, (input, target)) in job.tokens.iter().zip(places) {
                    input.copy_from_slice(&row[..rows - 1]);
                    target.copy_from_slice(&row[1..]);
                }
            })?;
            Ok(json!({ "loss": report.loss }))
        }
        _ => Err("a job of training takes `step` alone".into()),
    })
}

fn serve(job: &Serving, lines: impl Iterator<Item = std::io::Result<String>>) -> Result<()> {
    let registry = Registry::zoo();
    let checkpoint = match job.format.as_str() {
        "F32" => Checkpoint::open(&job.folder, &registry)?,
        "F16" | "Q8_0" | "Q4_0" | "Q4_1" => {
            Checkpoint::of_gguf(&diptych_gguf::File::open(&job.gguf)?, &registry)?
        }
        other => return Err(format!("weights in the format `{other}` are not served").into()),
    };
    let (formats, types) = formats(&checkpoint)?;
    let program = hold_narrow(&hold_in_blocks(checkpoint.program(), &formats)?, &types)?;
    let (batch, context) = (job.prompts.len(), checkpoint.architecture().context());
    let device = Device::cpu(Some(job.threads))?;
    let kinds = [EntryKind::Prefill, EntryKind::Decode];
    let cache = job.cache.as_deref().unwrap_or("f32");
    let mut session = Session::load(&device, with_cache(&program, cache, &kinds, &device)?, context)?;
    let mut values = Vec::new();
    for &name in program.params.keys() {
        if let Some(columns) = session.store.columns(name) {
            for column in 0..columns.count() {
                let blocks = checkpoint.blocks(name.as_str(), columns.first(column), columns.depth())?;
                session.store.set_column(name, &columns, column, blocks)?;
            }
            checkpoint.release(name.as_str())?;
            continue;
        }
        for part in parts(session.store.elements(name)?) {
            values.resize(part.len(), 0.0);
            checkpoint.load_part(name.as_str(), part.start, &mut values)?;
            session.store.set_part(name, part.start, &values)?;
        }
    }
    drop(checkpoint);
    let options = ServeOptions {
        rows: 512,
        batch,
        sequences: batch,
        cache_positions: batch * job.positions.next_multiple_of(64),
    };
    let mut server = Server::new(&device, &session, options)?;
    let vocabulary = server.vocabulary();
    let mut sequences: Vec<SequenceId> = Vec::new();
    let mut tokens: Vec<i32> = Vec::new();
    let mut logits = vec![0.0; vocabulary];
    answer(lines, |request| match request {
        Request::Start => {
            for sequence in sequences.drain(..) {
                server.release(sequence);
            }
            for _ in &job.prompts {
                sequences.push(server.start()?);
            }
            let prompts = sequences.iter().copied().zip(job.prompts.iter().map(Vec::as_slice));
            let found = server.prefill(&prompts.collect::<Vec<_>>())?;
            logits.copy_from_slice(&found[..vocabulary]);
            tokens = found.chunks_exact(vocabulary).map(likeliest).collect();
            Ok(json!({ "tokens": tokens.iter().map(|&token| [token]).collect::<Vec<_>>() }))
        }
        Request::Logits => Ok(json!({ "logits": logits })),
        Request::Decode { count } => {
            if sequences.is_empty() {
                return Err("`decode` comes after `start`".into());
            }
            let mut text = vec![Vec::with_capacity(count); batch];
            let mut steps: Vec<(SequenceId, i32)> = Vec::with_capacity(batch);
            for _ in 0..count {
                steps.clear();
                steps.extend(sequences.iter().copied().zip(tokens.iter().copied()));
                let found = server.decode(&steps)?;
                for (sequence, logits) in found.chunks_exact(vocabulary).enumerate() {
                    tokens[sequence] = likeliest(logits);
                    text[sequence].push(tokens[sequence]);
                }
            }
            Ok(json!({ "tokens": text }))
        }
        Request::Step => Err("a job of serving takes no `step`".into()),
    })
}

/// The parameters that the file holds in blocks, and those that it holds in narrow numbers.
fn formats(checkpoint: &Checkpoint) -> Result<(BTreeMap<Symbol, BlockFormat>, BTreeMap<Symbol, DType>)> {
    let (mut formats, mut types) = (BTreeMap::new(), BTreeMap::new());
    for (name, along) in candidates(checkpoint.program()) {
        match (checkpoint.held(name.as_str(), along.as_deref().unwrap_or_default())?, along) {
            (Held::Blocks(format), Ok(_)) => _ = formats.insert(name, format),
            (Held::Plain(dtype), _) if dtype != DType::F32 => _ = types.insert(name, dtype),
            _ => {}
        }
    }
    Ok((formats, types))
}

/// The place of the greatest logit, the first of equals.
fn likeliest(logits: &[f32]) -> i32 {
    let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|&logit| logit == greatest).unwrap_or(0) as i32
}
