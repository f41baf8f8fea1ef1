//! What sums along the vectorised dimension leave in the lanes of a vector for
//! each row, folded to one number: row by row, or for as many rows at once as a
//! vector has lanes, which takes a third of the shuffles and gives the same bits.

use super::nest::Loops;
use super::operations::combine;
use super::writer::Writer;
use crate::tile::{DimId, Extent, Instr, Place, View};
use diptych_ir::ReduceKind;

/// The longest rows whose folds are a large enough part of their work, in elements.
const LONGEST: usize = 256;

/// A sum along the vectorised dimension.
struct Sum<'n> {
    id: usize,
    kind: ReduceKind,
    over: &'n [DimId],
    into: &'n View,
    fresh: bool,
}

fn sums<'n>(loops: &Loops<'n>) -> Vec<Sum<'n>> {
    let of = |(id, instr): (usize, &'n Instr)| match instr {
        Instr::Reduce { kind, over, into, fresh, .. }
            if loops.inner.is_some_and(|inner| over.contains(&inner)) =>
        {
            Some(Sum { id, kind: *kind, over, into, fresh: *fresh })
        }
        _ => None,
    };
    loops.nest.body.iter().enumerate().filter_map(of).collect()
}

impl Writer<'_> {
    /// The dimension of rows whose sums are folded many at once.
    fn folded_together(&self, loops: &Loops<'_>) -> Option<DimId> {
        let (rows, inner) = (*loops.outer.last()?, loops.inner?);
        let plain = |dim: DimId| !matches!(self.program.dims[dim].extent, Extent::Choice { .. });
        let short = self.program.dims[inner].extent.constant().is_some_and(|length| length <= LONGEST);
        (short && plain(rows) && self.fills_vectors(rows) && !sums(loops).is_empty()).then_some(rows)
    }

    /// The loops over rows: around, and within a block of rows if their sums are folded together.
    pub(super) fn open_rows(&mut self, loops: &Loops<'_>, dims: &[DimId]) {
        let Some(rows) = self.folded_together(loops) else { return self.open_loops(dims) };
        for &dim in &dims[..dims.len() - 1] {
            let (name, count) = (self.name(dim).to_owned(), self.count(dim));
            self.open(format!("for (int64_t i_{name} = 0; i_{name} < {count}; i_{name}++) {{"));
        }
        let (name, count) = (self.name(rows).to_owned(), self.count(rows));
        self.open(format!("for (int64_t rows = 0; rows < {count}; rows += LANES) {{"));
        for sum in sums(loops) {
            self.line(format!("vf rows_{}[LANES];", sum.id));
        }
        self.open("for (int64_t row = 0; row < LANES; row++) {");
        self.line(format!("const int64_t i_{name} = rows + row;"));
    }

    /// Closes them, with the results of their sums.
    pub(super) fn close_rows(&mut self, loops: &Loops<'_>, dims: &[DimId]) {
        let Some(rows) = self.folded_together(loops) else {
            for sum in sums(loops) {
                self.result(loops, &sum);
            }
            return self.close_loops(dims);
        };
        for sum in sums(loops) {
            self.line(format!("rows_{0}[row] = r{0};", sum.id));
        }
        self.close();
        for sum in sums(loops) {
            self.results(loops, &sum, rows);
        }
        self.close();
        for _ in 1..dims.len() {
            self.close();
        }
    }

    /// The result of one row's sum.
    fn result(&mut self, loops: &Loops<'_>, sum: &Sum<'_>) {
        let address = self.element(&Place::Strided(sum.into.clone()), &loops.outer, None, "0");
        let folded = match sum.kind {
            ReduceKind::Sum => format!("fold_sum(r{})", sum.id),
            ReduceKind::Max => format!("fold_max(r{})", sum.id),
        };
        self.open("{");
        self.line(format!("float *result = {address};"));
        self.line(format!("const float folded = {folded};"));
        match sum.fresh {
            true => self.line("*result = folded;"),
            false => self.line(format!("*result = {};", one(sum.kind, "*result", "folded"))),
        }
        self.close();
    }

    /// The results of a vector of rows.
    fn results(&mut self, loops: &Loops<'_>, sum: &Sum<'_>, rows: DimId) {
        let name = self.name(rows).to_owned();
        let folded = match sum.kind {
            ReduceKind::Sum => format!("fold_sums(rows_{})", sum.id),
            ReduceKind::Max => format!("fold_maxima(rows_{})", sum.id),
        };
        let address = self.element(&Place::Strided(sum.into.clone()), &loops.outer, None, "0");
        self.open("{");
        self.line(format!("const vf folded = {folded};"));
        if sum.over.contains(&rows) {
            // They go on in one chain, row after row.
            self.line(format!("float *result = {address}, total = *result;"));
            let total = one(sum.kind, "total", "folded[row]");
            self.line(format!("for (int64_t row = 0; row < LANES; row++) total = {total};"));
            self.line("*result = total;");
        } else if sum.into.stride(rows) == 1 {
            self.line(format!("const int64_t i_{name} = rows;"));
            self.line(format!("float *result = {address};"));
            match sum.fresh {
                true => self.line("store(result, folded);"),
                false => {
                    self.line(format!("store(result, {});", combine(sum.kind, "load(result)", "folded")))
                }
            }
        } else {
            self.open("for (int64_t row = 0; row < LANES; row++) {");
            self.line(format!("const int64_t i_{name} = rows + row;"));
            self.line(format!("float *result = {address};"));
            match sum.fresh {
                true => self.line("*result = folded[row];"),
                false => self.line(format!("*result = {};", one(sum.kind, "*result", "folded[row]"))),
            }
            self.close();
        }
        self.close();
    }
}

/// Two numbers joined.
fn one(kind: ReduceKind, left: &str, right: &str) -> String {
    match kind {
        ReduceKind::Sum => format!("{left} + {right}"),
        ReduceKind::Max => format!("{left} > {right} ? {left} : {right}"),
    }
}
