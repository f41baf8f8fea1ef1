//! The diptych command: one file a subcommand, and the reports that it writes.
//! It alone knows of terminals; what it shows is computed elsewhere.

mod arguments;
mod bench;
mod blocks;
mod chat;
pub mod check;
mod compare;
mod compile;
mod config;
mod convert;
mod explain;
mod failure;
mod format;
mod forms;
mod generate;
mod held_out;
mod machine;
mod model_flops;
mod models;
mod objective;
mod output;
mod page;
mod plots;
mod progress;
mod ratios;
mod report;
mod score;
mod stages;
mod start;
mod text;
mod train;
mod weights;

use clap::{Parser, Subcommand};
use diptych_models::Registry;
use std::process::ExitCode;

/// What the command is called with.
#[derive(Parser)]
#[command(
    name = "diptych",
    version,
    about = "Writes a language model once; trains and serves it with one program."
)]
struct Command {
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    /// Train several ways to build a model on the same text, serve each, and report what both cost.
    Bench(bench::Arguments),
    /// Pretrain an architecture on a text.
    Train(Box<train::Arguments>),
    /// Continue a prompt.
    Generate(generate::Arguments),
    /// The loss and perplexity of a text.
    Score(score::Arguments),
    /// Show what an architecture is compiled to: graph, kernels, and what each costs.
    Explain(explain::Arguments),
    /// Predict what models cost to train and to serve on machines that need not be there.
    Compare(compare::Arguments),
    /// Write the compiled program into a folder: graph, kernel sources, plan.
    Compile(compile::Arguments),
    /// Write a checkpoint in the format of Hugging Face.
    Export(convert::ExportArguments),
    /// List the families of architectures and their presets.
    Models,
}

/// Runs the command line of this process, with these architectures to choose
/// from. What goes wrong is told on standard error, with exit code 2.
pub fn main(registry: Registry) -> ExitCode {
    let command = Command::parse();
    let done = match command.job {
        Job::Bench(arguments) => bench::run(&registry, &arguments),
        Job::Train(arguments) => train::run(&registry, &arguments),
        Job::Generate(arguments) => generate::run(&registry, &arguments),
        Job::Score(arguments) => score::run(&registry, &arguments),
        Job::Explain(arguments) => explain::run(&registry, &arguments),
        Job::Compare(arguments) => compare::run(&registry, &arguments),
        Job::Compile(arguments) => compile::run(&registry, &arguments),
        Job::Export(arguments) => convert::export(&registry, &arguments),
        Job::Models => models::run(&registry),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::tell(format!("error: {}", failure.0));
            ExitCode::from(2)
        }
    }
}
