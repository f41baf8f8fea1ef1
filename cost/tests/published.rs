//! Predicted kernel times are near those that others measured: products and attention on A100 and H100, judged on
//! rows that no figure of the targets was fitted to. Without the published rows there is nothing to judge.

mod rows;

use rows::{Pair, median};
use std::collections::BTreeMap;

#[test]
fn kernels_take_what_others_measured() {
    let Some(folder) = rows::folder() else {
        println!("skipped: ../shared/published is not beside the checkout");
        return;
    };
    let machines: BTreeMap<&'static str, _> =
        ["a100-80gb-sxm", "h100-sxm"].into_iter().map(|name| (name, rows::machine(name))).collect();
    let mut pairs = rows::products(&folder, &machines);
    pairs.extend(rows::attentions(&folder, &machines));
    let mut groups: BTreeMap<(&str, &str), Vec<&Pair>> = BTreeMap::new();
    for pair in pairs.iter().filter(|pair| !pair.fitted) {
        let kind = if pair.kind == "GEMM" { "GEMM" } else { "attention" };
        groups.entry((kind, pair.target)).or_default().push(pair);
        if pair.source == "aiconfigurator" {
            groups.entry((pair.kind, pair.target)).or_default().push(pair);
        }
    }
    assert_eq!(groups.len(), 8, "rows of a kind are missing: {:?}", groups.keys());
    for (group, pairs) in groups {
        let error = median(pairs.iter().map(|pair| pair.error()));
        println!("{group:?}: {} rows, median error {:.1}%", pairs.len(), 100.0 * error);
        let most = if group.0 == "GEMM" { 0.12 } else { 0.25 };
        assert!(error <= most, "{group:?}: median error {error:.3}");
    }
}
