//! `diptych compare`: what architectures cost to train and to serve on machines that need not be there. The
//! parts: `findings` (what is found, as data), `table`, `page` and `plots` (three ways to write it).

mod findings;
mod page;
mod plots;
mod table;

use crate::arguments::DeviceArguments;
use crate::failure::{Failure, Result, file_failure};
use crate::machine::{open_device, open_machine};
use crate::output::{claim_folder, print, tell, write_file};
use clap::{Args, ValueEnum};
use diptych_cost::{Kind, Machine, Target};
use diptych_models::{Architecture, Precision, Registry};
use diptych_runtime::device::DeviceName;
use findings::{Findings, Grid, find};
use std::path::{Path, PathBuf};

/// What `compare` takes.
#[derive(Args)]
pub struct Arguments {
    /// Models: presets (`diptych models` lists them), `config.json` files of Hugging Face, or folders with one.
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<String>,
    /// Machines: names of targets (a beginning such as `h100` is enough) or paths of `.toml` files; may be
    /// repeated, or separated by commas.
    #[arg(long = "target", value_name = "NAME|FILE", value_delimiter = ',', default_value = "h100")]
    targets: Vec<String>,
    /// The type in which matrices are multiplied; without it, bf16 on GPUs and f32 on CPUs.
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
    /// Sequences at once, separated by commas; in training, those of a micro-batch.
    #[arg(long = "batch", value_name = "N,…", value_delimiter = ',', default_values_t = [1, 8, 64])]
    batches: Vec<usize>,
    /// Tokens of a training sequence or of a prompt, and positions that a generated token sees, separated by commas.
    #[arg(long = "context", value_name = "N,…", value_delimiter = ',', default_values_t = [1024, 8192, 65536])]
    contexts: Vec<usize>,
    /// Tokens of a training step, over which the update is spread.
    #[arg(long, value_name = "N", default_value_t = 1 << 20)]
    step_tokens: usize,
    /// Print JSON in place of the table.
    #[arg(long)]
    json: bool,
    /// Also write `compare.html`, a page with plots, and `compare.json` into this folder, which must be empty or not there.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Write into a folder that has something in it.
    #[arg(long)]
    force: bool,
    /// Threads of a CPU target; without it, all that it has.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

/// A type to multiply in, as the command line calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Dtype {
    /// Single precision.
    F32,
    /// bfloat16 factors, f32 sums and masters.
    Bf16,
}

/// A machine, and how many of its threads count.
struct Place {
    machine: Machine,
    description: String,
    threads: usize,
    dtype: Precision,
}

/// Prints the comparison.
///
/// # Errors
/// When a model or a target is unknown or does not fit, or the folder is taken.
pub fn run(registry: &Registry, arguments: &Arguments) -> Result<()> {
    for (name, numbers) in [("--batch", &arguments.batches), ("--context", &arguments.contexts)] {
        if numbers.contains(&0) {
            return Err(Failure(format!("{name} has a 0; each number must be at least 1")));
        }
    }
    if arguments.step_tokens == 0 || arguments.threads == Some(0) {
        return Err(Failure::new("--step-tokens and --threads must be at least 1"));
    }
    let models = arguments
        .models
        .iter()
        .map(|name| Ok((title(name), open_model(registry, name)?)))
        .collect::<Result<Vec<_>>>()?;
    let places =
        arguments.targets.iter().map(|name| open_place(name, arguments)).collect::<Result<Vec<_>>>()?;
    if let Some(folder) = &arguments.out {
        claim_folder(folder, arguments.force)?;
    }
    let grid = Grid {
        batches: in_order(&arguments.batches),
        contexts: in_order(&arguments.contexts),
        step_tokens: arguments.step_tokens,
    };
    let findings = find(registry, &models, &places, grid)?;
    if let Some(folder) = &arguments.out {
        write(&findings, folder)?;
    }
    match arguments.json {
        true => print(&format!("{}\n", serde_json::to_string_pretty(&findings)?)),
        false => print(&table::text(&findings)),
    }
}

fn write(findings: &Findings, folder: &Path) -> Result<()> {
    let page = page::html(findings).map_err(|error| Failure(format!("cannot draw the plots: {error}")))?;
    write_file(&folder.join("compare.html"), page.as_bytes())?;
    write_file(&folder.join("compare.json"), serde_json::to_string_pretty(findings)?.as_bytes())?;
    tell(format!("wrote {}", folder.join("compare.html").display()));
    Ok(())
}

fn in_order(numbers: &[usize]) -> Vec<usize> {
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// What a model is called in the table: a preset by its name, a file by that of its folder.
fn title(name: &str) -> String {
    let path = Path::new(name);
    let of_file = || {
        let folder = if path.is_dir() { Some(path) } else { path.parent() };
        folder.and_then(Path::file_name).or(path.file_stem()).map(|name| name.to_string_lossy().into_owned())
    };
    match name.ends_with(".json") || path.is_dir() {
        true => of_file().unwrap_or_else(|| name.to_owned()),
        false => name.to_owned(),
    }
}

/// A preset, or a `config.json` by its path or that of its folder.
fn open_model(registry: &Registry, name: &str) -> Result<Box<dyn Architecture>> {
    let path = Path::new(name);
    if !name.ends_with(".json") && !path.is_dir() {
        return Ok(registry.preset(name)?);
    }
    let file = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
    let text = std::fs::read_to_string(&file).map_err(file_failure("read", &file))?;
    let config: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| Failure(format!("{}: {error}", file.display())))?;
    registry.from_hugging_face(&config).map_err(|error| Failure(format!("{}: {error}", file.display())))
}

fn open_place(name: &str, arguments: &Arguments) -> Result<Place> {
    let target = Target::load(name)?;
    let (kind, description) = (target.kind, target.description.clone());
    let machine = match target.rates {
        Some(_) => target.into_machine(None)?,
        // It stands for the machine at hand.
        None => {
            let device = DeviceArguments {
                device: DeviceName::Cpu,
                threads: arguments.threads,
                target: name.to_owned(),
            };
            open_machine(&device, &open_device(&device)?)?.0
        }
    };
    let dtype = match (arguments.dtype, kind) {
        (Some(Dtype::Bf16), _) | (None, Kind::Gpu) => Precision::BF16,
        (Some(Dtype::F32), _) | (None, Kind::Cpu) => Precision::F32,
    };
    let all = machine.rates.threads;
    let threads = if kind == Kind::Cpu { arguments.threads.unwrap_or(all).min(all) } else { all };
    Ok(Place { machine, description, threads, dtype })
}
