//! Rows of tiles whose elements threads read or write as a warpgroup's fragments: a quarter of a warp's lanes are in
//! one row and the others in the next ones, so that rows must not begin in the same bank. A program's views are
//! changed before it is written; the writer knows nothing of it.

use super::Architecture;
use super::dots::{each, last_stride, right_place, warpgroups};
use crate::condense::accesses::views;
use crate::tile::{Base, DimId, Place, Stmt, TileProgram, View};
use diptych_ir::DType;
use std::collections::BTreeMap;

/// Banks of shared memory, of a float each.
const BANKS: usize = 32;

/// How the rows of a tile are to lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Pitch {
    /// Elements from one row to the next.
    row: usize,
    /// By how many banks the next row is to begin later: 8 where lanes read two neighbours in a row, of which 16
    /// lanes do so at once in four rows; 4 where lanes of a row are in rows that are two apart.
    banks: usize,
}

impl Pitch {
    fn padded(self) -> usize {
        self.row + (self.banks + BANKS - self.row % BANKS) % BANKS
    }
}

/// A program with its tiles so padded.
pub(super) fn padded(program: &TileProgram, architecture: Architecture) -> TileProgram {
    let mut wanted: BTreeMap<usize, Option<Pitch>> = BTreeMap::new();
    if !architecture.has_warpgroups() {
        return program.clone();
    }
    each(&program.body, &mut |dot| {
        let Some(method) = warpgroups(program, dot) else { return };
        let left_is_b = method.swapped();
        if let Place::Strided(view) = &dot.c {
            want(&mut wanted, view, (&dot.m, &dot.n), left_is_b);
        }
        if method.parts() > 1 {
            let (place, x) =
                if left_is_b { (right_place(dot), &dot.n) } else { (Place::Strided(dot.a.clone()), &dot.m) };
            if let Place::Strided(view) = &place {
                let along_k = last_stride(view, x) != 1;
                let (rows, columns) = if along_k { (x, &dot.k) } else { (&dot.k, x) };
                want(&mut wanted, view, (rows, columns), !along_k);
            }
        }
    });
    let mut program = program.clone();
    for (tile, pitch) in wanted {
        let Some(pitch) = pitch.filter(|pitch| pitch.padded() > pitch.row) else { continue };
        if program.tiles[tile].values == DType::F32 && has_rows(&program, tile, pitch.row) {
            pad(&mut program, tile, pitch);
        }
    }
    program
}

/// Notes how a tile's rows are to lie; nothing is wanted of a tile that has rows of two kinds.
fn want(
    wanted: &mut BTreeMap<usize, Option<Pitch>>,
    view: &View,
    (rows, columns): (&[DimId], &[DimId]),
    across: bool,
) {
    let Base::Tile(tile) = view.base else { return };
    let row = last_stride(view, rows);
    let pitch = (row > 0 && last_stride(view, columns) == 1)
        .then_some(Pitch { row, banks: if across { 4 } else { 8 } });
    let Some(pitch) = pitch else {
        wanted.insert(tile, None);
        return;
    };
    let known = wanted.entry(tile).or_insert(Some(pitch));
    *known = known.filter(|known| known.row == pitch.row).map(|known| {
        // What is read in a loop comes after what is stored once.
        Pitch { banks: if across { pitch.banks } else { known.banks }, ..known }
    });
}

/// Whether a tile is rows of so many elements in all that looks at it.
fn has_rows(program: &TileProgram, tile: usize, row: usize) -> bool {
    let mut fits = program.tiles[tile].elements.is_multiple_of(row);
    let is_of = |view: &View| view.base == Base::Tile(tile);
    let within = |view: &View| {
        let inner = view.strides.iter().filter(|entry| entry.1 % row != 0);
        let last: usize = inner.map(|&(dim, stride)| (program.dims[dim].extent.most() - 1) * stride).sum();
        view.offset % row + last < row
    };
    let as_one = |view: &View, dims: &[DimId]| {
        let mut strides = dims.iter().map(|&dim| view.stride(dim)).filter(|stride| *stride > 0);
        let first = strides.next().map(|stride| stride % row == 0);
        strides.all(|stride| Some(stride % row == 0) == first)
    };
    fn walk(body: &[Stmt], see: &mut impl FnMut(&Stmt)) {
        for stmt in body {
            match stmt {
                Stmt::Stream { body, .. } | Stmt::Steps { body, .. } => walk(body, see),
                Stmt::When { yes, no, .. } => {
                    walk(yes, see);
                    walk(no, see);
                }
                stmt => see(stmt),
            }
        }
    }
    walk(&program.body, &mut |stmt| {
        let mut looked_at = false;
        views(&mut stmt.clone(), &mut |view, _| {
            if is_of(view) {
                looked_at = true;
                fits &= within(view);
            }
        });
        match stmt {
            Stmt::Dot(dot) => {
                let mut check = |place: &Place, dims: [&[DimId]; 2]| {
                    if let Place::Strided(view) = place
                        && is_of(view)
                    {
                        fits &= dims.iter().all(|dims| as_one(view, dims));
                    }
                };
                check(&Place::Strided(dot.a.clone()), [&dot.m, &dot.k]);
                check(&dot.b, [&dot.k, &dot.n]);
                check(&right_place(dot), [&dot.k, &dot.n]);
                check(&dot.c, [&dot.m, &dot.n]);
            }
            Stmt::Nest(_) | Stmt::Fill { .. } | Stmt::Transpose { .. } => {}
            _ => fits &= !looked_at,
        }
    });
    fits
}

fn pad(program: &mut TileProgram, tile: usize, pitch: Pitch) {
    let (row, padded) = (pitch.row, pitch.padded());
    program.tiles[tile].elements = program.tiles[tile].elements / row * padded;
    for stmt in &mut program.body {
        views(stmt, &mut |view, _| {
            if view.base != Base::Tile(tile) {
                return;
            }
            view.offset = view.offset / row * padded + view.offset % row;
            for (_, stride) in view.strides.iter_mut().filter(|entry| entry.1 % row == 0) {
                *stride = *stride / row * padded;
            }
        });
    }
}
