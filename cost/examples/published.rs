//! Predicted beside published kernel times: products and attention on A100 and H100.
//!
//! `cargo run --release -p diptych-cost --example published -- [--worst N] [--fit]`
//!
//! Reads `../shared/published` beside the checkout; without it there is nothing to compare with. `--fit` finds again the
//! four figures of each target that were fitted, from the half of the rows that they were fitted to.

#[path = "../tests/rows/mod.rs"]
mod rows;

use diptych_cost::{GpuRates, Machine};
use rows::{Case, Pair, median};
use std::collections::BTreeMap;

const TARGETS: [&str; 2] = ["a100-80gb-sxm", "h100-sxm"];

fn line(name: &str, pairs: &[Pair<'_>]) {
    let mut errors: Vec<f64> = pairs.iter().map(Pair::error).collect();
    errors.sort_by(f64::total_cmp);
    let ninth = errors.get(errors.len() * 9 / 10).copied().unwrap_or(f64::NAN);
    println!(
        "{name:<64} {:>6} rows  median error {:>5.1}%  nine in ten within {:>5.1}%  predicted/measured {:.2}",
        pairs.len(),
        100.0 * median(errors.iter().copied()),
        100.0 * ninth,
        median(pairs.iter().map(Pair::ratio))
    );
}

fn main() {
    let Some(folder) = rows::folder() else {
        println!("../shared/published is not there: nothing to compare with");
        return;
    };
    let cases = [rows::products(&folder), rows::attentions(&folder)].concat();
    if std::env::args().any(|arg| arg == "--fit") {
        TARGETS.into_iter().for_each(|target| fit(target, &cases));
        return;
    }
    let machines: BTreeMap<&str, Machine> =
        TARGETS.into_iter().map(|name| (name, rows::machine(name))).collect();
    let pairs: Vec<Pair<'_>> = cases.iter().map(|case| case.beside(&machines[case.target])).collect();
    let mut groups: BTreeMap<String, Vec<Pair<'_>>> = BTreeMap::new();
    for pair in &pairs {
        let case = pair.case;
        let part = match (case.source, case.fitted) {
            ("aiconfigurator", true) => "the half fitted to",
            ("aiconfigurator", false) => "the other half",
            _ => "not fitted to",
        };
        let name = format!("{}, {}, {}", case.kind, case.target, case.source);
        groups.entry(format!("{name}, {part}")).or_default().push(*pair);
        if case.least > case.measured {
            groups.entry(format!("{name}, faster than memory's peak")).or_default().push(*pair);
        }
    }
    for (name, pairs) in &groups {
        line(name, pairs);
    }
    for target in TARGETS {
        for kind in ["GEMM", "attention"] {
            let of = |pair: &&Pair<'_>| {
                !pair.case.fitted && pair.case.target == target && pair.case.kind.starts_with(kind)
            };
            let held: Vec<Pair<'_>> = pairs.iter().filter(of).copied().collect();
            line(&format!("{kind}, {target}, all that was not fitted to"), &held);
        }
    }
    let worst = std::env::args().skip_while(|arg| arg != "--worst").nth(1).and_then(|n| n.parse().ok());
    let mut pairs = pairs;
    pairs.sort_by(|a, b| b.error().total_cmp(&a.error()));
    for pair in pairs.into_iter().take(worst.unwrap_or(0)) {
        let case = pair.case;
        println!(
            "{:<22} {:<14} {:<44} measured {:>9.1} µs, predicted {:>9.1} µs",
            case.kind,
            case.target,
            case.shape,
            case.measured * 1e6,
            pair.predicted * 1e6
        );
    }
}

/// Finds the fitted figures of a target again: three from products, then one from attention of a token.
fn fit(target: &str, cases: &[Case]) {
    let mut machine = rows::machine(target);
    let of = |kind: &str| -> Vec<&Case> {
        let chosen = |case: &&Case| case.fitted && case.target == target && case.kind == kind;
        cases.iter().filter(chosen).collect()
    };
    let mut figures = [3e-6, 0.8, 1e-6, 5e-6];
    descend(&mut machine, &mut figures, &[0, 1, 2], &of("GEMM"));
    descend(&mut machine, &mut figures, &[3], &of("attention of a token"));
    println!(
        "{target}: launch {:.2} µs, share of memory's rate {:.3}, tile {:.2} µs, block of a walk {:.2} µs",
        figures[0] * 1e6,
        figures[1],
        figures[2] * 1e6,
        figures[3] * 1e6
    );
}

/// Steps along one figure at a time, up or down by a factor that shrinks, as long as the mean of
/// |ln(predicted / measured)| falls.
fn descend(machine: &mut Machine, figures: &mut [f64; 4], free: &[usize], cases: &[&Case]) {
    let mut loss = |figures: &[f64; 4]| {
        machine.rates.launch_seconds = figures[0];
        machine.rates.gpu = Some(GpuRates {
            share_of_memory_rate: figures[1].min(1.0),
            tile_seconds: figures[2],
            stream_block_seconds: figures[3],
        });
        cases.iter().map(|case| case.beside(machine).ratio().ln().abs()).sum::<f64>() / cases.len() as f64
    };
    let mut best = loss(figures);
    let mut factor: f64 = 2.0;
    while factor > 1.01 {
        let before = best;
        for &at in free {
            for by in [factor, 1.0 / factor] {
                let mut tried = *figures;
                tried[at] *= by;
                let found = loss(&tried);
                if found < best {
                    (best, *figures) = (found, tried);
                }
            }
        }
        if best == before {
            factor = factor.sqrt();
        }
    }
}
