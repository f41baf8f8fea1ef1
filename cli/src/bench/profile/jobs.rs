//! What a profile runs: steps on random tokens, every other one recorded, so
//! that what recording costs can be seen. It adds nothing up.

use super::{Described, EntryProfile, Job, Profile};
use crate::bench::kernels::of_launch;
use crate::bench::{Arguments, Contender, SEED, plan};
use crate::config::identity;
use crate::failure::{Failure, Result};
use crate::format::thousands;
use crate::machine::MemoryBound;
use crate::output::tell;
use crate::start::initialize_trainer;
use diptych_codegen::driver::{CompiledProgram, compile_rewritten};
use diptych_codegen::entry::{ArgRef, CompiledEntry, Launch, Role};
use diptych_codegen::family::Family;
use diptych_codegen::tile::CHUNK;
use diptych_cost::{Floor, Kind, Machine, Precision, RunSizes, predict_entry};
use diptych_ir::{EntryKind, Program};
use diptych_models::initialize;
use diptych_passes::AdamWOptions;
use diptych_runtime::decode::{ServeOptions, Server};
use diptych_runtime::executor::Recording;
use diptych_runtime::sampling::random_bits;
use diptych_runtime::session::{Device, Session};
use diptych_runtime::train::{Plan, Trainer};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Recorded training steps and prompts, by default.
const STEPS: u64 = 3;

/// How much there is of a job.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Sequences at once.
    pub batch: usize,
    /// Tokens of each sequence of a training step.
    pub time: usize,
    /// Tokens of a prompt.
    pub prompt: usize,
    /// Tokens decoded after it.
    pub tokens: usize,
    /// Steps and prompts that are recorded.
    pub steps: u64,
}

impl Sizes {
    /// As the command line says; one sequence is served.
    pub fn of(job: Job, arguments: &Arguments) -> Sizes {
        Sizes {
            batch: if job == Job::Train { arguments.batch } else { 1 },
            time: arguments.time,
            prompt: arguments.prompt,
            tokens: arguments.tokens,
            steps: arguments.steps.unwrap_or(STEPS),
        }
    }

    /// The sequences of a run of an entry.
    fn run(&self, kind: EntryKind) -> RunSizes {
        match kind {
            EntryKind::Update => RunSizes::equal(1, 0, 1),
            EntryKind::Prefill => RunSizes::equal(1, 0, self.prompt),
            // What a step takes grows in a line with what came before.
            EntryKind::Decode => RunSizes::equal(self.batch, self.prompt + self.tokens / 2, 1),
            _ => RunSizes::equal(self.batch, 0, self.time),
        }
    }
}

/// The launches of the entries of a job, as a profile of it has them. Nothing is loaded.
///
/// # Errors
/// When the model cannot be compiled.
pub fn compiled(
    device: &Device,
    machine: &Machine,
    contender: &Contender,
    job: Job,
    sizes: &Sizes,
) -> Result<Vec<Vec<Described>>> {
    let kinds = match job {
        Job::Train => vec![EntryKind::Train, EntryKind::Update],
        Job::Prefill => vec![EntryKind::Prefill],
        Job::Decode => vec![EntryKind::Decode],
    };
    let optimizer = AdamWOptions::default();
    let compiled = compile_rewritten(&contender.rewritten, &kinds, &optimizer, device.options())?;
    kinds.into_iter().map(|kind| described(&compiled, kind, machine, device.threads(), sizes)).collect()
}

/// Runs a job of a model.
///
/// # Errors
/// When the model cannot be compiled or loaded.
pub fn run(
    device: &Device,
    machine: &Machine,
    contender: &Contender,
    job: Job,
    sizes: &Sizes,
) -> Result<Profile> {
    match job {
        Job::Train => train(device, machine, contender, sizes),
        Job::Prefill => prefill(device, machine, contender, sizes),
        Job::Decode => decode(device, machine, contender, sizes),
    }
}

/// So many steps, the first of which warms up. Of the others, those that are recorded, in turns with the seconds of those
/// that are not. `step` is called with its number and whether it is to be recorded.
fn in_turns(
    count: u64,
    mut step: impl FnMut(u64, bool) -> Result<[Instant; 2]>,
) -> Result<(Vec<[Instant; 2]>, Vec<f64>)> {
    let (mut steps, mut plain) = (Vec::new(), Vec::new());
    for number in 0..count {
        let recorded = number > 0 && number.is_multiple_of(2);
        let [start, end] = step(number, recorded)?;
        match number {
            0 => {}
            _ if recorded => steps.push([start, end]),
            _ => plain.push((end - start).as_secs_f64()),
        }
    }
    Ok((steps, plain))
}

fn train(device: &Device, machine: &Machine, contender: &Contender, sizes: &Sizes) -> Result<Profile> {
    let (batch, time) = (sizes.batch, sizes.time);
    let count = 2 * sizes.steps + 1;
    let options = plan::options(batch, time, count);
    let plan = Plan::new(device, &contender.rewritten, identity(&*contender.architecture), options, &[])?;
    tell(format!("{}: {}", contender.title, MemoryBound::now(plan.memory_bound().total()).text()));
    let mut trainer = Trainer::load(device, plan)?;
    initialize_trainer(&mut trainer, &contender.program, SEED)?;
    let vocabulary = contender.architecture.vocab() as u64;
    let mut recordings: BTreeMap<EntryKind, Vec<Recording>> = BTreeMap::new();
    let (steps, plain) = in_turns(count, |_, record| {
        trainer.executables().into_iter().for_each(|(_, entry)| entry.record(usize::from(record)));
        let start = Instant::now();
        trainer.step(|number, inputs, targets| {
            for (ids, shift) in [(inputs, 0), (targets, 1)] {
                ids.iter_mut().enumerate().for_each(|(at, id)| *id = token(number, at + shift, vocabulary));
            }
        })?;
        let end = Instant::now();
        if record {
            for (kind, entry) in trainer.executables() {
                recordings.entry(kind).or_default().push(entry.take_recording());
            }
        }
        Ok([start, end])
    })?;
    let compiled = &trainer.session().compiled;
    let entries = recordings
        .into_iter()
        .map(|(kind, recordings)| {
            let launches = described(compiled, kind, machine, device.threads(), sizes)?;
            Ok(EntryProfile { kind, recordings, launches })
        })
        .collect::<Result<_>>()?;
    let title =
        format!("{}: a training step of {batch} × {} tokens", contender.title, thousands(time as u64));
    Ok(Profile { title, steps, plain, entries })
}

/// A session of random weights that serves.
fn serving(device: &Device, contender: &Contender) -> Result<Session> {
    let kinds = [EntryKind::Prefill, EntryKind::Decode];
    let context = contender.architecture.context();
    let mut session =
        Session::compile_rewritten(device, &contender.rewritten, context, &kinds, &AdamWOptions::default())?;
    for &name in contender.program.params.keys() {
        session.store.set(name, &initialize(&contender.program, name.as_str(), SEED)?)?;
    }
    Ok(session)
}

/// Room for prompts in one piece each, and what is decoded after them.
fn room(sizes: &Sizes) -> ServeOptions {
    let (batch, positions) = (sizes.batch, (sizes.prompt + sizes.tokens).next_multiple_of(CHUNK));
    ServeOptions { rows: sizes.prompt, batch, sequences: batch, cache_positions: batch * positions }
}

fn prefill(device: &Device, machine: &Machine, contender: &Contender, sizes: &Sizes) -> Result<Profile> {
    let kind = EntryKind::Prefill;
    let session = serving(device, contender)?;
    let mut server = Server::new(device, &session, room(sizes))?;
    let vocabulary = server.vocabulary() as u64;
    let prompt: Vec<i32> = (0..sizes.prompt).map(|at| token(0, at, vocabulary)).collect();
    let mut recordings = Vec::new();
    let (steps, plain) = in_turns(2 * sizes.steps + 1, |_, record| {
        begin(&mut server, kind, record);
        let sequence = server.start()?;
        let start = Instant::now();
        server.prefill(&[(sequence, &prompt)])?;
        let end = Instant::now();
        server.release(sequence);
        recordings.extend(taken(&mut server, kind, record));
        Ok([start, end])
    })?;
    let launches = described(&session.compiled, kind, machine, device.threads(), sizes)?;
    let title = format!("{}: a prompt of {} tokens", contender.title, thousands(sizes.prompt as u64));
    Ok(Profile { title, steps, plain, entries: vec![EntryProfile { kind, recordings, launches }] })
}

fn decode(device: &Device, machine: &Machine, contender: &Contender, sizes: &Sizes) -> Result<Profile> {
    let kind = EntryKind::Decode;
    let session = serving(device, contender)?;
    let mut server = Server::new(device, &session, room(sizes))?;
    let vocabulary = server.vocabulary() as u64;
    let (prompt, tokens) = (sizes.prompt, sizes.tokens);
    let text: Vec<i32> = (0..prompt + tokens).map(|at| token(0, at, vocabulary)).collect();
    let mut recordings = Vec::new();
    let sequences = (0..sizes.batch).map(|_| server.start()).collect::<std::result::Result<Vec<_>, _>>()?;
    for &sequence in &sequences {
        server.prefill(&[(sequence, &text[..prompt])])?;
    }
    let (steps, plain) = in_turns(tokens as u64, |number, record| {
        begin(&mut server, kind, record);
        let next: Vec<_> =
            sequences.iter().map(|&sequence| (sequence, text[prompt + number as usize])).collect();
        let start = Instant::now();
        server.decode(&next)?;
        let end = Instant::now();
        recordings.extend(taken(&mut server, kind, record));
        Ok([start, end])
    })?;
    let launches = described(&session.compiled, kind, machine, device.threads(), sizes)?;
    let of = if sizes.batch > 1 { format!(" of {} texts", sizes.batch) } else { String::new() };
    let title = format!(
        "{}: a token{of} after {} to {} others",
        contender.title,
        thousands(prompt as u64),
        thousands((prompt + tokens - 1) as u64)
    );
    Ok(Profile { title, steps, plain, entries: vec![EntryProfile { kind, recordings, launches }] })
}

fn begin(server: &mut Server<'_>, kind: EntryKind, record: bool) {
    server.executable(kind).into_iter().for_each(|entry| entry.record(usize::from(record)));
}

fn taken(server: &mut Server<'_>, kind: EntryKind, record: bool) -> Option<Recording> {
    let entry = server.executable(kind).filter(|_| record)?;
    Some(entry.take_recording())
}

fn token(text: u64, at: usize, vocabulary: u64) -> i32 {
    (random_bits(text, at as u64) % vocabulary.max(1)) as i32
}

/// The launches of an entry in program order, each with what is predicted of it.
fn described(
    compiled: &CompiledProgram,
    kind: EntryKind,
    machine: &Machine,
    threads: usize,
    sizes: &Sizes,
) -> Result<Vec<Described>> {
    let entry = compiled.entries.get(&kind);
    let entry = entry.ok_or_else(|| Failure(format!("the program has no entry `{}`", kind.name())))?;
    let program = compiled.program_of(kind);
    let run = sizes.run(kind);
    let prediction = predict_entry(entry, machine, threads, &run);
    let memory = machine.rates.levels.last().map_or(0.0, |level| level.read.all_threads_bytes_per_second);
    let describe = |(launch, predicted): (&Launch, &diptych_cost::LaunchPrediction)| {
        let (flops, bytes) = (predicted.work.flops(), predicted.work.footprint_bytes());
        let (floor_seconds, peers) = match machine.kind {
            Kind::Gpu => {
                (Floor::of(&predicted.work, machine).seconds(), of_launch(program, entry, launch, &run))
            }
            Kind::Cpu => {
                let floor = (flops / machine.peak_flops_per_second(Precision::F32)).max(bytes / memory);
                (floor, Vec::new())
            }
        };
        Described {
            kernel: launch.kernel,
            name: name(program, entry, launch),
            family: Family::of(program, entry, launch),
            runs: predicted.runs,
            predicted_seconds: predicted.seconds,
            flops,
            bytes,
            floor_seconds,
            peers,
        }
    };
    Ok(entry.launches().into_iter().zip(&prediction.launches).map(describe).collect())
}

/// What a kernel is called after, and the names that the model has for what it computes or, if it has none, for
/// what the kernel is given or what that was computed as.
fn name(program: &Program, entry: &CompiledEntry, launch: &Launch) -> String {
    let kernel = entry.kernel_name(launch.kernel);
    // The kernel's name ends in a digest of its text.
    let stem = kernel.rsplit_once('_').map_or(kernel, |(stem, _)| stem);
    let graph = &program.region(launch.region).graph;
    let labels = launch.nodes.iter().filter(|&&id| graph.contains(id));
    let labels = labels.filter_map(|&id| graph.node(id).label.map(|label| label.to_string()));
    let mut names: BTreeSet<String> = labels.collect();
    if names.is_empty() {
        let given = |arg: &ArgRef| match &entry.buffers[arg.buffer].role {
            Role::Stored(name) | Role::Input(name) | Role::Root(name) => Some(name.to_string()),
            Role::Cache { room, .. } => Some(format!("cache {room}")),
            _ => None,
        };
        names.extend(launch.args.iter().filter_map(given));
    }
    if names.is_empty() {
        let given = launch.nodes.iter().filter(|&&id| graph.contains(id)).flat_map(|&id| graph.operands(id));
        names.extend(given.filter_map(|id| graph.node(id).label.map(|label| label.to_string())));
    }
    match names.is_empty() {
        true => format!("{stem} {}", launch.kernel),
        false => format!("{stem} ({})", names.into_iter().collect::<Vec<_>>().join(", ")),
    }
}
