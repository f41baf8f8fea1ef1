//! The FLOPs that a model asks for, read off its graph: the generalisation of
//! `2 N + 4 L H Q T` (PaLM, appendix B) to any graph. Matrices that a token is
//! multiplied with count 2 for each of their elements, attention 2 for each
//! multiply-add at each of the positions seen, the causal half not taken off.
//! It knows no kernel: recomputation does not raise it.

use diptych_ir::{EntryKind, NodeId, Op, Program, RegionId};
use std::collections::BTreeSet;

/// FLOPs of one token going forward with `context` positions attended to.
/// Training takes three times as many.
///
/// The program is one that was not differentiated yet.
pub fn forward_flops_per_token(program: &Program, context: usize) -> f64 {
    let roots: Vec<NodeId> = program
        .entry(EntryKind::Score)
        .map(|entry| entry.roots.iter().map(|root| root.1).collect())
        .unwrap_or_default();
    region_flops(program, RegionId(0), &roots, context)
}

fn region_flops(program: &Program, region: RegionId, roots: &[NodeId], context: usize) -> f64 {
    let graph = &program.region(region).graph;
    let ids: BTreeSet<NodeId> = graph.ancestors(roots).into_iter().collect();
    ids.into_iter()
        .map(|id| match graph.op(id) {
            // Products without a sum, and sums of squares, are not what a matrix unit is for.
            Op::Contract(contract) if !contract.over.is_empty() && distinct(&graph.operands(id)) > 1 => {
                let mut axes = graph.axes(id).to_vec();
                axes.extend(&contract.over);
                // What a position so far has of its own is computed once, with its token.
                let seen = axes.iter().any(|axis| axis.name.as_str() == "time");
                let sizes = axes.iter().map(|axis| match axis.fixed_size() {
                    Some(size) => size as f64,
                    None if seen && axis.name.as_str() == "past" => context as f64,
                    None => 1.0,
                });
                2.0 * sizes.product::<f64>()
            }
            // A step is done once for each token.
            Op::Scan(scan) => region_flops(program, scan.body, &program.region(scan.body).results, context),
            Op::Repeat(repeat) => {
                let layers = repeat.layers.fixed_size().unwrap_or(1) as f64;
                layers * region_flops(program, repeat.body, &program.region(repeat.body).results, context)
            }
            _ => 0.0,
        })
        .sum()
}

fn distinct(operands: &[NodeId]) -> usize {
    operands.iter().collect::<BTreeSet<_>>().len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use diptych_cost::utilisation::ModelSize;
    use diptych_models::{Registry, build, count_parameters};

    #[test]
    fn what_is_expanded_for_each_position_counts_once_a_token() {
        let latent = Registry::zoo().preset("bench-latent").unwrap();
        let program = build(&*latent).unwrap();
        // Every matrix takes part once: keys and values come from a latent, position by position.
        let norms = (3.0 * 6.0 + 1.0) * 256.0;
        let matrices = 2.0 * (count_parameters(&program) as f64 - norms);
        let found = forward_flops_per_token(&program, 0);
        assert!((found / matrices - 1.0).abs() < 2e-3, "{found} is not {matrices}");
    }

    #[test]
    fn a_llama_has_the_flops_of_the_formula() {
        let llama = Registry::zoo().preset("bench-grouped-query").unwrap();
        let program = build(&*llama).unwrap();
        let (layers, embed) = (6.0, 256.0);
        // The table is tied, so that it counts once, as the head; the norms' weights multiply no matrix.
        let norms = (2.0 * layers + 1.0) * embed;
        let size = ModelSize {
            matmul_parameters: count_parameters(&program) as f64 - norms,
            attention_layers: layers,
            query_heads: 8.0,
            head_dim: 32.0,
        };
        for context in [1, 256] {
            let expected = size.forward_flops_per_token(context as f64);
            let found = forward_flops_per_token(&program, context);
            assert!((found / expected - 1.0).abs() < 1e-9, "{found} is not {expected}");
        }
    }
}
