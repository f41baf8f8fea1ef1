//! The training loop's step: micro-batches through `train` and `accumulate`,
//! then `update`; or all of it through `step`, where no gradient waits for another. A step allocates nothing and gives the same bits for any
//! number of threads. It must not know of files.

use super::TrainError;
use super::identity::ModelIdentity;
use super::options::TrainOptions;
use crate::executor::{
    Binding, CacheSize, Executable, MemoryBound, ParameterStore, Sequence, SharedMemory, give_back_freed,
};
use crate::sampling::random_bits;
use crate::schedule::Schedule;
use crate::session::{Device, Session};
use diptych_codegen::driver::{CompiledProgram, Rewritten, compile_rewritten, rewrite_by_default};
use diptych_codegen::entry::Limits;
use diptych_codegen::within::{Choice, Limit, compile_within, parts_of};
use diptych_ir::{Axis, EntryKind, Op, Program, Symbol};
use serde::Serialize;
use std::time::Instant;

/// Makes of a run's seed that of rounding.
const ROUNDING: u64 = 0x726f_756e_6469_6e67;

/// A run that is compiled but for its kernels: nothing that grows with the
/// model is allocated yet.
pub struct Plan {
    compiled: CompiledProgram,
    identity: ModelIdentity,
    options: TrainOptions,
    /// Sequences of a micro-batch that run at a time.
    at_a_time: usize,
    schedule: Schedule,
    vocabulary: usize,
    memory: TrainMemory,
}

/// The bytes that a run will take, known before it takes any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TrainMemory {
    /// Parameters, as stored.
    pub parameters: usize,
    /// Gradients and moments.
    pub states: usize,
    /// Temporary values of the entries, which work in one arena, as no two run at once.
    pub temporaries: usize,
    /// Inputs and roots of the entries, and the text of a step.
    pub inputs_and_roots: usize,
    /// Values that `score` computes from parameters alone.
    pub derived: usize,
    /// Scratch of all threads.
    pub scratch: usize,
    /// The largest parameter as numbers in the user's order, when it is set. Later,
    /// when it is saved or read, parts of it are copied.
    pub copies: usize,
    /// What says which sequences a run has, and on a GPU of which tensors its launches copy boxes.
    pub tables: usize,
}

impl TrainMemory {
    /// What a run on a GPU takes of the host's memory as well: the host's copy of parameters and states, of which each page
    /// is touched when a value is set, saved or taken up again, and a parameter in the user's order.
    pub fn on_host(&self) -> usize {
        self.parameters + self.states + self.copies
    }

    /// All of it.
    pub fn total(&self) -> usize {
        let kept = self.parameters + self.states + self.temporaries + self.inputs_and_roots;
        kept + self.derived + self.scratch + self.copies + self.tables
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StepReport {
    /// The mean of -log p(target), in nats, before the update.
    pub loss: f64,
    /// What layers add to the loss that is descended, if they add anything: see `ModelBuilder::add_to_loss`.
    /// Its last bits depend on how a batch is cut; those of gradients do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auxiliary_loss: Option<f64>,
    /// The norm of all gradients together, before clipping.
    pub gradient_norm: f64,
    /// The learning rate of the update.
    pub learning_rate: f64,
    /// Targets that were learned from.
    pub tokens: u64,
    /// Wall clock, with the reading of data.
    pub seconds: f64,
}

/// How well a held-out window is predicted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct WindowScore {
    /// The sum of the targets' log-probabilities, in nats.
    pub log_probability: f64,
    /// How many targets.
    pub tokens: u64,
}

impl Plan {
    /// Takes a program through the passes, with all that training needs and
    /// the entries `also`, so that the same program can serve.
    ///
    /// # Errors
    /// When options do not fit, or a pass refuses the program.
    pub fn new(
        device: &Device,
        rewritten: &Rewritten,
        identity: ModelIdentity,
        options: TrainOptions,
        also: &[EntryKind],
    ) -> Result<Plan, TrainError> {
        let kinds = kinds(&options, &identity, also)?;
        let compiled = compile_rewritten(rewritten, &kinds, &options.optimizer.into(), device.options())?;
        let at_a_time = options.batch;
        Plan::of(device, rewritten.program(), compiled, identity, options, at_a_time)
    }

    /// As [`Plan::new`], within so many bytes of [`Plan::memory_bound`]: where they do not suffice, the backward
    /// pass computes again what layers would have kept, and fewer sequences than a micro-batch has run at a time.
    /// The results have the same bits. `seconds` predicts a step with so many sequences at a time: the fastest plan
    /// is chosen.
    ///
    /// # Errors
    /// As [`Plan::new`], and when no choice keeps the limit: then with the least that can.
    pub fn within(
        device: &Device,
        rewritten: &Rewritten,
        identity: ModelIdentity,
        options: TrainOptions,
        also: &[EntryKind],
        bytes: usize,
        seconds: &dyn Fn(&CompiledProgram, usize) -> f64,
    ) -> Result<(Plan, Choice), TrainError> {
        let kinds = kinds(&options, &identity, also)?;
        let size = |axis: Axis| match (axis.fixed_size(), axis.name.as_str()) {
            (Some(size), _) => size as f64,
            (None, "batch") => options.batch as f64,
            (None, _) => options.time as f64,
        };
        let memory = |compiled: &CompiledProgram, at_a_time: usize| {
            memory_bound(device, compiled, &options, at_a_time, identity.context).total()
        };
        let limit = Limit { bytes, batch: options.batch, memory: &memory, seconds, size: &size };
        let (compiled, choice) =
            compile_within(rewritten, &kinds, &options.optimizer.into(), device.options(), &limit)?;
        Ok((Plan::of(device, rewritten.program(), compiled, identity, options, choice.at_a_time)?, choice))
    }

    fn of(
        device: &Device,
        program: &Program,
        compiled: CompiledProgram,
        identity: ModelIdentity,
        options: TrainOptions,
        at_a_time: usize,
    ) -> Result<Plan, TrainError> {
        let schedule = Schedule::new(options.schedule.clone())?;
        let vocabulary = vocabulary(program);
        let memory = memory_bound(device, &compiled, &options, at_a_time, identity.context);
        Ok(Plan { compiled, identity, options, at_a_time, schedule, vocabulary, memory })
    }

    /// What the run will take.
    pub fn memory_bound(&self) -> TrainMemory {
        self.memory
    }

    /// The compiled program.
    pub fn compiled(&self) -> &CompiledProgram {
        &self.compiled
    }
}

/// The entries that the options ask for, and others, once the options are checked.
fn kinds(
    options: &TrainOptions,
    identity: &ModelIdentity,
    also: &[EntryKind],
) -> Result<Vec<EntryKind>, TrainError> {
    options.check(identity.context)?;
    let mut kinds = entries(options, options.batch);
    for kind in also {
        if !kinds.contains(kind) {
            kinds.push(*kind);
        }
    }
    Ok(kinds)
}

/// The entries that the options ask for, with so many sequences at a time. Gradients that are clipped by their common norm
/// wait for one another, and so do those of several micro-batches.
fn entries(options: &TrainOptions, at_a_time: usize) -> Vec<EntryKind> {
    match (in_parts(options, at_a_time), options.optimizer.clip_norm) {
        (true, _) => vec![EntryKind::Train, EntryKind::Update, EntryKind::Score, EntryKind::Accumulate],
        (false, Some(_)) => vec![EntryKind::Train, EntryKind::Update, EntryKind::Score],
        (false, None) => vec![EntryKind::Step, EntryKind::Score],
    }
}

/// Whether a step has several micro-batches, or parts of one.
fn in_parts(options: &TrainOptions, at_a_time: usize) -> bool {
    options.accumulation > 1 || at_a_time < options.batch
}

/// The entries of a compiled program that a run uses, with so many sequences at a time.
fn used(compiled: &CompiledProgram, options: &TrainOptions, at_a_time: usize) -> Vec<EntryKind> {
    let mut kinds = vec![EntryKind::Score];
    match compiled.entries.contains_key(&EntryKind::Step) {
        true => kinds.push(EntryKind::Step),
        false => kinds.extend([EntryKind::Train, EntryKind::Update]),
    }
    if in_parts(options, at_a_time) {
        kinds.push(EntryKind::Accumulate);
    }
    kinds
}

fn limits(options: &TrainOptions, at_a_time: usize) -> Limits {
    Limits { rows: at_a_time * options.time, batch: at_a_time }
}

/// The least size of the axes that tokens and targets point along.
fn vocabulary(program: &Program) -> usize {
    let graph = &program.main().graph;
    let is_text = |id| matches!(graph.op(id), Op::Input(input) if input.ty.dtype == diptych_ir::DType::I32);
    let sizes = graph.ids().into_iter().filter_map(|id| match graph.op(id) {
        Op::Take(take) if graph.operands(id).get(1).is_some_and(|&ids| is_text(ids)) => {
            take.axis.fixed_size()
        }
        _ => None,
    });
    sizes.min().unwrap_or(usize::MAX)
}

fn memory_bound(
    device: &Device,
    compiled: &CompiledProgram,
    options: &TrainOptions,
    at_a_time: usize,
    context: usize,
) -> TrainMemory {
    let store = |states| {
        ParameterStore::bytes_for(&compiled.program, &compiled.layouts, device.options().panel, states)
    };
    let parameters = store(false);
    let text = 2 * options.tokens_per_step() * size_of::<i32>();
    let bounds = entry_bounds(device, compiled, options, at_a_time);
    let entries = bounds.into_iter().fold(MemoryBound::default(), MemoryBound::beside);
    TrainMemory {
        parameters,
        states: store(true) - parameters,
        temporaries: entries.arena + entries.padded,
        inputs_and_roots: text + entries.inputs_and_roots,
        derived: entries.derived,
        scratch: entries.scratch,
        copies: largest_parameter(compiled),
        // One for training and one for held-out text.
        tables: 2 * Binding::bytes_for(limits(options, at_a_time), context) + entries.maps,
    }
}

/// What each entry of a run takes.
fn entry_bounds(
    device: &Device,
    compiled: &CompiledProgram,
    options: &TrainOptions,
    at_a_time: usize,
) -> Vec<MemoryBound> {
    let limits = limits(options, at_a_time);
    let bound = |kind| {
        let entry = compiled.entries.get(&kind)?;
        Some(device.memory_bound(entry, limits, CacheSize::default()))
    };
    used(compiled, options, at_a_time).into_iter().filter_map(bound).collect()
}

/// Bytes of the largest parameter, all layers of a stack together.
fn largest_parameter(compiled: &CompiledProgram) -> usize {
    let elements = compiled.program.params.values().map(|info| diptych_passes::layout::product(&info.order));
    elements.max().unwrap_or(0) * size_of::<f32>()
}

/// A model in training, on a device.
pub struct Trainer<'d> {
    pub(super) device: &'d Device,
    pub(super) session: Session,
    pub(super) identity: ModelIdentity,
    pub(super) options: TrainOptions,
    pub(super) step: u64,
    pub(super) tokens_seen: u64,
    schedule: Schedule,
    vocabulary: usize,
    memory: TrainMemory,
    at_a_time: usize,
    /// `train`, or `step`.
    train: Executable,
    accumulate: Option<Executable>,
    /// `update`, if `train` is not all of a step.
    update: Option<Executable>,
    score: Executable,
    binding: Binding,
    held_out: Binding,
    /// As many as run at a time.
    sequences: Vec<Sequence<'static>>,
    inputs: Vec<i32>,
    targets: Vec<i32>,
}

impl<'d> Trainer<'d> {
    /// Compiles kernels and takes memory. Parameters are zero: see
    /// [`Trainer::initialize`] and [`Trainer::resume`].
    ///
    /// # Errors
    /// When the compiler refuses a kernel, or memory is short.
    pub fn load(device: &'d Device, plan: Plan) -> Result<Trainer<'d>, TrainError> {
        let Plan { compiled, identity, options, at_a_time, schedule, vocabulary, memory } = plan;
        let session = Session::load(device, compiled, identity.context)?;
        let limits = limits(&options, at_a_time);
        let bounds = entry_bounds(device, &session.compiled, &options, at_a_time);
        let workspace = device.workspace(bounds)?;
        let shared = SharedMemory { caches: None, workspace: Some(&workspace) };
        let load = |kind| session.executable_in(device, kind, shared, limits);
        let used = used(&session.compiled, &options, at_a_time);
        let load_used = |kind: EntryKind| used.contains(&kind).then(|| load(kind)).transpose();
        let train = match load_used(EntryKind::Step)? {
            Some(step) => step,
            None => load(EntryKind::Train)?,
        };
        let (update, accumulate) = (load_used(EntryKind::Update)?, load_used(EntryKind::Accumulate)?);
        let score = load(EntryKind::Score)?;
        let sequence = Sequence { origin: 0, length: options.time, chunks: &[], state: 0 };
        let sequences = vec![sequence; at_a_time];
        let binding = Binding::new(limits, identity.context);
        let held_out = Binding::new(limits, identity.context);
        let tokens = options.tokens_per_step();
        Ok(Trainer {
            device,
            session,
            identity,
            options,
            step: 0,
            tokens_seen: 0,
            schedule,
            vocabulary,
            memory,
            at_a_time,
            train,
            accumulate,
            update,
            score,
            binding,
            held_out,
            sequences,
            inputs: vec![0; tokens],
            targets: vec![0; tokens],
        })
    }

    /// [`Plan::new`] and [`Trainer::load`] in one.
    ///
    /// # Errors
    /// As those two.
    pub fn new(
        device: &'d Device,
        program: &Program,
        identity: ModelIdentity,
        options: TrainOptions,
    ) -> Result<Trainer<'d>, TrainError> {
        let rewritten = rewrite_by_default(program, device.options())?;
        Self::load(device, Plan::new(device, &rewritten, identity, options, &[])?)
    }

    /// Sets every parameter, by name, to numbers in the user's axis order, and
    /// begins anew: states are zero, no step is done.
    ///
    /// # Errors
    /// When a parameter is given another number of elements.
    pub fn initialize(&mut self, mut values: impl FnMut(&str) -> Vec<f32>) -> Result<(), TrainError> {
        let names: Vec<Symbol> = self.session.compiled.program.params.keys().copied().collect();
        for name in names {
            self.session.store.set(name, &values(name.as_str()))?;
        }
        self.session.store.clear_states(&self.session.compiled.program);
        self.session.store.upload()?;
        (self.step, self.tokens_seen) = (0, 0);
        // What compiling and reading have left would stay resident beside the run.
        give_back_freed();
        Ok(())
    }

    /// Does one step. `source` is asked for each micro-batch of the run by its
    /// number, `step × accumulation + i`; it fills tokens and targets, `batch`
    /// sequences of `time` one after the other. A negative target is not learned from.
    ///
    /// # Errors
    /// When the data are not tokens of the model, or the run has diverged. If
    /// the loss is not finite, the parameters are as they were before the step.
    pub fn step(
        &mut self,
        mut source: impl FnMut(u64, &mut [i32], &mut [i32]),
    ) -> Result<StepReport, TrainError> {
        let start = Instant::now();
        let step = self.step;
        let accumulation = self.options.accumulation;
        let rows = self.options.batch * self.options.time;
        let text = self.inputs.chunks_exact_mut(rows).zip(self.targets.chunks_exact_mut(rows));
        for (micro, (inputs, targets)) in text.enumerate() {
            source(step * accumulation as u64 + micro as u64, inputs, targets);
        }
        check_tokens(&self.inputs, &self.targets, self.vocabulary, || format!("step {step}"))?;
        let tokens = self.targets.iter().filter(|&&target| target >= 0).count() as u64;
        if tokens == 0 {
            return Err(TrainError::NoTargets { step, micro_batches: accumulation });
        }
        let inverse_tokens = 1.0 / tokens as f64;
        let learning_rate = self.schedule.rate(step);
        let power = (step + 1).min(i32::MAX as u64) as i32;
        let optimizer = &self.options.optimizer;
        let updating = self.update.as_mut().unwrap_or(&mut self.train);
        fill(updating, "learning_rate", &[learning_rate as f32]);
        fill(updating, "bias_correction_mean", &[(1.0 - optimizer.beta1.powi(power)) as f32]);
        fill(updating, "bias_correction_variance", &[(1.0 - optimizer.beta2.powi(power)) as f32]);
        fill(updating, "rounding", &[(random_bits(self.options.seed ^ ROUNDING, step) >> 34) as i32]);
        let mut log_probability = 0.0;
        let mut auxiliary_loss = None;
        let mut first = 0;
        let batch = self.options.batch;
        for sequences in (0..accumulation).flat_map(|_| parts_of(batch, self.at_a_time)) {
            let rows = sequences * self.options.time;
            let place = first..first + rows;
            let entry = match &mut self.accumulate {
                Some(accumulate) if first > 0 => accumulate,
                _ => &mut self.train,
            };
            fill(entry, "tokens", &self.inputs[place.clone()]);
            fill(entry, "targets", &self.targets[place]);
            fill(entry, "inverse_tokens", &[inverse_tokens as f32]);
            self.binding.bind(&self.sequences[..sequences])?;
            entry.run(self.device, &self.binding)?;
            log_probability = add(log_probability, entry, 0..rows);
            if let Some(&[added, ..]) = entry.root("auxiliary_loss") {
                auxiliary_loss = Some(auxiliary_loss.unwrap_or(0.0) + f64::from(added));
            }
            first += rows;
        }
        let loss = -log_probability * inverse_tokens;
        // What `step` found to be finite is the loss as it has added it up.
        let added_up = match &self.update {
            Some(_) => 0.0,
            None => self
                .train
                .root("loss")
                .and_then(|loss| loss.first())
                .map_or(f64::NAN, |&loss| f64::from(loss)),
        };
        let loss = if added_up.is_finite() { loss } else { added_up };
        let parts = [("the loss", loss), ("what layers add to the loss", auxiliary_loss.unwrap_or(0.0))];
        if let Some((what, found)) = parts.into_iter().find(|part| !part.1.is_finite()) {
            let state = "the parameters are as they were before the step";
            return Err(TrainError::Diverged { step, what, found, state });
        }
        if let Some(update) = &mut self.update {
            update.run(self.device, &self.binding)?;
        }
        let updated = self.update.as_ref().unwrap_or(&self.train);
        let norm = updated.root("gradient_norm").and_then(|norm| norm.first()).copied();
        let gradient_norm = f64::from(norm.unwrap_or(f32::NAN));
        if !gradient_norm.is_finite() {
            let state = "the parameters are spoilt";
            return Err(TrainError::Diverged {
                step,
                what: "the gradient's norm",
                found: gradient_norm,
                state,
            });
        }
        self.step += 1;
        self.tokens_seen += tokens;
        let seconds = start.elapsed().as_secs_f64();
        Ok(StepReport { loss, auxiliary_loss, gradient_norm, learning_rate, tokens, seconds })
    }

    /// Scores held-out windows, some at a time. `source` fills the tokens
    /// and targets of a window, at most `time`, and returns how many it has;
    /// a negative target does not count.
    ///
    /// # Errors
    /// When a window is empty or too long, or its tokens are not the model's.
    pub fn evaluate(
        &mut self,
        windows: usize,
        mut source: impl FnMut(usize, &mut [i32], &mut [i32]) -> usize,
    ) -> Result<Vec<WindowScore>, TrainError> {
        let (batch, time) = (self.at_a_time, self.options.time);
        let mut scores = Vec::with_capacity(windows);
        let mut sequences = Vec::with_capacity(batch);
        for first in (0..windows).step_by(batch) {
            sequences.clear();
            let mut rows = 0;
            for window in first..windows.min(first + batch) {
                let place = rows..rows + time;
                let (inputs, targets) = (&mut self.inputs[place.clone()], &mut self.targets[place]);
                let length = source(window, inputs, targets);
                if length == 0 || length > time {
                    return Err(TrainError::Window { window, length, time });
                }
                let (inputs, targets) = (&inputs[..length], &targets[..length]);
                check_tokens(inputs, targets, self.vocabulary, || format!("held-out window {window}"))?;
                sequences.push(Sequence { origin: 0, length, chunks: &[], state: 0 });
                rows += length;
            }
            self.held_out.bind(&sequences)?;
            fill(&mut self.score, "tokens", &self.inputs[..rows]);
            fill(&mut self.score, "targets", &self.targets[..rows]);
            if first == 0 {
                self.score.refresh(self.device, &self.held_out)?;
            }
            self.score.run(self.device, &self.held_out)?;
            let mut row = 0;
            for sequence in &sequences {
                let place = row..row + sequence.length;
                let tokens = self.targets[place.clone()].iter().filter(|&&target| target >= 0).count() as u64;
                scores.push(WindowScore { log_probability: add(0.0, &self.score, place), tokens });
                row += sequence.length;
            }
        }
        Ok(scores)
    }

    /// Steps done.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// Targets learned from so far.
    pub fn tokens_seen(&self) -> u64 {
        self.tokens_seen
    }

    /// The options of the run.
    pub fn options(&self) -> &TrainOptions {
        &self.options
    }

    /// The model.
    pub fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    /// What the run takes.
    pub fn memory_bound(&self) -> TrainMemory {
        self.memory
    }

    /// The compiled program with its parameters, from which other entries can be loaded.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The entries of a step, to time their launches: `train` and `update`, or `step`.
    pub fn executables(&mut self) -> Vec<(EntryKind, &mut Executable)> {
        match &mut self.update {
            Some(update) => vec![(EntryKind::Train, &mut self.train), (EntryKind::Update, update)],
            None => vec![(EntryKind::Step, &mut self.train)],
        }
    }
}

/// Fills the first elements of an input, if the entry has it: one that nothing depends on is left out.
fn fill<T: bytemuck::Pod>(entry: &mut Executable, name: &str, values: &[T]) {
    if let Some(input) = entry.input::<T>(name) {
        input[..values.len()].copy_from_slice(values);
    }
}

/// The sum so far and the log-probabilities of rows, added in order: the same however a batch is cut.
fn add(sum: f64, entry: &Executable, rows: std::ops::Range<usize>) -> f64 {
    let log_probs = entry.root("log_prob").map_or(&[][..], |root| &root[rows]);
    log_probs.iter().fold(sum, |sum, &log_prob| sum + f64::from(log_prob))
}

fn check_tokens(
    inputs: &[i32],
    targets: &[i32],
    vocabulary: usize,
    place: impl Fn() -> String,
) -> Result<(), TrainError> {
    let outside = |id: i32| id >= 0 && id as usize >= vocabulary;
    let token = inputs.iter().find(|&&id| id < 0 || outside(id)).map(|id| ("token", id));
    match token.or_else(|| targets.iter().find(|&&id| outside(id)).map(|id| ("target", id))) {
        Some((what, &found)) => Err(TrainError::Token { what, found, place: place(), vocabulary }),
        None => Ok(()),
    }
}
