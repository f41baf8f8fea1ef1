//! Rows of tiles that dots, and nests over tiles in registers, read or write: threads look at several rows at once, which
//! must not begin in the same bank of shared memory. A program's views are changed before it is written; of tiles whose
//! rows are staggered, too, the writer knows.

use super::Architecture;
use super::dots::{each, last_stride, on_tensor_cores, right_place};
use super::fragments::{Fragments, several};
use super::placement::element;
use crate::condense::accesses::views;
use crate::tile::{Base, DimId, Dot, Nest, Place, Stmt, TileProgram, View};
use diptych_ir::DType;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Banks of shared memory, of four bytes each.
const BANKS: usize = 32;
/// Rows that are staggered together, and by how many elements they then begin later: see `prelude/staggered.cu`.
const STAGGERED: (usize, usize) = (4, 8);

/// A program, and how the rows of its tiles lie.
#[derive(Clone, Debug)]
pub(super) struct Laid<'p> {
    pub(super) program: Cow<'p, TileProgram>,
    /// Tiles whose rows are staggered, and how many elements a row has then.
    pub(super) staggered: BTreeMap<usize, usize>,
}

impl Laid<'_> {
    /// A program as it is.
    pub(super) fn plain(program: &TileProgram) -> Laid<'_> {
        Laid { program: Cow::Borrowed(program), staggered: BTreeMap::new() }
    }
}

/// How the rows of a tile are to lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Pitch {
    /// Elements from one row to the next.
    row: usize,
    /// By how many banks the next row is to begin later.
    banks: usize,
    /// Whether pairs along rows are written.
    along: bool,
    /// Whether a nest looks at elements across. No distance of rows serves both.
    across: bool,
}

impl Pitch {
    fn of(row: usize, how: Use, dtype: DType) -> Pitch {
        Pitch { row, banks: how.banks(dtype), along: how == Use::Pairs, across: how == Use::OwnAcross }
    }

    fn padded(self, dtype: DType) -> usize {
        let in_bank = 4 / dtype.bytes();
        let all = BANKS * in_bank;
        self.row + (self.banks * in_bank + all - self.row % all) % all
    }
}

/// What a dot, or a nest, does with a tile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    /// Lanes have two neighbours each, four lanes a row.
    Pairs,
    /// The same with rows and columns exchanged: lanes of a row are in rows of the tile that are two apart.
    Across,
    /// So do the threads of a nest with the elements that they have in registers, one by one.
    OwnAcross,
    /// Pieces of 16 bytes are copied: see `prelude/stages.cu`.
    Pieces,
}

impl Use {
    /// By how many banks rows of a tile are to be apart.
    fn banks(self, dtype: DType) -> usize {
        match (self, dtype.bytes()) {
            // 16 lanes write 8 bytes each at once, four rows.
            (Use::Pairs, 4) => 8,
            // 32 lanes write 4 bytes each, eight rows; or eight read 16 bytes each, of a row of their own.
            (Use::Pairs | Use::Across | Use::OwnAcross, _) => 4,
            (Use::Pieces, 2) => 4,
            // Pieces of floats, of which eight lanes read halves at once, are in all banks whatever their rows.
            (Use::Pieces, _) => 0,
        }
    }
}

/// Dimensions of a tile's rows, and of its columns.
type RowsAndColumns<'d> = (&'d [DimId], &'d [DimId]);

/// A program with its tiles so padded.
pub(super) fn padded(
    program: &TileProgram,
    architecture: Architecture,
    fragments: &Fragments,
) -> Laid<'static> {
    let mut wanted: BTreeMap<usize, Option<Pitch>> = BTreeMap::new();
    each(&program.body, &mut |dot| {
        let mut want = |place: &Place, dims: (&[DimId], &[DimId]), how: Use| {
            if let Place::Strided(view) = place {
                want(program, &mut wanted, view, dims, how);
            }
        };
        want_of_dot(program, dot, architecture, fragments, &mut want);
    });
    walk(&program.body, &mut |stmt| {
        if let Stmt::Nest(nest) = stmt {
            want_of_nest(program, nest, fragments, &mut wanted);
        }
    });
    let mut program = program.clone();
    let mut staggered = BTreeMap::new();
    for (tile, pitch) in wanted {
        let Some(pitch) = pitch.filter(|pitch| pitch.banks > 0) else { continue };
        let dtype = element(&program, tile);
        let of_floats = dtype.bytes() == 4;
        let staggers = pitch.along
            && pitch.across
            && of_floats
            && holds_sums_in_rows(&program, tile, pitch.row, fragments);
        // Pairs of four rows, and of every other row of eight, are then in different banks.
        let pitch = if staggers { Pitch { banks: STAGGERED.1, ..pitch } } else { pitch };
        let padded = pitch.padded(dtype);
        if !has_rows(&program, tile, pitch.row) {
            continue;
        }
        if padded > pitch.row {
            pad(&mut program, tile, pitch.row, padded);
        }
        if staggers {
            let rows = program.tiles[tile].elements / padded;
            program.tiles[tile].elements += rows.div_ceil(STAGGERED.0) * STAGGERED.1;
            staggered.insert(tile, padded);
        }
    }
    Laid { program: Cow::Owned(program), staggered }
}

/// What a dot wants of tiles.
fn want_of_dot(
    program: &TileProgram,
    dot: &Dot,
    architecture: Architecture,
    fragments: &Fragments,
    want: &mut dyn FnMut(&Place, RowsAndColumns<'_>, Use),
) {
    // Rows of an operand as they lie.
    let along = |place: &Place, x: &[DimId]| match place {
        Place::Strided(view) => last_stride(view, x) != 1,
        Place::Packed(_) => false,
    };
    if architecture.has_warpgroups() {
        let Some(method) = fragments.method(program, dot) else { return };
        let left_is_b = method.swapped();
        want(&dot.c, (&dot.m, &dot.n), if left_is_b { Use::Across } else { Use::Pairs });
        if method.parts() > 1 {
            let (place, x) = if left_is_b { (right_place(dot), &dot.n) } else { (left(dot), &dot.m) };
            match along(&place, x) {
                true => want(&place, (x, &dot.k), Use::Pairs),
                false => want(&place, (&dot.k, x), Use::Across),
            }
        }
    } else if on_tensor_cores(program, dot, architecture) {
        want(&dot.c, (&dot.m, &dot.n), Use::Pairs);
        for (place, x) in [(left(dot), &dot.m), (right_place(dot), &dot.n)] {
            let (rows, columns) = if along(&place, x) { (x, &dot.k) } else { (&dot.k, x) };
            want(&place, (rows, columns), Use::Pieces);
        }
    }
}

/// What a nest over tiles in registers wants of those in memory that lie across their rows.
fn want_of_nest(
    program: &TileProgram,
    nest: &Nest,
    fragments: &Fragments,
    wanted: &mut BTreeMap<usize, Option<Pitch>>,
) {
    let Some(rows) = fragments.rows.filter(|_| fragments.meet(nest)) else { return };
    let dims = several(program, &nest.dims);
    let Some(&columns) = dims.iter().find(|dim| **dim != rows) else { return };
    views(&mut Stmt::Nest(nest.clone()), &mut |view, _| {
        if fragments.get(view.base).is_none() && view.stride(rows) == 1 && view.stride(columns) > 1 {
            want(program, wanted, view, (&[columns], &[rows]), Use::OwnAcross);
        }
    });
}

/// Whether dots do no more with a tile than to leave their sums there, from its first row on, each row in one.
fn holds_sums_in_rows(program: &TileProgram, tile: usize, row: usize, fragments: &Fragments) -> bool {
    let mut only = true;
    each(&program.body, &mut |dot| {
        let is = |place: &Place| place.base() == Base::Tile(tile);
        only &= ![left(dot), dot.b.clone(), right_place(dot)].iter().any(is);
        if let Place::Strided(view) = &dot.c
            && is(&dot.c)
        {
            let along = fragments.method(program, dot).is_some_and(|method| !method.swapped());
            only &= along && dot.batch.is_empty() && view.offset < row;
        }
    });
    only
}

fn left(dot: &Dot) -> Place {
    Place::Strided(dot.a.clone())
}

/// Notes how a tile's rows are to lie; nothing is wanted of a tile that has rows of two kinds.
fn want(
    program: &TileProgram,
    wanted: &mut BTreeMap<usize, Option<Pitch>>,
    view: &View,
    (rows, columns): (&[DimId], &[DimId]),
    how: Use,
) {
    let Base::Tile(tile) = view.base else { return };
    let row = last_stride(view, rows);
    let pitch =
        (row > 0 && last_stride(view, columns) == 1).then(|| Pitch::of(row, how, element(program, tile)));
    let Some(pitch) = pitch else {
        wanted.insert(tile, None);
        return;
    };
    let known = wanted.entry(tile).or_insert(Some(pitch));
    *known = known.filter(|known| known.row == pitch.row).map(|known| {
        // What is read in a loop comes after what is stored once.
        let banks = if how == Use::Across { pitch.banks } else { known.banks.max(pitch.banks) };
        Pitch { banks, along: known.along || pitch.along, across: known.across || pitch.across, ..known }
    });
}

/// Calls a function on each statement that holds no others.
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

fn pad(program: &mut TileProgram, tile: usize, row: usize, padded: usize) {
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
