//! Sums and maxima exchanged with what is done to each element. A maximum keeps
//! its rounding under a positive scale or a shift, but not the sign of a zero
//! that was too small, nor infinities of both signs: `real`, not `exact`.

use super::Class::Real;
use super::When::{Alone, Covers, Lacks, Positive, Some};
use super::{Rule, rule};

/// The rows.
#[rustfmt::skip]
pub(super) const ROWS: &[Rule] = &[
    rule("sum_twice", Real, "(sum[A] (sum[B] x))", "(sum[A+B] x)", &[]),
    rule("sum_of_contraction", Real, "(sum[A] (contract[B] xs..))", "(contract[A+B] xs..)", &[]),
    rule("sum_within_product", Real, "(contract[A] x ys..)", "(contract[A&ys] (sum[A-ys] x) ys..)",
        &[Some("ys"), Alone("A", "ys")]),
    rule("add_of_sums", Real, "(add (sum[A] x) (sum[A] y))", "(sum[A] (add x y))",
        &[Covers("x", "y"), Covers("y", "x")]),
    rule("sum_of_broadcast", Real, "(sum[A] (add x y))", "(add (mul (size[A-x]) (sum[A&x] x)) (sum[A] y))",
        &[Covers("y", "x"), Alone("A", "x")]),
    rule("max_twice", Real, "(reduce_max[A] (reduce_max[B] x))", "(reduce_max[A+B] x)", &[]),
    rule("max_of_scaled", Real, "(reduce_max[A] (mul $c x))", "(mul c (reduce_max[A] x))", &[Positive("c")]),
    rule("max_of_shifted", Real, "(reduce_max[A] (add x c))", "(add (reduce_max[A] x) c)", &[Lacks("c", "A")]),
    rule("max_of_difference", Real, "(reduce_max[A] (sub x c))", "(sub (reduce_max[A] x) c)", &[Lacks("c", "A")]),
];
