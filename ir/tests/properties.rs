//! Laws of the ops on random shapes and values. Values are small multiples of
//! 1/8, so that equal over the reals is equal here.

mod common;

use common::{Given, Numbers, apply, floats, gives, gradient, inner};
use diptych_ir::ops::{
    Cast, Concat, Contract, History, Linearity, Map, Merge, PutAdd, Reduce, Rename, Slice, Split, Take, TopK,
};
use diptych_ir::{Axis, DType, Op, ReduceKind, ScalarFn};
use proptest::prelude::*;
use std::slice::from_ref;

/// Each op with random operands, for axes of these sizes.
fn cases(sizes: [usize; 3], numbers: &mut Numbers) -> Vec<(Op, Vec<Given>)> {
    let [a, b, c] =
        [("a", sizes[0]), ("b", sizes[1]), ("c", sizes[2])].map(|(name, size)| Axis::fixed(name, size));
    let merged = Axis::fixed("merged", sizes[0] * sizes[1]);
    let joined = Axis::fixed("joined", sizes[0] + sizes[1]);
    let renamed = Axis::fixed("renamed", sizes[0]);
    let start = numbers.below(sizes[1]);
    let rest = Axis::fixed("b", sizes[1] - start);
    let (x, y) = (numbers.floats(&[a, b]), numbers.floats(&[b, c]));
    let condition = Given { dtype: DType::Bool, ..numbers.ids(&[a], 2) };
    // Powers of two, so that quotients are exact.
    let mut divisor = numbers.ids(&[b], 4);
    divisor = floats(&[b], &divisor.data.iter().map(|&power| 2f64.powf(power)).collect::<Vec<_>>());
    let ids = numbers.ids(&[c, a], sizes[1]);
    vec![
        (Contract { over: vec![b] }.into(), vec![x.clone(), y.clone()]),
        (Contract { over: vec![c, a] }.into(), vec![x.clone(), y.clone(), numbers.floats(&[c])]),
        (Map(ScalarFn::Mul).into(), vec![x.clone(), y.clone()]),
        (Map(ScalarFn::Add).into(), vec![x.clone(), y.clone()]),
        (Map(ScalarFn::Sub).into(), vec![x.clone(), y.clone()]),
        (Map(ScalarFn::Neg).into(), vec![x.clone()]),
        (Map(ScalarFn::Div).into(), vec![x.clone(), divisor]),
        (Map(ScalarFn::Select).into(), vec![condition, x.clone(), y.clone()]),
        (Cast(DType::F32).into(), vec![x.clone()]),
        (Reduce { kind: ReduceKind::Sum, over: vec![b] }.into(), vec![x.clone()]),
        (Take { axis: b }.into(), vec![x.clone(), ids.clone()]),
        (PutAdd { axis: b, over: vec![c] }.into(), vec![ids, numbers.floats(&[c, a])]),
        (Rename { from: a, to: renamed }.into(), vec![x.clone()]),
        (Merge { axes: vec![b, a], into: merged }.into(), vec![x.clone()]),
        (Split { axis: merged, into: vec![a, b] }.into(), vec![numbers.floats(&[merged, c])]),
        (Slice { axis: b, start, into: rest }.into(), vec![x.clone()]),
        (
            Concat { pieces: vec![a, b], into: joined }.into(),
            vec![numbers.floats(&[a, c]), numbers.floats(&[b])],
        ),
        (History { time: a, past: renamed, window: None, room: 0 }.into(), vec![x]),
    ]
}

fn add(left: &Given, right: &Given) -> Given {
    let data: Vec<f64> = left.data.iter().zip(&right.data).map(|(left, right)| left + right).collect();
    Given { data, ..left.clone() }
}

/// The operands that an op is linear in together, as groups.
fn groups(linearity: Linearity, operands: usize) -> Vec<Vec<usize>> {
    match linearity {
        Linearity::None => Vec::new(),
        Linearity::All => vec![(0..operands).collect()],
        Linearity::In(together) => vec![together.to_vec()],
        Linearity::Each => (0..operands).map(|operand| vec![operand]).collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: proptest::test_runner::RngSeed::Fixed(3), cases: 60, failure_persistence: None, ..Default::default() })]

    /// Every op is as linear as it says: so a sum over ranks may move past it.
    #[test]
    fn ops_are_as_linear_as_they_say(sizes in [1usize..4, 1usize..4, 1usize..4], seed: u64) {
        let mut numbers = Numbers(seed);
        for (op, operands) in cases(sizes, &mut numbers) {
            let groups = groups(op.operator().linearity(), operands.len());
            prop_assert!(!groups.is_empty(), "{} says that it is not linear", op.name());
            for group in groups {
                let mut other = operands.clone();
                let mut sum = operands.clone();
                for &place in &group {
                    other[place] = numbers.floats(&operands[place].axes);
                    sum[place] = add(&operands[place], &other[place]);
                }
                let partial: Vec<bool> = (0..operands.len()).map(|place| group.contains(&place)).collect();
                prop_assert_eq!(op.partial(&partial), Some(true));
                let [one, two, both] = [&operands, &other, &sum].map(|given| apply(op.clone(), given).expect("fits"));
                let total: Vec<f64> = one.data.iter().zip(&two.data).map(|(one, two)| one + two).collect();
                prop_assert_eq!(both.data, total, "{} in {:?}", op.name(), group);
            }
        }
    }

    /// For an op that is linear in an operand, `<y, op(x)> = <gradient(y), x>`,
    /// also when the cotangent leaves out axes along which it is constant.
    #[test]
    fn gradients_of_linear_ops_are_adjoints(sizes in [1usize..4, 1usize..4, 1usize..4], kept: u8, seed: u64) {
        let mut numbers = Numbers(seed);
        for (op, operands) in cases(sizes, &mut numbers) {
            let forward = apply(op.clone(), &operands).expect("fits");
            let axes: Vec<Axis> = forward.axes.iter().map(|&(name, size)| Axis::fixed(name.as_str(), size)).collect();
            let held: Vec<Axis> =
                axes.iter().enumerate().filter(|(place, _)| kept & (1 << place) != 0).map(|(_, &axis)| axis).collect();
            let y = numbers.floats(&held);
            for group in groups(op.operator().linearity(), operands.len()) {
                let mut found = 0.0;
                for &place in &group {
                    let back = gradient(op.clone(), &operands, place, &y).expect("a gradient");
                    // A gradient may keep no axis that its operand lacks, but leave some out.
                    for (name, _) in &back.axes {
                        prop_assert!(operands[place].axes.iter().any(|axis| axis.name == *name), "{}", op.name());
                    }
                    found += inner(&operands[place].value(), &back);
                }
                prop_assert_eq!(inner(&forward, &y.value()), found, "{} in {:?}", op.name(), group);
            }
        }
    }

    #[test]
    fn names_of_axes_do_not_matter(sizes in [1usize..4, 1usize..4, 1usize..4], seed: u64) {
        // Renamed so that the order by name is the other way round.
        let [a, b, c] = [("a", sizes[0]), ("b", sizes[1]), ("c", sizes[2])].map(|(name, size)| Axis::fixed(name, size));
        let [p, q, r] = [("z", sizes[0]), ("y", sizes[1]), ("x", sizes[2])].map(|(name, size)| Axis::fixed(name, size));
        let mut numbers = Numbers(seed);
        let (x, y) = (numbers.floats(&[a, b]), numbers.floats(&[b, c]));
        let (other_x, other_y) = (floats(&[p, q], &x.data), floats(&[q, r], &y.data));
        let product = gives(Contract { over: vec![b] }, &[x.clone(), y.clone()], &[a, c]);
        prop_assert_eq!(product, gives(Contract { over: vec![q] }, &[other_x.clone(), other_y.clone()], &[p, r]));
        let sum = gives(Map(ScalarFn::Add), &[x.clone(), y], &[a, b, c]);
        prop_assert_eq!(sum, gives(Map(ScalarFn::Add), &[other_x.clone(), other_y], &[p, q, r]));
        let (k, j) = (Axis::fixed("k", 1), Axis::fixed("a", 1));
        let top = gives(TopK { axis: b, into: k }, from_ref(&x), &[a, k]);
        prop_assert_eq!(top, gives(TopK { axis: q, into: j }, from_ref(&other_x), &[p, j]));
        // Renaming there and back is nothing.
        let there = floats(&[p, b], &gives(Rename { from: a, to: p }, from_ref(&x), &[p, b]));
        prop_assert_eq!(gives(Rename { from: p, to: a }, &[there], &[a, b]), x.data);
    }

    #[test]
    fn splits_undo_merges_and_slices_undo_concats(sizes in [1usize..4, 1usize..4, 1usize..4], seed: u64) {
        let [a, b, c] = [("a", sizes[0]), ("b", sizes[1]), ("c", sizes[2])].map(|(name, size)| Axis::fixed(name, size));
        let mut numbers = Numbers(seed);
        let x = numbers.floats(&[a, b, c]);
        let merged = Axis::fixed("merged", sizes[0] * sizes[1]);
        let (merge, split) =
            (Merge { axes: vec![b, a], into: merged }, Split { axis: merged, into: vec![b, a] });
        let flat = floats(&[merged, c], &gives(merge.clone(), from_ref(&x), &[merged, c]));
        prop_assert_eq!(gives(split.clone(), from_ref(&flat), &[a, b, c]), x.data);
        let parts = floats(&[b, a, c], &gives(split, from_ref(&flat), &[b, a, c]));
        prop_assert_eq!(gives(merge, &[parts], &[merged, c]), flat.data);

        let joined = Axis::fixed("joined", sizes[0] + sizes[1]);
        let (left, right) = (numbers.floats(&[a, c]), numbers.floats(&[b, c]));
        let whole = gives(Concat { pieces: vec![a, b], into: joined }, &[left.clone(), right.clone()], &[joined, c]);
        let whole = floats(&[joined, c], &whole);
        let cut = |start, into| gives(Slice { axis: joined, start, into }, from_ref(&whole), &[into, c]);
        prop_assert_eq!(cut(0, a), left.data);
        prop_assert_eq!(cut(sizes[0], b), right.data);
    }

    /// `<y, take(t, ids)> = <put_add(ids, y), t>`, whichever axes table and ids share.
    #[test]
    fn put_add_is_the_adjoint_of_take(sizes in [1usize..4, 1usize..4, 1usize..4], shared: bool, seed: u64) {
        let [a, b, c] = [("a", sizes[0]), ("b", sizes[1]), ("c", sizes[2])].map(|(name, size)| Axis::fixed(name, size));
        let mut numbers = Numbers(seed);
        let table = numbers.floats(&[a, b]);
        let (ids_axes, result) = if shared { (vec![a, c], vec![a, c]) } else { (vec![c], vec![a, c]) };
        let ids = numbers.ids(&ids_axes, sizes[1]);
        let y = numbers.floats(&result);
        let taken = apply(Take { axis: b }, &[table.clone(), ids.clone()]).expect("fits");
        let put = apply(PutAdd { axis: b, over: vec![c] }, &[ids, y.clone()]).expect("fits");
        prop_assert_eq!(inner(&taken, &y.value()), inner(&table.value(), &put));
    }

    /// The k-th of `top_k` has exactly k elements before it.
    #[test]
    fn top_k_ranks(size in 1usize..8, k in 1usize..8, seed: u64) {
        let (line, k) = (Axis::fixed("line", size), Axis::fixed("k", k.min(size)));
        let mut x = Numbers(seed).ids(&[line], 4);
        x.dtype = DType::F32;
        let top = gives(TopK { axis: line, into: k }, from_ref(&x), &[k]);
        for (rank, &id) in top.iter().enumerate() {
            let id = id as usize;
            let before = (0..size).filter(|&other| (x.data[other], id) > (x.data[id], other)).count();
            prop_assert_eq!(before, rank);
        }
    }
}
