//! What depends on parameters only is gathered: scales, biases and products of
//! low rank go into the weights that they are multiplied with, and out again
//! where that is less work.

use super::Class::{Approximate, Exact, Real};
use super::When::{Covers, Given, ParamOnly, ScalesWeights, Some};
use super::{Rule, rule};

/// The rows.
#[rustfmt::skip]
pub(super) const ROWS: &[Rule] = &[
    // x·W + x·V = x·(W + V); V may be a product of low rank with its scale.
    rule("add_weights_past_a_term", Real,
        "(add (add z (contract[A] x xs..)) (contract[A] y xs..))", "(add z (contract[A] (add x y) xs..))",
        &[ParamOnly("x"), ParamOnly("y"), Some("xs")]),
    rule("subtract_weights", Real, "(sub (contract[A] x xs..) (contract[A] y xs..))", "(contract[A] (sub x y) xs..)",
        &[ParamOnly("x"), ParamOnly("y"), Some("xs")]),
    rule("distribute_weights", Real, "(contract[A] (add x y) zs..)", "(add (contract[A] x zs..) (contract[A] y zs..))",
        &[ParamOnly("x"), Given("x"), ParamOnly("y"), Given("y"), Some("zs")]),
    // Biases.
    rule("bias_through_weights", Real, "(contract[A] (add x b) ws..)", "(add (contract[A] x ws..) (contract[A] b ws..))",
        &[ParamOnly("b"), Given("b"), ParamOnly("ws"), Given("ws"), Some("ws")]),
    rule("add_biases", Real, "(add (add x b) c)", "(add x (add b c))",
        &[ParamOnly("b"), ParamOnly("c"), Covers("b", "c")]),
    // What two values are multiplied with alike.
    rule("common_weights", Real, "(add (contract[A] x xs..) (contract[A] y xs..))", "(contract[A] (add x y) xs..)",
        &[Covers("x", "y"), Covers("y", "x"), Some("xs")]),
    rule("common_factor", Real, "(add (mul x z) (mul y z))", "(mul (add x y) z)", &[ParamOnly("x"), ParamOnly("y")]),
    rule("common_factor_of_difference", Real, "(sub (mul x z) (mul y z))", "(mul (sub x y) z)",
        &[ParamOnly("x"), ParamOnly("y")]),
    // Scales on their way to weights, through rotary tables too.
    rule("scale_into_sum", Real, "(mul $c (add x y))", "(add (mul c x) (mul c y))",
        &[ScalesWeights("x"), ScalesWeights("y")]),
    rule("scale_into_difference", Real, "(mul $c (sub x y))", "(sub (mul c x) (mul c y))",
        &[ScalesWeights("x"), ScalesWeights("y")]),
    rule("scale_into_rotation", Real,
        "(mul $c (add (mul x y) (mul z w)))", "(add (mul (mul c x) y) (mul (mul c z) w))",
        &[ScalesWeights("x"), ScalesWeights("z")]),
    rule("scale_into_rotation_back", Real,
        "(mul $c (sub (mul x y) (mul z w)))", "(sub (mul (mul c x) y) (mul (mul c z) w))",
        &[ScalesWeights("x"), ScalesWeights("z")]),
    rule("scale_into_move", Exact, "(mul $c (move[m] x))", "(move[m] (mul c x))", &[ScalesWeights("x")]),
    // A weight before a rounding: each term is rounded once, before or after it is weighted.
    rule("weight_past_rounding", Approximate, "(contract[A] (cast[d] (mul x w)) ys..)", "(contract[A] (cast[d] x) w ys..)",
        &[ParamOnly("w"), ParamOnly("ys"), Some("ys")]),
    // A product that is not rounded before the next one: the two may then be in any order.
    rule("product_without_rounding", Approximate, "(contract[A] (cast[d] (contract[B] x xs..)) ys..)",
        "(contract[A] (contract[B] x xs..) ys..)", &[Some("xs"), Some("ys")]),
];
