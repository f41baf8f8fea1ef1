//! What the optimiser finds unaided, and where the cost says no.

use super::{AlgebraReport, Binding, Objective, RULES, optimize_forward};
use diptych_ir::evaluate::{Context, Value, evaluate};
use diptych_ir::ops::{Contract, Input, Literal, Map, Reduce};
use diptych_ir::{
    Axes, Axis, Bounds, DType, Entry, EntryKind, NodeId, Op, Program, ReduceKind, ScalarFn, Symbol,
    TensorType,
};

fn axis(name: &str, size: usize) -> Axis {
    match name {
        "batch" | "time" | "past" => Axis::symbolic(name),
        _ => Axis::fixed(name, size),
    }
}

fn input(program: &mut Program, name: &str, axes: &[Axis]) -> NodeId {
    let ty = TensorType::new(DType::F32, Axes::new(axes.iter().copied()).unwrap());
    program.main_mut().graph.add(Input { name: name.into(), ty }, &[]).unwrap()
}

fn finish(mut program: Program, root: NodeId) -> Program {
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

fn objective(bindings: Vec<Binding>) -> Objective {
    Objective { bindings, ..Objective::typical(1e11, 1e10, 1.0, 1.0) }
}

fn training(past: usize) -> Objective {
    objective(vec![Binding::new(EntryKind::Train, 2, past, past, 1e6)])
}

fn optimized(program: &Program, objective: &Objective) -> (Program, AlgebraReport) {
    let (optimized, report) = optimize_forward(program, objective).unwrap();
    for cost in report.regions.iter().flat_map(|region| &region.costs) {
        assert!(cost.after.is_finite() && cost.before.is_finite());
    }
    (optimized, report)
}

fn close(left: &Value, right: &Value, tolerance: f64) {
    assert_eq!(left.axes, right.axes);
    let scale = left.data.iter().fold(1e-30_f64, |most, x| most.max(x.abs()));
    for (a, b) in left.data.iter().zip(&right.data) {
        assert!((a - b).abs() <= tolerance * scale, "{a} and {b}");
    }
}

fn root(program: &Program) -> NodeId {
    program.main().results[0]
}

/// The context of a program: sizes of 2 and 3, inputs and parameters from a counter.
fn context(program: &Program) -> Context {
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

fn same_value(before: &Program, after: &Program) {
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
