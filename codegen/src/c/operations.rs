//! The text of a nest's single operations, for one vector of points, whole or
//! in part. It knows nothing of loops.

use super::nest::{Loops, Ready, Run};
use super::prelude::{c_type, suffix};
use super::writer::Writer;
use crate::kinds::Kind;
use crate::tile::{Along, DimId, Extent, Id, Instr, Place, View};
use diptych_ir::{DType, ReduceKind, ScalarFn};

impl Writer<'_> {
    /// All operations of a nest for a vector of points.
    pub(super) fn body(&mut self, loops: &Loops<'_>, whole: bool) {
        let (kinds, outer, inner) = (&loops.kinds, &loops.outer[..], loops.inner);
        let lanes = if whole { "LANES" } else { "left" };
        for (id, instr) in loops.nest.body.iter().enumerate() {
            match (loops.ready[id], instr) {
                (Ready::InBody, _) => {}
                (Ready::Kept, Instr::Reduce { kind, value, .. }) => {
                    let sum = combine(*kind, &format!("k{id}[column]"), &format!("v{value}"));
                    self.line(format!("k{id}[column] = {sum};"));
                    continue;
                }
                (Ready::Kept, _) => {
                    self.line(format!("const {} v{id} = k{id}[column];", vector(kinds[id])));
                    continue;
                }
                (Ready::Before, _) => continue,
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
                Instr::Round(dtype, value) => {
                    self.line(format!("const vf v{id} = round{}(v{value});", suffix(*dtype)));
                }
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
    pub(super) fn id_text(
        &self,
        id: &Id,
        size: usize,
        outer: &[DimId],
        inner: Option<DimId>,
        at: &str,
    ) -> String {
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
        let suffix = suffix(dtype);
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
                DType::BF16 | DType::F16 | DType::I8 => {
                    format!("float_to{suffix}(v{value}[lane])")
                }
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
}

/// Whether an id may vary along the vectorised dimension.
pub(super) fn varies(id: &Id, inner: Option<DimId>) -> bool {
    match id {
        Id::Stored(view) => inner.is_some_and(|inner| view.stride(inner) != 0),
        Id::Position(dim) => inner == Some(*dim),
        Id::Computed(_) => true,
    }
}

pub(super) fn vector(kind: Kind) -> &'static str {
    match kind {
        Kind::Float => "vf",
        Kind::Int | Kind::Mask => "vi",
    }
}

pub(super) fn neutral(kind: ReduceKind) -> &'static str {
    match kind {
        ReduceKind::Sum => "0.0f",
        ReduceKind::Max => "-__builtin_inff()",
    }
}

pub(super) fn combine(kind: ReduceKind, left: &str, right: &str) -> String {
    match kind {
        ReduceKind::Sum => format!("{left} + {right}"),
        ReduceKind::Max => format!("v_max({left}, {right})"),
    }
}

pub(super) fn load(dtype: DType, address: &str, whole: bool) -> String {
    let suffix = suffix(dtype);
    if whole { format!("load{suffix}({address})") } else { format!("load_partial{suffix}({address}, left)") }
}

pub(super) fn splat(dtype: DType, address: &str) -> String {
    match dtype {
        DType::F32 => format!("splat(*({address}))"),
        DType::Bool => format!("splat_int(-*({address}))"),
        DType::BF16 | DType::F16 | DType::I8 => format!("splat({})", scalar_load(dtype, address)),
        DType::I32 => format!("splat_int(*({address}))"),
    }
}

pub(super) fn scalar_load(dtype: DType, address: &str) -> String {
    match dtype {
        DType::BF16 | DType::F16 | DType::I8 => format!("{}_to_float(*({address}))", c_type(dtype)),
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
        | ScalarFn::Cos
        | ScalarFn::RoundRandomly => call(function.name()),
    }
}
