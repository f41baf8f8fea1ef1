//! Values over all positions so far where a cache holds most of them: they have a row for each of its positions,
//! not for each token at hand, and each row is computed by itself. What needs more is refused here. It groups nothing.

use super::roles::Roles;
use super::{FuseError, GroupKind};
use diptych_ir::{NodeId, Op};

/// Refuses what a stream sums for each position so far: with a cache only the new tokens are there.
pub(super) fn refuse_sums(roles: &Roles, id: NodeId) -> Result<(), FuseError> {
    let problem =
        "sums over tokens for each position so far, but with a cache only the new tokens are at hand";
    if roles.is_along_cache(id) { Err(roles.error(id, problem.to_owned())) } else { Ok(()) }
}

/// Refuses what is computed of such values in another way than row by row.
pub(super) fn refuse_kind(roles: &Roles, id: NodeId, kind: &GroupKind) -> Result<(), FuseError> {
    let graph = roles.graph;
    let by_row = matches!(kind, GroupKind::Rows(_)) && !matches!(graph.op(id), Op::TopK(_));
    let along = || roles.is_along_cache(id) || graph.operands(id).iter().any(|&x| roles.is_along_cache(x));
    if by_row || !along() {
        return Ok(());
    }
    let problem = "is not computed row by row, as values over all positions so far are when serving: compute it \
                   before `history`, so that it is kept";
    Err(roles.error(id, problem.to_owned()))
}

/// Refuses to give such values to a loop: what it is given, carries or yields has a row for each token at hand.
pub(super) fn refuse_operands(roles: &Roles, looped: NodeId) -> Result<(), FuseError> {
    let problem = "lies along a cache, and is given to a loop: use `history` within the loop";
    refuse_first(roles, &roles.graph.operands(looped), problem)
}

/// Refuses to yield such values.
pub(super) fn refuse_results(roles: &Roles, roots: &[NodeId]) -> Result<(), FuseError> {
    refuse_first(roles, roots, "is asked for, but with a cache it has a row for each position so far")
}

fn refuse_first(roles: &Roles, ids: &[NodeId], problem: &str) -> Result<(), FuseError> {
    match ids.iter().find(|&&id| roles.is_along_cache(id)) {
        Some(&id) => Err(roles.error(id, problem.to_owned())),
        None => Ok(()),
    }
}
