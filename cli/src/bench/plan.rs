//! How much a bench has time for: each model is compiled and a few of its steps
//! are timed, and the steps that fit are the same for all. It reports nothing.

use super::{Bench, Contender, SEED, serve};
use crate::config::identity;
use crate::failure::Result;
use crate::format::seconds;
use crate::machine::MemoryBound;
use crate::output::tell;
use crate::report::Compile;
use crate::start::initialize_trainer;
use diptych_data::TrainingOrder;
use diptych_runtime::decode::{ServeMemory, ServeOptions};
use diptych_runtime::schedule::{ScheduleConfig, ScheduleKind};
use diptych_runtime::session::NATIVE_CODE;
use diptych_runtime::train::{OptimizerOptions, Plan, TrainOptions, Trainer};
use std::time::Instant;

/// Steps that are timed, after one that is not.
const TIMED: u64 = 2;
/// Fewer show nothing, even where the machine is too slow for its seconds.
const LEAST_STEPS: u64 = 10;
/// The highest learning rate: runs are short, and the models small.
const LEARNING_RATE: f64 = 3e-3;
/// Held-out tokens for each one trained on; each costs a third of a trained one.
const HELD_OUT_SHARE: f64 = 0.2;
const HELD_OUT_LEAST: f64 = 8192.0;
const HELD_OUT_MOST: f64 = 65536.0;

/// What compiling and timing a model gave.
pub struct Compiled {
    /// For the report.
    pub compile: Compile,
    /// Seconds of a training step.
    pub step_seconds: f64,
    /// Seconds to load it again.
    pub load_seconds: f64,
}

/// How a model is trained for so many steps.
pub fn options(batch: usize, time: usize, steps: u64) -> TrainOptions {
    TrainOptions {
        batch,
        time,
        accumulation: 1,
        steps: Some(steps),
        tokens: None,
        optimizer: OptimizerOptions::default(),
        schedule: ScheduleConfig {
            kind: ScheduleKind::Cosine,
            peak: LEARNING_RATE,
            floor: LEARNING_RATE / 10.0,
            warmup_steps: (steps / 10).max(1).min(steps),
            total_steps: steps,
            decay_steps: 0,
        },
        seed: SEED,
        evaluate_every: 0,
    }
}

/// A model compiled to be trained and to serve, before it takes memory, and the
/// most that the process will have with it.
///
/// # Errors
/// When it cannot be compiled.
pub fn plan(bench: &Bench<'_>, contender: &Contender, steps: u64) -> Result<(Plan, MemoryBound)> {
    let identity = identity(&*contender.architecture);
    let context = identity.context;
    let plan = Plan::new(
        bench.device,
        &contender.rewritten,
        identity,
        options(bench.batch, bench.time, steps),
        &serve::ENTRIES,
    )?;
    let room = ServeOptions::single(context);
    let served = ServeMemory::of(bench.device, plan.compiled(), context, room, &serve::ENTRIES);
    let bound = MemoryBound::now(plan.memory_bound().total() + served.beside_parameters());
    Ok((plan, bound))
}

/// A trainer of the model at its start.
///
/// # Errors
/// When it cannot be loaded.
pub fn trainer<'d>(bench: &Bench<'d>, contender: &Contender, plan: Plan) -> Result<Trainer<'d>> {
    let mut trainer = Trainer::load(bench.device, plan)?;
    initialize_trainer(&mut trainer, &contender.program, SEED)?;
    Ok(trainer)
}

/// Compiles and times every model.
///
/// # Errors
/// When one cannot be compiled or trained.
pub fn compile_all(
    bench: &Bench<'_>,
    contenders: &[Contender],
    order: &TrainingOrder,
) -> Result<Vec<Compiled>> {
    contenders.iter().map(|contender| compile(bench, contender, order)).collect()
}

fn compile(bench: &Bench<'_>, contender: &Contender, order: &TrainingOrder) -> Result<Compiled> {
    let start = Instant::now();
    let (plan, bound) = plan(bench, contender, TIMED + 1)?;
    tell(format!("{}: {}", contender.title, bound.text()));
    let mut trainer = trainer(bench, contender, plan)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let (stages, stats) = (&trainer.session().compiled.stages, trainer.session().compile_stats());
    let mut stages = stages.clone();
    if !stages.iter().any(|stage| stage.0 == NATIVE_CODE) {
        stages.push((NATIVE_CODE.to_owned(), stats.seconds));
    }
    let compile = Compile {
        seconds: stages.iter().map(|stage| stage.1).sum(),
        stages,
        compiled: stats.compiled,
        reused: stats.hits,
    };
    let native = stats.seconds;
    let mut step_seconds = f64::INFINITY;
    for step in 0..=TIMED {
        let report = trainer.step(|number, inputs, targets| {
            order.batch(number, bench.batch, inputs, targets);
        })?;
        if step > 0 {
            step_seconds = step_seconds.min(report.seconds);
        }
    }
    tell(format!(
        "{}: compiled in {} ({} files compiled, {} cached), {} a step",
        contender.title,
        seconds(compile.seconds),
        compile.compiled,
        compile.reused,
        seconds(step_seconds)
    ));
    // Loaded again, its kernels come from the cache.
    Ok(Compiled { compile, step_seconds, load_seconds: (load_seconds - native).max(0.0) })
}

/// Held-out tokens for a run on so many.
pub fn held_out_tokens(tokens: u64) -> usize {
    (tokens as f64 * HELD_OUT_SHARE).clamp(HELD_OUT_LEAST, HELD_OUT_MOST) as usize
}

/// The steps that so many seconds leave each model, at least [`LEAST_STEPS`].
pub fn steps(bench: &Bench<'_>, compiled: &[Compiled], seconds: f64) -> u64 {
    let all: f64 = compiled.iter().map(|compiled| compiled.step_seconds).sum();
    let loads: f64 = compiled.iter().map(|compiled| compiled.load_seconds).sum();
    let serve = 2.5 * bench.serve_seconds * (bench.contexts.len() * compiled.len()) as f64;
    let tokens_a_step = (bench.batch * bench.time) as f64;
    let held_out = HELD_OUT_LEAST / tokens_a_step / 3.0 * all;
    let left = seconds - loads - serve - held_out;
    ((left / (all * (1.0 + HELD_OUT_SHARE / 3.0))) as u64).max(LEAST_STEPS)
}
