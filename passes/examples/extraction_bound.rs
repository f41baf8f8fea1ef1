//! How far the extraction of each layer of the zoo is from the best one.
//!
//! `cargo run --release -p diptych-passes --example extraction_bound -- [SECONDS] [PRESET...]` prints for each region
//! of each program the cost of its extraction, the bound that extraction gives at once, and the bound after so many
//! seconds of branch and bound (60 if not said); without presets, the first of each family and those of the bench.

use diptych_models::{Registry, build};
use diptych_passes::algebra::{ExtractionGap, Objective, Stage, extraction_gaps, optimize_forward};
use diptych_passes::normalize::divide_after_sums;
use diptych_passes::{AdamWOptions, add_adamw, differentiate, simplify};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().map_or(Ok(60.0), |seconds| seconds.parse())?;
    let mut presets: Vec<String> = arguments.collect();
    let registry = Registry::zoo();
    if presets.is_empty() {
        for family in registry.families() {
            let chosen = family
                .presets
                .iter()
                .enumerate()
                .filter(|(at, preset)| *at == 0 || preset.0.starts_with("bench"));
            presets.extend(chosen.map(|(_, preset)| preset.0.clone()));
        }
    }
    // As compilation weighs it.
    let objective = Objective::typical(200e9, 25e9, 1.0, 1.0);
    println!(
        "| layer | classes | with choice | seconds | cost | bound at once | bound after {seconds} s | gap |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for preset in &presets {
        let program = build(registry.preset(preset)?.as_ref())?;
        print(preset, "forward", &extraction_gaps(&program, &objective, Stage::Forward, seconds)?);
        let forward = divide_after_sums(&optimize_forward(&program, &objective)?.0)?;
        let backward = simplify(&add_adamw(&differentiate(&forward)?, &AdamWOptions::default())?)?;
        print(preset, "backward", &extraction_gaps(&backward, &objective, Stage::Backward, seconds)?);
    }
    Ok(())
}

fn print(preset: &str, stage: &str, gaps: &[ExtractionGap]) {
    for gap in gaps.iter().filter(|gap| gap.choices > 0 && gap.cost > 0.0) {
        println!(
            "| {preset} {} {stage} | {} | {} | {:.3} | {:.6e} | {:.6e} | {:.6e} | {:.3}% |",
            gap.region,
            gap.classes,
            gap.choices,
            gap.seconds,
            gap.cost,
            gap.bound,
            gap.searched_bound,
            100.0 * (gap.cost / gap.searched_bound - 1.0)
        );
    }
}
