//! What a random program must compute: texts of random tokens, and the f64
//! evaluator on each sequence alone. It knows nothing of native code.

use super::numbers::Numbers;
use super::programs::TOKENS;
use diptych_ir::evaluate::{Context, Value, evaluate};
use diptych_ir::{Axis, EntryKind, Initializer, NodeId, Op, Program, RegionId, Size, Symbol};
use std::collections::BTreeMap;

/// What the gradients are scaled by, as one over the number of predictions.
pub const INVERSE_TOKENS: f64 = 1.0 / 64.0;
/// Lengths around chunks, vectors and blocks.
const LENGTHS: [usize; 18] = [1, 2, 3, 5, 12, 16, 17, 31, 47, 63, 64, 65, 97, 127, 128, 129, 145, 150];

/// A sequence with what a model is given of it.
#[derive(Clone, Debug)]
pub struct Text {
    /// Positions.
    pub length: usize,
    /// Inputs by name: a row for each position.
    pub inputs: BTreeMap<Symbol, Value>,
}

/// A parameter's numbers, in the user's order.
pub fn parameters(program: &Program, seed: u64) -> BTreeMap<Symbol, Vec<f64>> {
    let mut numbers = Numbers::new(seed, 2);
    let draw = |(&name, info): (&Symbol, &diptych_ir::ParamInfo)| {
        let count = info.order.iter().filter_map(|axis| axis.fixed_size()).product();
        let mut number = || match info.initializer {
            Initializer::Uniform { bound } => f64::from((bound * numbers.signed()) as f32),
            Initializer::Normal { standard_deviation } => {
                f64::from((standard_deviation * numbers.signed()) as f32)
            }
            Initializer::Between { least, most } => {
                f64::from((least + (most - least) * (0.5 + 0.5 * numbers.signed())) as f32)
            }
            Initializer::Constant(value) => f64::from((value + 0.25 * numbers.signed()) as f32),
        };
        (name, (0..count).map(|_| number()).collect())
    };
    program.params.iter().map(draw).collect()
}

/// Texts whose evaluation takes at most about `budget` steps together; at least one.
pub fn texts(program: &Program, kind: EntryKind, seed: u64, budget: f64) -> Vec<Text> {
    let mut numbers = Numbers::new(seed, 3);
    let mut left = budget;
    let mut texts = Vec::new();
    for _ in 0..5 {
        let mut length = numbers.pick(&LENGTHS);
        while length > 1 && steps(program, kind, length) > left {
            length = LENGTHS.iter().copied().filter(|&other| other < length).max().unwrap_or(1);
        }
        let taken = steps(program, kind, length);
        if taken > left && !texts.is_empty() {
            break;
        }
        left -= taken;
        texts.push(text(program, length, &mut numbers));
    }
    texts
}

fn text(program: &Program, length: usize, numbers: &mut Numbers) -> Text {
    let mut inputs = BTreeMap::new();
    let graph = &program.main().graph;
    for id in graph.topological_order() {
        let Op::Input(input) = graph.op(id) else { continue };
        let axes: Vec<(Symbol, usize)> =
            input.ty.axes.iter().map(|&axis| (axis.name, size(axis, length))).collect();
        let value = Value::build(axes, |_| match input.name.as_str() {
            "tokens" => numbers.below(TOKENS) as f64,
            "targets" => numbers.below(TOKENS + 1) as f64 - 1.0,
            "inverse_tokens" => INVERSE_TOKENS,
            "last" => (length - 1) as f64,
            _ => numbers.signed(),
        });
        inputs.insert(input.name, value);
    }
    Text { length, inputs }
}

fn size(axis: Axis, length: usize) -> usize {
    match axis.size {
        Size::Fixed(size) => size,
        Size::Symbolic(name) if name.as_str() == "batch" => 1,
        Size::Symbolic(_) => length,
    }
}

/// Multiplications and the like of an entry on one sequence of this length.
fn steps(program: &Program, kind: EntryKind, length: usize) -> f64 {
    let roots = roots(program, kind).into_iter().map(|root| root.1).collect::<Vec<_>>();
    region_steps(program, Program::MAIN, &roots, length)
}

fn region_steps(program: &Program, region: RegionId, roots: &[NodeId], length: usize) -> f64 {
    let graph = &program.region(region).graph;
    let all = |axes: &[Axis]| axes.iter().map(|&axis| size(axis, length) as f64).product::<f64>();
    let node = |id: NodeId| match graph.op(id) {
        Op::Repeat(repeat) => {
            let results = &program.region(repeat.body).results;
            size(repeat.layers, length) as f64 * region_steps(program, repeat.body, results, length)
        }
        Op::Scan(scan) => {
            let results = &program.region(scan.body).results;
            size(scan.over, length) as f64 * region_steps(program, scan.body, results, length)
        }
        Op::Contract(contract) => all(graph.axes(id)) * all(&contract.over) * 2.0,
        Op::Reduce(reduce) => all(graph.axes(id)) * all(&reduce.over),
        _ => all(graph.axes(id)),
    };
    graph.ancestors(roots).into_iter().map(node).sum()
}

/// Roots and updates of an entry, by name.
pub fn roots(program: &Program, kind: EntryKind) -> Vec<(Symbol, NodeId)> {
    let entry = program.entry(kind).expect("an entry");
    entry.roots.iter().chain(&entry.updates).copied().collect()
}

/// What the evaluator gets for an entry's roots and updates on one sequence.
pub fn values(
    program: &Program,
    kind: EntryKind,
    parameters: &BTreeMap<Symbol, Vec<f64>>,
    text: &Text,
) -> BTreeMap<Symbol, Value> {
    let mut context = Context { inputs: text.inputs.clone(), ..Context::default() };
    for name in ["time", "past"] {
        context.sizes.insert(name.into(), text.length);
    }
    context.sizes.insert("batch".into(), 1);
    for (&name, numbers) in parameters {
        let order = &program.params[&name].order;
        let axes: Vec<_> = order.iter().map(|axis| (axis.name, axis.fixed_size().expect("fixed"))).collect();
        context.params.insert(name, Value::new(&axes, numbers.clone()).expect("a parameter"));
    }
    let roots = roots(program, kind);
    let nodes: Vec<NodeId> = roots.iter().map(|root| root.1).collect();
    let values =
        evaluate(program, &nodes, &context).unwrap_or_else(|error| panic!("{}: {error}", program.name));
    roots.into_iter().map(|root| root.0).zip(values).collect()
}
