//! `diptych compile`: the compiled program as files to read: the graph, the
//! kernels' sources, and the plan by which they are launched.

use crate::arguments::{DeviceArguments, ModelArguments};
use crate::config::RunConfig;
use crate::explain::{entry_kinds, plan_text};
use crate::failure::Result;
use crate::machine::open_device;
use crate::objective::{ObjectiveArguments, ObjectiveConfig};
use crate::output::{claim_folder, tell, write_file};
use crate::stages::{CompileTime, Compiled, compile_model};
use clap::Args;
use diptych_codegen::c::file_text;
use diptych_codegen::cuda;
use diptych_codegen::entry::Language;
use diptych_ir::text;
use diptych_models::Registry;
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
    let mut time = CompileTime::start();
    let config = RunConfig::read(registry, &arguments.model, &arguments.objective.table()?)?;
    time.lap("configuration");
    let device = open_device(&arguments.device)?;
    time.lap("device");
    let kinds = entry_kinds(None)?;
    let options = device.options();
    let Compiled { program, compiled, .. } =
        compile_model(&config, &kinds, options, ObjectiveConfig::rewrite, &mut time)?;
    let taken = time.taken();
    claim_folder(&arguments.out, arguments.force)?;
    let file = |name: &str, text: &str| write_file(&arguments.out.join(name), text.as_bytes());
    file("model.graph", &text::print(&program))?;
    file("compiled.graph", &text::print(&compiled.program))?;
    for (kind, entry) in &compiled.entries {
        match options.language {
            Language::C => file(&format!("{}.c", kind.name()), &file_text(&entry.kernels))?,
            Language::Cuda(_) => {
                file(&format!("{}.cu", kind.name()), &cuda::file_text(&entry.device_kernels))?;
            }
        }
        file(&format!("{}.plan", kind.name()), &plan_text(compiled.program_of(*kind), entry, None))?;
    }
    file("stages.txt", &taken.text(0.0))?;
    tell(format!("written: {}", arguments.out.display()));
    Ok(())
}
