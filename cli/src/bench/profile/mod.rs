//! `diptych bench --profile`: where the time of a training step, of a prompt
//! and of a decoded token goes, kernel by kernel, beside what was predicted.
//! The parts: `jobs` (what is run and recorded), `account` (whose each second
//! is), `table` (the account for people), `trace` (the slices for Perfetto).

mod account;
mod jobs;
mod table;
mod trace;

pub use account::{Account, Row};
pub use jobs::{Sizes, compiled, run as profile};

use super::kernels::Peer;
use super::{Arguments, contenders};
use crate::failure::{Failure, Result};
use crate::machine::{open_device, open_machine_of};
use crate::output::{claim_file, print, tell, write_file};
use clap::ValueEnum;
use diptych_codegen::family::Family;
use diptych_ir::EntryKind;
use diptych_models::Registry;
use diptych_runtime::executor::Recording;
use std::time::Instant;

/// Tokens to decode: one that warms up, one that is not recorded, and one that is.
const LEAST_TOKENS: usize = 3;

/// What can be profiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Job {
    /// A training step.
    Train,
    /// A prompt.
    Prefill,
    /// A token after a prompt.
    Decode,
}

/// Steps of one job, some of them recorded.
pub struct Profile {
    /// For people.
    pub title: String,
    /// When each recorded step began and ended.
    steps: Vec<[Instant; 2]>,
    /// Seconds of steps that were not recorded, in turns with the others.
    plain: Vec<f64>,
    /// The entries that a step runs, in order, with a recording for each recorded step.
    entries: Vec<EntryProfile>,
}

/// What was recorded of an entry.
pub struct EntryProfile {
    kind: EntryKind,
    recordings: Vec<Recording>,
    /// Its launches, in program order.
    launches: Vec<Described>,
}

/// A launch, apart from its time.
pub struct Described {
    /// The kernel, by position in its entry.
    kernel: usize,
    /// What the kernel is called after, and what it works on.
    name: String,
    family: Family,
    /// Runs in a run of the entry: layers, within a repeat.
    runs: usize,
    /// Of all these runs together.
    predicted_seconds: f64,
    flops: f64,
    /// Distinct bytes.
    bytes: f64,
    /// The least that all these runs can take: the slowest of multiplying at the peak and moving each byte once from memory.
    floor_seconds: f64,
    /// On a GPU, what PyTorch would do in place of a run.
    pub peers: Vec<Peer>,
}

/// Profiles the models of a bench.
///
/// # Errors
/// When a model or a length does not fit, or the trace's file is there.
pub fn run(registry: &Registry, arguments: &Arguments) -> Result<()> {
    if let Some(path) = &arguments.trace {
        claim_file(path, arguments.force)?;
    }
    let device = open_device(&arguments.device)?;
    let contenders = contenders(registry, arguments, &device)?;
    let (prompt, tokens) = (arguments.prompt, arguments.tokens);
    for contender in &contenders {
        let context = contender.architecture.context();
        let jobs = &arguments.profile;
        let trained = jobs.contains(&Job::Train) && !(1..=context).contains(&arguments.time);
        if trained || arguments.batch == 0 || arguments.steps == Some(0) {
            return Err(Failure(format!(
                "--batch and --steps must be at least 1, and --time 1 to the context of `{}`, {context}",
                contender.preset
            )));
        }
        let served = prompt.checked_add(tokens).is_some_and(|positions| positions <= context);
        if (jobs.contains(&Job::Prefill) || jobs.contains(&Job::Decode))
            && (prompt == 0 || tokens < LEAST_TOKENS || !served)
        {
            return Err(Failure(format!(
                "--prompt is {prompt} and --tokens is {tokens}; they must be at least 1 and {LEAST_TOKENS}, and together at \
                 most the context of `{}`, {context}",
                contender.preset
            )));
        }
    }
    let (machine, summary) = open_machine_of(&arguments.device, &device)?;
    let mut profiles = Vec::new();
    for contender in &contenders {
        for job in &arguments.profile {
            tell(format!("profiling {}: {job:?}", contender.title));
            let sizes = Sizes::of(*job, arguments);
            let profile = jobs::run(&device, &machine, contender, *job, &sizes)?;
            let account = Account::of(&profile);
            print(&format!("{}\n", table::text(&profile.title, &account, &summary)))?;
            profiles.push(profile);
        }
    }
    if let Some(path) = &arguments.trace {
        write_file(path, trace::json(&profiles).to_string().as_bytes())?;
        tell(format!("written: {} (open it in ui.perfetto.dev or chrome://tracing)", path.display()));
    }
    Ok(())
}
