//! What is computed, layer by layer, from a stacked result of a repeat moves into the repeat's body. It decides nothing
//! of what a step is.

use crate::differentiate::replace_uses;
use diptych_ir::ops::{Argument, Output, Repeat};
use diptych_ir::{DType, EntryKind, NodeId, Op, Program, Region, RegionId, Result};
use std::collections::{BTreeSet, HashMap};

/// A value of the main region, or of the body of another repeat over the same layers.
type Place = (RegionId, NodeId);

/// Moves updates of the entry `Step`, and what other repeats over the same layers compute of what they are given, into the
/// repeats that yield what they are computed from.
pub(super) fn sink(program: &mut Program) -> Result<()> {
    // What has moved may be what others of them are computed from.
    loop {
        let graph = &program.main().graph;
        let repeats = graph.ids().into_iter().filter(|&id| matches!(graph.op(id), Op::Repeat(_)));
        let mut moved = false;
        for repeat in repeats.collect::<Vec<_>>() {
            moved = sink_into(program, repeat)?;
            if moved {
                crate::simplify::drop_unused_nodes(program);
                break;
            }
        }
        if !moved {
            return Ok(());
        }
    }
}

/// How a value gets into the body of a repeat.
enum Leaf {
    /// The body computes it: which of the results.
    Result(usize),
    /// A slice of it is given.
    Stacked,
    /// It is given.
    Invariant,
    /// It is computed from others.
    Inner,
}

struct Sinking<'a> {
    program: &'a Program,
    /// The repeat, in the main region.
    node: NodeId,
    repeat: Repeat,
    /// What depends on the repeat, and cannot be given to it.
    after: BTreeSet<NodeId>,
}

/// What a body is given besides, and what it then computes.
#[derive(Default)]
struct Gathered {
    stacked: Vec<NodeId>,
    invariant: Vec<NodeId>,
    /// Whether anything of it is a result of the body.
    reads_results: bool,
}

impl Sinking<'_> {
    /// The main region's node that an argument of another repeat's body stands for.
    fn given(&self, place: Place, other: Option<NodeId>) -> Option<Place> {
        let Op::Argument(argument) = self.program.region(place.0).graph.op(place.1) else {
            return Some(place);
        };
        let operands = self.program.main().graph.operands(other?);
        Some((Program::MAIN, operands[argument.index]))
    }

    fn leaf(&self, (region, id): Place) -> Option<Leaf> {
        let graph = &self.program.region(region).graph;
        let (layers, in_main) = (self.repeat.layers, region == Program::MAIN);
        match graph.op(id) {
            Op::Output(output) if in_main && graph.operands(id)[0] == self.node => {
                (output.index >= self.repeat.carried).then_some(Leaf::Result(output.index))
            }
            Op::Literal(literal) if literal.axis.is_none() => Some(Leaf::Inner),
            Op::Map(_) | Op::Cast(_) | Op::Reduce(_) if !in_main => Some(Leaf::Inner),
            _ if !in_main => None,
            Op::Param(_) if graph.axes(id).contains(layers) => Some(Leaf::Stacked),
            Op::Map(_) | Op::Cast(_) if graph.axes(id).contains(layers) => Some(Leaf::Inner),
            // A repeat is given what is stored, and truth values and whole numbers are computed where they are read.
            Op::Map(_) if matches!(graph.ty(id).dtype, DType::Bool | DType::I32) => Some(Leaf::Inner),
            _ if graph.axes(id).contains(layers) || self.after.contains(&id) => None,
            _ => Some(Leaf::Invariant),
        }
    }

    /// What a value is computed from; `None` if the body cannot compute it. `other` is the repeat whose body the value
    /// is of, if it is not of the main region.
    fn gather(&self, place: Place, other: Option<NodeId>, into: &mut Gathered) -> Option<()> {
        let place = self.given(place, other)?;
        match self.leaf(place)? {
            Leaf::Result(_) => into.reads_results = true,
            Leaf::Stacked if into.stacked.contains(&place.1) => {}
            Leaf::Stacked => into.stacked.push(place.1),
            Leaf::Invariant if into.invariant.contains(&place.1) => {}
            Leaf::Invariant => into.invariant.push(place.1),
            Leaf::Inner => {
                for operand in self.program.region(place.0).graph.operands(place.1) {
                    self.gather((place.0, operand), other, into)?;
                }
            }
        }
        Some(())
    }

    /// Adds a value to the body, unless it is there.
    fn copy(
        &self,
        body: &mut Region,
        place: Place,
        other: Option<NodeId>,
        copies: &mut HashMap<Place, NodeId>,
    ) -> Result<NodeId> {
        let place = self.given(place, other).unwrap_or(place);
        if let Some(&copy) = copies.get(&place) {
            return Ok(copy);
        }
        let (graph, id) = (&self.program.region(place.0).graph, place.1);
        if let Some(Leaf::Result(index)) = self.leaf(place) {
            return Ok(body.results[index]);
        }
        let operands = graph.operands(id).into_iter();
        let operands: Vec<NodeId> = operands
            .map(|operand| self.copy(body, (place.0, operand), other, copies))
            .collect::<Result<_>>()?;
        let node = graph.node(id).clone();
        let copy = body.graph.add(node.op, &operands)?;
        body.graph.annotate(copy, node.span, node.label);
        copies.insert(place, copy);
        Ok(copy)
    }
}

/// What moves: a value, the repeat whose body it is of, and the main region's node that stands for all layers of it.
struct Moved {
    place: Place,
    other: Option<NodeId>,
    stack: NodeId,
}

/// Whether anything moved into this repeat.
fn sink_into(program: &mut Program, node: NodeId) -> Result<bool> {
    let graph = &program.main().graph;
    let Op::Repeat(repeat) = graph.op(node).clone() else { return Ok(false) };
    let mut after = BTreeSet::from([node]);
    for id in graph.topological_order() {
        if graph.operands(id).iter().any(|operand| after.contains(operand)) {
            after.insert(id);
        }
    }
    let sinking = Sinking { program, node, repeat: repeat.clone(), after };
    let step = program.entry(EntryKind::Step);
    let updates = step.into_iter().flat_map(|entry| &entry.updates).map(|update| update.1);
    let of_main = updates.map(|id| Moved { place: (Program::MAIN, id), other: None, stack: id });
    let of_others = graph.ids().into_iter().filter_map(|stack| {
        let Op::Output(output) = graph.op(stack) else { return None };
        let other = graph.operands(stack)[0];
        let Op::Repeat(looped) = graph.op(other) else { return None };
        let alike = other != node && looped.carried == 0 && looped.layers == repeat.layers;
        let place = (looped.body, program.region(looped.body).results[output.index]);
        alike.then_some(Moved { place, other: Some(other), stack })
    });
    let (mut moved, mut all) = (Vec::new(), Gathered::default());
    for each in of_main.chain(of_others) {
        let mut own = Gathered::default();
        let leaf = sinking.given(each.place, each.other).and_then(|place| sinking.leaf(place));
        let inner = matches!(leaf, Some(Leaf::Inner));
        if inner && sinking.gather(each.place, each.other, &mut own).is_some() && own.reads_results {
            let new = |known: &[NodeId], found: Vec<NodeId>| -> Vec<NodeId> {
                found.into_iter().filter(|id| !known.contains(id)).collect()
            };
            let (stacked, invariant) = (new(&all.stacked, own.stacked), new(&all.invariant, own.invariant));
            all.stacked.extend(stacked);
            all.invariant.extend(invariant);
            moved.push(each);
        }
    }
    if moved.is_empty() {
        return Ok(false);
    }
    let (body, stacked, invariant) = wider_body(&sinking, &all, &moved)?;
    let operands = program.main().graph.operands(node);
    let carried = operands[..repeat.carried].to_vec();
    let stacks: Vec<NodeId> = moved.iter().map(|each| each.stack).collect();
    let body = program.add_region(body);
    let outputs = program.add_repeat(
        Program::MAIN,
        body,
        repeat.layers,
        repeat.reverse,
        &carried,
        &stacked,
        &invariant,
    )?;
    for old in program.main().graph.users(node) {
        if let &Op::Output(Output { index }) = program.main().graph.op(old) {
            replace_uses(program, Program::MAIN, old, outputs[index])?;
        }
    }
    for (stack, &new) in stacks.into_iter().zip(&outputs[repeat.results.len()..]) {
        replace_uses(program, Program::MAIN, stack, new)?;
    }
    Ok(true)
}

/// The body with what moves into it, and the repeat's stacked and invariant operands.
fn wider_body(
    sinking: &Sinking<'_>,
    all: &Gathered,
    moved: &[Moved],
) -> Result<(Region, Vec<NodeId>, Vec<NodeId>)> {
    let (main, repeat) = (&sinking.program.main().graph, &sinking.repeat);
    let old = sinking.program.region(repeat.body);
    let operands = main.operands(sinking.node);
    let (carried, rest) = operands.split_at(repeat.carried);
    let (stacked, invariant) = rest.split_at(repeat.stacked);
    let mut body = Region::new(old.name);
    for &axis in old.graph.axis_order().iter().chain(main.axis_order()) {
        body.graph.declare_axis(axis);
    }
    let new = |known: &[NodeId], wanted: &[NodeId]| -> Vec<NodeId> {
        wanted.iter().copied().filter(|id| !known.contains(id)).collect()
    };
    let (more_stacked, more_invariant) = (new(stacked, &all.stacked), new(invariant, &all.invariant));
    // The old arguments in their order, the new ones after those of their kind.
    let (mut copied, mut copies): (HashMap<NodeId, NodeId>, HashMap<Place, NodeId>) = Default::default();
    let mut argument = |body: &mut Region, at: Option<usize>, operand: NodeId, slice: bool| -> Result<()> {
        let ty = match at {
            Some(at) => old.graph.ty(old.arguments[at]).clone(),
            None if slice => main.ty(operand).without_axis(repeat.layers),
            None => main.ty(operand).clone(),
        };
        let argument = body.graph.add(Argument { index: body.arguments.len(), ty }, &[])?;
        body.arguments.push(argument);
        copied.extend(at.map(|at| (old.arguments[at], argument)));
        // What is carried is no longer what it was before the first layer.
        if at.is_none_or(|at| at >= repeat.carried) {
            copies.entry((Program::MAIN, operand)).or_insert(argument);
        }
        Ok(())
    };
    for (at, &operand) in carried.iter().chain(stacked).enumerate() {
        argument(&mut body, Some(at), operand, false)?;
    }
    for &operand in &more_stacked {
        argument(&mut body, None, operand, true)?;
    }
    for (at, &operand) in invariant.iter().enumerate() {
        argument(&mut body, Some(repeat.carried + repeat.stacked + at), operand, false)?;
    }
    for &operand in &more_invariant {
        argument(&mut body, None, operand, false)?;
    }
    for id in old.graph.ancestors(&old.results) {
        if !copied.contains_key(&id) {
            let node = old.graph.node(id).clone();
            let operands: Vec<NodeId> =
                old.graph.operands(id).iter().map(|operand| copied[operand]).collect();
            let copy = body.graph.add(node.op, &operands)?;
            body.graph.annotate(copy, node.span, node.label);
            copied.insert(id, copy);
        }
    }
    body.results = old.results.iter().map(|result| copied[result]).collect();
    for each in moved {
        let result = sinking.copy(&mut body, each.place, each.other, &mut copies)?;
        body.results.push(result);
    }
    Ok((body, [stacked, &more_stacked].concat(), [invariant, &more_invariant].concat()))
}
