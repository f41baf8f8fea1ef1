//! Bookkeeping of axes: ops that undo each other or come together.

use super::Class::Exact;
use super::When::Inverse;
use super::{Rule, rule};

/// The rows.
#[rustfmt::skip]
pub(super) const ROWS: &[Rule] = &[
    // Bookkeeping of axes.
    rule("rename_twice", Exact, "(rename[r] (rename[s] x))", "(rename[r*s] x)", &[]),
    rule("rename_back", Exact, "(rename[r] (rename[s] x))", "x", &[Inverse("r", "s")]),
    rule("slice_twice", Exact, "(slice[r] (slice[s] x))", "(slice[r*s] x)", &[]),
    rule("slice_of_concat", Exact, "(slice[s] (concat[c] xs..))", "(pick[s/c] xs..)", &[]),
    rule("split_of_merge", Exact, "(split[s] (merge[m] x))", "x", &[Inverse("s", "m")]),
    rule("merge_of_split", Exact, "(merge[m] (split[s] x))", "x", &[Inverse("m", "s")]),
];
