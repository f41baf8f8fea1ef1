//! Arithmetic on 16-bit floats, alone and in pairs.

use super::numbers::{Format, exp2, half, maximum, minimum, to_bfloat16, two_sum};
use super::warp::Warp;
use crate::program::{FloatBinary, FloatMode, FloatUnary, HalfFormat, Operation, Rounding};

impl Warp {
    /// Executes arithmetic on 16-bit floats; false if the operation is of another kind.
    pub(super) fn half_scalar(&mut self, operation: &Operation, mask: u32) -> bool {
        match *operation {
            Operation::HalfUnary { operation, format, packed, d, a } => {
                self.map_narrow(d, a, mask, |a| {
                    halves(packed, |shift| {
                        let bits = a >> shift & 0xffff;
                        match operation {
                            FloatUnary::Negate => return bits ^ 0x8000,
                            FloatUnary::Abs => return bits & 0x7fff,
                            _ => {}
                        }
                        let value = half(format, bits);
                        round_half(
                            format,
                            f64::from(match operation {
                                FloatUnary::Exp2 => exp2(value),
                                FloatUnary::Tanh => f64::from(value).tanh() as f32,
                                _ => f32::NAN,
                            }),
                        )
                    })
                });
            }
            Operation::HalfBinary { operation, format, packed, mode, d, a, b } => {
                self.map_narrow2(d, a, b, mask, |a, b| {
                    halves(packed, |shift| {
                        half_binary(operation, format, mode, a >> shift & 0xffff, b >> shift & 0xffff)
                    })
                });
            }
            Operation::HalfFused { format, packed, mode, d, a, b, c } => {
                self.map_narrow3(d, [a, b, c], mask, |a, b, c| {
                    halves(packed, |shift| {
                        let value = |bits: u32| f64::from(half(format, bits >> shift & 0xffff));
                        // Products are exact in f64; the sum keeps a sticky bit, so that it is rounded once.
                        let (high, low) = two_sum(value(a) * value(b), value(c));
                        finish_half(format, mode, sticky(high, low))
                    })
                });
            }
            _ => return false,
        }
        true
    }
}

fn halves(packed: bool, f: impl Fn(u32) -> u32) -> u32 {
    if packed { f(0) | f(16) << 16 } else { f(0) }
}

fn sticky(high: f64, low: f64) -> f64 {
    if low == 0.0 || !high.is_finite() {
        return high;
    }
    let toward = if (low > 0.0) == (high > 0.0) { high.to_bits() } else { high.to_bits() - 1 };
    f64::from_bits(toward | 1)
}

fn round_half(format: HalfFormat, value: f64) -> u32 {
    Format::of(format).round(value, Rounding::Nearest)
}

fn finish_half(format: HalfFormat, mode: FloatMode, value: f64) -> u32 {
    let clamps = mode.saturate || (mode.relu && !value.is_nan());
    let value = match (clamps, value > 0.0) {
        (true, false) => 0.0,
        (true, true) if mode.saturate => value.min(1.0),
        _ => value,
    };
    let bits = round_half(format, value);
    if mode.flush && bits & 0x7fff < 0x400 && format == HalfFormat::Float16 { bits & 0x8000 } else { bits }
}

fn half_binary(operation: FloatBinary, format: HalfFormat, mode: FloatMode, a: u32, b: u32) -> u32 {
    let (x, y) = (half(format, a), half(format, b));
    match operation {
        FloatBinary::Min => return finish_half(format, mode, minimum(x, y).into()),
        FloatBinary::Max => return finish_half(format, mode, maximum(x, y).into()),
        FloatBinary::MinNan | FloatBinary::MaxNan if x.is_nan() || y.is_nan() => return 0x7fff,
        FloatBinary::MinNan => return finish_half(format, mode, minimum(x, y).into()),
        FloatBinary::MaxNan => return finish_half(format, mode, maximum(x, y).into()),
        FloatBinary::CopySign => return a & 0x8000 | b & 0x7fff,
        _ => {}
    }
    let (x, y) = (f64::from(x), f64::from(y));
    let (high, low) = match operation {
        FloatBinary::Add => two_sum(x, y),
        FloatBinary::Sub => two_sum(x, -y),
        _ => (x * y, 0.0),
    };
    if format == HalfFormat::BFloat16 && mode.is_plain() && low == 0.0 {
        // Exact in f64; where it is exact in f32 as well, which is almost always, the short way is the same.
        let narrow = high as f32;
        if f64::from(narrow) == high {
            return to_bfloat16(narrow);
        }
    }
    finish_half(format, mode, sticky(high, low))
}

/// The sums of both halves of two words.
pub(super) fn add_half(format: HalfFormat, a: u32, b: u32) -> u32 {
    let mode = FloatMode { rounding: Rounding::Nearest, flush: false, saturate: false, relu: false };
    halves(true, |shift| {
        half_binary(FloatBinary::Add, format, mode, a >> shift & 0xffff, b >> shift & 0xffff)
    })
}
