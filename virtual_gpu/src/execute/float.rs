//! Arithmetic on f32, and comparisons.

use super::numbers::{NAN32, canonical, directed, exp2, flush, half, log2, maximum, minimum, two_sum};
use super::scalar::signed16;
use super::warp::Warp;
use crate::program::{CompareKind, Comparison, FloatBinary, FloatMode, FloatUnary, Rounding, Slot};

impl Warp {
    #[inline(always)]
    pub(super) fn float_unary(&mut self, operation: FloatUnary, ftz: bool, d: Slot, a: Slot, mask: u32) {
        let value = |bits: u32| f32::from_bits(if ftz { flush(bits) } else { bits });
        let result = |value: f32| if ftz { flush(canonical(value)) } else { canonical(value) };
        match operation {
            FloatUnary::Negate => self.map_narrow(d, a, mask, |a| value(a).to_bits() ^ 0x8000_0000),
            FloatUnary::Abs => self.map_narrow(d, a, mask, |a| value(a).to_bits() & 0x7fff_ffff),
            FloatUnary::Sqrt | FloatUnary::SqrtApproximate => {
                self.map_narrow(d, a, mask, |a| result(value(a).sqrt()))
            }
            FloatUnary::Reciprocal | FloatUnary::ReciprocalApproximate => {
                self.map_narrow(d, a, mask, |a| result(1.0 / value(a)));
            }
            FloatUnary::ReciprocalSqrt => {
                self.map_narrow(d, a, mask, |a| result((1.0 / f64::from(value(a)).sqrt()) as f32));
            }
            FloatUnary::Exp2 => self.map_narrow(d, a, mask, |a| result(exp2(value(a)))),
            FloatUnary::Log2 => self.map_narrow(d, a, mask, |a| result(log2(value(a)))),
            FloatUnary::Sine => self.map_narrow(d, a, mask, |a| result(f64::from(value(a)).sin() as f32)),
            FloatUnary::Cosine => self.map_narrow(d, a, mask, |a| result(f64::from(value(a)).cos() as f32)),
            FloatUnary::Tanh => self.map_narrow(d, a, mask, |a| result(f64::from(value(a)).tanh() as f32)),
        }
    }

    #[inline(always)]
    pub(super) fn float_binary(
        &mut self,
        operation: FloatBinary,
        mode: FloatMode,
        d: Slot,
        a: Slot,
        b: Slot,
        mask: u32,
    ) {
        let f = f32::from_bits;
        if mode.is_plain() {
            return match operation {
                FloatBinary::Add => self.map_narrow2(d, a, b, mask, |a, b| canonical(f(a) + f(b))),
                FloatBinary::Sub => self.map_narrow2(d, a, b, mask, |a, b| canonical(f(a) - f(b))),
                FloatBinary::Mul => self.map_narrow2(d, a, b, mask, |a, b| canonical(f(a) * f(b))),
                FloatBinary::Div | FloatBinary::DivApproximate => {
                    self.map_narrow2(d, a, b, mask, |a, b| canonical(f(a) / f(b)));
                }
                FloatBinary::Min => self.map_narrow2(d, a, b, mask, |a, b| canonical(minimum(f(a), f(b)))),
                FloatBinary::Max => self.map_narrow2(d, a, b, mask, |a, b| canonical(maximum(f(a), f(b)))),
                FloatBinary::MinNan => {
                    self.map_narrow2(d, a, b, mask, |a, b| or_nan(a, b, minimum(f(a), f(b)).to_bits()));
                }
                FloatBinary::MaxNan => {
                    self.map_narrow2(d, a, b, mask, |a, b| or_nan(a, b, maximum(f(a), f(b)).to_bits()));
                }
                FloatBinary::CopySign => {
                    self.map_narrow2(d, a, b, mask, |a, b| a & 0x8000_0000 | b & 0x7fff_ffff);
                }
            };
        }
        self.map_narrow2(d, a, b, mask, |a, b| {
            let (a, b) = if mode.flush { (flush(a), flush(b)) } else { (a, b) };
            let value = match operation {
                FloatBinary::Add | FloatBinary::Sub => {
                    let b = if operation == FloatBinary::Sub { -f(b) } else { f(b) };
                    if mode.rounding == Rounding::Nearest {
                        f(a) + b
                    } else {
                        let (high, low) = two_sum(f(a).into(), b.into());
                        directed(high, low, mode.rounding)
                    }
                }
                FloatBinary::Mul if mode.rounding == Rounding::Nearest => f(a) * f(b),
                FloatBinary::Mul => directed(f64::from(f(a)) * f64::from(f(b)), 0.0, mode.rounding),
                FloatBinary::Div | FloatBinary::DivApproximate => f(a) / f(b),
                FloatBinary::Min => minimum(f(a), f(b)),
                FloatBinary::Max => maximum(f(a), f(b)),
                FloatBinary::MinNan => f(or_nan(a, b, minimum(f(a), f(b)).to_bits())),
                FloatBinary::MaxNan => f(or_nan(a, b, maximum(f(a), f(b)).to_bits())),
                FloatBinary::CopySign => f(a & 0x8000_0000 | b & 0x7fff_ffff),
            };
            finish(mode, value)
        });
    }

    #[inline(always)]
    pub(super) fn float_fused(&mut self, mode: FloatMode, d: Slot, sources: [Slot; 3], mask: u32) {
        let f = f32::from_bits;
        if mode.is_plain() {
            return self.map_narrow3(d, sources, mask, |a, b, c| canonical(f(a).mul_add(f(b), f(c))));
        }
        self.map_narrow3(d, sources, mask, |a, b, c| {
            let [a, b, c] = if mode.flush { [flush(a), flush(b), flush(c)] } else { [a, b, c] }.map(f);
            let value = if mode.rounding == Rounding::Nearest {
                a.mul_add(b, c)
            } else {
                let (high, low) = two_sum(f64::from(a) * f64::from(b), c.into());
                directed(high, low, mode.rounding)
            };
            finish(mode, value)
        });
    }

    #[inline(always)]
    pub(super) fn compare(&self, comparison: Comparison, kind: CompareKind, a: Slot, b: Slot) -> u32 {
        macro_rules! ordered {
            ($compare:ident, $convert:expr) => {{
                let c = $convert;
                match comparison {
                    Comparison::Equal | Comparison::EqualUnordered => {
                        self.$compare(a, b, |a, b| c(a) == c(b))
                    }
                    Comparison::NotEqual | Comparison::NotEqualUnordered => {
                        self.$compare(a, b, |a, b| c(a) != c(b))
                    }
                    Comparison::Less | Comparison::LessUnordered => self.$compare(a, b, |a, b| c(a) < c(b)),
                    Comparison::LessEqual | Comparison::LessEqualUnordered => {
                        self.$compare(a, b, |a, b| c(a) <= c(b))
                    }
                    Comparison::Greater | Comparison::GreaterUnordered => {
                        self.$compare(a, b, |a, b| c(a) > c(b))
                    }
                    Comparison::GreaterEqual | Comparison::GreaterEqualUnordered => {
                        self.$compare(a, b, |a, b| c(a) >= c(b))
                    }
                    Comparison::BothNumbers => u32::MAX,
                    Comparison::EitherNan => 0,
                }
            }};
        }
        let nan = match kind {
            CompareKind::S16 => return ordered!(compare_narrow, signed16),
            CompareKind::U16 | CompareKind::U32 => return ordered!(compare_narrow, |a: u32| a),
            CompareKind::S32 => return ordered!(compare_narrow, |a: u32| a as i32),
            CompareKind::S64 => return ordered!(compare_wide, |a: u64| a as i64),
            CompareKind::U64 => return ordered!(compare_wide, |a: u64| a),
            CompareKind::F32 { .. } => {
                self.compare_narrow(a, b, |a, b| f32::from_bits(a).is_nan() | f32::from_bits(b).is_nan())
            }
            CompareKind::F64 => {
                self.compare_wide(a, b, |a, b| f64::from_bits(a).is_nan() | f64::from_bits(b).is_nan())
            }
            CompareKind::Half(format) => {
                self.compare_narrow(a, b, |a, b| half(format, a).is_nan() | half(format, b).is_nan())
            }
        };
        let result = match kind {
            CompareKind::F32 { flush: true } => ordered!(compare_narrow, |a: u32| f32::from_bits(flush(a))),
            CompareKind::F32 { flush: false } => ordered!(compare_narrow, f32::from_bits),
            CompareKind::F64 => ordered!(compare_wide, f64::from_bits),
            CompareKind::Half(format) => ordered!(compare_narrow, |a: u32| half(format, a)),
            _ => unreachable!("integers have returned"),
        };
        match comparison {
            Comparison::BothNumbers => !nan,
            Comparison::EitherNan => nan,
            // Of floats, `ne` is false where one is NaN.
            Comparison::NotEqual => result & !nan,
            Comparison::EqualUnordered
            | Comparison::NotEqualUnordered
            | Comparison::LessUnordered
            | Comparison::LessEqualUnordered
            | Comparison::GreaterUnordered
            | Comparison::GreaterEqualUnordered => result | nan,
            _ => result,
        }
    }
}

#[inline(always)]
fn or_nan(a: u32, b: u32, value: u32) -> u32 {
    if f32::from_bits(a).is_nan() | f32::from_bits(b).is_nan() { NAN32 } else { value }
}

#[inline(always)]
fn finish(mode: FloatMode, value: f32) -> u32 {
    let mut bits = canonical(value);
    if mode.flush {
        bits = flush(bits);
    }
    if mode.saturate || (mode.relu && !value.is_nan()) {
        let value = f32::from_bits(bits);
        let positive = if value > 0.0 { value } else { 0.0 };
        bits = if mode.saturate && positive > 1.0 { 1.0f32 } else { positive }.to_bits();
    }
    bits
}
