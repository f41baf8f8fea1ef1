//! One model of a bench from its first step to its last generated token, and
//! the report of it.

use super::plan::{Compiled, plan, trainer};
use super::{Bench, Contender, loss, serve};
use crate::failure::Result;
use crate::held_out::HeldOutSet;
use crate::machine::{peak_memory, reset_peak_memory};
use crate::model_flops::forward_flops_per_token;
use crate::output::tell;
use crate::progress::StepProgress;
use crate::report::{KernelTime, ModelReport, Point, loss_text};
use diptych_cost::money::price_per_million_tokens;
use diptych_cost::utilisation::model_flops_utilisation;
use diptych_cost::{Precision, RunSizes, predict_entry};
use diptych_data::{DocumentLoss, TrainingOrder, loss_per_byte, loss_per_token};
use diptych_ir::EntryKind;
use diptych_models::count_parameters;
use diptych_runtime::train::Trainer;
use std::collections::BTreeMap;

/// The last steps, which are timed launch by launch.
const TIMED: u64 = 3;

/// What training itself gave.
#[derive(Default)]
struct Trained {
    curve: Vec<Point>,
    /// Tokens a second of the median step, the first and the timed left out.
    tokens_per_second: f64,
    kernels: Vec<KernelTime>,
    unattributed_seconds: f64,
}

/// Trains, evaluates and serves a model.
///
/// # Errors
/// When it diverges, or memory is short.
pub fn run(
    bench: &Bench<'_>,
    contender: &Contender,
    compiled: Compiled,
    steps: u64,
    order: &TrainingOrder,
    set: &HeldOutSet<'_>,
) -> Result<(ModelReport, Vec<DocumentLoss>)> {
    let told = reset_peak_memory();
    let (plan, bound) = plan(bench, contender, steps)?;
    let mut trainer = trainer(bench, contender, plan)?;
    let trained = train(bench, contender, &mut trainer, steps, order)?;
    let losses = set.losses(&mut trainer)?;
    let estimate = loss_per_token(&losses);
    tell(format!("{}: held-out loss {} nats/token", contender.title, loss_text(&loss(estimate))));
    let served = serve::run(bench, contender, &trainer)?;
    let speed = trained.tokens_per_second;
    let train_flops_per_token = 3.0 * forward_flops_per_token(&contender.program, bench.time);
    let peak = bench.machine.peak_flops_per_second(Precision::F32);
    let price = bench.machine.price.as_ref();
    let report = ModelReport {
        preset: contender.preset.clone(),
        title: contender.title.clone(),
        family: contender.architecture.name().to_owned(),
        config: contender.architecture.describe(),
        parameters: count_parameters(&contender.program),
        train_flops_per_token,
        held_out: loss(estimate),
        held_out_per_byte: loss(loss_per_byte(&losses)),
        train_tokens_per_second: speed,
        mfu: model_flops_utilisation(train_flops_per_token, speed, peak),
        prefill: served.prefill,
        decode: served.decode,
        cache_bytes_per_token: served.cache_bytes_per_token,
        state_bytes_per_sequence: served.state_bytes_per_sequence,
        memory_bound: bound.total(),
        peak_memory: if told { peak_memory() } else { None },
        compile: compiled.compile,
        train_price: price
            .and_then(|price| price_per_million_tokens(price, 1.0, speed))
            .map(|money| money.amount),
        curve: trained.curve,
        kernels: trained.kernels,
        unattributed_seconds: trained.unattributed_seconds,
        sample: served.sample,
    };
    Ok((report, losses))
}

fn train(
    bench: &Bench<'_>,
    contender: &Contender,
    trainer: &mut Trainer<'_>,
    steps: u64,
    order: &TrainingOrder,
) -> Result<Trained> {
    let mut trained = Trained::default();
    let mut progress = StepProgress::new(&contender.title, 0, steps);
    let timed_from = steps.saturating_sub(TIMED);
    let (mut timed_seconds, mut seconds) = (0.0, Vec::new());
    for step in 0..steps {
        if step == timed_from {
            let runs = (steps - timed_from) as usize;
            trainer.executables().into_iter().for_each(|(_, entry)| entry.record(runs));
        }
        let report = trainer.step(|number, inputs, targets| {
            order.batch(number, bench.batch, inputs, targets);
        })?;
        progress.step(report.loss, report.tokens, report.seconds);
        trained.curve.push(Point { tokens: trainer.tokens_seen(), loss: report.loss });
        match step {
            _ if step >= timed_from => timed_seconds += report.seconds,
            0 => {}
            _ => seconds.push(report.seconds),
        }
    }
    let timed = (steps - timed_from) as f64;
    if seconds.is_empty() {
        // A run too short for any other step.
        seconds.push(timed_seconds / timed);
    }
    trained.tokens_per_second = (bench.batch * bench.time) as f64 / serve::median(&mut seconds);
    progress.finish();
    trained.kernels = kernels(bench, trainer, timed);
    let in_kernels: f64 = trained.kernels.iter().map(|kernel| kernel.seconds).sum();
    trained.unattributed_seconds = (timed_seconds / timed - in_kernels).max(0.0);
    Ok(trained)
}

/// The kernels of a step by their time, from so many timed steps.
fn kernels(bench: &Bench<'_>, trainer: &mut Trainer<'_>, steps: f64) -> Vec<KernelTime> {
    let mut times = Vec::new();
    for (kind, entry) in trainer.executables() {
        times.push((kind, entry.take_recording().times()));
    }
    let mut kernels: BTreeMap<(EntryKind, &str), (f64, f64, f64)> = BTreeMap::new();
    let entries = &trainer.session().compiled.entries;
    for (kind, times) in &times {
        let Some(entry) = entries.get(kind) else { continue };
        for time in times {
            let sum = kernels.entry((*kind, entry.kernel_name(time.kernel))).or_default();
            sum.0 += time.seconds() / steps;
            sum.1 += time.runs as f64 / steps;
        }
        let sizes = match kind {
            EntryKind::Train | EntryKind::Step => RunSizes::equal(bench.batch, 0, bench.time),
            _ => RunSizes::equal(1, 0, 1),
        };
        let prediction = predict_entry(entry, bench.machine, bench.device.threads(), &sizes);
        for launch in &prediction.launches {
            kernels.entry((*kind, entry.kernel_name(launch.kernel))).or_default().2 += launch.seconds;
        }
    }
    let mut kernels: Vec<KernelTime> = kernels
        .into_iter()
        .map(|((kind, name), (seconds, launches, predicted_seconds))| KernelTime {
            name: name.to_owned(),
            entry: kind.name().to_owned(),
            launches: launches.round() as usize,
            seconds,
            predicted_seconds,
        })
        .collect();
    kernels.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    kernels
}
