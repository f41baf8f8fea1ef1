//! Formats of floating-point numbers, and rounding between them bit by bit.

use crate::program::{HalfFormat, Rounding};

/// NVIDIA's result for every operation without a number as its result.
pub(crate) const NAN32: u32 = 0x7fff_ffff;

/// A binary format: bits of the fraction, bias of the exponent, its greatest value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    fraction: u32,
    /// Exponent of the smallest normal number.
    minimum: i32,
    /// Exponent of the greatest finite number.
    maximum: i32,
    nan: u32,
}

pub(crate) const FLOAT16: Format = Format { fraction: 10, minimum: -14, maximum: 15, nan: 0x7fff };
pub(crate) const BFLOAT16: Format = Format { fraction: 7, minimum: -126, maximum: 127, nan: 0x7fff };
pub(crate) const FLOAT32: Format = Format { fraction: 23, minimum: -126, maximum: 127, nan: NAN32 };
pub(crate) const TENSOR_FLOAT32: Format = Format { fraction: 10, minimum: -126, maximum: 127, nan: 0x3ffff };

impl Format {
    pub fn of(format: HalfFormat) -> Self {
        match format {
            HalfFormat::Float16 => FLOAT16,
            HalfFormat::BFloat16 => BFLOAT16,
        }
    }

    /// The bits of `value` in this format.
    pub fn round(self, value: f64, rounding: Rounding) -> u32 {
        let bits = value.to_bits();
        let width = if self.maximum == 15 { 5 } else { 8 };
        let sign = ((bits >> 63) as u32) << (self.fraction + width);
        if value.is_nan() {
            return self.nan;
        }
        let infinity = ((1 << width) - 1) << self.fraction;
        if value.is_infinite() {
            return sign | infinity;
        }
        let negative = bits >> 63 != 0;
        let exponent = (bits >> 52 & 0x7ff) as i32 - 1023;
        if bits << 1 == 0 {
            return sign;
        }
        // Bits that are dropped from the 52 of the fraction, more for subnormal results.
        let subnormal = (self.minimum - exponent).max(0) as u32;
        let drop = 52 - self.fraction + subnormal;
        let mantissa = bits & ((1 << 52) - 1) | if exponent == -1023 { 0 } else { 1 << 52 };
        let (kept, rest, half) = if drop > 60 {
            (0, mantissa.max(1), u64::MAX)
        } else {
            (mantissa >> drop, mantissa & ((1 << drop) - 1), 1 << (drop - 1))
        };
        let up = match rounding {
            Rounding::Nearest => rest > half || (rest == half && kept & 1 == 1),
            Rounding::NearestAway => rest >= half,
            Rounding::Zero => false,
            Rounding::Down => negative && rest != 0,
            Rounding::Up => !negative && rest != 0,
        };
        let kept = kept as u32 + u32::from(up);
        // A carry out of the fraction raises the exponent by itself, from subnormal to normal as well.
        let biased = if subnormal > 0 { 0 } else { (exponent.min(self.maximum + 1) - self.minimum) as u32 };
        let result = (biased << self.fraction) + kept;
        if result >= infinity {
            let finite = match rounding {
                Rounding::Zero => true,
                Rounding::Down => !negative,
                Rounding::Up => negative,
                _ => false,
            };
            return sign | if finite { infinity - 1 } else { infinity };
        }
        sign | result
    }
}

/// The value of an f16.
#[inline(always)]
pub(crate) fn float16(bits: u32) -> f32 {
    let sign = (bits & 0x8000) << 16;
    let magnitude = bits & 0x7fff;
    // Shifted into place, the exponent is too small by 112, which a product mends, for subnormals as well.
    let scaled = f32::from_bits(magnitude << 13) * f32::from_bits((127 + 112) << 23);
    let special = f32::from_bits(0x7f80_0000 | (magnitude << 13 & 0x007f_ffff));
    let value = if magnitude >= 0x7c00 { special } else { scaled };
    f32::from_bits(value.to_bits() | sign)
}

#[inline(always)]
pub(crate) fn bfloat16(bits: u32) -> f32 {
    f32::from_bits(bits << 16)
}

#[inline(always)]
pub(crate) fn half(format: HalfFormat, bits: u32) -> f32 {
    match format {
        HalfFormat::Float16 => float16(bits & 0xffff),
        HalfFormat::BFloat16 => bfloat16(bits),
    }
}

/// The nearest bf16, ties to even.
#[inline(always)]
pub(crate) fn to_bfloat16(value: f32) -> u32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if bits & 0x7fff_ffff > 0x7f80_0000 { 0x7fff } else { rounded }
}

#[inline(always)]
pub(crate) fn flush(bits: u32) -> u32 {
    if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits }
}

#[inline(always)]
pub(crate) fn canonical(value: f32) -> u32 {
    if value.is_nan() { NAN32 } else { value.to_bits() }
}

/// `high + low` in f32 by a directed rounding; `low` is the error of `high`.
pub(crate) fn directed(high: f64, low: f64, rounding: Rounding) -> f32 {
    if low == 0.0 || !high.is_finite() {
        let near = high as f32;
        let exact = f64::from(near) == high && near != 0.0;
        return if exact { near } else { f32::from_bits(FLOAT32.round(high, rounding)) };
    }
    // One bit below the 53 that are there is enough to say on which side of a representable value the sum lies.
    let toward = if (low > 0.0) == (high > 0.0) { high } else { f64::from_bits(high.to_bits() - 1) };
    let sticky = f64::from_bits(toward.to_bits() | 1);
    f32::from_bits(FLOAT32.round(sticky, rounding))
}

/// The sum of two f64 and its error.
pub(crate) fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let b_virtual = sum - a;
    let error = (a - (sum - b_virtual)) + (b - b_virtual);
    (sum, if error.is_nan() { 0.0 } else { error })
}

/// min and max of PTX: a number beats NaN, and -0 is below +0.
#[inline(always)]
pub(crate) fn minimum(a: f32, b: f32) -> f32 {
    let zeros = f32::from_bits(a.to_bits() | b.to_bits());
    let equal = if a == b { zeros } else { b };
    let number = if a < b { a } else { equal };
    if b.is_nan() { a } else { number }
}

#[inline(always)]
pub(crate) fn maximum(a: f32, b: f32) -> f32 {
    let zeros = f32::from_bits(a.to_bits() & b.to_bits());
    let equal = if a == b { zeros } else { b };
    let number = if a > b { a } else { equal };
    if b.is_nan() { a } else { number }
}

/// 2 to the power of `x`, with a relative error below 2^-22, as ex2.approx promises.
#[inline(always)]
pub(crate) fn exp2(x: f32) -> f32 {
    let clamped = if x > 130.0 { 130.0 } else { x };
    let clamped = if clamped < -160.0 { -160.0 } else { clamped };
    let whole = (clamped + 0.5).floor();
    let f = clamped - whole;
    // Taylor series of 2^f for |f| <= 1/2: ln(2)^k / k!.
    let mut p = 1.525_273_4e-5f32;
    for c in
        [1.540_353e-4, 1.333_355_8e-3, 9.618_129e-3, 5.550_411e-2, 0.240_226_5, std::f32::consts::LN_2, 1.0]
    {
        p = p.mul_add(f, c);
    }
    // In two factors, since the power itself may be out of range where the product is not.
    let whole = if whole.is_nan() { 0.0 } else { whole } as i32;
    let half = whole >> 1;
    let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
    let result = p * power(half) * power(whole - half);
    if x.is_nan() { f32::from_bits(NAN32) } else { result }
}

/// The logarithm to base 2, with an absolute error below 2^-22 near 1 and a relative one elsewhere.
#[inline(always)]
pub(crate) fn log2(x: f32) -> f32 {
    // Subnormal numbers are scaled first.
    let small = x < f32::MIN_POSITIVE;
    let scaled = if small { x * 16_777_216.0 } else { x };
    let bits = scaled.to_bits();
    // The mantissa goes to [sqrt(1/2), sqrt(2)).
    let shifted = bits.wrapping_sub(0x3f35_04f3);
    let exponent = (shifted as i32) >> 23;
    let mantissa = f32::from_bits((shifted & 0x007f_ffff).wrapping_add(0x3f35_04f3));
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let s2 = s * s;
    let mut p = 0.320_598_9_f32;
    for c in [0.412_198_6, 0.577_078, 0.961_796_7, 2.885_39] {
        p = p.mul_add(s2, c);
    }
    let result = p.mul_add(s, exponent as f32 - if small { 24.0 } else { 0.0 });
    let result = if x == 0.0 { f32::NEG_INFINITY } else { result };
    let result = if x == f32::INFINITY { f32::INFINITY } else { result };
    if x < 0.0 || x.is_nan() { f32::from_bits(NAN32) } else { result }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_formats_agree_with_the_half_crate() {
        for bits in 0..=u16::MAX {
            let (a, b) = (half::f16::from_bits(bits), half::bf16::from_bits(bits));
            if a.is_nan() {
                assert!(float16(bits.into()).is_nan());
            } else {
                assert_eq!(float16(bits.into()).to_bits(), a.to_f32().to_bits(), "{bits:#x}");
                assert_eq!(FLOAT16.round(a.to_f64(), Rounding::Nearest), u32::from(bits));
            }
            if !b.is_nan() {
                assert_eq!(BFLOAT16.round(b.to_f64(), Rounding::Zero), u32::from(bits));
            }
        }
        let mut random = 1u32;
        for _ in 0..200_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = f32::from_bits(random);
            if value.is_nan() {
                continue;
            }
            let (a, b) = (half::f16::from_f32(value), half::bf16::from_f32(value));
            assert_eq!(FLOAT16.round(value.into(), Rounding::Nearest), u32::from(a.to_bits()), "{value:e}");
            assert_eq!(BFLOAT16.round(value.into(), Rounding::Nearest), u32::from(b.to_bits()), "{value:e}");
            assert_eq!(to_bfloat16(value), u32::from(b.to_bits()), "{value:e}");
            assert_eq!(FLOAT32.round(value.into(), Rounding::Nearest), value.to_bits(), "{value:e}");
        }
    }

    #[test]
    fn directed_roundings_enclose_the_value() {
        let mut random = 7u64;
        for _ in 0..100_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let value =
                f64::from_bits((random >> 4 & 0x800f_ffff_ffff_ffff) | (1023 - 40 + random % 80) << 52);
            for format in [FLOAT16, BFLOAT16, FLOAT32] {
                let back = |bits: u32| match format {
                    FLOAT16 => f64::from(float16(bits)),
                    BFLOAT16 => f64::from(bfloat16(bits)),
                    _ => f64::from(f32::from_bits(bits)),
                };
                let [down, up, zero, near] =
                    [Rounding::Down, Rounding::Up, Rounding::Zero, Rounding::Nearest]
                        .map(|rounding| back(format.round(value, rounding)));
                assert!(down <= value && value <= up, "{value:e}: {down:e} {up:e}");
                assert!(zero.abs() <= value.abs() && (near == down || near == up));
                if format == FLOAT32 {
                    assert_eq!(near as f32, value as f32);
                }
            }
        }
    }

    #[test]
    fn functions_keep_their_promised_errors() {
        for step in 0..400_000 {
            let x = -140.0 + step as f32 * 0.0007;
            let (got, want) = (f64::from(exp2(x)), f64::from(x).exp2());
            if (-126.0..128.0).contains(&x) {
                assert!((got - want).abs() <= want * 2f64.powi(-22), "{x}: {got:e} {want:e}");
            }
            let y = f32::from_bits(step * 5_000 + 1);
            let (got, want) = (f64::from(log2(y)), f64::from(y).log2());
            assert!(
                (got - want).abs() <= (want.abs() * 2f64.powi(-22)).max(2f64.powi(-22)),
                "{y:e}: {got} {want}"
            );
        }
        assert_eq!(exp2(0.0), 1.0);
        assert_eq!(exp2(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp2(f32::INFINITY), f32::INFINITY);
        assert!(exp2(f32::NAN).is_nan() && log2(-1.0).is_nan());
        assert_eq!((log2(1.0), log2(0.0), log2(8.0)), (0.0, f32::NEG_INFINITY, 3.0));
    }
}
