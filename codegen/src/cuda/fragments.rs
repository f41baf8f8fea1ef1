//! Which tiles of a kernel a warpgroup keeps in registers, as wgmma leaves its sums there, in place of shared memory:
//! those that go from a product through nests into the next, as scores and probabilities do. All that looks at such a
//! tile works on its rows, which are those of one dimension. It writes no text.

use super::Architecture;
use super::dots::{each, last_stride, right_place, warpgroups};
use super::held_sums::with_held_sum;
use super::lifetimes::{Lifetime, lifetimes};
use super::passes::{has_long_rows, passes};
use super::prelude::WARPGROUP_COLUMNS;
use super::warpgroups::{Warpgroups, multiply};
use crate::condense::accesses::views;
use crate::tile::{Base, DimId, Dot, Instr, Nest, Place, Stmt, TileProgram, View};
use diptych_ir::DType;

/// Rows of a warpgroup's sums.
const ROWS: usize = 64;
/// Registers of a thread that tiles take at most at a time. Beside them are the parts of an operand, and addresses.
const MOST_REGISTERS: usize = 176;

/// A tile in registers. Its rows are those of [`Fragments::rows`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fragment {
    /// The dimension of its columns; `None`: it has one number for each row.
    columns: Option<DimId>,
    /// Columns for which there are registers, 0 if it has none.
    pub(super) width: usize,
    /// Whether two numbers of bf16 share a register.
    pub(super) narrow: bool,
}

impl Fragment {
    /// Registers of a thread.
    fn registers(self) -> usize {
        match (self.width, self.narrow) {
            (0, _) => 2,
            (width, true) => width / 4,
            (width, false) => width / 2,
        }
    }
}

/// A view of a tile in registers: columns from a group of eight on, which each thread has eight apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Held {
    /// The dimension that walks the columns, if they are walked.
    pub(super) columns: Option<DimId>,
    /// The first column.
    pub(super) first: usize,
}

/// The tiles of a program that are kept in registers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Fragments {
    architecture: Architecture,
    /// The dimension of the rows; `None` where there are no fragments.
    pub(super) rows: Option<DimId>,
    tiles: Vec<Option<Fragment>>,
}

impl Fragments {
    fn none(program: &TileProgram, architecture: Architecture) -> Fragments {
        Fragments { architecture, rows: None, tiles: vec![None; program.tiles.len()] }
    }

    /// Those of a program: all tiles of its rows that nothing looks at in another way, if one of them is multiplied.
    pub(super) fn of(program: &TileProgram, architecture: Architecture) -> Fragments {
        let none = Fragments::none(program, architecture);
        let Some(rows) = rows(program, architecture) else { return none };
        if !works_with_one_warpgroup(program, &program.body) {
            return none;
        }
        let mut found = Fragments { rows: Some(rows), ..none.clone() };
        for (tile, fragment) in found.tiles.iter_mut().enumerate() {
            let dims: Vec<DimId> = several(program, &program.tiles[tile].dims);
            let columns: Vec<DimId> = dims.iter().copied().filter(|dim| *dim != rows).collect();
            let narrow = program.tiles[tile].values == DType::BF16;
            *fragment = match columns[..] {
                _ if !dims.contains(&rows) => None,
                _ if !narrow && program.tiles[tile].values != DType::F32 => None,
                [] => Some(Fragment { columns: None, width: 0, narrow: false }),
                [dim] => width(program, dim).map(|width| Fragment { columns: Some(dim), width, narrow }),
                _ => None,
            };
        }
        loop {
            let mut refused = Vec::new();
            found.refused(program, &program.body, &mut refused);
            if refused.is_empty() {
                break;
            }
            refused.into_iter().for_each(|tile| found.tiles[tile] = None);
        }
        let mut multiplied = false;
        each(&program.body, &mut |dot| multiplied |= found.left_of(program, dot).is_some());
        let fits = found.registers(program) <= MOST_REGISTERS && !found.load_few_rows_one_by_one(program);
        if multiplied && fits { found } else { none }
    }

    /// Those of a program, and the program, if another form of it is the better one: sums that it adds up in memory
    /// are in registers, too.
    pub(super) fn of_held(
        program: &TileProgram,
        architecture: Architecture,
    ) -> (Option<TileProgram>, Fragments) {
        let (mut held, mut fragments) = (None, Fragments::of(program, architecture));
        for arg in 0..program.args.len() {
            if fragments.rows.is_none() {
                break;
            }
            let Some(other) = with_held_sum(held.as_ref().unwrap_or(program), arg) else { continue };
            let of_other = Fragments::of(&other, architecture);
            if of_other.tiles.last().is_some_and(Option::is_some) {
                (held, fragments) = (Some(other), of_other);
            }
        }
        (held, fragments)
    }

    /// What a base is in registers, if it is there.
    pub(super) fn get(&self, base: Base) -> Option<Fragment> {
        match base {
            Base::Tile(tile) => self.tiles[tile],
            Base::Arg(_) | Base::Table(_) => None,
        }
    }

    /// Whether a nest works on tiles in registers.
    pub(super) fn meet(&self, nest: &Nest) -> bool {
        !self.seen_by(&Stmt::Nest(nest.clone())).is_empty()
    }

    /// How warpgroups do a dot of the program, if they do: where tiles are in registers, there is one, of 64 rows, and
    /// the operand with the rows of the fragments is on its left.
    pub(super) fn method(&self, program: &TileProgram, dot: &Dot) -> Option<Warpgroups> {
        let method = warpgroups(program, dot, self.architecture)?;
        let Some(rows) = self.rows else { return Some(method) };
        let [m, n] = [&dot.m, &dot.n].map(|dims| several(program, dims));
        let swapped = match (m == [rows], n == [rows]) {
            (true, false) => Some(false),
            (false, true) => Some(true),
            _ => None,
        };
        Some(method.of_one(program, dot, swapped.filter(|_| method.parts() == 1)))
    }

    /// The tile in registers that is the left operand of a dot.
    pub(super) fn left_of(&self, program: &TileProgram, dot: &Dot) -> Option<usize> {
        let method = self.method(program, dot)?;
        let place = if method.swapped() { right_place(dot) } else { Place::Strided(dot.a.clone()) };
        match place.base() {
            Base::Tile(tile) if self.tiles[tile].is_some() => Some(tile),
            _ => None,
        }
    }

    /// The tiles in registers that a statement without others in it looks at.
    fn seen_by(&self, stmt: &Stmt) -> Vec<usize> {
        let mut seen = Vec::new();
        views(&mut stmt.clone(), &mut |view, _| {
            if let Base::Tile(tile) = view.base
                && self.tiles[tile].is_some()
                && !seen.contains(&tile)
            {
                seen.push(tile);
            }
        });
        seen
    }

    /// The tiles that some statement does not work on as fragments.
    fn refused(&self, program: &TileProgram, body: &[Stmt], refused: &mut Vec<usize>) {
        for stmt in body {
            match stmt {
                Stmt::Stream { body, .. } | Stmt::Steps { body, .. } => {
                    self.refused(program, body, refused);
                }
                Stmt::When { yes, no, .. } => {
                    self.refused(program, yes, refused);
                    self.refused(program, no, refused);
                }
                Stmt::Nest(nest) if self.walks(program, nest) => {}
                Stmt::Fill { dims, place: Place::Strided(view), .. }
                    if self.is_whole(program, view) && same(&several(program, dims), &self.dims_of(view)) => {
                }
                Stmt::Dot(dot) => refused.extend(self.refused_by_dot(program, dot)),
                stmt => refused.extend(self.seen_by(stmt)),
            }
        }
    }

    /// Whether threads can walk a nest over the elements that they hold.
    fn walks(&self, program: &TileProgram, nest: &Nest) -> bool {
        let Some(rows) = self.rows else { return false };
        let dims = several(program, &nest.dims);
        let columns: Vec<DimId> = dims.iter().copied().filter(|dim| *dim != rows).collect();
        let in_one_pass = passes(program, nest).is_ok_and(|passes| passes.len() == 1);
        if !dims.contains(&rows) || columns.len() > 1 || !in_one_pass {
            return false;
        }
        if columns.first().is_some_and(|&dim| width(program, dim).is_none()) {
            return false;
        }
        let is_of_nest = |view: &View| {
            self.get(view.base).is_none()
                || self
                    .held(program, view)
                    .is_some_and(|held| held.columns.is_none_or(|dim| columns.contains(&dim)))
        };
        // Two numbers of bf16 share a register, which is written anew with the first.
        let stores = |tile: Base| {
            let is = |instr: &Instr| matches!(instr, Instr::Store(place, _) if place.base() == tile);
            nest.body.iter().any(is)
        };
        let updates_narrow = nest.body.iter().any(|instr| match instr {
            Instr::Load(place) => {
                self.get(place.base()).is_some_and(|tile| tile.narrow) && stores(place.base())
            }
            _ => false,
        });
        let mut whole = !updates_narrow;
        views(&mut Stmt::Nest(nest.clone()), &mut |view, _| whole &= is_of_nest(view));
        let varies = |place: &Place| match place {
            Place::Strided(view) => columns.iter().all(|&dim| view.stride(dim) > 0),
            Place::Packed(_) => false,
        };
        whole
            && nest.body.iter().all(|instr| match instr {
                Instr::AddAt { .. } | Instr::LoadAt { .. } => false,
                Instr::Reduce { over, into, .. } => {
                    same(&several(program, over), &columns)
                        && columns.iter().all(|&dim| into.stride(dim) == 0)
                }
                Instr::Store(place, _) => varies(place),
                _ => true,
            })
    }

    fn refused_by_dot(&self, program: &TileProgram, dot: &Dot) -> Vec<usize> {
        let seen = self.seen_by(&Stmt::Dot(dot.clone()));
        let Some(method) = self.method(program, dot) else { return seen };
        let (left, x, other) = match method.swapped() {
            true => (right_place(dot), &dot.n, &dot.m),
            false => (Place::Strided(dot.a.clone()), &dot.m, &dot.n),
        };
        let [x, other, k] = [x, other, &dot.k].map(|dims| several(program, dims));
        let has_rows = dot.batch.is_empty() && Some(&x[..]) == self.rows.as_ref().map(std::slice::from_ref);
        let fits = |place: &Place, columns: &[DimId]| match place {
            Place::Strided(view) => {
                let own = self.get(view.base).and_then(|fragment| fragment.columns);
                has_rows
                    && self.is_whole(program, view)
                    && own.as_ref().map(std::slice::from_ref) == Some(columns)
            }
            Place::Packed(_) => false,
        };
        // Which step of k a fragment's columns belong to has to be known.
        let known = |dim: DimId| {
            let extent = program.dims[dim].extent;
            extent.constant().is_some() || extent.most() <= super::boxes::RING_STEP
        };
        let allowed = |tile: usize| {
            let is = |place: &Place| place.base() == Base::Tile(tile);
            match (is(&left), is(&dot.c)) {
                (true, false) => {
                    fits(&left, &k) && k.iter().all(|&dim| known(dim)) && !is(&self.other(dot, method))
                }
                (false, true) => {
                    !self.tiles[tile].is_some_and(|fragment| fragment.narrow)
                        && fits(&dot.c, &other)
                        && !is(&self.other(dot, method))
                }
                _ => false,
            }
        };
        seen.into_iter().filter(|&tile| !allowed(tile)).collect()
    }

    fn other(&self, dot: &Dot, method: Warpgroups) -> Place {
        if method.swapped() { Place::Strided(dot.a.clone()) } else { right_place(dot) }
    }

    /// The dimensions of a tile in registers.
    fn dims_of(&self, view: &View) -> Vec<DimId> {
        let columns = self.get(view.base).and_then(|fragment| fragment.columns);
        self.rows.into_iter().chain(columns).collect()
    }

    /// What a view of a tile in registers sees of it, if each thread sees its own elements.
    pub(super) fn held(&self, program: &TileProgram, view: &View) -> Option<Held> {
        let (Base::Tile(tile), Some(rows)) = (view.base, self.rows) else { return None };
        let fragment = self.get(view.base)?;
        let strides = view.strides.iter().filter(|entry| entry.1 > 0).map(|entry| entry.0);
        let seen = several(program, &strides.collect::<Vec<_>>());
        if view.dtype == DType::I32 || !seen.contains(&rows) {
            return None;
        }
        let columns: Vec<DimId> = seen.into_iter().filter(|dim| *dim != rows).collect();
        let pitch = program.tiles[tile].elements / program.dims[rows].extent.most();
        match (fragment.columns, &columns[..]) {
            (None, []) if view.offset == 0 => Some(Held { columns: None, first: 0 }),
            (Some(own), &[dim]) if dim == own && view.offset == 0 => {
                Some(Held { columns: Some(dim), first: 0 })
            }
            // Some of the columns, where they run along the tile's rows.
            (Some(_), &[dim])
                if view.stride(dim) == 1
                    && view.stride(rows) == pitch
                    && view.offset.is_multiple_of(8)
                    && view.offset + program.dims[dim].extent.most() <= pitch =>
            {
                Some(Held { columns: Some(dim), first: view.offset })
            }
            _ => None,
        }
    }

    /// Whether a view is all of a tile in registers.
    fn is_whole(&self, program: &TileProgram, view: &View) -> bool {
        let own = self.get(view.base).and_then(|fragment| fragment.columns);
        self.held(program, view).is_some_and(|held| held.columns == own && held.first == 0)
    }

    /// Whether a product loads fewer rows than a warpgroup has one number at a time, as it does floats on its left that
    /// run along memory with their rows: for addresses of which, and whether each is there, registers would not suffice.
    fn load_few_rows_one_by_one(&self, program: &TileProgram) -> bool {
        let mut found = false;
        each(&program.body, &mut |dot| {
            let Some(method) = self.method(program, dot).filter(|method| method.parts() > 1) else { return };
            let (place, x) = match method.swapped() {
                true => (right_place(dot), &dot.n),
                false => (Place::Strided(dot.a.clone()), &dot.m),
            };
            let Place::Strided(view) = &place else { return };
            let rows: usize = x.iter().map(|&dim| program.dims[dim].extent.most()).product();
            let held = self.left_of(program, dot).is_some();
            found |= !held && rows < ROWS && last_stride(view, &dot.k) != 1;
        });
        found
    }

    /// The most registers for tiles that a thread needs at a time. Where a nest reads a tile for the last time, what it
    /// writes takes its place; a product needs its sums beside what it multiplies.
    fn registers(&self, program: &TileProgram) -> usize {
        let lives = lifetimes(program);
        let held = |wanted: &dyn Fn(Lifetime) -> bool| -> usize {
            let all = self.tiles.iter().zip(&lives);
            let held = all.filter(|(_, life)| life.is_some_and(wanted));
            held.filter_map(|(tile, _)| tile.map(Fragment::registers)).sum()
        };
        let mut most = 0;
        in_order(&program.body, &mut 0, &mut |time, stmt| {
            let needed = match stmt {
                Stmt::Dot(_) => held(&|life| life.0 <= time && time <= life.1),
                _ => held(&|life| life.0 < time && time <= life.1)
                    .max(held(&|life| life.0 <= time && time < life.1)),
            };
            most = most.max(needed);
        });
        most
    }
}

/// Calls a function on each statement that holds no others, and when it comes in the order of the text.
fn in_order(body: &[Stmt], time: &mut usize, see: &mut dyn FnMut(usize, &Stmt)) {
    for stmt in body {
        match stmt {
            Stmt::Stream { body, .. } | Stmt::Steps { body, .. } => in_order(body, time, see),
            Stmt::When { yes, no, .. } => {
                in_order(yes, time, see);
                in_order(no, time, see);
            }
            stmt => {
                see(*time, stmt);
                *time += 1;
            }
        }
    }
}

/// The rows of fragments: those of the tiles that are multiplied, of which an instance has as many as a warpgroup at most.
fn rows(program: &TileProgram, architecture: Architecture) -> Option<DimId> {
    // Sums in tensor memory are there, not in registers.
    if !architecture.has_warpgroups() || architecture.has_tensor_memory() {
        return None;
    }
    let mut found: Vec<DimId> = Vec::new();
    let mut fits = true;
    each(&program.body, &mut |dot| {
        let Some(method) = warpgroups(program, dot, architecture) else {
            fits = false;
            return;
        };
        // Floats are on the left in any case, numbers of bf16 may be.
        let sides = [(Place::Strided(dot.a.clone()), &dot.m, false), (right_place(dot), &dot.n, true)];
        for (place, x, swapped) in sides {
            if matches!(place.base(), Base::Tile(_)) && (method.parts() == 1 || method.swapped() == swapped) {
                match several(program, x)[..] {
                    [dim] => found.push(dim),
                    _ => fits = false,
                }
            }
        }
    });
    let [first, rest @ ..] = &found[..] else { return None };
    let stays = |dim: DimId| !is_walked(&program.body, dim) && program.dims[dim].extent.most() == ROWS;
    (fits
        && stays(*first)
        && rest.iter().all(|dim| dim == first)
        && multiply(program, &program.body, architecture))
    .then_some(*first)
}

/// Whether no statement needs the threads of two warpgroups: rows that several warps share do, and what the prelude
/// has for routing.
fn works_with_one_warpgroup(program: &TileProgram, body: &[Stmt]) -> bool {
    let of_statements = body.iter().all(|stmt| match stmt {
        Stmt::Stream { body, .. } | Stmt::Steps { body, .. } => works_with_one_warpgroup(program, body),
        Stmt::When { yes, no, .. } => {
            works_with_one_warpgroup(program, yes) && works_with_one_warpgroup(program, no)
        }
        Stmt::Round { .. } | Stmt::TopK { .. } | Stmt::AddRows(_) | Stmt::Group { .. } => false,
        Stmt::Nest(_) | Stmt::Dot(_) | Stmt::Fill { .. } | Stmt::Transpose { .. } => true,
    });
    of_statements && has_long_rows(program, body) == Ok(false)
}

/// Whether a loop has one block of a dimension after the other.
fn is_walked(body: &[Stmt], wanted: DimId) -> bool {
    body.iter().any(|stmt| match stmt {
        Stmt::Stream { dim, body, .. } | Stmt::Steps { dim, body, .. } => {
            *dim == wanted || is_walked(body, wanted)
        }
        Stmt::When { yes, no, .. } => is_walked(yes, wanted) || is_walked(no, wanted),
        _ => false,
    })
}

/// Columns of the fragment that holds a dimension.
pub(super) fn width(program: &TileProgram, dim: DimId) -> Option<usize> {
    let most = program.dims[dim].extent.most();
    WARPGROUP_COLUMNS.into_iter().find(|&columns| most <= columns)
}

/// These dimensions without those of which there is one position.
pub(super) fn several(program: &TileProgram, dims: &[DimId]) -> Vec<DimId> {
    let several = |dim: &DimId| program.dims[*dim].extent.constant() != Some(1);
    dims.iter().copied().filter(several).collect()
}

fn same(one: &[DimId], other: &[DimId]) -> bool {
    one.len() == other.len() && one.iter().all(|dim| other.contains(dim))
}
