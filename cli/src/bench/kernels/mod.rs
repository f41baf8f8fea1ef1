//! `diptych bench --kernels`: for a day when a GPU can be had. All kernels of small models run against the reference
//! evaluator, bits of scoring, prompts and decoding are compared, and kernels of production size are timed against
//! their roofline and against PyTorch's. The parts: `check`, `bits`, `peers` (what PyTorch is to time), `table`.
//! On a virtual GPU all of it runs, too, with times that mean nothing.

mod bits;
mod check;
mod peers;
mod table;

pub use peers::{Peer, of_launch};

use super::profile::{Account, Job, Sizes, profile};
use super::{Arguments, Contender, contender};
use crate::failure::{Failure, Result};
use crate::machine::{open_device, open_machine_of};
use crate::objective::Form;
use crate::output::{claim_file, claim_folder, print, tell, write_file};
use check::Check;
use diptych_models::{Architecture, Registry};
use diptych_runtime::device::DeviceName;
use diptych_runtime::session::Device;
use peers::PeerTimes;
use serde::Serialize;
use serde_json::{Value, json};
use table::Work;

/// The model whose kernels are timed: its layers are all alike, and as many as these show what each takes.
const PRODUCTION: (&str, usize) = ("llama-3-8b", 2);
/// The same where sizes are to be small.
const SMALL: (&str, usize) = ("llama-tiny", 2);
/// Of the tokens that are decoded, every other is recorded.
const DECODED: usize = 16;
/// Recorded steps and prompts.
const STEPS: u64 = 5;

/// All that is found.
#[derive(Serialize)]
pub struct Findings {
    /// The device, as the user calls it.
    pub device: String,
    /// What it is.
    pub processor: String,
    /// Whether times mean something: on a virtual GPU they do not.
    pub times_count: bool,
    /// The machine whose published peaks rooflines are of.
    pub machine: String,
    /// What was compared.
    pub checks: Vec<Check>,
    /// What was timed.
    pub works: Vec<Work>,
    /// What PyTorch's times are of, or why there are none.
    pub peer: String,
}

/// Checks and times the kernels of a GPU.
///
/// # Errors
/// When there is no GPU, a file is there already, or what kernels compute is wrong.
pub fn run(registry: &Registry, arguments: &Arguments) -> Result<()> {
    if arguments.device.device == DeviceName::Cpu {
        return Err(Failure::new(
            "--kernels is about GPUs: name one with --device cuda:0, or a virtual one with --device virtual:sm_90a \
             --small; for the CPU there is --profile",
        ));
    }
    if let Some(path) = &arguments.shapes {
        claim_file(path, arguments.force)?;
    }
    if let Some(folder) = &arguments.out {
        claim_folder(folder, arguments.force)?;
    }
    let times = PeerTimes::read(arguments.peer_times.as_deref())?;
    let device = open_device(&arguments.device)?;
    let (machine, summary) = open_machine_of(&arguments.device, &device)?;
    let is_virtual = matches!(device.name(), DeviceName::Virtual(_));
    let works = works(registry, arguments, &device)?;
    if let Some(path) = &arguments.shapes {
        let shapes = peers::shapes(&device, &machine, &works)?;
        write_file(path, (serde_json::to_string_pretty(&shapes)? + "\n").as_bytes())?;
        tell(format!("written: {}", path.display()));
        return Ok(());
    }
    if is_virtual && !arguments.small {
        return Err(Failure(format!(
            "--device {}: executing kernels of production size on the CPU would take days; add --small",
            device.name()
        )));
    }
    let mut checks = check::run(registry, &device, arguments.small)?;
    checks.extend(bits::run(registry, &device, arguments.small)?);
    print(&table::checks(&checks))?;
    let mut timed = Vec::new();
    for (contender, job, sizes) in &works {
        let profile = profile(&device, &machine, contender, *job, sizes)?;
        tell(format!("timed: {}", profile.title));
        let account = Account::of(&profile);
        let lines = table::lines(&account, &times);
        let (wall, recorded) = (account.plain, account.wall);
        timed.push(Work { title: profile.title, seconds: wall, recorded_seconds: recorded, lines });
    }
    let findings = Findings {
        device: device.name().to_string(),
        processor: summary.processor,
        times_count: !is_virtual,
        machine: machine.name.clone(),
        checks,
        works: timed,
        peer: times.about,
    };
    let text = table::text(&findings);
    if let Some(folder) = &arguments.out {
        write_file(&folder.join("kernels.txt"), (table::checks(&findings.checks) + &text).as_bytes())?;
        write_file(
            &folder.join("kernels.json"),
            (serde_json::to_string_pretty(&findings)? + "\n").as_bytes(),
        )?;
        tell(format!("written: {} (kernels.txt, kernels.json)", folder.display()));
    }
    print(&text)?;
    let wrong = findings.checks.iter().filter(|check| !check.holds()).count();
    match wrong {
        0 => Ok(()),
        _ => Err(Failure(format!(
            "{wrong} of {} comparisons failed on {}: see the table",
            findings.checks.len(),
            findings.device
        ))),
    }
}

/// A zoo's model with some of its fields changed.
fn changed(registry: &Registry, preset: &str, fields: Value) -> Result<Box<dyn Architecture>> {
    let architecture = registry.preset(preset)?;
    let mut config = architecture.describe();
    if let (Value::Object(config), Value::Object(fields)) = (&mut config, fields) {
        config.extend(fields);
    }
    Ok(registry.architecture(architecture.name(), &config)?)
}

/// What is timed: models, what is done with them, and sizes.
fn works(
    registry: &Registry,
    arguments: &Arguments,
    device: &Device,
) -> Result<Vec<(Contender, Job, Sizes)>> {
    let (preset, layers) = if arguments.small { SMALL } else { PRODUCTION };
    let presets = match arguments.models.is_empty() {
        true => vec![preset.to_owned()],
        false => arguments.models.clone(),
    };
    let mut works = Vec::new();
    for preset in presets {
        // Caches, and what serves, take memory by the context.
        let (tokens, context) = if arguments.small { (41, 64) } else { (4096, 4096 + 64) };
        let fields = json!({ "dtype": "bf16", "layers": layers, "context": context });
        let decoded = if arguments.small { 5 } else { DECODED };
        let batches: &[usize] = if arguments.small { &[2] } else { &[1, 8, 64] };
        let steps = if arguments.small { 1 } else { STEPS };
        let sizes = Sizes { batch: 1, time: tokens, prompt: tokens, tokens: decoded, steps };
        let mut add = |job: Job, sizes: Sizes| -> Result<()> {
            let architecture = changed(registry, &preset, fields.clone())?;
            let title = format!("{preset}, {layers} layers");
            let contender = contender(&title, &preset, architecture, Form::Same, [1, tokens], device)?;
            works.push((contender, job, sizes));
            Ok(())
        };
        add(Job::Train, sizes)?;
        add(Job::Prefill, sizes)?;
        for &batch in batches {
            add(Job::Decode, Sizes { batch, ..sizes })?;
        }
    }
    Ok(works)
}
