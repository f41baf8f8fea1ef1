//! What the examples about the algebra share: models of the zoo of one size, forms of them ready to run, and
//! runs of several forms in turns, so that what else the machine does meanwhile slows all of them alike.
#![allow(dead_code, reason = "each example uses a part of it")]

use diptych_codegen::driver::Rewritten;
use diptych_codegen::entry::Limits;
use diptych_cost::sizes_of;
use diptych_ir::{EntryKind, Program, Symbol};
use diptych_models::{Architecture, Registry, build, initialize};
use diptych_passes::AdamWOptions;
use diptych_passes::algebra::{Binding, Objective};
use diptych_runtime::executor::{self, CacheRooms, CacheSize, Executable, Sequence, SharedMemory, Workspace};
use diptych_runtime::session::{Device, Session};
use serde_json::json;
use std::time::Instant;

pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Models of the zoo that a processor trains in seconds.
pub const MODELS: &str =
    "bench-multi-head,bench-grouped-query,bench-latent,latent-512,bench-hybrid,moe-23m,bench-gpt2";

/// What stands after a flag, or what is meant without it.
pub fn option(name: &str, default: &str) -> String {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == name);
    at.and_then(|at| arguments.get(at + 1).cloned()).unwrap_or_else(|| default.to_owned())
}

/// A number after a flag.
pub fn number(name: &str, default: usize) -> Outcome<usize> {
    Ok(option(name, &default.to_string()).parse()?)
}

/// The middle of some numbers.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A model with values for its parameters.
pub struct Model {
    pub name: String,
    pub architecture: Box<dyn Architecture>,
    pub program: Program,
    pub parameters: Vec<(Symbol, Vec<f32>)>,
}

impl Model {
    /// A preset, or `bench-gpt2`: GPT-2 as large as the presets made to be compared, for which the zoo has none.
    pub fn load(name: &str) -> Outcome<Model> {
        Model::with(name, &json!({}))
    }

    /// A preset of the zoo in which these fields have other values.
    pub fn with(name: &str, changes: &serde_json::Value) -> Outcome<Model> {
        let registry = Registry::zoo();
        let small = json!({"vocab": 4096, "context": 2048, "layers": 6, "embed": 256, "heads": 8});
        let architecture = match name {
            "bench-gpt2" => registry.architecture("gpt2", &small)?,
            preset => {
                let families = registry.families().flat_map(|family| {
                    family.presets.iter().map(move |(name, config)| (&family.name, name, config))
                });
                let found = families.into_iter().find(|(_, name, _)| *name == preset);
                let (family, _, config) = found.ok_or_else(|| format!("no preset `{preset}`"))?;
                let mut config = config.clone();
                if let (Some(config), Some(changes)) = (config.as_object_mut(), changes.as_object()) {
                    config.extend(changes.clone());
                }
                registry.architecture(family, &config)?
            }
        };
        let program = build(&*architecture)?;
        let parameters = (program.params.keys())
            .map(|&name| Ok((name, initialize(&program, name.as_str(), 1)?)))
            .collect::<Outcome<_>>()?;
        Ok(Model { name: name.to_owned(), architecture, program, parameters })
    }

    /// Runs of the three entries that do the work, of the sizes that flags say, and as many tokens trained as served.
    pub fn bindings(
        &self,
        (batch, time): (usize, usize),
        serve_batch: usize,
        past: usize,
    ) -> Outcome<Vec<Binding>> {
        let context = self.architecture.context();
        let time = number("--time", time)?.min(context);
        let prompt = number("--prompt", 256)?.min(context);
        let past = number("--context", past)?.min(context);
        Ok(vec![
            Binding::new(EntryKind::Train, number("--batch", batch)?, time, time, 1.0),
            Binding::new(EntryKind::Prefill, 1, prompt, prompt, 0.5),
            Binding::new(EntryKind::Decode, number("--serve-batch", serve_batch)?, 1, past, 0.5),
        ])
    }
}

/// A form of a model, ready to run some bindings.
pub struct Loaded {
    runs: Vec<Run>,
    /// The runs refer to its parameters.
    pub session: Session,
}

struct Run {
    entry: EntryKind,
    executable: Executable,
    binding: executor::Binding,
    /// The executable refers to them.
    _caches: Option<CacheRooms>,
}

impl Loaded {
    /// Compiles the entries of these bindings, and takes memory for a run of each.
    pub fn new(
        device: &Device,
        model: &Model,
        rewritten: &Rewritten,
        bindings: &[Binding],
    ) -> Outcome<Loaded> {
        let mut kinds: Vec<EntryKind> = bindings.iter().map(|binding| binding.entry).collect();
        kinds.dedup();
        let context = model.architecture.context();
        let optimizer = AdamWOptions::default();
        let mut session = Session::compile_rewritten(device, rewritten, context, &kinds, &optimizer)?;
        for (name, values) in &model.parameters {
            session.store.set(*name, values)?;
        }
        let bounds = bindings.iter().map(|binding| {
            let entry = &session.compiled.entries[&binding.entry];
            let Shape { limits, cache, .. } = Shape::of(binding);
            device.memory_bound(entry, limits, cache)
        });
        let workspace = Workspace::new(bounds)?;
        let run = |binding| Run::new(device, model, &session, binding, &workspace);
        let runs = bindings.iter().map(run).collect::<Outcome<_>>()?;
        Ok(Loaded { runs, session })
    }

    /// Runs an entry once: seconds, or none if it was not compiled, or fails.
    fn seconds(&mut self, device: &Device, entry: EntryKind) -> Option<f64> {
        let run = self.runs.iter_mut().find(|run| run.entry == entry)?;
        let start = Instant::now();
        run.executable.run(device, &run.binding).ok()?;
        Some(start.elapsed().as_secs_f64())
    }
}

/// What a binding asks of memory.
struct Shape {
    batch: usize,
    origin: usize,
    length: usize,
    limits: Limits,
    cache: CacheSize,
    stride: usize,
}

impl Shape {
    fn of(binding: &Binding) -> Shape {
        let size = |name: &str| binding.sizes.get(&Symbol::new(name)).copied().unwrap_or(1);
        let (batch, length, past) = (size("batch"), size("time"), size("past"));
        let stride = past.div_ceil(64);
        let cache = match binding.entry.cached() {
            true => CacheSize { chunks: batch * stride, sequences: batch },
            false => CacheSize::default(),
        };
        let origin = if binding.entry.cached() { past.saturating_sub(length) } else { 0 };
        Shape { batch, origin, length, limits: Limits { rows: batch * length, batch }, cache, stride }
    }
}

impl Run {
    fn new(
        device: &Device,
        model: &Model,
        session: &Session,
        wanted: &Binding,
        workspace: &std::sync::Arc<Workspace>,
    ) -> Outcome<Run> {
        let Shape { batch, origin, length, limits, cache, stride } = Shape::of(wanted);
        debug_assert_eq!(sizes_of(wanted), diptych_cost::RunSizes::equal(batch, origin, length));
        let entry = &session.compiled.entries[&wanted.entry];
        let caches = wanted.entry.cached().then(|| CacheRooms::new(entry, cache)).transpose()?;
        let shared = SharedMemory { caches: caches.as_ref(), workspace: Some(workspace) };
        let mut executable = session.executable_in(device, wanted.entry, shared, limits)?;
        let vocab = model.architecture.vocab();
        for (name, step) in [("tokens", 7919), ("targets", 6007)] {
            if let Some(ids) = executable.input::<i32>(name) {
                ids.iter_mut().enumerate().for_each(|(at, id)| *id = (at * step % vocab) as i32);
            }
        }
        if let Some(last) = executable.input::<i32>("last") {
            last.fill(length as i32 - 1);
        }
        if let Some(input) = executable.input::<f32>("inverse_tokens") {
            input[0] = 1.0 / (batch * length) as f32;
        }
        let chunks: Vec<Vec<i32>> = (0..batch)
            .map(|sequence| (0..stride).map(|at| (sequence * stride + at) as i32).collect())
            .collect();
        let sequences: Vec<Sequence> = (chunks.iter().enumerate())
            .map(|(state, chunks)| {
                let chunks = if wanted.entry.cached() { &chunks[..] } else { &[] };
                Sequence { origin, length, chunks, state }
            })
            .collect();
        let mut binding = executor::Binding::cached(limits, model.architecture.context(), cache);
        binding.bind(&sequences)?;
        executable.refresh(device, &binding)?;
        Ok(Run { entry: wanted.entry, executable, binding, _caches: caches })
    }
}

/// Runs shorter than this are done several times in a turn, after one that fetches into the caches what the other
/// forms have driven out.
const TURN: f64 = 0.02;

/// Seconds of each round of each form's run of an entry, all forms in turns. A round's figure is the median within
/// the turn; a form without the entry has no number.
pub fn in_turns(
    device: &Device,
    forms: &mut [&mut Loaded],
    entry: EntryKind,
    rounds: usize,
) -> Vec<Vec<f64>> {
    let once = |form: &mut Loaded| form.seconds(device, entry).unwrap_or(f64::NAN);
    let warm: Vec<f64> = forms.iter_mut().map(|form| once(form)).collect();
    let mut times = vec![Vec::with_capacity(rounds); forms.len()];
    for _ in 0..rounds {
        for ((form, times), warm) in forms.iter_mut().zip(&mut times).zip(&warm) {
            let repeats = ((TURN / warm) as usize).clamp(1, 15);
            if repeats > 1 {
                once(form);
            }
            let turn: Vec<f64> = (0..repeats).map(|_| once(form)).collect();
            times.push(median(&turn));
        }
    }
    times
}

/// An objective with these bindings, and else the default.
pub fn objective(bindings: Vec<Binding>) -> Objective {
    Objective { bindings, ..diptych_codegen::driver::objective() }
}

/// A row of a markdown table.
pub fn row<T: AsRef<str>>(cells: impl IntoIterator<Item = T>) {
    let cells: Vec<String> = cells.into_iter().map(|cell| cell.as_ref().to_owned()).collect();
    println!("| {} |", cells.join(" | "));
}

/// The head of a markdown table.
pub fn head(cells: &[&str]) {
    row(cells);
    row(cells.iter().map(|_| "---"));
}

/// Seconds as milliseconds with three figures.
pub fn ms(seconds: f64) -> String {
    let ms = seconds * 1e3;
    let digits = (2 - ms.abs().max(1e-9).log10().floor() as i32).clamp(0, 4);
    format!("{ms:.*}", digits as usize)
}
