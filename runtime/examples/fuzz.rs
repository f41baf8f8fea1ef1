//! Searches for programs that native code computes otherwise than the
//! evaluator, for as long as it is told:
//! `cargo run --release -p diptych-runtime --example fuzz -- --seconds 600`.
//! `--from SEED` starts there (before 1000000 programs have no experts), `--seed SEED` looks at one program and prints
//! it, `--width avx512|avx2|portable` sets the vectors, `--budget STEPS` the
//! evaluator's work for each program, `--forward` leaves gradients out,
//! `--no-serving` prefill and decoding. `--architectures` takes random small language models instead, each in all
//! forms that the algebra finds for a random objective.

#[path = "../tests/support/mod.rs"]
mod support;

use diptych_codegen::c::prelude::VectorWidth;
use diptych_ir::{EntryKind, NodeId, Program};
use diptych_passes::fuse::{FuseOptions, Group, Rows, Step, StreamedAxes, fuse};
use diptych_passes::normalize::normalize;
use diptych_passes::simplify;
use diptych_runtime::cpu::compile::{Compiler, KernelCache};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use support::architectures::check_architectures;
use support::check::{Options, check};
use support::programs::ROUTED;

/// Programs whose kernels are compiled together.
const TOGETHER: u64 = 12;

struct Arguments {
    seconds: f64,
    from: u64,
    one: Option<u64>,
    architectures: bool,
    options: Options,
}

fn arguments() -> Result<Arguments, String> {
    let options = Options { width: VectorWidth::detect(), budget: 3e6, gradients: true, serving: true };
    let mut parsed =
        Arguments { seconds: 60.0, from: ROUTED + 1000, one: None, architectures: false, options };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--forward" => {
                parsed.options.gradients = false;
                continue;
            }
            "--architectures" => {
                parsed.architectures = true;
                continue;
            }
            "--no-serving" => {
                parsed.options.serving = false;
                continue;
            }
            _ => {}
        }
        let value = arguments.next().ok_or(format!("{argument} needs a value"))?;
        let wrong = |_| format!("{argument} takes a number, not `{value}`");
        match argument.as_str() {
            "--seconds" => parsed.seconds = value.parse().map_err(|_| wrong(()))?,
            "--from" => parsed.from = value.parse().map_err(|_| wrong(()))?,
            "--seed" => parsed.one = Some(value.parse().map_err(|_| wrong(()))?),
            "--budget" => parsed.options.budget = value.parse().map_err(|_| wrong(()))?,
            "--width" => {
                parsed.options.width = VectorWidth::named(&value).map_err(|error| error.to_string())?;
            }
            _ => return Err(format!("no option {argument}")),
        }
    }
    Ok(parsed)
}

/// Prints a program as the compiler sees it, and how its `Score` is fused.
fn explain(program: &Program) {
    let Ok(mut program) = simplify(program).and_then(|program| normalize(&program, false)) else { return };
    let Ok(streamed) = StreamedAxes::of(&program) else { return };
    program.entries.retain(|entry| entry.kind == EntryKind::Score);
    print!("{}", diptych_ir::text::print(&program));
    let options = FuseOptions {
        rows: Rows::Any,
        history_is_rename: true,
        operand_elements: usize::MAX,
        fine_columns: false,
    };
    let roots: Vec<NodeId> = program.entries[0].roots.iter().map(|root| root.1).collect();
    let Ok(fused) = fuse(&program, &roots, &streamed, options) else { return };
    for (region, steps) in fused {
        println!("region @{}", region.0);
        for step in steps.steps {
            match step {
                Step::Repeat(node) => println!("  repeat %{}", node.index()),
                Step::Group(group) => print_group("  ", &group),
                Step::Turns(turns) => {
                    println!("  in turns");
                    turns.groups.iter().for_each(|group| print_group("    ", group));
                }
            }
        }
    }
}

fn print_group(indent: &str, group: &Group) {
    let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.index()).collect::<Vec<_>>();
    println!("{indent}{:?}: {:?} stores {:?}", group.kind, ids(&group.nodes), ids(&group.outputs));
}

fn main() -> ExitCode {
    let Arguments { seconds, from, one, architectures, options } = match arguments() {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("fuzz: {problem}");
            return ExitCode::FAILURE;
        }
    };
    let compiler = match Compiler::find() {
        Ok(compiler) => compiler,
        Err(error) => {
            eprintln!("fuzz: {error}");
            return ExitCode::FAILURE;
        }
    };
    let cache = KernelCache::at(std::env::temp_dir().join("diptych-fuzz"));
    let start = Instant::now();
    let (mut agreed, mut refused, mut unserved, mut wrong) = (0, 0, 0, 0);
    let mut first = one.unwrap_or(from);
    loop {
        let count = if one.is_some() { 1 } else { TOGETHER };
        let seeds: Vec<u64> = (first..first + count).collect();
        if one.is_some() && !architectures {
            explain(&support::programs::program(first).0);
        }
        let findings = match architectures {
            true => check_architectures(&seeds, true, options, &compiler, &cache),
            false => check(&seeds, options, &compiler, &cache),
        };
        for (seed, problem) in &findings.refused {
            println!("seed {seed} was refused: {problem}");
        }
        if one.is_some() || architectures {
            for (seed, problem) in &findings.unserved {
                println!("seed {seed} is not served: {problem}");
            }
        }
        for (seed, problem) in &findings.wrong {
            println!("seed {seed} is WRONG: {problem}");
        }
        agreed += findings.agreed;
        refused += findings.refused.len();
        unserved += findings.unserved.len();
        wrong += findings.wrong.len();
        first += count;
        if one.is_some() || start.elapsed() > Duration::from_secs_f64(seconds) {
            break;
        }
    }
    println!(
        "seeds {}..{first}: {agreed} agree, {refused} refused, {unserved} not served, {wrong} wrong",
        one.unwrap_or(from)
    );
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
