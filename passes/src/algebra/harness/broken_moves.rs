//! Broken variants of the rules that move histories and pieces and merge
//! products: the harness has to catch each.

use super::super::rules::{Class, Rule, When};
use super::{catches_all, known};

#[test]
fn broken_moves_are_caught() {
    let right = |name, right| Rule { right, ..known(name) };
    let left = |name, left| Rule { left, ..known(name) };
    let when = |name, conditions| Rule { conditions, ..known(name) };
    let exact = |name| Rule { class: Class::Exact, ..known(name) };
    let beside = |name, beside| Rule { beside: Some(beside), ..known(name) };
    let (first, second) = (
        "(first[v-x|w-x] (contract[A] x (join[v-x|w-x] v w)))",
        "(second[v-x|w-x] (contract[A] x (join[v-x|w-x] v w)))",
    );
    let product = "(contract[A] x w)";
    catches_all(&[
        // What may differ from call to call stands beside a history.
        when("history_into_contraction", &[]),
        when("history_out_of_contraction", &[]),
        when("history_into_first", &[]),
        when("history_into_second", &[]),
        when("history_out_of_first", &[]),
        when("history_out_of_second", &[]),
        right("history_into_contraction", "(contract[A] (history[h] x) w w)"),
        right("history_out_of_contraction", "(history[h] (contract[A] x x w))"),
        right("history_into_cast", "(cast[d] (neg (history[h] x)))"),
        left("history_out_of_cast", "(cast[d] (history[h] (abs x)))"),
        right("history_into_first", "(map[f] w (history[h] x))"),
        right("history_out_of_second", "(history[h] (map[f] x w))"),
        left("history_into_function", "(history[h] (neg (map[f] x)))"),
        left("history_out_of_concat", "(concat[c] (history[h] (neg @xs))..)"),
        right("history_into_concat", "(concat[c] (neg (history[h] @xs))..)"),
        // Pieces.
        right("contraction_over_concat", "(total (contract[A/c] @xs @xs)..)"),
        right("contraction_over_concat", "(total (contract[A/c] @xs (neg (cut[c] y)))..)"),
        right("sum_over_concat", "(total (sum[A/c] (mul @xs @xs))..)"),
        exact("contraction_over_concat"),
        exact("sum_over_concat"),
        when("concat_of_contractions", &[When::ParamOnly("ws")]),
        right("concat_of_contractions", "(contract[A] x x (concat[c] ws..))"),
        left("concat_of_contractions", "(concat[c] (neg (contract[A] x @ws))..)"),
        left("slice_into_contraction", "(slice[s] (neg (contract[A] x y)))"),
        right("slice_into_contraction", "(contract[A] x x (slice[s] y))"),
        right("move_into_function", "(map[f] (neg (move[m] @xs))..)"),
        left("move_into_cast", "(move[m] (cast[d] (abs x)))"),
        right("cast_of_concat", "(concat[c] (cast[d] (abs @xs))..)"),
        right("function_of_concat", "(concat[c] xs..)"),
        when("function_of_concat_first", &[]),
        when("function_of_concat_second", &[]),
        right("function_of_concat_first", "(concat[c] (map[f] y @xs)..)"),
        right("function_of_concats", "(zip[c/d] xs.. ys.. (map[f] @ys @xs)..)"),
        right("function_of_concats", "(zip[d/c] ys.. xs.. (map[f] @ys @xs)..)"),
        right("function_of_concats", "(concat[c] (map[f] @xs @ys)..)"),
        left("concat_of_concat", "(concat[c] (neg (concat[d] xs..)) ys..)"),
        // Products that share an operand.
        right("merge_projections", second),
        beside("merge_projections", [product, first]),
        right("merge_projections", "(first[v-x|w-x] (contract[A] x (join[v-x|w-x] w v)))"),
        beside("merge_projections", [product, "(second[v-x|w-x] (contract[A] x (join[v-x|w-x] w v)))"]),
        beside("merge_projections", ["(contract[A] w w)", second]),
        left("merge_projections", "(neg (contract[A] x v))"),
        right("merge_weight_gradients", second),
        left("merge_weight_gradients", "(neg (contract[A] x v))"),
        right("merge_weight_gradients", "(first[v-x|w-x] (contract[A] x x (join[v-x|w-x] v w)))"),
        right("merge_input_gradients", "(contract[A|B] (join[A|B] x y) (join[A|B] w v))"),
        left("merge_input_gradients", "(sub (contract[A] x v) (contract[B] y w))"),
        exact("merge_input_gradients"),
    ]);
}
