//! How the arguments of a launch move: bytes, distinct bytes, and how much a thread touches before it comes
//! back to the same. Scratch tiles and repetition within a statement stay in a thread's nearest caches.
//! It must not know what is computed from what is loaded.

use super::sizes::{At, Sizes};
use crate::work::{Direction, Traffic};
use diptych_codegen::tile::{Along, Base, CHUNK, DimId, Id, Instr, Nest, PackedView, Place, RowMap, View};
use diptych_passes::layout::bytes_of_256;

/// What memory hands over at a time, on every machine known.
const LINE_BYTES: f64 = 64.0;

/// One way in which statements look at an argument.
struct Access {
    arg: usize,
    write: bool,
    offset: usize,
    dims: Vec<DimId>,
    at: At,
    element_bytes: f64,
    /// Bytes of one pass, and of further passes of the same instances over the same elements.
    bytes: f64,
    again: f64,
    footprint: f64,
}

/// All accesses of a launch.
pub(super) struct Accesses<'a> {
    sizes: &'a Sizes<'a>,
    found: Vec<Access>,
    near_read: f64,
    near_write: f64,
    scattered: Vec<Traffic>,
}

/// The bytes that move for each element of a table's row: a row across panels has each element in a line of
/// its own.
fn bytes_of_row_element(along: Along, element_bytes: f64) -> f64 {
    match along {
        Along::PackedN(_) => element_bytes.max(LINE_BYTES),
        Along::PackedK(_) | Along::Stride(_) => element_bytes,
    }
}

/// The argument that a place is of.
pub(super) fn argument(place: &Place) -> Option<usize> {
    match place {
        Place::Packed(view) => Some(view.arg),
        Place::Strided(view) => match view.base {
            Base::Arg(arg) => Some(arg),
            Base::Tile(_) | Base::Table(_) => None,
        },
    }
}

impl<'a> Accesses<'a> {
    pub(super) fn new(sizes: &'a Sizes<'a>) -> Accesses<'a> {
        Accesses { sizes, found: Vec::new(), near_read: 0.0, near_write: 0.0, scattered: Vec::new() }
    }

    /// The loads and stores of a nest. Elements that are loaded more than once meanwhile are near.
    pub(super) fn nest(&mut self, nest: &Nest, at: At) {
        for instr in &nest.body {
            match instr {
                Instr::Load(place) => self.walked(place, &nest.dims, Direction::Read, at),
                Instr::Store(place, _) => self.walked(place, &nest.dims, Direction::Write, at),
                Instr::LoadAt { table, id, along, .. } => {
                    // A row for each id: as many as there are ids.
                    let mut of_id: Vec<DimId> = match id {
                        Id::Stored(view) => varying(&Place::Strided(view.clone())),
                        Id::Position(dim) => vec![*dim],
                        Id::Computed(_) => nest.dims.clone(),
                    };
                    if let Id::Stored(view) = id {
                        self.walked(&Place::Strided(view.clone()), &nest.dims, Direction::Read, at);
                    }
                    of_id.extend(varying(table));
                    of_id.retain(|dim| nest.dims.contains(dim) || self.sizes.loops(at).contains(dim));
                    of_id.sort_unstable();
                    of_id.dedup();
                    match argument(table) {
                        Some(arg) => {
                            let element_bytes = self.sizes.program.args[arg].dtype.bytes() as f64;
                            let moved = bytes_of_row_element(*along, element_bytes);
                            self.add_moved(arg, false, usize::MAX, of_id, at, moved);
                        }
                        None => self.near_read += 4.0 * self.sizes.points(&of_id, at),
                    }
                }
                Instr::AddAt { table, id, along, .. } => {
                    if let Id::Stored(view) = id {
                        self.walked(&Place::Strided(view.clone()), &nest.dims, Direction::Read, at);
                    }
                    if let Some(arg) = argument(table) {
                        self.rows_of(arg, *along, self.sizes.points(&nest.dims, at));
                    }
                }
                Instr::Reduce { over, .. } => {
                    let in_register = nest.dims.last().is_some_and(|inner| over.contains(inner));
                    let dims = if in_register { &nest.dims[..nest.dims.len() - 1] } else { &nest.dims };
                    let bytes = 4.0 * self.sizes.points(dims, at);
                    self.near_read += bytes;
                    self.near_write += bytes;
                }
                _ => {}
            }
        }
    }

    fn walked(&mut self, place: &Place, dims: &[DimId], direction: Direction, at: At) {
        // What does not vary along the vectorised dimension is loaded once a row.
        let mut walked = dims;
        if let [rows @ .., inner] = dims
            && !varying(place).contains(inner)
        {
            walked = rows;
        }
        let seen = self.seen(place, dims, at);
        let (all, distinct) = (self.sizes.points(walked, at), self.sizes.points(&seen, at));
        let near = (all - distinct).max(0.0) * self.element_bytes(place);
        match direction {
            Direction::Write => self.near_write += near,
            _ => self.near_read += near,
        }
        self.place(place, dims, direction, at);
    }

    /// The dimensions along which a statement over `dims` sees different elements of a place.
    fn seen(&self, place: &Place, dims: &[DimId], at: At) -> Vec<DimId> {
        let loops = self.sizes.loops(at);
        let by_pairs = |dim: DimId| self.sizes.pairs_along(dim).is_some_and(|pair| loops.contains(&pair));
        let mut seen = varying(place);
        seen.retain(|&dim| dims.contains(&dim) || loops.contains(&dim) || by_pairs(dim));
        seen
    }

    fn element_bytes(&self, place: &Place) -> f64 {
        match place {
            Place::Packed(PackedView { blocks: Some(format), .. }) => bytes_of_256(*format) as f64 / 256.0,
            Place::Packed(view) => view.dtype.bytes() as f64,
            // Of what is there once for a chunk, each of its positions has its part.
            Place::Strided(view) if view.rows == RowMap::Chunk => view.dtype.bytes() as f64 / CHUNK as f64,
            Place::Strided(view) => view.dtype.bytes() as f64,
        }
    }

    /// A statement over `dims` that looks at each element of a place once.
    pub(super) fn place(&mut self, place: &Place, dims: &[DimId], direction: Direction, at: At) {
        let seen = self.seen(place, dims, at);
        let (reads, writes) = (direction != Direction::Write, direction != Direction::Read);
        match argument(place) {
            None => {
                let bytes = self.element_bytes(place) * self.sizes.points(&seen, at);
                self.near_read += if reads { bytes } else { 0.0 };
                self.near_write += if writes { bytes } else { 0.0 };
            }
            Some(arg) => {
                let offset = match place {
                    Place::Strided(view) => view.offset,
                    Place::Packed(_) => 0,
                };
                // Rows that several pairs name are read for each, but are there once.
                let chooses = varying(place).iter().any(|&dim| self.sizes.is_choice(dim));
                let different: f64 = match chooses {
                    true => 1.0,
                    false => seen.iter().map(|&dim| self.sizes.different_rows(dim)).product(),
                };
                for write in [false, true] {
                    if if write { writes } else { reads } {
                        self.add_moved(arg, write, offset, seen.clone(), at, self.element_bytes(place));
                        self.keep_different(different);
                    }
                }
                if let Place::Strided(view) = place
                    && let RowMap::Chosen(ids) = view.rows
                {
                    let rows = seen.iter().copied().filter(|&dim| view.stride(dim) > 0).collect::<Vec<_>>();
                    let first = rows.first().map_or(1.0, |&dim| self.sizes.points(&[dim], at));
                    self.near_read += first * self.sizes.program.args[ids].dtype.bytes() as f64;
                }
            }
        }
    }

    /// A statement that looks at all blocks of rounded rows, which lie one row after the other.
    pub(super) fn rounded(&mut self, view: &View, direction: Direction, at: At) {
        let dims = varying(&Place::Strided(view.clone()));
        let words = view.strides.iter().map(|entry| entry.1).min().unwrap_or(0) as f64;
        let row_bytes = 4.0 * words;
        let write = direction == Direction::Write;
        match view.base {
            Base::Arg(arg) => self.add_moved(arg, write, view.offset, dims, at, row_bytes),
            _ if write => self.near_write += row_bytes * self.sizes.points(&dims, at),
            _ => self.near_read += row_bytes * self.sizes.points(&dims, at),
        }
    }

    /// The elements of an argument along these dimensions, of which only a part are different ones.
    pub(super) fn add(
        &mut self,
        arg: usize,
        write: bool,
        offset: usize,
        dims: Vec<DimId>,
        at: At,
        different: f64,
    ) {
        let element_bytes = self.sizes.program.args[arg].dtype.bytes() as f64;
        self.add_moved(arg, write, offset, dims, at, element_bytes);
        self.keep_different(different);
    }

    /// Of what was added last only a part are different elements.
    fn keep_different(&mut self, different: f64) {
        if let (Some(last), true) = (self.found.last_mut(), different < 1.0) {
            last.footprint = last.footprint.min(last.bytes * different);
        }
    }

    /// As [`Accesses::add`], with so many bytes moved for each element.
    fn add_moved(
        &mut self,
        arg: usize,
        write: bool,
        offset: usize,
        mut dims: Vec<DimId>,
        at: At,
        element_bytes: f64,
    ) {
        dims.sort_unstable();
        let bytes = element_bytes * self.sizes.points(&dims, at);
        let footprint = dims.iter().map(|&dim| self.sizes.distinct(dim, at)).product::<f64>() * element_bytes;
        let same = |access: &&mut Access| {
            (access.arg, access.write, access.offset) == (arg, write, offset) && access.dims == dims
        };
        if let Some(known) = self.found.iter_mut().find(same) {
            known.again += bytes.min(known.bytes);
            known.bytes = known.bytes.max(bytes);
            known.footprint = known.footprint.max(footprint);
            return;
        }
        let footprint = footprint.min(bytes);
        self.found.push(Access { arg, write, offset, dims, at, element_bytes, bytes, again: 0.0, footprint });
    }

    /// So many elements of rows of a table, which was written once before, are updated in any order.
    pub(super) fn rows_of(&mut self, arg: usize, along: Along, elements: f64) {
        let element_bytes = self.sizes.program.args[arg].dtype.bytes() as f64;
        let of_table = self.found.iter().filter(|access| access.arg == arg && access.write);
        let table_bytes = of_table.map(|access| access.bytes).fold(0.0, f64::max);
        self.scattered.push(Traffic {
            bytes: elements * bytes_of_row_element(along, element_bytes),
            footprint_bytes: 0.0,
            direction: Direction::Update,
            since_last_use_bytes: None,
            reuse_window_bytes: Some(table_bytes),
        });
    }

    /// Bytes of an access during one iteration of the loop at `position` of `loops`, inner loops done entirely.
    fn during(&self, access: &Access, position: Option<usize>) -> f64 {
        let loops = self.sizes.loops(access.at);
        let elements = access.dims.iter().map(|&dim| match loops.iter().position(|&each| each == dim) {
            Some(at) if position.is_some_and(|position| at <= position) => self.sizes.mean(&[dim], access.at),
            _ => self.sizes.distinct(dim, access.at),
        });
        (elements.product::<f64>() * access.element_bytes).min(access.bytes)
    }

    /// Distinct bytes touched before an access comes back to the same elements: those of one iteration of
    /// the innermost loop that it does not vary along. Threads take instances as they come free, so what a
    /// sweep of inner loops touches is not divided among them.
    fn window(&self, access: &Access, scratch: f64) -> Option<f64> {
        let loops = self.sizes.loops(access.at);
        let position = loops
            .iter()
            .rposition(|dim| !access.dims.contains(dim) && self.sizes.iterations(*dim, access.at) > 1.0)?;
        let bytes: f64 = self.found.iter().map(|other| self.during(other, Some(position))).sum();
        Some(bytes + scratch)
    }

    /// Distinct bytes that are read and that are written. Parts of an argument that lie apart add up; several
    /// looks at the same part count as the largest of them.
    pub(super) fn distinct_bytes(&self) -> (f64, f64) {
        let mut parts: Vec<(usize, bool, usize, f64)> = Vec::new();
        for access in &self.found {
            let key = (access.arg, access.write, access.offset);
            match parts.iter_mut().find(|part| (part.0, part.1, part.2) == key) {
                Some(part) => part.3 = part.3.max(access.footprint),
                None => parts.push((access.arg, access.write, access.offset, access.footprint)),
            }
        }
        let of = |write: bool| parts.iter().filter(|part| part.1 == write).map(|part| part.3).sum::<f64>();
        // What is added to rows of a table is read and written wherever it lands.
        let scattered: f64 = self.scattered.iter().map(|traffic| traffic.bytes).sum();
        (of(false) + scattered, of(true) + scattered)
    }

    /// The traffic of each argument and direction, and that near the cores.
    pub(super) fn traffic(self) -> (Vec<(usize, Traffic)>, Vec<Traffic>) {
        let program = self.sizes.program;
        let scratch: f64 = program.tiles.iter().map(|tile| 4.0 * tile.elements as f64).sum();
        let innermost = |access: &Access| self.sizes.loops(access.at).len().checked_sub(1);
        let at_once: f64 = self.found.iter().map(|access| self.during(access, innermost(access))).sum();
        let mut operands = Vec::new();
        for access in &self.found {
            let direction = if access.write { Direction::Write } else { Direction::Read };
            operands.push((
                access.arg,
                Traffic {
                    bytes: access.bytes,
                    footprint_bytes: access.footprint,
                    direction,
                    since_last_use_bytes: None,
                    reuse_window_bytes: self.window(access, scratch),
                },
            ));
        }
        let again = |write: bool| {
            let chosen = self.found.iter().filter(|access| access.write == write);
            chosen.map(|access| access.again).sum::<f64>()
        };
        let near = |bytes: f64, direction: Direction, window: f64| Traffic {
            bytes,
            footprint_bytes: 0.0,
            direction,
            since_last_use_bytes: None,
            reuse_window_bytes: Some(window),
        };
        let near = vec![
            near(self.near_read, Direction::Read, scratch),
            near(self.near_write, Direction::Write, scratch),
            near(again(false), Direction::Read, scratch + at_once),
            near(again(true), Direction::Write, scratch + at_once),
        ];
        let near = near.into_iter().chain(self.scattered);
        (operands, near.filter(|traffic| traffic.bytes > 0.0).collect())
    }
}

/// The dimensions along which a place's elements differ.
fn varying(place: &Place) -> Vec<DimId> {
    match place {
        Place::Strided(view) => {
            view.strides.iter().filter(|entry| entry.1 > 0).map(|entry| entry.0).collect()
        }
        Place::Packed(view) => view.k.iter().chain(&view.n).map(|entry| entry.0).collect(),
    }
}
