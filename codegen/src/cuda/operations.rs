//! The text of what a nest does at one point. It knows nothing of loops.

use super::fragment_nests::{absent, is_stored};
use super::nest::{Points, joined, literal, neutral};
use super::writer::Writer;
use crate::kinds::Kind;
use crate::tile::{Extent, Id, Instr, Nest};
use diptych_ir::{DType, ScalarFn};

impl Writer<'_> {
    /// All that a pass does at a point.
    pub(super) fn body(&mut self, points: &Points<'_>) -> Result<(), String> {
        let Points { nest, pass, kinds, held } = points;
        let dims = &nest.dims;
        for (id, instr) in nest.body.iter().enumerate().filter(|(id, _)| pass.does[*id]) {
            let index = |dim| self.walked(dims)(dim);
            let value = match instr {
                Instr::Float(_) | Instr::Int(_) | Instr::Truth(_) => literal(instr).unwrap_or_default(),
                Instr::Position(dim) if *held && is_stored(self.extent(*dim)) => {
                    format!("there ? {} : 0", self.position_text(*dim, &index))
                }
                Instr::Position(dim) => self.position_text(*dim, &index),
                Instr::PositionOf { dim, chosen } => self.position_of(*dim, *chosen, &index),
                Instr::Load(place) => {
                    self.refuse_panels(place)?;
                    let load = format!("load({})", self.element(place, &index));
                    match self.register(place) {
                        Some([tile, at]) => format!("{tile}.get({at})"),
                        None if *held => {
                            let guard = self.guard(place, dims, false);
                            format!("{guard} ? {load} : {}", absent(kinds[id]))
                        }
                        None => load,
                    }
                }
                Instr::LoadAt { table, id: ids, along, size } => {
                    self.refuse_panels(table)?;
                    let row = self.id_text(ids, *size, dims);
                    let address = self.element_at(table, &format!("id_{id}"), *along, &index);
                    self.line(format!("const int id_{id} = {row};"));
                    format!("load({address})")
                }
                Instr::Map(function, operands) if self.holds(*function, operands, nest) => "true".to_owned(),
                Instr::Map(ScalarFn::Exp, operands)
                    if *held && self.ranges.is_at_most_zero(self.program, nest, operands[0]) =>
                {
                    format!("f_exp_at_most_zero(v{})", operands[0])
                }
                Instr::Map(function, operands) => {
                    let kind = operands.first().map_or(Kind::Float, |&first| kinds[first]);
                    map(*function, operands, kind)
                }
                Instr::ToFloat(value) => format!("(float)v{value}"),
                Instr::Round(dtype, value) => format!("{}(v{value})", rounding(*dtype)?),
                Instr::Store(place, value) => {
                    self.refuse_panels(place)?;
                    let store = format!("store({}, v{value});", self.element(place, &index));
                    match self.register(place) {
                        Some([tile, at]) => self.line(format!("{tile}.put({at}, v{value});")),
                        None if *held => {
                            // Threads that share a row read what one of them stores.
                            let reads = |instr: &Instr| matches!(instr, Instr::Load(from) if from.base() == place.base());
                            if nest.body.iter().any(reads) {
                                self.line("__syncwarp();");
                            }
                            self.line(format!("if ({}) {store}", self.guard(place, dims, true)));
                        }
                        None => self.line(store),
                    }
                    continue;
                }
                Instr::AddAt { table, id: ids, along, size, value } => {
                    let row = self.id_text(ids, *size, dims);
                    let address = self.element_at(table, &format!("id_{id}"), *along, &index);
                    self.line(format!("const int id_{id} = {row};"));
                    self.line(format!("*({address}) += v{value};"));
                    continue;
                }
                Instr::Reduce { kind, value, .. } if *held => {
                    self.line(format!("r{id}[half][e] = column_there ? v{value} : {};", neutral(*kind)));
                    continue;
                }
                Instr::Reduce { kind, value, .. } => {
                    let sum = joined(*kind, &format!("r{id}"), &format!("v{value}"));
                    self.line(format!("r{id} = {sum};"));
                    continue;
                }
            };
            let name = match kinds[id] {
                Kind::Float => "float",
                Kind::Int => "int",
                Kind::Mask => "bool",
            };
            self.line(format!("const {name} v{id} = {value};"));
        }
        Ok(())
    }

    /// Whether a comparison of positions holds in all of a chunk that no causal mask cuts.
    fn holds(&self, function: ScalarFn, operands: &[usize], nest: &Nest) -> bool {
        let is_causal = self.whole_chunk.is_some_and(|bounds| bounds.causal);
        let positions = |one: usize, other: usize| match (&nest.body[one], &nest.body[other]) {
            (Instr::Position(one), Instr::Position(other)) => Some((self.extent(*one), self.extent(*other))),
            _ => None,
        };
        match *operands {
            [past, time] if is_causal && function == ScalarFn::LessEqual => {
                matches!(positions(past, time), Some((Extent::Past { .. }, Extent::Time)))
            }
            _ => false,
        }
    }

    /// The expression of an id along an axis of this size.
    fn id_text(&self, id: &Id, size: usize, dims: &[usize]) -> String {
        let index = |dim| self.walked(dims)(dim);
        let text = match id {
            Id::Stored(view) => format!("load({})", self.address(view, &index)),
            Id::Computed(value) => format!("v{value}"),
            Id::Position(dim) => self.position_text(*dim, &index),
        };
        format!("larger(0, smaller({text}, {}))", size - 1)
    }
}

fn rounding(dtype: DType) -> Result<&'static str, String> {
    match dtype {
        DType::BF16 => Ok("round_bf16"),
        DType::F16 => Ok("round_f16"),
        DType::I8 => Ok("round_i8"),
        DType::F32 | DType::I32 | DType::Bool => Err(format!("rounds to {dtype}, which is not narrow")),
    }
}

fn map(function: ScalarFn, x: &[usize], kind: Kind) -> String {
    let v = |position: usize| format!("v{}", x[position]);
    let infix = |op: &str| format!("{} {op} {}", v(0), v(1));
    let call =
        |name: &str| format!("{name}({})", x.iter().map(|x| format!("v{x}")).collect::<Vec<_>>().join(", "));
    match function {
        ScalarFn::Add => infix("+"),
        ScalarFn::Sub => infix("-"),
        ScalarFn::Mul => infix("*"),
        ScalarFn::Div => infix("/"),
        ScalarFn::Max => call("larger"),
        ScalarFn::Min => call("smaller"),
        ScalarFn::Abs => call("magnitude"),
        ScalarFn::Neg => format!("-{}", v(0)),
        ScalarFn::Less => infix("<"),
        ScalarFn::LessEqual => infix("<="),
        ScalarFn::Equal => infix("=="),
        ScalarFn::And => infix("&"),
        ScalarFn::Or => infix("|"),
        ScalarFn::Not if kind == Kind::Mask => format!("!{}", v(0)),
        ScalarFn::Not => format!("~{}", v(0)),
        ScalarFn::Select => format!("{} ? {} : {}", v(0), v(1), v(2)),
        ScalarFn::Detach => v(0),
        ScalarFn::RoundRandomly => call("round_randomly"),
        ScalarFn::Exp
        | ScalarFn::Log
        | ScalarFn::Sqrt
        | ScalarFn::Rsqrt
        | ScalarFn::Tanh
        | ScalarFn::Sigmoid
        | ScalarFn::Erf
        | ScalarFn::Sin
        | ScalarFn::Cos => call(&format!("f_{}", function.name())),
    }
}
