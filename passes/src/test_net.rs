//! A small net that has most of what language models have, for tests of passes.

use crate::test_support::*;
use diptych_ir::ops::*;
use diptych_ir::{Axis, DType, EntryKind, NodeId, Op, Program, RegionId, ScalarFn};

fn fixed(name: &str, size: usize) -> Axis {
    Axis::fixed(name, size)
}

/// A stack of blocks with attention over all positions so far, rotary halves,
/// a norm and a gated MLP; embeddings tied to the head.
pub struct Net {
    pub batch: Axis,
    pub time: Axis,
    pub past: Axis,
    pub embed: Axis,
    pub head: Axis,
    pub head_dim: Axis,
    pub hidden: Axis,
    pub vocabulary: Axis,
}

impl Net {
    pub fn new() -> Net {
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
        let history = |room| History { time: self.time, past: self.past, window: None, room };
        let (k, v) = (add(history(0).into(), &[k]), add(history(1).into(), &[v]));
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

    pub fn program(&self, layers: usize, low_precision: bool) -> Program {
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

    pub fn context(&self, program: &Program) -> diptych_ir::evaluate::Context {
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
