//! The e-graph's nodes: an op of the graph and its operands' classes, and what
//! is known of a class. It knows no rule and no cost.

use diptych_ir::ops::{Contract, History, Reduce};
use diptych_ir::{Axis, DType, Graph, Op, ReduceKind, ScalarFn, Symbol, TensorType};
use egg::{Analysis, DidMerge, Id, Language};
use std::collections::HashSet;

/// The e-graph of a region.
pub(super) type EGraph = egg::EGraph<ENode, Known>;

/// An op over classes. Operands of commutative ops are a multiset: they are
/// sorted whenever their ids change, so that equal ones are found equal.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct ENode {
    pub op: Op,
    pub operands: Vec<Id>,
}

/// What kind of op a pattern asks for; what stands in brackets is left open.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Shape {
    Map(ScalarFn),
    Contract,
    Sum,
    Max,
    Rename,
    Slice,
    Concat,
    Split,
    Merge,
    Cast,
    History,
    /// The sum of ranks, not their maximum.
    AllReduce,
    AllGather,
    ReduceScatter,
    /// Any scalar function: in patterns only.
    AnyMap,
    /// Any rename, split, merge or slice: in patterns only.
    AnyMove,
    /// An op that no rule speaks of.
    Other,
}

impl Shape {
    pub fn of(op: &Op) -> Shape {
        match op {
            Op::Map(map) => Shape::Map(map.0),
            Op::Contract(_) => Shape::Contract,
            Op::Reduce(reduce) if reduce.kind == ReduceKind::Sum => Shape::Sum,
            Op::Reduce(_) => Shape::Max,
            Op::Rename(_) => Shape::Rename,
            Op::Slice(_) => Shape::Slice,
            Op::Concat(_) => Shape::Concat,
            Op::Split(_) => Shape::Split,
            Op::Merge(_) => Shape::Merge,
            Op::Cast(_) => Shape::Cast,
            Op::History(_) => Shape::History,
            Op::AllReduce(reduce) if reduce.kind == ReduceKind::Sum => Shape::AllReduce,
            Op::AllGather(_) => Shape::AllGather,
            Op::ReduceScatter(_) => Shape::ReduceScatter,
            _ => Shape::Other,
        }
    }

    /// Whether a pattern that asks for this takes what is of the other shape.
    pub fn takes(self, other: Shape) -> bool {
        match self {
            Shape::AnyMap => matches!(other, Shape::Map(_)),
            Shape::AnyMove => matches!(other, Shape::Rename | Shape::Split | Shape::Merge | Shape::Slice),
            _ => self == other,
        }
    }

    /// Whether the order of operands changes no bit. (A maximum of zeros of
    /// both signs depends on it.)
    pub fn is_commutative(self) -> bool {
        use ScalarFn::{Add, And, Equal, Mul, Or};
        matches!(self, Shape::Contract | Shape::Map(Add | Mul | And | Or | Equal))
    }
}

impl Language for ENode {
    type Discriminant = Shape;

    fn discriminant(&self) -> Shape {
        Shape::of(&self.op)
    }

    fn matches(&self, other: &ENode) -> bool {
        self.op == other.op && self.operands.len() == other.operands.len()
    }

    fn children(&self) -> &[Id] {
        &self.operands
    }

    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.operands
    }

    // Every canonicalisation of egg goes through here, which makes this the
    // one place where a multiset has to be sorted again.
    fn update_children<F: FnMut(Id) -> Id>(&mut self, mut f: F) {
        self.operands.iter_mut().for_each(|id| *id = f(*id));
        if self.discriminant().is_commutative() {
            self.operands.sort_unstable();
        }
    }
}

/// What is known of a class.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Facts {
    pub ty: TensorType,
    /// Whether it depends on parameters and literals only.
    pub param_only: bool,
    /// Whether it was there before any rewrite, or is several such values joined.
    pub given: bool,
    /// Its value, if it is a known f32 scalar.
    pub constant: Option<f64>,
    /// Whether a scale of the value can go all the way into weights that it is linear in.
    pub scales_weights: bool,
    /// Whether it is weights that ids choose.
    pub chosen: bool,
}

/// What all classes of a region share, and the analysis of egg.
pub(super) struct Known {
    /// Arguments of the region that are parameters or slices of them.
    pub param_arguments: HashSet<usize>,
    /// Parameters of the program; other `param` nodes are states.
    pub params: HashSet<Symbol>,
    /// The region's axes in walking order.
    axis_order: Graph,
    /// The type of the node being added, inferred before egg sees it.
    pending: Option<TensorType>,
    /// Two values found equal whose types are not: a bug in a rule.
    pub conflict: Option<String>,
}

impl Known {
    pub fn new(graph: &Graph, params: HashSet<Symbol>, param_arguments: HashSet<usize>) -> Known {
        let mut axis_order = Graph::new();
        for &name in graph.axis_order() {
            axis_order.declare_axis(name);
        }
        Known { param_arguments, params, axis_order, pending: None, conflict: None }
    }

    /// Summed axes in the one order in which they are walked.
    pub fn ordered(&self, axes: impl IntoIterator<Item = Axis>) -> Vec<Axis> {
        self.axis_order.ordered(axes)
    }

    fn param_only(&self, node: &ENode, operand: impl Fn(Id) -> bool) -> bool {
        match &node.op {
            Op::Param(param) => self.params.contains(&param.name),
            Op::Argument(argument) => self.param_arguments.contains(&argument.index),
            Op::Input(_) | Op::Output(_) | Op::Index(_) | Op::History(_) => false,
            op if op.as_loop().is_some() => false,
            _ => node.operands.iter().all(|&id| operand(id)),
        }
    }
}

/// Whether a value is nothing but several given ones in one.
fn is_joined(egraph: &EGraph, node: &ENode) -> bool {
    matches!(node.op, Op::Merge(_) | Op::Concat(_)) && node.operands.iter().all(|&id| egraph[id].data.given)
}

/// Whether a node takes weights that ids choose out of a table. A product with them is computed where they lie, and
/// never in another order: no rule looks into it.
fn chooses_weights(egraph: &EGraph, node: &ENode) -> bool {
    let axes = |id: Id| &egraph[id].data.ty.axes;
    let fixed = |id: Id| axes(id).iter().all(|axis| axis.fixed_size().is_some());
    match (&node.op, &node.operands[..]) {
        (Op::Take(_), &[table, ids]) => fixed(table) && !fixed(ids) && axes(table).len() > 2,
        _ => false,
    }
}

/// Marks all that is there now as given.
pub(super) fn give(egraph: &mut EGraph) {
    let classes: Vec<Id> = egraph.classes().map(|class| class.id).collect();
    for id in classes {
        let facts = Facts { given: true, ..egraph[id].data.clone() };
        egraph.set_analysis_data(id, facts);
    }
    egraph.rebuild();
}

impl Analysis<ENode> for Known {
    type Data = Facts;

    fn make(egraph: &mut EGraph, node: &ENode, _: Id) -> Facts {
        // `add` has inferred the type; nothing else adds nodes.
        let ty = egraph.analysis.pending.take().unwrap_or_else(|| TensorType::scalar(DType::F32));
        let constant = match &node.op {
            Op::Literal(literal) if literal.dtype == DType::F32 => literal.as_scalar(),
            _ => None,
        };
        let param_only = egraph.analysis.param_only(node, |id| egraph[id].data.param_only);
        let scales_weights = param_only || scales_weights(egraph, node);
        let (given, chosen) = (is_joined(egraph, node), chooses_weights(egraph, node));
        Facts { ty, param_only, given, constant, scales_weights, chosen }
    }

    fn remake(egraph: &mut EGraph, node: &ENode, id: Id) -> Facts {
        let param_only = egraph.analysis.param_only(node, |id| egraph[id].data.param_only);
        let scales_weights = param_only || scales_weights(egraph, node);
        let known = &egraph[id].data;
        let given = known.given || is_joined(egraph, node);
        Facts { param_only, given, scales_weights, ..known.clone() }
    }

    fn merge(&mut self, known: &mut Facts, other: Facts) -> DidMerge {
        if known.ty != other.ty {
            self.conflict.get_or_insert_with(|| format!("{} was found equal to {}", known.ty, other.ty));
        }
        let merged = Facts {
            ty: known.ty.clone(),
            param_only: known.param_only || other.param_only,
            given: known.given || other.given,
            constant: known.constant.or(other.constant),
            scales_weights: known.scales_weights || other.scales_weights,
            chosen: known.chosen || other.chosen,
        };
        let flags = |a: &Facts| (a.param_only, a.given, a.scales_weights, a.chosen);
        let same = |a: &Facts, b: &Facts| {
            flags(a) == flags(b) && a.constant.map(f64::to_bits) == b.constant.map(f64::to_bits)
        };
        let changed = DidMerge(!same(&merged, known), !same(&merged, &other));
        *known = merged;
        changed
    }
}

/// Whether a scale of this node can go into weights: through one factor of a
/// product, both terms of a sum, and all that only moves elements.
fn scales_weights(egraph: &EGraph, node: &ENode) -> bool {
    let mut operands = node.operands.iter().map(|&id| egraph[id].data.scales_weights);
    match Shape::of(&node.op) {
        Shape::Contract | Shape::Map(ScalarFn::Mul) => operands.any(|scales| scales),
        Shape::Map(ScalarFn::Add | ScalarFn::Sub | ScalarFn::Neg) | Shape::Concat => {
            operands.all(|scales| scales)
        }
        shape if Shape::AnyMove.takes(shape) => operands.all(|scales| scales),
        _ => false,
    }
}

/// The op with its summed axes in walking order, and in no room: one value has one history.
pub(super) fn canonical(known: &Known, op: Op) -> Op {
    match op {
        Op::Contract(contract) => Contract { over: known.ordered(contract.over) }.into(),
        Op::Reduce(reduce) => Reduce { kind: reduce.kind, over: known.ordered(reduce.over) }.into(),
        Op::History(history) => History { room: 0, ..history }.into(),
        other => other,
    }
}

/// Adds a node, or finds the class that has it; `None` if the operands do not
/// fit the op.
pub(super) fn add(egraph: &mut EGraph, op: Op, operands: Vec<Id>) -> Option<Id> {
    let mut node = ENode { op: canonical(&egraph.analysis, op), operands };
    if let Some(id) = egraph.lookup(&mut node) {
        return Some(id);
    }
    let types: Vec<&TensorType> = node.operands.iter().map(|&id| &egraph[id].data.ty).collect();
    let ty = match &node.op {
        Op::Output(output) => (egraph[*node.operands.first()?].nodes.iter())
            .find_map(|node| node.op.as_loop())
            .and_then(|looped| looped.results.get(output.index).cloned())?,
        op => op.operator().infer(&types).ok()?,
    };
    egraph.analysis.pending = Some(ty);
    Some(egraph.add(node))
}
