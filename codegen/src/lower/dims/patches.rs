//! Patches of two axes: the instances of what is stored along another axis than it is read.

use super::{Context, Dims};
use crate::tile::Extent;
use diptych_ir::{Axes, Axis, Graph, NodeId, Op};
use diptych_passes::fuse::{Group, GroupKind};
use diptych_passes::layout::Layout;

/// The axes that run along memory where something lies that a pointwise group without run-time axes reads, and where it
/// stores its result, if they are not the same and a patch of both is to be an instance's.
pub(super) fn exchanged_axes(group: &Group, graph: &Graph, context: &Context) -> Option<[Axis; 2]> {
    context.blocks.patch?;
    let &[output] = &group.outputs[..] else { return None };
    let axes = graph.axes(output);
    let pointwise = |&id: &NodeId| matches!(graph.op(id), Op::Map(_) | Op::Cast(_)) && graph.axes(id) == axes;
    if group.kind != GroupKind::Flat || !group.nodes.iter().all(pointwise) {
        return None;
    }
    let target = fastest(&(context.layout)(output))?;
    let mut stack: Vec<NodeId> = group.nodes.iter().flat_map(|&id| graph.operands(id)).collect();
    let mut source = None;
    while let Some(id) = stack.pop() {
        if group.nodes.contains(&id) || graph.axes(id).is_empty() {
            continue;
        }
        match graph.op(id) {
            Op::Map(_) | Op::Cast(_) if context.in_place.contains(&id) => stack.extend(graph.operands(id)),
            op if diptych_passes::fuse::is_view(op) && !matches!(op, Op::Output(_)) => return None,
            _ => source = source.or(fastest(&(context.layout)(id)).filter(|&axis| axis != target)),
        }
    }
    let source = source?;
    [source, target].iter().all(|&axis| axes.contains(axis)).then_some([source, target])
}

/// The axis that runs along memory.
fn fastest(layout: &Layout) -> Option<Axis> {
    let axes = match layout {
        Layout::Dense { order, .. } => order,
        Layout::Packed { n, .. } => n,
        Layout::Blocks { .. } | Layout::Rounded { .. } => return None,
    };
    axes.iter().rev().copied().find(|axis| axis.fixed_size() > Some(1))
}

/// Divides all axes among instances, of which each has a patch of two.
pub(super) fn divide(dims: &mut Dims, axes: &Axes, patch: [Axis; 2], context: &Context) {
    for axis in context.layouts.ordered(axes.iter().copied()) {
        let (Some(size), Some(most)) = (axis.fixed_size(), context.blocks.patch) else { continue };
        if patch.contains(&axis) {
            dims.divide(axis, Extent::Blocks { size, block: most.min(size) });
        } else {
            dims.divide(axis, Extent::Blocks { size, block: 1 });
            dims.single.extend(dims.by_axis.get(&axis).copied());
        }
    }
}
