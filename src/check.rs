//! Native code against the reference evaluator, for a model of one's own: the
//! same numbers go through both. It knows no architecture.

use crate::{ModelError, models::initialize};
use diptych_ir::evaluate::{Context, Value, evaluate};
use diptych_ir::{EntryKind, IrError, Program, Symbol};
use diptych_passes::differentiate;
use diptych_passes::differentiate::gradient_name;
use diptych_runtime::decode::{DecodeError, ServeOptions, Server, Window};
use diptych_runtime::executor::ParameterError;
use diptych_runtime::schedule::{ScheduleConfig, ScheduleKind};
use diptych_runtime::session::{Device, SessionError};
use diptych_runtime::train::{ModelIdentity, OptimizerOptions, Plan, TrainError, TrainOptions, Trainer};

/// Why a model cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A parameter cannot be started.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The evaluator or differentiation refuses it.
    #[error(transparent)]
    Graph(#[from] IrError),
    /// It cannot be compiled.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// It cannot be served.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// It cannot be trained.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// A gradient cannot be read.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    /// The texts do not fit.
    #[error("texts to check a model with: {0}")]
    Texts(String),
}

/// How far native code is from the evaluator at most.
#[derive(Clone, Copy, Debug)]
pub struct Differences {
    /// Of log-probabilities of targets (entry `score`), in nats.
    pub score: f64,
    /// Of logits, after the first half of each text (`prefill`) and each token from there on (`decode`).
    pub serving: f64,
    /// Of gradients (`train`), as a part of the largest element of all gradients.
    pub gradients: f64,
}

/// What [`crate::ir::evaluate::evaluate`] is given for `texts`, which are as long
/// as each other: token ids, each of them the target of the one before, and the
/// parameters as [`initialize`] starts them. Both may be changed before use.
///
/// # Errors
/// When there is no text, one is shorter than two tokens, or their lengths differ.
pub fn reference_context(program: &Program, texts: &[&[i32]], seed: u64) -> Result<Context, CheckError> {
    let (batch, time) = (texts.len(), texts.first().map_or(0, |text| text.len()));
    if time < 2 || texts.iter().any(|text| text.len() != time) {
        let lengths: Vec<usize> = texts.iter().map(|text| text.len()).collect();
        let problem =
            format!("their lengths are {lengths:?}; give at least one, all of one length from 2 on");
        return Err(CheckError::Texts(problem));
    }
    let mut context = Context::default();
    let [batch_axis, time_axis, past] = ["batch", "time", "past"].map(Symbol::new);
    context.sizes.extend([(batch_axis, batch), (time_axis, time), (past, time)]);
    let rows = [(batch_axis, batch), (time_axis, time)];
    let tokens = texts.concat().iter().map(|&token| f64::from(token)).collect();
    let next =
        |text: &&[i32]| text[1..].iter().chain(&[-1]).map(|&token| f64::from(token)).collect::<Vec<_>>();
    let inputs = [
        ("tokens", Value::new(&rows, tokens)?),
        ("targets", Value::new(&rows, texts.iter().flat_map(next).collect())?),
        ("last", Value::new(&rows[..1], vec![(time - 1) as f64; batch])?),
        ("inverse_tokens", Value::scalar(1.0 / (batch * (time - 1)) as f64)),
    ];
    context.inputs.extend(inputs.map(|(name, value)| (Symbol::new(name), value)));
    for (&name, info) in &program.params {
        let axes: Vec<_> =
            info.order.iter().filter_map(|axis| Some((axis.name, axis.fixed_size()?))).collect();
        let numbers = initialize(program, name.as_str(), seed)?;
        context.params.insert(name, Value::new(&axes, numbers.into_iter().map(f64::from).collect())?);
    }
    Ok(context)
}

/// Compiles all entries for this machine's CPU, runs them on the tokens and
/// parameters of a [`reference_context`], and compares with the evaluator. The
/// evaluator is slow: give small sizes and texts of a few tokens.
///
/// # Errors
/// When a pass refuses the program, the machine has no C compiler, or the texts do not fit the model.
pub fn check(program: &Program, context: &Context) -> Result<Differences, CheckError> {
    let input = |name: &str| {
        let value = context.inputs.get(&Symbol::new(name));
        value.ok_or_else(|| CheckError::Texts(format!("no input `{name}`; see `reference_context`")))
    };
    let whole = |value: &Value| value.data.iter().map(|&id| id as i32).collect::<Vec<_>>();
    let (tokens, targets) = (whole(input("tokens")?), whole(input("targets")?));
    let batch = input("last")?.data.len();
    let time = tokens.len() / batch.max(1);
    let device = Device::cpu(None)?;
    let mut trainer = trainer(&device, program, batch, time)?;
    let ordered = |name: &str| {
        let name = Symbol::new(name);
        let numbers = context.params[&name].in_order(&program.params[&name].order);
        numbers.into_iter().map(|number| number as f32).collect()
    };
    if let Some(missing) = program.params.keys().find(|name| !context.params.contains_key(name)) {
        return Err(CheckError::Texts(format!("no numbers for the parameter `{missing}`")));
    }
    trainer.initialize(ordered)?;

    let root = |kind: EntryKind, name: &str, context: &Context| {
        let entry = program.entry(kind).and_then(|entry| entry.root(name));
        let node = entry.ok_or_else(|| IrError::Invalid(format!("no root `{name}` of `{}`", kind.name())))?;
        Ok::<Value, IrError>(evaluate(program, &[node], context)?.remove(0))
    };
    let options = ServeOptions {
        rows: batch * time,
        batch,
        sequences: batch,
        cache_positions: batch * time.next_multiple_of(64),
    };
    let mut server = Server::new(&device, trainer.session(), options)?;
    let windows: Vec<Window> = tokens
        .chunks(time)
        .zip(targets.chunks(time))
        .map(|(tokens, targets)| Window { tokens, targets })
        .collect();
    let mut found = Vec::new();
    server.score(&windows, &mut found)?;
    let score = largest_difference(&found, &root(EntryKind::Score, "log_prob", context)?.data);

    let sequences = (0..batch).map(|_| server.start()).collect::<Result<Vec<_>, _>>()?;
    let mut serving: f64 = 0.0;
    for length in time.div_ceil(2)..=time {
        let texts = sequences.iter().copied().zip(tokens.chunks(time));
        let found = match length == time.div_ceil(2) {
            true => server.prefill(&texts.map(|(id, text)| (id, &text[..length])).collect::<Vec<_>>())?,
            false => server.decode(&texts.map(|(id, text)| (id, text[length - 1])).collect::<Vec<_>>())?,
        };
        let mut here = context.clone();
        let last = Value::new(&[(Symbol::new("batch"), batch)], vec![(length - 1) as f64; batch])?;
        here.inputs.insert(Symbol::new("last"), last);
        let mut wanted = root(EntryKind::Prefill, "logits", &here)?;
        // Served logits are a row for each sequence, whatever the vocabulary is called.
        let mut axes = wanted.axes.clone();
        axes.sort_by_key(|axis| axis.0.as_str() != "batch");
        wanted = Value::build(axes, |index| wanted.at(index));
        serving = serving.max(largest_difference(found, &wanted.data));
    }
    drop(server);

    trainer.step(|_, inputs, wanted| {
        inputs.copy_from_slice(&tokens);
        wanted.copy_from_slice(&targets);
    })?;
    let backward = differentiate(program)?;
    let updates = backward.entry(EntryKind::Train).map_or(&[][..], |entry| &entry.updates);
    let nodes: Vec<_> = updates.iter().map(|update| update.1).collect();
    let (mut most, mut apart): (f64, f64) = (0.0, 0.0);
    let wanted = evaluate(&backward, &nodes, context)?;
    for (name, info) in &program.params {
        let Some(at) = updates.iter().position(|update| update.0 == gradient_name(*name)) else { continue };
        let wanted = wanted[at].in_order(&info.order);
        most = wanted.iter().fold(most, |most, number| most.max(number.abs()));
        apart = apart.max(largest_difference(&trainer.session().store.get(gradient_name(*name))?, &wanted));
    }
    Ok(Differences { score, serving, gradients: apart / most.max(f64::MIN_POSITIVE) })
}

/// A trainer of one step, from whose session the other entries can be had.
fn trainer<'d>(
    device: &'d Device,
    program: &Program,
    batch: usize,
    time: usize,
) -> Result<Trainer<'d>, TrainError> {
    let context = program.bounds.get(&Symbol::new("time")).map_or(time, |bounds| bounds.most);
    let schedule = ScheduleConfig {
        kind: ScheduleKind::Constant,
        peak: 1e-3,
        floor: 0.0,
        warmup_steps: 0,
        total_steps: 1,
        decay_steps: 0,
    };
    let options = TrainOptions {
        batch,
        time,
        accumulation: 1,
        steps: Some(1),
        tokens: None,
        optimizer: OptimizerOptions::default(),
        schedule,
        seed: 0,
        evaluate_every: 0,
    };
    let identity =
        ModelIdentity { family: program.name.to_string(), config: serde_json::Value::Null, context };
    let also = [EntryKind::Score, EntryKind::Prefill, EntryKind::Decode];
    Trainer::load(device, Plan::new(device, program, identity, options, &also)?)
}

/// Infinite where one is not a number, or their counts differ.
fn largest_difference(found: &[f32], wanted: &[f64]) -> f64 {
    if found.len() != wanted.len() {
        return f64::INFINITY;
    }
    let apart = found.iter().zip(wanted).map(|(&found, wanted)| (f64::from(found) - wanted).abs());
    apart.fold(0.0, |most, apart| if apart.is_nan() { f64::INFINITY } else { most.max(apart) })
}
