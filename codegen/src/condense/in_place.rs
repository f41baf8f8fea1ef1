//! A value that takes the place of another: it is computed point by point from
//! what lies there, and read before that is written anew.

use super::accesses::{self, count};
use crate::tile::{Base, Instr, Nest, Place, RowMap, Stmt, Tile, View};
use diptych_ir::DType;

/// Computes what a tile holds where another tile lies, if only this list of statements looks at it and the other
/// holds nothing that anyone reads in the meantime. Returns whether it could.
pub(super) fn compute(list: &mut [Stmt], tile: usize, tiles: &mut [Tile]) -> bool {
    let Some((writer, stored, own)) = writer(list, tile) else { return false };
    let Stmt::Nest(nest) = &list[writer] else { return false };
    let candidates: Vec<View> = (nest.body[..stored].iter())
        .filter_map(|instr| match instr {
            Instr::Load(Place::Strided(view)) if replaces(&own, view) => Some(view.clone()),
            _ => None,
        })
        .collect();
    let dims = nest.dims.clone();
    for place in candidates {
        let of_place = |list: &mut [Stmt], at: usize| count(&mut list[at], place.base);
        // In the nest that computes it, the other tile is read at the same points, before.
        let alone = loads(&list[writer], &place, ..stored) == of_place(list, writer).0;
        if !alone || of_place(list, writer).1 > 0 {
            continue;
        }
        let Some(next) = (writer + 1..list.len()).find(|&at| of_place(list, at) != (0, 0)) else { continue };
        // There, all of the other tile is written, after what now lies there was read for the last time.
        let Stmt::Nest(overwriter) = &list[next] else { continue };
        let Some(overwritten) = store(overwriter, &place) else { continue };
        let early = loads(&list[next], &own, ..overwritten) == count(&mut list[next], own.base).0;
        let late = (next + 1..list.len()).any(|at| count(&mut list[at], own.base) != (0, 0));
        let Stmt::Nest(overwriter) = &list[next] else { continue };
        if overwriter.dims != dims || of_place(list, next) != (0, 1) || !early || late {
            continue;
        }
        if let Base::Tile(other) = place.base
            && tiles[other].values != tiles[tile].values
        {
            // The other tile now has numbers of both types.
            tiles[other].values = DType::F32;
        }
        for stmt in &mut list[writer..=next] {
            accesses::views(stmt, &mut |view, _| {
                if view.base == own.base {
                    view.base = place.base;
                }
            });
        }
        return true;
    }
    false
}

/// The only statement of a list that writes a tile, and writes all of it, before any reads it: its position, that of
/// the instruction, and where it writes.
pub(super) fn writer(list: &mut [Stmt], tile: usize) -> Option<(usize, usize, View)> {
    let base = Base::Tile(tile);
    let first = list.iter_mut().position(|stmt| count(stmt, base) != (0, 0))?;
    if list[first..].iter_mut().map(|stmt| count(stmt, base).1).sum::<usize>() != 1 {
        return None;
    }
    if count(&mut list[first], base) != (0, 1) {
        return None;
    }
    let Stmt::Nest(nest) = &list[first] else { return None };
    nest.body.iter().enumerate().find_map(|(at, instr)| match instr {
        Instr::Store(Place::Strided(view), _) if view.base == base && covers(view, nest) => {
            Some((first, at, view.clone()))
        }
        _ => None,
    })
}

/// Whether each point of a nest has an element of its own.
pub(super) fn covers(view: &View, nest: &Nest) -> bool {
    view.rows == RowMap::InOrder && nest.dims.iter().all(|&dim| view.stride(dim) > 0)
}

/// Whether two views are of tiles, and walked alike.
fn replaces(own: &View, other: &View) -> bool {
    let tile = matches!(other.base, Base::Tile(_));
    let alike = (own.offset, own.dtype, &own.strides, own.rows)
        == (other.offset, other.dtype, &other.strides, other.rows);
    tile && alike && own.base != other.base
}

/// How many of the first instructions of a nest load exactly this view.
fn loads(stmt: &Stmt, view: &View, range: std::ops::RangeTo<usize>) -> usize {
    let Stmt::Nest(nest) = stmt else { return 0 };
    let is = |instr: &&Instr| matches!(instr, Instr::Load(Place::Strided(loaded)) if loaded == view);
    nest.body[range].iter().filter(is).count()
}

fn store(nest: &Nest, view: &View) -> Option<usize> {
    let is = |instr: &Instr| matches!(instr, Instr::Store(Place::Strided(stored), _) if stored == view);
    nest.body.iter().position(is)
}
