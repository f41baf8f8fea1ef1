//! Sums that a product adds to in memory, block by block of a stream: they are formed in a tile, and stored once. It is
//! worth it where the tile stays in registers.

use crate::condense::accesses::{arguments, views};
use crate::tile::{Arg, Base, Dot, Instr, Nest, Place, RowMap, Stmt, Tile, TileProgram, View};
use diptych_ir::DType;

/// A program that adds up in a tile, which is its last, what it starts from a number in an argument, adds products to in
/// a stream, and looks at nowhere else. The order of terms is the same.
pub(super) fn with_held_sum(program: &TileProgram, arg: usize) -> Option<TileProgram> {
    let mut program = program.clone();
    let fill = program.body.iter().position(
        |stmt| matches!(stmt, Stmt::Fill { place: Place::Strided(view), .. } if view.base == Base::Arg(arg)),
    )?;
    let stream = program.body.iter().position(|stmt| match stmt {
        Stmt::Stream { body, .. } => body.iter().any(|stmt| adds(stmt, arg)),
        _ => false,
    })?;
    let (Stmt::Fill { dims, place, .. }, Stmt::Stream { body, .. }) =
        (&program.body[fill], &program.body[stream])
    else {
        return None;
    };
    let dot = body.iter().position(|stmt| adds(stmt, arg))?;
    let Stmt::Dot(Dot { c, m, n, .. }) = &body[dot] else { return None };
    let looks: usize = program.body.clone().iter_mut().map(|stmt| looks_at(stmt, arg)).sum();
    if fill > stream || c != place || looks != 2 {
        return None;
    }
    let (dims, place, Arg { name, .. }) = (dims.clone(), place.clone(), &program.args[arg]);
    // Rows and columns of the product, the columns fastest.
    let of_tile = [&m[..], &n[..]].concat();
    let (mut strides, mut elements) = (Vec::new(), 1);
    for &dim in of_tile.iter().rev() {
        strides.push((dim, elements));
        elements *= program.dims[dim].extent.most();
    }
    let tile = program.tiles.len();
    let view = View { base: Base::Tile(tile), dtype: DType::F32, offset: 0, strides, rows: RowMap::InOrder };
    let name = format!("{name}_t{tile}");
    program.tiles.push(Tile { name, dims: of_tile, elements, values: DType::F32 });
    if let Stmt::Fill { place, .. } = &mut program.body[fill] {
        *place = Place::Strided(view.clone());
    }
    if let Stmt::Stream { body, .. } = &mut program.body[stream]
        && let Stmt::Dot(dot) = &mut body[dot]
    {
        dot.c = Place::Strided(view.clone());
    }
    let body = vec![Instr::Load(Place::Strided(view)), Instr::Store(place, 0)];
    program.body.insert(stream + 1, Stmt::Nest(Nest { dims, body }));
    Some(program)
}

/// Whether a statement is a product that is added to an argument of floats.
fn adds(stmt: &Stmt, arg: usize) -> bool {
    match stmt {
        Stmt::Dot(Dot { c: Place::Strided(view), accumulate: true, batch, .. }) => {
            view.base == Base::Arg(arg) && view.dtype == DType::F32 && batch.is_empty()
        }
        _ => false,
    }
}

fn looks_at(stmt: &mut Stmt, arg: usize) -> usize {
    let mut count = 0;
    views(stmt, &mut |view, _| count += usize::from(view.base == Base::Arg(arg)));
    let mut named = 0;
    arguments(stmt, &mut |other| named += usize::from(*other == arg));
    count.max(named)
}
