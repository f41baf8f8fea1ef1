//! Neighbouring threads look at neighbouring elements of the device's memory: a nest walks the axis last along which it
//! stores. Where the axes of what it loads lie in another order, that goes through a tile, into which it is loaded along
//! its own axis. A program is changed before it is written; the writer knows nothing of it.

use crate::tile::{Base, DimId, Instr, Nest, Place, RowMap, Stmt, Tile, TileProgram, View};
use diptych_ir::DType;

/// Elements of such a tile at most.
const MOST: usize = 8192;
/// Positions that axes have at least for it to be worth a tile: those of a sector of the device's memory.
const LEAST: usize = 8;

/// A program with such tiles.
pub(super) fn exchanged(program: &TileProgram) -> TileProgram {
    let mut program = program.clone();
    let mut body = Vec::with_capacity(program.body.len());
    for stmt in std::mem::take(&mut program.body) {
        match stmt {
            Stmt::Nest(nest) => body.extend(through_tiles(&mut program, nest).into_iter().map(Stmt::Nest)),
            stmt => body.push(stmt),
        }
    }
    program.body = body;
    program
}

/// A nest, with one before it for each value that it loads through a tile.
fn through_tiles(program: &mut TileProgram, mut nest: Nest) -> Vec<Nest> {
    let Some(along) = stored_along(program, &nest) else { return vec![nest] };
    let mut nests = Vec::new();
    for id in 0..nest.body.len() {
        let Instr::Load(place) = &nest.body[id] else { continue };
        let is_number = matches!(place.dtype(), DType::F32 | DType::BF16 | DType::F16);
        let Some(loaded_along) = contiguous(program, place).filter(|&dim| dim != along && is_number) else {
            continue;
        };
        let Some(view) = tile(program, &nest, place, [along, loaded_along]) else { continue };
        let load = std::mem::replace(&mut nest.body[id], Instr::Load(Place::Strided(view.clone())));
        let dims = last(&nest.dims, loaded_along);
        nests.push(Nest { dims, body: vec![load, Instr::Store(Place::Strided(view), 0)] });
    }
    nest.dims = last(&nest.dims, along);
    nests.push(nest);
    nests
}

/// The dimension along which all that a nest stores lies, if points are all that it has: each may come at any time.
fn stored_along(program: &TileProgram, nest: &Nest) -> Option<DimId> {
    let mut found = None;
    for instr in &nest.body {
        match instr {
            Instr::Store(place, _) => {
                let along = contiguous(program, place)?;
                if *found.get_or_insert(along) != along {
                    return None;
                }
            }
            Instr::Reduce { .. } | Instr::AddAt { .. } => return None,
            _ => {}
        }
    }
    found.filter(|along| nest.dims.contains(along))
}

/// The dimension that runs along an argument's memory.
fn contiguous(program: &TileProgram, place: &Place) -> Option<DimId> {
    let Base::Arg(_) = place.base() else { return None };
    let strides = match place {
        Place::Strided(view) => &view.strides,
        Place::Packed(view) => &view.n,
    };
    let is_long = |dim: DimId| program.dims[dim].extent.most() >= LEAST;
    strides.iter().find(|&&(dim, stride)| stride == 1 && is_long(dim)).map(|entry| entry.0)
}

/// A new tile for what a nest loads from a place: rows along the dimension in which it is loaded, one for each position
/// of that in which it is stored, of an odd number of elements, so that columns are in different banks, too.
fn tile(
    program: &mut TileProgram,
    nest: &Nest,
    place: &Place,
    [along, loaded_along]: [DimId; 2],
) -> Option<View> {
    let Base::Arg(arg) = place.base() else { return None };
    let varies = |dim: &DimId| match place {
        Place::Strided(view) => view.stride(*dim) > 0,
        Place::Packed(view) => view.k.iter().chain(&view.n).any(|entry| entry.0 == *dim && entry.1 > 0),
    };
    if program.args[arg].written
        || ![along, loaded_along].iter().all(|dim| nest.dims.contains(dim) && varies(dim))
    {
        return None;
    }
    let most = |dim: DimId| program.dims[dim].extent.most();
    let mut strides = vec![(loaded_along, 1)];
    let mut elements = most(loaded_along) | 1;
    let others = nest.dims.iter().copied().filter(|&dim| dim != along && dim != loaded_along);
    for dim in std::iter::once(along).chain(others.filter(varies)) {
        strides.push((dim, elements));
        elements = elements.checked_mul(most(dim)).filter(|&elements| elements <= MOST)?;
    }
    let dims = strides.iter().rev().map(|entry| entry.0).collect();
    let name = format!("{}_turned_t{}", program.args[arg].name, program.tiles.len());
    program.tiles.push(Tile { name, dims, elements, values: DType::F32 });
    let base = Base::Tile(program.tiles.len() - 1);
    Some(View { base, dtype: DType::F32, offset: 0, strides, rows: RowMap::InOrder })
}

/// Dimensions with one of them as the last.
fn last(dims: &[DimId], dim: DimId) -> Vec<DimId> {
    dims.iter().copied().filter(|&other| other != dim).chain([dim]).collect()
}
