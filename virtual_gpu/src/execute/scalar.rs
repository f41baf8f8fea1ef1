//! Arithmetic on the 32 lanes of a warp. Each loop is over lanes and free of branches, so that it becomes vector code;
//! lanes that do not execute are computed as well and dropped.

use super::warp::{Warp, lanes};
use crate::program::{
    FloatBinary, FloatUnary, Logic, NarrowBinary as N2, NarrowTernary as N3, NarrowUnary as N1, Operation,
    Slot, WideBinary as W2, WideShift, WideTernary as W3, WideToNarrow, WideUnary as W1,
};

pub(super) fn signed16(value: u32) -> i32 {
    i32::from(value as u16 as i16)
}

fn low16(value: i32) -> u32 {
    value as u32 & 0xffff
}

impl Warp {
    /// Executes scalar arithmetic; false if the operation is of another kind.
    #[inline(always)]
    pub fn scalar(&mut self, operation: &Operation, mask: u32) -> bool {
        match *operation {
            Operation::NarrowUnary(operation, d, a) => self.narrow_unary(operation, d, a, mask),
            Operation::NarrowBinary(operation, d, a, b) => self.narrow_binary(operation, d, a, b, mask),
            Operation::NarrowTernary(operation, d, a, b, c) => {
                self.narrow_ternary(operation, d, [a, b, c], mask)
            }
            Operation::FloatBinary(operation, mode, d, a, b) => {
                self.float_binary(operation, mode, d, a, b, mask)
            }
            Operation::FloatFused(mode, d, a, b, c) => self.float_fused(mode, d, [a, b, c], mask),
            Operation::FloatUnary(operation, flush, d, a) => self.float_unary(operation, flush, d, a, mask),
            Operation::Compare { comparison, kind, d, complement, a, b, combine } => {
                let mut result = self.compare(comparison, kind, a, b);
                let mut opposite = !result;
                if let Some((logic, predicate, negate)) = combine {
                    let other = self.predicates[predicate as usize] ^ if negate { u32::MAX } else { 0 };
                    result = combine_logic(logic, result, other);
                    opposite = combine_logic(logic, opposite, other);
                }
                self.set_predicate(d, result, mask);
                self.set_predicate(complement, opposite, mask);
            }
            Operation::SelectNarrow { d, a, b, predicate } => {
                let chosen = self.predicates[predicate as usize];
                let (a, mut result) = (self.narrow[a as usize], self.narrow[b as usize]);
                for lane in 0..32 {
                    let keep = (chosen >> lane & 1).wrapping_sub(1);
                    result[lane] = result[lane] & keep | a[lane] & !keep;
                }
                self.set_narrow(d, &result, mask);
            }
            Operation::SelectWide { d, a, b, predicate } => {
                let chosen = u64::from(self.predicates[predicate as usize]);
                let (a, mut result) = (self.wide[a as usize], self.wide[b as usize]);
                for lane in 0..32 {
                    let keep = (chosen >> lane & 1).wrapping_sub(1);
                    result[lane] = result[lane] & keep | a[lane] & !keep;
                }
                self.set_wide(d, &result, mask);
            }
            Operation::PredicateMove(d, a) => self.set_predicate(d, self.predicates[a as usize], mask),
            Operation::PredicateNot(d, a) => self.set_predicate(d, !self.predicates[a as usize], mask),
            Operation::PredicateLogic(logic, d, a, b) => {
                let (a, b) = (self.predicates[a as usize], self.predicates[b as usize]);
                self.set_predicate(d, combine_logic(logic, a, b), mask);
            }
            Operation::WideUnary(operation, d, a) => match operation {
                W1::Move => self.map_wide(d, a, mask, |a| a),
                W1::Not => self.map_wide(d, a, mask, |a| !a),
                W1::Negate => self.map_wide(d, a, mask, u64::wrapping_neg),
                W1::Abs => self.map_wide(d, a, mask, |a| (a as i64).wrapping_abs() as u64),
                W1::ReverseBits => self.map_wide(d, a, mask, u64::reverse_bits),
            },
            Operation::WideBinary(operation, d, a, b) => self.wide_binary(operation, d, a, b, mask),
            Operation::WideTernary(operation, d, a, b, c) => match operation {
                W3::MadLow => self.map_wide3(d, [a, b, c], mask, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
                W3::MadHighS => self.map_wide3(d, [a, b, c], mask, |a, b, c| high_s64(a, b).wrapping_add(c)),
                W3::MadHighU => self.map_wide3(d, [a, b, c], mask, |a, b, c| high_u64(a, b).wrapping_add(c)),
                W3::Logic(table) => self.map_wide3(d, [a, b, c], mask, |a, b, c| truth_table(table, a, b, c)),
            },
            Operation::WideShift(operation, d, a, b) => {
                let shift = self.narrow[b as usize];
                let mut result = self.wide[a as usize];
                for lane in 0..32 {
                    let (value, shift) = (result[lane], shift[lane]);
                    let inside = shift < 64;
                    result[lane] = match operation {
                        WideShift::Left => (value << (shift & 63)) * u64::from(inside),
                        WideShift::RightU => (value >> (shift & 63)) * u64::from(inside),
                        WideShift::RightS => (value as i64 >> shift.min(63)) as u64,
                    };
                }
                self.set_wide(d, &result, mask);
            }
            Operation::MulWide { signed, d, a, b } => {
                let (a, b) = (self.narrow[a as usize], self.narrow[b as usize]);
                let mut result = [0; 32];
                for lane in 0..32 {
                    result[lane] = wide_product(signed, a[lane], b[lane]);
                }
                self.set_wide(d, &result, mask);
            }
            Operation::MadWide { signed, d, a, b, c } => {
                let (a, b) = (self.narrow[a as usize], self.narrow[b as usize]);
                let mut result = self.wide[c as usize];
                for lane in 0..32 {
                    result[lane] = result[lane].wrapping_add(wide_product(signed, a[lane], b[lane]));
                }
                self.set_wide(d, &result, mask);
            }
            _ => return self.rare_scalar(operation, mask),
        }
        true
    }

    /// What is executed too seldom to be worth a place in the main loop.
    fn rare_scalar(&mut self, operation: &Operation, mask: u32) -> bool {
        match *operation {
            Operation::WideToNarrow(operation, d, a) => {
                let a = self.wide[a as usize];
                let result = a.map(|a| match operation {
                    WideToNarrow::LeadingZeros => a.leading_zeros(),
                    WideToNarrow::PopulationCount => a.count_ones(),
                    WideToNarrow::FindLeadU64 => 63u32.wrapping_sub(a.leading_zeros()),
                    WideToNarrow::FindLeadS64 => {
                        63u32.wrapping_sub((if (a as i64) < 0 { !a } else { a }).leading_zeros())
                    }
                });
                self.set_narrow(d, &result, mask);
            }
            Operation::InsertNarrow([d, a, b, position, length]) => {
                for lane in lanes(mask) {
                    let value = |slot: Slot| self.narrow[slot as usize][lane];
                    let field = field_mask(value(position), value(length)) as u32;
                    let moved = u64::from(value(a)).checked_shl(value(position) & 0xff).unwrap_or(0) as u32;
                    self.narrow[d as usize][lane] = value(b) & !field | moved & field;
                }
            }
            Operation::InsertWide([d, a, b, position, length]) => {
                for lane in lanes(mask) {
                    let (position, length) =
                        (self.narrow[position as usize][lane], self.narrow[length as usize][lane]);
                    let field = field_mask(position, length);
                    let moved = self.wide[a as usize][lane].checked_shl(position & 0xff).unwrap_or(0);
                    self.wide[d as usize][lane] = self.wide[b as usize][lane] & !field | moved & field;
                }
            }
            Operation::ExtractWide { signed, d, a, position, length } => {
                for lane in lanes(mask) {
                    let (position, length) =
                        (self.narrow[position as usize][lane], self.narrow[length as usize][lane]);
                    let value = self.wide[a as usize][lane];
                    self.wide[d as usize][lane] = extract(value, position, length, 64, signed);
                }
            }
            Operation::DoubleUnary(operation, d, a) => self.map_wide(d, a, mask, |a| {
                let a = f64::from_bits(a);
                let result = match operation {
                    FloatUnary::Negate => return (-a).to_bits(),
                    FloatUnary::Abs => return a.abs().to_bits(),
                    FloatUnary::Sqrt | FloatUnary::SqrtApproximate => a.sqrt(),
                    FloatUnary::Reciprocal | FloatUnary::ReciprocalApproximate => 1.0 / a,
                    FloatUnary::ReciprocalSqrt => 1.0 / a.sqrt(),
                    FloatUnary::Sine => a.sin(),
                    FloatUnary::Cosine => a.cos(),
                    FloatUnary::Log2 => a.log2(),
                    FloatUnary::Exp2 => a.exp2(),
                    FloatUnary::Tanh => a.tanh(),
                };
                canonical64(result)
            }),
            Operation::DoubleBinary(operation, d, a, b) => self.map_wide2(d, a, b, mask, |a, b| {
                let (a, b) = (f64::from_bits(a), f64::from_bits(b));
                canonical64(match operation {
                    FloatBinary::Add => a + b,
                    FloatBinary::Sub => a - b,
                    FloatBinary::Mul => a * b,
                    FloatBinary::Div | FloatBinary::DivApproximate => a / b,
                    FloatBinary::Min => {
                        if b.is_nan() || a < b {
                            a
                        } else {
                            b
                        }
                    }
                    FloatBinary::Max => {
                        if b.is_nan() || a > b {
                            a
                        } else {
                            b
                        }
                    }
                    FloatBinary::MinNan => {
                        if a.is_nan() || a < b {
                            a
                        } else {
                            b
                        }
                    }
                    FloatBinary::MaxNan => {
                        if a.is_nan() || a > b {
                            a
                        } else {
                            b
                        }
                    }
                    FloatBinary::CopySign => return b.copysign(a).to_bits(),
                })
            }),
            Operation::DoubleFused(d, a, b, c) => self.map_wide3(d, [a, b, c], mask, |a, b, c| {
                canonical64(f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c)))
            }),
            Operation::TestFloat { test, wide, d, a } => {
                let mut result = 0;
                for lane in lanes(mask) {
                    let class = if wide {
                        f64::from_bits(self.wide[a as usize][lane]).classify()
                    } else {
                        f32::from_bits(self.narrow[a as usize][lane]).classify()
                    };
                    use std::num::FpCategory::{Infinite, Nan, Normal, Subnormal};
                    let holds = match test {
                        0 => !matches!(class, Infinite | Nan),
                        1 => class == Infinite,
                        2 => class != Nan,
                        3 => class == Nan,
                        4 => class == Normal,
                        _ => class == Subnormal,
                    };
                    result |= u32::from(holds) << lane;
                }
                self.set_predicate(d, result, mask);
            }
            _ => return self.half_scalar(operation, mask),
        }
        true
    }

    #[inline(always)]
    fn narrow_unary(&mut self, operation: N1, d: Slot, a: Slot, mask: u32) {
        match operation {
            N1::Move => self.map_narrow(d, a, mask, |a| a),
            N1::Not => self.map_narrow(d, a, mask, |a| !a),
            N1::Not16 => self.map_narrow(d, a, mask, |a| !a & 0xffff),
            N1::Negate32 => self.map_narrow(d, a, mask, u32::wrapping_neg),
            N1::Negate16 => self.map_narrow(d, a, mask, |a| a.wrapping_neg() & 0xffff),
            N1::Abs32 => self.map_narrow(d, a, mask, |a| (a as i32).wrapping_abs() as u32),
            N1::Abs16 => self.map_narrow(d, a, mask, |a| low16(signed16(a).abs())),
            N1::ReverseBits => self.map_narrow(d, a, mask, u32::reverse_bits),
            N1::LeadingZeros => self.map_narrow(d, a, mask, u32::leading_zeros),
            N1::PopulationCount => self.map_narrow(d, a, mask, u32::count_ones),
            N1::FindLeadU32 => self.map_narrow(d, a, mask, |a| 31u32.wrapping_sub(a.leading_zeros())),
            N1::FindLeadS32 => self.map_narrow(d, a, mask, |a| {
                31u32.wrapping_sub((a ^ ((a as i32) >> 31) as u32).leading_zeros())
            }),
        }
    }

    #[inline(always)]
    fn narrow_binary(&mut self, operation: N2, d: Slot, a: Slot, b: Slot, mask: u32) {
        macro_rules! map {
            ($f:expr) => {
                self.map_narrow2(d, a, b, mask, $f)
            };
        }
        match operation {
            N2::Add32 => map!(u32::wrapping_add),
            N2::Add16 => map!(|a, b| a.wrapping_add(b) & 0xffff),
            N2::Sub32 => map!(u32::wrapping_sub),
            N2::Sub16 => map!(|a, b| a.wrapping_sub(b) & 0xffff),
            N2::MulLow32 => map!(u32::wrapping_mul),
            N2::MulLow16 => map!(|a, b| a.wrapping_mul(b) & 0xffff),
            N2::MulHighS32 => map!(|a, b| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32),
            N2::MulHighU32 => map!(|a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32),
            N2::MulHighS16 => map!(|a, b| low16((signed16(a) * signed16(b)) >> 16)),
            N2::MulHighU16 => map!(|a, b| (a & 0xffff).wrapping_mul(b & 0xffff) >> 16),
            N2::MulWideS16 => map!(|a, b| (signed16(a) * signed16(b)) as u32),
            N2::MulWideU16 => map!(|a, b| (a & 0xffff).wrapping_mul(b & 0xffff)),
            // By zero the hardware gives all ones, and the remainder is the dividend.
            N2::DivS32 => {
                map!(|a, b| if b == 0 { u32::MAX } else { (a as i32).wrapping_div(b as i32) as u32 })
            }
            N2::DivU32 => map!(|a, b| a.checked_div(b).unwrap_or(u32::MAX)),
            N2::DivS16 => map!(|a, b| if b == 0 { 0xffff } else { low16(signed16(a) / signed16(b)) }),
            N2::DivU16 => map!(|a, b| a.checked_div(b).unwrap_or(0xffff)),
            N2::RemS32 => map!(|a, b| if b == 0 { a } else { (a as i32).wrapping_rem(b as i32) as u32 }),
            N2::RemU32 => map!(|a, b| a.checked_rem(b).unwrap_or(a)),
            N2::RemS16 => map!(|a, b| if b == 0 { a } else { low16(signed16(a) % signed16(b)) }),
            N2::RemU16 => map!(|a, b| a.checked_rem(b).unwrap_or(a)),
            N2::MinS32 => map!(|a, b| (a as i32).min(b as i32) as u32),
            N2::MinU32 | N2::MinU16 => map!(u32::min),
            N2::MinS16 => map!(|a, b| low16(signed16(a).min(signed16(b)))),
            N2::MaxS32 => map!(|a, b| (a as i32).max(b as i32) as u32),
            N2::MaxU32 | N2::MaxU16 => map!(u32::max),
            N2::MaxS16 => map!(|a, b| low16(signed16(a).max(signed16(b)))),
            N2::And => map!(|a, b| a & b),
            N2::Or => map!(|a, b| a | b),
            N2::Xor => map!(|a, b| a ^ b),
            N2::Shl32 => map!(|a, b| if b < 32 { a << (b & 31) } else { 0 }),
            N2::Shl16 => map!(|a, b| if b < 16 { a << (b & 15) & 0xffff } else { 0 }),
            N2::ShrU32 => map!(|a, b| if b < 32 { a >> (b & 31) } else { 0 }),
            N2::ShrS32 => map!(|a, b| ((a as i32) >> b.min(31)) as u32),
            N2::ShrS16 => map!(|a, b| low16(signed16(a) >> b.min(15))),
            N2::AddSatS32 => map!(|a, b| (a as i32).saturating_add(b as i32) as u32),
            N2::SubSatS32 => map!(|a, b| (a as i32).saturating_sub(b as i32) as u32),
        }
    }

    #[inline(always)]
    fn narrow_ternary(&mut self, operation: N3, d: Slot, sources: [Slot; 3], mask: u32) {
        macro_rules! map {
            ($f:expr) => {
                self.map_narrow3(d, sources, mask, $f)
            };
        }
        match operation {
            N3::MadLow32 => map!(|a, b, c| a.wrapping_mul(b).wrapping_add(c)),
            N3::MadLow16 => map!(|a, b, c| a.wrapping_mul(b).wrapping_add(c) & 0xffff),
            N3::MadHighS32 => {
                map!(|a, b, c| (((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32).wrapping_add(c))
            }
            N3::MadHighU32 => map!(|a, b, c| (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c)),
            N3::MadWideS16 => map!(|a, b, c| ((signed16(a) * signed16(b)) as u32).wrapping_add(c)),
            N3::MadWideU16 => map!(|a, b, c| (a & 0xffff).wrapping_mul(b & 0xffff).wrapping_add(c)),
            N3::SadS32 => map!(|a, b, c| (a as i32).abs_diff(b as i32).wrapping_add(c)),
            N3::SadU32 => map!(|a, b, c| a.abs_diff(b).wrapping_add(c)),
            N3::ShiftLeftClamp => map!(|a, b, c| ((pair(b, a) << c.min(32)) >> 32) as u32),
            N3::ShiftLeftWrap => map!(|a, b, c| ((pair(b, a) << (c & 31)) >> 32) as u32),
            N3::ShiftRightClamp => map!(|a, b, c| (pair(b, a) >> c.min(32)) as u32),
            N3::ShiftRightWrap => map!(|a, b, c| (pair(b, a) >> (c & 31)) as u32),
            N3::ExtractU32 => map!(|a, b, c| extract(u64::from(a), b, c, 32, false) as u32),
            N3::ExtractS32 => map!(|a, b, c| extract(u64::from(a), b, c, 32, true) as u32),
            N3::Permute => map!(|a, b, c| permute(a, b, [c, c >> 4, c >> 8, c >> 12])),
            N3::PermuteForward4 => {
                map!(|a, b, c| permute(a, b, [0, 1, 2, 3].map(|byte| (byte + (c & 3)) & 7)))
            }
            N3::PermuteBackward4 => {
                map!(|a, b, c| permute(a, b, [0, 1, 2, 3].map(|byte| (c & 3).wrapping_sub(byte) & 7)))
            }
            N3::PermuteReplicate8 => map!(|a, b, c| permute(a, b, [c & 3; 4])),
            N3::PermuteEdgeLeft => map!(|a, b, c| permute(a, b, [0, 1, 2, 3].map(|byte| byte.max(c & 3)))),
            N3::PermuteEdgeRight => map!(|a, b, c| permute(a, b, [0, 1, 2, 3].map(|byte| byte.min(c & 3)))),
            N3::PermuteReplicate16 => {
                map!(|a, b, c| permute(a, b, [0, 1, 0, 1].map(|byte| byte + (c & 1) * 2)))
            }
            N3::Logic(table) => {
                map!(|a, b, c| truth_table(table, u64::from(a), u64::from(b), u64::from(c)) as u32)
            }
            N3::DotBytes(a_signed, b_signed) => map!(|a, b, c| {
                (0..4).fold(c, |sum, at| {
                    sum.wrapping_add((byte(a, at, a_signed) * byte(b, at, b_signed)) as u32)
                })
            }),
            N3::DotHalves(a_signed, b_signed, upper) => map!(|a, b, c| {
                let half = |at: u32| {
                    let half = a >> (16 * at);
                    if a_signed { signed16(half) } else { (half & 0xffff) as i32 }
                };
                (0..2).fold(c, |sum, at| {
                    let byte = byte(b, 2 * u32::from(upper) + at, b_signed);
                    sum.wrapping_add((half(at) * byte) as u32)
                })
            }),
        }
    }

    #[inline(always)]
    fn wide_binary(&mut self, operation: W2, d: Slot, a: Slot, b: Slot, mask: u32) {
        macro_rules! map {
            ($f:expr) => {
                self.map_wide2(d, a, b, mask, $f)
            };
        }
        match operation {
            W2::Add => map!(u64::wrapping_add),
            W2::Sub => map!(u64::wrapping_sub),
            W2::MulLow => map!(u64::wrapping_mul),
            W2::MulHighS => map!(high_s64),
            W2::MulHighU => map!(high_u64),
            W2::DivS => map!(|a, b| if b == 0 { u64::MAX } else { (a as i64).wrapping_div(b as i64) as u64 }),
            W2::DivU => map!(|a, b| a.checked_div(b).unwrap_or(u64::MAX)),
            W2::RemS => map!(|a, b| if b == 0 { a } else { (a as i64).wrapping_rem(b as i64) as u64 }),
            W2::RemU => map!(|a, b| a.checked_rem(b).unwrap_or(a)),
            W2::MinS => map!(|a, b| (a as i64).min(b as i64) as u64),
            W2::MinU => map!(u64::min),
            W2::MaxS => map!(|a, b| (a as i64).max(b as i64) as u64),
            W2::MaxU => map!(u64::max),
            W2::And => map!(|a, b| a & b),
            W2::Or => map!(|a, b| a | b),
            W2::Xor => map!(|a, b| a ^ b),
        }
    }
}

pub(super) fn combine_logic(logic: Logic, a: u32, b: u32) -> u32 {
    match logic {
        Logic::And => a & b,
        Logic::Or => a | b,
        Logic::Xor => a ^ b,
    }
}

fn pair(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn canonical64(value: f64) -> u64 {
    if value.is_nan() { 0x7fff_ffff_ffff_ffff } else { value.to_bits() }
}

fn wide_product(signed: bool, a: u32, b: u32) -> u64 {
    if signed { (i64::from(a as i32) * i64::from(b as i32)) as u64 } else { u64::from(a) * u64::from(b) }
}

fn high_s64(a: u64, b: u64) -> u64 {
    ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64
}

fn high_u64(a: u64, b: u64) -> u64 {
    ((u128::from(a) * u128::from(b)) >> 64) as u64
}

#[inline(always)]
fn truth_table(table: u8, a: u64, b: u64, c: u64) -> u64 {
    // Bit i of the table is the result for a, b, c being bits 2, 1, 0 of i.
    let mut result = 0;
    for row in 0..8 {
        if table >> row & 1 != 0 {
            let pick = |value: u64, bit: u32| if row >> bit & 1 != 0 { value } else { !value };
            result |= pick(a, 2) & pick(b, 1) & pick(c, 0);
        }
    }
    result
}

/// A byte of a number, the lowest first.
#[inline(always)]
fn byte(value: u32, at: u32, signed: bool) -> i32 {
    let byte = (value >> (8 * at)) as u8;
    if signed { i32::from(byte as i8) } else { i32::from(byte) }
}

/// `length` ones from `position` on; both as bfi takes them, by their low bytes.
fn field_mask(position: u32, length: u32) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    let ones = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
    ones.checked_shl(position).unwrap_or(0)
}

#[inline(always)]
fn extract(value: u64, position: u32, length: u32, bits: u32, signed: bool) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    if length == 0 {
        return 0;
    }
    let ones = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
    let mut field = if position < 64 { value >> position } else { 0 } & ones;
    if signed {
        // Beyond the top, the sign bit of the field is that of the value.
        let sign_at = (position + length - 1).min(bits - 1);
        if value >> sign_at & 1 != 0 {
            let present = bits.saturating_sub(position).min(length);
            field |= if present >= 64 { 0 } else { u64::MAX << present };
        }
    }
    field
}

#[inline(always)]
fn permute(a: u32, b: u32, selectors: [u32; 4]) -> u32 {
    let bytes = pair(b, a);
    let mut result = 0;
    for (at, selector) in selectors.into_iter().enumerate() {
        let byte = (bytes >> (8 * (selector & 7))) as u8;
        // Bit 3 of a selector spreads the sign of its byte.
        let byte = if selector & 8 != 0 { ((byte as i8) >> 7) as u8 } else { byte };
        result |= u32::from(byte) << (8 * at);
    }
    result
}
