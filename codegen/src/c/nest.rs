//! Pointwise nests: loops over dimensions, the last vectorised, with the same
//! vector code for whole vectors and for what is left over, so that the bits of
//! an element do not depend on where it stands.

use super::writer::{Writer, c_type, float};
use crate::tile::{Along, Base, DimId, Extent, Id, Instr, Nest, Place, RowMap, View};
use diptych_ir::{DType, ReduceKind, ScalarFn};

/// What a vector variable holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Float,
    Int,
    Mask,
}

/// How an access runs along the vectorised dimension.
enum Run {
    /// The same element for all lanes.
    Same,
    /// One element after the other.
    Contiguous,
    /// Some other way: lane by lane.
    Lanes,
}

impl Writer<'_> {
    pub(super) fn nest(&mut self, nest: &Nest) {
        let kinds = self.kinds(nest);
        let inner = nest.dims.last().copied();
        let outer = &nest.dims[..nest.dims.len().saturating_sub(1)];
        for &dim in outer {
            let (name, count) = (self.name(dim).to_owned(), self.count(dim));
            self.open(format!("for (int64_t i_{name} = 0; i_{name} < {count}; i_{name}++) {{"));
        }
        if outer.is_empty() {
            self.open("{");
        }
        let hoisted = self.hoist(nest, &kinds, outer, inner);
        match inner {
            None => {
                self.line("const int64_t i = 0, left = 1;");
                self.line("(void)i, (void)left;");
                self.body(nest, &kinds, &hoisted, outer, inner, false);
            }
            Some(dim) => {
                let count = self.count(dim);
                self.line("int64_t i = 0;");
                self.open(format!("for (; i + LANES <= {count}; i += LANES) {{"));
                self.body(nest, &kinds, &hoisted, outer, inner, true);
                self.close();
                let constant = self.program.dims[dim].extent.constant();
                if constant.is_none_or(|constant| constant % 16 != 0) {
                    self.open(format!("if (i < {count}) {{"));
                    self.line(format!("const int64_t left = {count} - i;"));
                    self.body(nest, &kinds, &hoisted, outer, inner, false);
                    self.close();
                }
            }
        }
        self.results(nest, outer, inner);
        self.close();
        for _ in 1..outer.len() {
            self.close();
        }
    }

    fn kinds(&self, nest: &Nest) -> Vec<Kind> {
        let mut kinds: Vec<Kind> = Vec::with_capacity(nest.body.len());
        for instr in &nest.body {
            kinds.push(match instr {
                Instr::Int(_) | Instr::Position(_) | Instr::PositionOf { .. } => Kind::Int,
                Instr::Load(Place::Strided(view)) if view.dtype == DType::I32 => Kind::Int,
                Instr::LoadAt { table: Place::Strided(view), .. } if view.dtype == DType::I32 => Kind::Int,
                Instr::Truth(_) => Kind::Mask,
                Instr::Load(place) | Instr::LoadAt { table: place, .. }
                    if Self::dtype(place) == DType::Bool =>
                {
                    Kind::Mask
                }
                Instr::Map(function, operands) => match function {
                    ScalarFn::Less | ScalarFn::LessEqual | ScalarFn::Equal => Kind::Mask,
                    ScalarFn::And | ScalarFn::Or | ScalarFn::Not => Kind::Mask,
                    ScalarFn::Select => kinds[operands[1]],
                    _ => kinds[operands[0]],
                },
                _ => Kind::Float,
            });
        }
        kinds
    }

    fn outer_index<'b>(&'b self, outer: &'b [DimId]) -> impl Fn(DimId) -> Option<String> + 'b {
        move |dim| outer.contains(&dim).then(|| format!("i_{}", self.name(dim)))
    }

    /// How a place is walked along the vectorised dimension.
    fn run(&self, place: &Place, inner: Option<DimId>) -> Run {
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
            Place::Packed(view) => {
                let in_n = view.n.iter().find(|entry| entry.0 == inner);
                let in_k = view.k.iter().any(|entry| entry.0 == inner);
                let aligned = view.n.iter().all(|&(dim, stride)| {
                    let block = match self.program.dims[dim].extent {
                        Extent::Blocks { block, .. } => block,
                        _ => 0,
                    };
                    (dim == inner || stride % 16 == 0) && (block * stride) % 16 == 0
                });
                match (in_n, in_k) {
                    (None, false) => Run::Same,
                    (Some(&(_, 1)), false) if aligned => Run::Contiguous,
                    _ => Run::Lanes,
                }
            }
        }
    }

    /// Whether a view's elements are found by the pair that the vectorised dimension walks.
    fn follows_pair(&self, view: &View, inner: DimId) -> bool {
        let dims = &self.program.dims;
        !matches!(view.base, Base::Tile(_))
            && view.strides.iter().any(|&(dim, stride)| match dims[dim].extent {
                Extent::Pairs { .. } => dim == inner && stride > 0,
                Extent::Choice { pair, .. } => pair == inner && stride > 0,
                _ => false,
            })
    }

    /// Whether a position follows from the pair that the vectorised dimension walks.
    fn is_choice_of(&self, dim: DimId, inner: Option<DimId>) -> bool {
        match self.program.dims[dim].extent {
            Extent::Pairs { .. } => Some(dim) == inner,
            Extent::Choice { pair, .. } => Some(pair) == inner,
            _ => false,
        }
    }

    /// The address of an element of a place, with the vectorised position as given.
    fn element(&self, place: &Place, outer: &[DimId], inner: Option<DimId>, at: &str) -> String {
        let index = |dim: DimId| {
            if Some(dim) == inner { Some(at.to_owned()) } else { self.outer_index(outer)(dim) }
        };
        match place {
            Place::Strided(view) => self.address(view, &index),
            Place::Packed(view) => {
                let (k, n) = self.packed_positions(view, &index);
                format!("{} + packed_offset({n}, {k}, {})", self.program.args[view.arg].name, view.depth)
            }
        }
    }

    fn dtype(place: &Place) -> DType {
        match place {
            Place::Strided(view) => view.dtype,
            Place::Packed(view) => view.dtype,
        }
    }

    /// The address of an element of a table row that an id names.
    fn element_at(
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
                format!("{} + packed_offset({n}, {k}, {})", self.program.args[view.arg].name, view.depth)
            }
        }
    }

    /// Declares what does not change along the vectorised dimension. Returns
    /// which values are declared already.
    fn hoist(&mut self, nest: &Nest, kinds: &[Kind], outer: &[DimId], inner: Option<DimId>) -> Vec<bool> {
        let mut hoisted = vec![false; nest.body.len()];
        for (id, instr) in nest.body.iter().enumerate() {
            hoisted[id] = true;
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
                        vector(kinds[id]),
                        splat(Self::dtype(place), &address)
                    ));
                }
                Instr::Load(place) if matches!(self.run(place, inner), Run::Contiguous) => {
                    hoisted[id] = false;
                    if let Place::Strided(_) = place {
                        let address = self.element(place, outer, inner, "0");
                        self.line(format!("const {} *p{id} = {address};", c_type(Self::dtype(place))));
                    }
                }
                Instr::LoadAt { id: ids, size, .. } | Instr::AddAt { id: ids, size, .. } => {
                    hoisted[id] = false;
                    if !varies(ids, inner) {
                        let text = self.id_text(ids, *size, outer, inner, "0");
                        self.line(format!("const int64_t id_{id} = {text};"));
                    }
                }
                Instr::Reduce { kind, over, .. } => {
                    hoisted[id] = false;
                    if inner.is_some_and(|inner| over.contains(&inner)) {
                        self.line(format!("vf r{id} = splat({});", neutral(*kind)));
                    }
                }
                _ => hoisted[id] = false,
            }
        }
        hoisted
    }

    /// The absolute position along a dimension.
    fn position_text(&self, dim: DimId, index: &str, walked: bool) -> String {
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
            Extent::Past => format!("past_position{index}"),
            Extent::Sequence => "sequence_start".to_owned(),
            Extent::Position => format!("(origin + {}_start - first_row)", self.name(dim)),
            Extent::Whole(_) => format!("0{index}"),
            _ => format!("{}_start{index}", self.name(dim)),
        }
    }

    /// The absolute position of the row that an argument names, of a sequence.
    fn position_of(&self, dim: DimId, chosen: usize, index: &str) -> String {
        let sequence = format!("{}_start + {index}", self.name(dim));
        let chosen = &self.program.args[chosen].name;
        format!("step->row_position[step->sequence_row[{sequence}] + {chosen}[{sequence}]]")
    }

    fn body(
        &mut self,
        nest: &Nest,
        kinds: &[Kind],
        hoisted: &[bool],
        outer: &[DimId],
        inner: Option<DimId>,
        whole: bool,
    ) {
        let lanes = if whole { "LANES" } else { "left" };
        for (id, instr) in nest.body.iter().enumerate() {
            if hoisted[id] {
                continue;
            }
            match instr {
                Instr::Float(_) | Instr::Int(_) | Instr::Truth(_) => {}
                Instr::Position(dim) if self.is_choice_of(*dim, inner) => {
                    let text = self.position_text(*dim, "(i + lane)", true);
                    self.line(format!("vi v{id} = {{0}};"));
                    self.line(format!(
                        "for (int64_t lane = 0; lane < {lanes}; lane++) v{id}[lane] = {text};"
                    ));
                }
                Instr::Position(dim) => {
                    let text = match self.program.dims[*dim].extent {
                        Extent::Rows { .. } => {
                            let address = format!("step->row_position + {}_start + i", self.name(*dim));
                            if whole {
                                format!("load_int({address})")
                            } else {
                                format!("load_partial_int({address}, left)")
                            }
                        }
                        _ => {
                            format!("splat_int((int32_t)({})) + iota()", self.position_text(*dim, "i", true))
                        }
                    };
                    self.line(format!("const vi v{id} = {text};"));
                }
                Instr::PositionOf { dim, chosen } => {
                    let position = self.position_of(*dim, *chosen, "(i + lane)");
                    self.line(format!("vi v{id} = {{0}};"));
                    self.line(format!(
                        "for (int64_t lane = 0; lane < {lanes}; lane++) v{id}[lane] = {position};"
                    ));
                }
                Instr::Load(place) => match (self.run(place, inner), place) {
                    (Run::Contiguous, _) => {
                        let address = match place {
                            Place::Strided(_) => format!("p{id} + i"),
                            Place::Packed(_) => self.element(place, outer, inner, "i"),
                        };
                        self.line(format!(
                            "const {} v{id} = {};",
                            vector(kinds[id]),
                            load(Self::dtype(place), &address, whole)
                        ));
                    }
                    (_, place) => {
                        let address = self.element(place, outer, inner, "(i + lane)");
                        self.lane_load(id, kinds[id], Self::dtype(place), &address, lanes, "");
                    }
                },
                Instr::LoadAt { table, id: ids, along, size } => {
                    self.load_at(id, kinds[id], (table, ids, *along, *size), outer, inner, whole)
                }
                Instr::Map(function, operands) => {
                    let text = match function {
                        ScalarFn::Select => select(operands, kinds[id]),
                        _ => map(*function, operands, kinds[operands[0]]),
                    };
                    self.line(format!("const {} v{id} = {text};", vector(kinds[id])));
                }
                Instr::ToFloat(value) => {
                    let text = match kinds[*value] {
                        Kind::Mask => format!("int_to_float(-v{value})"),
                        _ => format!("int_to_float(v{value})"),
                    };
                    self.line(format!("const vf v{id} = {text};"));
                }
                Instr::Round(value) => self.line(format!("const vf v{id} = round_bf16(v{value});")),
                Instr::Store(place, value) => self.store(place, *value, outer, inner, whole),
                Instr::AddAt { table, id: ids, along, size, value } => {
                    self.add_at(id, *value, (table, ids, *along, *size), outer, inner, whole)
                }
                Instr::Reduce { kind, value, over, into, .. } => {
                    self.reduce(id, (*kind, *value), over, into, outer, inner, whole);
                }
            }
        }
    }

    fn lane_load(&mut self, id: usize, kind: Kind, dtype: DType, address: &str, lanes: &str, before: &str) {
        let element = scalar_load(dtype, address);
        self.line(format!("{} v{id} = {{0}};", vector(kind)));
        self.line(format!(
            "for (int64_t lane = 0; lane < {lanes}; lane++) {{ {before}v{id}[lane] = {element}; }}"
        ));
    }

    /// The C expression of an id along an axis of this size.
    fn id_text(&self, id: &Id, size: usize, outer: &[DimId], inner: Option<DimId>, at: &str) -> String {
        let text = match id {
            Id::Stored(view) => {
                format!("*({})", self.element(&Place::Strided(view.clone()), outer, inner, at))
            }
            Id::Computed(value) => format!("v{value}[lane]"),
            Id::Position(dim) if Some(*dim) == inner => self.position_text(*dim, at, true),
            Id::Position(dim) => {
                self.position_text(*dim, &format!("i_{}", self.name(*dim)), outer.contains(dim))
            }
        };
        format!("most(0, least({text}, {}))", size - 1)
    }

    fn load_at(
        &mut self,
        id: usize,
        kind: Kind,
        (table, ids, along, size): (&Place, &Id, Along, usize),
        outer: &[DimId],
        inner: Option<DimId>,
        whole: bool,
    ) {
        let lanes = if whole { "LANES" } else { "left" };
        let dtype = Self::dtype(table);
        if varies(ids, inner) {
            let text = self.id_text(ids, size, outer, inner, "(i + lane)");
            let address = self.element_at(table, "row", along, outer, inner, "(i + lane)");
            return self.lane_load(
                id,
                kind,
                dtype,
                &address,
                lanes,
                &format!("const int64_t row = {text}; "),
            );
        }
        let row = format!("id_{id}");
        match (table, inner) {
            (Place::Strided(view), Some(inner))
                if view.stride(inner) == 1 && !self.follows_pair(view, inner) =>
            {
                let address = self.element_at(table, &row, along, outer, Some(inner), "i");
                self.line(format!("const {} v{id} = {};", vector(kind), load(dtype, &address, whole)));
            }
            _ => {
                let address = self.element_at(table, &row, along, outer, inner, "(i + lane)");
                self.lane_load(id, kind, dtype, &address, lanes, "");
            }
        }
    }

    fn add_at(
        &mut self,
        id: usize,
        value: usize,
        (table, ids, along, size): (&Place, &Id, Along, usize),
        outer: &[DimId],
        inner: Option<DimId>,
        whole: bool,
    ) {
        let lanes = if whole { "LANES" } else { "left" };
        if varies(ids, inner) {
            let text = self.id_text(ids, size, outer, inner, "(i + lane)");
            let address = self.element_at(table, "row", along, outer, inner, "(i + lane)");
            self.line(format!(
                "for (int64_t lane = 0; lane < {lanes}; lane++) {{ const int64_t row = {text}; *({address}) += v{value}[lane]; }}"
            ));
            return;
        }
        let row = format!("id_{id}");
        match (table, inner) {
            (Place::Strided(view), Some(inner)) if view.stride(inner) == 1 => {
                let address = self.element_at(table, &row, along, outer, Some(inner), "i");
                let sum = format!("{} + v{value}", load(DType::F32, &address, whole));
                match whole {
                    true => self.line(format!("store({address}, {sum});")),
                    false => self.line(format!("store_partial({address}, left, {sum});")),
                }
            }
            _ => {
                let address = self.element_at(table, &row, along, outer, inner, "(i + lane)");
                self.line(format!(
                    "for (int64_t lane = 0; lane < {lanes}; lane++) *({address}) += v{value}[lane];"
                ));
            }
        }
    }

    fn store(&mut self, place: &Place, value: usize, outer: &[DimId], inner: Option<DimId>, whole: bool) {
        let dtype = Self::dtype(place);
        let suffix = match dtype {
            DType::BF16 => "_bf16",
            DType::I32 => "_int",
            DType::Bool => "_bool",
            DType::F32 => "",
        };
        let contiguous = matches!(self.run(place, inner), Run::Contiguous | Run::Same);
        if contiguous {
            let address = self.element(place, outer, inner, "i");
            let text = match whole {
                true => format!("store{suffix}({address}, v{value});"),
                false => format!("store_partial{suffix}({address}, left, v{value});"),
            };
            self.line(text);
        } else {
            let lanes = if whole { "LANES" } else { "left" };
            let address = self.element(place, outer, inner, "(i + lane)");
            let element = match dtype {
                DType::BF16 => format!("float_to_bf16(v{value}[lane])"),
                DType::Bool => format!("v{value}[lane] & 1"),
                DType::F32 | DType::I32 => format!("v{value}[lane]"),
            };
            self.line(format!("for (int64_t lane = 0; lane < {lanes}; lane++) *({address}) = {element};"));
        }
    }

    fn reduce(
        &mut self,
        id: usize,
        (kind, value): (ReduceKind, usize),
        over: &[DimId],
        into: &View,
        outer: &[DimId],
        inner: Option<DimId>,
        whole: bool,
    ) {
        if inner.is_some_and(|inner| over.contains(&inner)) {
            let counted = match whole {
                true => format!("v{value}"),
                false => format!(
                    "select_float(iota() < splat_int((int32_t)left), v{value}, splat({}))",
                    neutral(kind)
                ),
            };
            self.line(format!("r{id} = {};", combine(kind, &format!("r{id}"), &counted)));
            return;
        }
        let place = Place::Strided(into.clone());
        if matches!(self.run(&place, inner), Run::Lanes) {
            let lanes = if whole { "LANES" } else { "left" };
            let address = self.element(&place, outer, inner, "(i + lane)");
            let new = match kind {
                ReduceKind::Sum => format!("*to + v{value}[lane]"),
                ReduceKind::Max => format!("*to > v{value}[lane] ? *to : v{value}[lane]"),
            };
            self.line(format!(
                "for (int64_t lane = 0; lane < {lanes}; lane++) {{ float *to = {address}; *to = {new}; }}"
            ));
            return;
        }
        let address = self.element(&place, outer, inner, "i");
        let old = load(DType::F32, &address, whole);
        let new = combine(kind, &old, &format!("v{value}"));
        match whole {
            true => self.line(format!("store({address}, {new});")),
            false => self.line(format!("store_partial({address}, left, {new});")),
        }
    }

    /// Folds what was kept in registers along the vectorised dimension.
    fn results(&mut self, nest: &Nest, outer: &[DimId], inner: Option<DimId>) {
        for (id, instr) in nest.body.iter().enumerate() {
            let Instr::Reduce { kind, over, into, fresh, .. } = instr else { continue };
            if !inner.is_some_and(|inner| over.contains(&inner)) {
                continue;
            }
            let address = self.element(&Place::Strided(into.clone()), outer, None, "0");
            let folded = match kind {
                ReduceKind::Sum => format!("fold_sum(r{id})"),
                ReduceKind::Max => format!("fold_max(r{id})"),
            };
            self.open("{");
            self.line(format!("float *result = {address};"));
            self.line(format!("const float folded = {folded};"));
            match (fresh, kind) {
                (true, _) => self.line("*result = folded;"),
                (false, ReduceKind::Sum) => self.line("*result += folded;"),
                (false, ReduceKind::Max) => self.line("*result = *result > folded ? *result : folded;"),
            }
            self.close();
        }
    }
}

/// Whether an id may vary along the vectorised dimension.
fn varies(id: &Id, inner: Option<DimId>) -> bool {
    match id {
        Id::Stored(view) => inner.is_some_and(|inner| view.stride(inner) != 0),
        Id::Position(dim) => inner == Some(*dim),
        Id::Computed(_) => true,
    }
}

fn vector(kind: Kind) -> &'static str {
    match kind {
        Kind::Float => "vf",
        Kind::Int | Kind::Mask => "vi",
    }
}

fn neutral(kind: ReduceKind) -> &'static str {
    match kind {
        ReduceKind::Sum => "0.0f",
        ReduceKind::Max => "-__builtin_inff()",
    }
}

fn combine(kind: ReduceKind, left: &str, right: &str) -> String {
    match kind {
        ReduceKind::Sum => format!("{left} + {right}"),
        ReduceKind::Max => format!("v_max({left}, {right})"),
    }
}

fn load(dtype: DType, address: &str, whole: bool) -> String {
    let suffix = match dtype {
        DType::BF16 => "_bf16",
        DType::I32 => "_int",
        DType::Bool => "_bool",
        DType::F32 => "",
    };
    if whole { format!("load{suffix}({address})") } else { format!("load_partial{suffix}({address}, left)") }
}

fn splat(dtype: DType, address: &str) -> String {
    match dtype {
        DType::F32 => format!("splat(*({address}))"),
        DType::Bool => format!("splat_int(-*({address}))"),
        DType::BF16 => format!("splat(bf16_to_float(*({address})))"),
        DType::I32 => format!("splat_int(*({address}))"),
    }
}

fn scalar_load(dtype: DType, address: &str) -> String {
    match dtype {
        DType::BF16 => format!("bf16_to_float(*({address}))"),
        DType::Bool => format!("-*({address})"),
        DType::F32 | DType::I32 => format!("*({address})"),
    }
}

fn select(x: &[usize], kind: Kind) -> String {
    let suffix = if kind == Kind::Float { "float" } else { "int" };
    format!("select_{suffix}(v{}, v{}, v{})", x[0], x[1], x[2])
}

fn map(function: ScalarFn, x: &[usize], kind: Kind) -> String {
    let v = |position: usize| format!("v{}", x[position]);
    let infix = |op: &str| format!("{} {op} {}", v(0), v(1));
    let call = |name: &str| {
        format!("v_{name}({})", x.iter().map(|x| format!("v{x}")).collect::<Vec<_>>().join(", "))
    };
    let suffix = if kind == Kind::Float { "" } else { "_int" };
    match function {
        ScalarFn::Add => infix("+"),
        ScalarFn::Sub => infix("-"),
        ScalarFn::Mul => infix("*"),
        ScalarFn::Div => infix("/"),
        ScalarFn::Max => call(&format!("max{suffix}")),
        ScalarFn::Min => call(&format!("min{suffix}")),
        ScalarFn::Abs => call(&format!("abs{suffix}")),
        ScalarFn::Neg => format!("-{}", v(0)),
        ScalarFn::Less => format!("(vi)({})", infix("<")),
        ScalarFn::LessEqual => format!("(vi)({})", infix("<=")),
        ScalarFn::Equal => format!("(vi)({})", infix("==")),
        ScalarFn::And => infix("&"),
        ScalarFn::Or => infix("|"),
        ScalarFn::Not => format!("~{}", v(0)),
        ScalarFn::Select => select(x, Kind::Float),
        ScalarFn::Detach => v(0),
        ScalarFn::Exp
        | ScalarFn::Log
        | ScalarFn::Sqrt
        | ScalarFn::Rsqrt
        | ScalarFn::Tanh
        | ScalarFn::Sigmoid
        | ScalarFn::Erf
        | ScalarFn::Sin
        | ScalarFn::Cos => call(function.name()),
    }
}
