//! Arithmetic, logic, comparison and selection.

use super::operands::{Decoder, Modifiers};
use crate::error::LoadError;
use crate::parse::Class;
use crate::program::{
    CompareKind, Comparison, FloatBinary, FloatMode, FloatUnary, HalfFormat, Logic, NONE, NarrowBinary as N2,
    NarrowTernary as N3, NarrowUnary as N1, Operation, Rounding, WideBinary as W2, WideShift,
    WideTernary as W3, WideToNarrow, WideUnary as W1,
};

type Result<T> = std::result::Result<T, LoadError>;

pub(super) fn rounding(text: &str) -> Option<Rounding> {
    Some(match text {
        "rn" => Rounding::Nearest,
        "rz" => Rounding::Zero,
        "rm" => Rounding::Down,
        "rp" => Rounding::Up,
        _ => return None,
    })
}

fn float_mode(modifiers: &mut Modifiers) -> FloatMode {
    FloatMode {
        rounding: modifiers.find(rounding).unwrap_or(Rounding::Nearest),
        flush: modifiers.take("ftz"),
        saturate: modifiers.take("sat"),
        relu: modifiers.take("relu"),
    }
}

pub(super) fn half_format(kind: &str) -> Option<(HalfFormat, bool)> {
    Some(match kind {
        "f16" => (HalfFormat::Float16, false),
        "f16x2" => (HalfFormat::Float16, true),
        "bf16" => (HalfFormat::BFloat16, false),
        "bf16x2" => (HalfFormat::BFloat16, true),
        _ => return None,
    })
}

impl Decoder<'_> {
    fn narrow_unary(&mut self, operation: N1) -> Result<Operation> {
        let d = self.destination(0, Class::Narrow)?;
        Ok(Operation::NarrowUnary(operation, d, self.narrow(1)?))
    }

    fn narrow_binary(&mut self, operation: N2) -> Result<Operation> {
        let d = self.destination(0, Class::Narrow)?;
        Ok(Operation::NarrowBinary(operation, d, self.narrow(1)?, self.narrow(2)?))
    }

    fn narrow16_binary(&mut self, operation: N2) -> Result<Operation> {
        let d = self.destination(0, Class::Narrow)?;
        Ok(Operation::NarrowBinary(operation, d, self.narrow16(1)?, self.narrow16(2)?))
    }

    fn narrow_ternary(&mut self, operation: N3) -> Result<Operation> {
        let d = self.destination(0, Class::Narrow)?;
        Ok(Operation::NarrowTernary(operation, d, self.narrow(1)?, self.narrow(2)?, self.narrow(3)?))
    }

    fn wide_unary(&mut self, operation: W1) -> Result<Operation> {
        let d = self.destination(0, Class::Wide)?;
        Ok(Operation::WideUnary(operation, d, self.wide(1)?))
    }

    fn wide_to_narrow(&mut self, operation: WideToNarrow) -> Result<Operation> {
        let d = self.destination(0, Class::Narrow)?;
        Ok(Operation::WideToNarrow(operation, d, self.wide(1)?))
    }

    fn wide_binary(&mut self, operation: W2) -> Result<Operation> {
        let d = self.destination(0, Class::Wide)?;
        Ok(Operation::WideBinary(operation, d, self.wide(1)?, self.wide(2)?))
    }

    fn wide_ternary(&mut self, operation: W3) -> Result<Operation> {
        let d = self.destination(0, Class::Wide)?;
        Ok(Operation::WideTernary(operation, d, self.wide(1)?, self.wide(2)?, self.wide(3)?))
    }

    fn wide_shift(&mut self, operation: WideShift) -> Result<Operation> {
        let d = self.destination(0, Class::Wide)?;
        Ok(Operation::WideShift(operation, d, self.wide(1)?, self.narrow(2)?))
    }

    fn no_kind<T>(&self, kind: &str) -> Result<T> {
        self.unsupported(format!("type `{kind}`"))
    }

    /// `None` for an opcode that is not scalar arithmetic.
    pub(super) fn scalar(&mut self, base: &str, m: &mut Modifiers) -> Result<Option<Operation>> {
        let operation = match base {
            "add" | "sub" => self.add(base, m)?,
            "mul" => self.multiply(m)?,
            "mad" => self.multiply_add(m)?,
            "fma" => self.fused(m)?,
            "div" | "rem" | "min" | "max" => self.divide_or_choose(base, m)?,
            "abs" | "neg" => self.sign(base, m)?,
            "sqrt" | "rsqrt" | "rcp" | "sin" | "cos" | "lg2" | "ex2" | "tanh" => self.function(base, m)?,
            "copysign" => match m.last() {
                "f32" => self.float_binary(FloatBinary::CopySign, m)?,
                "f64" => self.double_binary(FloatBinary::CopySign)?,
                kind => return self.no_kind(kind),
            },
            "and" | "or" | "xor" => self.logic(base, m)?,
            "not" => match m.last() {
                "pred" => {
                    let d = self.destination(0, Class::Predicate)?;
                    Operation::PredicateNot(d, self.predicate(1)?)
                }
                "b16" => self.narrow_unary(N1::Not16)?,
                "b32" => self.narrow_unary(N1::Not)?,
                "b64" => self.wide_unary(W1::Not)?,
                kind => return self.no_kind(kind),
            },
            "shl" => match m.last() {
                "b16" => self.narrow_binary(N2::Shl16)?,
                "b32" => self.narrow_binary(N2::Shl32)?,
                "b64" => self.wide_shift(WideShift::Left)?,
                kind => return self.no_kind(kind),
            },
            "shr" => match m.last() {
                "u16" | "b16" | "u32" | "b32" => self.narrow_binary(N2::ShrU32)?,
                "s16" => self.narrow_binary(N2::ShrS16)?,
                "s32" => self.narrow_binary(N2::ShrS32)?,
                "u64" | "b64" => self.wide_shift(WideShift::RightU)?,
                "s64" => self.wide_shift(WideShift::RightS)?,
                kind => return self.no_kind(kind),
            },
            "shf" => {
                m.take("b32");
                let operation = match (m.take("l"), m.take("r"), m.take("clamp"), m.take("wrap")) {
                    (true, false, true, false) => N3::ShiftLeftClamp,
                    (true, false, false, true) => N3::ShiftLeftWrap,
                    (false, true, true, false) => N3::ShiftRightClamp,
                    (false, true, false, true) => N3::ShiftRightWrap,
                    _ => return self.unsupported("the direction or mode of the shift"),
                };
                self.narrow_ternary(operation)?
            }
            "popc" | "clz" => match (base, m.last()) {
                ("popc", "b32") => self.narrow_unary(N1::PopulationCount)?,
                ("popc", "b64") => self.wide_to_narrow(WideToNarrow::PopulationCount)?,
                ("clz", "b32") => self.narrow_unary(N1::LeadingZeros)?,
                ("clz", "b64") => self.wide_to_narrow(WideToNarrow::LeadingZeros)?,
                (_, kind) => return self.no_kind(kind),
            },
            "bfind" => match m.last() {
                "u32" => self.narrow_unary(N1::FindLeadU32)?,
                "s32" => self.narrow_unary(N1::FindLeadS32)?,
                "u64" => self.wide_to_narrow(WideToNarrow::FindLeadU64)?,
                "s64" => self.wide_to_narrow(WideToNarrow::FindLeadS64)?,
                kind => return self.no_kind(kind),
            },
            "brev" => match m.last() {
                "b32" => self.narrow_unary(N1::ReverseBits)?,
                "b64" => self.wide_unary(W1::ReverseBits)?,
                kind => return self.no_kind(kind),
            },
            "bfe" => match m.last() {
                "u32" => self.narrow_ternary(N3::ExtractU32)?,
                "s32" => self.narrow_ternary(N3::ExtractS32)?,
                kind @ ("u64" | "s64") => {
                    let d = self.destination(0, Class::Wide)?;
                    let (a, position, length) = (self.wide(1)?, self.narrow(2)?, self.narrow(3)?);
                    Operation::ExtractWide { signed: kind == "s64", d, a, position, length }
                }
                kind => return self.no_kind(kind),
            },
            "bfi" => match m.last() {
                "b32" => {
                    let d = self.destination(0, Class::Narrow)?;
                    Operation::InsertNarrow([
                        d,
                        self.narrow(1)?,
                        self.narrow(2)?,
                        self.narrow(3)?,
                        self.narrow(4)?,
                    ])
                }
                "b64" => {
                    let d = self.destination(0, Class::Wide)?;
                    Operation::InsertWide([d, self.wide(1)?, self.wide(2)?, self.narrow(3)?, self.narrow(4)?])
                }
                kind => return self.no_kind(kind),
            },
            "prmt" => {
                m.take("b32");
                let operation = m
                    .find(|mode| {
                        Some(match mode {
                            "f4e" => N3::PermuteForward4,
                            "b4e" => N3::PermuteBackward4,
                            "rc8" => N3::PermuteReplicate8,
                            "ecl" => N3::PermuteEdgeLeft,
                            "ecr" => N3::PermuteEdgeRight,
                            "rc16" => N3::PermuteReplicate16,
                            _ => return None,
                        })
                    })
                    .unwrap_or(N3::Permute);
                self.narrow_ternary(operation)?
            }
            "lop3" => match m.last() {
                "b32" => {
                    let table = self.immediate(4)? as u8;
                    self.narrow_ternary(N3::Logic(table))?
                }
                "b64" => {
                    let table = self.immediate(4)? as u8;
                    self.wide_ternary(W3::Logic(table))?
                }
                kind => return self.no_kind(kind),
            },
            "dp4a" => {
                let second = m.last() == "s32";
                let first = m.last() == "s32";
                self.narrow_ternary(N3::DotBytes(first, second))?
            }
            "dp2a" => {
                let second = m.last() == "s32";
                let first = m.last() == "s32";
                let upper = match m.last() {
                    "lo" => false,
                    "hi" => true,
                    kind => return self.no_kind(kind),
                };
                self.narrow_ternary(N3::DotHalves(first, second, upper))?
            }
            "sad" => match m.last() {
                "s32" => self.narrow_ternary(N3::SadS32)?,
                "u32" => self.narrow_ternary(N3::SadU32)?,
                kind => return self.no_kind(kind),
            },
            "selp" => match m.last() {
                "b64" | "u64" | "s64" | "f64" => {
                    let d = self.destination(0, Class::Wide)?;
                    Operation::SelectWide {
                        d,
                        a: self.wide(1)?,
                        b: self.wide(2)?,
                        predicate: self.predicate(3)?,
                    }
                }
                "b16" | "u16" | "s16" => {
                    let d = self.destination(0, Class::Narrow)?;
                    let (a, b) = (self.narrow16(1)?, self.narrow16(2)?);
                    Operation::SelectNarrow { d, a, b, predicate: self.predicate(3)? }
                }
                _ => {
                    let d = self.destination(0, Class::Narrow)?;
                    Operation::SelectNarrow {
                        d,
                        a: self.narrow(1)?,
                        b: self.narrow(2)?,
                        predicate: self.predicate(3)?,
                    }
                }
            },
            "setp" => self.compare(m)?,
            "testp" => {
                let kind = m.last();
                let names = ["finite", "infinite", "number", "notanumber", "normal", "subnormal"];
                let Some(test) = m.find(|text| names.iter().position(|name| *name == text)) else {
                    return self.unsupported("the test");
                };
                let d = self.destination(0, Class::Predicate)?;
                let wide = kind == "f64";
                let a = if wide { self.wide(1)? } else { self.narrow(1)? };
                Operation::TestFloat { test: test as u8, wide, d, a }
            }
            _ => return Ok(None),
        };
        Ok(Some(operation))
    }

    pub(super) fn float_binary(&mut self, operation: FloatBinary, m: &mut Modifiers) -> Result<Operation> {
        let mode = float_mode(m);
        let d = self.destination(0, Class::Narrow)?;
        Ok(Operation::FloatBinary(operation, mode, d, self.narrow(1)?, self.narrow(2)?))
    }

    fn double_binary(&mut self, operation: FloatBinary) -> Result<Operation> {
        let d = self.destination(0, Class::Wide)?;
        Ok(Operation::DoubleBinary(operation, d, self.wide(1)?, self.wide(2)?))
    }

    fn double_float_or_half(
        &mut self,
        operation: FloatBinary,
        kind: &str,
        m: &mut Modifiers,
    ) -> Result<Operation> {
        if kind == "f32" {
            return self.float_binary(operation, m);
        }
        if kind == "f64" {
            m.take("rn");
            return self.double_binary(operation);
        }
        let Some((format, packed)) = half_format(kind) else { return self.no_kind(kind) };
        let mode = float_mode(m);
        if mode.rounding != Rounding::Nearest {
            return self.unsupported("16-bit arithmetic that does not round to nearest");
        }
        let d = self.destination(0, Class::Narrow)?;
        let (a, b) = (self.narrow(1)?, self.narrow(2)?);
        Ok(Operation::HalfBinary { operation, format, packed, mode, d, a, b })
    }

    fn add(&mut self, base: &str, m: &mut Modifiers) -> Result<Operation> {
        let sub = base == "sub";
        match m.last() {
            "s32" if m.take("sat") => self.narrow_binary(if sub { N2::SubSatS32 } else { N2::AddSatS32 }),
            "s32" | "u32" => self.narrow_binary(if sub { N2::Sub32 } else { N2::Add32 }),
            "s16" | "u16" => self.narrow16_binary(if sub { N2::Sub16 } else { N2::Add16 }),
            "s64" | "u64" => self.wide_binary(if sub { W2::Sub } else { W2::Add }),
            kind => self.double_float_or_half(if sub { FloatBinary::Sub } else { FloatBinary::Add }, kind, m),
        }
    }

    fn multiply(&mut self, m: &mut Modifiers) -> Result<Operation> {
        let kind = m.last();
        if m.take("wide") {
            return match kind {
                "s16" => self.narrow16_binary(N2::MulWideS16),
                "u16" => self.narrow16_binary(N2::MulWideU16),
                "s32" | "u32" => {
                    let d = self.destination(0, Class::Wide)?;
                    Ok(Operation::MulWide {
                        signed: kind == "s32",
                        d,
                        a: self.narrow(1)?,
                        b: self.narrow(2)?,
                    })
                }
                kind => self.no_kind(kind),
            };
        }
        let high = m.take("hi");
        let low = m.take("lo");
        match (kind, high, low) {
            ("s32" | "u32", false, true) => self.narrow_binary(N2::MulLow32),
            ("s32", true, _) => self.narrow_binary(N2::MulHighS32),
            ("u32", true, _) => self.narrow_binary(N2::MulHighU32),
            ("s16" | "u16", false, true) => self.narrow16_binary(N2::MulLow16),
            ("s16", true, _) => self.narrow16_binary(N2::MulHighS16),
            ("u16", true, _) => self.narrow16_binary(N2::MulHighU16),
            ("s64" | "u64", false, true) => self.wide_binary(W2::MulLow),
            ("s64", true, _) => self.wide_binary(W2::MulHighS),
            ("u64", true, _) => self.wide_binary(W2::MulHighU),
            (kind, ..) => self.double_float_or_half(FloatBinary::Mul, kind, m),
        }
    }

    fn multiply_add(&mut self, m: &mut Modifiers) -> Result<Operation> {
        let kind = m.last();
        if m.take("wide") {
            return match kind {
                "s16" => self.narrow_ternary(N3::MadWideS16),
                "u16" => self.narrow_ternary(N3::MadWideU16),
                "s32" | "u32" => {
                    let d = self.destination(0, Class::Wide)?;
                    let (a, b, c) = (self.narrow(1)?, self.narrow(2)?, self.wide(3)?);
                    Ok(Operation::MadWide { signed: kind == "s32", d, a, b, c })
                }
                kind => self.no_kind(kind),
            };
        }
        let high = m.take("hi");
        let low = m.take("lo");
        match (kind, high, low) {
            ("s32" | "u32", false, true) => self.narrow_ternary(N3::MadLow32),
            ("s32", true, _) => self.narrow_ternary(N3::MadHighS32),
            ("u32", true, _) => self.narrow_ternary(N3::MadHighU32),
            ("s16" | "u16", false, true) => self.narrow_ternary(N3::MadLow16),
            ("s64" | "u64", false, true) => self.wide_ternary(W3::MadLow),
            ("s64", true, _) => self.wide_ternary(W3::MadHighS),
            ("u64", true, _) => self.wide_ternary(W3::MadHighU),
            // On sm_20 and later, mad of floats is fma.
            ("f32" | "f64", ..) => self.fused_kind(kind, m),
            (kind, ..) => self.no_kind(kind),
        }
    }

    fn fused(&mut self, m: &mut Modifiers) -> Result<Operation> {
        let kind = m.last();
        self.fused_kind(kind, m)
    }

    fn fused_kind(&mut self, kind: &str, m: &mut Modifiers) -> Result<Operation> {
        let mode = float_mode(m);
        if kind == "f64" {
            if mode.rounding != Rounding::Nearest {
                return self.unsupported("64-bit arithmetic that does not round to nearest");
            }
            let d = self.destination(0, Class::Wide)?;
            return Ok(Operation::DoubleFused(d, self.wide(1)?, self.wide(2)?, self.wide(3)?));
        }
        let d = self.destination(0, Class::Narrow)?;
        let (a, b, c) = (self.narrow(1)?, self.narrow(2)?, self.narrow(3)?);
        if kind == "f32" {
            return Ok(Operation::FloatFused(mode, d, a, b, c));
        }
        let Some((format, packed)) = half_format(kind) else { return self.no_kind(kind) };
        Ok(Operation::HalfFused { format, packed, mode, d, a, b, c })
    }

    fn divide_or_choose(&mut self, base: &str, m: &mut Modifiers) -> Result<Operation> {
        let kind = m.last();
        let index = match kind {
            "s32" => 0,
            "u32" => 1,
            "s16" => 2,
            "u16" => 3,
            "s64" => 4,
            "u64" => 5,
            _ => 6,
        };
        let (narrow, wide) = match base {
            "div" => ([N2::DivS32, N2::DivU32, N2::DivS16, N2::DivU16], [W2::DivS, W2::DivU]),
            "rem" => ([N2::RemS32, N2::RemU32, N2::RemS16, N2::RemU16], [W2::RemS, W2::RemU]),
            "min" => ([N2::MinS32, N2::MinU32, N2::MinS16, N2::MinU16], [W2::MinS, W2::MinU]),
            _ => ([N2::MaxS32, N2::MaxU32, N2::MaxS16, N2::MaxU16], [W2::MaxS, W2::MaxU]),
        };
        match index {
            0 | 1 => self.narrow_binary(narrow[index]),
            2 | 3 => self.narrow16_binary(narrow[index]),
            4 | 5 => self.wide_binary(wide[index - 4]),
            _ => {
                let nan = m.take("NaN");
                let operation = match base {
                    "div" if kind == "f32" && (m.take("full") || m.take("approx")) => {
                        FloatBinary::DivApproximate
                    }
                    "div" => FloatBinary::Div,
                    "min" if nan => FloatBinary::MinNan,
                    "min" => FloatBinary::Min,
                    "max" if nan => FloatBinary::MaxNan,
                    "max" => FloatBinary::Max,
                    _ => return self.no_kind(kind),
                };
                if operation == FloatBinary::Div && half_format(kind).is_some() {
                    return self.no_kind(kind);
                }
                let result = self.double_float_or_half(operation, kind, m)?;
                if let Operation::FloatBinary(FloatBinary::Div, mode, ..) = result
                    && mode.rounding != Rounding::Nearest
                {
                    return self.unsupported("division that does not round to nearest");
                }
                Ok(result)
            }
        }
    }

    fn sign(&mut self, base: &str, m: &mut Modifiers) -> Result<Operation> {
        let negate = base == "neg";
        let kind = m.last();
        match kind {
            "s32" => self.narrow_unary(if negate { N1::Negate32 } else { N1::Abs32 }),
            "s16" => self.narrow_unary(if negate { N1::Negate16 } else { N1::Abs16 }),
            "s64" => self.wide_unary(if negate { W1::Negate } else { W1::Abs }),
            _ => self.float_unary(if negate { FloatUnary::Negate } else { FloatUnary::Abs }, kind, m),
        }
    }

    fn float_unary(&mut self, operation: FloatUnary, kind: &str, m: &mut Modifiers) -> Result<Operation> {
        let flush = m.take("ftz");
        match kind {
            "f32" => {
                let d = self.destination(0, Class::Narrow)?;
                Ok(Operation::FloatUnary(operation, flush, d, self.narrow(1)?))
            }
            "f64" => {
                let d = self.destination(0, Class::Wide)?;
                Ok(Operation::DoubleUnary(operation, d, self.wide(1)?))
            }
            _ => {
                let Some((format, packed)) = half_format(kind) else { return self.no_kind(kind) };
                let d = self.destination(0, Class::Narrow)?;
                Ok(Operation::HalfUnary { operation, format, packed, d, a: self.narrow(1)? })
            }
        }
    }

    fn function(&mut self, base: &str, m: &mut Modifiers) -> Result<Operation> {
        let kind = m.last();
        let approximate = m.take("approx");
        if let Some(rounding) = m.find(rounding)
            && rounding != Rounding::Nearest
        {
            return self.unsupported("a function that does not round to nearest");
        }
        let operation = match base {
            "sqrt" if approximate => FloatUnary::SqrtApproximate,
            "sqrt" => FloatUnary::Sqrt,
            "rsqrt" => FloatUnary::ReciprocalSqrt,
            "rcp" if approximate => FloatUnary::ReciprocalApproximate,
            "rcp" => FloatUnary::Reciprocal,
            "sin" => FloatUnary::Sine,
            "cos" => FloatUnary::Cosine,
            "lg2" => FloatUnary::Log2,
            "ex2" => FloatUnary::Exp2,
            _ => FloatUnary::Tanh,
        };
        self.float_unary(operation, kind, m)
    }

    fn logic(&mut self, base: &str, m: &mut Modifiers) -> Result<Operation> {
        let logic = match base {
            "and" => Logic::And,
            "or" => Logic::Or,
            _ => Logic::Xor,
        };
        match m.last() {
            "pred" => {
                let d = self.destination(0, Class::Predicate)?;
                Ok(Operation::PredicateLogic(logic, d, self.predicate(1)?, self.predicate(2)?))
            }
            kind @ ("b16" | "b32") => {
                let operation = match logic {
                    Logic::And => N2::And,
                    Logic::Or => N2::Or,
                    Logic::Xor => N2::Xor,
                };
                if kind == "b16" { self.narrow16_binary(operation) } else { self.narrow_binary(operation) }
            }
            "b64" => self.wide_binary(match logic {
                Logic::And => W2::And,
                Logic::Or => W2::Or,
                Logic::Xor => W2::Xor,
            }),
            kind => self.no_kind(kind),
        }
    }

    fn compare(&mut self, m: &mut Modifiers) -> Result<Operation> {
        let text = m.last();
        let flush = m.take("ftz");
        let comparison = m.find(comparison);
        let Some((comparison, unsigned)) = comparison else { return self.unsupported("the comparison") };
        let kind = match text {
            "s16" => CompareKind::S16,
            "u16" | "b16" => CompareKind::U16,
            "s32" if !unsigned => CompareKind::S32,
            "u32" | "b32" | "s32" => CompareKind::U32,
            "s64" if !unsigned => CompareKind::S64,
            "u64" | "b64" | "s64" => CompareKind::U64,
            "f32" => CompareKind::F32 { flush },
            "f64" => CompareKind::F64,
            "f16" => CompareKind::Half(HalfFormat::Float16),
            "bf16" => CompareKind::Half(HalfFormat::BFloat16),
            kind => return self.no_kind(kind),
        };
        let logic = m.find(|text| {
            Some(match text {
                "and" => Logic::And,
                "or" => Logic::Or,
                "xor" => Logic::Xor,
                _ => return None,
            })
        });
        let (d, complement) = self.destination_pair(0, Class::Predicate, Class::Predicate)?;
        if d == NONE && complement == NONE {
            return self.unsupported("a comparison without a destination");
        }
        let (a, b) = match kind {
            CompareKind::S64 | CompareKind::U64 | CompareKind::F64 => (self.wide(1)?, self.wide(2)?),
            CompareKind::S16 | CompareKind::U16 => (self.narrow16(1)?, self.narrow16(2)?),
            _ => (self.narrow(1)?, self.narrow(2)?),
        };
        let combine = match logic {
            Some(logic) => {
                let (predicate, negated) = self.signed_predicate(3)?;
                Some((logic, predicate, negated))
            }
            None => None,
        };
        Ok(Operation::Compare { comparison, kind, d, complement, a, b, combine })
    }
}

/// The comparison, and whether its name makes it one of unsigned integers.
fn comparison(text: &str) -> Option<(Comparison, bool)> {
    Some(match text {
        "eq" => (Comparison::Equal, false),
        "ne" => (Comparison::NotEqual, false),
        "lt" => (Comparison::Less, false),
        "le" => (Comparison::LessEqual, false),
        "gt" => (Comparison::Greater, false),
        "ge" => (Comparison::GreaterEqual, false),
        "lo" => (Comparison::Less, true),
        "ls" => (Comparison::LessEqual, true),
        "hi" => (Comparison::Greater, true),
        "hs" => (Comparison::GreaterEqual, true),
        "equ" => (Comparison::EqualUnordered, false),
        "neu" => (Comparison::NotEqualUnordered, false),
        "ltu" => (Comparison::LessUnordered, false),
        "leu" => (Comparison::LessEqualUnordered, false),
        "gtu" => (Comparison::GreaterUnordered, false),
        "geu" => (Comparison::GreaterEqualUnordered, false),
        "num" => (Comparison::BothNumbers, false),
        "nan" => (Comparison::EitherNan, false),
        _ => return None,
    })
}
