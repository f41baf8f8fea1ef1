//! Groups around streamed values: which reductions of one streamed value share
//! a walk, and when a maximum may be folded into the sums that need it.

use super::roles::Roles;
use super::units::Units;
use super::{Group, GroupKind, StreamAxes, StreamAxis};
use crate::layout::{Leading, symbol};
use diptych_ir::{Axis, NodeId, Op, ReduceKind, ScalarFn};
use std::collections::HashSet;

/// The summed axes of a reduction.
pub fn summed(op: &Op) -> Option<&[Axis]> {
    match op {
        Op::Contract(contract) => Some(&contract.over),
        Op::Reduce(reduce) => Some(&reduce.over),
        _ => None,
    }
}

/// How a node that reduces streamed values walks them; `None` if it does not
/// reduce them, or not along one of their long axes.
pub fn axes_of(roles: &Roles, id: NodeId) -> Option<StreamAxes> {
    let over = summed(roles.graph.op(id))?;
    let streamed: Vec<NodeId> =
        roles.sources(id).into_iter().filter(|&source| roles.is_streamed(source)).collect();
    let first = *streamed.first()?;
    let (one, other) = match roles.huge_axis(first) {
        Some(axis) => (StreamAxis::Fixed(axis), StreamAxis::Rows(roles.leading(first))),
        None => (StreamAxis::Past, StreamAxis::Time),
    };
    let gone = |axis: StreamAxis| match axis {
        StreamAxis::Fixed(axis) => over.contains(&axis),
        StreamAxis::Past => over.iter().any(|&axis| symbol(axis) == Some("past")),
        StreamAxis::Time => over.iter().any(|&axis| symbol(axis) == Some("time")),
        StreamAxis::Rows(_) => over.iter().any(|&axis| symbol(axis).is_some()),
    };
    let (along, across) = match (gone(one), gone(other)) {
        (true, false) => (one, other),
        (false, true) => (other, one),
        _ => return None,
    };
    let each = match across {
        StreamAxis::Time | StreamAxis::Past => instance_axes(roles, id, over, &streamed),
        _ => Vec::new(),
    };
    Some(StreamAxes { along, across, each })
}

/// Fixed axes that can be instances: those of all streamed values that are not
/// summed and that what lies along `past` has too, so that dividing by them
/// reads nothing twice.
fn instance_axes(roles: &Roles, id: NodeId, over: &[Axis], streamed: &[NodeId]) -> Vec<Axis> {
    let members = streamed_ancestors(roles, id);
    let keys: Vec<NodeId> = (members.iter().copied().chain([id]))
        .flat_map(|member| roles.graph.operands(member))
        .filter(|&operand| roles.leading(operand) == Leading::Past)
        .collect();
    let candidates = roles.graph.axes(streamed[0]).iter().copied().filter(|axis| axis.fixed_size().is_some());
    candidates
        .filter(|&axis| !over.contains(&axis))
        .filter(|&axis| {
            members.iter().all(|&member| roles.is_free(member) || roles.graph.axes(member).contains(axis))
        })
        .filter(|&axis| keys.is_empty() || keys.iter().any(|&key| roles.graph.axes(key).contains(axis)))
        .collect()
}

/// The streamed values that a node needs, operands first.
pub fn streamed_ancestors(roles: &Roles, id: NodeId) -> Vec<NodeId> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    fn visit(roles: &Roles, id: NodeId, seen: &mut HashSet<NodeId>, found: &mut Vec<NodeId>) {
        for source in roles.sources(id) {
            if roles.is_streamed(source) && seen.insert(source) {
                visit(roles, source, seen, found);
                found.push(source);
            }
        }
    }
    visit(roles, id, &mut seen, &mut found);
    found
}

/// Whether a maximum is needed by the streamed values of a sum only as the
/// `m` of `exp(x - m)`, with `x` what it is the maximum of: then the sum can be
/// formed block by block and rescaled as the maximum grows.
pub fn folds_into(roles: &Roles, maximum: NodeId, sum: NodeId) -> bool {
    let graph = roles.graph;
    let Op::Reduce(reduce) = graph.op(maximum) else { return false };
    if reduce.kind != ReduceKind::Max {
        return false;
    }
    let of = graph.operands(maximum)[0];
    let mut members = streamed_ancestors(roles, sum);
    members.push(sum);
    let is_maximum = |id: NodeId| {
        id == maximum
            || matches!(graph.op(id), Op::Map(map) if map.0 == ScalarFn::Detach)
                && graph.operands(id)[0] == maximum
    };
    let mut exponentials = Vec::new();
    for &member in &members {
        if !graph.operands(member).into_iter().any(is_maximum) {
            continue;
        }
        let difference = matches!(graph.op(member), Op::Map(map) if map.0 == ScalarFn::Sub)
            && graph.operands(member)[0] == of
            && is_maximum(graph.operands(member)[1]);
        if !difference {
            return false;
        }
        let users: Vec<NodeId> =
            graph.users(member).into_iter().filter(|user| members.contains(user)).collect();
        if !users.iter().all(|&user| matches!(graph.op(user), Op::Map(map) if map.0 == ScalarFn::Exp)) {
            return false;
        }
        exponentials.extend(users);
    }
    // From the exponential to the sum, everything must be a product with it.
    let depends: HashSet<NodeId> = members
        .iter()
        .copied()
        .filter(|&member| exponentials.iter().any(|&e| member == e || reaches(roles, member, e)))
        .collect();
    depends.iter().all(|&member| {
        exponentials.contains(&member)
            || match graph.op(member) {
                Op::Contract(_) => true,
                Op::Reduce(reduce) => reduce.kind == ReduceKind::Sum,
                Op::Map(map) => {
                    let through: Vec<bool> = graph
                        .operands(member)
                        .iter()
                        .map(|&operand| depends.contains(&roles.base(operand)))
                        .collect();
                    match map.0 {
                        ScalarFn::Mul => through.iter().filter(|&&x| x).count() == 1,
                        ScalarFn::Div => through == [true, false],
                        ScalarFn::Neg => true,
                        _ => false,
                    }
                }
                _ => false,
            }
    })
}

fn reaches(roles: &Roles, from: NodeId, to: NodeId) -> bool {
    streamed_ancestors(roles, from).contains(&to)
}

/// Forms the streaming groups of a region, each a unit: `order` is the region's nodes, operands
/// first, and there are no other units yet.
pub fn groups(roles: &Roles, order: &[NodeId], units: &mut Units) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for &id in order {
        if roles.is_streamed(id) {
            continue;
        }
        let Some(axes) = axes_of(roles, id) else { continue };
        let members = streamed_ancestors(roles, id);
        let ancestors: HashSet<NodeId> = roles.graph.ancestors(&[id]).into_iter().collect();
        let kind = GroupKind::Stream(axes);
        let is_maximum =
            |id: NodeId| matches!(roles.graph.op(id), Op::Reduce(reduce) if reduce.kind == ReduceKind::Max);
        let shares = |&unit: &usize| {
            let (group, reductions) = (&groups[unit], units.members(unit));
            // A walk folds one maximum.
            if is_maximum(id) && reductions.iter().any(|&other| is_maximum(other)) {
                return false;
            }
            let overlap = members.iter().any(|member| group.nodes.contains(member));
            let ordered =
                reductions.iter().all(|&other| !ancestors.contains(&other) || folds_into(roles, other, id));
            group.kind == kind && overlap && ordered && units.can_join(id, unit)
        };
        let unit = (0..groups.len()).rev().find(shares).unwrap_or_else(|| {
            groups.push(Group { kind: kind.clone(), nodes: Vec::new(), outputs: Vec::new() });
            units.add()
        });
        let group = &mut groups[unit];
        for member in members {
            if !group.nodes.contains(&member) {
                group.nodes.push(member);
            }
        }
        group.nodes.push(id);
        units.join(id, unit);
    }
    groups
}
