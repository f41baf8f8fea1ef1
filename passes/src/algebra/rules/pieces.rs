//! Slices, concats and their like, through what is linear or pointwise.

use super::Class::{Exact, Real};
use super::When::{Lacks, ParamOnly};
use super::{Rule, rule};

/// The rows.
#[rustfmt::skip]
pub(super) const ROWS: &[Rule] = &[
    // Through sums of products. Of two concats with equal pieces, `slice_of_concat` takes the pieces.
    rule("contraction_over_concat", Real, "(contract[A] (concat[c] xs..) y)",
        "(total (contract[A/c] @xs (cut[c] y))..)", &[]),
    rule("sum_over_concat", Real, "(sum[A] (concat[c] xs..))", "(total (sum[A/c] @xs)..)", &[]),
    rule("concat_of_contractions", Exact, "(concat[c] (contract[A] x @ws)..)", "(contract[A] x (concat[c] ws..))",
        &[ParamOnly("ws"), Lacks("x", "c")]),
    rule("slice_into_contraction", Exact, "(slice[s] (contract[A] x y))", "(contract[A] x (slice[s] y))", &[]),
    // Through what is pointwise.
    rule("move_into_function", Exact, "(move[m] (map[f] xs..))", "(map[f] (move[m] @xs)..)", &[]),
    rule("move_into_cast", Exact, "(move[m] (cast[d] x))", "(cast[d] (move[m] x))", &[]),
    rule("cast_of_concat", Exact, "(cast[d] (concat[c] xs..))", "(concat[c] (cast[d] @xs)..)", &[]),
    rule("function_of_concat", Exact, "(map[f] (concat[c] xs..))", "(concat[c] (map[f] @xs)..)", &[]),
    rule("function_of_concat_first", Exact, "(map[f] (concat[c] xs..) y)", "(concat[c] (map[f] @xs y)..)",
        &[Lacks("y", "c")]),
    rule("function_of_concat_second", Exact, "(map[f] y (concat[c] xs..))", "(concat[c] (map[f] y @xs)..)",
        &[Lacks("y", "c")]),
    rule("function_of_concats", Exact, "(map[f] (concat[c] xs..) (concat[d] ys..))",
        "(zip[c/d] xs.. ys.. (map[f] @xs @ys)..)", &[]),
    rule("concat_of_concat", Exact, "(concat[c] (concat[d] xs..) ys..)", "(concat[c*d] xs.. ys..)", &[]),
];
