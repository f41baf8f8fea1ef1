//! Which fixed axes are too long to be stored beside run-time rows, decided
//! from all that a program's entries ask for, so that a value is formed in the
//! same way, and has the same bits, in every one of them. It groups nothing.

use super::{FuseError, streams};
use crate::layout::{Leading, leading, product};
use diptych_ir::{Axis, Graph, NodeId, Op, Program, RegionId};
use std::collections::{HashMap, HashSet};

/// A contraction whose columns are at least this many times its summed
/// elements makes a value too large to store beside its operands. Layers
/// widen by up to 6 (Gemma 3, but for a few by 8), the heads of large models by
/// 7.8 and more.
const EXPANSION: usize = 7;

/// The axes along which values with run-time rows are formed block by block.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct StreamedAxes(HashSet<Axis>);

impl StreamedAxes {
    /// Looks at everything that the entries' roots depend on, of a program in
    /// normal form of which no entry has been cut off. What only updates need
    /// (the backward pass) makes no axis long: a program that is not trained has the same bits.
    ///
    /// Long are axes that contractions expand to and reductions sum over, and that no value with
    /// run-time rows has from elsewhere: none that is given, gathered, or summed up to it by a
    /// contraction that does not expand.
    ///
    /// # Errors
    /// When a node has run-time axes that no kernel can walk.
    pub fn of(program: &Program) -> Result<StreamedAxes, FuseError> {
        let roots = program.entries.iter().flat_map(|entry| &entry.roots).map(|root| root.1);
        let updates = program.entries.iter().flat_map(|entry| &entry.updates).map(|root| root.1);
        let mut huge = HashSet::new();
        let mut reduced = HashSet::new();
        let mut ordinary = HashSet::new();
        for (region, order) in reachable(program, roots.clone().collect()) {
            let graph = &program.region(region).graph;
            let leading = leadings(program, region, &order)?;
            let walks = |id: NodeId| matches!(leading[&id], Leading::Rows | Leading::Batch);
            for &id in &order {
                reduced.extend(streams::summed(graph.op(id)).into_iter().flatten().copied());
                let Op::Contract(contract) = graph.op(id) else { continue };
                let fixed = contract.over.iter().all(|axis| axis.fixed_size().is_some());
                let least = Some(EXPANSION * product(&contract.over));
                let expands = |axis: Axis| fixed && axis.fixed_size() >= least;
                for axis in fixed_axes(graph, id).filter(|_| walks(id)) {
                    if expands(axis) { &mut huge } else { &mut ordinary }.insert(axis);
                }
            }
            ordinary.extend(unfit(graph, &order, &leading));
        }
        // The rest of the main region has to do with the same values: if it cannot, no entry does.
        let main = &program.main().graph;
        let order = main.ancestors(&roots.chain(updates).collect::<Vec<_>>());
        ordinary.extend(unfit(main, &order, &leadings(program, Program::MAIN, &order)?));
        Ok(StreamedAxes(
            huge.into_iter().filter(|axis| reduced.contains(axis) && !ordinary.contains(axis)).collect(),
        ))
    }

    /// Those along which the nodes of one entry's region are formed block by block.
    pub(super) fn within(
        &self,
        graph: &Graph,
        order: &[NodeId],
        leading: &HashMap<NodeId, Leading>,
    ) -> HashSet<Axis> {
        // A backward pass may be given what the forward pass streams.
        let unfit = unfit(graph, order, leading);
        // Where nothing reduces such a value it is wanted whole, and no other bits come of storing it.
        let reduces =
            |id: NodeId, axis: &Axis| streams::summed(graph.op(id)).is_some_and(|over| over.contains(axis));
        let reduced = |axis: &Axis| order.iter().any(|&id| reduces(id, axis));
        self.0.iter().copied().filter(|axis| !unfit.contains(axis) && reduced(axis)).collect()
    }
}

/// The nodes that roots of the main region depend on, region by region, operands first.
fn reachable(program: &Program, roots: Vec<NodeId>) -> HashMap<RegionId, Vec<NodeId>> {
    let mut found = HashMap::new();
    let mut waiting = vec![(Program::MAIN, roots)];
    while let Some((id, roots)) = waiting.pop() {
        let graph = &program.region(id).graph;
        let order = graph.ancestors(&roots);
        let bodies = order.iter().filter_map(|&node| graph.op(node).as_loop()).map(|looped| looped.body);
        for body in bodies.filter(|body| !found.contains_key(body)) {
            waiting.push((body, program.region(body).results.clone()));
        }
        found.insert(id, order);
    }
    found
}

/// The run-time axes of each node.
pub(super) fn leadings(
    program: &Program,
    region: RegionId,
    order: &[NodeId],
) -> Result<HashMap<NodeId, Leading>, FuseError> {
    let region = program.region(region);
    let find = |&id: &NodeId| match leading(region.graph.axes(id)) {
        Ok(leading) => Ok((id, leading)),
        Err(problem) => Err(FuseError::at(region, id, problem)),
    };
    order.iter().map(find).collect()
}

fn fixed_axes(graph: &Graph, id: NodeId) -> impl Iterator<Item = Axis> {
    graph.axes(id).iter().copied().filter(|axis| axis.fixed_size().is_some())
}

/// Axes of values that are there as a whole, and of what is seen over other positions or under
/// other names: neither is formed block by block.
fn unfit(graph: &Graph, order: &[NodeId], leading: &HashMap<NodeId, Leading>) -> HashSet<Axis> {
    let mut found: HashSet<Axis> = HashSet::new();
    // What a recurrence starts from may be left out.
    let has_rows = |id: NodeId| leading.get(&id).is_some_and(|&leading| leading != Leading::None);
    for &id in order {
        let operands = graph.operands(id);
        if matches!(leading[&id], Leading::Rows | Leading::Batch)
            && matches!(graph.op(id), Op::Input(_) | Op::Argument(_) | Op::Output(_) | Op::Take(_))
        {
            found.extend(fixed_axes(graph, id));
        }
        // Weights are free to be seen in any way: an embedding's table has the axis of the vocabulary.
        if !operands.iter().any(|&operand| has_rows(operand)) {
            continue;
        }
        match graph.op(id) {
            Op::Repeat(_) | Op::Scan(_) => {
                let given = operands.into_iter().filter(|&operand| has_rows(operand));
                found.extend(given.flat_map(|operand| fixed_axes(graph, operand)));
            }
            _ if matches!(leading[&id], Leading::Past | Leading::Quadratic) => {
                found.extend(graph.axes(id).iter().copied())
            }
            Op::Rename(rename) => found.extend([rename.from, rename.to]),
            Op::Slice(slice) => found.extend([slice.axis, slice.into]),
            Op::Split(split) => found.extend(split.into.iter().copied().chain([split.axis])),
            Op::Merge(merge) => found.extend(merge.axes.iter().copied().chain([merge.into])),
            Op::Concat(concat) => found.extend(concat.pieces.iter().copied().chain([concat.into])),
            Op::Take(take) if has_rows(operands[0]) => {
                found.insert(take.axis);
            }
            _ => {}
        }
    }
    found
}
