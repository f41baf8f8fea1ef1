//! Predicted beside published kernel times: products and attention on A100 and H100.
//!
//! `cargo run --release -p diptych-cost --example published -- [--worst N]`
//!
//! Reads `../shared/published` beside the checkout; without it there is nothing to compare with.

#[path = "../tests/rows/mod.rs"]
mod rows;

use rows::{Pair, median};
use std::collections::BTreeMap;

fn line(name: &str, pairs: &[&Pair]) {
    let bias = median(pairs.iter().map(|pair| pair.predicted / pair.measured));
    let error = median(pairs.iter().map(|pair| pair.error()));
    let mut errors: Vec<f64> = pairs.iter().map(|pair| pair.error()).collect();
    errors.sort_by(f64::total_cmp);
    let ninth = errors.get(errors.len() * 9 / 10).copied().unwrap_or(f64::NAN);
    println!(
        "{name:<64} {:>6} rows  median error {:>5.1}%  nine in ten within {:>5.1}%  predicted/measured {bias:.2}",
        pairs.len(),
        100.0 * error,
        100.0 * ninth
    );
}

fn main() {
    let Some(folder) = rows::folder() else {
        println!("../shared/published is not there: nothing to compare with");
        return;
    };
    let machines: BTreeMap<&'static str, _> =
        ["a100-80gb-sxm", "h100-sxm"].into_iter().map(|name| (name, rows::machine(name))).collect();
    let mut pairs = rows::products(&folder, &machines);
    pairs.extend(rows::attentions(&folder, &machines));
    let mut groups: BTreeMap<String, Vec<&Pair>> = BTreeMap::new();
    for pair in &pairs {
        let part = match (pair.source, pair.fitted) {
            ("aiconfigurator", true) => "the half fitted to",
            ("aiconfigurator", false) => "the other half",
            _ => "not fitted to",
        };
        let name = format!("{}, {}, {}, {part}", pair.kind, pair.target, pair.source);
        groups.entry(name).or_default().push(pair);
        if pair.least > pair.measured {
            let name = format!("{}, {}, {}, faster than memory's peak", pair.kind, pair.target, pair.source);
            groups.entry(name).or_default().push(pair);
        }
    }
    for (name, pairs) in &groups {
        line(name, pairs);
    }
    for target in machines.keys() {
        for kind in ["GEMM", "attention"] {
            let of = |pair: &&Pair| !pair.fitted && pair.target == *target && pair.kind.starts_with(kind);
            let held: Vec<&Pair> = pairs.iter().filter(of).collect();
            line(&format!("{kind}, {target}, all that was not fitted to"), &held);
        }
    }
    let worst: Option<usize> =
        std::env::args().skip_while(|arg| arg != "--worst").nth(1).and_then(|n| n.parse().ok());
    if let Some(worst) = worst {
        let mut pairs: Vec<&Pair> = pairs.iter().collect();
        pairs.sort_by(|a, b| b.error().total_cmp(&a.error()));
        for pair in pairs.into_iter().take(worst) {
            println!(
                "{:<22} {:<14} {:<44} measured {:>9.1} µs, predicted {:>9.1} µs",
                pair.kind,
                pair.target,
                pair.shape,
                pair.measured * 1e6,
                pair.predicted * 1e6
            );
        }
    }
}
