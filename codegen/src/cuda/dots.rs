//! Contractions: which function of the prelude does one, with what tile, and where its operands stand.

use super::addresses::{at_start, type_name};
use super::barriers::touched;
use super::writer::Writer;
use crate::tile::{DimId, Dot, PackedView, Place, Stmt, TileProgram, View};

/// How many k a dot stages at a time: see `prelude/dot.cu`.
const K_STEP: usize = 16;

/// The register tile of a dot, in rows and columns of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct DotTile {
    rows: usize,
    columns: usize,
}

impl DotTile {
    /// The smallest that holds all rows, or all columns, an instance may have, since what is beyond is computed in vain.
    /// Four elements a thread each way are 16 multiplications for 8 loads of shared memory. No bit depends on it.
    fn of(program: &TileProgram, dot: &Dot) -> DotTile {
        let most =
            |dims: &[DimId]| -> usize { dims.iter().map(|&dim| program.dims[dim].extent.most()).product() };
        let of = |wanted: usize, sizes: &[usize]| {
            sizes.iter().copied().find(|&size| wanted <= size).unwrap_or(sizes[sizes.len() - 1])
        };
        DotTile { rows: of(most(&dot.m), &[16, 64]), columns: of(most(&dot.n), &[16, 64, 128]) }
    }

    fn staged_bytes(self) -> usize {
        K_STEP * (self.rows + 4 + self.columns + 4) * size_of::<f32>()
    }
}

/// Shared memory that the dots of a program stage their operands in.
pub(super) fn staged_bytes(program: &TileProgram) -> usize {
    fn most(program: &TileProgram, body: &[Stmt]) -> usize {
        let of = |stmt: &Stmt| match stmt {
            Stmt::Dot(dot) => DotTile::of(program, dot).staged_bytes(),
            Stmt::Stream { body, .. } | Stmt::Steps { body, .. } => most(program, body),
            Stmt::When { yes, no, .. } => most(program, yes).max(most(program, no)),
            _ => 0,
        };
        body.iter().map(of).max().unwrap_or(0)
    }
    most(program, &program.body)
}

fn last_stride(view: &View, dims: &[DimId]) -> usize {
    dims.last().map_or(0, |&dim| view.stride(dim))
}

impl Writer<'_> {
    pub(super) fn dot(&mut self, dot: &Dot) -> Result<(), String> {
        for place in [&dot.b, &dot.c] {
            self.refuse_blocks(place)?;
        }
        self.wait_before(&touched(&Stmt::Dot(dot.clone())));
        for &dim in &dot.batch {
            let (name, count) = (self.name(dim).to_owned(), self.count(dim));
            self.open(format!("for (int i_{name} = 0; i_{name} < {count}; i_{name}++) {{"));
        }
        let DotTile { rows, columns } = DotTile::of(self.program, dot);
        let (m, n, k) = (self.counts(&dot.m), self.counts(&dot.n), self.counts(&dot.k));
        let a = self.strided(&dot.a, (&dot.m, &dot.k), &dot.batch, true);
        let a_along_k = last_stride(&dot.a, &dot.k) == 1;
        let b_from = match &dot.turned {
            Some(from) => Place::Strided((**from).clone()),
            None => dot.b.clone(),
        };
        let (b, b_along_k) = match &b_from {
            Place::Strided(view) => {
                let b_along_k = last_stride(view, &dot.k) == 1 && last_stride(view, &dot.n) != 1;
                (self.strided(view, (&dot.k, &dot.n), &dot.batch, true), b_along_k)
            }
            Place::Packed(view) => (self.panels(view, &dot.batch, true, dot.across), dot.across),
        };
        let c = match &dot.c {
            Place::Strided(view) => self.strided(view, (&dot.m, &dot.n), &dot.batch, false),
            Place::Packed(view) => self.panels(view, &dot.batch, false, false),
        };
        let accumulate = dot.accumulate;
        self.line(format!("dot<{rows}, {columns}, {a_along_k}, {b_along_k}, {accumulate}>({m}, {n}, {k},"));
        self.line(format!("    {a},"));
        self.line(format!("    {b},"));
        self.line(format!("    {c}, (float *)shared);"));
        dot.batch.iter().for_each(|_| self.close());
        Ok(())
    }

    /// A view as an operand of rows and columns.
    fn strided(
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
        format!("strided<{constant}{dtype}>{{{address}, {row}, {column}}}")
    }

    /// Panels as an operand; `across` where they hold k where a dot has columns.
    fn panels(&self, view: &PackedView, batch: &[DimId], read: bool, across: bool) -> String {
        let constant = if read { "const " } else { "" };
        let dtype = type_name(view.dtype);
        let (row, first) = self.packed_positions(view, &self.walked(batch));
        let (base, depth) = (&self.program.args[view.arg].name, view.depth);
        let name = if across { "panels_across" } else { "panels" };
        format!("{name}<{constant}{dtype}>{{{base}, {depth}, {row}, {first}}}")
    }

    /// Weights in blocks of integers lie as a processor's vectors want them.
    pub(super) fn refuse_blocks(&self, place: &Place) -> Result<(), String> {
        match place {
            Place::Packed(PackedView { blocks: Some(format), .. }) => {
                Err(format!("it reads a weight in blocks ({format}), for which there is no GPU code yet"))
            }
            _ => Ok(()),
        }
    }

    /// The address of a place at the start of the instance's ranges.
    pub(super) fn at_start(&self, view: &View) -> String {
        self.address(view, &at_start)
    }
}
