//! What a cache keeps: a history moves through all that acts position by
//! position, so that latent or expanded, rounded or unrounded values may be kept.
//!
//! What is beside it must depend on parameters only. Another value may be another one at the next
//! call, and what is kept was computed with the one of its own call.

use super::Class::Exact;
use super::When::{Light, ParamOnly};
use super::{Rule, rule};

/// The rows.
#[rustfmt::skip]
pub(super) const ROWS: &[Rule] = &[
    // Keys and values may share what they are computed from: it may be twice as large as each.
    rule("history_into_contraction", Exact, "(history[h] (contract[A] x w))", "(contract[A] (history[h] x) w)",
        &[ParamOnly("w"), Light("x", 2)]),
    rule("history_out_of_contraction", Exact, "(contract[A] (history[h] x) w)", "(history[h] (contract[A] x w))",
        &[ParamOnly("w")]),
    rule("history_into_cast", Exact, "(history[h] (cast[d] x))", "(cast[d] (history[h] x))", &[]),
    rule("history_out_of_cast", Exact, "(cast[d] (history[h] x))", "(history[h] (cast[d] x))", &[]),
    rule("history_into_function", Exact, "(history[h] (map[f] x))", "(map[f] (history[h] x))", &[]),
    rule("history_out_of_function", Exact, "(map[f] (history[h] x))", "(history[h] (map[f] x))", &[]),
    rule("history_into_first", Exact, "(history[h] (map[f] x w))", "(map[f] (history[h] x) w)", &[ParamOnly("w")]),
    rule("history_into_second", Exact, "(history[h] (map[f] w x))", "(map[f] w (history[h] x))", &[ParamOnly("w")]),
    rule("history_out_of_first", Exact, "(map[f] (history[h] x) w)", "(history[h] (map[f] x w))", &[ParamOnly("w")]),
    rule("history_out_of_second", Exact, "(map[f] w (history[h] x))", "(history[h] (map[f] w x))", &[ParamOnly("w")]),
    rule("history_into_move", Exact, "(history[h] (move[m] x))", "(move[m] (history[h] x))", &[]),
    rule("history_out_of_move", Exact, "(move[m] (history[h] x))", "(history[h] (move[m] x))", &[]),
    rule("history_into_concat", Exact, "(history[h] (concat[c] xs..))", "(concat[c] (history[h] @xs)..)", &[]),
    rule("history_out_of_concat", Exact, "(concat[c] (history[h] @xs)..)", "(history[h] (concat[c] xs..))", &[]),
];
