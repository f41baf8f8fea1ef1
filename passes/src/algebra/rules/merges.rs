//! Products that share an operand become parts of one product: queries, keys and
//! values, gate and up, and their gradients. More than two are merged one by one.

use super::Class::{Exact, Real};
use super::When::{self, AtRun, Ordered, OverTokens, ParamOnly};
use super::{Rule, pair, rule};

/// The rows.
#[rustfmt::skip]
pub(super) const ROWS: &[Rule] = &[
    // Each element is the same chain of products as before.
    pair("merge_projections", Exact,
        ["(contract[A] x v)", "(contract[A] x w)"],
        ["(first[v-x|w-x] (contract[A] x (join[v-x|w-x] v w)))",
         "(second[v-x|w-x] (contract[A] x (join[v-x|w-x] v w)))"],
        &[AtRun("x"), ParamOnly("v"), ParamOnly("w"), Ordered("v", "w"), When::Some("A")]),
    pair("merge_weight_gradients", Exact,
        ["(contract[A] x v)", "(contract[A] x w)"],
        ["(first[v-x|w-x] (contract[A] x (join[v-x|w-x] v w)))",
         "(second[v-x|w-x] (contract[A] x (join[v-x|w-x] v w)))"],
        &[OverTokens("A"), AtRun("x"), AtRun("v"), AtRun("w"), Ordered("v", "w")]),
    rule("merge_input_gradients", Real, "(add (contract[A] x v) (contract[B] y w))",
        "(contract[A|B] (join[A|B] x y) (join[A|B] v w))",
        &[AtRun("x"), AtRun("y"), ParamOnly("v"), ParamOnly("w"), Ordered("v", "w"),
          When::Some("A"), When::Some("B")]),
];
