//! What a run must compute: the f64 evaluator on random parameters and texts, with every value that some kernel writes,
//! also those within layers. It knows of no device.

use super::places::Bound;
use diptych_codegen::entry::CompiledEntry;
use diptych_codegen::lower::Source;
use diptych_ir::evaluate::{Context, Index, Value, evaluate_watched};
use diptych_ir::{DType, EntryKind, NodeId, Op, Program, RegionId, Symbol, TensorType};
use diptych_passes::normalize::{normalize, sum_heads_apart};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

/// xorshift64*: spread, not quality.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From -1 to 1.
    pub fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn below(&mut self, count: usize) -> f64 {
        ((self.next() >> 33) as usize % count) as f64
    }
}

/// A node's value in the graph: its region, in which layer, and the node.
pub type Key = (RegionId, Option<usize>, NodeId);

/// Sequences that were evaluated together.
pub struct Trace {
    pub sequences: Range<usize>,
    /// What the run is given.
    pub inputs: BTreeMap<Symbol, Value>,
    values: HashMap<Key, Value>,
}

/// What a run is given, and what it must compute.
pub struct Reference {
    /// Parameters and states.
    pub stored: BTreeMap<Symbol, Value>,
    pub traces: Vec<Trace>,
    /// Roots and updates of the entry.
    pub results: Vec<(Symbol, NodeId)>,
    /// Whether it knows what must be computed, or only what is given.
    pub is_evaluated: bool,
}

/// Whether a parameter makes queries: in the zoo, their names tell.
fn is_query(name: Symbol) -> bool {
    name.as_str().rsplit('.').next().is_some_and(|last| last == "q" || last.starts_with("q_"))
}

/// Random numbers for all parameters and states, as wide as their types are.
fn stored(program: &Program, random: &mut Random, of_queries: f32) -> BTreeMap<Symbol, Value> {
    let params = program.params.iter().map(|(&name, info)| (name, &info.ty));
    let states = program.states.iter().map(|(&name, ty)| (name, ty));
    let value = |(name, ty): (Symbol, &TensorType)| {
        let is_state = program.states.contains_key(&name);
        let axes = ty.axes.iter().map(|axis| (axis.name, axis.fixed_size().expect("a fixed size"))).collect();
        let value = Value::build(axes, |_| {
            let number = match is_state {
                // Squares and their sums are not negative.
                true if name.as_str().starts_with("variance") => random.float().abs() * 0.01,
                true => random.float() * 0.01,
                false if is_query(name) => random.float() * of_queries,
                false => random.float() * 0.3,
            };
            f64::from(ty.dtype.round(number))
        });
        (name, value)
    };
    params.chain(states).map(value).collect()
}

impl Reference {
    /// Evaluates an entry of a program, which was compiled for several devices: sequences whose rows are summed
    /// together, others each alone.
    pub fn of(program: &Program, entries: &[&CompiledEntry], bound: &Bound) -> Reference {
        Reference::new(program, entries, bound, true, 0.3)
    }

    /// The same with scores of attention that differ by so much that it shows by which maximum they are scaled.
    pub fn of_sharp_scores(program: &Program, entries: &[&CompiledEntry], bound: &Bound) -> Reference {
        Reference::new(program, entries, bound, true, 10.0)
    }

    /// Only what a run is given.
    pub fn unevaluated(program: &Program, entries: &[&CompiledEntry], bound: &Bound) -> Reference {
        Reference::new(program, entries, bound, false, 0.3)
    }

    fn new(
        program: &Program,
        entries: &[&CompiledEntry],
        bound: &Bound,
        is_evaluated: bool,
        of_queries: f32,
    ) -> Reference {
        let kind = entries[0].kind;
        let mut random = Random(42);
        let stored = stored(program, &mut random, of_queries);
        let mut program = program.clone();
        program.entries.retain(|entry| entry.kind == kind);
        let program = sum_heads_apart(&normalize(&program, kind.cached()).unwrap()).unwrap();
        let entry_of_graph = program.entry(kind).unwrap();
        let results: Vec<(Symbol, NodeId)> =
            entry_of_graph.roots.iter().chain(&entry_of_graph.updates).copied().collect();
        let wanted: HashSet<(RegionId, NodeId)> = entries
            .iter()
            .flat_map(|entry| entry.all_launches())
            .flat_map(|launch| launch.sources.iter().map(move |source| (launch.region, source)))
            .filter_map(|(region, source)| match source {
                Source::Value(node) | Source::Cache(node) => Some((region, *node)),
                _ => None,
            })
            .chain(results.iter().map(|result| (Program::MAIN, result.1)))
            .collect();
        let all = bound.sequences.len();
        // What sums over rows is evaluated for all at once.
        let groups: Vec<Range<usize>> = match kind {
            EntryKind::Score | EntryKind::Prefill | EntryKind::Decode => {
                (0..all).map(|at| at..at + 1).collect()
            }
            _ => std::iter::once(0..all).collect(),
        };
        let trace = |sequences: Range<usize>| {
            let (inputs, context) = given(&program, &stored, bound, sequences.clone(), &mut random);
            let nodes: Vec<NodeId> = results.iter().map(|result| result.1).collect();
            let mut values = HashMap::new();
            if !is_evaluated {
                return Trace { sequences, inputs, values };
            }
            evaluate_watched(&program, &nodes, &context, &mut |watched, value| {
                if wanted.contains(&(watched.region, watched.node)) {
                    let layer = watched.positions.first().copied();
                    values.insert((watched.region, layer, watched.node), value.clone());
                }
            })
            .unwrap();
            Trace { sequences, inputs, values }
        };
        let traces = groups.into_iter().map(trace).collect();
        Reference { stored, traces, results, is_evaluated }
    }
}

impl Trace {
    /// What a node's value must be, if it is a value of this entry.
    pub fn value(&self, key: Key) -> Option<&Value> {
        self.values.get(&key)
    }
}

/// The inputs of some sequences, as a run has them, and all that an evaluation is given.
fn given(
    program: &Program,
    stored: &BTreeMap<Symbol, Value>,
    bound: &Bound,
    sequences: Range<usize>,
    random: &mut Random,
) -> (BTreeMap<Symbol, Value>, Context) {
    let of_trace = &bound.sequences[sequences];
    let longest = of_trace.iter().map(|&(origin, length)| origin + length).max().unwrap_or(1);
    let mut context = Context { params: stored.clone(), ..Context::default() };
    context.sizes.extend(["time", "past"].map(|name| (name.into(), longest)));
    context.sizes.insert("batch".into(), of_trace.len());
    let mut inputs = BTreeMap::new();
    let graph = &program.main().graph;
    for id in graph.topological_order() {
        let Op::Input(input) = graph.op(id) else { continue };
        let sequence = |index: &Index| of_trace[index.get("batch".into())];
        let value = |of: &mut dyn FnMut(&Index) -> f64| {
            Value::build(context.shape(&input.ty.axes).unwrap(), |index| of(index))
        };
        let found = match input.name.as_str() {
            "tokens" => value(&mut |_| random.below(bound.vocab)),
            // What stands after the end of a text is not asked for.
            "targets" => value(&mut |index| {
                let (origin, length) = sequence(index);
                let is_there = index.get("time".into()) < origin + length;
                if is_there { random.below(bound.vocab + 1) - 1.0 } else { -1.0 }
            }),
            "inverse_tokens" => value(&mut |_| f64::from(1.0_f32 / 64.0)),
            "learning_rate" => value(&mut |_| f64::from(0.1_f32)),
            "bias_correction_mean" => value(&mut |_| f64::from(0.19_f32)),
            "bias_correction_variance" => value(&mut |_| f64::from(0.02_f32)),
            // A run counts from the first new token.
            "last" => value(&mut |index| random.below(sequence(index).1)),
            other => panic!("the zoo has no input `{other}`"),
        };
        assert!(matches!(input.ty.dtype, DType::F32 | DType::I32));
        let mut absolute = found.clone();
        if input.name.as_str() == "last" {
            absolute = Value::build(found.axes.clone(), |index| found.at(index) + sequence(index).0 as f64);
        }
        inputs.insert(input.name, found);
        context.inputs.insert(input.name, absolute);
    }
    (inputs, context)
}
