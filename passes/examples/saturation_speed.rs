//! What saturation and extraction of each layer of the zoo take, with its backward pass, and whether that depends on how
//! many layers there are.
//!
//! `cargo run --release -p diptych-passes --example saturation_speed -- [PRESET...]` prints a row a model: nodes, e-nodes and
//! seconds of all its regions; without presets, the first of each family, those of the bench, and one model with 2 and with 48
//! layers. Last, the most memory that the process ever had.

use diptych_ir::Program;
use diptych_models::{Architecture, Registry, build};
use diptych_passes::algebra::{AlgebraReport, Objective, optimize_backward, optimize_forward};
use diptych_passes::normalize::divide_after_sums;
use diptych_passes::{AdamWOptions, add_adamw, differentiate, simplify};
use std::error::Error;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let mut presets: Vec<String> = std::env::args().skip(1).collect();
    let registry = Registry::zoo();
    let deep = presets.is_empty();
    if deep {
        for family in registry.families() {
            let chosen = family.presets.iter().enumerate();
            let chosen = chosen.filter(|(at, preset)| *at == 0 || preset.0.starts_with("bench"));
            presets.extend(chosen.map(|(_, preset)| preset.0.clone()));
        }
    }
    println!("| layer | nodes | e-nodes | stopped by | saturation, s | extraction, s | rest, s |");
    println!("|---|---|---|---|---|---|---|");
    for preset in &presets {
        print(preset, registry.preset(preset)?.as_ref())?;
    }
    if deep {
        let preset = registry.preset("latent-512")?;
        for layers in [2, 48] {
            let mut config = preset.describe();
            config["layers"] = layers.into();
            let architecture = registry.architecture(preset.name(), &config)?;
            print(&format!("latent-512 of {layers} layers"), architecture.as_ref())?;
        }
    }
    // On Linux alone.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    println!("\nMost memory: {}", peak.map_or("not known here", str::trim));
    Ok(())
}

fn print(name: &str, architecture: &dyn Architecture) -> Outcome<()> {
    let program = build(architecture)?;
    let objective = Objective::typical(200e9, 25e9, 1.0, 1.0);
    let (forward, report) = optimize_forward(&program, &objective)?;
    rows(&format!("{name} forward"), &program, &report);
    let forward = divide_after_sums(&forward)?;
    let backward = simplify(&add_adamw(&differentiate(&forward)?, &AdamWOptions::default())?)?;
    let (_, report) = optimize_backward(&backward, &objective)?;
    rows(&format!("{name} backward"), &backward, &report);
    Ok(())
}

/// A row for each region in which anything was found.
fn rows(name: &str, program: &Program, report: &AlgebraReport) {
    for (region, of) in report.regions.iter().zip(&program.regions) {
        let seconds = region.seconds;
        let rest = seconds.build + seconds.rebuild;
        if region.rounds > 0 {
            println!(
                "| {name} {} | {} | {} | {} | {:.3} | {:.3} | {rest:.3} |",
                region.name,
                of.graph.len(),
                region.nodes,
                region.stop,
                seconds.saturate,
                seconds.extract,
            );
        }
    }
}
