//! How the models of a bench compute and what they cache, in words, as their
//! programs have it. It runs nothing.

use super::Contender;
use diptych_ir::{DType, Op};
use std::collections::BTreeSet;

/// In which precisions all models hold their weights and multiply them. All entries of a program give the same bits.
pub fn numerics(contenders: &[Contender]) -> String {
    let mut found = BTreeSet::new();
    for contender in contenders {
        let weights = contender.program.params.values().map(|info| info.ty.dtype);
        found.extend(weights.map(DType::name));
    }
    format!("same bits in training and serving, weights {}", listed(found))
}

/// What all models cache of each position, by its axes, and in which precisions.
pub fn cache_form(contenders: &[Contender]) -> String {
    let (mut values, mut precisions) = (BTreeSet::new(), BTreeSet::new());
    for region in contenders.iter().flat_map(|contender| &contender.program.regions) {
        let graph = &region.graph;
        for id in graph.ids().into_iter().filter(|&id| matches!(graph.op(id), Op::History(_))) {
            let fixed = graph.axes(id).iter().filter(|axis| axis.fixed_size().is_some());
            let axes: Vec<&str> = fixed.map(|axis| axis.name.as_str()).collect();
            values.insert(axes.join(" × "));
            precisions.insert(graph.ty(id).dtype.name());
        }
    }
    format!("{}, {}", listed(values.iter().map(String::as_str).collect()), listed(precisions))
}

fn listed(names: BTreeSet<&str>) -> String {
    names.into_iter().collect::<Vec<_>>().join(" and ")
}
