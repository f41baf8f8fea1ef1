//! Tile programs with less scratch: values of a nest that later nests read from
//! a tile are computed there where what they replace lay, or computed again
//! where they are read. Each value is the same expression of the same values:
//! the same bits. It knows no op and no recurrence.

pub(crate) mod accesses;
mod again;
mod in_place;
mod together;
mod unused;

use crate::tile::{Base, Extent, Stmt, TileProgram};

/// Takes tiles out of a program that it can do without.
pub fn condense(program: &mut TileProgram) {
    // Of parameters, the new value may be an argument that lies where the old one does.
    if program.dims.iter().any(|dim| matches!(dim.extent, Extent::Flat { .. })) {
        return;
    }
    unused::remove_instructions(&mut program.body);
    together::join(&mut program.body);
    let tiles = &mut program.tiles;
    for tile in 0..tiles.len() {
        let all = accesses::of_tile(&mut program.body, tile);
        in_lists(&mut program.body, &mut |list| {
            let alone = accesses::of_tile(list, tile) == all;
            alone && (in_place::compute(list, tile, tiles) || again::compute(list, tile, &program.dims))
        });
    }
    unused::remove_instructions(&mut program.body);
    unused::remove_tiles(program);
}

pub use unused::remove_arguments;

/// Whether a statement looks at any of these.
pub fn touches(stmt: &Stmt, bases: &[Base]) -> bool {
    bases.iter().any(|&base| accesses::count(&mut stmt.clone(), base) != (0, 0))
}

/// Calls a function on the lists of statements of a program, inner ones first, until it says that it is done.
fn in_lists(list: &mut Vec<Stmt>, done: &mut impl FnMut(&mut Vec<Stmt>) -> bool) -> bool {
    for stmt in list.iter_mut() {
        let found = match stmt {
            Stmt::Steps { body, .. } | Stmt::Stream { body, .. } => in_lists(body, done),
            Stmt::When { yes, no, .. } => in_lists(yes, done) || in_lists(no, done),
            _ => false,
        };
        if found {
            return true;
        }
    }
    done(list)
}

#[cfg(test)]
mod tests;
