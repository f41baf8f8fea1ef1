//! What nothing reads: values of nests, and tiles.

use super::accesses::{self, count};
use crate::tile::{Base, Id, Instr, Nest, Stmt, TileProgram, ValueId};

/// Takes values that nothing uses out of nests, and nests that do nothing.
pub(super) fn remove_instructions(stmts: &mut Vec<Stmt>) {
    for stmt in stmts.iter_mut() {
        match stmt {
            Stmt::Nest(nest) => keep_used(nest),
            Stmt::Steps { body, .. } | Stmt::Stream { body, .. } => remove_instructions(body),
            Stmt::When { yes, no, .. } => {
                remove_instructions(yes);
                remove_instructions(no);
            }
            _ => {}
        }
    }
    stmts.retain(|stmt| !matches!(stmt, Stmt::Nest(nest) if nest.body.is_empty()));
}

fn keep_used(nest: &mut Nest) {
    let mut used = vec![false; nest.body.len()];
    for at in (0..nest.body.len()).rev() {
        let acts = matches!(nest.body[at], Instr::Store(..) | Instr::Reduce { .. } | Instr::AddAt { .. });
        used[at] |= acts;
        if used[at] {
            operands(&mut nest.body[at], &mut |value| used[*value] = true);
        }
    }
    let places = places_of_kept(&used);
    let mut at = 0;
    nest.body.retain_mut(|instr| {
        at += 1;
        operands(instr, &mut |value| *value = places[*value]);
        used[at - 1]
    });
}

/// Calls a function on the values that an instruction uses.
pub(super) fn operands(instr: &mut Instr, see: &mut impl FnMut(&mut ValueId)) {
    let of_id = |id: &mut Id, see: &mut dyn FnMut(&mut ValueId)| {
        if let Id::Computed(value) = id {
            see(value);
        }
    };
    match instr {
        Instr::Map(_, values) => values.iter_mut().for_each(see),
        Instr::ToFloat(value) | Instr::Round(_, value) | Instr::Store(_, value) => see(value),
        Instr::Reduce { value, .. } => see(value),
        Instr::LoadAt { id, .. } => of_id(id, see),
        Instr::AddAt { id, value, .. } => {
            of_id(id, see);
            see(value);
        }
        Instr::Float(_)
        | Instr::Int(_)
        | Instr::Truth(_)
        | Instr::Position(_)
        | Instr::PositionOf { .. }
        | Instr::Load(_) => {}
    }
}

/// Takes out tiles that no statement looks at.
pub(super) fn remove_tiles(program: &mut TileProgram) {
    let looked_at: Vec<bool> = (0..program.tiles.len())
        .map(|tile| program.body.iter_mut().any(|stmt| count(stmt, Base::Tile(tile)) != (0, 0)))
        .collect();
    let places = places_of_kept(&looked_at);
    for stmt in &mut program.body {
        accesses::views(stmt, &mut |view, _| {
            if let Base::Tile(tile) = &mut view.base {
                *tile = places[*tile];
            }
        });
    }
    let mut looked_at = looked_at.into_iter();
    program.tiles.retain(|_| looked_at.next().unwrap_or(true));
}

/// Takes out arguments that no statement names: which were kept.
pub fn remove_arguments(program: &mut TileProgram) -> Vec<bool> {
    let mut named = vec![false; program.args.len()];
    for stmt in &mut program.body {
        accesses::arguments(stmt, &mut |arg| named[*arg] = true);
    }
    let places = places_of_kept(&named);
    for stmt in &mut program.body {
        accesses::arguments(stmt, &mut |arg| *arg = places[*arg]);
    }
    let mut kept = named.iter();
    program.args.retain(|_| kept.next().copied().unwrap_or(true));
    named
}

/// Where each of a list is once those that are not kept are gone.
fn places_of_kept(kept: &[bool]) -> Vec<usize> {
    let mut left = 0;
    let place = |&kept: &bool| {
        left += usize::from(kept);
        left.saturating_sub(1)
    };
    kept.iter().map(place).collect()
}
