//! What `compare` finds, as data. It asks the cost model and computes nothing of its own but ratios.

use super::Place;
use crate::failure::{Failure, Result};
use diptych_codegen::driver::Rewriting;
use diptych_cost::money::{TOKENS_PER_MILLION, price_per_million_tokens};
use diptych_cost::{JobCost, JobKind, LaunchPrediction, ModelCost, Precision as Multiplied};
use diptych_models::{Architecture, Precision, Registry, build};
use diptych_passes::AdamWOptions;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Instant;

/// Where figures are taken.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Grid {
    /// Sequences at once.
    pub batches: Vec<usize>,
    /// Tokens of a sequence, or positions that a token sees.
    pub contexts: Vec<usize>,
    /// Tokens of a training step.
    pub step_tokens: usize,
}

impl Grid {
    /// The point of the grid at which kernels are shown: in the middle of both.
    pub fn middle(&self) -> (usize, usize) {
        let middle = |numbers: &[usize]| numbers[numbers.len() / 2];
        (middle(&self.batches), middle(&self.contexts))
    }
}

/// Everything that `compare` found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Findings {
    /// The version of Diptych.
    pub version: String,
    /// Where figures are taken.
    pub grid: Grid,
    /// The machines.
    pub targets: Vec<TargetFacts>,
    /// A column of the table each.
    pub models: Vec<ModelFindings>,
}

/// A machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TargetFacts {
    /// Its name.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// The type in which matrices are multiplied.
    pub dtype: String,
    /// Bytes of one device.
    pub memory_bytes: f64,
    /// Peak at that type, FLOP/s.
    pub peak_flops_per_second: f64,
    /// Rate of main memory, bytes/s.
    pub memory_bytes_per_second: f64,
    /// Currency of prices; none without a price.
    pub currency: Option<String>,
    /// Price of an hour of one device, and where it is from.
    pub price_per_hour: Option<f64>,
    /// Where that is from.
    pub price_basis: String,
    /// Figures that nothing backs, and what they are.
    pub unmeasured: BTreeMap<String, String>,
}

/// What was found of a model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelFindings {
    /// What it is called.
    pub title: String,
    /// The family.
    pub family: String,
    /// The most positions of a sequence.
    pub context: usize,
    /// Token ids.
    pub vocabulary: usize,
    /// Numbers trained.
    pub parameters: f64,
    /// Those that take part in computing a token.
    pub active_parameters: f64,
    /// By target, in the order of [`Findings::targets`].
    pub on: Vec<OnTarget>,
}

/// What a model takes on a machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OnTarget {
    /// Bytes of parameters that serving reads.
    pub weight_bytes: f64,
    /// Bytes that a position takes in the caches of all layers.
    pub cache_bytes_per_token: f64,
    /// Bytes that a sequence takes whatever its length: states of recurrences in all layers.
    pub state_bytes_per_sequence: f64,
    /// Bytes of parameters as they are trained.
    pub trained_bytes: f64,
    /// Bytes of gradients.
    pub gradient_bytes: f64,
    /// Bytes of moments.
    pub optimizer_bytes: f64,
    /// By context.
    pub by_context: Vec<ByContext>,
    /// All points of the grid that the model's context allows.
    pub points: Vec<Point>,
    /// Kernels of each job at the middle of the grid, longest first.
    pub kernels: Vec<Kernel>,
    /// Seconds that compiling took.
    pub compile_seconds: f64,
}

/// What depends on the context alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ByContext {
    /// Tokens of a sequence.
    pub context: usize,
    /// Three times the contractions of a token going forward.
    pub train_flops_per_token: f64,
    /// Contractions of a training token as compiled, with what is computed again.
    pub executed_train_flops_per_token: f64,
    /// Contractions of a generated token that sees so many positions.
    pub decode_flops_per_token: f64,
    /// Bytes of activations that one sequence takes in training.
    pub activation_bytes: f64,
}

/// A job at a batch and a context.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Point {
    /// The job.
    pub job: JobKind,
    /// Sequences at once.
    pub batch: usize,
    /// Tokens of a sequence, or positions that a token sees.
    pub context: usize,
    /// Seconds of one device for a million tokens.
    pub seconds_per_million_tokens: f64,
    /// What those cost; none without a price.
    pub price_per_million_tokens: Option<f64>,
    /// What most of the time is bound by: `compute`, `memory` or `launch`.
    pub bound: String,
    /// Share of the time bound by computing, by memory and by launches.
    pub bound_shares: [f64; 3],
    /// Bytes that are to be held.
    pub memory_bytes: f64,
    /// Devices that hold them.
    pub devices: u64,
}

/// A kernel on the roofline.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kernel {
    /// The job that it is of.
    pub job: JobKind,
    /// Its name.
    pub name: String,
    /// How often it runs.
    pub runs: usize,
    /// Operations of all runs.
    pub flops: f64,
    /// Distinct bytes of all runs.
    pub bytes: f64,
    /// Seconds of all runs.
    pub seconds: f64,
    /// What it is bound by.
    pub bound: String,
}

/// Asks the cost model.
///
/// # Errors
/// When a model cannot be compiled.
pub fn find(
    registry: &Registry,
    models: &[(String, Box<dyn Architecture>)],
    places: &[Place],
    grid: Grid,
) -> Result<Findings> {
    let models = models.iter().map(|(title, model)| of_model(registry, title, &**model, places, &grid));
    Ok(Findings {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        models: models.collect::<Result<_>>()?,
        targets: places.iter().map(facts).collect(),
        grid,
    })
}

fn facts(place: &Place) -> TargetFacts {
    let machine = &place.machine;
    let multiplied = if place.dtype == Precision::BF16 { Multiplied::Bf16 } else { Multiplied::F32 };
    TargetFacts {
        name: machine.name.clone(),
        description: place.description.clone(),
        dtype: dtype_name(place.dtype).to_owned(),
        memory_bytes: machine.memory_bytes,
        peak_flops_per_second: machine.rates.peak_per_thread(multiplied) * place.threads as f64,
        memory_bytes_per_second: machine
            .rates
            .levels
            .last()
            .map_or(f64::NAN, |level| level.read.all_threads_bytes_per_second),
        currency: machine.price.as_ref().map(|price| price.currency.clone()),
        price_per_hour: machine.price.as_ref().map(|price| price.per_hour),
        price_basis: machine.price.as_ref().map_or_else(
            || "no price in the target".to_owned(),
            |price| format!("{}, {}, {}", price.basis, price.as_of, price.source),
        ),
        unmeasured: machine.unmeasured.clone(),
    }
}

fn dtype_name(dtype: Precision) -> &'static str {
    match dtype {
        Precision::F32 => "f32",
        Precision::BF16 => "bf16",
    }
}

fn of_model(
    registry: &Registry,
    title: &str,
    model: &dyn Architecture,
    places: &[Place],
    grid: &Grid,
) -> Result<ModelFindings> {
    // A model is compiled once for each type that it is multiplied in.
    let mut compiled: Vec<(Precision, ModelCost, f64)> = Vec::new();
    let mut on = Vec::new();
    for place in places {
        if !compiled.iter().any(|known| known.0 == place.dtype) {
            let start = Instant::now();
            let cost = compile(registry, title, model, place.dtype)?;
            compiled.push((place.dtype, cost, start.elapsed().as_secs_f64()));
        }
        if let Some((_, cost, seconds)) = compiled.iter().find(|known| known.0 == place.dtype) {
            on.push(on_target(cost, model.context(), place, grid, *seconds));
        }
    }
    let (parameters, active_parameters) = compiled
        .first()
        .map_or((f64::NAN, f64::NAN), |(_, cost, _)| (cost.parameters(), cost.active_parameters()));
    Ok(ModelFindings {
        title: title.to_owned(),
        family: model.name().to_owned(),
        context: model.context(),
        vocabulary: model.vocab(),
        parameters,
        active_parameters,
        on,
    })
}

/// The model with its matrices multiplied in a type. A family without that field computes as it computes.
fn compile(
    registry: &Registry,
    title: &str,
    model: &dyn Architecture,
    dtype: Precision,
) -> Result<ModelCost> {
    let mut config = model.describe();
    if let Some(field) = config.get_mut("dtype") {
        *field = dtype_name(dtype).into();
    }
    let program = build(&*registry.architecture(model.name(), &config)?)?;
    ModelCost::compile(&program, &AdamWOptions::default(), &Rewriting::default())
        .map_err(|error| Failure(format!("{title}: {error}")))
}

fn on_target(cost: &ModelCost, most: usize, place: &Place, grid: &Grid, compile_seconds: f64) -> OnTarget {
    let contexts: Vec<usize> = grid.contexts.iter().copied().filter(|&context| context <= most).collect();
    let job = |kind, batch, context| {
        cost.job(kind, &place.machine, place.threads, (batch, context), grid.step_tokens)
    };
    let mut points = Vec::new();
    for kind in JobKind::ALL {
        for &batch in &grid.batches {
            for &context in &contexts {
                points.push(point(kind, batch, context, &job(kind, batch, context), place));
            }
        }
    }
    let (batch, middle) = grid.middle();
    let mut kernels: Vec<Kernel> = Vec::new();
    for kind in JobKind::ALL {
        kernels.extend(job(kind, batch, middle.min(most)).launches.iter().map(|launch| kernel(kind, launch)));
    }
    kernels.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let kept = cost.training_memory(1, 1);
    OnTarget {
        weight_bytes: cost.weight_bytes(),
        cache_bytes_per_token: cost.cache_bytes_per_token(),
        state_bytes_per_sequence: cost.state_bytes_per_sequence(),
        trained_bytes: kept.parameter_bytes,
        gradient_bytes: kept.gradient_bytes,
        optimizer_bytes: kept.optimizer_bytes,
        by_context: contexts
            .iter()
            .map(|&context| ByContext {
                context,
                train_flops_per_token: cost.train_flops_per_token(context),
                executed_train_flops_per_token: cost.executed_train_flops_per_token(context),
                decode_flops_per_token: cost.decode_flops(context),
                activation_bytes: cost.training_memory(1, context).activation_bytes,
            })
            .collect(),
        points,
        kernels,
        compile_seconds,
    }
}

fn point(kind: JobKind, batch: usize, context: usize, job: &JobCost, place: &Place) -> Point {
    let price = place.machine.price.as_ref();
    let price = price.and_then(|price| price_per_million_tokens(price, 1.0, job.tokens / job.seconds));
    let all: f64 = job.bound_seconds.iter().sum();
    Point {
        job: kind,
        batch,
        context,
        seconds_per_million_tokens: job.seconds / job.tokens * TOKENS_PER_MILLION,
        price_per_million_tokens: price.map(|money| money.amount),
        bound: job.bound.to_owned(),
        bound_shares: job.bound_seconds.map(|seconds| seconds / all.max(f64::MIN_POSITIVE)),
        memory_bytes: job.memory_bytes,
        devices: (job.memory_bytes / place.machine.memory_bytes).ceil() as u64,
    }
}

fn kernel(job: JobKind, launch: &LaunchPrediction) -> Kernel {
    Kernel {
        job,
        name: launch.name.clone(),
        runs: launch.runs,
        flops: launch.work.flops(),
        bytes: launch.work.footprint_bytes(),
        seconds: launch.seconds,
        bound: diptych_cost::model::bound_name(&launch.bound).to_owned(),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use diptych_cost::Target;

    /// Two small models on an H100.
    pub fn example() -> Findings {
        let registry = Registry::zoo();
        let models = ["bench-grouped-query", "gpt2-small"]
            .map(|preset| (preset.to_owned(), registry.preset(preset).unwrap()));
        let machine = Target::load("h100").unwrap().into_machine(None).unwrap();
        let place = Place {
            threads: machine.rates.threads,
            machine,
            description: "a GPU".to_owned(),
            dtype: Precision::BF16,
        };
        // The first has a context of 2048, the second of 1024.
        let grid = Grid { batches: vec![1, 2], contexts: vec![512, 2048], step_tokens: 1 << 16 };
        find(&registry, &models, &[place], grid).unwrap()
    }

    #[test]
    fn figures_hang_together() {
        let findings = example();
        for model in &findings.models {
            let on = &model.on[0];
            assert_eq!(on.trained_bytes, 4.0 * model.parameters, "{}", model.title);
            assert_eq!(on.optimizer_bytes, 2.0 * on.trained_bytes, "{}", model.title);
            assert!(on.weight_bytes < on.trained_bytes, "{}: served in half the bytes", model.title);
            for at in &on.by_context {
                assert!(
                    at.executed_train_flops_per_token >= 0.99 * at.train_flops_per_token,
                    "{}",
                    model.title
                );
            }
            for point in &on.points {
                assert!((point.bound_shares.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{point:?}");
                let price = point.price_per_million_tokens.unwrap();
                assert!(
                    (price - point.seconds_per_million_tokens * 3.24 / 3600.0).abs() < 1e-9 * price,
                    "{point:?}"
                );
                assert!(point.devices >= 1 && point.memory_bytes >= on.weight_bytes, "{point:?}");
            }
            let decode = |batch| {
                let of =
                    |point: &&Point| (point.job, point.batch, point.context) == (JobKind::Decode, batch, 512);
                on.points.iter().find(of).unwrap().seconds_per_million_tokens
            };
            assert!(decode(2) < decode(1), "{}: weights are read once for all sequences", model.title);
        }
        // As others read it.
        let text = serde_json::to_string(&findings).unwrap();
        let again: Findings = serde_json::from_str(&text).unwrap();
        assert_eq!(again.models[1].on[0].points.len(), findings.models[1].on[0].points.len());
    }
}
