//! The backward pass of a loop (a repeat or a scan): a loop of its own, in the
//! other order, that carries the cotangents of what the forward one carries.
//! What a run keeps is asked of `policy`; the rest is computed again from it.

use super::activity::{activity, loop_activity};
use super::policy::{self, Policy};
use super::{recurrences, sweep};
use diptych_ir::ops::{Argument, Literal, Loop, Map, Reduce, Repeat, Replay, Scan, spread};
use diptych_ir::{Axes, DType, Graph, IrError, NodeId, Op, Program, ReduceKind, Region, RegionId, Result};
use diptych_ir::{ScalarFn, Symbol, TensorType};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Gradients of arguments or results of the body: the position of each, and the node.
type Gradients = Vec<(usize, NodeId)>;

/// What the backward body reads of the forward body, by the forward nodes' ids.
#[derive(Default)]
struct Cut {
    /// Kept values, in graph order.
    saved: Vec<NodeId>,
    /// Positions of stacked operands.
    stacked: Vec<usize>,
    /// Positions of invariant operands.
    invariant: Vec<usize>,
    /// What the backward body computes itself, operands first.
    inside: Vec<NodeId>,
    /// How many of the last kept values are states that are had again from some of them.
    replayed: usize,
}

/// The gradients with which the backward body starts.
struct Seeds {
    /// For each carried value with a gradient: position, and its cotangent after the layer.
    carried: Gradients,
    /// For each stacked result with a gradient: position, and its cotangent.
    stacked: Gradients,
    /// For each stacked result of a repeat whose gradient is the same for all layers: position, and its cotangent.
    alike: Gradients,
}

impl Seeds {
    fn all(&self) -> impl Iterator<Item = &(usize, NodeId)> {
        self.carried.iter().chain(&self.stacked).chain(&self.alike)
    }
}

/// What joins the two bodies.
struct Cotangents {
    seeds: Seeds,
    /// Gradients of carried, stacked and invariant arguments: position, and the node.
    of_arguments: [Gradients; 3],
    cut: Cut,
}

/// Differentiates the loop `node` of the region `parent`, given the gradients
/// of its results by position, and which of its operands are active. Replaces it
/// by a loop that yields what the backward one reads, and adds that one.
/// Returns the gradient of each operand.
///
/// # Errors
/// When a gradient cannot be built: see [`super::differentiate`].
pub(super) fn differentiate_loop(
    program: &mut Program,
    parent: RegionId,
    node: NodeId,
    of_results: &BTreeMap<usize, NodeId>,
    active_operands: &[bool],
    parent_forward: &mut HashSet<NodeId>,
    saves: Policy,
) -> Result<Vec<Option<NodeId>>> {
    let op = program.region(parent).graph.op(node).clone();
    let looped = op
        .as_loop()
        .ok_or_else(|| IrError::Invalid("a loop was to be differentiated, but it is another node".into()))?;
    let (arguments_active, _) = loop_activity(program, looped, active_operands);
    let mut body = program.region(looped.body).clone();
    let name = body.name;
    body.name = Symbol::new(&format!("{name}.train"));
    let train = program.add_region(body);

    // Gradients are first built beside the forward nodes, in one graph.
    let active = activity(program, train, &arguments_active);
    refuse_inner_params(program.region(train), &active)?;
    let mut forward: HashSet<NodeId> = program.region(train).graph.ids().into_iter().collect();
    let results = program.region(train).results.clone();
    let wanted = |position: usize| match position < looped.carried {
        true => arguments_active[position],
        false => of_results.contains_key(&position) && active.contains(&results[position]),
    };
    let parent_graph = &program.region(parent).graph;
    let lacks_layers = |gradient: &NodeId| !parent_graph.axes(*gradient).contains(looped.over);
    let alike: HashSet<usize> = (of_results.iter())
        .filter(|(position, gradient)| {
            looped.name == "repeat" && **position >= looped.carried && lacks_layers(gradient)
        })
        .map(|(&position, _)| position)
        .collect();
    let seeds = add_seeds(program.region_mut(train), looped.carried, wanted, &alike)?;
    let pairs: Vec<(NodeId, NodeId)> = (seeds.all())
        .map(|&(position, seed)| (results[position], seed))
        .filter(|(result, _)| active.contains(result))
        .collect();
    let found = sweep::sweep(program, train, &pairs, &active, &mut forward, saves)?;

    let region = program.region_mut(train);
    let mut of_arguments: [Gradients; 3] = Default::default();
    for (position, &argument) in region.arguments.clone().iter().enumerate() {
        let axes = region.graph.axes(argument).clone();
        let kind = kind(looped, position);
        let gradient = match found.get(&argument) {
            Some(&gradient) if arguments_active[position] => gradient,
            None if arguments_active[position] && kind == CARRIED => zero(&mut region.graph)?,
            _ => continue,
        };
        let mut gradient = spread(&mut region.graph, gradient, &axes)?;
        if let (INVARIANT, "scan") = (kind, looped.name) {
            gradient = recurrences::for_each_sequence(&mut region.graph, gradient)?.unwrap_or(gradient);
        }
        of_arguments[kind].push((position, gradient));
    }

    // Then they are cut off: what crosses the cut is kept, or computed again.
    let roots: Vec<NodeId> = of_arguments.iter().flatten().map(|gradient| gradient.1).collect();
    let seed_nodes: HashSet<NodeId> = seeds.all().map(|seed| seed.1).collect();
    let mut cut = cut(program.region(train), looped, &roots, &forward, &seed_nodes, saves);
    if looped.name == "scan" {
        replay_states(program.region(train), looped, &mut cut);
    }
    let cotangents = Cotangents { seeds, of_arguments, cut };
    let backward = backward_body(program.region(train), name, &cotangents)?;
    let backward = program.add_region(backward);

    let region = program.region_mut(train);
    region.results.extend(&cotangents.cut.saved);
    let kept: Vec<NodeId> = region.results.iter().chain(&region.arguments).copied().collect();
    region.graph.retain_ancestors(&kept);

    let saved = replace_forward(program, parent, node, looped, train, parent_forward)?;
    if cotangents.cut.replayed > 0
        && let Some(&first) = saved.first()
    {
        let graph = &mut program.region_mut(parent).graph;
        let loop_node = graph.operands(first)[0];
        graph.set_kept_states(loop_node, cotangents.cut.replayed);
    }
    add_backward(program, parent, node, looped, (train, backward), of_results, &cotangents, &saved)
}

/// Decides whether the states of a scan are kept at some positions only, and
/// what the backward body is then to be given beside what it reads itself.
fn replay_states(region: &Region, looped: Loop<'_>, cut: &mut Cut) {
    let graph = &region.graph;
    let states = &region.arguments[..looped.carried];
    let reads_states = cut.saved.iter().any(|id| states.contains(id));
    let of_states = recurrences::elements(graph, states);
    if !reads_states || looped.reverse || of_states <= recurrences::given(region, looped) {
        return;
    }
    cut.saved.retain(|id| !states.contains(id));
    cut.saved.extend(states);
    cut.replayed = looped.carried;
    for position in recurrences::read_by_states(region, looped) {
        let (list, other) = match kind(looped, position) {
            CARRIED => continue,
            STACKED => (&mut cut.stacked, position),
            _ => (&mut cut.invariant, position),
        };
        if !list.contains(&other) {
            list.push(other);
        }
    }
    cut.stacked.sort_unstable();
    cut.invariant.sort_unstable();
}

const CARRIED: usize = 0;
const STACKED: usize = 1;
const INVARIANT: usize = 2;

/// Which kind of operand stands at a position.
fn kind(looped: Loop<'_>, position: usize) -> usize {
    match position {
        _ if position < looped.carried => CARRIED,
        _ if position < looped.carried + looped.sequenced => STACKED,
        _ => INVARIANT,
    }
}

/// A parameter that a body reads past its ports would need a sum over the runs
/// that no port carries.
fn refuse_inner_params(region: &Region, active: &HashSet<NodeId>) -> Result<()> {
    for id in region.graph.ids().into_iter().filter(|id| active.contains(id)) {
        if let Op::Param(param) = region.graph.op(id) {
            return Err(IrError::Invalid(format!(
                "the body `{}` reads the parameter `{}`; it must be an operand of its loop",
                region.name, param.name
            )));
        }
    }
    Ok(())
}

/// The f32 type on the axes of a value: that of its gradient.
fn gradient_type(axes: &Axes) -> TensorType {
    TensorType::new(DType::F32, axes.clone())
}

fn zero(graph: &mut Graph) -> Result<NodeId> {
    graph.add(Literal::scalar(DType::F32, 0.0), &[])
}

/// Adds a stand-in for each cotangent that the backward body will be given.
/// They become its arguments; the forward region gives them up again.
fn add_seeds(
    region: &mut Region,
    carried: usize,
    wanted: impl Fn(usize) -> bool,
    alike: &HashSet<usize>,
) -> Result<Seeds> {
    let mut seeds = Seeds { carried: Vec::new(), stacked: Vec::new(), alike: Vec::new() };
    for (position, &result) in region.results.iter().enumerate().filter(|(position, _)| wanted(*position)) {
        let ty = gradient_type(region.graph.axes(result));
        let seed = region.graph.add(Argument { index: region.arguments.len() + position, ty }, &[])?;
        let list = match position {
            _ if position < carried => &mut seeds.carried,
            _ if alike.contains(&position) => &mut seeds.alike,
            _ => &mut seeds.stacked,
        };
        list.push((position, seed));
    }
    Ok(seeds)
}

/// Walks back from the gradients and stops at what is kept or given.
fn cut(
    region: &Region,
    looped: Loop<'_>,
    roots: &[NodeId],
    forward: &HashSet<NodeId>,
    seeds: &HashSet<NodeId>,
    saves: Policy,
) -> Cut {
    let graph = &region.graph;
    let pairs = policy::sequence_pairs(graph);
    // Of a recurrence, what is larger than all that a step is given, or the same for all sequences, is computed
    // again, rather than kept for each position.
    let most = (looped.name == "scan").then(|| recurrences::given(region, looped));
    let differs = |id: NodeId| graph.axes(id).iter().any(|axis| axis.name.as_str() == "batch");
    let small =
        |id: NodeId| most.is_none_or(|most| differs(id) && recurrences::elements(graph, &[id]) <= most);
    let (mut seen, mut stack) = (HashSet::new(), roots.to_vec());
    let mut cut = Cut::default();
    let mut inside = HashSet::new();
    while let Some(id) = stack.pop() {
        if seeds.contains(&id) || !seen.insert(id) {
            continue;
        }
        match graph.op(id) {
            Op::Argument(argument) => match kind(looped, argument.index) {
                CARRIED => cut.saved.push(id),
                STACKED => cut.stacked.push(argument.index),
                _ => cut.invariant.push(argument.index),
            },
            // A loop within the body runs once.
            Op::Output(_) if forward.contains(&id) => cut.saved.push(id),
            _ if forward.contains(&id) && small(id) && saves(graph, id, &pairs) => cut.saved.push(id),
            _ => {
                inside.insert(id);
                stack.extend(graph.operands(id));
            }
        }
    }
    cut.saved.sort_unstable();
    cut.stacked.sort_unstable();
    cut.invariant.sort_unstable();
    cut.inside = graph.topological_order().into_iter().filter(|id| inside.contains(id)).collect();
    cut
}

/// Copies the gradients out of the forward graph into a region of their own.
fn backward_body(train: &Region, name: Symbol, cotangents: &Cotangents) -> Result<Region> {
    let Cotangents { seeds, of_arguments, cut } = cotangents;
    let graph = &train.graph;
    let mut body = Region::new(format!("{name}.backward").as_str());
    for &axis in graph.axis_order() {
        body.graph.declare_axis(axis);
    }
    let mut copies: HashMap<NodeId, NodeId> = HashMap::new();
    for &(_, seed) in &seeds.carried {
        copies.insert(seed, body.add_argument(graph.ty(seed).clone())?);
    }
    let mut sums = Vec::new();
    for &(_, gradient) in &of_arguments[INVARIANT] {
        sums.push(body.add_argument(gradient_type(graph.axes(gradient)))?);
    }
    let stacked = cut.stacked.iter().map(|&position| train.arguments[position]);
    let invariant = cut.invariant.iter().map(|&position| train.arguments[position]);
    let stacked_seeds = seeds.stacked.iter().map(|seed| seed.1);
    let alike_seeds = seeds.alike.iter().map(|seed| seed.1);
    for id in
        stacked.chain(cut.saved.iter().copied()).chain(stacked_seeds).chain(invariant).chain(alike_seeds)
    {
        let argument = body.add_argument(graph.ty(id).clone())?;
        body.graph.annotate(argument, graph.node(id).span, graph.node(id).label);
        copies.insert(id, argument);
    }
    let missing = || IrError::Invalid(format!("the backward pass of `{}` reads what it is not given", name));
    for &id in &cut.inside {
        let node = graph.node(id).clone();
        let operands: Option<Vec<NodeId>> =
            graph.operands(id).iter().map(|operand| copies.get(operand).copied()).collect();
        let copy = body.graph.add(node.op, &operands.ok_or_else(missing)?)?;
        body.graph.annotate(copy, node.span, node.label);
        copies.insert(id, copy);
    }
    let copied = |gradients: &Gradients| -> Result<Vec<NodeId>> {
        gradients.iter().map(|(_, id)| copies.get(id).copied().ok_or_else(missing)).collect()
    };
    body.results = copied(&of_arguments[CARRIED])?;
    for (sum, part) in sums.into_iter().zip(copied(&of_arguments[INVARIANT])?) {
        body.results.push(body.graph.add(Map(ScalarFn::Add), &[sum, part])?);
    }
    body.results.extend(copied(&of_arguments[STACKED])?);
    Ok(body)
}

/// Puts a loop over the extended body in the place of the one that was there.
/// Returns its new results: what is kept, stacked.
fn replace_forward(
    program: &mut Program,
    parent: RegionId,
    node: NodeId,
    looped: Loop<'_>,
    train: RegionId,
    parent_forward: &mut HashSet<NodeId>,
) -> Result<Vec<NodeId>> {
    let (carried, stacked, invariant) = operands(program, parent, node, looped);
    let outputs = add_loop(program, parent, node, train, looped.reverse, [&carried, &stacked, &invariant])?;
    let graph = &mut program.region_mut(parent).graph;
    parent_forward.extend(&outputs);
    let (span, label) = (graph.node(node).span, graph.node(node).label);
    if let Some(&first) = outputs.first() {
        let replacement = graph.operands(first)[0];
        graph.annotate(replacement, span, label);
        parent_forward.insert(replacement);
    }
    let ports: Vec<(NodeId, usize)> = (graph.users(node).into_iter())
        .filter_map(|id| match graph.op(id) {
            Op::Output(port) => Some((id, port.index)),
            _ => None,
        })
        .collect();
    for (old, index) in ports {
        let graph = &mut program.region_mut(parent).graph;
        let (span, label) = (graph.node(old).span, graph.node(old).label);
        graph.annotate(outputs[index], span, label);
        replace_uses(program, parent, old, outputs[index])?;
    }
    Ok(outputs[looped.results.len()..].to_vec())
}

/// Adds a loop like `node`, over another body. Operands are given by kind.
fn add_loop(
    program: &mut Program,
    parent: RegionId,
    node: NodeId,
    body: RegionId,
    reverse: bool,
    [carried, stacked, invariant]: [&[NodeId]; 3],
) -> Result<Vec<NodeId>> {
    match *program.region(parent).graph.op(node) {
        Op::Scan(Scan { over, .. }) => {
            program.add_scan(parent, body, over, reverse, carried, stacked, invariant)
        }
        Op::Repeat(Repeat { layers, .. }) => {
            program.add_repeat(parent, body, layers, reverse, carried, stacked, invariant)
        }
        ref other => Err(IrError::Invalid(format!("{} is no loop", other.name()))),
    }
}

/// The operands of a loop by kind.
fn operands(
    program: &Program,
    parent: RegionId,
    node: NodeId,
    looped: Loop<'_>,
) -> (Vec<NodeId>, Vec<NodeId>, Vec<NodeId>) {
    let mut carried = program.region(parent).graph.operands(node);
    let mut stacked = carried.split_off(looped.carried);
    let invariant = stacked.split_off(looped.sequenced);
    (carried, stacked, invariant)
}

/// Points to `new` whatever points to `old`: nodes, results and, in the main
/// region, entries.
pub(crate) fn replace_uses(program: &mut Program, region: RegionId, old: NodeId, new: NodeId) -> Result<()> {
    let graph = &mut program.region_mut(region).graph;
    for user in graph.users(old) {
        let replaced: Vec<NodeId> = graph
            .operands(user)
            .into_iter()
            .map(|operand| if operand == old { new } else { operand })
            .collect();
        graph.set_operands(user, &replaced)?;
    }
    for result in &mut program.region_mut(region).results {
        if *result == old {
            *result = new;
        }
    }
    if region == Program::MAIN {
        for entry in &mut program.entries {
            for (_, root) in entry.roots.iter_mut().chain(&mut entry.updates) {
                if *root == old {
                    *root = new;
                }
            }
        }
    }
    Ok(())
}

/// Adds the backward loop to the parent. Returns the gradient of each operand.
fn add_backward(
    program: &mut Program,
    parent: RegionId,
    node: NodeId,
    looped: Loop<'_>,
    (train, backward): (RegionId, RegionId),
    of_results: &BTreeMap<usize, NodeId>,
    cotangents: &Cotangents,
    saved: &[NodeId],
) -> Result<Vec<Option<NodeId>>> {
    let Cotangents { seeds, of_arguments, cut } = cotangents;
    let sums: Vec<Axes> = program.region(backward).arguments[seeds.carried.len()..]
        [..of_arguments[INVARIANT].len()]
        .iter()
        .map(|&sum| program.region(backward).graph.axes(sum).clone())
        .collect();
    let graph = &mut program.region_mut(parent).graph;
    let given = graph.operands(node);
    let mut carried = Vec::new();
    for &(position, _) in &seeds.carried {
        let start = match of_results.get(&position) {
            Some(&gradient) => gradient,
            None => zero(graph)?,
        };
        carried.push(spread(graph, start, &looped.results[position].axes)?);
    }
    for axes in &sums {
        let start = zero(graph)?;
        carried.push(spread(graph, start, axes)?);
    }
    let mut stacked: Vec<NodeId> = cut.stacked.iter().map(|&position| given[position]).collect();
    stacked.extend(saved);
    for &(position, _) in &seeds.stacked {
        stacked.push(spread(graph, of_results[&position], &looped.results[position].axes)?);
    }
    let mut invariant: Vec<NodeId> = cut.invariant.iter().map(|&position| given[position]).collect();
    for &(position, _) in &seeds.alike {
        let axes = looped.results[position].axes.without(&[looped.over]);
        invariant.push(spread(graph, of_results[&position], &axes)?);
    }
    let (span, label) = (graph.node(node).span, graph.node(node).label);

    let outputs =
        add_loop(program, parent, node, backward, !looped.reverse, [&carried, &stacked, &invariant])?;
    if let (1.., Some(&first)) = (cut.replayed, outputs.first()) {
        let arguments = program.region(train).arguments.len();
        let operand = |position: usize| match kind(looped, position) {
            CARRIED => Some(carried.len() + cut.stacked.len() + saved.len() - cut.replayed + position),
            STACKED => cut.stacked.iter().position(|&other| other == position).map(|at| carried.len() + at),
            _ => {
                let at = cut.invariant.iter().position(|&other| other == position);
                at.map(|at| carried.len() + stacked.len() + at)
            }
        };
        let replay =
            Replay { body: train, carried: looped.carried, operands: (0..arguments).map(operand).collect() };
        let graph = &mut program.region_mut(parent).graph;
        let added = graph.operands(first)[0];
        graph.set_replay(added, replay);
    }
    let graph = &mut program.region_mut(parent).graph;
    if let Some(&first) = outputs.first() {
        let added = graph.operands(first)[0];
        graph.annotate(added, span, label.map(|label| Symbol::new(&format!("{label}.gradient"))));
    }
    let mut gradients = vec![None; given.len()];
    let order = of_arguments[CARRIED].iter().chain(&of_arguments[INVARIANT]).chain(&of_arguments[STACKED]);
    for (&(position, _), output) in order.zip(outputs) {
        let axes = graph.axes(given[position]).clone();
        // What was summed for each sequence alone is summed over all of them.
        let rest: Vec<_> = graph.axes(output).without(&axes).to_vec();
        gradients[position] = Some(match rest.is_empty() {
            true => output,
            false => graph.add(Reduce { kind: ReduceKind::Sum, over: rest }, &[output])?,
        });
    }
    Ok(gradients)
}
