//! Nests with sums along a dimension that is not the vectorised one, down the
//! columns of a matrix: a few vectors of columns at a time, all rows within, so
//! that the sums stay in registers and what rows share is loaded once. Each sum
//! is the chain over ascending rows that it is row by row: the same bits.

use super::nest::{Loops, Ready, Run};
use super::operations::{load, vector};
use super::writer::Writer;
use crate::tile::{Base, DimId, Extent, Instr, Nest, Place};
use diptych_ir::DType;

/// Vectors of columns at a time. Two sums of each are then a quarter of the registers of AVX-512.
const VECTORS: usize = 4;
/// The most columns that are taken at once where that is a choice.
const AT_ONCE: usize = 64;
/// The most columns that are taken at once where a row has sums of its own, or lies in memory: more do not fit.
const WHOLE_ROW: usize = 128;

/// How such a nest is walked.
pub(super) struct Columns {
    /// The loops outside of the columns.
    around: Vec<DimId>,
    /// The rows: what is summed along.
    rows: Vec<DimId>,
    /// How many columns there are, where all are taken at once.
    at_once: Option<usize>,
}

impl Writer<'_> {
    /// How a nest is walked by columns: if it has sums that gain by it, and no sum changes its order.
    pub(super) fn columns_of(&self, nest: &Nest) -> Option<Columns> {
        let (&inner, outer) = nest.dims.split_last()?;
        let of_pairs = |dim: &DimId| {
            matches!(self.program.dims[*dim].extent, Extent::Pairs { .. } | Extent::Choice { .. })
        };
        // What is added to where ids say may meet in one element: in the order of the rows.
        let scatters = |instr: &Instr| matches!(instr, Instr::AddAt { .. });
        if nest.dims.iter().any(of_pairs) || nest.body.iter().any(scatters) {
            return None;
        }
        let sums = || {
            nest.body.iter().filter_map(|instr| match instr {
                Instr::Reduce { over, into, .. } => Some((over, into)),
                _ => None,
            })
        };
        let down = sums().find(|(over, _)| !over.contains(&inner));
        let size = self.program.dims[inner].extent.constant().filter(|_| self.fills_vectors(inner));
        let (rows, around): (Vec<DimId>, Vec<DimId>) = match down {
            Some((over, _)) => outer.iter().partition(|dim| over.contains(dim)),
            // Without such sums, what the rows share is worth it.
            None => {
                let (&last, around) = outer.split_last()?;
                let gains = |instr: &&Instr| {
                    let contiguous = |place| matches!(self.run(place, Some(inner)), Run::Contiguous);
                    matches!(instr, Instr::Load(place) if contiguous(place) && shared(nest, instr, &[last]))
                };
                nest.body.iter().find(gains)?;
                (vec![last], around.to_vec())
            }
        };
        if rows.is_empty() {
            return None;
        }
        // What is not in scratch is read in the order of memory: all of a row, row after row.
        let scratch = nest.body.iter().all(|instr| match instr {
            Instr::Load(place) => {
                let one = matches!(self.run(place, Some(inner)), Run::Same);
                one || matches!(base(place), Base::Tile(_)) || shared(nest, instr, &rows)
            }
            _ => true,
        });
        if !scratch && !outer.ends_with(&rows) {
            return None;
        }
        let blocked = down.is_some() && scratch;
        let mut at_once = size.filter(|&size| size <= if blocked { AT_ONCE } else { WHOLE_ROW });
        if at_once.is_none() && !blocked {
            return None;
        }
        for (over, into) in sums() {
            if over.contains(&inner) {
                at_once = Some(size.filter(|&size| size <= WHOLE_ROW)?);
                // Its outer dimensions are to be walked in the order that they have.
                let mut order = outer.iter().filter(|dim| over.contains(dim));
                let of_rows = |dim: &&DimId| rows.contains(dim);
                if order.by_ref().find(of_rows).is_some() && !order.all(|dim| rows.contains(dim)) {
                    return None;
                }
            } else {
                let place = Place::Strided(into.clone());
                let same = over.len() == rows.len() && over.iter().all(|dim| rows.contains(dim));
                if !same || !matches!(self.run(&place, Some(inner)), Run::Contiguous) {
                    return None;
                }
            }
        }
        Some(Columns { around, rows, at_once })
    }

    pub(super) fn columns(&mut self, mut loops: Loops<'_>, columns: &Columns) {
        let Some(inner) = loops.inner else { return };
        let nest = loops.nest;
        loops.outer = [&columns.around[..], &columns.rows].concat();
        self.open_loops(&columns.around);
        self.hoist(&mut loops, &columns.around, |instr| shared(nest, instr, &columns.rows));
        for (id, instr) in nest.body.iter().enumerate() {
            let kept = match instr {
                Instr::Reduce { over, .. } => !over.contains(&inner),
                Instr::Load(place @ Place::Strided(_)) => {
                    shared(nest, instr, &columns.rows)
                        && matches!(self.run(place, Some(inner)), Run::Contiguous)
                }
                _ => false,
            };
            if kept {
                loops.ready[id] = Ready::Kept;
            }
        }
        let count = self.count(inner);
        if let Some(size) = columns.at_once {
            self.line("const int64_t first = 0;");
            self.block(&loops, columns, &format!("{size} / LANES"), true);
        } else {
            let some = format!("{VECTORS} * LANES");
            self.line("int64_t first = 0;");
            self.open(format!("for (; first + {some} <= {count}; first += {some}) {{"));
            self.block(&loops, columns, &VECTORS.to_string(), true);
            self.close();
            let constant = self.program.dims[inner].extent.constant();
            if constant.is_none_or(|constant| constant % (VECTORS * 16) != 0) {
                self.open(format!("for (; first + LANES <= {count}; first += LANES) {{"));
                self.block(&loops, columns, "1", true);
                self.close();
            }
            if !self.fills_vectors(inner) {
                self.open(format!("if (first < {count}) {{"));
                self.line(format!("const int64_t left = {count} - first;"));
                self.block(&loops, columns, "1", false);
                self.close();
            }
        }
        self.close_loops(&columns.around);
    }

    /// All rows, for so many vectors of columns.
    fn block(&mut self, loops: &Loops<'_>, columns: &Columns, vectors: &str, whole: bool) {
        let kept = |loops: &Loops<'_>| -> Vec<usize> {
            (0..loops.ready.len()).filter(|&id| loops.ready[id] == Ready::Kept).collect()
        };
        for id in kept(loops) {
            self.line(format!("{} k{id}[{vectors}];", vector(loops.kinds[id])));
        }
        self.open_columns(vectors);
        for id in kept(loops) {
            let (place, dtype) = match &loops.nest.body[id] {
                Instr::Load(place) => (place.clone(), Self::dtype(place)),
                Instr::Reduce { into, .. } => (Place::Strided(into.clone()), DType::F32),
                _ => continue,
            };
            let address = self.element(&place, &columns.around, loops.inner, "i");
            self.line(format!("k{id}[column] = {};", load(dtype, &address, whole)));
        }
        self.close();
        self.open_rows(loops, &columns.rows);
        let mut loops = Loops {
            ready: loops.ready.clone(),
            outer: loops.outer.clone(),
            nest: loops.nest,
            kinds: loops.kinds.clone(),
            inner: loops.inner,
        };
        let outer = loops.outer.clone();
        self.hoist(&mut loops, &outer, |_| true);
        self.open_columns(vectors);
        self.body(&loops, whole);
        self.close();
        self.close_rows(&loops, &columns.rows);
        self.open_columns(vectors);
        for id in kept(&loops) {
            let Instr::Reduce { into, .. } = &loops.nest.body[id] else { continue };
            let address = self.element(&Place::Strided(into.clone()), &columns.around, loops.inner, "i");
            match whole {
                true => self.line(format!("store({address}, k{id}[column]);")),
                false => self.line(format!("store_partial({address}, left, k{id}[column]);")),
            }
        }
        self.close();
    }

    fn open_columns(&mut self, vectors: &str) {
        self.open(format!("UNROLL for (int64_t column = 0; column < {vectors}; column++) {{"));
        self.line("const int64_t i = first + column * LANES;");
    }
}

/// Whether an operation gives all rows the same, and no operation of the nest changes it.
fn shared(nest: &Nest, instr: &Instr, rows: &[DimId]) -> bool {
    match instr {
        Instr::Float(_) | Instr::Int(_) | Instr::Truth(_) => true,
        Instr::Position(dim) | Instr::PositionOf { dim, .. } => !rows.contains(dim),
        Instr::Load(place) => {
            let of = |strides: &[(DimId, usize)]| {
                strides.iter().any(|&(dim, stride)| stride > 0 && rows.contains(&dim))
            };
            let varies = match place {
                Place::Strided(view) => of(&view.strides),
                Place::Packed(view) => of(&view.k) || of(&view.n),
            };
            !varies && !nest.body.iter().any(|other| written(other) == Some(base(place)))
        }
        _ => false,
    }
}

fn base(place: &Place) -> Base {
    match place {
        Place::Strided(view) => view.base,
        Place::Packed(view) => Base::Arg(view.arg),
    }
}

fn written(instr: &Instr) -> Option<Base> {
    match instr {
        Instr::Store(place, _) => Some(base(place)),
        Instr::Reduce { into, .. } => Some(into.base),
        _ => None,
    }
}
