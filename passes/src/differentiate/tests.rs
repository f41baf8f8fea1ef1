//! Gradients against central finite differences in f64, by the reference
//! evaluator: each op alone, and small nets with repeats.

use super::differentiate;
use crate::test_support::*;
use diptych_ir::ops::*;
use diptych_ir::{Axis, DType, EntryKind, NodeId, Op, Program, RegionId, ScalarFn};
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
        24 => add(History { time, past, window: None }.into(), &[x]),
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
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
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

/// A stack of blocks with attention over all positions so far, rotary halves,
/// a norm and a gated MLP; embeddings tied to the head.
struct Net {
    batch: Axis,
    time: Axis,
    past: Axis,
    embed: Axis,
    head: Axis,
    head_dim: Axis,
    hidden: Axis,
    vocabulary: Axis,
}

impl Net {
    fn new() -> Net {
        Net {
            batch: Axis::symbolic("batch"),
            time: Axis::symbolic("time"),
            past: Axis::symbolic("past"),
            embed: fixed("embed", 4),
            head: fixed("head", 2),
            head_dim: fixed("head_dim", 2),
            hidden: fixed("hidden", 3),
            vocabulary: fixed("vocabulary", 5),
        }
    }

    fn weights(&self) -> Vec<(&'static str, Vec<Axis>)> {
        vec![
            ("norm", vec![self.embed]),
            ("q", vec![self.embed, self.head, self.head_dim]),
            ("k", vec![self.embed, self.head, self.head_dim]),
            ("v", vec![self.embed, self.head, self.head_dim]),
            ("o", vec![self.head, self.head_dim, self.embed]),
            ("gate", vec![self.embed, self.hidden]),
            ("up", vec![self.embed, self.hidden]),
            ("down", vec![self.hidden, self.embed]),
            ("bias", vec![self.embed]),
        ]
    }

    /// The body of a layer. Arguments: x, the weights, a float invariant.
    fn body(&self, program: &mut Program, low_precision: bool) -> RegionId {
        use ScalarFn::*;
        let mut region = diptych_ir::Region::new("layers");
        let x = region.add_argument(f32_type(&[self.batch, self.time, self.embed])).expect("argument");
        let weights: Vec<NodeId> = (self.weights().iter())
            .map(|(_, axes)| region.add_argument(f32_type(axes)).expect("argument"))
            .collect();
        let tempering = region.add_argument(f32_type(&[self.embed])).expect("argument");
        let [norm, q, k, v, o, gate, up, down, bias] = weights[..] else { panic!("nine weights") };
        let graph = &mut region.graph;
        let mut add = |op: Op, operands: &[NodeId]| graph.add(op, operands).expect("op");
        let scalar = |value: f64| Op::from(Literal::scalar(DType::F32, value));
        let square = add(Map(Mul).into(), &[x, x]);
        let total = add(Reduce { kind: ReduceKind::Sum, over: vec![self.embed] }.into(), &[square]);
        let each = add(scalar(0.25), &[]);
        let mean = add(Map(Mul).into(), &[total, each]);
        let epsilon = add(scalar(1e-3), &[]);
        let mean = add(Map(Add).into(), &[mean, epsilon]);
        let scale = add(Map(Rsqrt).into(), &[mean]);
        let h = add(Map(Mul).into(), &[x, scale]);
        let h = add(Map(Mul).into(), &[h, norm]);
        let mut linear = |weight: NodeId, x: NodeId, over: Vec<Axis>| {
            let y = add(Contract { over }.into(), &[x, weight]);
            if low_precision { add(Cast(DType::BF16).into(), &[y]) } else { y }
        };
        let q = linear(q, h, vec![self.embed]);
        let k = linear(k, h, vec![self.embed]);
        let v = linear(v, h, vec![self.embed]);
        let mut add = |op: Op, operands: &[NodeId]| graph.add(op, operands).expect("op");
        let mut rotary = |x: NodeId| {
            let half = fixed("half", 1);
            let index = add(Index { axis: self.time, origin: Some(self.batch) }.into(), &[]);
            let angle = add(Cast(DType::F32).into(), &[index]);
            let (cos, sin) = (add(Map(Cos).into(), &[angle]), add(Map(Sin).into(), &[angle]));
            let x1 = add(Slice { axis: self.head_dim, start: 0, into: half }.into(), &[x]);
            let x2 = add(Slice { axis: self.head_dim, start: 1, into: half }.into(), &[x]);
            let [a, b] = [add(Map(Mul).into(), &[x1, cos]), add(Map(Mul).into(), &[x2, sin])];
            let first = add(Map(Sub).into(), &[a, b]);
            let [a, b] = [add(Map(Mul).into(), &[x2, cos]), add(Map(Mul).into(), &[x1, sin])];
            let second = add(Map(Add).into(), &[a, b]);
            add(Concat { pieces: vec![half, half], into: self.head_dim }.into(), &[first, second])
        };
        let (q, k) = (rotary(q), rotary(k));
        let history = History { time: self.time, past: self.past, window: None };
        let (k, v) = (add(history.into(), &[k]), add(history.into(), &[v]));
        let scores = add(Contract { over: vec![self.head_dim] }.into(), &[q, k]);
        let now = add(Index { axis: self.time, origin: Some(self.batch) }.into(), &[]);
        let then = add(Index { axis: self.past, origin: None }.into(), &[]);
        let seen = add(Map(LessEqual).into(), &[then, now]);
        let never = add(scalar(f64::NEG_INFINITY), &[]);
        let scores = add(Map(Select).into(), &[seen, scores, never]);
        let largest = add(Reduce { kind: ReduceKind::Max, over: vec![self.past] }.into(), &[scores]);
        let largest = add(Map(Detach).into(), &[largest]);
        let shifted = add(Map(Sub).into(), &[scores, largest]);
        let powers = add(Map(Exp).into(), &[shifted]);
        let sum = add(Reduce { kind: ReduceKind::Sum, over: vec![self.past] }.into(), &[powers]);
        let p = add(Map(Div).into(), &[powers, sum]);
        let mixed = add(Contract { over: vec![self.past] }.into(), &[p, v]);
        let attended = add(Contract { over: vec![self.head, self.head_dim] }.into(), &[mixed, o]);
        let x = add(Map(Add).into(), &[x, attended]);
        let x = add(Map(Mul).into(), &[x, tempering]);
        let g = add(Contract { over: vec![self.embed] }.into(), &[x, gate]);
        let s = add(Map(Sigmoid).into(), &[g]);
        let g = add(Map(Mul).into(), &[g, s]);
        let u = add(Contract { over: vec![self.embed] }.into(), &[x, up]);
        let u = add(Map(Mul).into(), &[g, u]);
        let y = add(Contract { over: vec![self.hidden] }.into(), &[u, down]);
        let y = add(Map(Add).into(), &[y, bias]);
        let y = add(Map(Add).into(), &[x, y]);
        region.results = vec![y];
        program.add_region(region)
    }

    fn program(&self, layers: usize, low_precision: bool) -> Program {
        use ScalarFn::*;
        let mut program = Program::new("net");
        let ids = input(&mut program, "ids", DType::I32, &[self.batch, self.time]);
        let targets = input(&mut program, "targets", DType::I32, &[self.batch, self.time]);
        let layers = fixed("layer", layers);
        let embedding = param(&mut program, "embedding", &[self.vocabulary, self.embed]);
        let tempering = param(&mut program, "tempering", &[self.embed]);
        let stacks: Vec<NodeId> = (self.weights().iter())
            .map(|(name, axes)| param(&mut program, name, &[&[layers][..], axes].concat()))
            .collect();
        let body = self.body(&mut program, low_precision);
        let graph = &mut program.main_mut().graph;
        let x = graph.add(Take { axis: self.vocabulary }, &[embedding, ids]).expect("take");
        let outputs = program
            .add_repeat(Program::MAIN, body, layers, false, &[x], &stacks, &[tempering])
            .expect("repeat");
        let graph = &mut program.main_mut().graph;
        let mut add = |op: Op, operands: &[NodeId]| graph.add(op, operands).expect("op");
        let logits = add(Contract { over: vec![self.embed] }.into(), &[outputs[0], embedding]);
        let largest = add(Reduce { kind: ReduceKind::Max, over: vec![self.vocabulary] }.into(), &[logits]);
        let largest = add(Map(Detach).into(), &[largest]);
        let shifted = add(Map(Sub).into(), &[logits, largest]);
        let powers = add(Map(Exp).into(), &[shifted]);
        let sum = add(Reduce { kind: ReduceKind::Sum, over: vec![self.vocabulary] }.into(), &[powers]);
        let log = add(Map(Log).into(), &[sum]);
        let all = add(Map(Add).into(), &[log, largest]);
        let one = add(Take { axis: self.vocabulary }.into(), &[logits, targets]);
        let score = add(Map(Sub).into(), &[one, all]);
        let negative = add(Map(Neg).into(), &[score]);
        let total =
            add(Reduce { kind: ReduceKind::Sum, over: vec![self.batch, self.time] }.into(), &[negative]);
        let sixth = add(Literal::scalar(DType::F32, 1.0 / 6.0).into(), &[]);
        let loss = add(Map(Mul).into(), &[total, sixth]);
        set_loss(&mut program, loss);
        program.entries.push(diptych_ir::Entry {
            kind: EntryKind::Score,
            roots: vec![("score".into(), score)],
            updates: Vec::new(),
        });
        program
    }

    fn context(&self, program: &Program) -> diptych_ir::evaluate::Context {
        let sizes = [("batch", 2), ("time", 3), ("past", 3)];
        let mut context = random_context(program, &sizes, 11, -1.0, 1.0);
        let axes = [("batch".into(), 2), ("time".into(), 3)];
        for (name, ids) in [("ids", [0., 1., 4., 2., 2., 3.]), ("targets", [1., 4., 0., 2., 3., 1.])] {
            let value = diptych_ir::evaluate::Value::new(&axes, ids.to_vec()).expect("ids");
            context.inputs.insert(name.into(), value);
        }
        context
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
