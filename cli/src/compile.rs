//! `diptych compile`: the compiled program as files to read: the graph, the
//! kernels' sources, and the plan by which they are launched.

use crate::arguments::{DeviceArguments, ModelArguments};
use crate::config::RunConfig;
use crate::explain::{entry_kinds, plan_text};
use crate::failure::Result;
use crate::machine::open_device;
use crate::objective::ObjectiveArguments;
use crate::output::{claim_folder, tell, write_file};
use clap::Args;
use diptych_codegen::c::file_text;
use diptych_codegen::driver::compile_rewritten;
use diptych_ir::text;
use diptych_models::{Registry, build};
use std::path::PathBuf;

/// What `compile` takes.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    device: DeviceArguments,
    #[command(flatten)]
    objective: ObjectiveArguments,
    /// The folder to write; it must be empty or not there.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Write into a folder that has something in it.
    #[arg(long)]
    force: bool,
}

/// Writes the program.
///
/// # Errors
/// When it cannot be compiled, or the folder cannot be written.
pub fn run(registry: &Registry, arguments: &Arguments) -> Result<()> {
    let config = RunConfig::read(registry, &arguments.model, &arguments.objective.table()?)?;
    let device = open_device(&arguments.device)?;
    let program = build(&*config.architecture)?;
    let train = config.train.options(config.architecture.context())?;
    let objective = config.objective.objective(config.architecture.context(), train.batch, train.time)?;
    let rewritten = config.objective.rewrite(&program, objective, device.options())?;
    let kinds = entry_kinds(None)?;
    let compiled = compile_rewritten(&rewritten, &kinds, &train.optimizer.into(), device.options())?;
    claim_folder(&arguments.out, arguments.force)?;
    let file = |name: &str, text: &str| write_file(&arguments.out.join(name), text.as_bytes());
    file("model.graph", &text::print(&program))?;
    file("compiled.graph", &text::print(&compiled.program))?;
    for (kind, entry) in &compiled.entries {
        file(&format!("{}.c", kind.name()), &file_text(&entry.kernels))?;
        file(&format!("{}.plan", kind.name()), &plan_text(compiled.program_of(*kind), entry, None))?;
    }
    let mut stages = String::new();
    for (stage, seconds) in &compiled.stages {
        stages.push_str(&format!("{stage:<14} {}\n", crate::format::seconds(*seconds)));
    }
    file("stages.txt", &stages)?;
    tell(format!("written: {}", arguments.out.display()));
    Ok(())
}
