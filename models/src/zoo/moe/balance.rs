//! What keeps the load of experts even in training: a loss, and a bias that goes by the load. It
//! knows how tokens are counted, not how they are routed.

use crate::{ModelBuilder, Tensor};
use diptych_ir::{Axis, Initializer};

/// 1 for each expert that a position has chosen, 0 for the others: f32[batch, expert, time].
fn chosen<'m>(m: &'m ModelBuilder, ids: Tensor<'m>, expert: Axis, choice: Axis) -> Tensor<'m> {
    ids.equal(m.index(expert)).select(1.0, 0.0).sum(choice)
}

/// The bias by which experts are chosen, which starts at zero: f32[expert].
pub(super) fn selection_bias<'m>(m: &'m ModelBuilder, expert: Axis, rate: Option<f64>) -> Tensor<'m> {
    let (name, start) = ("router.bias", Initializer::Constant(0.0));
    match rate {
        Some(rate) if rate > 0.0 => m.sign_descent_param(name, expert, start, rate),
        _ => m.param(name, expert, start, false),
    }
}

/// Has the bias go by the load (Wang et al. 2024, "Auxiliary-loss-free load balancing strategy"): a step lowers it
/// by its rate where an expert has more than the mean load of all micro-batches, and raises it where it has less.
///
/// What is added to the loss is exactly zero. Its gradient is the load less the mean, times the number of experts: a
/// sum of whole numbers over positions, so that an even load is exactly zero, and micro-batches add up as they do for
/// any gradient. Every position counts, also one whose target is not learned from.
pub(super) fn follow_load<'m>(
    m: &'m ModelBuilder,
    bias: Tensor<'m>,
    ids: Tensor<'m>,
    expert: Axis,
    choice: Axis,
) {
    let [experts, choices] = [expert, choice].map(|axis| axis.fixed_size().unwrap_or(1) as f64);
    let excess = (chosen(m, ids, expert, choice) * experts - choices).detach();
    m.add_to_loss("router.load", ((bias - bias.detach()) * excess).sum(expert).sum([m.batch(), m.time()]));
}

/// Adds the load-balance loss of a layer: `coefficient` times the mean over sequences, each as often as it has tokens,
/// of `E / k · Σ_e f_e P_e`, where of a sequence's tokens the share `f_e` has chosen expert `e`, and `P_e` is the mean
/// of its probability (DeepSeek-V3, 2024, section 2.1.2; Shazeer et al. 2017 and Fedus et al. 2021 have it over a whole
/// batch). Experts count as they are chosen, by groups and bias. It is 1 where the load is even. No gradient flows
/// through the counts.
///
/// A mean over sequences does not depend on how a batch is cut into micro-batches. Mean over tokens that are learned
/// from: where some targets are passed over, it weighs as much more as they are.
pub(super) fn add_loss<'m>(
    m: &'m ModelBuilder,
    coefficient: f64,
    probabilities: Tensor<'m>,
    ids: Tensor<'m>,
    expert: Axis,
    choice: Axis,
) {
    let chosen = chosen(m, ids, expert, choice);
    let [count, total] = m.sum_over_positions("router.balance", [chosen, probabilities]);
    // With n tokens, f_e = count / n and P_e = total / n; the counts sum to k n. Times n, for the mean over tokens.
    let count = count.detach();
    let products = (count * total).sum(expert) / count.sum(expert);
    let experts = expert.fixed_size().unwrap_or(1) as f64;
    m.add_to_loss("router.balance", products.sum(m.batch()) * m.inverse_tokens() * (coefficient * experts));
}
