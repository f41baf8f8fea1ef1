//! Pointwise functions and constants: less work, and scales that come together.

use super::Class::{Exact, Real};
use super::When::NotZero;
use super::{Rule, rule};

/// The rows.
#[rustfmt::skip]
pub(super) const ROWS: &[Rule] = &[
    // Less work, always.
    rule("negate_twice", Exact, "(neg (neg x))", "x", &[]),
    rule("multiply_by_one", Exact, "(mul x 1)", "x", &[]),
    rule("divide_by_one", Exact, "(div x 1)", "x", &[]),
    rule("subtract_zero", Exact, "(sub x 0)", "x", &[]),
    rule("add_zero", Real, "(add x 0)", "x", &[]),
    rule("add_negative", Exact, "(add x (neg y))", "(sub x y)", &[]),
    rule("subtract_negative", Exact, "(sub x (neg y))", "(add x y)", &[]),
    rule("negate_product", Exact, "(mul (neg x) y)", "(neg (mul x y))", &[]),
    rule("negate_quotient", Exact, "(div (neg x) y)", "(neg (div x y))", &[]),
    rule("negate_difference", Real, "(neg (sub x y))", "(sub y x)", &[]),
    rule("negate_constant_factor", Exact, "(neg (mul $c x))", "(mul (neg c) x)", &[]),
    rule("select_twice", Exact, "(select m (select m x y) z)", "(select m x z)", &[]),
    rule("detach_twice", Exact, "(detach (detach x))", "(detach x)", &[]),
    rule("cast_twice", Exact, "(cast[d] (cast[d] x))", "(cast[d] x)", &[]),
    rule("cast_to_same", Exact, "(cast[d] x)", "x", &[]),
    // Scalars, computed now.
    rule("fold_add", Real, "(add $c $d)", "(=add c d)", &[]),
    rule("fold_sub", Real, "(sub $c $d)", "(=sub c d)", &[]),
    rule("fold_mul", Real, "(mul $c $d)", "(=mul c d)", &[]),
    rule("fold_div", Real, "(div $c $d)", "(=div c d)", &[]),
    rule("fold_neg", Exact, "(neg $c)", "(=neg c)", &[]),
    rule("fold_sqrt", Real, "(sqrt $c)", "(=sqrt c)", &[]),
    rule("fold_rsqrt", Real, "(rsqrt $c)", "(=rsqrt c)", &[]),
    rule("fold_exp", Real, "(exp $c)", "(=exp c)", &[]),
    rule("merge_scales", Real, "(mul $c (mul $d x))", "(mul (=mul c d) x)", &[]),
    rule("merge_scale_and_divisor", Real, "(div (mul $c x) $d)", "(mul (=div c d) x)", &[NotZero("d")]),
    rule("divisor_to_scale", Real, "(div x $c)", "(mul (=div 1 c) x)", &[NotZero("c")]),
    rule("scale_out_of_product", Real, "(mul (mul $c x) y)", "(mul c (mul x y))", &[]),
    rule("scale_out_of_quotient", Real, "(div (mul $c x) y)", "(mul c (div x y))", &[]),
];
