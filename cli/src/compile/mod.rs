//! `diptych compile`: the compiled program as files to read: the graph, the kernels' sources, and the plan by which they
//! are launched; for GPUs, which need not be there, also PTX, machine code, and what it will cost. The parts: `place` (what
//! code is written for), `machine_code` (what NVIDIA's tools say of kernels), `costs` (what is found, as data), `table`.

mod costs;
mod machine_code;
mod place;
mod table;

use crate::arguments::{DeviceArguments, ModelArguments};
use crate::config::RunConfig;
use crate::explain::{entry_kinds, plan_text};
use crate::failure::{Failure, Result};
use crate::machine::open_device;
use crate::objective::{ObjectiveArguments, ObjectiveConfig};
use crate::output::{claim_folder, print, tell, write_file};
use crate::stages::{CompileTime, Compiled, compile_model};
use clap::Args;
use costs::costs;
use diptych_codegen::c::file_text;
use diptych_codegen::entry::EntryOptions;
use diptych_ir::{EntryKind, text};
use diptych_models::Registry;
use diptych_runtime::device::DeviceName;
use place::{GpuPlace, Place};
use std::path::{Path, PathBuf};

/// What `compile` takes.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// What code is written for: `cpu`, this machine's processor; `sm_80`, `sm_90a` or `sm_100a`, a GPU architecture; or a
    /// machine with such a GPU, by its name (`a100`, `h100`, `h200`, `b200`) or the path of a `.toml` file. May be repeated, or separated by
    /// commas: then each gets a folder of its own. No GPU need be there.
    #[arg(long = "target", value_name = "TARGET", value_delimiter = ',', default_value = "cpu")]
    targets: Vec<String>,
    /// Threads of the CPU; without it, one for each physical core that the process may use.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// One entry alone: train, accumulate, update, step, score, prefill or decode.
    #[arg(long, value_name = "ENTRY")]
    entry: Option<String>,
    #[command(flatten)]
    objective: ObjectiveArguments,
    /// The folder to write; it must be empty or not there.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Write into a folder that has something in it.
    #[arg(long)]
    force: bool,
}

/// Writes the program, for each target.
///
/// # Errors
/// When it cannot be compiled, a target is unknown, or the folder cannot be written.
pub fn run(registry: &Registry, arguments: &Arguments) -> Result<()> {
    let kinds = entry_kinds(arguments.entry.as_deref())?;
    let config = RunConfig::read(registry, &arguments.model, &arguments.objective.table()?)?;
    let mut places: Vec<Place> = Vec::new();
    for name in &arguments.targets {
        let place = Place::open(name)?;
        if let Some(other) = places.iter().find(|other| other.name() == place.name()) {
            return Err(Failure(format!("--target {name}: `{}` is named twice", other.name())));
        }
        places.push(place);
    }
    claim_folder(&arguments.out, arguments.force)?;
    for place in &places {
        let folder = match places.len() {
            1 => arguments.out.clone(),
            _ => arguments.out.join(place.name()),
        };
        claim_folder(&folder, arguments.force)?;
        match place {
            Place::Cpu => for_cpu(&config, &kinds, arguments.threads, &folder)?,
            Place::Gpu(place) => for_gpu(&config, &kinds, place, &folder)?,
        }
        tell(format!("written: {}", folder.display()));
    }
    Ok(())
}

fn for_cpu(config: &RunConfig, kinds: &[EntryKind], threads: Option<usize>, folder: &Path) -> Result<()> {
    let mut time = CompileTime::start();
    let device = DeviceArguments { device: DeviceName::Cpu, threads, target: "this-machine".to_owned() };
    let device = open_device(&device)?;
    time.lap("device");
    let model = write_model(config, kinds, device.options(), folder, &mut time)?;
    for (kind, entry) in &model.compiled.entries {
        write(folder, &format!("{}.c", kind.name()), &file_text(&entry.kernels))?;
    }
    write(folder, "stages.txt", &time.taken().text(0.0))
}

fn for_gpu(config: &RunConfig, kinds: &[EntryKind], place: &GpuPlace, folder: &Path) -> Result<()> {
    let mut time = CompileTime::start();
    let model = write_model(config, kinds, EntryOptions::cuda(place.architecture), folder, &mut time)?;
    let code = machine_code::write(&model.compiled, place.architecture, folder)?;
    time.lap("machine code");
    let costs = costs(place, config, &model, &code)?;
    time.lap("costs of launches");
    let table = table::text(&costs);
    write(folder, "costs.txt", &table)?;
    write(folder, "costs.json", &(serde_json::to_string_pretty(&costs)? + "\n"))?;
    write(folder, "stages.txt", &time.taken().text(0.0))?;
    print(&table)
}

/// Compiles the model, and writes what does not depend on the language of kernels.
fn write_model(
    config: &RunConfig,
    kinds: &[EntryKind],
    options: EntryOptions,
    folder: &Path,
    time: &mut CompileTime,
) -> Result<Compiled> {
    let model = compile_model(config, kinds, options, ObjectiveConfig::rewrite, time)?;
    write(folder, "model.graph", &text::print(&model.program))?;
    write(folder, "compiled.graph", &text::print(&model.compiled.program))?;
    for (kind, entry) in &model.compiled.entries {
        let plan = plan_text(model.compiled.program_of(*kind), entry, None);
        write(folder, &format!("{}.plan", kind.name()), &plan)?;
    }
    time.lap("files");
    Ok(model)
}

fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    write_file(&folder.join(name), text.as_bytes())
}
