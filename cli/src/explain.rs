//! `diptych explain`: what an architecture is compiled to, for people to read:
//! the graph, the fused groups, and what each kernel does and takes.

use crate::arguments::{DeviceArguments, ModelArguments};
use crate::config::RunConfig;
use crate::failure::{Failure, Result};
use crate::format::{seconds, thousands};
use crate::machine::open_device;
use crate::output::print;
use clap::Args;
use diptych_codegen::driver::compile_program;
use diptych_codegen::entry::{ArgRef, CompiledEntry, Launch, PlanStep, Role};
use diptych_ir::{EntryKind, Graph, NodeId, Program, text};
use diptych_models::{Registry, build, count_parameters};
use std::fmt::Write;

/// What `explain` takes.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    device: DeviceArguments,
    /// One entry alone: train, accumulate, update, score, prefill or decode.
    #[arg(long, value_name = "ENTRY")]
    entry: Option<String>,
    /// Print the graph as the model defines it, too.
    #[arg(long)]
    graph: bool,
}

/// Prints the explanation.
///
/// # Errors
/// When the model cannot be compiled.
pub fn run(registry: &Registry, arguments: &Arguments) -> Result<()> {
    let kinds = entry_kinds(arguments.entry.as_deref())?;
    let config = RunConfig::read(registry, &arguments.model, &toml::Table::new())?;
    let train = config.train.options(config.architecture.context())?;
    let device = open_device(&arguments.device)?;
    let program = build(&*config.architecture)?;
    let compiled = compile_program(&program, &kinds, &train.optimizer.into(), device.options())?;
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
    for entry in compiled.entries.values() {
        push(&mut out, format_args!("\n{}", plan_text(&compiled.program, entry)));
    }
    print(&out)
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

/// The steps of an entry: each launch with what it fuses, reads and writes.
pub fn plan_text(program: &Program, entry: &CompiledEntry) -> String {
    let mut out = String::new();
    let launches = count(&entry.steps, 1);
    push(
        &mut out,
        format_args!("{}: {} kernels, {launches} launches\n", entry.kind.name(), entry.kernels.len()),
    );
    if !entry.load_steps.is_empty() {
        out.push_str("  once, after parameters are loaded\n");
        steps(&mut out, program, entry, &entry.load_steps, 2);
    }
    steps(&mut out, program, entry, &entry.steps, 1);
    out
}

fn count(steps: &[PlanStep], times: usize) -> usize {
    let of = |step: &PlanStep| match step {
        PlanStep::Launch(_) => times,
        PlanStep::Repeat { layers, body, .. } => count(body, times * layers),
        PlanStep::Copy { .. } => 0,
    };
    steps.iter().map(of).sum()
}

fn steps(out: &mut String, program: &Program, entry: &CompiledEntry, list: &[PlanStep], depth: usize) {
    let indent = "  ".repeat(depth);
    for step in list {
        match step {
            PlanStep::Launch(launch) => {
                push(out, format_args!("{indent}{}\n", entry.kernels[launch.kernel].name));
                push(out, format_args!("{indent}    fuses {}\n", fused(program, launch)));
                let args: Vec<String> = launch.args.iter().map(|&arg| argument(entry, arg)).collect();
                push(out, format_args!("{indent}    on {}\n", args.join(", ")));
            }
            PlanStep::Repeat { layers, reverse, body } => {
                let order = if *reverse { ", the last first" } else { "" };
                push(out, format_args!("{indent}for each of {layers} layers{order}\n"));
                steps(out, program, entry, body, depth + 1);
            }
            PlanStep::Copy { from, to } => {
                let (from, to) = (argument(entry, *from), argument(entry, *to));
                push(out, format_args!("{indent}copy {from} to {to}\n"));
            }
        }
    }
}

/// The nodes of a launch, by the names that the model gives them where it does.
pub fn fused(program: &Program, launch: &Launch) -> String {
    let graph = &program.region(launch.region).graph;
    let names: Vec<String> = launch.nodes.iter().map(|&node| node_name(graph, node)).collect();
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
        Role::Cache { node, .. } => format!("cache {}", node.index()),
        Role::Temporary => format!("value {}", arg.buffer),
    }
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = out.write_fmt(text);
}
