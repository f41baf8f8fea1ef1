//! Which groups run in turns, each turn over some of the rows: those that form the same products along a huge axis,
//! such as the logits of the loss and of its gradient. Within a turn such a product is stored, by the group that forms
//! it first, and the others read it while it is near. It decides no number of rows.

use super::roles::{Roles, is_view};
use super::{Group, GroupKind, Step, StreamAxes, StreamAxis, Turns, streams};
use crate::layout::{Leading, symbol};
use diptych_ir::{NodeId, Op, ReduceKind, ScalarFn};
use std::collections::HashSet;

/// Joins steps of a region that can run in turns; all others stay as they are. With `apart`, a product of what is stored
/// for the turn has a kernel of its own, which can be divided in any way.
pub(super) fn join(roles: &Roles, steps: Vec<Step>, apart: bool) -> Vec<Step> {
    let mut steps = steps;
    let mut refused: HashSet<NodeId> = HashSet::new();
    while let Some(product) = formed_again(roles, &steps, &refused) {
        refused.insert(product);
        if let Some(joined) = join_around(roles, &steps, product) {
            steps = joined;
        }
    }
    if apart {
        for step in &mut steps {
            if let Step::Turns(turns) = step {
                turns.groups = turns.groups.iter().flat_map(|group| parts(roles, group)).collect();
            }
        }
    }
    steps
}

/// What forms the values that a group stores for the turn, and what sums them, if that reads nothing but these.
fn parts(roles: &Roles, group: &Group) -> Vec<Group> {
    let GroupKind::Stream(StreamAxes { along, across, .. }) = &group.kind else { return vec![group.clone()] };
    let (formed, sums): (Vec<NodeId>, Vec<NodeId>) =
        group.nodes.iter().partition(|&&id| roles.is_streamed(id));
    let unstored = |source: &NodeId| formed.contains(source) && !group.outputs.contains(source);
    let apart = sums.iter().all(|&id| !roles.sources(id).iter().any(unstored));
    let forms_alone = formed_in_stream(roles, group).len() == formed.len();
    let (summing, rows) = match (along, across) {
        (&StreamAxis::Rows(leading), _) => (GroupKind::OverRows(leading), leading),
        (_, &StreamAxis::Rows(leading)) => (GroupKind::Rows(leading), leading),
        _ => return vec![group.clone()],
    };
    if !apart || !forms_alone {
        return vec![group.clone()];
    }
    let part = |kind: GroupKind, nodes: Vec<NodeId>| {
        let outputs = group.outputs.iter().copied().filter(|id| nodes.contains(id)).collect();
        Group { kind, nodes, outputs }
    };
    let parts = [part(GroupKind::Rows(rows), formed), part(summing, sums)];
    parts.into_iter().filter(|part| !part.nodes.is_empty()).collect()
}

/// A product along a huge axis that more than one group forms.
fn formed_again(roles: &Roles, steps: &[Step], refused: &HashSet<NodeId>) -> Option<NodeId> {
    let mut seen = HashSet::new();
    let products = steps.iter().filter_map(group).filter(|group| walks_rows(group)).flat_map(|group| {
        group.nodes.iter().copied().filter(|&id| {
            matches!(roles.graph.op(id), Op::Contract(_)) && roles.is_streamed(id) && !refused.contains(&id)
        })
    });
    products.into_iter().find(|&id| !seen.insert(id))
}

fn group(step: &Step) -> Option<&Group> {
    match step {
        Step::Group(group) => Some(group),
        Step::Repeat(_) | Step::Turns(_) => None,
    }
}

/// Whether a group streams values over tokens and a huge axis.
fn walks_rows(group: &Group) -> bool {
    let rows = StreamAxis::Rows(Leading::Rows);
    matches!(&group.kind, GroupKind::Stream(axes) if axes.along == rows || axes.across == rows)
}

/// The steps with those around a product in turns, if they can run so.
fn join_around(roles: &Roles, steps: &[Step], product: NodeId) -> Option<Vec<Step>> {
    let needs = needs(roles, steps);
    let forms = |at: &usize| group(&steps[*at]).is_some_and(|group| group.nodes.contains(&product));
    let forming: Vec<usize> = (0..steps.len()).filter(forms).collect();
    // With all that lies between the first and the last of them.
    let is_member = |at: usize| {
        let before = forming.iter().any(|&first| first == at || needs[at].contains(&first));
        before && forming.iter().any(|&last| last == at || needs[last].contains(&at))
    };
    let members: Vec<usize> = (0..steps.len()).filter(|&at| is_member(at)).collect();
    let mut groups = Vec::new();
    for &at in &members {
        let found = group(&steps[at])?;
        let needed = members.iter().any(|&other| needs[other].contains(&at));
        if !row_by_row(roles, found) || found.sums_rows() && (needed || !sums_alone(roles, found)) {
            return None;
        }
        groups.push(found.clone());
    }
    let kept = keep(roles, &mut groups);
    let last = *members.last()?;
    let after = |at: usize| at > last || members.iter().any(|member| needs[at].contains(member));
    let others = |later: bool| {
        let of = move |at: &usize| after(*at) == later;
        (0..steps.len()).filter(|at| !members.contains(at)).filter(of).map(|at| steps[at].clone())
    };
    Some(others(false).chain([Step::Turns(Turns { groups, kept })]).chain(others(true)).collect())
}

/// For each step those whose values it needs, directly or not.
fn needs(roles: &Roles, steps: &[Step]) -> Vec<HashSet<usize>> {
    let mut found: Vec<HashSet<usize>> = Vec::with_capacity(steps.len());
    for step in steps {
        let reads: HashSet<NodeId> = step.nodes().into_iter().flat_map(|id| roles.sources(id)).collect();
        let read = |id: NodeId| match roles.graph.op(id) {
            Op::Output(_) => roles.graph.operands(id)[0],
            _ => id,
        };
        let reads: HashSet<NodeId> = reads.into_iter().map(read).collect();
        let mut needed = HashSet::new();
        for (at, other) in steps[..found.len()].iter().enumerate() {
            if other.stored().iter().any(|id| reads.contains(id)) {
                needed.insert(at);
                needed.extend(found[at].iter().copied());
            }
        }
        found.push(needed);
    }
    found
}

/// Whether a group computes row by row, so that it may have any rows without the others: nothing in it belongs to a
/// sequence or to a position.
fn row_by_row(roles: &Roles, group: &Group) -> bool {
    let kind = walks_rows(group) || group.kind == GroupKind::Rows(Leading::Rows);
    let rows = |id: NodeId| matches!(roles.leading(id), Leading::None | Leading::Rows);
    let mut stack: Vec<NodeId> = group.nodes.iter().flat_map(|&id| roles.graph.operands(id)).collect();
    let mut seen = HashSet::new();
    while let Some(id) = stack.pop() {
        let counts = matches!(roles.graph.op(id), Op::Index(index) if symbol(index.axis).is_some());
        if counts || !rows(id) {
            return false;
        }
        if seen.insert(id) && (roles.is_free(id) || is_view(roles.graph.op(id))) {
            stack.extend(roles.graph.operands(id));
        }
    }
    let wanted = |id: NodeId| roles.is_streamed(id) && roles.is_wanted(id);
    kind && group.nodes.iter().all(|&id| rows(id) && !wanted(id))
}

/// Whether all that a group leaves are sums over rows, which can go on from turn to turn.
fn sums_alone(roles: &Roles, group: &Group) -> bool {
    group.nodes.iter().filter(|&&id| !roles.is_streamed(id)).all(|&id| {
        let sum = match roles.graph.op(id) {
            Op::Contract(_) => true,
            Op::Reduce(reduce) => reduce.kind == ReduceKind::Sum,
            _ => false,
        };
        sum && streams::axes_of(roles, id).is_some()
    })
}

/// Lets groups store values that later ones would form again, if they take more than reading them does.
fn keep(roles: &Roles, groups: &mut [Group]) -> Vec<NodeId> {
    let mut kept = Vec::new();
    for later in 1..groups.len() {
        for earlier in 0..later {
            let formed = formed_in_stream(roles, &groups[earlier]);
            let nodes = groups[later].nodes.clone();
            let common = || nodes.iter().copied().filter(|id| formed.contains(id));
            let read_on = |id: &NodeId| {
                nodes.iter().any(|&user| !formed.contains(&user) && roles.sources(user).contains(id))
            };
            let mut last: Vec<NodeId> = common().filter(read_on).collect();
            // Of several only products are worth a place in memory.
            if last.len() > 1 {
                last = common().filter(|&id| is_product(roles, id)).collect();
            }
            let dear = |id: &NodeId| {
                let mut formed = streams::streamed_ancestors(roles, *id);
                formed.push(*id);
                formed.iter().any(|id| nodes.contains(id) && is_dear(roles, *id))
            };
            for id in last.into_iter().filter(dear).filter(|id| !kept.contains(id)).collect::<Vec<_>>() {
                kept.push(id);
                groups[earlier].outputs.push(id);
            }
            read_kept(roles, &mut groups[later], &kept);
        }
    }
    kept
}

/// The streamed values of a group that are there block by block: none of its sums is needed for them.
fn formed_in_stream(roles: &Roles, group: &Group) -> HashSet<NodeId> {
    let mut formed = HashSet::new();
    for &id in group.nodes.iter().filter(|&&id| roles.is_streamed(id)) {
        let there = |source: &NodeId| !group.nodes.contains(source) || formed.contains(source);
        if roles.sources(id).iter().all(there) {
            formed.insert(id);
        }
    }
    formed
}

fn is_product(roles: &Roles, id: NodeId) -> bool {
    matches!(roles.graph.op(id), Op::Contract(_))
}

/// Whether an element takes longer to compute than to read.
fn is_dear(roles: &Roles, id: NodeId) -> bool {
    let function = |function: ScalarFn| {
        matches!(
            function,
            ScalarFn::Exp
                | ScalarFn::Log
                | ScalarFn::Tanh
                | ScalarFn::Sigmoid
                | ScalarFn::Erf
                | ScalarFn::Sin
                | ScalarFn::Cos
        )
    };
    is_product(roles, id) || matches!(roles.graph.op(id), Op::Map(map) if function(map.0))
}

/// Takes kept values out of a group that does not store them, and what only they needed.
fn read_kept(roles: &Roles, group: &mut Group, kept: &[NodeId]) {
    let mut stack: Vec<NodeId> = group
        .nodes
        .iter()
        .copied()
        .filter(|&id| !roles.is_streamed(id) || group.outputs.contains(&id))
        .collect();
    let mut formed: HashSet<NodeId> = stack.iter().copied().collect();
    while let Some(id) = stack.pop() {
        for source in roles.sources(id) {
            let stored = kept.contains(&source) && !group.outputs.contains(&source);
            if group.nodes.contains(&source) && !stored && formed.insert(source) {
                stack.push(source);
            }
        }
    }
    group.nodes.retain(|id| formed.contains(id));
}
