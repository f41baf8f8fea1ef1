//! `diptych explain`: what an architecture is compiled to, for people to read:
//! the graph, what the algebra made of it, the fused groups, and what each kernel does and takes.

mod picture;
mod plan;

pub use plan::plan_text;

use crate::arguments::{DeviceArguments, ModelArguments};
use crate::config::RunConfig;
use crate::failure::{Failure, Result};
use crate::format::{thousands, wrapped};
use crate::forms::{account_text, compared_text};
use crate::machine::{open_machine, open_measured_device};
use crate::objective::{Form, ObjectiveArguments, ObjectiveConfig};
use crate::output::{claim_folder, print, tell, write_file};
use crate::ratios;
use crate::stages::{CompileTime, Compiled, compile_model};
use clap::Args;
use diptych_codegen::driver::{CompiledProgram, Rewrote};
use diptych_codegen::entry::CompiledEntry;
use diptych_cost::launch::RunSizes;
use diptych_cost::{EntryPrediction, predict_entry};
use diptych_ir::{EntryKind, text};
use diptych_models::{Registry, count_parameters};
use diptych_runtime::train::TrainOptions;
use std::path::PathBuf;

/// What `explain` takes.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    device: DeviceArguments,
    #[command(flatten)]
    objective: ObjectiveArguments,
    /// One entry alone: train, accumulate, update, score, prefill or decode.
    #[arg(long, value_name = "ENTRY")]
    entry: Option<String>,
    /// Positions that prefill and decode are predicted for; without it, 512 or the model's context if that is less.
    #[arg(long, value_name = "N", default_value_t = 512)]
    context: usize,
    /// Leave out each rule of the algebra in turn, and print what it brings; takes a second for some three rules.
    #[arg(long)]
    rules: bool,
    /// Print the graph as the model defines it, too.
    #[arg(long)]
    graph: bool,
    /// Draw what the algebra changed, before and after, into this folder: a page with SVG files, and the same graphs
    /// in the language of graphviz. It must be empty or not there.
    #[arg(long, value_name = "FOLDER")]
    picture: Option<PathBuf>,
    /// Also write a page that shows which form is chosen as more is served for each token trained.
    #[arg(long, value_name = "FILE")]
    ratios: Option<PathBuf>,
    /// Write into a folder that has something in it.
    #[arg(long, requires = "picture")]
    force: bool,
}

/// Columns of a line of text.
const COLUMNS: usize = 120;

/// Prints the explanation.
///
/// # Errors
/// When the model cannot be compiled, or the folder of pictures cannot be written.
pub fn run(registry: &Registry, arguments: &Arguments) -> Result<()> {
    let mut time = CompileTime::start();
    let kinds = entry_kinds(arguments.entry.as_deref())?;
    let config = RunConfig::read(registry, &arguments.model, &arguments.objective.table()?)?;
    if let Some(folder) = &arguments.picture {
        claim_folder(folder, arguments.force)?;
    }
    let drawn = in_forward_program(&kinds);
    time.lap("configuration");
    let device = open_measured_device(&arguments.device)?;
    let (machine, _) = open_machine(&arguments.device, &device)?;
    time.lap("device");
    let architecture = &*config.architecture;
    let train = config.train.options(architecture.context())?;
    let context = arguments.context.clamp(1, architecture.context());
    let Compiled { program, objective, compared, rewritten, compiled } =
        compile_model(&config, &kinds, device.options(), ObjectiveConfig::compare, &mut time)?;
    let prediction = |entry: &CompiledEntry| {
        predict_entry(entry, &machine, device.threads(), &sizes(entry.kind, &train, context))
    };
    let predictions: Vec<EntryPrediction> = compiled.entries.values().map(prediction).collect();
    time.lap("costs of launches");
    if let Some(folder) = &arguments.picture {
        let count = picture::write(folder, &program, &rewritten, &drawn)?;
        tell(format!("pictures of {count} changed regions: {}", folder.join("index.html").display()));
        time.lap("pictures");
    }
    if let Some(path) = &arguments.ratios {
        let entries: Vec<EntryKind> = objective.bindings.iter().map(|binding| binding.entry).collect();
        let sweep = config.objective.sweep(&program, &objective, device.options())?;
        let page = ratios::html(architecture.name(), &entries, &sweep)
            .map_err(|problem| Failure(format!("cannot draw the plot: {problem}")))?;
        write_file(path, page.as_bytes())?;
        tell(format!("forms by what is served: {}", path.display()));
        time.lap("forms by what is served");
    }
    let mut forms = String::new();
    if config.objective.numerics != Form::AsWritten {
        let later = &compiled.refused[rewritten.refused.len().min(compiled.refused.len())..];
        forms.push_str(&compared_text(&config.objective, &objective, &compared, later));
        forms.push_str(&account_text(&program, &objective, arguments.rules)?);
        time.lap("what each decision brings");
    }
    let taken = time.taken();
    let mut out = format!(
        "{}: {} parameters, context {}, vocabulary {}\n",
        architecture.name(),
        thousands(count_parameters(&program) as u64),
        thousands(architecture.context() as u64),
        thousands(architecture.vocab() as u64)
    );
    if arguments.graph {
        out.push_str(&format!("\nThe graph\n{}", text::print(&program)));
    }
    out.push_str(&format!("\nWhere the time went\n{}", taken.text(1e-3)));
    out.push_str(&wrapped(&forms, COLUMNS));
    out.push_str(&wrapped(&algebra_text(&compiled, &drawn), COLUMNS));
    out.push_str(&format!(
        "\nTraining with {} sequences of {} tokens, prefill of {context}, decode after {context}; costs are of a whole \
         run\n",
        train.batch, train.time
    ));
    for (entry, prediction) in compiled.entries.values().zip(&predictions) {
        let plan = plan_text(compiled.program_of(entry.kind), entry, Some(prediction));
        out.push('\n');
        out.push_str(&wrapped(&plan, COLUMNS));
    }
    print(&out)
}

/// What the algebra did to what these entries are compiled from.
fn algebra_text(compiled: &CompiledProgram, kinds: &[EntryKind]) -> String {
    let mut out = String::new();
    for Rewrote { entries, backward, report } in &compiled.algebra {
        let entries: Vec<&str> =
            entries.iter().filter(|kind| kinds.contains(kind)).map(|kind| kind.name()).collect();
        if *backward {
            out.push_str(&format!("\nWhat the algebra rewrote of the backward pass\n{report}"));
        } else if !entries.is_empty() {
            out.push_str(&format!("\nWhat the algebra rewrote for {}\n{report}", entries.join(", ")));
        }
    }
    out
}

/// The entries of a program that is not yet differentiated from which these come.
fn in_forward_program(kinds: &[EntryKind]) -> Vec<EntryKind> {
    let forward = |kind: &EntryKind| match kind {
        EntryKind::Train | EntryKind::Accumulate | EntryKind::Update | EntryKind::Step => EntryKind::Train,
        EntryKind::Score | EntryKind::Prefill | EntryKind::Decode => *kind,
    };
    kinds.iter().map(forward).collect()
}

/// The sequences of a run of an entry.
fn sizes(kind: EntryKind, train: &TrainOptions, context: usize) -> RunSizes {
    match kind {
        EntryKind::Train | EntryKind::Accumulate | EntryKind::Step => {
            RunSizes::equal(train.batch, 0, train.time)
        }
        EntryKind::Update => RunSizes::equal(1, 0, 1),
        EntryKind::Score | EntryKind::Prefill => RunSizes::equal(1, 0, context),
        EntryKind::Decode => RunSizes::equal(1, context.saturating_sub(1), 1),
    }
}

/// The entries to compile: the one named, or all.
///
/// # Errors
/// When there is no such entry.
pub fn entry_kinds(name: Option<&str>) -> Result<Vec<EntryKind>> {
    // `step` is `train` and `update` once more, and not for gradients that are clipped.
    let all = || EntryKind::ALL.into_iter().filter(|kind| *kind != EntryKind::Step).collect();
    let Some(name) = name else { return Ok(all()) };
    let found = EntryKind::ALL.into_iter().find(|kind| kind.name() == name);
    let known = || EntryKind::ALL.map(EntryKind::name).join(", ");
    found.map(|kind| vec![kind]).ok_or_else(|| Failure(format!("no entry `{name}`; there are: {}", known())))
}
