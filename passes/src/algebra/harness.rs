//! The test of every rule: random instances of its left side, on random shapes,
//! against its right side, through the reference evaluator. A rule that never
//! fires fails, and so does one that finds unequal values equal. What reads a
//! history is evaluated at the second of two calls, so it sees what the first has kept.

mod broken_moves;

use super::building::apply;
use super::language::{EGraph, Known, Shape, add, give};
use super::matching::{Budget, search};
use super::mesh::Ranks;
use super::pairs::search_pairs;
use super::pattern::{Over, Payload, Term};
use super::rules::{Class, Compiled, Condition, RULES, Rule, compile};
use super::simulated_ranks;
use crate::test_support::Numbers;
use diptych_ir::evaluate::{Context, Value};
use diptych_ir::ops::{
    AllGather, AllReduce, Cast, Concat, Contract, History, Input, Literal, Map, Merge, Param, Reduce,
    ReduceScatter, Rename, Slice, Split,
};
use diptych_ir::{Axes, Axis, DType, Graph, NodeId, Op, ReduceKind, ScalarFn, Size, Symbol, TensorType};
use egg::Id;
use std::collections::{BTreeMap, HashMap};

/// How often each rule must fire, and in how many tries.
const FIRINGS: usize = 200;
const TRIES: usize = 120_000;

struct Random(Numbers);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        // The low bits of these numbers are as good as the high ones after mixing.
        let mixed = (self.0.next() * (1u64 << 53) as f64) as u64;
        let mixed = (mixed ^ (mixed >> 23)).wrapping_mul(0x2545_f491_4f6c_dd1d);
        ((mixed >> 33) as usize) % most
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.below(from.len())])
    }

    fn subset(&mut self, from: &[Axis]) -> Vec<Axis> {
        from.iter().copied().filter(|_| self.chance(50)).collect()
    }
}

/// Scalar functions that stand for any.
const FUNCTIONS: &[ScalarFn] = {
    use ScalarFn::*;
    &[Neg, Exp, Sigmoid, Abs, Not, Detach, Add, Sub, Mul, Div, Max, LessEqual, And, Select]
};

/// What a variable of a rule stands for in an instance.
#[derive(Clone)]
enum Chosen {
    Value(NodeId),
    Values(Vec<NodeId>),
    Axes(Vec<Axis>),
    Payload(Op),
}

/// An instance of a rule's left side.
struct Instance {
    graph: Graph,
    pool: Vec<Axis>,
    /// Axes of tokens: only what is no parameter has them.
    tokens: Vec<Axis>,
    /// The axis of the simulated ranks, if the rule speaks of collectives: then the pool has it too.
    mesh: Option<Axis>,
    chosen: Vec<Option<Chosen>>,
    /// Whether the rule wants a variable to be a parameter, if it says so.
    wanted: Vec<Option<bool>>,
}

/// The positions of a call, and all so far.
fn time_and_past() -> [Axis; 2] {
    ["time", "past"].map(Axis::symbolic)
}

impl Instance {
    fn leaf(&mut self, variable: usize, random: &mut Random) -> Option<NodeId> {
        let dtype = match random.below(10) {
            0 | 1 => DType::Bool,
            2 => DType::BF16,
            _ => DType::F32,
        };
        let is_param = self.wanted[variable].unwrap_or_else(|| random.chance(60));
        let mut axes = random.subset(&self.pool);
        // On ranks, operands that are pieces of one kind have to be found together.
        if let Some(other) =
            random.pick(&self.graph.ids()).filter(|_| self.mesh.is_some() && random.chance(40))
        {
            axes = self.graph.axes(other).to_vec();
        }
        if !is_param {
            axes.extend(
                self.tokens.iter().zip([70, 15]).filter(|(_, often)| random.chance(*often)).map(|t| *t.0),
            );
        }
        let ty = TensorType::new(dtype, Axes::new(axes).ok()?);
        let name = Symbol::new(&format!("x{}", self.graph.len()));
        match is_param {
            true => self.graph.add(Param { name, ty }, &[]).ok(),
            false => self.graph.add(Input { name, ty }, &[]).ok(),
        }
    }

    fn literal(&mut self, value: f64) -> Option<NodeId> {
        self.graph.add(Literal::scalar(DType::F32, value), &[]).ok()
    }

    fn term(&mut self, term: &Term, random: &mut Random) -> Option<NodeId> {
        match term {
            Term::Class(variable) | Term::Item(variable) => match &self.chosen[*variable] {
                Some(Chosen::Value(id)) => Some(*id),
                _ => {
                    let id = self.leaf(*variable, random)?;
                    self.chosen[*variable] = Some(Chosen::Value(id));
                    Some(id)
                }
            },
            Term::Constant(variable) => {
                let value = random.pick(&[0.0, 1.0, -1.0, 0.5, -2.0, 3.0, 0.1])?;
                let id = self.literal(value)?;
                self.chosen[*variable] = Some(Chosen::Value(id));
                Some(id)
            }
            Term::Number(number) => self.literal(*number),
            Term::Node { shape, payload, operands, rests, each } => {
                let mut ids = Vec::new();
                for operand in operands {
                    ids.push(self.term(operand, random)?);
                }
                for &rest in rests {
                    if self.chosen[rest].is_none() {
                        let count = random.below(3);
                        let values =
                            (0..count).map(|_| self.leaf(rest, random)).collect::<Option<Vec<_>>>()?;
                        self.chosen[rest] = Some(Chosen::Values(values));
                    }
                    if let Some(Chosen::Values(values)) = &self.chosen[rest] {
                        ids.extend(values);
                    }
                }
                if let Some(each) = each {
                    ids.extend(self.list(each, random)?);
                }
                let op = self.op(*shape, payload, &ids, random)?;
                self.graph.add(op, &ids).ok()
            }
            _ => None,
        }
    }

    /// Operands that are all of one form.
    fn list(&mut self, each: &Term, random: &mut Random) -> Option<Vec<NodeId>> {
        let mut lists = Vec::new();
        each.lists(&mut lists);
        let list = *lists.first()?;
        let (mut items, mut built) = (Vec::new(), Vec::new());
        for _ in 0..=random.below(3) {
            self.chosen[list] = None;
            built.push(self.term(each, random)?);
            if let Some(Chosen::Value(item)) = self.chosen[list] {
                items.push(item);
            }
        }
        self.chosen[list] = Some(Chosen::Values(items));
        Some(built)
    }

    /// A concat that was chosen before.
    fn concat(&self) -> Option<&Concat> {
        self.chosen.iter().find_map(|chosen| match chosen {
            Some(Chosen::Payload(Op::Concat(concat))) => Some(concat),
            _ => None,
        })
    }

    fn op(&mut self, shape: Shape, payload: &Payload, ids: &[NodeId], random: &mut Random) -> Option<Op> {
        let mut axes = Axes::none();
        for &id in ids {
            axes = axes.union(self.graph.axes(id)).ok()?;
        }
        let over = match payload {
            Payload::Over(Over::Bound(variable)) => match &self.chosen[*variable] {
                Some(Chosen::Axes(axes)) => axes.clone(),
                _ => {
                    let over = self.graph.ordered(random.subset(&axes));
                    self.chosen[*variable] = Some(Chosen::Axes(over.clone()));
                    over
                }
            },
            _ => Vec::new(),
        };
        Some(match (shape, payload) {
            (Shape::Map(function), _) => Map(function).into(),
            (Shape::Contract, _) => Contract { over }.into(),
            (Shape::Sum, _) => Reduce { kind: ReduceKind::Sum, over }.into(),
            (Shape::Max, _) => Reduce { kind: ReduceKind::Max, over }.into(),
            (_, Payload::Bound(variable)) => {
                if let Some(Chosen::Payload(op)) = &self.chosen[*variable] {
                    return Some(op.clone());
                }
                let op = self.structural(shape, ids, &axes, random)?;
                self.chosen[*variable] = Some(Chosen::Payload(op.clone()));
                op
            }
            _ => return None,
        })
    }

    /// A random op that moves axes, one that undoes its operand in half of the cases.
    fn structural(&self, shape: Shape, ids: &[NodeId], axes: &Axes, random: &mut Random) -> Option<Op> {
        if let Some(op) = self.mesh.and_then(|mesh| self.over_ranks(shape, mesh, axes, random)) {
            return Some(op);
        }
        let inner = ids.first().map(|&id| self.graph.op(id).clone());
        let undo = random.chance(50);
        let axis = random.pick(axes);
        let name = random.pick(&["a", "b", "c", "e", "f"])?;
        Some(match (shape, inner) {
            (Shape::AnyMap, _) => {
                let fit: Vec<ScalarFn> =
                    FUNCTIONS.iter().copied().filter(|f| f.arity() == ids.len()).collect();
                Map(random.pick(&fit)?).into()
            }
            (Shape::AnyMove, _) => {
                let moves = [Shape::Rename, Shape::Slice, Shape::Split, Shape::Merge];
                return self.structural(random.pick(&moves)?, ids, axes, random);
            }
            (Shape::History, _) => {
                let [time, past] = time_and_past();
                History { time, past, window: random.pick(&[None, Some(2)])?, room: 0 }.into()
            }
            (Shape::Cast, _) => Cast(random.pick(&[DType::F32, DType::BF16])?).into(),
            (Shape::Rename, Some(Op::Rename(inner))) if undo => {
                Rename { from: inner.to, to: inner.from }.into()
            }
            (Shape::Rename, _) => {
                let from = axis?;
                Rename { from, to: Axis::fixed(name, from.fixed_size()?) }.into()
            }
            (Shape::Split, Some(Op::Merge(inner))) => {
                let mut into = inner.axes.clone();
                if undo {
                    into.reverse();
                }
                Split { axis: inner.into, into }.into()
            }
            (Shape::Merge, Some(Op::Split(inner))) => {
                let mut axes = inner.into.clone();
                if undo {
                    axes.reverse();
                }
                Merge { axes, into: inner.axis }.into()
            }
            (Shape::Split, _) => {
                let axis = axis?;
                let size = axis.fixed_size()?;
                let first = random.pick(&(1..=size).filter(|part| size % part == 0).collect::<Vec<_>>())?;
                Split { axis, into: vec![Axis::fixed("e", first), Axis::fixed("f", size / first)] }.into()
            }
            (Shape::Merge, _) => {
                let (first, second) = (axis?, random.pick(axes)?);
                let size = first.fixed_size()? * second.fixed_size()?;
                Merge { axes: vec![first, second], into: Axis::fixed("e", size) }.into()
            }
            (Shape::Slice, Some(Op::Concat(concat))) => {
                let piece = random.below(concat.pieces.len());
                let (start, size) = (concat.starts()[piece], concat.pieces[piece].fixed_size()?);
                Slice { axis: concat.into, start, into: Axis::fixed(name, size) }.into()
            }
            (Shape::Slice, _) => {
                let axis = axis?;
                let size = axis.fixed_size()?;
                let start = random.below(size);
                let length = 1 + random.below(size - start);
                Slice { axis, start, into: Axis::fixed(name, length) }.into()
            }
            (Shape::Concat, _) if undo && self.concat().is_some() => {
                // Beside another concat: pieces of the same sizes.
                let other = self.concat()?;
                let sizes: Vec<usize> = match ids.len() == other.pieces.len() {
                    true => other.pieces.iter().filter_map(|piece| piece.fixed_size()).collect(),
                    false if ids.len() == 1 => vec![other.into.fixed_size()?],
                    false => return None,
                };
                let pieces = ids.iter().zip(sizes).map(|(&id, size)| {
                    let fit = |axis: &&Axis| axis.fixed_size() == Some(size);
                    let known: Vec<Axis> = self.graph.axes(id).iter().filter(fit).copied().collect();
                    random.pick(&known).unwrap_or(Axis::fixed(name, size))
                });
                Concat { pieces: pieces.collect(), into: other.into }.into()
            }
            (Shape::Concat, _) => {
                let pieces = ids.iter().map(|&id| {
                    let known = random.pick(self.graph.axes(id));
                    known.or(Some(Axis::fixed("f", 2)))
                });
                let pieces: Vec<Axis> = pieces.collect::<Option<_>>()?;
                let total = pieces.iter().map(|piece| piece.fixed_size().unwrap_or(0)).sum();
                Concat { pieces, into: Axis::fixed("e", total) }.into()
            }
            _ => return None,
        })
    }
}

impl Instance {
    /// A random collective or split over the ranks: half of them speak of what another op of the instance does.
    fn over_ranks(&self, shape: Shape, mesh: Axis, axes: &Axes, random: &mut Random) -> Option<Op> {
        let spoken = self.chosen.iter().filter_map(|chosen| match chosen {
            Some(Chosen::Payload(op)) => Ranks::of(op).filter(|ranks| ranks.mesh == mesh),
            _ => None,
        });
        let spoken: Vec<Ranks> = spoken.collect();
        if random.chance(50)
            && let Some(op) = random.pick(&spoken).and_then(|ranks| ranks.op(shape))
        {
            return Some(op);
        }
        let ranks = mesh.fixed_size()?;
        let axis = random.pick(axes).filter(|axis| *axis != mesh);
        let op = match shape {
            Shape::AllReduce => AllReduce { mesh, kind: ReduceKind::Sum }.into(),
            Shape::AllGather => {
                let piece = axis?;
                let whole = self.axis_of(piece.fixed_size()? * ranks, piece.name, "whole", random);
                AllGather { mesh, piece, whole }.into()
            }
            Shape::ReduceScatter | Shape::Split => {
                let whole = axis?;
                let size = whole.fixed_size().filter(|size| size % ranks == 0)?;
                let piece = self.axis_of(size / ranks, whole.name, "piece", random);
                match shape {
                    Shape::Split => Split { axis: whole, into: vec![mesh, piece] }.into(),
                    _ => ReduceScatter { mesh, whole, piece }.into(),
                }
            }
            _ => return None,
        };
        Some(op)
    }

    /// An axis of this size: one that other values may have, one that keeps a name, or a new one.
    fn axis_of(&self, size: usize, kept: Symbol, new: &str, random: &mut Random) -> Axis {
        let fit = |axis: &Axis| axis.fixed_size() == Some(size) && Some(*axis) != self.mesh;
        let known: Vec<Axis> = self.pool.iter().copied().filter(fit).collect();
        let name = match random.below(4) {
            0 => kept,
            1 => Symbol::new(new),
            _ => random.pick(&known).map_or(Symbol::new(new), |axis| axis.name),
        };
        Axis { name, size: Size::Fixed(size) }
    }
}

/// A random value of a type; with specials, also what floats have beside numbers.
fn value(ty: &TensorType, specials: bool, context: &Context, random: &mut Random) -> Value {
    let shape = context.shape(&ty.axes).expect("fixed sizes");
    Value::build(shape, |_| {
        if ty.dtype == DType::Bool {
            return random.below(2) as f64;
        }
        let specials = if specials { 25 } else { 0 };
        let x = match random.chance(specials) {
            true => random
                .pick(&[0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e-40, 5e-324])
                .unwrap_or(0.0),
            false => (0.3 + 1.3 * random.0.next()) * if random.chance(50) { 1.0 } else { -1.0 },
        };
        match ty.dtype {
            DType::BF16 => f64::from(f32::from_bits((x as f32).to_bits() & 0xffff_0000)),
            _ => x,
        }
    })
}

/// The value of a class, at one of several calls, of an e-graph in which nothing was united.
fn evaluate(
    egraph: &EGraph,
    id: Id,
    calls: &[Context],
    call: usize,
    known: &mut HashMap<(Id, usize), Value>,
) -> Value {
    if let Some(value) = known.get(&(id, call)) {
        return value.clone();
    }
    let (node, ty) = (&egraph[id].nodes[0], &egraph[id].data.ty);
    let value = match node.op {
        Op::History(history) => {
            let kept: Vec<Value> =
                (0..=call).map(|call| evaluate(egraph, node.operands[0], calls, call, known)).collect();
            let lengths = calls.iter().map(|call| call.size(history.time).expect("a size"));
            let starts: Vec<usize> =
                lengths.scan(0, |start, length| Some(std::mem::replace(start, *start + length))).collect();
            Value::build(calls[call].shape(&ty.axes).expect("sizes"), |index| {
                let position = index.get(history.past.name);
                let of = starts.iter().rposition(|&start| start <= position).expect("a call");
                kept[of].at(&index.with(history.time.name, position - starts[of]))
            })
        }
        _ => {
            let operands: Vec<Value> =
                node.operands.iter().map(|&id| evaluate(egraph, id, calls, call, known)).collect();
            let operands: Vec<&Value> = operands.iter().collect();
            node.op.operator().evaluate(&operands, ty, &calls[call]).expect("a value")
        }
    };
    known.insert((id, call), value.clone());
    value
}

/// Where two values differ, if they differ by more than the class allows.
fn difference(class: Class, left: &Value, right: &Value) -> Option<String> {
    if left.axes != right.axes {
        return Some(format!("{:?} and {:?}", left.axes, right.axes));
    }
    let scale = left.data.iter().chain(&right.data).fold(1e-300, |most: f64, x| most.max(x.abs()));
    let same = |a: f64, b: f64| match class {
        Class::Exact => a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(),
        // Sums of up to 16 terms, each rounded to bf16 on either side.
        Class::Approximate => (a - b).abs() <= 16.0 * 2f64.powi(-8) * scale.max(1.0),
        // Operands are about 1, so a sum that is much less has cancelled.
        Class::Real => (a - b).abs() <= 1e-9 * scale.max(1e-2),
    };
    let unequal = left.data.iter().zip(&right.data).find(|(a, b)| !same(**a, **b));
    unequal.map(|(a, b)| format!("{a} and {b}"))
}

/// Whether a rule has a collective on either side: then it is tested on simulated ranks.
fn speaks_of_ranks(rule: &Compiled) -> bool {
    let shapes = [rule.left.shapes(), rule.right.shapes()].concat();
    shapes.iter().any(|shape| matches!(shape, Shape::AllReduce | Shape::AllGather | Shape::ReduceScatter))
}

/// Tests a rule.
///
/// # Errors
/// When it never or seldom fires, or what it says is wrong.
pub(super) fn check(rule: &Rule, seed: u64) -> Result<(), String> {
    let rule = &compile(std::slice::from_ref(rule))?[0];
    let mut random = Random(Numbers(seed));
    let mut fired = 0;
    for _ in 0..TRIES {
        fired += check_once(rule, &mut random)?;
        if fired >= FIRINGS {
            return Ok(());
        }
    }
    Err(format!("rule `{}` fired {fired} times, not {FIRINGS}", rule.rule.name))
}

/// Whether a rule asks for tokens: others are tested without, so that they fire oftener.
fn is_of_tokens(rule: &Compiled) -> bool {
    let over_tokens = |condition: &Condition| matches!(condition, Condition::OverTokens(_));
    rule.rule.left.contains("history") || rule.conditions.iter().any(over_tokens)
}

fn wanted(rule: &Compiled, variable: usize) -> Option<bool> {
    rule.conditions.iter().find_map(|condition| match *condition {
        Condition::ParamOnly(x) if x == variable => Some(true),
        Condition::AtRun(x) if x == variable => Some(false),
        _ => None,
    })
}

fn check_once(rule: &Compiled, random: &mut Random) -> Result<usize, String> {
    let mut pool = ["a", "b", "c", "d"].map(|name| Axis::fixed(name, 1 + random.below(4))).to_vec();
    let mesh = speaks_of_ranks(rule).then(|| Axis::fixed("rank", 1 + random.below(3)));
    if let Some(mesh) = mesh {
        // One axis can be cut over the ranks, into pieces of another.
        let (ranks, piece) = (mesh.fixed_size().unwrap_or(1), 1 + random.below(2));
        pool = vec![mesh, Axis::fixed("a", ranks * piece), Axis::fixed("b", piece), pool[2]];
    }
    let tokens = if is_of_tokens(rule) { time_and_past().to_vec() } else { Vec::new() };
    let count = rule.variables.0.len();
    let wanted = (0..count).map(|variable| wanted(rule, variable)).collect();
    let mut instance =
        Instance { graph: Graph::new(), pool, tokens, mesh, chosen: vec![None; count], wanted };
    let lefts = std::iter::once(&rule.left).chain(rule.beside.as_ref().map(|beside| &beside.0));
    let roots: Option<Vec<NodeId>> = lefts.map(|left| instance.term(left, random)).collect();
    let Some(roots) = roots else { return Ok(0) };
    let graph = instance.graph;
    let lengths = [1 + random.below(2), 1 + random.below(2)];
    let mut calls = [Context::default(), Context::default()];
    for (call, context) in calls.iter_mut().enumerate() {
        context.sizes.insert("time".into(), lengths[call]);
        context.sizes.insert("past".into(), lengths[..=call].iter().sum());
    }
    let mut params = Vec::new();
    let specials = rule.rule.class == Class::Exact;
    for id in graph.topological_order() {
        match graph.op(id) {
            Op::Param(param) => {
                params.push(param.name);
                let value = value(graph.ty(id), specials, &calls[0], random);
                calls.iter_mut().for_each(|call| drop(call.params.insert(param.name, value.clone())));
            }
            Op::Input(input) => {
                for call in &mut calls {
                    let value = value(graph.ty(id), specials, call, random);
                    call.inputs.insert(input.name, value);
                }
            }
            _ => {}
        }
    }
    let mut egraph = EGraph::new(Known::new(&graph, params.into_iter().collect(), Default::default()));
    let mut classes: BTreeMap<NodeId, Id> = BTreeMap::new();
    for id in graph.topological_order() {
        let operands = graph.operands(id).iter().map(|operand| classes[operand]).collect();
        classes.insert(id, add(&mut egraph, graph.op(id).clone(), operands).expect("typed"));
    }
    egraph.rebuild();
    give(&mut egraph);
    let roots_and_classes: Vec<(NodeId, Id)> = roots.iter().map(|&root| (root, classes[&root])).collect();
    // What no rank could compute is no instance.
    let on_ranks = |class| mesh.map(|mesh| simulated_ranks::evaluate(&egraph, class, mesh, &calls[1]));
    if roots_and_classes.iter().any(|pair| on_ranks(pair.1).is_some_and(|held| held.is_err())) {
        return Ok(0);
    }
    let mut budget = Budget { steps: 100_000 };
    let found: Vec<_> = match roots_and_classes[..] {
        [(_, first), (_, second)] => (search_pairs(&egraph, rule, [&[first], &[second]], 4, &mut budget)
            .into_iter())
        .map(|(_, bindings)| bindings)
        .collect(),
        _ => search(&egraph, rule, classes[&roots[0]], 4, &mut budget),
    };
    let mut fired = 0;
    for bindings in found {
        let classes: Vec<Id> = roots_and_classes.iter().map(|pair| pair.1).collect();
        let Some(added) = apply(&mut egraph, rule, &classes, bindings) else { continue };
        egraph.rebuild();
        if added == classes {
            continue;
        }
        let mut known = HashMap::new();
        for (&(root, class), added) in roots_and_classes.iter().zip(added) {
            let left = evaluate(&egraph, class, &calls, 1, &mut known);
            let right = evaluate(&egraph, added, &calls, 1, &mut known);
            let difference = difference(rule.rule.class, &left, &right).or_else(|| {
                mesh.and_then(|mesh| simulated_ranks::difference(&egraph, added, mesh, &calls[1], &right))
            });
            if let Some(difference) = difference {
                let text = super::report::expression(&graph, root, 9);
                return Err(format!("rule `{}` is wrong on {text}: {difference}", rule.rule.name));
            }
        }
        fired += 1;
    }
    Ok(fired)
}

#[test]
fn every_rule_fires_and_is_right() {
    let problems: Vec<String> =
        RULES.iter().enumerate().filter_map(|(seed, rule)| check(rule, seed as u64 + 1).err()).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

pub(super) fn known(name: &str) -> Rule {
    *RULES.iter().find(|rule| rule.name == name).unwrap_or_else(|| panic!("no rule `{name}`"))
}

// A rule that sums over the wrong axes is not among these: its two sides have
// different types, so it never fires. Conditions on axes only save the attempt.
#[test]
fn broken_rules_are_caught() {
    let right = |name, right| Rule { right, ..known(name) };
    let left = |name, left| Rule { left, ..known(name) };
    let without = |name| Rule { conditions: &[], ..known(name) };
    let exact = |name| Rule { class: Class::Exact, ..known(name) };
    let broken = [
        without("split_of_merge"),
        without("merge_of_split"),
        right("associate", "(contract[A&zs] (contract[A-zs] x x) zs..)"),
        right("flatten", "(contract[A+B] xs.. xs.. ys..)"),
        right("product_into_contraction", "(contract[A] x x y zs..)"),
        right("division_into_contraction", "(contract[A] (div x d) (div x d) ys..)"),
        right("negate_constant_factor", "(mul c x)"),
        right("negate_twice", "(neg x)"),
        left("multiply_by_one", "(mul x 2)"),
        right("add_negative", "(sub y x)"),
        right("subtract_negative", "(sub x y)"),
        right("negate_difference", "(sub x y)"),
        right("negate_product", "(mul x y)"),
        right("negate_quotient", "(neg (div y x))"),
        right("select_twice", "(select m y z)"),
        left("select_twice", "(select m (select n x y) z)"),
        left("cast_twice", "(cast[d] (cast[e] x))"),
        right("fold_sub", "(=sub d c)"),
        right("fold_div", "(=div d c)"),
        right("fold_neg", "(=abs c)"),
        right("merge_scales", "(mul (=add c d) x)"),
        right("merge_scale_and_divisor", "(mul (=mul c d) x)"),
        right("divisor_to_scale", "(mul (=div c 1) x)"),
        right("scale_out_of_quotient", "(div x (mul c y))"),
        right("scale_out_of_product", "(mul c (mul c (mul x y)))"),
        left("sum_is_contraction", "(sum[A] (add x y))"),
        right("contraction_of_none", "(add x y)"),
        right("scale_into_contraction", "(contract[A] s s xs..)"),
        right("division_out_of_contraction", "(div d (contract[A] x ys..))"),
        left("add_weights", "(add (contract[A] x xs..) (contract[B] y xs..))"),
        Rule { left: "(add (contract[A] x xs..) (contract[A] y ys..))", ..known("add_weights") },
        right("negation_out_of_contraction", "(contract[A] x ys..)"),
        exact("add_zero"),
        exact("flatten"),
        exact("associate"),
        exact("add_weights"),
        exact("division_out_of_contraction"),
        exact("merge_scales"),
        exact("divisor_to_scale"),
    ];
    catches_all(&broken);
}

/// Asserts that of these rules, each well formed, none passes.
fn catches_all(broken: &[Rule]) {
    let passes = |(seed, rule): &(usize, &Rule)| check(rule, *seed as u64).is_ok();
    let missed: Vec<&Rule> = broken.iter().enumerate().filter(passes).map(|b| b.1).collect();
    assert!(missed.is_empty(), "{missed:?}");
    assert!(broken.iter().all(|rule| compile(std::slice::from_ref(rule)).is_ok()));
}

#[test]
fn rules_cannot_bring_in_what_they_do_not_bind() {
    let rule = |left, right| Rule { left, right, ..known("negate_twice") };
    for (broken, problem) in [
        (rule("(neg x)", "y"), "`y` is not bound"),
        (rule("(sum[A] x)", "(sum[B] x)"), "`B` is not bound"),
        (rule("(contract[A] xs..)", "(contract[A] ys..)"), "`ys` is not bound"),
        (rule("(neg x)", "(mul x)"), "takes 2 operands"),
        (rule("(neg x", "x"), "`)` is missing"),
        (rule("x", "x"), "must be an op"),
        (rule("(nag x)", "x"), "no op `nag`"),
        (rule("(neg x)", "(rename[r] x)"), "`r` is not bound"),
        (rule("(contract[A] xs.. ys..)", "(contract[A] xs..)"), "second rest"),
        (rule("(concat[c] (neg x)..)", "x"), "a list wants an item"),
        (rule("(concat[c] (neg @xs)..)", "(concat[c] (neg @ys)..)"), "`ys` is not bound"),
        (rule("(total (neg @xs)..)", "(total @xs..)"), "on the right only"),
        (rule("(contract[A] x y)", "(contract[A] (join[A] x y))"), "wants a `|`"),
    ] {
        let error = compile(&[broken]).expect_err("a broken rule");
        assert!(error.contains(problem), "{error}");
    }
}
