//! Each rule on a graph that it fits, with values that tell -0 from 0, and whole programs.

use super::{rules, simplify_noting};
use crate::test_net::Net;
use crate::test_support::*;
use crate::{differentiate, simplify};
use diptych_ir::evaluate::{Context, Value};
use diptych_ir::ops::*;
use diptych_ir::{Axis, DType, Entry, EntryKind, NodeId, Op, Program, ScalarFn};
use std::collections::BTreeSet;

fn fixed(name: &str, size: usize) -> Axis {
    Axis::fixed(name, size)
}

/// Adds a node to the main region.
fn add(program: &mut Program, op: impl Into<Op>, operands: &[NodeId]) -> NodeId {
    program.main_mut().graph.add(op, operands).expect("op")
}

fn scalar(program: &mut Program, value: f64) -> NodeId {
    add(program, Literal::scalar(DType::F32, value), &[])
}

fn ones(program: &mut Program, axis: Axis) -> NodeId {
    let size = axis.fixed_size().expect("a fixed size");
    add(program, Literal::table(DType::F32, axis, &vec![1.0; size]).expect("table"), &[])
}

/// What a graph of one root is made of, operands in parentheses.
fn shape(program: &Program, id: NodeId) -> String {
    let graph = &program.main().graph;
    let operands: Vec<String> = graph.operands(id).iter().map(|&operand| shape(program, operand)).collect();
    match graph.op(id) {
        Op::Input(input) => input.name.to_string(),
        Op::Literal(literal) => format!("{:?}", literal.values()),
        op if operands.is_empty() => op.name().to_owned(),
        op => format!("{}({})", op.name(), operands.join(", ")),
    }
}

type Build = fn(&mut Program, NodeId, NodeId) -> NodeId;

/// The rule, the graph from x[a=4, b=2] and y[a=4, b=2], and what it must become.
const CASES: &[(&str, Build, &str)] = &[
    (
        "add nothing",
        |p, x, _| {
            let z = scalar(p, -0.0);
            add(p, Map(ScalarFn::Add), &[x, z])
        },
        "x",
    ),
    (
        "add nothing",
        |p, x, _| {
            let z = scalar(p, 0.0);
            add(p, Map(ScalarFn::Sub), &[x, z])
        },
        "x",
    ),
    (
        "",
        |p, x, _| {
            let z = scalar(p, 0.0);
            add(p, Map(ScalarFn::Add), &[x, z])
        },
        "add(x, [0.0])",
    ),
    (
        "",
        |p, x, _| {
            let z = scalar(p, 0.0);
            add(p, Map(ScalarFn::Sub), &[z, x])
        },
        "sub([0.0], x)",
    ),
    (
        "multiply by one",
        |p, x, _| {
            let o = scalar(p, 1.0);
            add(p, Map(ScalarFn::Mul), &[o, x])
        },
        "x",
    ),
    (
        "multiply by one",
        |p, x, _| {
            let o = ones(p, fixed("a", 4));
            add(p, Map(ScalarFn::Mul), &[x, o])
        },
        "x",
    ),
    (
        "",
        |p, x, _| {
            let o = ones(p, fixed("c", 2));
            add(p, Map(ScalarFn::Mul), &[x, o])
        },
        "mul(x, [1.0, 1.0])",
    ),
    (
        "negation",
        |p, x, _| {
            let n = add(p, Map(ScalarFn::Neg), &[x]);
            add(p, Map(ScalarFn::Neg), &[n])
        },
        "x",
    ),
    (
        "negation",
        |p, x, _| {
            let z = scalar(p, -0.0);
            add(p, Map(ScalarFn::Sub), &[z, x])
        },
        "neg(x)",
    ),
    (
        "negation",
        |p, x, _| {
            let z = scalar(p, -1.0);
            add(p, Map(ScalarFn::Mul), &[x, z])
        },
        "neg(x)",
    ),
    (
        "negation",
        |p, x, _| {
            let half = scalar(p, 0.5);
            let n = add(p, Map(ScalarFn::Neg), &[half]);
            add(p, Map(ScalarFn::Mul), &[x, n])
        },
        "mul(x, [-0.5])",
    ),
    (
        "negation of a factor",
        |p, x, y| {
            let n = add(p, Map(ScalarFn::Neg), &[y]);
            let product = add(p, Map(ScalarFn::Mul), &[x, n]);
            add(p, Map(ScalarFn::Add), &[x, product])
        },
        "sub(x, mul(x, y))",
    ),
    (
        "negation of a factor",
        |p, x, y| {
            let n = add(p, Map(ScalarFn::Neg), &[y]);
            add(p, Map(ScalarFn::Div), &[n, x])
        },
        "neg(div(y, x))",
    ),
    (
        "",
        |p, x, y| {
            let row = add(p, Reduce { kind: ReduceKind::Max, over: vec![fixed("a", 4)] }, &[y]);
            let n = add(p, Map(ScalarFn::Neg), &[row]);
            add(p, Map(ScalarFn::Mul), &[x, n])
        },
        "mul(x, neg(reduce_max(y)))",
    ),
    (
        "signs in sums",
        |p, x, y| {
            let n = add(p, Map(ScalarFn::Neg), &[y]);
            add(p, Map(ScalarFn::Add), &[x, n])
        },
        "sub(x, y)",
    ),
    (
        "signs in sums",
        |p, x, y| {
            let n = add(p, Map(ScalarFn::Neg), &[x]);
            add(p, Map(ScalarFn::Add), &[n, y])
        },
        "sub(y, x)",
    ),
    (
        "signs in sums",
        |p, x, y| {
            let n = add(p, Map(ScalarFn::Neg), &[y]);
            add(p, Map(ScalarFn::Sub), &[x, n])
        },
        "add(x, y)",
    ),
    (
        "equal operands",
        |p, x, y| {
            let c = add(p, Map(ScalarFn::Less), &[x, y]);
            add(p, Map(ScalarFn::Select), &[c, x, x])
        },
        "x",
    ),
    ("equal operands", |p, x, _| add(p, Map(ScalarFn::Max), &[x, x]), "x"),
    (
        "ones beside their axis",
        |p, x, y| {
            let part = add(p, Slice { axis: fixed("a", 4), start: 0, into: fixed("a", 1) }, &[x]);
            let row = add(p, Reduce { kind: ReduceKind::Max, over: vec![fixed("a", 1)] }, &[part]);
            let o = ones(p, fixed("a", 4));
            let row = add(p, Map(ScalarFn::Mul), &[row, o]);
            add(p, Map(ScalarFn::Sub), &[row, y])
        },
        "sub(reduce_max(slice(x)), y)",
    ),
    ("cast of cast", |p, x, _| add(p, Cast(DType::F32), &[x]), "x"),
    (
        "cast of cast",
        |p, x, _| {
            let narrow = add(p, Cast(DType::BF16), &[x]);
            let wide = add(p, Cast(DType::F32), &[narrow]);
            add(p, Cast(DType::BF16), &[wide])
        },
        "cast(x)",
    ),
    (
        "rename of rename",
        |p, x, _| {
            let there = add(p, Rename { from: fixed("a", 4), to: fixed("c", 4) }, &[x]);
            add(p, Rename { from: fixed("c", 4), to: fixed("a", 4) }, &[there])
        },
        "x",
    ),
    (
        "split and merge",
        |p, x, _| {
            let axes = vec![fixed("b", 2), fixed("a", 4)];
            let merged = add(p, Merge { axes: axes.clone(), into: fixed("ab", 8) }, &[x]);
            add(p, Split { axis: fixed("ab", 8), into: axes }, &[merged])
        },
        "x",
    ),
    (
        "split and merge",
        |p, x, _| {
            let into = vec![fixed("c", 2), fixed("d", 2)];
            let cut = add(p, Split { axis: fixed("a", 4), into: into.clone() }, &[x]);
            add(p, Merge { axes: into, into: fixed("a", 4) }, &[cut])
        },
        "x",
    ),
    ("slice", |p, x, _| add(p, Slice { axis: fixed("a", 4), start: 0, into: fixed("a", 4) }, &[x]), "x"),
    (
        "slice",
        |p, x, _| {
            let part = add(p, Slice { axis: fixed("a", 4), start: 1, into: fixed("a", 3) }, &[x]);
            add(p, Slice { axis: fixed("a", 3), start: 1, into: fixed("a", 1) }, &[part])
        },
        "slice(x)",
    ),
    (
        "slice of concat",
        |p, x, y| {
            let both = add(p, Concat { pieces: vec![fixed("a", 4); 2], into: fixed("a", 8) }, &[x, y]);
            add(p, Slice { axis: fixed("a", 8), start: 4, into: fixed("a", 4) }, &[both])
        },
        "y",
    ),
    (
        "concat of slices",
        |p, x, _| {
            let axis = fixed("a", 4);
            let low = add(p, Slice { axis, start: 0, into: fixed("a", 1) }, &[x]);
            let high = add(p, Slice { axis, start: 1, into: fixed("a", 3) }, &[x]);
            add(p, Concat { pieces: vec![fixed("a", 1), fixed("a", 3)], into: axis }, &[low, high])
        },
        "x",
    ),
    (
        "concat of concat",
        |p, x, y| {
            let both = add(p, Concat { pieces: vec![fixed("a", 4); 2], into: fixed("a", 8) }, &[x, y]);
            let pieces = vec![fixed("a", 8), fixed("a", 4)];
            add(p, Concat { pieces, into: fixed("a", 12) }, &[both, x])
        },
        "concat(x, y, x)",
    ),
    ("reduce over nothing", |p, x, _| add(p, Reduce { kind: ReduceKind::Sum, over: vec![] }, &[x]), "x"),
    ("contract of one", |p, x, _| add(p, Contract { over: vec![] }, &[x]), "x"),
    ("contract of one", |p, x, _| add(p, Contract { over: vec![fixed("a", 4)] }, &[x]), "reduce_sum(x)"),
    (
        "contract with ones",
        |p, x, y| {
            let one = scalar(p, 1.0);
            add(p, Contract { over: vec![fixed("b", 2)] }, &[x, one, y])
        },
        "contract(x, y)",
    ),
    (
        "contract with ones",
        |p, x, _| {
            let o = ones(p, fixed("a", 4));
            add(p, Contract { over: vec![fixed("a", 4)] }, &[o, x])
        },
        "reduce_sum(x)",
    ),
];

fn with_root(build: Build) -> Program {
    let mut program = Program::new("rule");
    let axes = [fixed("a", 4), fixed("b", 2)];
    let [x, y] = ["x", "y"].map(|name| input(&mut program, name, DType::F32, &axes));
    let root = build(&mut program, x, y);
    let roots = vec![("root".into(), root)];
    program.entries.push(Entry { kind: EntryKind::Score, roots, updates: Vec::new() });
    program
}

fn special_values() -> Context {
    let mut context = Context::default();
    let axes = [("a".into(), 4), ("b".into(), 2)];
    let x = vec![0.0, -0.0, 1.5, -2.0, f64::INFINITY, -0.0, 0.0, f64::NEG_INFINITY];
    let y = vec![-0.0, 0.0, 1.5, 3.0, 1.0, -0.0, 0.0, 2.0];
    context.inputs.insert("x".into(), Value::new(&axes, x).expect("x"));
    context.inputs.insert("y".into(), Value::new(&axes, y).expect("y"));
    context
}

/// The bits, with every NaN alike.
fn bits(rows: &[(String, Value)]) -> Vec<(String, Vec<u64>)> {
    let bits = |x: &f64| if x.is_nan() { f64::NAN.to_bits() } else { x.to_bits() };
    rows.iter().map(|(name, value)| (name.clone(), value.data.iter().map(bits).collect())).collect()
}

#[test]
fn every_rule_fires_and_changes_no_bit() {
    let mut seen = BTreeSet::new();
    let context = special_values();
    for (position, &(rule, build, expected)) in CASES.iter().enumerate() {
        let program = with_root(build);
        let (simplified, fired) = simplify_noting(&program).expect("simplify");
        diptych_ir::verify(&simplified).expect("well-formed");
        let root = simplified.entries[0].roots[0].1;
        assert_eq!(shape(&simplified, root), expected, "case {position}");
        assert!(rule.is_empty() || fired.contains(rule), "case {position}: fired {fired:?}, not {rule}");
        let [before, after] =
            [&program, &simplified].map(|p| bits(&run_entry(p, EntryKind::Score, &context)));
        assert_eq!(before, after, "case {position}");
        seen.insert(rule);
    }
    for rule in rules::RULES {
        assert!(seen.contains(rule.name), "no case for the rule `{}`", rule.name);
    }
}

#[test]
fn equal_nodes_become_one_and_unused_ones_go() {
    let program = with_root(|p, x, y| {
        let [one, other] = [[x, y], [y, x]].map(|operands| add(p, Map(ScalarFn::Mul), &operands));
        add(p, Map(ScalarFn::Exp), &[one]);
        add(p, Map(ScalarFn::Add), &[one, other])
    });
    let simplified = simplify(&program).expect("simplify");
    assert_eq!(simplified.main().graph.len(), 4);
}

#[test]
fn a_differentiated_net_keeps_its_bits_and_loses_nodes() {
    let net = Net::new();
    let program = differentiate(&net.program(2, false)).expect("differentiate");
    let simplified = simplify(&program).expect("simplify");
    diptych_ir::verify(&simplified).expect("well-formed");
    let context = net.context(&program);
    for kind in [EntryKind::Train, EntryKind::Score] {
        let [before, after] = [&program, &simplified].map(|p| bits(&run_entry(p, kind, &context)));
        assert_eq!(before, after);
    }
    let nodes = |program: &Program| program.regions.iter().map(|region| region.graph.len()).sum::<usize>();
    assert!(nodes(&simplified) < nodes(&program));
    let again = simplify(&simplified).expect("simplify");
    assert_eq!(nodes(&again), nodes(&simplified), "a second time changes nothing");
}

#[test]
fn ports_and_bodies_that_nobody_reads_go() {
    let net = Net::new();
    let mut program = net.program(2, false);
    let body = diptych_ir::RegionId(1);
    let region = program.region_mut(body);
    let unread = region.add_argument(f32_type(&[net.embed])).expect("argument");
    let yielded = region.graph.add(Map(ScalarFn::Exp), &[unread]).expect("exp");
    region.results.push(yielded);
    let mut operands: Vec<NodeId> = Vec::new();
    let graph = &program.main().graph;
    let old = graph.ids().into_iter().find(|&id| graph.op(id).as_loop().is_some()).expect("a repeat");
    operands.extend(graph.operands(old));
    let looped = graph.op(old).as_loop().expect("a repeat");
    let (carried, sequenced, layers) = (looped.carried, looped.sequenced, looped.over);
    let extra = param(&mut program, "unread", &[net.embed]);
    let mut invariant = operands.split_off(carried + sequenced);
    invariant.push(extra);
    let stacked = operands.split_off(carried);
    let outputs = program
        .add_repeat(Program::MAIN, body, layers, false, &operands, &stacked, &invariant)
        .expect("repeat");
    let graph = &mut program.main_mut().graph;
    let old_output = graph.users(old)[0];
    for user in graph.users(old_output) {
        let moved: Vec<NodeId> =
            graph.operands(user).iter().map(|&id| if id == old_output { outputs[0] } else { id }).collect();
        graph.set_operands(user, &moved).expect("users");
    }
    program.add_region(diptych_ir::Region::new("never run"));
    let simplified = simplify(&program).expect("simplify");
    diptych_ir::verify(&simplified).expect("well-formed");
    assert_eq!(simplified.regions.len(), 2);
    let plain = simplify(&net.program(2, false)).expect("simplify");
    let sizes = |program: &Program| program.regions.iter().map(|r| r.graph.len()).collect::<Vec<_>>();
    assert_eq!(sizes(&simplified), sizes(&plain));
    assert_eq!(loss(&simplified, &net.context(&program)), loss(&program, &net.context(&program)));
}
