//! `diptych explain`: what an architecture is compiled to, for people to read:
//! the graph, the fused groups, and what each kernel does and takes.

use crate::arguments::{DeviceArguments, ModelArguments};
use crate::config::RunConfig;
use crate::failure::{Failure, Result};
use crate::format::{bytes, seconds, short, thousands};
use crate::machine::{open_device, open_machine};
use crate::objective::ObjectiveArguments;
use crate::output::{print, write_file};
use crate::ratios;
use clap::Args;
use diptych_codegen::driver::compile_rewritten;
use diptych_codegen::entry::{ArgRef, CompiledEntry, Launch, PlanStep, Role};
use diptych_cost::launch::RunSizes;
use diptych_cost::{EntryPrediction, Work, predict_entry};
use diptych_ir::{EntryKind, Graph, NodeId, Program, text};
use diptych_models::{Registry, build, count_parameters};
use diptych_runtime::train::TrainOptions;
use std::fmt::Write;
use std::path::PathBuf;

/// What `explain` takes.
#[derive(Args, Clone)]
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
    /// Print the graph as the model defines it, too.
    #[arg(long)]
    graph: bool,
    /// Also write a page that shows which form is chosen as more is served for each token trained.
    #[arg(long, value_name = "FILE")]
    ratios: Option<PathBuf>,
}

/// Prints the explanation.
///
/// # Errors
/// When the model cannot be compiled.
pub fn run(registry: &Registry, arguments: &Arguments) -> Result<()> {
    let kinds = entry_kinds(arguments.entry.as_deref())?;
    let config = RunConfig::read(registry, &arguments.model, &arguments.objective.table()?)?;
    let train = config.train.options(config.architecture.context())?;
    let device = open_device(&arguments.device)?;
    let (machine, _) = open_machine(&arguments.device, &device)?;
    let arguments =
        Arguments { context: arguments.context.clamp(1, config.architecture.context()), ..arguments.clone() };
    let program = build(&*config.architecture)?;
    let objective = config.objective.objective(config.architecture.context(), train.batch, train.time)?;
    if let Some(path) = &arguments.ratios {
        let entries: Vec<EntryKind> = objective.bindings.iter().map(|binding| binding.entry).collect();
        let sweep = config.objective.sweep(&program, &objective, device.options())?;
        write_file(path, ratios::html(config.architecture.name(), &entries, &sweep)?.as_bytes())?;
    }
    let rewritten = config.objective.rewrite(&program, objective, device.options())?;
    let compiled = compile_rewritten(&rewritten, &kinds, &train.optimizer.into(), device.options())?;
    let mut out = format!(
        "{}: {} parameters, context {}, vocabulary {}\n",
        config.architecture.name(),
        thousands(count_parameters(&program) as u64),
        thousands(config.architecture.context() as u64),
        thousands(config.architecture.vocab() as u64)
    );
    if arguments.graph {
        push(&mut out, format_args!("\nThe graph\n{}", text::print(&program)));
    }
    out.push_str("\nCompiled in\n");
    for (stage, time) in &compiled.stages {
        push(&mut out, format_args!("  {stage:<14} {}\n", seconds(*time)));
    }
    if !compiled.algebra.is_empty() {
        out.push_str("\nWhat the algebra rewrote\n");
    }
    for report in &compiled.algebra {
        push(&mut out, format_args!("{report}"));
    }
    push(
        &mut out,
        format_args!(
            "\nTraining with {} sequences of {} tokens, prefill of {}, decode after {}; costs are of a whole run\n",
            train.batch, train.time, arguments.context, arguments.context
        ),
    );
    for entry in compiled.entries.values() {
        let sizes = sizes(entry.kind, &train, arguments.context);
        let prediction = predict_entry(entry, &machine, device.pool.threads(), &sizes);
        push(
            &mut out,
            format_args!("\n{}", plan_text(compiled.program_of(entry.kind), entry, Some(&prediction))),
        );
    }
    print(&out)
}

/// The sequences of a run of an entry.
fn sizes(kind: EntryKind, train: &TrainOptions, context: usize) -> RunSizes {
    match kind {
        EntryKind::Train | EntryKind::Accumulate => RunSizes::equal(train.batch, 0, train.time),
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
    let Some(name) = name else { return Ok(EntryKind::ALL.to_vec()) };
    let found = EntryKind::ALL.into_iter().find(|kind| kind.name() == name);
    let known = || EntryKind::ALL.map(EntryKind::name).join(", ");
    found.map(|kind| vec![kind]).ok_or_else(|| Failure(format!("no entry `{name}`; there are: {}", known())))
}

/// The steps of an entry: each launch with what it fuses, reads and writes,
/// and with its cost if there is a prediction.
pub fn plan_text(program: &Program, entry: &CompiledEntry, prediction: Option<&EntryPrediction>) -> String {
    let mut out = String::new();
    let launches = count(&entry.steps, 1);
    push(
        &mut out,
        format_args!("{}: {} kernels, {launches} launches", entry.kind.name(), entry.kernels.len()),
    );
    if let Some(prediction) = prediction {
        let (work, time) = (prediction.work(), seconds(prediction.seconds()));
        push(&mut out, format_args!("; {}; predicted {time}", work_text(&work)));
    }
    out.push('\n');
    if !entry.load_steps.is_empty() {
        out.push_str("  once, after parameters are loaded\n");
        Walk { program, entry, prediction: None, next: 0 }.steps(&mut out, &entry.load_steps, 2);
    }
    Walk { program, entry, prediction, next: 0 }.steps(&mut out, &entry.steps, 1);
    out
}

fn work_text(work: &Work) -> String {
    let intensity = work.arithmetic_intensity().map_or("–".to_owned(), short);
    format!("{} FLOP, {}, {intensity} FLOP/byte", short(work.flops()), bytes(work.bytes()))
}

fn count(steps: &[PlanStep], times: usize) -> usize {
    let of = |step: &PlanStep| match step {
        PlanStep::Launch(_) => times,
        PlanStep::Repeat { layers, body, .. } => count(body, times * layers),
        PlanStep::Together(group) => times * group.len(),
        PlanStep::Copy { .. } => 0,
    };
    steps.iter().map(of).sum()
}

/// Through the steps of an entry, with a count of its launches.
struct Walk<'a> {
    program: &'a Program,
    entry: &'a CompiledEntry,
    prediction: Option<&'a EntryPrediction>,
    next: usize,
}

impl Walk<'_> {
    fn launch(&mut self, out: &mut String, launch: &Launch, depth: usize) {
        let indent = "  ".repeat(depth);
        push(out, format_args!("{indent}{}\n", self.entry.kernels[launch.kernel].name));
        push(out, format_args!("{indent}    fuses {}\n", fused(self.program, launch)));
        let args: Vec<String> = launch.args.iter().map(|&arg| argument(self.entry, arg)).collect();
        push(out, format_args!("{indent}    on {}\n", args.join(", ")));
        if let Some(found) = self.prediction.and_then(|prediction| prediction.launches.get(self.next)) {
            let runs = if found.runs > 1 { format!(" in {} runs", found.runs) } else { String::new() };
            let (work, time, bound) = (work_text(&found.work), seconds(found.seconds), &found.bound);
            push(out, format_args!("{indent}    {work}; predicted {time}{runs}, bound by {bound:?}\n"));
        }
        self.next += 1;
    }

    fn steps(&mut self, out: &mut String, list: &[PlanStep], depth: usize) {
        let indent = "  ".repeat(depth);
        for step in list {
            match step {
                PlanStep::Launch(launch) => self.launch(out, launch, depth),
                PlanStep::Together(group) => {
                    push(out, format_args!("{indent}together\n"));
                    for launch in group {
                        self.launch(out, launch, depth + 1);
                    }
                }
                PlanStep::Repeat { layers, reverse, body } => {
                    let order = if *reverse { ", the last first" } else { "" };
                    push(out, format_args!("{indent}for each of {layers} layers{order}\n"));
                    self.steps(out, body, depth + 1);
                }
                PlanStep::Copy { from, to } => {
                    let (from, to) = (argument(self.entry, *from), argument(self.entry, *to));
                    push(out, format_args!("{indent}copy {from} to {to}\n"));
                }
            }
        }
    }
}

/// The nodes of a launch, by the names that the model gives them where it does.
pub fn fused(program: &Program, launch: &Launch) -> String {
    let graph = &program.region(launch.region).graph;
    // What a loop is given must be stored as it is: an entry adds copies for that, which the program has not.
    let name = |&node: &NodeId| match graph.contains(node) {
        true => node_name(graph, node),
        false => "copy".to_owned(),
    };
    let names: Vec<String> = launch.nodes.iter().map(name).collect();
    names.join(", ")
}

fn node_name(graph: &Graph, id: NodeId) -> String {
    let op = graph.op(id).name();
    match graph.node(id).label {
        Some(label) => format!("{op}({label})"),
        None => op.to_owned(),
    }
}

fn argument(entry: &CompiledEntry, arg: ArgRef) -> String {
    let buffer = &entry.buffers[arg.buffer];
    match &buffer.role {
        Role::Stored(name) | Role::Input(name) | Role::Root(name) => name.to_string(),
        Role::Derived => format!("derived {}", arg.buffer),
        Role::Cache { room, .. } => format!("cache {room}"),
        Role::State { room, index } => format!("state {room}.{index}"),
        Role::Temporary => format!("value {}", arg.buffer),
    }
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = out.write_fmt(text);
}
