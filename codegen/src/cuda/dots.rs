//! Contractions: which function of the prelude does one, with what tile, and how its operands are staged. Numbers of
//! bf16 go to tensor cores, others through registers; which, follows from the contraction alone and not from how many
//! rows there are, so that all entries of a program compute an element in one way. What warpgroups do is in
//! `warpgroups`.

use super::addresses::{at_start, is_far, type_name};
use super::barriers::touched;
use super::fragments::Fragments;
use super::placement::{ALIGNMENT, Room};
use super::warpgroups::{Ring, Warpgroups};
use super::writer::Writer;
use super::{Architecture, PANEL};
use crate::tile::{Base, DimId, Dot, Extent, PackedView, Place, Stmt, TileProgram, View};
use diptych_ir::DType;

/// How many k a dot of floats stages at a time: see `prelude/dot.cu`.
const K_STEP: usize = 16;
/// The same on tensor cores: see `prelude/dot_bf16.cu`.
const BF16_STEP: usize = 32;
/// Elements of bf16 in a piece of 16 bytes.
const PIECE: usize = 8;

/// What the bits of an element of a dot depend on, beside its operands and the dimensions that are summed, which are
/// walked in their order. All else (tiles, stages, which operand gives the rows) is free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Arithmetic {
    pub(super) family: Family,
    /// How many k an instruction sums at once.
    pub(super) instruction_k: usize,
    /// How many numbers of bf16 the operands are cut into: the fewer first, whichever side they are on. Of each
    /// instruction's k, the products of the smallest parts come first.
    pub(super) parts: [usize; 2],
}

/// The instructions that sum products. Within one, sums have an order that is the family's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Family {
    /// Multiply-adds of floats.
    MultiplyAdd,
    /// `mma.sync`.
    Mma,
    /// `wgmma`.
    Wgmma,
    /// `tcgen05.mma`.
    Tcgen05,
}

/// What a dot's bits depend on.
pub(super) fn arithmetic(program: &TileProgram, dot: &Dot, architecture: Architecture) -> Arithmetic {
    Method::of(program, dot, architecture).arithmetic()
}

/// What computes a dot, and the rows and columns of a block's tile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Method {
    /// `dot`: chains of multiply-adds in registers.
    Registers { rows: usize, columns: usize },
    /// `dot_bf16`: `mma.sync` m16n8k16, and how many numbers of bf16 each of a and of b is.
    TensorCores { rows: usize, columns: usize, parts: [usize; 2] },
    /// `dot_wgmma` or `dot_tcgen05`.
    Warpgroups(Warpgroups),
}

/// How many rows and columns an instance has at most.
pub(super) fn most(program: &TileProgram, dot: &Dot) -> [usize; 2] {
    let most =
        |dims: &[DimId]| -> usize { dims.iter().map(|&dim| program.dims[dim].extent.most()).product() };
    [most(&dot.m), most(&dot.n)]
}

/// How warpgroups do a dot, if they are the ones that do.
pub(super) fn warpgroups(program: &TileProgram, dot: &Dot, architecture: Architecture) -> Option<Warpgroups> {
    let [m, n] = most(program, dot);
    Warpgroups::of(m, n, dot.values, architecture)
}

/// Whether a dot's operands are staged for `mma.sync`.
pub(super) fn on_tensor_cores(program: &TileProgram, dot: &Dot, architecture: Architecture) -> bool {
    matches!(Method::of(program, dot, architecture), Method::TensorCores { .. })
}

impl Method {
    /// The smallest tile that holds all rows, or all columns, an instance may have, since what is beyond is computed
    /// in vain. No bit depends on it.
    fn of(program: &TileProgram, dot: &Dot, architecture: Architecture) -> Method {
        if let Some(method) = warpgroups(program, dot, architecture) {
            return Method::Warpgroups(method);
        }
        let of = |wanted: usize, sizes: &[usize]| {
            sizes.iter().copied().find(|&size| wanted <= size).unwrap_or(sizes[sizes.len() - 1])
        };
        let [m, n] = most(program, dot);
        // A float is three numbers of bf16: three products with one of bf16 where registers would have one, which
        // tensor cores do in a fifth of the time. Two floats are nine, and it is no longer worth the shared memory.
        let parts = match dot.values {
            [DType::BF16, DType::BF16] => [1, 1],
            [DType::F32, DType::BF16] => [3, 1],
            [DType::BF16, DType::F32] => [1, 3],
            _ => return Method::Registers { rows: of(m, &[16, 64]), columns: of(n, &[16, 64, 128]) },
        };
        // Of 16 rows, each of the 8 warps has as many columns as two multiplications take.
        let (rows, columns) = if m <= 16 { (16, 128) } else { (64, of(n, &[64, 128])) };
        // Three parts of 128 columns would be as much as all else that a block has.
        let columns = if parts[1] > 1 && rows > 16 { 64 } else { columns };
        Method::TensorCores { rows, columns, parts }
    }

    fn arithmetic(self) -> Arithmetic {
        match self {
            Method::Registers { .. } => {
                Arithmetic { family: Family::MultiplyAdd, instruction_k: 1, parts: [1, 1] }
            }
            Method::TensorCores { parts: [a, b], .. } => {
                Arithmetic { family: Family::Mma, instruction_k: 16, parts: [a.min(b), a.max(b)] }
            }
            Method::Warpgroups(method) => {
                Arithmetic { family: method.family(), instruction_k: 16, parts: [1, method.parts()] }
            }
        }
    }

    /// Copies in flight, and what is multiplied: what is cut in parts is not copied but loaded, and two will do.
    fn stages(parts: [usize; 2]) -> usize {
        if parts == [1, 1] { 3 } else { 2 }
    }

    fn staged_bytes(self) -> usize {
        match self {
            Method::Registers { rows, columns } => K_STEP * (rows + 4 + columns + 4) * size_of::<f32>(),
            Method::TensorCores { rows, columns, parts } => {
                Method::stages(parts) * BF16_STEP * (rows * parts[0] + columns * parts[1]) * 2
            }
            Method::Warpgroups(_) => 0,
        }
    }
}

/// Calls a function on each dot of some statements.
pub(super) fn each(body: &[Stmt], see: &mut impl FnMut(&Dot)) {
    for stmt in body {
        match stmt {
            Stmt::Dot(dot) => see(dot),
            Stmt::Stream { body, .. } | Stmt::Steps { body, .. } => each(body, see),
            Stmt::When { yes, no, .. } => {
                each(yes, see);
                each(no, see);
            }
            _ => {}
        }
    }
}

/// How many dots some statements have.
pub(super) fn count(body: &[Stmt]) -> usize {
    let mut count = 0;
    each(body, &mut |_| count += 1);
    count
}

/// Whether some dot goes on from sums in several tiles, one after the other.
pub(super) fn goes_on_in_tiles(program: &TileProgram, architecture: Architecture) -> bool {
    let mut found = false;
    each(&program.body, &mut |dot| {
        let [m, n] = most(program, dot);
        found |= match Method::of(program, dot, architecture) {
            Method::TensorCores { rows, columns, .. } => dot.accumulate && (m > rows || n > columns),
            Method::Registers { .. } | Method::Warpgroups(_) => false,
        };
    });
    found
}

/// Shared memory in which the dots of a kernel stage their operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Staging {
    /// What warpgroups multiply goes through this.
    pub(super) ring: Option<Ring>,
    /// What else is staged, behind the ring.
    bytes: usize,
}

impl Staging {
    /// The ways to stage what a program's dots multiply, the best first.
    pub(super) fn choices(
        program: &TileProgram,
        architecture: Architecture,
        fragments: &Fragments,
    ) -> Vec<Staging> {
        let mut bytes = 0;
        each(&program.body, &mut |dot| {
            bytes = bytes.max(Method::of(program, dot, architecture).staged_bytes());
        });
        let rings = Ring::choices(program, architecture, fragments);
        if rings.is_empty() {
            return vec![Staging { ring: None, bytes }];
        }
        rings.into_iter().map(|ring| Staging { ring: Some(ring), bytes }).collect()
    }

    /// Whether the next slot is filled while one is multiplied and another waits for the products before.
    pub(super) fn has_enough_slots(self) -> bool {
        self.ring.is_none_or(|ring| ring.slots >= 3)
    }

    fn ring_bytes(self) -> usize {
        self.ring.map_or(0, |ring| ring.bytes().next_multiple_of(ALIGNMENT))
    }

    pub(super) fn total(self) -> usize {
        self.ring_bytes() + self.bytes
    }
}

/// The right operand of a dot, as it lies.
pub(super) fn right_place(dot: &Dot) -> Place {
    match &dot.turned {
        Some(from) => Place::Strided((**from).clone()),
        None => dot.b.clone(),
    }
}

pub(super) fn last_stride(view: &View, dims: &[DimId]) -> usize {
    dims.last().map_or(0, |&dim| view.stride(dim))
}

/// An operand as text, whether k runs along memory, and how it is staged for tensor cores.
struct Operand {
    text: String,
    along_k: bool,
    copy: &'static str,
}

impl Writer<'_> {
    pub(super) fn dot(&mut self, dot: &Dot) -> Result<(), String> {
        for place in [&dot.b, &dot.c] {
            self.refuse_panels(place)?;
        }
        self.wait_before(&touched(&Stmt::Dot(dot.clone())));
        for &dim in &dot.batch {
            let (name, count) = (self.name(dim).to_owned(), self.count(dim));
            self.open(format!("for (int i_{name} = 0; i_{name} < {count}; i_{name}++) {{"));
        }
        match self.method(dot) {
            Method::Warpgroups(method) if self.produces => self.produce(dot, method)?,
            Method::Warpgroups(method) => self.dot_of_warpgroups(dot, method),
            method => self.dot_of_threads(dot, method),
        }
        dot.batch.iter().for_each(|_| self.close());
        Ok(())
    }

    fn method(&self, dot: &Dot) -> Method {
        match Method::of(self.program, dot, self.architecture) {
            Method::Warpgroups(method) => {
                Method::Warpgroups(self.fragments.method(self.program, dot).unwrap_or(method))
            }
            method => method,
        }
    }

    /// A dot whose operands all threads stage.
    fn dot_of_threads(&mut self, dot: &Dot, method: Method) {
        let (m, n, k) = (self.counts(&dot.m), self.counts(&dot.n), self.counts(&dot.k));
        let a = self.left(dot);
        let b = self.right(dot);
        let c = match &dot.c {
            Place::Strided(view) => self.strided(view, (&dot.m, &dot.n), &dot.batch, false),
            Place::Packed(view) => self.panels(view, &dot.batch, false, false),
        };
        let (along, accumulate) = (format!("{}, {}", a.along_k, b.along_k), dot.accumulate);
        let (call, stage) = match method {
            Method::Registers { rows, columns } => {
                (format!("dot<{rows}, {columns}, {along}, {accumulate}>"), "float")
            }
            Method::TensorCores { rows, columns, parts: parts @ [of_a, of_b] } => {
                let stages = Method::stages(parts);
                let copies = format!("{}, {}", a.copy, b.copy);
                let shape = format!("{rows}, {columns}, {stages}, {along}, {of_a}, {of_b}");
                let pairs = self.in_pairs(&dot.c, dot);
                (format!("dot_bf16<{shape}, {copies}, {accumulate}, {pairs}>"), "bf16")
            }
            Method::Warpgroups(_) => return,
        };
        let staged = match self.staging.ring_bytes() {
            0 => "shared".to_owned(),
            bytes => format!("(shared + {bytes})"),
        };
        self.line(format!("{call}({m}, {n}, {k},"));
        self.line(format!("    {},", a.text));
        self.line(format!("    {},", b.text));
        self.line(format!("    {c}, ({stage} *){staged});"));
    }

    fn left(&self, dot: &Dot) -> Operand {
        // Where neither runs along memory, it does not matter.
        let along_k = last_stride(&dot.a, &dot.m) != 1;
        Operand {
            text: self.strided(&dot.a, (&dot.m, &dot.k), &dot.batch, true),
            along_k,
            copy: self.copy_of(&dot.a, if along_k { &dot.k } else { &dot.m }),
        }
    }

    fn right(&self, dot: &Dot) -> Operand {
        match &right_place(dot) {
            Place::Strided(view) => {
                let along_k = last_stride(view, &dot.n) != 1;
                Operand {
                    text: self.strided(view, (&dot.k, &dot.n), &dot.batch, true),
                    along_k,
                    copy: self.copy_of(view, if along_k { &dot.k } else { &dot.n }),
                }
            }
            Place::Packed(view) => Operand {
                text: self.panels(view, &dot.batch, true, dot.across),
                along_k: dot.across,
                copy: match (self.panels_are_aligned(view, &dot.batch), view.dtype) {
                    (true, DType::BF16) => "COPY_ASYNC",
                    (true, DType::F32) => "COPY_PIECES",
                    _ => "COPY_ELEMENTS",
                },
            },
        }
    }

    /// How tensor cores' stages are filled from a view in which these dimensions run along memory: in pieces of 16
    /// bytes, if all of these begin at multiples of that.
    pub(super) fn copy_of(&self, view: &View, along: &[DimId]) -> &'static str {
        let contiguous = last_stride(view, along) == 1;
        // Each layer's slot, and each row, is then a whole number of pieces too.
        let in_pieces = view.offset.is_multiple_of(PIECE)
            && view.strides.iter().all(|&(dim, stride)| {
                let whole = match self.extent(dim) {
                    Extent::Whole(size) => size.is_multiple_of(PIECE),
                    Extent::Blocks { size, block } => {
                        size.is_multiple_of(PIECE) && block.is_multiple_of(PIECE)
                    }
                    Extent::Time | Extent::Past { .. } => matches!(view.base, Base::Tile(_)),
                    _ => false,
                };
                stride.is_multiple_of(PIECE) || stride == 1 && whole
            });
        if !contiguous || !in_pieces {
            return "COPY_ELEMENTS";
        }
        match (self.stored_type(view), view.base) {
            (DType::BF16, Base::Tile(tile)) if matches!(self.placement.tiles[tile], Room::Shared(_)) => {
                "COPY_ROWS"
            }
            (DType::BF16, _) => "COPY_ASYNC",
            (DType::F32, _) => "COPY_PIECES",
            _ => "COPY_ELEMENTS",
        }
    }

    /// Whether each even column of a dot's result and the next stand side by side at a multiple of their size.
    pub(super) fn in_pairs(&self, c: &Place, dot: &Dot) -> bool {
        match c {
            Place::Strided(view) => self.copy_of(view, &dot.n) != "COPY_ELEMENTS",
            Place::Packed(view) => self.panels_are_aligned(view, &dot.batch),
        }
    }

    /// Whether the columns that an instance has of panels begin at multiples of 16 bytes.
    pub(super) fn panels_are_aligned(&self, view: &PackedView, batch: &[DimId]) -> bool {
        // Those of a batch are walked one by one; others begin where the instance's block does. What ids choose is
        // anywhere.
        let whole = |&(dim, stride): &(DimId, usize)| {
            let begins = match self.extent(dim) {
                Extent::Blocks { size, block } => size == block || (block * stride).is_multiple_of(PIECE),
                Extent::Whole(_) => true,
                _ => false,
            };
            stride.is_multiple_of(PIECE) || self.is_single(dim) || !batch.contains(&dim) && begins
        };
        view.first.1.is_multiple_of(PIECE) && view.n.iter().all(whole)
    }

    /// A view as an operand of rows and columns.
    pub(super) fn strided(
        &self,
        view: &View,
        (rows, columns): (&[DimId], &[DimId]),
        batch: &[DimId],
        read: bool,
    ) -> String {
        let constant = if read { "const " } else { "" };
        let dtype = type_name(self.stored_type(view));
        let address = self.address(view, &self.walked(batch));
        let (row, column) = (last_stride(view, rows), last_stride(view, columns));
        // A row's address is of 64 bits in any case; how many columns there are is not known where they are rows of a run.
        let fixed = columns.iter().map(|&dim| self.extent(dim)).filter(|extent| extent.is_fixed());
        let most: usize = fixed.map(Extent::most).product();
        let far = is_far(most.max(2), column) || is_far(2, row);
        let name = match self.staggered_row(view.base) {
            Some(_) => "in_staggered_rows",
            None if far => "far_strided",
            None => "strided",
        };
        format!("{name}<{constant}{dtype}>{{{address}, {row}, {column}}}")
    }

    /// Panels as an operand; `across` where they hold k where a dot has columns.
    pub(super) fn panels(&self, view: &PackedView, batch: &[DimId], read: bool, across: bool) -> String {
        let constant = if read { "const " } else { "" };
        let dtype = type_name(view.dtype);
        let (row, first) = self.packed_positions(view, &self.walked(batch));
        let (base, depth) = (&self.program.args[view.arg].name, view.depth);
        let name = if across { "panels_across" } else { "panels" };
        format!("{name}<{constant}{dtype}>{{{base}, {depth}, {row}, {first}}}")
    }

    /// Weights in blocks of integers lie as a processor's vectors want them. Rows and columns of panels, and how far
    /// rows are within a panel, are counted in 32 bits.
    pub(super) fn refuse_panels(&self, place: &Place) -> Result<(), String> {
        match place {
            Place::Packed(view) if is_far(view.depth, PANEL) || self.columns_of(view) > i32::MAX as usize => {
                let (depth, columns) = (view.depth, self.columns_of(view));
                Err(format!(
                    "a weight of {depth} x {columns} has too many rows or columns: 2^25 rows can be counted, and 2^31 - 1 columns"
                ))
            }
            Place::Packed(PackedView { blocks: Some(format), .. }) => {
                Err(format!("it reads a weight in blocks ({format}), for which there is no GPU code yet"))
            }
            _ => Ok(()),
        }
    }

    /// The columns of panels as far as a view looks.
    pub(super) fn columns_of(&self, view: &PackedView) -> usize {
        let last = |&(dim, stride): &(DimId, usize)| (self.positions(dim) - 1) * stride;
        view.n.iter().map(last).sum::<usize>() + view.first.1 + 1
    }

    /// The address of a view at the start of the instance's ranges.
    pub(super) fn at_start(&self, view: &View) -> String {
        self.address(view, &at_start)
    }
}
