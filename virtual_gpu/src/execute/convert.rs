//! Conversions between number formats, packing, and addresses.

use super::numbers::{
    BFLOAT16, FLOAT16, FLOAT32, Format, NAN32, TENSOR_FLOAT32, bfloat16, float16, flush, to_bfloat16,
};
use super::warp::{Warp, lanes};
use crate::memory::{LOCAL_WINDOW, PARAMETER_WINDOW, SHARED_WINDOW};
use crate::parse::Space;
use crate::program::{Conversion, Elements, NONE, Operation, Rounding, Scalar, Slot};

impl Warp {
    /// Executes conversions; false if the operation is of another kind.
    #[inline(always)]
    pub fn conversion(&mut self, operation: &Operation, mask: u32) -> bool {
        match operation {
            Operation::Convert(conversion, d, a) => self.convert(conversion, *d, *a, mask),
            Operation::ConvertPair { conversion, d, high, low } => {
                let plain = *conversion == plain(Scalar::F32, Scalar::BF16);
                self.map_narrow2(*d, *high, *low, mask, |high, low| {
                    if plain {
                        to_bfloat16(f32::from_bits(high)) << 16 | to_bfloat16(f32::from_bits(low))
                    } else {
                        let one = |bits: u32| {
                            from_number(conversion, number(Scalar::F32, bits.into(), conversion)) as u32
                        };
                        one(high) << 16 | one(low)
                    }
                });
            }
            Operation::Pack { d, wide, parts } => self.pack(*d, *wide, parts, mask),
            Operation::Unpack { a, wide, parts } => self.unpack(*a, *wide, parts, mask),
            Operation::ConvertAddress { to_generic, space, wide, d, a } => {
                let base = match space {
                    Space::Shared => SHARED_WINDOW,
                    Space::Local => LOCAL_WINDOW,
                    Space::Parameter => PARAMETER_WINDOW,
                    _ => 0,
                };
                let offset = if *to_generic { base } else { base.wrapping_neg() };
                if *wide {
                    self.map_wide(*d, *a, mask, |a| a.wrapping_add(offset));
                } else {
                    self.map_narrow(*d, *a, mask, |a| a.wrapping_add(offset as u32));
                }
            }
            _ => return false,
        }
        true
    }

    #[inline(always)]
    fn convert(&mut self, conversion: &Conversion, d: Slot, a: Slot, mask: u32) {
        use Scalar::{BF16, F16, F32, S32, S64, U16, U32, U64};
        let simple = *conversion == plain(conversion.from, conversion.to);
        // The frequent ones as loops that become vector code.
        match (conversion.from, conversion.to) {
            (S32, S64) if simple => {
                let a = self.narrow[a as usize];
                let mut result = [0; 32];
                for lane in 0..32 {
                    result[lane] = i64::from(a[lane] as i32) as u64;
                }
                self.set_wide(d, &result, mask);
            }
            (U32, U64 | S64) if simple => {
                let a = self.narrow[a as usize];
                let mut result = [0; 32];
                for lane in 0..32 {
                    result[lane] = u64::from(a[lane]);
                }
                self.set_wide(d, &result, mask);
            }
            (U64 | S64, U32 | S32) if simple => {
                let a = self.wide[a as usize];
                let mut result = [0; 32];
                for lane in 0..32 {
                    result[lane] = a[lane] as u32;
                }
                self.set_narrow(d, &result, mask);
            }
            (S32, F32) if simple => self.map_narrow(d, a, mask, |a| (a as i32 as f32).to_bits()),
            (U32, F32) if simple => self.map_narrow(d, a, mask, |a| (a as f32).to_bits()),
            (F32, BF16) if simple => self.map_narrow(d, a, mask, |a| to_bfloat16(f32::from_bits(a))),
            (BF16, F32) if simple => self.map_narrow(d, a, mask, |a| a << 16),
            (F16, F32) if simple => self.map_narrow(d, a, mask, |a| {
                let value = float16(a & 0xffff);
                if value.is_nan() { NAN32 } else { value.to_bits() }
            }),
            // As expf and its kin use it.
            (F32, F32) if *conversion == (Conversion { saturate: true, ..plain(F32, F32) }) => {
                self.map_narrow(d, a, mask, |a| {
                    let value = f32::from_bits(a);
                    let positive = if value > 0.0 { value } else { 0.0 };
                    (if positive > 1.0 { 1.0f32 } else { positive }).to_bits()
                });
            }
            (U32 | S32, U16) if simple => self.map_narrow(d, a, mask, |a| a & 0xffff),
            (U16, U32 | S32) if simple => self.map_narrow(d, a, mask, |a| a & 0xffff),
            _ => self.convert_any(conversion, d, a, mask),
        }
    }

    fn convert_any(&mut self, conversion: &Conversion, d: Slot, a: Slot, mask: u32) {
        for lane in lanes(mask) {
            let bits = if conversion.from.is_wide() {
                self.wide[a as usize][lane]
            } else {
                self.narrow[a as usize][lane].into()
            };
            let result = from_number(conversion, number(conversion.from, bits, conversion));
            if conversion.to.is_wide() {
                self.wide[d as usize][lane] = result;
            } else {
                self.narrow[d as usize][lane] = result as u32;
            }
        }
    }

    #[inline(always)]
    fn pack(&mut self, d: Slot, wide: bool, parts: &Elements, mask: u32) {
        let bits = u32::from(parts.bytes) * 8;
        if wide {
            let mut result = [0u64; 32];
            for (slot, at) in parts.slots[..usize::from(parts.count)].iter().zip(0..) {
                let part = &self.narrow[*slot as usize];
                for lane in 0..32 {
                    let value = u64::from(part[lane]) & (u64::MAX >> (64 - bits));
                    result[lane] |= value << (bits * at);
                }
            }
            self.set_wide(d, &result, mask);
        } else {
            let mut result = [0u32; 32];
            for (slot, at) in parts.slots[..usize::from(parts.count)].iter().zip(0..) {
                let part = &self.narrow[*slot as usize];
                for lane in 0..32 {
                    result[lane] |= (part[lane] & (u32::MAX >> (32 - bits))) << (bits * at);
                }
            }
            self.set_narrow(d, &result, mask);
        }
    }

    #[inline(always)]
    fn unpack(&mut self, a: Slot, wide: bool, parts: &Elements, mask: u32) {
        let bits = u32::from(parts.bytes) * 8;
        let source = if wide {
            self.wide[a as usize]
        } else {
            let narrow = &self.narrow[a as usize];
            std::array::from_fn(|lane| narrow[lane].into())
        };
        for (slot, at) in parts.slots[..usize::from(parts.count)].iter().zip(0..) {
            if *slot == NONE {
                continue;
            }
            let mut result = [0; 32];
            for lane in 0..32 {
                result[lane] = (source[lane] >> (bits * at) & (u64::MAX >> (64 - bits))) as u32;
            }
            self.set_narrow(*slot, &result, mask);
        }
    }
}

/// A conversion with the rounding that stands where nothing is written, and no other modifier.
fn plain(from: Scalar, to: Scalar) -> Conversion {
    Conversion {
        from,
        to,
        rounding: Rounding::Nearest,
        integral: false,
        saturate: false,
        flush: false,
        relu: false,
    }
}

enum Number {
    Integer(i128),
    Float(f64),
}

fn sign_extend(bits: u64, width: u32) -> i128 {
    i128::from((bits << (64 - width)) as i64 >> (64 - width))
}

fn number(kind: Scalar, bits: u64, conversion: &Conversion) -> Number {
    match kind {
        Scalar::F64 => Number::Float(f64::from_bits(bits)),
        Scalar::F32 | Scalar::TF32 => {
            let bits = if conversion.flush { flush(bits as u32) } else { bits as u32 };
            Number::Float(f32::from_bits(bits).into())
        }
        Scalar::F16 => Number::Float(float16(bits as u32 & 0xffff).into()),
        Scalar::BF16 => Number::Float(bfloat16(bits as u32).into()),
        kind if kind.is_signed() => Number::Integer(sign_extend(bits, kind.bits())),
        kind => Number::Integer((bits & (u64::MAX >> (64 - kind.bits()))).into()),
    }
}

fn round_integral(value: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Nearest => value.round_ties_even(),
        Rounding::NearestAway => value.round(),
        Rounding::Zero => value.trunc(),
        Rounding::Down => value.floor(),
        Rounding::Up => value.ceil(),
    }
}

/// An integer as f64 with a sticky last bit: rounding it to fewer bits gives what rounding the integer would.
fn sticky_float(value: i128) -> f64 {
    let magnitude = value.unsigned_abs();
    let length = 128 - magnitude.leading_zeros();
    let float = if length <= 53 {
        magnitude as f64
    } else {
        let drop = length - 53;
        let rest = magnitude & ((1 << drop) - 1) != 0;
        ((magnitude >> drop | u128::from(rest)) as f64) * 2f64.powi(drop as i32)
    };
    if value < 0 { -float } else { float }
}

fn integer_to_double(value: i128, rounding: Rounding) -> f64 {
    let near = value as f64;
    let exact = near as i128;
    match rounding {
        Rounding::Zero if exact.unsigned_abs() > value.unsigned_abs() => {
            if value > 0 {
                near.next_down()
            } else {
                near.next_up()
            }
        }
        Rounding::Down if exact > value => near.next_down(),
        Rounding::Up if exact < value => near.next_up(),
        _ => near,
    }
}

fn from_number(conversion: &Conversion, value: Number) -> u64 {
    let to = conversion.to;
    if !to.is_float() {
        return to_integer(conversion, value);
    }
    let mut float = match value {
        Number::Integer(value) if to == Scalar::F64 => {
            return integer_to_double(value, conversion.rounding).to_bits();
        }
        Number::Integer(value) => sticky_float(value),
        Number::Float(value) => value,
    };
    if conversion.integral {
        float = round_integral(float, conversion.rounding);
    }
    if conversion.saturate {
        float = if float > 0.0 { float.min(1.0) } else { 0.0 };
    }
    // Zero of either sign becomes +0; NaN stays.
    if conversion.relu && float <= 0.0 {
        float = 0.0;
    }
    let round = |format: Format| u64::from(format.round(float, conversion.rounding));
    match to {
        Scalar::F64 if float.is_nan() => 0x7fff_ffff_ffff_ffff,
        Scalar::F64 => float.to_bits(),
        Scalar::F32 if conversion.flush => flush(round(FLOAT32) as u32).into(),
        Scalar::F32 => round(FLOAT32),
        Scalar::TF32 => round(TENSOR_FLOAT32) << 13,
        Scalar::F16 => round(FLOAT16),
        _ => round(BFLOAT16),
    }
}

fn to_integer(conversion: &Conversion, value: Number) -> u64 {
    let to = conversion.to;
    let bits = to.bits();
    let (low, high) = if to.is_signed() {
        (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
    } else {
        (0, (1i128 << bits) - 1)
    };
    let integer = match value {
        Number::Integer(value) if conversion.saturate => value.clamp(low, high),
        Number::Integer(value) => value,
        Number::Float(value) if value.is_nan() => {
            let zero = conversion.from != Scalar::F64 && !to.is_wide();
            return if zero { 0 } else { 1 << (bits - 1) };
        }
        // Conversions from floats clamp whether they say so or not.
        Number::Float(value) => (round_integral(value, conversion.rounding) as i128).clamp(low, high),
    };
    // Signed results narrower than a register fill it with their sign, except for 16 bits, which are kept as they are.
    match bits {
        8 if to.is_signed() => (integer as i8 as i32 as u32).into(),
        8 => (integer as u8).into(),
        16 => (integer as u16).into(),
        32 => (integer as u32).into(),
        _ => integer as u64,
    }
}
