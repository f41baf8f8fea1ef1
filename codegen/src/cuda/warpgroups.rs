//! Contractions on sm_90a and sm_100a, by warpgroups or by what they wait for: which operand is on the side of 64 rows,
//! with what tile, and how operands come into the ring through which all dots of a kernel go. It follows from the
//! contraction alone what multiplies; which side an operand is on, and how it comes, changes no bit. What is about tensor
//! memory is in `tcgen05`.

use super::Architecture;
use super::boxes::{Boxes, RING_STEP};
use super::dots::Family;
use super::fragments::{Fragments, several};
use super::prelude::WARPGROUP_COLUMNS;
use super::writer::{THREADS, Writer};
use crate::tile::{DimId, Dot, Place, Stmt, TileProgram};
use diptych_ir::DType;

/// Bytes of a row of a slot: so many k of bf16.
const ROW_BYTES: usize = RING_STEP * 2;
/// Warps of all consumers.
const WARPS: usize = THREADS / 32;
/// Columns of products with at most so many rows, which then are on the side of columns, of which there may be few.
const FEW_ROWS: usize = 32;
/// The most slots that a ring has.
const MOST_SLOTS: usize = 4;

/// A dot as warpgroups do it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Warpgroups {
    rows: usize,
    columns: usize,
    /// How many numbers of bf16 one of the left operand is.
    parts: usize,
    /// Whether the left operand is b.
    swapped: bool,
    family: Family,
    /// How many warpgroups share it.
    groups: usize,
}

/// An operand of a dot: its rows or columns, and how it comes.
struct Side<'d> {
    place: Place,
    x: &'d [DimId],
    across: bool,
    along_k: bool,
    from: Source,
}

/// Where an operand comes from: see `prelude/slots.cu`.
enum Source {
    Tma(Box<Boxes>),
    Elements,
    Pieces,
    Registers { pairs: bool },
    Fragments { finite: bool },
}

impl Source {
    fn name(&self) -> &'static str {
        match self {
            Source::Tma(boxes) if boxes.rows_zeroed => "BY_TMA_ROWS_ZEROED",
            Source::Tma(boxes) if boxes.zeroed => "BY_TMA_ZEROED",
            Source::Tma(_) => "BY_TMA",
            Source::Elements => "BY_ELEMENTS",
            Source::Pieces => "BY_PIECES",
            Source::Registers { pairs: false } => "IN_REGISTERS",
            Source::Registers { pairs: true } => "IN_REGISTERS_BY_PAIRS",
            Source::Fragments { finite: false } => "IN_FRAGMENTS",
            Source::Fragments { finite: true } => "IN_FINITE_FRAGMENTS",
        }
    }
}

impl Warpgroups {
    /// A product of at most `m` x `n` elements of these types; `None` where no tensor cores are for it.
    pub(super) fn of(
        m: usize,
        n: usize,
        values: [DType; 2],
        architecture: Architecture,
    ) -> Option<Warpgroups> {
        if !architecture.has_warpgroups() {
            return None;
        }
        let family = if architecture.has_tensor_memory() { Family::Tcgen05 } else { Family::Wgmma };
        let (parts, swapped) = match values {
            [DType::BF16, DType::BF16] => (1, m <= FEW_ROWS && m < n),
            [DType::F32, DType::BF16] => (3, false),
            [DType::BF16, DType::F32] => (3, true),
            _ => return None,
        };
        let (left, right) = if swapped { (n, m) } else { (m, n) };
        // In tensor memory parts of the left operand have a lane for each of 128 rows.
        let rows = if left <= 64 && (family == Family::Wgmma || parts == 1) { 64 } else { 128 };
        // Of 64 rows, or of sums in tensor memory, each warpgroup has half of the columns, and 8 are the fewest.
        let least = if rows == 64 || family == Family::Tcgen05 { 16 } else { 8 };
        let columns = [8, 16, 32, 64, 128].into_iter().find(|&size| size >= least && right <= size);
        Some(Warpgroups { rows, columns: columns.unwrap_or(128), parts, swapped, family, groups: 2 })
    }

    /// The instructions that sum.
    pub(super) fn family(self) -> Family {
        self.family
    }

    /// Columns of sums.
    pub(super) fn columns(self) -> usize {
        self.columns
    }

    /// The same by one warpgroup, with an operand on the left that is asked for, if it may be there.
    pub(super) fn of_one(self, program: &TileProgram, dot: &Dot, swapped: Option<bool>) -> Warpgroups {
        let swapped = swapped.unwrap_or(self.swapped);
        let [m, n] = super::dots::most(program, dot);
        let right = if swapped { m } else { n };
        let columns = WARPGROUP_COLUMNS.into_iter().find(|&size| right <= size);
        Warpgroups { rows: 64, columns: columns.unwrap_or(128), swapped, groups: 1, ..self }
    }

    /// How many numbers of bf16 one of the left operand is; one of the right is one.
    pub(super) fn parts(self) -> usize {
        self.parts
    }

    /// Whether the left operand is b.
    pub(super) fn swapped(self) -> bool {
        self.swapped
    }

    /// Bytes of a slot that the left operand has. One of floats stays in registers, or goes to tensor memory.
    fn left_bytes(self, held: bool) -> usize {
        if self.parts > 1 || held { 0 } else { self.rows * ROW_BYTES }
    }

    fn slot_bytes(self, held: bool) -> usize {
        // Where columns run along memory, a row has 64 of them at least.
        self.left_bytes(held) + self.columns.max(64) * ROW_BYTES
    }
}

/// The slots of a kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ring {
    pub(super) slots: usize,
    pub(super) slot_bytes: usize,
    /// Arrivals after which a slot is empty: of each consumer warp, or of the products that read it.
    leaving: usize,
}

impl Ring {
    /// Rings for the dots of a program, the one with the most slots first; none where no warpgroup multiplies.
    pub(super) fn choices(
        program: &TileProgram,
        architecture: Architecture,
        fragments: &Fragments,
    ) -> Vec<Ring> {
        let mut slot_bytes = 0;
        super::dots::each(&program.body, &mut |dot| {
            let held = fragments.left_of(program, dot).is_some();
            let of_dot = fragments.method(program, dot).map_or(0, |method| method.slot_bytes(held));
            slot_bytes = slot_bytes.max(of_dot);
        });
        let slots = (2..=MOST_SLOTS).rev().filter(|_| slot_bytes > 0);
        let leaving = if architecture.has_tensor_memory() { 1 } else { WARPS };
        slots.map(|slots| Ring { slots, slot_bytes, leaving }).collect()
    }

    /// Shared memory of the slots and of their barriers.
    pub(super) fn bytes(self) -> usize {
        self.slots * (self.slot_bytes + 16)
    }

    /// Its type in CUDA, for so many consumers.
    pub(super) fn text(self, consumers: usize) -> String {
        let Ring { slots, slot_bytes, leaving } = self;
        match (consumers, leaving) {
            (THREADS, WARPS) => format!("ring<{slots}, {slot_bytes}>"),
            (_, WARPS) => format!("ring<{slots}, {slot_bytes}, {consumers}>"),
            _ => format!("ring<{slots}, {slot_bytes}, {consumers}, {leaving}>"),
        }
    }
}

/// Registers of a consumer, and of a thread of the producer's warpgroup: of 168 a thread where there are two warpgroups
/// of consumers, and of 128 where there is one and two blocks find room.
pub(super) fn registers(consumers: usize) -> [usize; 2] {
    if consumers == THREADS { [232, 40] } else { [224, 32] }
}

/// Whether some of these statements are dots of warpgroups.
pub(super) fn multiply(program: &TileProgram, body: &[Stmt], architecture: Architecture) -> bool {
    let mut found = false;
    super::dots::each(body, &mut |dot| {
        found |= super::dots::warpgroups(program, dot, architecture).is_some()
    });
    found
}

impl Writer<'_> {
    /// The consumers' part of a dot, without the loops over its batch.
    pub(super) fn dot_of_warpgroups(&mut self, dot: &Dot, method: Warpgroups) {
        let Warpgroups { rows, columns, parts, swapped, family, .. } = method;
        let [left, right] = self.sides(dot, method);
        let (m, n, k) = self.sizes(dot, swapped);
        let c = match &dot.c {
            Place::Strided(view) if self.fragments.get(view.base).is_some() => self.tile_name(view),
            Place::Strided(view) if swapped => self.strided(view, (&dot.n, &dot.m), &dot.batch, false),
            Place::Strided(view) => self.strided(view, (&dot.m, &dot.n), &dot.batch, false),
            Place::Packed(view) => self.panels(view, &dot.batch, false, swapped),
        };
        let pairs = !swapped && self.in_pairs(&dot.c, dot);
        let of_a = self.operand_of_rows(&left, dot);
        let of_b = self.operand_of_rows(&right, dot);
        let from = format!("{}, {}", left.from.name(), right.from.name());
        let along = format!("{}, {}", left.along_k, right.along_k);
        let mut shape = format!("{rows}, {columns}, {parts}, {from}, {along}, {}, {pairs}", dot.accumulate);
        // Where it is known how many steps there are, they are written one by one.
        if let Some(steps) = self.steps_of(dot).filter(|_| family == Family::Wgmma) {
            shape.push_str(&format!(", {steps}"));
        }
        let (call, sums) = match family {
            Family::Tcgen05 => ("dot_tcgen05", ", tensor"),
            _ => ("dot_wgmma", ""),
        };
        self.line(format!("{call}<{shape}>({m}, {n}, {k},"));
        self.line(format!("    {of_a},"));
        self.line(format!("    {of_b},"));
        self.line(format!("    {c}, slots{sums});"));
    }

    /// The producer's part.
    pub(super) fn produce(&mut self, dot: &Dot, method: Warpgroups) -> Result<(), String> {
        let Warpgroups { rows, columns, swapped, .. } = method;
        let [left, right] = self.sides(dot, method);
        let (m, n, k) = self.sizes(dot, swapped);
        let mut operands = Vec::new();
        for (side, extent) in [(left, rows), (right, columns)] {
            operands.push(match side.from {
                Source::Tma(boxes) => {
                    let extent = if boxes.along_k { extent } else { extent.max(64) };
                    let map = self.map(boxes.map.clone())?;
                    boxes.text(extent, &map)
                }
                _ => "no_boxes{}".to_owned(),
            });
        }
        let held = self.fragments.left_of(self.program, dot).is_some();
        self.line(format!("produce<{rows}, {columns}, {}>({m}, {n}, {k},", method.left_bytes(held)));
        self.line(format!("    {},", operands[0]));
        self.line(format!("    {}, slots);", operands[1]));
        Ok(())
    }

    /// The steps of k of a dot among others of whose tiles some are in registers, if their number is known, and small.
    fn steps_of(&self, dot: &Dot) -> Option<usize> {
        const MOST_STEPS: usize = 2;
        self.fragments.rows?;
        let k = several(self.program, &dot.k);
        let most: usize = k.iter().map(|&dim| self.extent(dim).most()).product();
        let known = k.iter().all(|&dim| self.extent(dim).constant().is_some()) || most <= RING_STEP;
        let steps = most.div_ceil(RING_STEP);
        (known && steps <= MOST_STEPS).then_some(steps)
    }

    /// How many rows, columns and k there are.
    fn sizes(&self, dot: &Dot, swapped: bool) -> (String, String, String) {
        let (m, n) = if swapped { (&dot.n, &dot.m) } else { (&dot.m, &dot.n) };
        (self.counts(m), self.counts(n), self.counts(&dot.k))
    }

    /// The left and the right operand.
    fn sides<'d>(&self, dot: &'d Dot, method: Warpgroups) -> [Side<'d>; 2] {
        let a = (Place::Strided(dot.a.clone()), &dot.m[..], false);
        let b = (super::dots::right_place(dot), &dot.n[..], dot.across);
        let (left, right) = if method.swapped { (b, a) } else { (a, b) };
        let side = |(place, x, across), parts, extent| self.side(dot, (place, x, across), parts, extent);
        [side(left, method.parts, method.rows), side(right, 1, method.columns)]
    }

    fn side<'d>(
        &self,
        dot: &'d Dot,
        (place, x, across): (Place, &'d [DimId], bool),
        parts: usize,
        extent: usize,
    ) -> Side<'d> {
        let along_k = match &place {
            Place::Strided(view) => super::dots::last_stride(view, x) != 1,
            Place::Packed(_) => across,
        };
        let copied = match &place {
            Place::Strided(view) => self.copy_of(view, if along_k { &dot.k } else { x }) != "COPY_ELEMENTS",
            Place::Packed(view) => self.panels_are_aligned(view, &dot.batch),
        };
        let from = match self.boxes(&place, (x, &dot.k), &dot.batch, across, extent) {
            _ if self.fragments.get(place.base()).is_some() => {
                Source::Fragments { finite: self.ranges.is_finite(place.base()) }
            }
            _ if parts > 1 => Source::Registers { pairs: along_k && copied },
            Some(boxes) if boxes.along_k == along_k => Source::Tma(Box::new(boxes)),
            _ if copied => Source::Pieces,
            _ => Source::Elements,
        };
        Side { place, x, across, along_k, from }
    }

    /// An operand as rows of k.
    fn operand_of_rows(&self, side: &Side<'_>, dot: &Dot) -> String {
        match &side.place {
            Place::Strided(view) if matches!(side.from, Source::Fragments { .. }) => self.tile_name(view),
            Place::Strided(view) => self.strided(view, (side.x, &dot.k), &dot.batch, true),
            Place::Packed(view) => self.panels(view, &dot.batch, true, !side.across),
        }
    }
}
