//! The reference evaluator: every op against small examples worked out by hand.

mod common;

use common::{Given, add_input, apply, floats, gives, ints, truths};
use diptych_ir::evaluate::{Context, Value, evaluate, evaluate_watched};
use diptych_ir::ops::{
    Cast, Concat, Contract, History, Index, Literal, Map, Merge, Param, PutAdd, Reduce, Rename, RoundBlocks,
    Slice, Split, Take, TopK,
};
use diptych_ir::{Axis, DType, Program, ReduceKind, Region, Result, ScalarFn, Symbol};
use std::f64::consts::{FRAC_PI_2, LN_2, PI};
use std::slice::from_ref;

fn axes() -> [Axis; 3] {
    [Axis::fixed("a", 2), Axis::fixed("b", 3), Axis::fixed("c", 2)]
}

#[test]
fn leaves() -> Result<()> {
    let [a, b, _] = axes();
    assert_eq!(gives(Literal::scalar(DType::F32, 0.5), &[], &[]), [0.5]);
    assert_eq!(gives(Literal::table(DType::I32, a, &[4.0, 5.0])?, &[], &[a]), [4.0, 5.0]);
    assert_eq!(gives(Index { axis: b, origin: None }, &[], &[b]), [0.0, 1.0, 2.0]);
    // Along a sequence axis positions count from each sequence's origin.
    let mut program = Program::new("index");
    let mut context = Context::default();
    let index = program.main_mut().graph.add(Index { axis: b, origin: Some(a) }, &[])?;
    let read =
        |context: &Context| evaluate(&program, &[index], context).map(|values| values[0].in_order(&[a, b]));
    assert_eq!(read(&context)?, [0.0, 1.0, 2.0, 0.0, 1.0, 2.0]);
    context.inputs.insert("origin".into(), Value::new(&[(a.name, 2)], vec![10.0, 20.0])?);
    assert_eq!(read(&context)?, [10.0, 11.0, 12.0, 20.0, 21.0, 22.0]);

    let ty = floats(&[a], &[]).ty();
    let param = program.main_mut().graph.add(Param { name: "w".into(), ty }, &[])?;
    let missing = evaluate(&program, &[param], &context).expect_err("no value");
    assert_eq!(missing.to_string(), "cannot evaluate: no value for the parameter `w`");
    context.params.insert("w".into(), Value::scalar(1.0));
    evaluate(&program, &[param], &context).expect_err("another shape");
    context.params.insert("w".into(), Value::new(&[(a.name, 2)], vec![7.0, 8.0])?);
    assert_eq!(evaluate(&program, &[param], &context)?[0].data, [7.0, 8.0]);
    Ok(())
}

#[test]
fn every_scalar_function() {
    use ScalarFn::*;
    let float = |x: f64| floats(&[], &[x]);
    let truth = |holds: bool| truths(&[], &[f64::from(u8::from(holds))]);
    let near: &[(ScalarFn, &[f64], f64)] = &[
        (Add, &[2.0, 3.0], 5.0),
        (Sub, &[2.0, 3.0], -1.0),
        (Mul, &[2.0, 3.0], 6.0),
        (Div, &[3.0, 2.0], 1.5),
        (Max, &[2.0, 3.0], 3.0),
        (Min, &[2.0, 3.0], 2.0),
        (Neg, &[2.0], -2.0),
        (Exp, &[LN_2], 2.0),
        (Log, &[2.0], LN_2),
        (Sqrt, &[9.0], 3.0),
        (Rsqrt, &[16.0], 0.25),
        (Tanh, &[0.5], 0.46211715726000975),
        (Sigmoid, &[1.0], 0.7310585786300049),
        (Sigmoid, &[-800.0], 0.0),
        (Erf, &[0.5], 0.5204998778130465),
        (Sin, &[FRAC_PI_2], 1.0),
        (Cos, &[PI], -1.0),
        (Abs, &[-2.0], 2.0),
        (Less, &[2.0, 2.0], 0.0),
        (Less, &[1.0, 2.0], 1.0),
        (LessEqual, &[2.0, 2.0], 1.0),
        (Equal, &[2.0, 2.0], 1.0),
        (Equal, &[2.0, 3.0], 0.0),
        (Detach, &[2.0], 2.0),
    ];
    for &(function, x, expected) in near {
        let given: Vec<Given> = x.iter().map(|&x| float(x)).collect();
        let found = gives(Map(function), &given, &[])[0];
        assert!((found - expected).abs() < 1e-15, "{} of {x:?} is {found}", function.name());
    }
    for (left, right) in [(false, false), (false, true), (true, false), (true, true)] {
        let given = [truth(left), truth(right)];
        assert_eq!(gives(Map(And), &given, &[])[0] != 0.0, left && right);
        assert_eq!(gives(Map(Or), &given, &[])[0] != 0.0, left || right);
        assert_eq!(gives(Map(Not), &given[..1], &[])[0] != 0.0, !left);
        let chosen = gives(Map(Select), &[truth(left), float(1.0), float(2.0)], &[]);
        assert_eq!(chosen, [if left { 1.0 } else { 2.0 }]);
    }
    // What is not chosen does not matter, not even when it is no number.
    assert_eq!(gives(Map(Select), &[truth(false), float(f64::NAN), float(2.0)], &[]), [2.0]);
}

#[test]
fn random_rounding_is_right_in_the_mean() {
    use diptych_ir::ops::round_randomly;
    let step = |x: f32| f64::from(f32::from_bits((x.to_bits() & 0xffff_0000) + 0x1_0000)) - f64::from(x);
    // One number over many seeds, and over many neighbours with one seed: both ways the mean is the number itself.
    for x in [1.0f32 + 1.0 / 1024.0, -3.3333, 1e-20, 7.77e9, 0.1] {
        const COUNT: i32 = 1 << 16;
        let spacing = step(f32::from_bits(x.to_bits() & 0xffff_0000)).abs();
        let of_seeds = (0..COUNT).map(|seed| round_randomly(x, 0.5, seed));
        let of_salts = (0..COUNT).map(|salt| round_randomly(x, salt as f32 * 1e-6, 77));
        for rounded in [of_seeds.collect::<Vec<f32>>(), of_salts.collect()] {
            assert!(rounded.iter().all(|rounded| rounded.to_bits() & 0xffff == 0));
            assert!(rounded.iter().all(|&rounded| (f64::from(rounded) - f64::from(x)).abs() < spacing));
            let mean = rounded.iter().map(|&x| f64::from(x)).sum::<f64>() / f64::from(COUNT);
            // Five standard deviations of the mean of so many, at most half a spacing each.
            let error = (mean - f64::from(x)).abs();
            assert!(error < 5.0 * 0.5 * spacing / 256.0, "{x}: {mean}");
        }
        // What is a bf16 number stays it.
        let exact = f32::from_bits(x.to_bits() & 0xffff_0000);
        assert!((0..100).all(|seed| round_randomly(exact, x, seed) == exact));
    }
    assert_eq!(round_randomly(f32::NEG_INFINITY, 1.0, 3), f32::NEG_INFINITY);
    assert!((0..100).all(|seed| round_randomly(f32::from_bits(0x7f80_0001), 1.0, seed).is_nan()));
    assert_eq!(round_randomly(-0.0, 1.0, 3).to_bits(), (-0.0f32).to_bits());
    let seeds =
        |salt: f32| (0..64).map(move |seed| round_randomly(0.1, salt, seed).to_bits()).collect::<Vec<_>>();
    assert_ne!(seeds(1.0), seeds(2.0), "what stands beside a number makes it round apart");
}

#[test]
fn pointwise_ops_walk_the_union_of_axes() {
    let [a, b, _] = axes();
    let sum =
        gives(Map(ScalarFn::Add), &[floats(&[a], &[10.0, 20.0]), floats(&[b], &[1.0, 2.0, 3.0])], &[a, b]);
    assert_eq!(sum, [11.0, 12.0, 13.0, 21.0, 22.0, 23.0]);
}

/// Abramowitz and Stegun, table 7.1, and on both sides of where the formula changes.
#[test]
fn erf_is_right_to_a_few_units_in_the_last_place() {
    let known = [
        (0.0, 0.0),
        (1e-10, 1.1283791670955126e-10),
        (0.1, 0.1124629160182849),
        (0.5, 0.5204998778130465),
        (1.0, 0.8427007929497149),
        (1.5, 0.9661051464753108),
        (2.0, 0.9953222650189527),
        (2.9999, 0.9999778955735178),
        (3.0, 0.9999779095030014),
        (3.5, 0.9999992569016276),
        (4.0, 0.9999999845827421),
        (5.0, 0.9999999999984626),
        (30.0, 1.0),
        (f64::INFINITY, 1.0),
    ];
    for (x, expected) in known {
        for sign in [1.0, -1.0] {
            let found = ScalarFn::Erf.apply(&[sign * x]);
            assert!((found - sign * expected).abs() <= 5e-16 * expected, "erf({}) is {found}", sign * x);
        }
    }
    assert!(ScalarFn::Erf.apply(&[f64::NAN]).is_nan());
}

#[test]
fn casts_round_to_the_nearest_even() {
    let [a, ..] = axes();
    let ulp = 1.0 / 128.0;
    let halves = floats(&[a], &[1.0 + ulp / 2.0, 1.0 + 1.5 * ulp]);
    assert_eq!(gives(Cast(DType::BF16), &[halves], &[a]), [1.0, 1.0 + 2.0 * ulp]);
    assert_eq!(gives(Cast(DType::F32), &[ints(&[a], &[3.0, -4.0])], &[a]), [3.0, -4.0]);
    assert_eq!(gives(Cast(DType::F32), &[truths(&[a], &[0.0, 1.0])], &[a]), [0.0, 1.0]);
    let ulp = 1.0 / 1024.0;
    let halves = || floats(&[a], &[1.0 + ulp / 2.0, 1.0 + 1.5 * ulp]);
    assert_eq!(gives(Cast(DType::F16), &[halves()], &[a]), [1.0, 1.0 + 2.0 * ulp]);
    // The largest of f16 is 65504: from half a step above it on, what is rounded is infinite. Half of the least is 0.
    let ends = floats(&[a], &[65519.9, 65520.0]);
    assert_eq!(gives(Cast(DType::F16), &[ends], &[a]), [65504.0, f64::INFINITY]);
    let least = 2.0_f64.powi(-24);
    assert_eq!(gives(Cast(DType::F16), &[floats(&[a], &[least / 2.0, -0.51 * least])], &[a]), [0.0, -least]);
    assert_eq!(gives(Cast(DType::I8), &[floats(&[a], &[2.5, -3.5])], &[a]), [2.0, -4.0]);
    assert_eq!(gives(Cast(DType::I8), &[floats(&[a], &[1e9, f64::NEG_INFINITY])], &[a]), [127.0, -127.0]);
    assert_eq!(gives(Cast(DType::I8), &[floats(&[a], &[f64::NAN, -0.2])], &[a]), [0.0, 0.0]);
    apply(Cast(DType::I8), &[ints(&[a], &[1.0, 2.0])]).expect_err("ids are no numbers");
    apply(Cast(DType::I32), &[floats(&[a], &[0.5, 1.5])]).expect_err("floats have no ids");
}

#[test]
fn contractions() {
    let [a, b, c] = axes();
    let left = floats(&[a, b], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let right = floats(&[b, c], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    let product = gives(Contract { over: vec![b] }, &[left.clone(), right.clone()], &[a, c]);
    assert_eq!(product, [4.0, 5.0, 10.0, 11.0]);
    let scale = floats(&[b], &[1.0, 10.0, 100.0]);
    let three = gives(Contract { over: vec![b] }, &[left.clone(), right, scale.clone()], &[a, c]);
    assert_eq!(three, [301.0, 320.0, 604.0, 650.0]);
    assert_eq!(gives(Contract { over: vec![a, b] }, from_ref(&left), &[]), [21.0]);
    let outer = gives(Contract { over: vec![] }, &[floats(&[a], &[1.0, 2.0]), scale], &[a, b]);
    assert_eq!(outer, [1.0, 10.0, 100.0, 2.0, 20.0, 200.0]);
    // An axis that stays is shared, not summed: a batch.
    let batched = gives(Contract { over: vec![b] }, &[left.clone(), left], &[a]);
    assert_eq!(batched, [14.0, 77.0]);
}

#[test]
fn reductions() {
    let [a, b, _] = axes();
    let x = floats(&[a, b], &[1.0, -2.0, 3.0, -4.0, -5.0, -6.0]);
    let reduce = |kind, over: &[Axis]| Reduce { kind, over: over.to_vec() };
    assert_eq!(gives(reduce(ReduceKind::Sum, &[b]), from_ref(&x), &[a]), [2.0, -15.0]);
    assert_eq!(gives(reduce(ReduceKind::Sum, &[b, a]), from_ref(&x), &[]), [-13.0]);
    assert_eq!(gives(reduce(ReduceKind::Max, &[b]), from_ref(&x), &[a]), [3.0, -4.0]);
    assert_eq!(gives(reduce(ReduceKind::Max, &[a]), &[x], &[b]), [1.0, -2.0, 3.0]);
}

#[test]
fn gathers_and_their_adjoint() {
    let [a, b, c] = axes();
    let table = floats(&[b, a], &[0.0, 1.0, 10.0, 11.0, 20.0, 21.0]);
    let ids = ints(&[c], &[2.0, 0.0]);
    assert_eq!(gives(Take { axis: b }, &[table.clone(), ids.clone()], &[c, a]), [20.0, 21.0, 0.0, 1.0]);
    // A shared axis is walked together: one element of each row.
    let each = ints(&[a], &[2.0, 0.0]);
    assert_eq!(gives(Take { axis: b }, &[table.clone(), each], &[a]), [20.0, 1.0]);
    let twice = ints(&[c], &[1.0, 1.0]);
    let values = floats(&[c, a], &[1.0, 2.0, 3.0, 4.0]);
    let put = gives(PutAdd { axis: b, over: vec![c] }, &[twice, values], &[b, a]);
    assert_eq!(put, [0.0, 0.0, 4.0, 6.0, 0.0, 0.0]);
    let outside = ints(&[c], &[0.0, 3.0]);
    apply(Take { axis: b }, &[table, outside.clone()]).expect_err("an id past the end");
    apply(PutAdd { axis: b, over: vec![c] }, &[outside, floats(&[c], &[1.0, 1.0])])
        .expect_err("an id past the end");
}

#[test]
fn axis_bookkeeping() {
    let [a, b, c] = axes();
    let x = floats(&[a, b], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(gives(Rename { from: a, to: c }, from_ref(&x), &[c, b]), x.data);
    let six = Axis::fixed("six", 6);
    assert_eq!(gives(Merge { axes: vec![a, b], into: six }, from_ref(&x), &[six]), x.data);
    let other = gives(Merge { axes: vec![b, a], into: six }, from_ref(&x), &[six]);
    assert_eq!(other, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    let line = floats(&[six], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(gives(Split { axis: six, into: vec![b, a] }, from_ref(&line), &[b, a]), line.data);
    let two = Axis::fixed("six", 2);
    assert_eq!(gives(Slice { axis: six, start: 3, into: two }, &[line], &[two]), [4.0, 5.0]);
    let (one, five) = (Axis::fixed("one", 1), Axis::fixed("five", 5));
    let pieces = vec![b, one, one];
    // The last operand lacks its piece's axis: it is the same all along its stretch.
    let given = [x, floats(&[one], &[7.0]), floats(&[a], &[8.0, 9.0])];
    let joined = gives(Concat { pieces, into: five }, &given, &[a, five]);
    assert_eq!(joined, [1.0, 2.0, 3.0, 7.0, 8.0, 4.0, 5.0, 6.0, 7.0, 9.0]);
    let past = Axis::fixed("past", 3);
    let history = History { time: b, past, window: None, room: 0 };
    assert_eq!(gives(history, &[floats(&[b], &[1.0, 2.0, 3.0])], &[past]), [1.0, 2.0, 3.0]);
}

#[test]
fn history_without_a_cache_spans_the_sequence() -> Result<()> {
    let (time, past) = (Axis::symbolic("time"), Axis::symbolic("past"));
    let mut program = Program::new("history");
    let ty = diptych_ir::TensorType::new(DType::F32, diptych_ir::Axes::new([time]).expect("one axis"));
    let graph = &mut program.main_mut().graph;
    let x = graph.add(diptych_ir::ops::Input { name: "x".into(), ty }, &[])?;
    let kept = graph.add(History { time, past, window: None, room: 0 }, &[x])?;
    let mut context = Context::default();
    context.inputs.insert("x".into(), Value::new(&[(time.name, 2)], vec![1.0, 2.0])?);
    let unbound = evaluate(&program, &[kept], &context).expect_err("no sizes");
    assert_eq!(unbound.to_string(), "cannot evaluate: no value for the size `time`");
    context.sizes.extend([(Symbol::new("time"), 2), (Symbol::new("past"), 3)]);
    evaluate(&program, &[kept], &context).expect_err("a longer past needs a cache");
    context.sizes.insert("past".into(), 2);
    assert_eq!(evaluate(&program, &[kept], &context)?[0].data, [1.0, 2.0]);
    Ok(())
}

#[test]
fn top_k_orders_by_value_then_position() {
    let [a, b, _] = axes();
    let (line, k) = (Axis::fixed("line", 5), Axis::fixed("k", 3));
    let top = TopK { axis: line, into: k };
    let ties = floats(&[line], &[1.0, 7.0, 3.0, 7.0, 3.0]);
    assert_eq!(gives(top, &[ties], &[k]), [1.0, 3.0, 2.0]);
    let no_numbers = floats(&[line], &[f64::NAN, -1.0, f64::NAN, f64::NEG_INFINITY, -0.0]);
    assert_eq!(gives(top, &[no_numbers], &[k]), [4.0, 1.0, 3.0]);
    let rows = ints(&[a, b], &[1.0, 2.0, 3.0, 6.0, 5.0, 4.0]);
    let one = Axis::fixed("k", 1);
    assert_eq!(gives(TopK { axis: b, into: one }, &[rows], &[a, one]), [2.0, 0.0]);
}

/// A body `(state, x) -> (state * 2 + x, state)` over scalars.
fn recurrence() -> Result<Region> {
    let mut body = Region::new("step");
    let state = body.add_argument(floats(&[], &[]).ty())?;
    let x = body.add_argument(floats(&[], &[]).ty())?;
    let two = body.graph.add(Literal::scalar(DType::F32, 2.0), &[])?;
    let doubled = body.graph.add(Map(ScalarFn::Mul), &[state, two])?;
    let next = body.graph.add(Map(ScalarFn::Add), &[doubled, x])?;
    body.results = vec![next, state];
    Ok(body)
}

#[test]
fn loops_carry_values_and_stack_what_they_yield() -> Result<()> {
    let [_, b, _] = axes();
    let cases = [
        (false, [1.0, 2.0, 35.0], 123.0, [10.0, 21.0, 44.0]),
        (true, [1.0, 2.0, 3.0], 97.0, [48.0, 23.0, 10.0]),
    ];
    for (reverse, x, last, sequence) in cases {
        for scan in [false, true] {
            let mut program = Program::new("loop");
            let mut context = Context::default();
            let body = program.add_region(recurrence()?);
            let graph = &mut program.main_mut().graph;
            let start = add_input(graph, &mut context, "start", &floats(&[], &[10.0]));
            let x = add_input(graph, &mut context, "x", &floats(&[b], &x));
            let results = match scan {
                true => program.add_scan(Program::MAIN, body, b, reverse, &[start], &[x], &[])?,
                false => program.add_repeat(Program::MAIN, body, b, reverse, &[start], &[x], &[])?,
            };
            let values = evaluate(&program, &results, &context)?;
            assert_eq!(values[0].data, [last]);
            assert_eq!(values[1].data, sequence);
            // Who watches sees what each run is given, and where along the axis it is.
            let given = program.region(body).results[1];
            let mut seen = [0.0; 3];
            let watched = evaluate_watched(&program, &results, &context, &mut |watched, value| {
                if (watched.region, watched.node) == (body, given) {
                    let &[position] = watched.positions else { panic!("{watched:?}") };
                    seen[position] = value.data[0];
                }
            })?;
            assert_eq!(watched, values);
            assert_eq!(seen, sequence);
        }
    }
    Ok(())
}

#[test]
fn a_loop_over_nothing_keeps_what_it_carries() -> Result<()> {
    let none = Axis::fixed("none", 0);
    let mut program = Program::new("loop");
    let mut context = Context::default();
    let body = program.add_region(recurrence()?);
    let graph = &mut program.main_mut().graph;
    let start = add_input(graph, &mut context, "start", &floats(&[], &[10.0]));
    let x = add_input(graph, &mut context, "x", &floats(&[none], &[]));
    let results = program.add_scan(Program::MAIN, body, none, false, &[start], &[x], &[])?;
    let values = evaluate(&program, &results, &context)?;
    assert_eq!(values[0].data, [10.0]);
    assert_eq!(values[1].axes, [(none.name, 0)]);
    Ok(())
}

#[test]
fn rounding_to_blocks() -> Result<()> {
    let (row, half, within) = (Axis::fixed("row", 2), Axis::fixed("half", 2), Axis::fixed("within", 16));
    let round = RoundBlocks { over: vec![half, within] };
    let mut x = vec![0.0; 64];
    // Of 127 steps: whole ones, ties to even, and the largest, which says what a step is.
    x[..6].copy_from_slice(&[1.0, -2.25, 0.5, 1.5, -2.5, 127.0]);
    // The other row's step is a hundredth.
    x[32..35].copy_from_slice(&[0.014, -0.016, -1.27]);
    let found = gives(round.clone(), &[floats(&[row, half, within], &x)], &[row, half, within]);
    assert_eq!(found[..7], [1.0, -2.0, 0.0, 2.0, -2.0, 127.0, 0.0]);
    let step = f64::from(1.27_f32 / 127.0);
    assert_eq!(found[32..36], [step, -2.0 * step, -127.0 * step, 0.0]);
    let tiny = gives(round.clone(), &[floats(&[row, half, within], &[1e-31; 64])], &[row, half, within]);
    assert_eq!(tiny, [0.0; 64]);
    x[40] = f64::INFINITY;
    let broken = gives(round, &[floats(&[row, half, within], &x)], &[row, half, within]);
    assert!(broken[..32].iter().all(|x| x.is_finite()) && broken[32..].iter().all(|x| x.is_nan()));

    let mut program = Program::new("rounded");
    let graph = &mut program.main_mut().graph;
    let x = graph.add(Literal::table(DType::F32, within, &[1.0; 16])?, &[])?;
    let error = graph.add(RoundBlocks { over: vec![within] }, &[x]).expect_err("half a block");
    assert_eq!(error.to_string(), "round_blocks: needs whole blocks of 32 elements, not 16");
    Ok(())
}
