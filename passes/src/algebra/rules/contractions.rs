//! Sums of products: their order, and what moves in and out of them.

use super::Class::Real;
use super::When::{self, AtMost, Covers, Fresh, Joins, Lacks, Narrower, ParamOnly, Symmetric, Varies};
use super::{Rule, rule};

/// The rows.
#[rustfmt::skip]
pub(super) const ROWS: &[Rule] = &[
    // Contractions: sums of products of any number of factors.
    rule("sum_is_contraction", Real, "(sum[A] (mul x y))", "(contract[A] x y)", &[Symmetric("x", "y")]),
    rule("product_into_contraction", Real, "(contract[A] (mul x y) zs..)", "(contract[A] x y zs..)",
        &[Symmetric("x", "y"), AtMost("zs", "zs", 4), When::Some("zs")]),
    rule("sum_of_none", Real, "(sum[] x)", "x", &[]),
    rule("contraction_of_none", Real, "(contract[] x y)", "(mul x y)", &[Symmetric("x", "y")]),
    rule("contraction_of_one", Real, "(contract[A] x)", "(sum[A] x)", &[]),
    rule("flatten", Real, "(contract[A] (contract[B] xs..) ys..)", "(contract[A+B] xs.. ys..)",
        &[AtMost("xs", "ys", 4), Fresh("B", "xs", "ys", "A")]),
    rule("associate", Real, "(contract[A] x y zs..)", "(contract[A&zs] (contract[A-zs] x y) zs..)",
        &[Symmetric("x", "y"), When::Some("zs"), Joins("x", "y", "A", "zs")]),
    rule("division_out_of_contraction", Real, "(contract[A] (div x d) ys..)", "(div (contract[A] x ys..) d)",
        &[Lacks("d", "A")]),
    rule("division_into_contraction", Real, "(div (contract[A] x ys..) d)", "(contract[A] (div x d) ys..)",
        &[Lacks("d", "A"), Covers("x", "d"), Varies("d")]),
    rule("division_out_of_sum", Real, "(sum[A] (div x d))", "(div (sum[A] x) d)", &[Lacks("d", "A")]),
    rule("scale_into_contraction", Real, "(mul s (contract[A] xs..))", "(contract[A] s xs..)",
        &[Lacks("s", "A"), Narrower("s"), AtMost("xs", "xs", 6)]),
    rule("scale_out_of_contraction", Real, "(contract[A] s x)", "(mul s (sum[A] x))",
        &[When::Some("A"), Lacks("s", "A")]),
    rule("negation_out_of_contraction", Real, "(contract[A] (neg x) ys..)", "(neg (contract[A] x ys..))", &[]),
    rule("add_weights", Real, "(add (contract[A] x xs..) (contract[A] y xs..))", "(contract[A] (add x y) xs..)",
        &[ParamOnly("x"), ParamOnly("y"), When::Some("xs")]),
];
