//! Native code against the reference evaluator, for a model of one's own: the
//! same numbers go through both. It knows no architecture.

use diptych_codegen::driver::rewrite_by_default;
use diptych_ir::evaluate::{Context, Value, evaluate};
use diptych_ir::{EntryKind, IrError, ParamInfo, Program, Symbol, UpdateRule};
use diptych_models::{ModelError, initialize};
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
    /// The texts or the numbers of parameters do not fit.
    #[error("what to check a model with: {0}")]
    Texts(String),
}

/// The least part of the largest norm of several values that the norm of another counts for.
const LEAST_NORM: f64 = 0.1;

/// How far native code is from the evaluator at most.
#[derive(Clone, Copy, Debug)]
pub struct Differences {
    /// Of log-probabilities of targets (entry `score`), in nats.
    pub score: f64,
    /// Of logits, after the first half of each text (`prefill`) and each token from there on (`decode`).
    pub serving: f64,
    /// Of gradients (`train`), as a part of the largest element of all gradients; not of parameters that descend by sign.
    pub gradients: f64,
}

/// What [`evaluate`] is given for `texts`, which are as long
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
    let found = compare(&Device::cpu(None)?, program, context, None)?;
    let most = |pairs: &[Pair]| pairs.iter().map(largest_difference).fold(0.0, f64::max);
    let gradients = found.gradients.iter().flat_map(|pair| &pair.wanted);
    let largest = gradients.fold(f64::MIN_POSITIVE, |largest, number| largest.max(number.abs()));
    Ok(Differences {
        score: most(&found.score),
        serving: most(&found.serving),
        gradients: most(&found.gradients) / largest,
    })
}

/// The same on any device, with relative errors in place of differences: of all log-probabilities, of the logits of a
/// prompt of the first `prompt` tokens of each text and of the tokens that are decoded after it, and of gradients. It is the
/// largest norm of a difference over the norm of what is wanted, which counts for no less than a tenth of that of the
/// largest value of the kind, element for element.
///
/// # Errors
/// As those of [`check`], and when the device fails.
pub fn relative_errors(
    device: &Device,
    program: &Program,
    context: &Context,
    prompt: usize,
) -> Result<Differences, CheckError> {
    let found = compare(device, program, context, Some(prompt))?;
    Ok(Differences {
        score: relative_error(&found.score),
        serving: relative_error(&found.serving),
        gradients: relative_error(&found.gradients),
    })
}

/// What was computed, and what it should be.
pub(crate) struct Pair {
    pub(crate) found: Vec<f32>,
    pub(crate) wanted: Vec<f64>,
}

/// All that was computed.
struct Found {
    score: Vec<Pair>,
    serving: Vec<Pair>,
    gradients: Vec<Pair>,
}

/// Runs all entries, with a prompt of so many tokens of each text, or of half of it.
fn compare(
    device: &Device,
    program: &Program,
    context: &Context,
    prompt: Option<usize>,
) -> Result<Found, CheckError> {
    let input = |name: &str| {
        let value = context.inputs.get(&Symbol::new(name));
        value.ok_or_else(|| CheckError::Texts(format!("no input `{name}`; see `reference_context`")))
    };
    let whole = |value: &Value| value.data.iter().map(|&id| id as i32).collect::<Vec<_>>();
    let (tokens, targets) = (whole(input("tokens")?), whole(input("targets")?));
    let batch = input("last")?.data.len();
    let time = tokens.len() / batch.max(1);
    if time == 0 || tokens.len() != batch * time || targets.len() != tokens.len() {
        let problem = format!(
            "{} tokens and {} targets of {batch} texts; give each text as many of both",
            tokens.len(),
            targets.len()
        );
        return Err(CheckError::Texts(problem));
    }
    for (&name, info) in &program.params {
        let axes = context.shape(&info.ty.axes)?;
        if context.params.get(&name).is_none_or(|value| value.axes != axes) {
            return Err(CheckError::Texts(format!(
                "the parameter `{name}` has no numbers over {}",
                info.ty.axes
            )));
        }
    }
    let mut trainer = trainer(device, program, batch, time)?;
    let ordered = |name: &str| {
        let name = Symbol::new(name);
        let numbers = context.params[&name].in_order(&program.params[&name].order);
        numbers.into_iter().map(|number| number as f32).collect()
    };
    trainer.initialize(ordered)?;

    let windows = tokens.chunks(time).zip(targets.chunks(time));
    let windows: Vec<Window> = windows.map(|(tokens, targets)| Window { tokens, targets }).collect();
    let options = ServeOptions {
        rows: batch * time,
        batch,
        sequences: batch,
        cache_positions: batch * time.next_multiple_of(64),
    };
    let prompt = prompt.unwrap_or(time.div_ceil(2)).clamp(1, time);
    let mut server = Server::new(device, trainer.session(), options)?;
    let mut found = Vec::new();
    server.score(&windows, &mut found)?;
    let wanted = root(program, EntryKind::Score, "log_prob", context)?.data;
    let score = vec![Pair { found, wanted }];
    let serving = serving(&mut server, program, context, &windows, prompt)?;
    drop(server);

    trainer.step(|_, inputs, wanted| {
        inputs.copy_from_slice(&tokens);
        wanted.copy_from_slice(&targets);
    })?;
    let gradients = gradients(&trainer, program, context)?;
    Ok(Found { score, serving, gradients })
}

/// What the evaluator makes of a root.
fn root(program: &Program, kind: EntryKind, name: &str, context: &Context) -> Result<Value, IrError> {
    let node = program.entry(kind).and_then(|entry| entry.root(name));
    let node = node.ok_or_else(|| IrError::Invalid(format!("no root `{name}` of `{}`", kind.name())))?;
    Ok(evaluate(program, &[node], context)?.remove(0))
}

/// Logits: after a prompt of the first tokens of each text, then token by token.
fn serving(
    server: &mut Server,
    program: &Program,
    context: &Context,
    texts: &[Window],
    prompt: usize,
) -> Result<Vec<Pair>, CheckError> {
    let batch = texts.len();
    let time = texts[0].tokens.len();
    let sequences = texts.iter().map(|_| server.start()).collect::<Result<Vec<_>, _>>()?;
    let mut pairs = Vec::new();
    for length in prompt..=time {
        let texts = sequences.iter().copied().zip(texts.iter().map(|text| text.tokens));
        let found = match length == prompt {
            true => server.prefill(&texts.map(|(id, text)| (id, &text[..length])).collect::<Vec<_>>())?,
            false => server.decode(&texts.map(|(id, text)| (id, text[length - 1])).collect::<Vec<_>>())?,
        };
        let mut here = context.clone();
        let last = Value::new(&[(Symbol::new("batch"), batch)], vec![(length - 1) as f64; batch])?;
        here.inputs.insert(Symbol::new("last"), last);
        let wanted = root(program, EntryKind::Prefill, "logits", &here)?;
        // Served logits are a row for each sequence, whatever the vocabulary is called.
        let mut axes = wanted.axes.clone();
        axes.sort_by_key(|axis| axis.0.as_str() != "batch");
        let rows = Value::build(axes, |index| wanted.at(index));
        pairs.push(Pair { found: found.to_vec(), wanted: rows.data });
    }
    Ok(pairs)
}

/// The gradients that the last step left.
fn gradients(trainer: &Trainer, program: &Program, context: &Context) -> Result<Vec<Pair>, CheckError> {
    let backward = differentiate(program)?;
    let updates = backward.entry(EntryKind::Train).map_or(&[][..], |entry| &entry.updates);
    let nodes: Vec<_> = updates.iter().map(|update| update.1).collect();
    let values = evaluate(&backward, &nodes, context)?;
    let mut pairs = Vec::new();
    // What a sign is taken of may be counts, beside which all gradients would be small.
    let descends = |info: &ParamInfo| matches!(info.update, UpdateRule::AdamW { .. });
    for (&name, info) in program.params.iter().filter(|param| descends(param.1)) {
        let name = gradient_name(name);
        let Some(at) = updates.iter().position(|update| update.0 == name) else { continue };
        let wanted = values[at].in_order(&info.order);
        pairs.push(Pair { found: trainer.session().store.get(name)?, wanted });
    }
    Ok(pairs)
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
    let rewritten = rewrite_by_default(program, device.options()).map_err(SessionError::from)?;
    Trainer::load(device, Plan::new(device, &rewritten, identity, options, &also)?)
}

/// Of several values of a kind, the largest norm of a difference over the norm of what is wanted; infinite where a number
/// is none, or counts differ. What cancels but for rounding has no relative error: a norm counts for no less than
/// [`LEAST_NORM`] of that of the largest, element for element.
pub(crate) fn relative_error(pairs: &[Pair]) -> f64 {
    let mean_square = |numbers: &[f64]| {
        numbers.iter().map(|number| number * number).sum::<f64>() / numbers.len().max(1) as f64
    };
    let largest = pairs.iter().map(|pair| mean_square(&pair.wanted)).fold(f64::MIN_POSITIVE, f64::max);
    let error = |Pair { found, wanted }: &Pair| {
        if found.len() != wanted.len() || !found.iter().all(|number| number.is_finite()) {
            return f64::INFINITY;
        }
        let apart: Vec<f64> =
            found.iter().zip(wanted).map(|(&found, wanted)| f64::from(found) - wanted).collect();
        (mean_square(&apart) / mean_square(wanted).max(LEAST_NORM * LEAST_NORM * largest)).sqrt()
    };
    pairs.iter().map(error).fold(0.0, f64::max)
}

/// Infinite where one is not a number, or their counts differ.
fn largest_difference(Pair { found, wanted }: &Pair) -> f64 {
    if found.len() != wanted.len() {
        return f64::INFINITY;
    }
    let apart = found.iter().zip(wanted).map(|(&found, wanted)| (f64::from(found) - wanted).abs());
    apart.fold(0.0, |most, apart| if apart.is_nan() { f64::INFINITY } else { most.max(apart) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(found: &[f32], wanted: &[f64]) -> Pair {
        Pair { found: found.to_vec(), wanted: wanted.to_vec() }
    }

    #[test]
    fn what_differs_is_told() {
        let apart = |found: &[f32], wanted: &[f64]| largest_difference(&pair(found, wanted));
        assert_eq!(apart(&[1.0, 2.0], &[1.5, 2.0]), 0.5);
        assert_eq!(apart(&[f32::NAN, 2.0], &[1.5, 2.0]), f64::INFINITY);
        assert_eq!(apart(&[1.0], &[1.0, 2.0]), f64::INFINITY);
    }

    #[test]
    fn errors_are_relative_but_of_what_cancels() {
        let of = |pairs: &[Pair]| relative_error(pairs);
        let close = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-6, "{found} {wanted}");
        close(of(&[pair(&[3.0, 4.5], &[3.0, 4.0])]), 0.1);
        close(of(&[pair(&[3e-9, 4.5e-9], &[3e-9, 4e-9])]), 0.1);
        assert_eq!(of(&[pair(&[f32::NAN, 2.0], &[1.5, 2.0])]), f64::INFINITY);
        assert_eq!(of(&[pair(&[f32::INFINITY], &[1.5])]), f64::INFINITY);
        assert_eq!(of(&[pair(&[1.0], &[1.0, 2.0])]), f64::INFINITY);
        // The second is nothing beside the first, and is held against a tenth of it.
        close(of(&[pair(&[2.0], &[2.0]), pair(&[1e-3], &[1e-9])]), 1e-3 / 0.2);
    }
}
