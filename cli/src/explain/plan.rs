//! The plan of an entry as text: what each kernel fuses, reads, writes and takes.

use crate::format::{bytes, push, seconds, short};
use diptych_codegen::entry::{ArgRef, CompiledEntry, Launch, PlanStep, Role};
use diptych_cost::{EntryPrediction, Work};
use diptych_ir::{Graph, NodeId, Program};

/// The steps of an entry: each launch with what it fuses, reads and writes,
/// and with its cost if there is a prediction.
pub fn plan_text(program: &Program, entry: &CompiledEntry, prediction: Option<&EntryPrediction>) -> String {
    let mut out = String::new();
    let runs = |prediction: &EntryPrediction| prediction.launches.iter().map(|launch| launch.runs).sum();
    let launches: usize = prediction.map_or_else(|| count(&entry.steps, 1), runs);
    push(
        &mut out,
        format_args!("{}: {} kernels, {launches} launches", entry.kind.name(), entry.programs.len()),
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

/// The launches of a run, if it takes one turn where steps run in turns.
fn count(steps: &[PlanStep], times: usize) -> usize {
    let of = |step: &PlanStep| match step {
        PlanStep::Launch(_) => times,
        PlanStep::Repeat { layers, body, .. } => count(body, times * layers),
        PlanStep::Together(group) => times * group.len(),
        PlanStep::Turns { body, .. } => count(body, times),
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
        push(out, format_args!("{indent}{}\n", self.entry.kernel_name(launch.kernel)));
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
                PlanStep::Turns { rows, body } => {
                    push(out, format_args!("{indent}in turns of {rows} tokens\n"));
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
fn fused(program: &Program, launch: &Launch) -> String {
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
