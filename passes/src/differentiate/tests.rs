//! Gradients against central finite differences in f64, by the reference
//! evaluator: each op alone, and small nets with repeats.

use super::{differentiate, differentiate_keeping};
use crate::test_net::Net;
use crate::test_support::*;
use diptych_ir::evaluate::Value;
use diptych_ir::ops::*;
use diptych_ir::{Axis, DType, EntryKind, NodeId, Op, Program, ScalarFn, Symbol};
use proptest::prelude::*;

fn fixed(name: &str, size: usize) -> Axis {
    Axis::fixed(name, size)
}

/// One op between parameters, its number of cases, by position.
fn one_op(program: &mut Program, case: usize, sizes: [usize; 3]) -> NodeId {
    use ScalarFn::*;
    let [a, b, c] = [fixed("a", sizes[0]), fixed("b", sizes[1]), fixed("c", sizes[2])];
    let time = Axis::symbolic("time");
    let past = Axis::symbolic("past");
    let x = param(program, "x", &[a, b, time]);
    let y = param(program, "y", &[b, c]);
    let z = param(program, "z", &[]);
    let maps2 = [Add, Sub, Mul, Div, Max, Min];
    let maps1 = [Neg, Exp, Log, Sqrt, Rsqrt, Tanh, Sigmoid, Erf, Sin, Cos, Abs];
    let graph = &mut program.main_mut().graph;
    let double = fixed("b", sizes[1] * 2);
    let mut add = |op: Op, operands: &[NodeId]| graph.add(op, operands).expect("op");
    match case {
        0..6 => add(Map(maps2[case]).into(), &[x, y]),
        6..17 => add(Map(maps1[case - 6]).into(), &[x]),
        17 => {
            let mask = add(Map(Less).into(), &[x, y]);
            add(Map(Select).into(), &[mask, z, y])
        }
        18 => add(Contract { over: vec![time, b] }.into(), &[x, y, z]),
        19 => add(Contract { over: vec![a] }.into(), &[x, x]),
        20 => add(Contract { over: vec![time, a] }.into(), &[x]),
        21 => add(Reduce { kind: ReduceKind::Sum, over: vec![time, b] }.into(), &[x]),
        22 => add(Reduce { kind: ReduceKind::Max, over: vec![b, time] }.into(), &[x]),
        23 => add(Rename { from: time, to: past }.into(), &[x]),
        24 => add(History { time, past, window: None, room: 0 }.into(), &[x]),
        25 => add(Merge { axes: vec![b, a], into: fixed("ab", sizes[0] * sizes[1]) }.into(), &[x]),
        26 => {
            let merged = add(Merge { axes: vec![a, b], into: fixed("ab", sizes[0] * sizes[1]) }.into(), &[x]);
            let product = add(Map(Mul).into(), &[merged, z]);
            let [p, q] = [fixed("p", sizes[1]), fixed("q", sizes[0])];
            add(Split { axis: fixed("ab", sizes[0] * sizes[1]), into: vec![p, q] }.into(), &[product])
        }
        27 => add(Slice { axis: b, start: sizes[1] - 1, into: fixed("b", 1) }.into(), &[x]),
        28 => add(Slice { axis: a, start: 0, into: fixed("part", sizes[0].div_ceil(2)) }.into(), &[x]),
        29 => add(Concat { pieces: vec![b, b], into: double }.into(), &[x, y]),
        30 => add(Concat { pieces: vec![fixed("n", sizes[1]), b], into: double }.into(), &[z, x]),
        31 => add(Cast(DType::F32).into(), &[x]),
        _ => {
            let ty = diptych_ir::TensorType { dtype: DType::I32, ..f32_type(&[a, time]) };
            let ids = add(Input { name: "ids".into(), ty }.into(), &[]);
            match case {
                32 => add(Take { axis: b }.into(), &[x, ids]),
                33 => add(Take { axis: c }.into(), &[y, ids]),
                34 => add(PutAdd { axis: fixed("rows", 4), over: vec![time] }.into(), &[ids, x]),
                _ => add(PutAdd { axis: fixed("rows", 4), over: vec![a, time] }.into(), &[ids, y]),
            }
        }
    }
}

const ONE_OP_CASES: usize = 36;

fn check_one_op(case: usize, sizes: [usize; 3], time: usize, kept_axes: u8, seed: u64) {
    let mut program = Program::new("one op");
    let value = one_op(&mut program, case, sizes);
    // Weights that lack axes make cotangents that do.
    let axes: Vec<Axis> = program.main().graph.axes(value).iter().copied().collect();
    let axes: Vec<Axis> =
        axes.into_iter().enumerate().filter(|(i, _)| kept_axes >> i & 1 == 1).map(|(_, axis)| axis).collect();
    weighted_loss(&mut program, value, &axes);
    let mut context = random_context(&program, &[("time", time), ("past", time)], seed, 0.4, 2.0);
    let mut numbers = Numbers(seed ^ 1);
    let ids = f32_type(&[fixed("a", sizes[0]), Axis::symbolic("time")]);
    let mut ids = random_value(&context, &ids.axes, &mut numbers, 0.0, 1.0);
    let limit = match case {
        32 => sizes[1],
        33 => sizes[2],
        _ => 4,
    };
    ids.data.iter_mut().for_each(|id| *id = (*id * limit as f64).floor());
    context.inputs.insert("ids".into(), ids);
    let differentiated = differentiate(&program).expect("differentiate");
    check_gradients(&program, &differentiated, &context);
}

#[test]
fn every_op_with_every_form_of_cotangent() {
    for case in 0..ONE_OP_CASES {
        for kept_axes in [0, 1, 2, 5, 6, 15] {
            check_one_op(case, [2, 3, 2], 2, kept_axes, 7 + case as u64);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(1),
        ..ProptestConfig::default()
    })]
    #[test]
    fn every_op_on_random_shapes(
        case in 0..ONE_OP_CASES,
        sizes in proptest::array::uniform3(1usize..4),
        time in 1usize..4,
        kept_axes in 0u8..16,
        seed in 0u64..1 << 40,
    ) {
        check_one_op(case, sizes, time, kept_axes, seed);
    }
}

#[test]
fn a_net_with_attention_rotation_norm_and_tied_embeddings() {
    let net = Net::new();
    for layers in [1, 3] {
        let program = net.program(layers, false);
        diptych_ir::verify(&program).expect("well-formed");
        let differentiated = differentiate(&program).expect("differentiate");
        let train = differentiated.entry(EntryKind::Train).expect("train");
        assert_eq!(train.updates.len(), program.params.len());
        check_gradients(&program, &differentiated, &net.context(&program));
    }
}

#[test]
fn other_entries_keep_their_graph() {
    let program = Net::new().program(2, false);
    let differentiated = differentiate(&program).expect("differentiate");
    let count = |program: &Program| {
        let root = program.entry(EntryKind::Score).and_then(|entry| entry.root("score")).expect("score");
        let nodes = program.main().graph.ancestors(&[root]);
        let loops = nodes.iter().filter_map(|&id| program.main().graph.op(id).as_loop());
        let bodies: Vec<usize> = loops.map(|looped| program.region(looped.body).graph.len()).collect();
        (root, nodes, bodies)
    };
    assert_eq!(count(&program), count(&differentiated));
}

/// The forward and the backward body of `Train`'s only repeat.
fn bodies(program: &Program) -> [&diptych_ir::Region; 2] {
    ["layers.train", "layers.backward"].map(|name| {
        program.regions.iter().find(|region| region.name.as_str() == name).expect("a body of that name")
    })
}

#[test]
fn a_layer_keeps_contractions_and_statistics_but_no_scores() {
    let net = Net::new();
    let program = differentiate(&net.program(2, false)).expect("differentiate");
    let [forward, backward] = bodies(&program);
    let kept: Vec<String> =
        forward.results[1..].iter().map(|&id| forward.graph.op(id).name().into()).collect();
    assert_eq!(kept.iter().filter(|name| *name == "argument").count(), 1, "x as it comes in");
    // q, k, v, mixed, o, gate, up; the square sum; the maximum and the sum of the softmax.
    assert_eq!(kept.iter().filter(|name| *name == "contract").count(), 7, "{kept:?}");
    assert_eq!(kept.iter().filter(|name| name.starts_with("reduce")).count(), 3, "{kept:?}");
    assert_eq!(kept.len(), 11);
    let square = |id: &NodeId| {
        let axes = forward.graph.axes(*id);
        axes.contains(net.time) && axes.contains(net.past)
    };
    assert!(!forward.results.iter().any(square), "scores are kept");
    // What the backward body recomputes has no gradient's dead ends in it.
    let all = backward.graph.ancestors(&backward.results).len();
    let unused = backward.arguments.iter().filter(|&&id| backward.graph.users(id).is_empty()).count();
    assert_eq!((backward.graph.len() - all, unused), (0, 0));
}

#[test]
fn a_rounded_contraction_is_kept_in_half_the_bytes() {
    let program = differentiate(&Net::new().program(2, true)).expect("differentiate");
    diptych_ir::verify(&program).expect("well-formed");
    let [forward, _] = bodies(&program);
    let narrow = forward.results.iter().filter(|&&id| forward.graph.ty(id).dtype == DType::BF16).count();
    assert_eq!(narrow, 3, "q, k and v are rounded, and kept so");
}

#[test]
fn rotary_halves_meet_in_one_concatenation() {
    let program = differentiate(&Net::new().program(2, false)).expect("differentiate");
    let [_, backward] = bodies(&program);
    let graph = &backward.graph;
    let with_zeros = |id: &NodeId| {
        matches!(graph.op(*id), Op::Concat(_))
            && graph.operands(*id).iter().any(|&operand| matches!(graph.op(operand), Op::Literal(_)))
    };
    assert!(!graph.ids().iter().any(with_zeros));
}

#[test]
fn the_size_of_what_is_added_does_not_depend_on_depth() {
    let nodes = |layers: usize| -> Vec<usize> {
        let program = differentiate(&Net::new().program(layers, false)).expect("differentiate");
        program.regions.iter().map(|region| region.graph.len()).collect()
    };
    assert_eq!(nodes(2), nodes(48));
}

#[test]
fn what_cannot_be_differentiated_is_refused() {
    let refused = |program: &Program| differentiate(program).expect_err("refused").to_string();
    assert!(refused(&Program::new("empty")).contains("no entry `train`"));
    let mut vector = Program::new("vector");
    let x = param(&mut vector, "x", &[fixed("a", 2)]);
    set_loss(&mut vector, x);
    assert!(refused(&vector).contains("must be an f32 scalar, not f32[a=2]"));
    let twice = differentiate(&Net::new().program(1, false)).expect("differentiate");
    assert!(refused(&twice).contains("differentiated already"));
}

#[test]
fn what_is_kept_changes_no_gradient() {
    let net = Net::new();
    let program = net.program(2, false);
    let context = net.context(&program);
    let gradients = |keeping: super::policy::Policy| {
        let differentiated = differentiate_keeping(&program, keeping).expect("differentiate");
        diptych_ir::verify(&differentiated).expect("well-formed");
        run_entry(&differentiated, EntryKind::Train, &context)
    };
    let chosen = gradients(super::policy::saves);
    assert_eq!(chosen, gradients(|_, _, _| true), "all kept");
    assert_eq!(chosen, gradients(|_, _, _| false), "all recomputed");
}

/// A recurrence h = tanh(h · w + x) along time, whose yielded states are
/// summed, within two layers (or in the main region alone).
fn recurrent(nested: bool) -> Program {
    use ScalarFn::{Add, Mul, Tanh};
    let (time, a) = (Axis::symbolic("time"), fixed("a", 2));
    let mut program = Program::new("recurrent");
    let bounds = diptych_ir::Bounds { least: 1, most: 8 };
    program.bounds.insert("time".into(), bounds);
    let mut step = diptych_ir::Region::new("step");
    let ports = [&[a][..], &[a], &[a]].map(|axes| step.add_argument(f32_type(axes)).expect("argument"));
    let [h, x, w] = ports;
    let product = step.graph.add(Map(Mul), &[h, w]).expect("mul");
    let sum = step.graph.add(Map(Add), &[product, x]).expect("add");
    let next = step.graph.add(Map(Tanh), &[sum]).expect("tanh");
    let square = step.graph.add(Map(Mul), &[next, next]).expect("mul");
    step.results = vec![next, square];
    let step = program.add_region(step);
    let x = param(&mut program, "x", &[a, time]);
    let start = param(&mut program, "start", &[a]);
    let value = if nested {
        let layers = fixed("layer", 2);
        let w = param(&mut program, "w", &[layers, a]);
        let mut body = diptych_ir::Region::new("layers");
        let x_in = body.add_argument(f32_type(&[a, time])).expect("argument");
        let w_in = body.add_argument(f32_type(&[a])).expect("argument");
        let start_in = body.add_argument(f32_type(&[a])).expect("argument");
        let body = program.add_region(body);
        let outputs = program.add_scan(body, step, time, false, &[start_in], &[x_in], &[w_in]).expect("scan");
        let region = program.region_mut(body);
        let last = region.graph.add(Map(Mul), &[outputs[0], outputs[1]]).expect("mul");
        region.results = vec![last];
        program.add_repeat(Program::MAIN, body, layers, false, &[x], &[w], &[start]).expect("repeat")[0]
    } else {
        let w = param(&mut program, "w", &[a]);
        let scan = program.add_scan(Program::MAIN, step, time, true, &[start], &[x], &[w]);
        let outputs = scan.expect("scan");
        program.main_mut().graph.add(Map(Mul), &[outputs[0], outputs[1]]).expect("mul")
    };
    weighted_loss(&mut program, value, &[a, time]);
    program
}

#[test]
fn a_recurrence_alone_and_within_layers() {
    for nested in [false, true] {
        let program = recurrent(nested);
        let context = random_context(&program, &[("time", 3)], 5, -1.0, 1.0);
        let differentiated = differentiate(&program).expect("differentiate");
        let train = differentiated.entry(EntryKind::Train).expect("train");
        assert_eq!(train.updates.len(), 3);
        check_gradients(&program, &differentiated, &context);
        let simplified = crate::simplify(&differentiated).expect("simplify");
        check_gradients(&program, &simplified, &context);
    }
}

/// A small mixture of experts whose layers add a loss.
fn routed(change: serde_json::Value) -> Program {
    let mut config = serde_json::json!({
        "vocab": 7, "context": 8, "layers": 2, "embed": 4, "heads": 2, "experts": 4, "chosen": 2,
        "expert_hidden": 3, "standard_deviation": 0.5, "balance_loss": 0.3,
    });
    config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    let architecture = diptych_models::Registry::zoo().architecture("moe", &config).unwrap();
    diptych_models::build(&*architecture).unwrap()
}

#[test]
fn what_layers_add_to_the_loss_has_its_gradients() {
    let sigmoid = serde_json::json!({
        "scores": "sigmoid", "layers": 3, "dense_layers": 1, "hidden": 5, "shared_hidden": 2, "groups": 2,
        "selection_bias": true, "bias_rate": 0.0,
    });
    for change in [serde_json::json!({}), sigmoid] {
        let program = routed(change);
        let mut context = random_context(&program, &[("batch", 2), ("time", 4), ("past", 4)], 11, -1.0, 1.0);
        let mut numbers = Numbers(5);
        for (name, most) in [("tokens", 7.0), ("targets", 7.0)] {
            let axes: [(Symbol, usize); 2] = [("batch".into(), 2), ("time".into(), 4)];
            let ids = (0..8).map(|_| (numbers.next() * most).floor()).collect();
            context.inputs.insert(name.into(), Value::new(&axes, ids).unwrap());
        }
        context.inputs.insert("inverse_tokens".into(), Value::scalar(0.125));
        let differentiated = differentiate(&program).expect("differentiate");
        check_gradients(&program, &differentiated, &context);
        let rows = run_entry(&program, EntryKind::Train, &context);
        let of =
            |name: &str| rows.iter().find(|row| row.0 == name).expect("a root").1.data.iter().sum::<f64>();
        // Of two layers, each 1 where the load is even.
        assert!(of("auxiliary_loss") > 0.6 && of("auxiliary_loss") < 1.2, "{}", of("auxiliary_loss"));
        assert!((of("loss") - of("auxiliary_loss") + of("log_prob") * 0.125).abs() < 1e-12);
    }
}
