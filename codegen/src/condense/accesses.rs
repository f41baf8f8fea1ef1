//! What statements read and write: arguments and tiles, by their base.

use crate::tile::{AddedRows, Base, Id, Instr, Place, RowMap, Stmt, View};

/// How something is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// Calls a function on each view of a statement, and of those within it. What it changes is changed there; of panels,
/// only which argument they are.
pub(crate) fn views(stmt: &mut Stmt, see: &mut impl FnMut(&mut View, Access)) {
    match stmt {
        Stmt::Nest(nest) => nest.body.iter_mut().for_each(|instr| views_of_instr(instr, see)),
        Stmt::Dot(dot) => {
            see(&mut dot.a, Access::Read);
            if let Some(from) = &mut dot.turned {
                see(from, Access::Read);
                // What is changed is changed below, once.
                view_of_place(&mut dot.b.clone(), Access::Write, see);
            }
            view_of_place(&mut dot.b, Access::Read, see);
            view_of_place(&mut dot.c, Access::Write, see);
        }
        Stmt::Transpose { from, to, .. } => {
            view_of_place(from, Access::Read, see);
            see(to, Access::Write);
        }
        Stmt::Fill { place, .. } => view_of_place(place, Access::Write, see),
        Stmt::TopK { from, to, .. } | Stmt::Round { from, to, .. } => {
            see(from, Access::Read);
            see(to, Access::Write);
        }
        Stmt::Group { ids, .. } => see(ids, Access::Read),
        Stmt::AddRows(added) => {
            see(&mut added.ids, Access::Read);
            see(&mut added.from, Access::Read);
            view_of_place(&mut added.table, Access::Write, see);
        }
        Stmt::Steps { body, .. } | Stmt::Stream { body, .. } => {
            body.iter_mut().for_each(|stmt| views(stmt, see));
        }
        Stmt::When { yes, no, .. } => yes.iter_mut().chain(no).for_each(|stmt| views(stmt, see)),
    }
}

fn view_of_place(place: &mut Place, access: Access, see: &mut impl FnMut(&mut View, Access)) {
    match place {
        Place::Strided(view) => see(view, access),
        // Panels are arguments, of which only that they are looked at matters here, and which.
        Place::Packed(packed) => {
            let (base, rows) = (Base::Arg(packed.arg), RowMap::InOrder);
            let mut view = View { base, dtype: packed.dtype, offset: 0, strides: Vec::new(), rows };
            see(&mut view, access);
            if let Base::Arg(arg) = view.base {
                packed.arg = arg;
            }
        }
    }
}

fn views_of_instr(instr: &mut Instr, see: &mut impl FnMut(&mut View, Access)) {
    let of_id = |id: &mut Id, see: &mut dyn FnMut(&mut View, Access)| {
        if let Id::Stored(view) = id {
            see(view, Access::Read);
        }
    };
    match instr {
        Instr::Load(place) => view_of_place(place, Access::Read, see),
        Instr::Store(place, _) => view_of_place(place, Access::Write, see),
        Instr::Reduce { into, .. } => see(into, Access::Write),
        Instr::LoadAt { table, id, .. } => {
            view_of_place(table, Access::Read, see);
            of_id(id, see);
        }
        Instr::AddAt { table, id, .. } => {
            view_of_place(table, Access::Write, see);
            of_id(id, see);
        }
        Instr::Float(_)
        | Instr::Int(_)
        | Instr::Truth(_)
        | Instr::Position(_)
        | Instr::PositionOf { .. }
        | Instr::Map(..)
        | Instr::ToFloat(_)
        | Instr::Round(..) => {}
    }
}

/// Calls a function on each argument that a statement names, and those within it. What it changes is changed there.
pub(crate) fn arguments(stmt: &mut Stmt, see: &mut impl FnMut(&mut usize)) {
    let of_instr = |instr: &mut Instr, see: &mut dyn FnMut(&mut usize)| {
        if let Instr::PositionOf { chosen, .. } = instr {
            see(chosen);
        }
    };
    match stmt {
        Stmt::Steps { body, .. } | Stmt::Stream { body, .. } => {
            return body.iter_mut().for_each(|stmt| arguments(stmt, see));
        }
        Stmt::When { yes, no, .. } => return yes.iter_mut().chain(no).for_each(|stmt| arguments(stmt, see)),
        Stmt::Nest(nest) => nest.body.iter_mut().for_each(|instr| of_instr(instr, see)),
        Stmt::Group { order, starts, .. } | Stmt::AddRows(AddedRows { order, starts, .. }) => {
            [order, starts].into_iter().for_each(&mut *see)
        }
        _ => {}
    }
    views(stmt, &mut |view, _| {
        if let Base::Arg(arg) = &mut view.base {
            see(arg);
        }
        if let RowMap::Chosen(arg) = &mut view.rows {
            see(arg);
        }
    });
}

/// How many views of a statement read and write what has this base.
pub(super) fn count(stmt: &mut Stmt, base: Base) -> (usize, usize) {
    let mut found = (0, 0);
    views(stmt, &mut |view, access| {
        if view.base == base {
            match access {
                Access::Read => found.0 += 1,
                Access::Write => found.1 += 1,
            }
        }
    });
    found
}

/// How many views of some statements read and write a tile.
pub(super) fn of_tile(list: &mut [Stmt], tile: usize) -> (usize, usize) {
    let counts = list.iter_mut().map(|stmt| count(stmt, Base::Tile(tile)));
    counts.fold((0, 0), |sum, each| (sum.0 + each.0, sum.1 + each.1))
}
