//! Broken variants of rules: a wrong sign, a wrong operand, a dropped condition,
//! a wrong class. The harness must find each of them wrong, and not only fail
//! to fire it.

use super::harness::{catches_all, known};
use super::rules::{Class, Rule};

#[test]
fn broken_rules_of_weights_sums_and_collectives_are_caught() {
    let right = |name, right| Rule { right, ..known(name) };
    let left = |name, left| Rule { left, ..known(name) };
    let without = |name| Rule { conditions: &[], ..known(name) };
    let exact = |name| Rule { class: Class::Exact, ..known(name) };
    let real = |name| Rule { class: Class::Real, ..known(name) };
    let broken = [
        // Weights.
        right("add_weights_past_a_term", "(sub z (contract[A] (add x y) xs..))"),
        left("add_weights_past_a_term", "(sub (add z (contract[A] x xs..)) (contract[A] y xs..))"),
        right("subtract_weights", "(contract[A] (sub y x) xs..)"),
        right("distribute_weights", "(sub (contract[A] x zs..) (contract[A] y zs..))"),
        right("distribute_weights", "(add (contract[A] x zs..) (contract[A] y zs.. zs..))"),
        right("bias_through_weights", "(add (contract[A] x ws..) (contract[A] x ws..))"),
        left("bias_through_weights", "(contract[A] (sub b x) ws..)"),
        right("add_biases", "(add x (mul b c))"),
        right("common_weights", "(contract[A] (mul x y) xs..)"),
        left("common_weights", "(add (contract[A] x xs..) (contract[B] y xs..))"),
        right("common_factor", "(mul (add x z) y)"),
        right("common_factor_of_difference", "(mul (sub y x) z)"),
        right("scale_into_sum", "(add (mul c x) y)"),
        right("scale_into_difference", "(sub (mul c x) y)"),
        right("scale_into_rotation", "(add (mul (mul c x) y) (mul z w))"),
        right("scale_into_rotation_back", "(sub (mul (mul c x) (mul c y)) (mul (mul c z) w))"),
        exact("scale_into_rotation"),
        real("weight_past_rounding"),
        right("weight_past_rounding", "(contract[A] (cast[d] x) w w ys..)"),
        real("product_without_rounding"),
        right("product_without_rounding", "(contract[A] (contract[B] x xs..) (contract[B] x xs..) ys..)"),
        exact("distribute_weights"),
        // Sums and maxima.
        right("scale_into_move", "(move[m] x)"),
        right("add_of_sums", "(sum[A] (sub x y))"),
        right("all_reduce_into_move", "(move[m] (neg (all_reduce[r] x)))"),
        left("add_of_sums", "(add (sum[A] x) (sum[B] y))"),
        right("sum_of_broadcast", "(add (sum[A&x] x) (sum[A] y))"),
        right("sum_of_broadcast", "(add (mul (size[A&x]) (sum[A&x] x)) (sum[A] y))"),
        right("sum_within_product", "(contract[A&ys] (sum[A-ys] x) (sum[A-ys] x) ys..)"),
        without("max_of_scaled"),
        right("max_of_scaled", "(reduce_max[A] x)"),
        right("max_of_difference", "(sub c (reduce_max[A] x))"),
        left("max_of_shifted", "(reduce_max[A] (mul x c))"),
        left("max_twice", "(reduce_max[A] (sum[B] x))"),
        exact("max_of_shifted"),
        exact("sum_twice"),
        // Collectives.
        left("all_reduce_once", "(add (all_reduce[r] x) y)"),
        right("all_reduce_once", "(all_reduce[r] (mul x y))"),
        right("all_reduce_once_of_difference", "(all_reduce[r] (sub y x))"),
        right("all_reduce_each", "(add (all_reduce[r] x) (all_reduce[r] x))"),
        left("all_reduce_into_product", "(all_reduce[r] (div y x))"),
        right("all_reduce_into_contraction", "(contract[A] (all_reduce[r] x) ys.. ys..)"),
        left("all_reduce_out_of_negation", "(abs (all_reduce[r] x))"),
        exact("all_reduce_into_contraction"),
        exact("all_reduce_once"),
        right("all_reduce_in_one_step", "(all_gather[g] (split[s] (all_reduce[s] (neg x))))"),
        left("all_gather_of_parts", "(all_gather[g] (split[s] (neg x)))"),
        right("part_of_all_reduce", "(neg (reduce_scatter[s] x))"),
        right("reduce_scatter_before_cut_factor", "(mul (reduce_scatter[s] x) (reduce_scatter[s] x))"),
        left("reduce_scatter_once", "(mul (reduce_scatter[s] x) (reduce_scatter[s] y))"),
        exact("reduce_scatter_once"),
        right("all_gather_once", "(all_gather[g] (map[f] y x))"),
        right("all_gather_of_first", "(map[f] y (all_gather[g] x))"),
        right("cut_second_before_all_gather", "(all_gather[g] (map[f] (split[g] y) x))"),
        right("all_gather_once_of_select", "(all_gather[g] (select m y x))"),
        // A sum over ranks by an op that is no collective: no rank could compute it.
        right("contraction_of_pieces", "(contract[A] (all_gather[g] x) (all_gather[g] x) ys..)"),
        right("contraction_of_pieces_of_both", "(all_reduce[g] (contract[A/g] x x zs..))"),
        right("sum_of_all_gather", "(neg (all_reduce[g] (sum[A/g] x)))"),
        exact("contraction_of_pieces"),
    ];
    catches_all(&broken);
}
