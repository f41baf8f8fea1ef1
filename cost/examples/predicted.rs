//! Predicted against measured time, per kernel and per entry, of a preset with random weights: training, scoring,
//! prefill and decode at shapes that the machine was not measured with.
//!
//! `cargo run --release -p diptych-cost --example predicted -- [--model llama-15m | --hugging-face FOLDER] [--batch 4] [--time 200] [--past 300] [--threads 2] [--rounds 7] [--weights f32] [--cache f32] [--all]`
//!
//! `--weights q8_0` (or `q4_1`) holds matrices in blocks, `f16` and `bf16` in these, and `--cache` (`f16`, `bf16`, `q8`)
//! caches; then nothing is trained.
//!
//! The fastest of the rounds counts for each kernel: others on the machine only ever slow it down.

mod held;

use diptych_codegen::c::prelude::{LINK_FLAGS, prelude};
use diptych_codegen::entry::Limits;
use diptych_cost::{Bound, EntryPrediction, Machine, ProbeSource, RunSizes, Target, measured, predict_entry};
use diptych_ir::EntryKind;
use diptych_models::hugging_face::Checkpoint;
use diptych_models::{Registry, build, initialize};
use diptych_runtime::device::Cpu;
use diptych_runtime::executor::{Binding, CacheRooms, CacheSize, Executable, LaunchTime, RunError, Sequence};
use diptych_runtime::session::{Device, Session};
use held::{with_cache, with_weights};
use std::path::Path;
use std::time::Instant;

type Failure = Box<dyn std::error::Error>;

fn option(name: &str, default: &str) -> String {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == name);
    at.and_then(|at| arguments.get(at + 1).cloned()).unwrap_or_else(|| default.to_owned())
}

fn flag(name: &str) -> bool {
    std::env::args().any(|argument| argument == name)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// How long a run and each of its launches took at the best.
struct Best {
    run: f64,
    launches: Vec<f64>,
}

fn time(run: &mut Executable, device: &Device, binding: &Binding, rounds: usize) -> Result<Best, RunError> {
    run.refresh(device, binding)?;
    run.run(device, binding)?;
    let mut best = Best { run: f64::INFINITY, launches: Vec::new() };
    // Not recorded first, since reading the clock takes time of its own.
    for _ in 0..rounds {
        let start = Instant::now();
        run.run(device, binding)?;
        best.run = best.run.min(start.elapsed().as_secs_f64());
    }
    for _ in 0..rounds {
        run.record(1);
        run.run(device, binding)?;
        let times: Vec<f64> = run.take_recording().times().iter().map(LaunchTime::seconds).collect();
        if best.launches.is_empty() {
            best.launches = times;
        } else {
            best.launches.iter_mut().zip(times).for_each(|(best, time)| *best = best.min(time));
        }
    }
    Ok(best)
}

/// A kernel's row in the table of errors.
struct Row {
    entry: &'static str,
    name: String,
    predicted: f64,
    measured: f64,
    reason: String,
}

impl Row {
    fn error(&self) -> f64 {
        (self.predicted / self.measured - 1.0).abs()
    }
}

fn describe(bound: &Bound) -> String {
    match bound {
        Bound::Memory(level) => level.clone(),
        other => format!("{other:?}").to_lowercase(),
    }
}

fn report(entry: &'static str, prediction: &EntryPrediction, best: &Best, rows: &mut Vec<Row>) -> f64 {
    let predicted = prediction.seconds();
    println!(
        "\n{entry}: predicted {:.3} ms, measured {:.3} ms ({:+.0}%)",
        predicted * 1e3,
        best.run * 1e3,
        100.0 * (predicted / best.run - 1.0)
    );
    println!("   runs    GFLOP       MB  flop/B  predicted   measured   error  bound      kernel");
    let mut launches: Vec<_> = prediction.launches.iter().zip(&best.launches).collect();
    launches.sort_by(|a, b| b.1.total_cmp(a.1));
    for (at, (launch, &seconds)) in launches.into_iter().enumerate() {
        let parts = &launch.breakdown;
        let error = 100.0 * (launch.seconds / seconds - 1.0);
        if at < 25 || flag("--all") {
            println!(
                "{:7} {:8.3} {:8.2} {:7.1} {:7.3} ms {:7.3} ms {error:+6.0}%  {:10} {}",
                launch.runs,
                launch.work.flops() / 1e9,
                launch.work.footprint_bytes() / 1e6,
                launch.work.arithmetic_intensity().unwrap_or(0.0),
                launch.seconds * 1e3,
                seconds * 1e3,
                describe(&launch.bound),
                launch.name,
            );
        }
        let levels: Vec<String> = parts
            .level_seconds
            .iter()
            .filter(|level| level.1 > 0.0)
            .map(|(name, seconds)| format!("{name} {:.3}", seconds * 1e3))
            .collect();
        let reason = format!(
            "dot {:.3}, arithmetic {:.3}, functions {:.3}, {}, overhead {:.3} ms",
            parts.dot_seconds * 1e3,
            parts.arithmetic_seconds * 1e3,
            parts.transcendental_seconds * 1e3,
            levels.join(", "),
            parts.overhead_seconds * 1e3
        );
        rows.push(Row {
            entry,
            name: launch.name.clone(),
            predicted: launch.seconds,
            measured: seconds,
            reason,
        });
    }
    predicted / best.run - 1.0
}

fn main() -> Result<(), Failure> {
    let number = |name: &str, default: &str| option(name, default).parse::<usize>();
    let (batch, length, past) = (number("--batch", "4")?, number("--time", "200")?, number("--past", "300")?);
    let (threads, rounds) = (number("--threads", "2")?, number("--rounds", "7")?);
    let folder = option("--hugging-face", "");
    let (context, vocab, mut program) = if folder.is_empty() {
        let architecture = Registry::zoo().preset(&option("--model", "llama-15m"))?;
        (architecture.context(), architecture.vocab(), build(architecture.as_ref())?)
    } else {
        let checkpoint = Checkpoint::open(Path::new(&folder), &Registry::zoo())?;
        let architecture = checkpoint.architecture();
        (architecture.context(), architecture.vocab(), checkpoint.program().clone())
    };
    let (length, past) = (length.min(context), past.min(context.saturating_sub(1)));
    let mut kinds =
        vec![EntryKind::Train, EntryKind::Update, EntryKind::Score, EntryKind::Prefill, EntryKind::Decode];
    let (weights, cache) = (option("--weights", "f32"), option("--cache", "f32"));
    program = with_weights(&program, &weights)?;
    if weights != "f32" || cache != "f32" {
        kinds.retain(|kind| !kind.trains());
    }
    let cpu = Cpu::new(Some(threads))?;
    let flags = cpu.width.cc_flags();
    let device = Device::Cpu(cpu);

    let source = ProbeSource { prelude: prelude(), flags: &flags, link_flags: LINK_FLAGS };
    let folder = std::env::temp_dir().join("diptych-predicted");
    if flag("--measure-again") {
        std::fs::remove_dir_all(&folder).ok();
    }
    let measurement = measured(&source, threads, &folder)?;
    if flag("--machine") {
        println!("{:#?}", measurement.rates);
    }
    let machine: Machine =
        Target::load("this-machine")?.into_machine(Some((measurement.rates, measurement.memory_bytes)))?;

    let mut session = Session::load(&device, with_cache(&program, &cache, &kinds, &device)?, context)?;
    for name in program.params.keys() {
        session.store.set(*name, &initialize(&program, name.as_str(), 1)?)?;
    }
    let stride = (length.max(past + 1)).div_ceil(64);
    let chunks: Vec<Vec<i32>> =
        (0..batch).map(|sequence| (0..stride).map(|at| (sequence * stride + at) as i32).collect()).collect();
    let caches = CacheRooms::new(
        &session.compiled.entries[&EntryKind::Decode],
        CacheSize { chunks: batch * stride, sequences: batch },
    )?;
    let mut rows = Vec::new();
    let mut errors = Vec::new();
    for kind in kinds {
        let (origin, length) = if kind == EntryKind::Decode { (past, 1) } else { (0, length) };
        let limits = Limits { rows: batch * length, batch };
        let mut run = session.executable(&device, kind, kind.cached().then_some(&caches), limits)?;
        if let Some(tokens) = run.input::<i32>("tokens") {
            tokens.iter_mut().enumerate().for_each(|(at, token)| *token = (at * 7919 % vocab) as i32);
        }
        if let Some(targets) = run.input::<i32>("targets") {
            targets.iter_mut().enumerate().for_each(|(at, token)| *token = (at * 6007 % vocab) as i32);
        }
        if let Some(last) = run.input::<i32>("last") {
            last.fill(length as i32 - 1);
        }
        for (name, value) in [
            ("inverse_tokens", 1.0 / (batch * length) as f32),
            ("learning_rate", 1e-5),
            ("bias_correction_mean", 0.5),
            ("bias_correction_variance", 0.5),
        ] {
            if let Some(input) = run.input::<f32>(name) {
                input[0] = value;
            }
        }
        let cached = if kind.cached() { caches.size() } else { CacheSize::default() };
        let mut binding = Binding::cached(limits, context, cached);
        let sequence = |(state, chunks)| Sequence { origin, length, chunks, state };
        let chunks = chunks.iter().map(|chunks| if kind.cached() { &chunks[..] } else { &[] });
        let sequences: Vec<_> = chunks.enumerate().map(sequence).collect();
        binding.bind(&sequences)?;
        let best = time(&mut run, &device, &binding, rounds)?;
        let sizes = RunSizes::equal(batch, origin, length);
        let prediction = predict_entry(&session.compiled.entries[&kind], &machine, threads, &sizes);
        errors.push(report(kind.name(), &prediction, &best, &mut rows).abs());
    }

    println!(
        "\nmedian absolute error: {:.0}% per kernel ({} kernels), {:.0}% per entry",
        100.0 * median(rows.iter().map(Row::error).collect()),
        rows.len(),
        100.0 * median(errors)
    );
    let total: f64 = rows.iter().map(|row| row.measured).sum();
    let weighted: f64 = rows.iter().map(|row| row.error() * row.measured).sum();
    println!("mean absolute error weighted by time: {:.0}%", 100.0 * weighted / total);
    rows.sort_by(|a, b| {
        let lost = |row: &Row| (row.predicted - row.measured).abs() * row.error().min(10.0);
        lost(b).total_cmp(&lost(a))
    });
    println!("the worst five, by error and time:");
    for row in rows.iter().take(5) {
        println!(
            "  {} {}: predicted {:.3} ms, measured {:.3} ms; {}",
            row.entry,
            row.name,
            row.predicted * 1e3,
            row.measured * 1e3,
            row.reason
        );
    }
    Ok(())
}
