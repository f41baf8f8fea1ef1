//! Recomputation: what a loop keeps for its backward loop is computed again there instead, from what is kept all
//! the same. The ops are copied as they are, after all rewrites, so that no choice changes a bit. Which values are
//! worth it is for the caller to say; it knows no cost and no memory.

use crate::simplify;
use diptych_ir::ops::{Argument, Output, Repeat};
use diptych_ir::{
    Axis, IrError, NodeId, Op, Program, ReduceKind, Region, RegionId, Result, Symbol, TensorType,
};
use std::collections::{BTreeSet, HashMap};

/// A value of a loop's body: the body and the node.
pub type InBody = (RegionId, NodeId);

/// A value that every layer keeps for the backward pass, and that could be computed again.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Where it is.
    pub place: InBody,
    /// What the model's author called it.
    pub label: Option<Symbol>,
    /// How it is computed.
    pub op: Op,
    /// Its type.
    pub ty: TensorType,
    /// Types of its operands.
    pub operands: Vec<TensorType>,
}

impl Kept {
    /// Scalar operations of computing it once more from its operands; `size` gives an axis' size in elements.
    pub fn flops(&self, size: &dyn Fn(Axis) -> f64) -> f64 {
        let operands: Vec<&TensorType> = self.operands.iter().collect();
        self.op.operator().flops(&operands, &self.ty, size)
    }

    /// What each layer keeps of it, in bytes.
    pub fn bytes(&self, size: &dyn Fn(Axis) -> f64) -> f64 {
        let elements: f64 = self.ty.axes.iter().map(|&axis| size(axis)).product();
        elements * self.ty.dtype.bytes() as f64
    }
}

/// A repeat and one that runs the other way over what it yields.
struct Pair<'a> {
    parent: RegionId,
    forward: (NodeId, &'a Repeat),
    backward: (NodeId, &'a Repeat),
}

/// The values that repeats keep for their backward repeats and that could be computed again there.
pub fn kept_values(program: &Program) -> Vec<Kept> {
    let mut kept: Vec<Kept> = Vec::new();
    for pair in pairs(program) {
        let body = program.region(pair.forward.1.body);
        for (node, _) in pair.handed_over(program) {
            let place = (pair.forward.1.body, node);
            let copier = Copier::new(program, &pair, BTreeSet::from([place]));
            if kept.iter().all(|known| known.place != place) && copier.sources(node).is_some() {
                let graph = &body.graph;
                kept.push(Kept {
                    place,
                    label: graph.node(node).label,
                    op: graph.op(node).clone(),
                    ty: graph.ty(node).clone(),
                    operands: graph.operands(node).iter().map(|&id| graph.ty(id).clone()).collect(),
                });
            }
        }
    }
    kept
}

/// The program with these values computed again where backward repeats read them.
///
/// # Errors
/// When a value is none that [`kept_values`] of this program names.
pub fn rematerialize(program: &Program, recomputed: &BTreeSet<InBody>) -> Result<Program> {
    if recomputed.is_empty() {
        return Ok(program.clone());
    }
    let mut result = program.clone();
    // Of several pairs each is rebuilt by itself; a rebuilt one hands nothing over that is to be recomputed.
    while let Some(pair) = pairs(&result).into_iter().find(|pair| {
        let handed = pair.handed_over(&result);
        handed.iter().any(|(node, _)| recomputed.contains(&(pair.forward.1.body, *node)))
    }) {
        let rebuilt = Copier::new(&result, &pair, recomputed.clone()).rebuild()?;
        let Rebuilt { parent, old, layers, reverse, body, carried, stacked, invariant } = rebuilt;
        let body = result.add_region(body);
        let outputs = result.add_repeat(parent, body, layers, reverse, &carried, &stacked, &invariant)?;
        let graph = &mut result.region_mut(parent).graph;
        let new = graph.operands(outputs[0])[0];
        let (span, label) = (graph.node(old).span, graph.node(old).label);
        graph.annotate(new, span, label);
        for user in graph.users(old) {
            if let &Op::Output(Output { index }) = result.region(parent).graph.op(user) {
                crate::differentiate::replace_uses(&mut result, parent, user, outputs[index])?;
            }
        }
        crate::simplify::drop_unused_nodes(&mut result);
    }
    simplify(&result)
}

fn pairs(program: &Program) -> Vec<Pair<'_>> {
    let mut pairs = Vec::new();
    for (index, region) in program.regions.iter().enumerate() {
        let repeat = |id: NodeId| match region.graph.op(id) {
            Op::Repeat(repeat) => Some((id, repeat)),
            _ => None,
        };
        for backward in region.graph.ids().into_iter().filter_map(repeat) {
            let operands = region.graph.operands(backward.0);
            let mut seen = BTreeSet::new();
            for &operand in &operands[backward.1.carried..][..backward.1.stacked] {
                let Op::Output(_) = region.graph.op(operand) else { continue };
                let Some(forward) = repeat(region.graph.operands(operand)[0]) else { continue };
                let other_way = forward.1.reverse != backward.1.reverse;
                if other_way && forward.1.layers == backward.1.layers && seen.insert(forward.0) {
                    pairs.push(Pair { parent: RegionId(index as u32), forward, backward });
                }
            }
        }
    }
    pairs
}

impl Pair<'_> {
    /// What the backward repeat is given of each layer: the forward body's node, and the position among the
    /// backward body's arguments. Arguments that the body hands on as they are do not count.
    fn handed_over(&self, program: &Program) -> Vec<(NodeId, usize)> {
        let (graph, body) = (&program.region(self.parent).graph, program.region(self.forward.1.body));
        let operands = graph.operands(self.backward.0);
        let stacked = (self.backward.1.carried..).zip(&operands[self.backward.1.carried..]);
        let handed = stacked.take(self.backward.1.stacked).filter_map(|(position, &operand)| {
            let Op::Output(Output { index }) = *graph.op(operand) else { return None };
            let yielded = graph.operands(operand)[0] == self.forward.0 && index >= self.forward.1.carried;
            let node = yielded.then(|| body.results[index])?;
            (!matches!(body.graph.op(node), Op::Argument(_))).then_some((node, position))
        });
        handed.collect()
    }
}

/// The repeat that takes a backward repeat's place.
struct Rebuilt {
    parent: RegionId,
    old: NodeId,
    layers: Axis,
    reverse: bool,
    body: Region,
    carried: Vec<NodeId>,
    stacked: Vec<NodeId>,
    invariant: Vec<NodeId>,
}

/// What a leaf of a recomputed value is to the backward body, as an operand of its repeat.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaf {
    Stacked(NodeId),
    Invariant(NodeId),
}

/// Sums that are rescaled as a maximum grows have other bits where the maximum is known beforehand: whatever is
/// computed again from one computes it again, too.
fn is_maximum(op: &Op) -> bool {
    matches!(op, Op::Reduce(reduce) if reduce.kind == ReduceKind::Max)
}

/// Copies values of the forward body into the backward body.
struct Copier<'a> {
    program: &'a Program,
    pair: &'a Pair<'a>,
    recomputed: BTreeSet<InBody>,
}

impl<'a> Copier<'a> {
    fn new(program: &'a Program, pair: &'a Pair<'a>, recomputed: BTreeSet<InBody>) -> Copier<'a> {
        Copier { program, pair, recomputed }
    }

    fn forward(&self) -> &'a Region {
        self.program.region(self.pair.forward.1.body)
    }

    /// The operand of the backward repeat that stands for a node of the forward body, if the node is there
    /// without being computed again.
    fn leaf(&self, node: NodeId) -> Option<Leaf> {
        let (graph, repeat) = (&self.program.region(self.pair.parent).graph, self.pair.forward.1);
        if let &Op::Argument(Argument { index, .. }) = self.forward().graph.op(node)
            && index >= repeat.carried
        {
            let operand = graph.operands(self.pair.forward.0)[index];
            let stacked = index < repeat.carried + repeat.stacked;
            return Some(if stacked { Leaf::Stacked(operand) } else { Leaf::Invariant(operand) });
        }
        if self.recomputed.contains(&(repeat.body, node)) || is_maximum(self.forward().graph.op(node)) {
            return None;
        }
        // What a layer yields already.
        graph.users(self.pair.forward.0).into_iter().find_map(|user| match *graph.op(user) {
            Op::Output(Output { index }) if index >= repeat.carried => {
                (self.forward().results[index] == node).then_some(Leaf::Stacked(user))
            }
            _ => None,
        })
    }

    /// What a node needs, operands first, and the leaves among it; `None` where it needs what is not kept.
    fn sources(&self, node: NodeId) -> Option<Vec<(NodeId, Option<Leaf>)>> {
        let graph = &self.forward().graph;
        let (mut found, mut stack) = (HashMap::new(), vec![node]);
        while let Some(id) = stack.pop() {
            if found.contains_key(&id) {
                continue;
            }
            let leaf = self.leaf(id);
            let is_copied = leaf.is_none();
            if is_copied
                && (matches!(graph.op(id), Op::Argument(_) | Op::Output(_))
                    || graph.op(id).as_loop().is_some())
            {
                return None;
            }
            found.insert(id, leaf);
            if is_copied {
                stack.extend(graph.operands(id));
            }
        }
        let order = graph.ancestors(&[node]).into_iter();
        Some(order.filter_map(|id| found.get(&id).map(|&leaf| (id, leaf))).collect())
    }

    fn rebuild(self) -> Result<Rebuilt> {
        let (id, repeat) = self.pair.backward;
        let (old, forward) = (self.program.region(repeat.body), self.forward());
        let operands = self.program.region(self.pair.parent).graph.operands(id);
        let handed_over = self.pair.handed_over(self.program).into_iter();
        let chosen: HashMap<usize, NodeId> = handed_over
            .filter(|(node, _)| self.recomputed.contains(&(self.pair.forward.1.body, *node)))
            .map(|(node, position)| (position, node))
            .collect();
        let mut sources: Vec<(NodeId, Option<Leaf>)> = Vec::new();
        let mut nodes: Vec<NodeId> = chosen.values().copied().collect();
        nodes.sort_unstable();
        for node in nodes {
            let of_node = self.sources(node).ok_or_else(|| {
                let name = forward.graph.op(node).name();
                IrError::Invalid(format!("{name} cannot be computed again from what is kept"))
            })?;
            let new = |source: &(NodeId, _)| sources.iter().all(|known| known.0 != source.0);
            let new: Vec<_> = of_node.into_iter().filter(new).collect();
            sources.extend(new);
        }

        // Operands with the argument that they had, or with the forward body's nodes that they stand for.
        let mut ports: [Vec<Port>; 3] = Default::default();
        for (position, (&operand, &argument)) in operands.iter().zip(&old.arguments).enumerate() {
            let kind = match position {
                _ if position < repeat.carried => 0,
                _ if position < repeat.carried + repeat.stacked => 1,
                _ => 2,
            };
            if !chosen.contains_key(&position) {
                let ty = old.graph.ty(argument).clone();
                ports[kind].push(Port { operand, ty, argument: Some(argument), nodes: Vec::new() });
            }
        }
        for &(node, leaf) in &sources {
            let (kind, operand) = match leaf {
                Some(Leaf::Stacked(operand)) => (1, operand),
                Some(Leaf::Invariant(operand)) => (2, operand),
                None => continue,
            };
            match ports[kind].iter_mut().find(|port| port.operand == operand) {
                Some(port) => port.nodes.push(node),
                None => {
                    let ty = forward.graph.ty(node).clone();
                    ports[kind].push(Port { operand, ty, argument: None, nodes: vec![node] });
                }
            }
        }

        let mut body = Region::new(old.name.as_str());
        for &axis in old.graph.axis_order().iter().chain(forward.graph.axis_order()) {
            body.graph.declare_axis(axis);
        }
        let (mut copies, mut again) = (HashMap::new(), HashMap::new());
        for port in ports.iter().flatten() {
            let argument = body.add_argument(port.ty.clone())?;
            copies.extend(port.argument.map(|old| (old, argument)));
            again.extend(port.nodes.iter().map(|&node| (node, argument)));
        }
        for &(node, leaf) in &sources {
            if leaf.is_none() {
                let copy = copy(&mut body, forward, node, &again)?;
                again.insert(node, copy);
            }
        }
        copies.extend(chosen.iter().map(|(&position, node)| (old.arguments[position], again[node])));
        for id in old.graph.ancestors(&old.results) {
            if !copies.contains_key(&id) {
                let copy = copy(&mut body, old, id, &copies)?;
                copies.insert(id, copy);
            }
        }
        body.results = old.results.iter().map(|result| copies[result]).collect();
        let (layers, reverse) = (repeat.layers, repeat.reverse);
        let [carried, stacked, invariant] =
            ports.map(|ports| ports.into_iter().map(|port| port.operand).collect());
        Ok(Rebuilt { parent: self.pair.parent, old: id, layers, reverse, body, carried, stacked, invariant })
    }
}

/// An operand of the rebuilt repeat: its type in the body, the argument that it had there, and the forward body's
/// nodes that it stands for.
struct Port {
    operand: NodeId,
    ty: TensorType,
    argument: Option<NodeId>,
    nodes: Vec<NodeId>,
}

/// A node of another region, on the copies of its operands.
fn copy(body: &mut Region, from: &Region, id: NodeId, copies: &HashMap<NodeId, NodeId>) -> Result<NodeId> {
    let node = from.graph.node(id).clone();
    let operands: Vec<NodeId> = from.graph.operands(id).iter().map(|operand| copies[operand]).collect();
    let copy = body.graph.add(node.op, &operands)?;
    body.graph.annotate(copy, node.span, node.label);
    Ok(copy)
}
