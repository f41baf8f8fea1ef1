//! Pointwise nests: loops over dimensions, the last vectorised, with the same
//! vector code for whole vectors and for what is left over, so that the bits of
//! an element do not depend on where it stands. What is done for a vector is in
//! `operations`.

use super::operations::{neutral, splat, varies, vector};
use super::prelude::c_type;
use super::writer::{Writer, float};
use crate::kinds::{Kind, kinds};
use crate::tile::{Along, Base, DimId, Extent, Instr, Nest, PackedView, Place, RowMap, View};
use diptych_ir::DType;

/// How an access runs along the vectorised dimension.
pub(super) enum Run {
    /// The same element for all lanes.
    Same,
    /// One element after the other.
    Contiguous,
    /// Some other way: lane by lane.
    Lanes,
}

/// Where the text of an operation stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ready {
    /// In the loop over vectors.
    InBody,
    /// Before that loop, since it does not vary along it.
    Before,
    /// In variables outside of the loop over rows, one for each vector of columns.
    Kept,
}

/// A nest on its way to text.
pub(super) struct Loops<'n> {
    pub(super) nest: &'n Nest,
    pub(super) kinds: Vec<Kind>,
    /// The loops around that over vectors, outermost first.
    pub(super) outer: Vec<DimId>,
    /// The vectorised dimension.
    pub(super) inner: Option<DimId>,
    /// For each operation.
    pub(super) ready: Vec<Ready>,
}

impl Writer<'_> {
    pub(super) fn nest(&mut self, nest: &Nest) {
        let (inner, outer) = match nest.dims.split_last() {
            Some((&inner, outer)) => (Some(inner), outer),
            None => (None, &[][..]),
        };
        let ready = vec![Ready::InBody; nest.body.len()];
        let loops = Loops { nest, kinds: kinds(nest), outer: outer.to_vec(), inner, ready };
        match self.columns_of(nest) {
            Some(columns) => self.columns(loops, &columns),
            None => self.rows(loops),
        }
    }

    /// The loops over some dimensions.
    pub(super) fn open_loops(&mut self, dims: &[DimId]) {
        for &dim in dims {
            let (name, count) = (self.name(dim).to_owned(), self.count(dim));
            self.open(format!("for (int64_t i_{name} = 0; i_{name} < {count}; i_{name}++) {{"));
        }
        if dims.is_empty() {
            self.open("{");
        }
    }

    pub(super) fn close_loops(&mut self, dims: &[DimId]) {
        for _ in 0..dims.len().max(1) {
            self.close();
        }
    }

    /// Row by row, each from its first vector to its last.
    fn rows(&mut self, mut loops: Loops<'_>) {
        let outer = loops.outer.clone();
        self.open_rows(&loops, &outer);
        self.hoist(&mut loops, &outer, |_| true);
        match loops.inner {
            None => {
                self.line("const int64_t i = 0, left = 1;");
                self.line("(void)i, (void)left;");
                self.body(&loops, false);
            }
            Some(dim) => {
                let count = self.count(dim);
                self.line("int64_t i = 0;");
                self.open(format!("for (; i + LANES <= {count}; i += LANES) {{"));
                self.body(&loops, true);
                self.close();
                if !self.fills_vectors(dim) {
                    self.open(format!("if (i < {count}) {{"));
                    self.line(format!("const int64_t left = {count} - i;"));
                    self.body(&loops, false);
                    self.close();
                }
            }
        }
        self.close_rows(&loops, &outer);
    }

    /// Whether a dimension is a whole number of vectors, whatever their width.
    pub(super) fn fills_vectors(&self, dim: DimId) -> bool {
        self.program.dims[dim].extent.constant().is_some_and(|constant| constant % 16 == 0)
    }

    fn outer_index<'b>(&'b self, outer: &'b [DimId]) -> impl Fn(DimId) -> Option<String> + 'b {
        move |dim| outer.contains(&dim).then(|| format!("i_{}", self.name(dim)))
    }

    /// How a place is walked along the vectorised dimension.
    pub(super) fn run(&self, place: &Place, inner: Option<DimId>) -> Run {
        let Some(inner) = inner else { return Run::Same };
        match place {
            Place::Strided(view) if self.follows_pair(view, inner) => Run::Lanes,
            Place::Strided(view) => {
                let mapped = view.rows != RowMap::InOrder
                    && matches!(self.program.dims[inner].extent, Extent::Rows { .. } | Extent::Time);
                match view.stride(inner) {
                    0 => Run::Same,
                    1 if !mapped => Run::Contiguous,
                    _ => Run::Lanes,
                }
            }
            Place::Packed(view) if view.blocks.is_some() => {
                let varies = view.n.iter().chain(&view.k).any(|entry| entry.0 == inner);
                if varies { Run::Lanes } else { Run::Same }
            }
            Place::Packed(view) => {
                let in_n = view.n.iter().find(|entry| entry.0 == inner);
                let in_k = view.k.iter().any(|entry| entry.0 == inner);
                let aligned = view.n.iter().all(|&(dim, stride)| {
                    let block = match self.program.dims[dim].extent {
                        Extent::Blocks { block, .. } => block,
                        _ => 0,
                    };
                    (dim == inner || stride % 16 == 0) && (block * stride) % 16 == 0
                }) && view.first.1 % 16 == 0;
                match (in_n, in_k) {
                    (None, false) => Run::Same,
                    (Some(&(_, 1)), false) if aligned => Run::Contiguous,
                    _ => Run::Lanes,
                }
            }
        }
    }

    /// Whether a view's elements are found by the pair that the vectorised dimension walks.
    pub(super) fn follows_pair(&self, view: &View, inner: DimId) -> bool {
        let dims = &self.program.dims;
        !matches!(view.base, Base::Tile(_))
            && view.strides.iter().any(|&(dim, stride)| match dims[dim].extent {
                Extent::Pairs { .. } => dim == inner && stride > 0,
                Extent::Choice { pair, .. } => pair == inner && stride > 0,
                _ => false,
            })
    }

    /// Whether a position follows from the pair that the vectorised dimension walks.
    pub(super) fn is_choice_of(&self, dim: DimId, inner: Option<DimId>) -> bool {
        match self.program.dims[dim].extent {
            Extent::Pairs { .. } => Some(dim) == inner,
            Extent::Choice { pair, .. } => Some(pair) == inner,
            _ => false,
        }
    }

    /// The address of an element of a place, with the vectorised position as given.
    pub(super) fn element(&self, place: &Place, outer: &[DimId], inner: Option<DimId>, at: &str) -> String {
        let index = |dim: DimId| {
            if Some(dim) == inner { Some(at.to_owned()) } else { self.outer_index(outer)(dim) }
        };
        match place {
            Place::Strided(view) => self.address(view, &index),
            Place::Packed(view) => {
                let (k, n) = self.packed_positions(view, &index);
                self.packed_element(view, &k, &n)
            }
        }
    }

    /// The address of an element of panels; of one in blocks, that of its number.
    fn packed_element(&self, view: &PackedView, k: &str, n: &str) -> String {
        let (base, depth) = (&self.program.args[view.arg].name, view.depth);
        match view.blocks {
            Some(format) => format!("(const float[1]){{element_of_{format}({base}, {depth}, {n}, {k})}}"),
            None => format!("{base} + packed_offset({n}, {k}, {depth})"),
        }
    }

    pub(super) fn dtype(place: &Place) -> DType {
        match place {
            Place::Strided(view) => view.dtype,
            Place::Packed(view) => view.dtype,
        }
    }

    /// The address of an element of a table row that an id names.
    pub(super) fn element_at(
        &self,
        table: &Place,
        id: &str,
        along: Along,
        outer: &[DimId],
        inner: Option<DimId>,
        at: &str,
    ) -> String {
        let index = |dim: DimId| {
            if Some(dim) == inner { Some(at.to_owned()) } else { self.outer_index(outer)(dim) }
        };
        match (table, along) {
            (Place::Strided(view), Along::Stride(stride)) => {
                format!("{} + {id} * {stride}", self.address(view, &index))
            }
            (Place::Strided(view), _) => self.address(view, &index),
            (Place::Packed(view), along) => {
                let (k, n) = self.packed_positions(view, &index);
                let (k, n) = match along {
                    Along::PackedN(stride) => (k, format!("{n} + {id} * {stride}")),
                    Along::PackedK(stride) | Along::Stride(stride) => (format!("{k} + {id} * {stride}"), n),
                };
                self.packed_element(view, &k, &n)
            }
        }
    }

    /// Declares what does not change along the vectorised dimension, of the operations that are wanted here,
    /// within loops over these dimensions.
    pub(super) fn hoist(&mut self, loops: &mut Loops<'_>, outer: &[DimId], wanted: impl Fn(&Instr) -> bool) {
        let inner = loops.inner;
        for (id, instr) in loops.nest.body.iter().enumerate() {
            if loops.ready[id] != Ready::InBody || !wanted(instr) {
                continue;
            }
            match instr {
                Instr::Float(value) => self.line(format!("const vf v{id} = splat({});", float(*value))),
                Instr::Int(value) => self.line(format!("const vi v{id} = splat_int({value});")),
                Instr::Truth(value) => {
                    self.line(format!("const vi v{id} = splat_int({});", -i32::from(*value)))
                }
                Instr::Position(dim) if Some(*dim) != inner && !self.is_choice_of(*dim, inner) => {
                    let position =
                        self.position_text(*dim, &format!("i_{}", self.name(*dim)), outer.contains(dim));
                    self.line(format!("const vi v{id} = splat_int((int32_t)({position}));"));
                }
                Instr::PositionOf { dim, chosen } if Some(*dim) != inner => {
                    let position = self.position_of(*dim, *chosen, &format!("i_{}", self.name(*dim)));
                    self.line(format!("const vi v{id} = splat_int({position});"));
                }
                Instr::Load(place) if matches!(self.run(place, inner), Run::Same) => {
                    let address = self.element(place, outer, inner, "0");
                    self.line(format!(
                        "const {} v{id} = {};",
                        vector(loops.kinds[id]),
                        splat(Self::dtype(place), &address)
                    ));
                }
                Instr::Load(place) if matches!(self.run(place, inner), Run::Contiguous) => {
                    if let Place::Strided(_) = place {
                        let address = self.element(place, outer, inner, "0");
                        self.line(format!("const {} *p{id} = {address};", c_type(Self::dtype(place))));
                    }
                    continue;
                }
                Instr::LoadAt { id: ids, size, .. } | Instr::AddAt { id: ids, size, .. } => {
                    if !varies(ids, inner) {
                        let text = self.id_text(ids, *size, outer, inner, "0");
                        self.line(format!("const int64_t id_{id} = {text};"));
                    }
                    continue;
                }
                Instr::Reduce { kind, over, .. } => {
                    if inner.is_some_and(|inner| over.contains(&inner)) {
                        self.line(format!("vf r{id} = splat({});", neutral(*kind)));
                    }
                    continue;
                }
                _ => continue,
            }
            loops.ready[id] = Ready::Before;
        }
    }

    /// The absolute position along a dimension.
    pub(super) fn position_text(&self, dim: DimId, index: &str, walked: bool) -> String {
        match self.program.dims[dim].extent {
            Extent::Pairs { .. } => {
                let index = if walked { index } else { "0" };
                return format!("step->row_position[{}]", self.row_of_pair(dim, index));
            }
            Extent::Choice { pair, size, stride } => {
                let name = self.name(pair);
                let index = if walked { index.to_owned() } else { format!("i_{name}") };
                return format!("{name}_ids[{index}] / {stride} % {size}");
            }
            _ => {}
        }
        let index = if walked { format!(" + {index}") } else { String::new() };
        match self.program.dims[dim].extent {
            Extent::Rows { .. } => format!("step->row_position[{}_start{index}]", self.name(dim)),
            Extent::Time => format!("time_position{index}"),
            Extent::Past { .. } => format!("past_position{index}"),
            Extent::Sequence => "sequence_start".to_owned(),
            Extent::Position => format!("(origin + {}_start - first_row)", self.name(dim)),
            Extent::Whole(_) => format!("0{index}"),
            _ => format!("{}_start{index}", self.name(dim)),
        }
    }

    /// The absolute position of the row that an argument names, of a sequence.
    pub(super) fn position_of(&self, dim: DimId, chosen: usize, index: &str) -> String {
        let sequence = format!("{}_start + {index}", self.name(dim));
        let chosen = &self.program.args[chosen].name;
        format!("step->row_position[step->sequence_row[{sequence}] + {chosen}[{sequence}]]")
    }
}
