//! Collectives on simulated ranks: small examples by hand, identities between
//! them, and that each `gradient` is the adjoint.

mod common;

use common::{Numbers, apply, floats, gives, gradient, inner};
use diptych_ir::ops::{AllGather, AllReduce, AllToAll, Receive, Reduce, ReduceScatter, Send, Split};
use diptych_ir::{Axis, Op, Program, ReduceKind, evaluate};
use proptest::prelude::*;
use std::slice::from_ref;

fn axes() -> (Axis, Axis, Axis) {
    (Axis::fixed("mesh", 2), Axis::fixed("e", 4), Axis::fixed("e", 2))
}

#[test]
fn all_reduce_combines_ranks() {
    let (mesh, whole, _) = axes();
    let x = floats(&[mesh, whole], &[1.0, 2.0, 3.0, 4.0, 10.0, -20.0, 30.0, -40.0]);
    let sum = AllReduce { mesh, kind: ReduceKind::Sum };
    assert_eq!(gives(sum, from_ref(&x), &[whole]), [11.0, -18.0, 33.0, -36.0]);
    let max = AllReduce { mesh, kind: ReduceKind::Max };
    assert_eq!(gives(max, &[x], &[whole]), [10.0, 2.0, 30.0, 4.0]);
}

#[test]
fn gather_and_scatter_go_by_rank() {
    let (mesh, whole, piece) = axes();
    let pieces = floats(&[mesh, piece], &[1.0, 2.0, 3.0, 4.0]);
    assert_eq!(gives(AllGather { mesh, piece, whole }, &[pieces], &[whole]), [1.0, 2.0, 3.0, 4.0]);
    let x = floats(&[mesh, whole], &[1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0]);
    let scattered = gives(ReduceScatter { mesh, whole, piece }, &[x], &[mesh, piece]);
    assert_eq!(scattered, [11.0, 22.0, 33.0, 44.0]);
}

#[test]
fn all_to_all_changes_which_axis_is_cut() {
    let mesh = Axis::fixed("mesh", 2);
    let (cut, part) = (Axis::fixed("heads", 2), Axis::fixed("heads", 1));
    let (piece, joined) = (Axis::fixed("time", 2), Axis::fixed("time", 4));
    // Rank 0 holds times 0 and 1, rank 1 times 2 and 3, each of both heads: head * 10 + time.
    let x = floats(&[mesh, cut, piece], &[0.0, 1.0, 10.0, 11.0, 2.0, 3.0, 12.0, 13.0]);
    let exchange = AllToAll { mesh, cut, part, piece, joined };
    let by_head = gives(exchange, from_ref(&x), &[mesh, part, joined]);
    assert_eq!(by_head, [0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0]);
    let back = gives(exchange.back(), &[floats(&[mesh, part, joined], &by_head)], &[mesh, cut, piece]);
    assert_eq!(back, x.data);
}

#[test]
fn sends_shift_along_the_mesh() {
    let mesh = Axis::fixed("mesh", 4);
    let x = floats(&[mesh], &[1.0, 2.0, 3.0, 4.0]);
    let shifted = |shift, ring| gives(Send { mesh, shift, ring }, from_ref(&x), &[mesh]);
    assert_eq!(shifted(1, false), [0.0, 1.0, 2.0, 3.0]);
    assert_eq!(shifted(-2, false), [3.0, 4.0, 0.0, 0.0]);
    assert_eq!(shifted(1, true), [4.0, 1.0, 2.0, 3.0]);
    assert_eq!(shifted(-5, true), [2.0, 3.0, 4.0, 1.0]);
    assert_eq!(shifted(i64::MIN, false), [0.0; 4]);
    assert_eq!(gives(Receive { mesh }, from_ref(&x), &[mesh]), x.data);
}

#[test]
fn a_stage_receives_what_the_stage_before_has_sent() -> diptych_ir::Result<()> {
    let mesh = Axis::fixed("stage", 3);
    let mut program = Program::new("pipeline");
    let mut context = Default::default();
    let graph = &mut program.main_mut().graph;
    let x = common::add_input(graph, &mut context, "x", &floats(&[mesh], &[1.0, 2.0, 3.0]));
    let sent = graph.add(Send { mesh, shift: 1, ring: false }, &[x])?;
    let received = graph.add(Receive { mesh }, &[sent])?;
    diptych_ir::verify(&program)?;
    assert_eq!(evaluate::evaluate(&program, &[received], &context)?[0].data, [0.0, 1.0, 2.0]);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: proptest::test_runner::RngSeed::Fixed(11), cases: 100, failure_persistence: None, ..Default::default() })]

    #[test]
    fn identities(ranks in 1usize..5, size in 1usize..4, width in 1usize..4, seed: u64) {
        let mesh = Axis::fixed("mesh", ranks);
        let (whole, piece) = (Axis::fixed("e", ranks * size), Axis::fixed("e", size));
        let f = Axis::fixed("f", width);
        let x = Numbers(seed).floats(&[mesh, whole, f]);
        // An all-reduce is a reduce-scatter and an all-gather.
        let scattered = gives(ReduceScatter { mesh, whole, piece }, from_ref(&x), &[mesh, piece, f]);
        let scattered = floats(&[mesh, piece, f], &scattered);
        let gathered = gives(AllGather { mesh, piece, whole }, from_ref(&scattered), &[whole, f]);
        let reduced = gives(AllReduce { mesh, kind: ReduceKind::Sum }, from_ref(&x), &[whole, f]);
        prop_assert_eq!(&gathered, &reduced);
        // Its sum is that of the plain reduction.
        let plain = Reduce { kind: ReduceKind::Sum, over: vec![mesh] };
        prop_assert_eq!(&reduced, &gives(plain, &[x], &[whole, f]));
        // A reduce-scatter is an all-reduce of which each rank keeps its part.
        let split = Split { axis: whole, into: vec![mesh, piece] };
        prop_assert_eq!(gives(split, &[floats(&[whole, f], &reduced)], &[mesh, piece, f]), scattered.data);
    }

    /// `<y, op(x)> = <gradient(y), x>`, also for cotangents that leave out axes
    /// along which they are constant.
    #[test]
    fn gradients_are_adjoints(
        ranks in 1usize..5, size in 1usize..4, width in 1usize..4, shift in -5i64..6, ring: bool, kept: u8, seed: u64,
    ) {
        let mesh = Axis::fixed("mesh", ranks);
        let (whole, piece) = (Axis::fixed("e", ranks * size), Axis::fixed("e", size));
        let (joined, f) = (Axis::fixed("f", ranks * width), Axis::fixed("f", width));
        let cases: [(Op, Vec<Axis>, Vec<Axis>); 6] = [
            (AllReduce { mesh, kind: ReduceKind::Sum }.into(), vec![mesh, whole, f], vec![whole, f]),
            (AllGather { mesh, piece, whole }.into(), vec![mesh, piece, f], vec![whole, f]),
            (ReduceScatter { mesh, whole, piece }.into(), vec![mesh, whole, f], vec![mesh, piece, f]),
            (AllToAll { mesh, cut: whole, part: piece, piece: f, joined }.into(),
                vec![mesh, whole, f], vec![mesh, piece, joined]),
            (Send { mesh, shift, ring }.into(), vec![mesh, f], vec![mesh, f]),
            (Receive { mesh }.into(), vec![mesh, f], vec![mesh, f]),
        ];
        let mut numbers = Numbers(seed);
        for (op, given, result) in cases {
            let x = numbers.floats(&given);
            let held: Vec<Axis> = result
                .iter().enumerate().filter(|(place, _)| kept & (1 << place) != 0).map(|(_, &axis)| axis).collect();
            let y = numbers.floats(&held);
            let forward = apply(op.clone(), from_ref(&x)).expect("operands that fit");
            let back = gradient(op.clone(), from_ref(&x), 0, &y).expect("a gradient");
            prop_assert_eq!(inner(&forward, &y.value()), inner(&x.value(), &back), "{}", op.name());
        }
    }
}

#[test]
fn the_gradient_of_a_maximum_goes_to_the_rank_that_has_it() {
    let (mesh, whole, _) = axes();
    let x = floats(&[mesh, whole], &[1.0, 2.0, 3.0, 4.0, 10.0, -20.0, 30.0, -40.0]);
    let y = floats(&[whole], &[1.0, 2.0, 3.0, 4.0]);
    let back = gradient(AllReduce { mesh, kind: ReduceKind::Max }, &[x], 0, &y).expect("a gradient");
    assert_eq!(back.in_order(&[mesh, whole]), [0.0, 2.0, 0.0, 4.0, 1.0, 0.0, 3.0, 0.0]);
}
