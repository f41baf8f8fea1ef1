//! What the optimiser finds unaided, and where the cost says no.

mod merges;

use super::{AlgebraReport, Binding, Objective, RULES, optimize_forward};
use diptych_ir::evaluate::{Context, Value, evaluate};
use diptych_ir::ops::{Contract, Input, Literal, Map, Reduce};
use diptych_ir::{
    Axes, Axis, Bounds, DType, Entry, EntryKind, NodeId, Op, Program, ReduceKind, ScalarFn, Symbol,
    TensorType,
};

pub(super) fn axis(name: &str, size: usize) -> Axis {
    match name {
        "batch" | "time" | "past" => Axis::symbolic(name),
        _ => Axis::fixed(name, size),
    }
}

pub(super) fn input(program: &mut Program, name: &str, axes: &[Axis]) -> NodeId {
    let ty = TensorType::new(DType::F32, Axes::new(axes.iter().copied()).unwrap());
    program.main_mut().graph.add(Input { name: name.into(), ty }, &[]).unwrap()
}

pub(super) fn finish(mut program: Program, root: NodeId) -> Program {
    for name in ["batch", "time", "past"] {
        program.bounds.insert(name.into(), Bounds { least: 1, most: 4096 });
    }
    program.main_mut().results = vec![root];
    for kind in [EntryKind::Train, EntryKind::Score, EntryKind::Prefill, EntryKind::Decode] {
        program.entries.push(Entry { kind, roots: vec![(Symbol::new("out"), root)], updates: Vec::new() });
    }
    program
}

/// Attention over one key-value head: softmax((q k) * scale) v, divided before the weighted sum.
fn attention(dim: usize, scale: f64) -> Program {
    let mut program = Program::new("attention");
    let (batch, time, past, d) = (axis("batch", 0), axis("time", 0), axis("past", 0), axis("head_dim", dim));
    let q = input(&mut program, "q", &[batch, time, d]);
    let k = input(&mut program, "k", &[batch, past, d]);
    let v = input(&mut program, "v", &[batch, past, d]);
    let graph = &mut program.main_mut().graph;
    let scores = graph.add(Contract { over: vec![d] }, &[q, k]).unwrap();
    let factor = graph.add(Literal::scalar(DType::F32, scale), &[]).unwrap();
    let scaled = graph.add(Map(ScalarFn::Mul), &[scores, factor]).unwrap();
    let largest = graph.add(Reduce { kind: ReduceKind::Max, over: vec![past] }, &[scaled]).unwrap();
    let shifted = graph.add(Map(ScalarFn::Sub), &[scaled, largest]).unwrap();
    let weight = graph.add(Map(ScalarFn::Exp), &[shifted]).unwrap();
    let sum = graph.add(Reduce { kind: ReduceKind::Sum, over: vec![past] }, &[weight]).unwrap();
    let p = graph.add(Map(ScalarFn::Div), &[weight, sum]).unwrap();
    let out = graph.add(Contract { over: vec![past] }, &[p, v]).unwrap();
    graph.annotate(out, None, Some("attention".into()));
    finish(program, out)
}

pub(super) fn objective(bindings: Vec<Binding>) -> Objective {
    Objective { bindings, ..Objective::typical(1e11, 1e10, 1.0, 1.0) }
}

fn training(past: usize) -> Objective {
    objective(vec![Binding::new(EntryKind::Train, 2, past, past, 1e6)])
}

pub(super) fn optimized(program: &Program, objective: &Objective) -> (Program, AlgebraReport) {
    let (optimized, report) = optimize_forward(program, objective).unwrap();
    for cost in report.regions.iter().flat_map(|region| &region.costs) {
        assert!(cost.after.is_finite() && cost.before.is_finite());
    }
    (optimized, report)
}

pub(super) fn close(left: &Value, right: &Value, tolerance: f64) {
    assert_eq!(left.axes, right.axes);
    let scale = left.data.iter().fold(1e-30_f64, |most, x| most.max(x.abs()));
    for (a, b) in left.data.iter().zip(&right.data) {
        assert!((a - b).abs() <= tolerance * scale, "{a} and {b}");
    }
}

pub(super) fn root(program: &Program) -> NodeId {
    program.main().results[0]
}

/// The context of a program: sizes of 2 and 3, inputs and parameters from a counter.
pub(super) fn context(program: &Program) -> Context {
    let mut context = Context::default();
    for (name, size) in [("batch", 2), ("time", 3), ("past", 3)] {
        context.sizes.insert(name.into(), size);
    }
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0
    };
    for id in program.main().graph.topological_order() {
        let shape = context.shape(program.main().graph.axes(id)).unwrap();
        match program.main().graph.op(id) {
            Op::Input(input) => {
                context.inputs.insert(input.name, Value::build(shape, |_| random()));
            }
            Op::Param(param) => {
                context.params.insert(param.name, Value::build(shape, |_| random()));
            }
            _ => {}
        }
    }
    context
}

pub(super) fn same_value(before: &Program, after: &Program) {
    let context = context(before);
    let left = evaluate(before, &[root(before)], &context).unwrap();
    let right = evaluate(after, &[root(after)], &context).unwrap();
    close(&left[0], &right[0], 1e-9);
}

fn op_of_root(program: &Program) -> &Op {
    program.main().graph.op(root(program))
}

#[test]
fn every_rule_is_well_formed() {
    super::rules::compile(RULES).unwrap();
    let mut names: Vec<&str> = RULES.iter().map(|rule| rule.name).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn softmax_is_divided_after_the_weighted_sum_when_the_context_is_longer_than_a_head() {
    let before = attention(64, 0.125);
    let (after, report) = optimized(&before, &training(1024));
    assert_eq!(*op_of_root(&after), Op::Map(Map(ScalarFn::Div)), "{report}");
    assert!(report.regions[0].costs[0].after < report.regions[0].costs[0].before);
    same_value(&before, &after);
}

#[test]
fn softmax_is_divided_before_the_weighted_sum_when_the_head_is_longer_than_the_context() {
    let before = attention(64, 0.125);
    let (after, report) = optimized(&before, &training(8));
    assert!(matches!(op_of_root(&after), Op::Contract(_)), "{report}");
    assert!(report.regions[0].changes.is_empty(), "{report}");
    same_value(&before, &after);
}

/// x·W for an input x of `batch`, `time` and `embed`, with a weight for each
/// element of x before, and a parameter added to W.
pub(super) fn normed(embed: usize, out: usize) -> (Program, NodeId, NodeId) {
    let mut program = Program::new("normed");
    let (batch, time, e, o) = (axis("batch", 0), axis("time", 0), axis("embed", embed), axis("out", out));
    let x = input(&mut program, "x", &[batch, time, e]);
    let w = crate::test_support::param(&mut program, "norm", &[e]);
    let matrix = crate::test_support::param(&mut program, "matrix", &[e, o]);
    let graph = &mut program.main_mut().graph;
    let h = graph.add(Map(ScalarFn::Mul), &[x, w]).unwrap();
    let y = graph.add(Contract { over: vec![e] }, &[h, matrix]).unwrap();
    graph.annotate(y, None, Some("projection".into()));
    (program, x, y)
}

/// Whether something is computed from parameters alone.
pub(super) fn derives_weights(program: &Program) -> bool {
    let graph = &program.main().graph;
    graph.topological_order().into_iter().any(|id| {
        let operands = graph.operands(id);
        !operands.is_empty() && operands.iter().all(|&operand| matches!(graph.op(operand), Op::Param(_)))
    })
}

#[test]
fn a_norm_weight_is_folded_into_the_projection_when_serving_and_not_when_training_on_few_tokens() {
    let (program, _, root) = normed(64, 256);
    let before = finish(program, root);
    let serving = objective(vec![Binding::new(EntryKind::Prefill, 1, 256, 256, 1e6)]);
    let (after, report) = optimized(&before, &serving);
    assert!(derives_weights(&after), "{report}");
    assert_eq!(report.regions[0].changes[0].label, Some("projection".into()));
    same_value(&before, &after);
    let training = objective(vec![Binding::new(EntryKind::Train, 1, 16, 16, 1e6)]);
    let (after, report) = optimized(&before, &training);
    assert!(!derives_weights(&after) && report.regions[0].changes.is_empty(), "{report}");
    // A runtime that computes everything in each run has nothing to gain when decoding either.
    let mut decoding = objective(vec![Binding::new(EntryKind::Decode, 1, 1, 256, 1e6)]);
    decoding.derived_at_load = false;
    assert!(!derives_weights(&optimized(&before, &decoding).0));
}

#[test]
fn the_joint_choice_follows_the_ratio_of_tokens() {
    let (program, _, root) = normed(64, 256);
    let before = finish(program, root);
    let folds = |trained: f64, served: f64| {
        let bindings = vec![
            Binding::new(EntryKind::Train, 1, 16, 16, trained),
            Binding::new(EntryKind::Prefill, 1, 256, 256, served),
        ];
        derives_weights(&optimized(&before, &objective(bindings)).0)
    };
    let sweep: Vec<bool> = (-3..=6).map(|power| folds(1e6, 1e6 * 10f64.powi(power))).collect();
    assert!(!sweep[0] && sweep[sweep.len() - 1], "{sweep:?}");
    assert!(sweep.windows(2).all(|pair| pair[0] <= pair[1]), "{sweep:?}");
}

#[test]
fn the_scale_of_scores_moves_to_the_queries_unless_there_are_more_of_them() {
    let scaled_queries = |program: &Program| {
        let graph = &program.main().graph;
        graph.topological_order().into_iter().any(|id| {
            matches!(graph.op(id), Op::Map(Map(ScalarFn::Mul)))
                && graph.operands(id).iter().any(|&x| matches!(graph.op(x), Op::Input(_)))
        })
    };
    let before = attention(64, 0.125);
    assert!(scaled_queries(&optimized(&before, &training(1024)).0));
    assert!(!scaled_queries(&optimized(&before, &training(8)).0));
}

#[test]
fn weights_of_two_projections_of_one_value_are_added_where_that_is_free() {
    let (mut program, x, y) = normed(64, 64);
    let (e, o) = (axis("embed", 64), axis("out", 64));
    let other = crate::test_support::param(&mut program, "other", &[e, o]);
    let graph = &mut program.main_mut().graph;
    let z = graph.add(Contract { over: vec![e] }, &[x, other]).unwrap();
    let root = graph.add(Map(ScalarFn::Add), &[y, z]).unwrap();
    let before = finish(program, root);
    let products = |program: &Program| {
        let graph = &program.main().graph;
        graph.ids().into_iter().filter(|&id| matches!(graph.op(id), Op::Contract(_))).count()
    };
    let (after, report) = optimized(&before, &training(1024));
    assert_eq!(products(&after), 1, "{report}");
    same_value(&before, &after);
    let few = objective(vec![Binding::new(EntryKind::Train, 1, 1, 1, 1e6)]);
    assert_eq!(products(&optimized(&before, &few).0), 2);
}

#[test]
fn a_chain_of_three_is_contracted_in_the_cheaper_order() {
    let chain = |inner: usize| {
        let mut program = Program::new("low rank");
        let (batch, time) = (axis("batch", 0), axis("time", 0));
        let (e, r, o) = (axis("embed", 64), axis("rank", inner), axis("out", 64));
        let x = input(&mut program, "x", &[batch, time, e]);
        let a = crate::test_support::param(&mut program, "a", &[e, r]);
        let b = crate::test_support::param(&mut program, "b", &[r, o]);
        let graph = &mut program.main_mut().graph;
        let product = graph.add(Contract { over: vec![e, r] }, &[x, a, b]).unwrap();
        finish(program, product)
    };
    for (rank, folded) in [(4, false), (512, true)] {
        let before = chain(rank);
        let (after, report) = optimized(&before, &training(1024));
        assert_eq!(derives_weights(&after), folded, "rank {rank}: {report}");
        let graph = &after.main().graph;
        let binary = |id: NodeId| !matches!(graph.op(id), Op::Contract(_)) || graph.operands(id).len() == 2;
        assert!(graph.ids().into_iter().all(binary));
        same_value(&before, &after);
    }
}

#[test]
fn equal_values_become_one_and_constants_are_computed() {
    let mut program = Program::new("twice");
    let x = input(&mut program, "x", &[axis("batch", 0), axis("time", 0)]);
    let graph = &mut program.main_mut().graph;
    let mut scaled = || {
        let [two, three] =
            [2.0, 3.0].map(|value| graph.add(Literal::scalar(DType::F32, value), &[]).unwrap());
        let once = graph.add(Map(ScalarFn::Mul), &[x, two]).unwrap();
        let twice = graph.add(Map(ScalarFn::Mul), &[three, once]).unwrap();
        graph.add(Map(ScalarFn::Exp), &[twice]).unwrap()
    };
    let (left, right) = (scaled(), scaled());
    let root = graph.add(Map(ScalarFn::Add), &[left, right]).unwrap();
    let before = finish(program, root);
    let (after, report) = optimized(&before, &training(64));
    let graph = &after.main().graph;
    // x, 6, x·6, its exponential, the sum.
    assert_eq!(graph.len(), 5, "{report}");
    let six = |id: &NodeId| matches!(graph.op(*id), Op::Literal(six) if six.as_scalar() == Some(6.0));
    assert!(graph.ids().iter().any(six), "{report}");
    same_value(&before, &after);
}
