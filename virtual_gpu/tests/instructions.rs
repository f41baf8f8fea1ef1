//! Single instructions, in PTX written by hand, against what they mean. Needs no compiler.

// Loops over lanes name the lane in every array that they touch.
#![allow(clippy::needless_range_loop)]

mod common;

use common::single::{COUNT, operands, run};
use diptych_virtual_gpu::Target;

fn check(text: &str, result: &str, want: impl Fn(u64, u64, u64) -> u64) {
    let got = run(text, result);
    let [a, b, c] = [operands(1), operands(2), operands(3)];
    for at in 0..COUNT {
        let want = want(a[at], b[at], c[at]);
        assert_eq!(
            got[at], want,
            "{text} of {:#x}, {:#x}, {:#x}: {:#x}, not {want:#x}",
            a[at], b[at], c[at], got[at]
        );
    }
}

/// 32-bit integers.
fn narrow(text: &str, want: impl Fn(u32, u32, u32) -> u32) {
    check(text, "%rd", |a, b, c| want(a as u32, b as u32, c as u32).into());
}

/// f32; all NaN are one.
fn float(text: &str, want: impl Fn(f32, f32, f32) -> f32) {
    narrow(text, |a, b, c| {
        let value = want(f32::from_bits(a), f32::from_bits(b), f32::from_bits(c));
        if value.is_nan() { 0x7fff_ffff } else { value.to_bits() }
    });
}

#[test]
fn integers_of_32_bits() {
    narrow("add.s32 %rd, %ra, %rb;", |a, b, _| a.wrapping_add(b));
    narrow("sub.s32 %rd, %ra, 7;", |a, _, _| a.wrapping_sub(7));
    narrow("sub.s32 %rd, -1, %ra;", |a, _, _| u32::MAX.wrapping_sub(a));
    narrow("mul.lo.s32 %rd, %ra, %rb;", |a, b, _| a.wrapping_mul(b));
    narrow("mul.hi.s32 %rd, %ra, %rb;", |a, b, _| ((a as i32 as i64 * b as i32 as i64) >> 32) as u32);
    narrow("mul.hi.u32 %rd, %ra, %rb;", |a, b, _| ((a as u64 * b as u64) >> 32) as u32);
    narrow("mad.lo.s32 %rd, %ra, %rb, %rc;", |a, b, c| a.wrapping_mul(b).wrapping_add(c));
    narrow("mad.hi.u32 %rd, %ra, %rb, %rc;", |a, b, c| {
        (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c)
    });
    narrow("div.s32 %rd, %ra, %rb;", |a, b, _| {
        if b == 0 { u32::MAX } else { (a as i32).wrapping_div(b as i32) as u32 }
    });
    narrow("rem.u32 %rd, %ra, %rb;", |a, b, _| if b == 0 { a } else { a % b });
    narrow("min.s32 %rd, %ra, %rb;", |a, b, _| (a as i32).min(b as i32) as u32);
    narrow("max.u32 %rd, %ra, %rb;", |a, b, _| a.max(b));
    narrow("abs.s32 %rd, %ra;", |a, _, _| (a as i32).unsigned_abs());
    narrow("neg.s32 %rd, %ra;", |a, _, _| a.wrapping_neg());
    narrow("and.b32 %rd, %ra, %rb; or.b32 %rd, %rd, %rc; not.b32 %rd, %rd;", |a, b, c| !(a & b | c));
    narrow("xor.b32 %rd, %ra, %rb;", |a, b, _| a ^ b);
    narrow("shl.b32 %rd, %ra, %rb;", |a, b, _| a.checked_shl(b).unwrap_or(0));
    narrow("shr.u32 %rd, %ra, %rb;", |a, b, _| a.checked_shr(b).unwrap_or(0));
    narrow("shr.s32 %rd, %ra, %rb;", |a, b, _| ((a as i32) >> b.min(31)) as u32);
    narrow("shf.l.wrap.b32 %rd, %ra, %rb, %rc;", |a, b, c| {
        ((u64::from(b) << 32 | u64::from(a)) << (c & 31) >> 32) as u32
    });
    narrow("shf.r.clamp.b32 %rd, %ra, %rb, %rc;", |a, b, c| {
        ((u64::from(b) << 32 | u64::from(a)) >> c.min(32)) as u32
    });
    narrow("popc.b32 %rd, %ra;", |a, _, _| a.count_ones());
    narrow("clz.b32 %rd, %ra;", |a, _, _| a.leading_zeros());
    narrow("brev.b32 %rd, %ra;", |a, _, _| a.reverse_bits());
    narrow("bfind.u32 %rd, %ra;", |a, _, _| a.checked_ilog2().unwrap_or(u32::MAX));
    narrow("bfe.u32 %rd, %ra, 5, 11;", |a, _, _| a >> 5 & 0x7ff);
    narrow("bfe.s32 %rd, %ra, 20, 11;", |a, _, _| ((a << 1) as i32 >> 21) as u32);
    narrow("bfe.s32 %rd, %ra, 24, 16;", |a, _, _| (a as i32 >> 24) as u32);
    narrow("bfi.b32 %rd, %ra, %rb, 12, 8;", |a, b, _| b & !0xff000 | (a & 0xff) << 12);
    narrow("prmt.b32 %rd, %ra, %rb, 0x5410;", |a, b, _| a & 0xffff | b << 16);
    narrow("prmt.b32 %rd, %ra, %rb, 0x0b76;", |a, b, _| {
        let sign = if a >> 31 != 0 { 0xff } else { 0 };
        (b >> 16 & 0xff) | (b >> 24) << 8 | sign << 16 | (a & 0xff) << 24
    });
    narrow("lop3.b32 %rd, %ra, %rb, %rc, 0xca;", |a, b, c| a & b | !a & c);
    narrow("lop3.b32 %rd, %ra, %rb, %rc, 0x96;", |a, b, c| a ^ b ^ c);
    narrow("dp4a.s32.u32 %rd, %ra, %rb, %rc;", |a, b, c| {
        let sum: i32 =
            (0..4).map(|i| i32::from((a >> (8 * i)) as i8) * i32::from((b >> (8 * i)) as u8)).sum();
        (sum as u32).wrapping_add(c)
    });
    narrow("dp2a.lo.u32.u32 %rd, %ra, %rb, %rc;", |a, b, c| {
        ((a & 0xffff) * (b & 0xff)).wrapping_add((a >> 16) * (b >> 8 & 0xff)).wrapping_add(c)
    });
    narrow("dp2a.hi.s32.u32 %rd, %ra, %rb, %rc;", |a, b, c| {
        let product = |half: u32, byte: u32| i32::from(half as i16) * byte as i32;
        let sum = product(a, b >> 16 & 0xff) + product(a >> 16, b >> 24);
        (sum as u32).wrapping_add(c)
    });
    narrow("sad.s32 %rd, %ra, %rb, %rc;", |a, b, c| (a as i32).abs_diff(b as i32).wrapping_add(c));
    narrow("selp.b32 %rd, %ra, 5, %p;", |a, _, c| if c & 1 != 0 { a } else { 5 });
    narrow("@%p add.s32 %rd, %ra, 1; @!%p add.s32 %rd, %rb, 2;", |a, b, c| {
        if c & 1 != 0 { a.wrapping_add(1) } else { b.wrapping_add(2) }
    });
}

#[test]
fn integers_of_16_and_64_bits() {
    let half = |text: &str, want: fn(u16, u16, u16) -> u16| {
        check(text, "%hd", |a, b, c| want(a as u16, b as u16, c as u16).into());
    };
    half("add.s16 %hd, %ha, %hb;", |a, b, _| a.wrapping_add(b));
    half("add.s16 %hd, %ha, -3;", |a, _, _| a.wrapping_sub(3));
    half("mul.lo.s16 %hd, %ha, %hb;", |a, b, _| a.wrapping_mul(b));
    half("min.s16 %hd, %ha, %hb;", |a, b, _| (a as i16).min(b as i16) as u16);
    half("shr.s16 %hd, %ha, 3;", |a, _, _| (a as i16 >> 3) as u16);
    half("shl.b16 %hd, %ha, 9;", |a, _, _| a << 9);
    half("not.b16 %hd, %ha; xor.b16 %hd, %hd, 0xff;", |a, _, _| !a ^ 0xff);
    narrow("mul.wide.s16 %rd, %ha, %hb;", |a, b, _| (i32::from(a as i16) * i32::from(b as i16)) as u32);
    check("mul.wide.s32 %d, %ra, %rb;", "%d", |a, b, _| (i64::from(a as i32) * i64::from(b as i32)) as u64);
    check("mad.wide.u32 %d, %ra, %rb, %c;", "%d", |a, b, c| {
        (u64::from(a as u32) * u64::from(b as u32)).wrapping_add(c)
    });
    check("add.s64 %d, %a, %b;", "%d", |a, b, _| a.wrapping_add(b));
    check("mul.lo.s64 %d, %a, %b;", "%d", |a, b, _| a.wrapping_mul(b));
    check("mul.hi.u64 %d, %a, %b;", "%d", |a, b, _| ((u128::from(a) * u128::from(b)) >> 64) as u64);
    check("mul.hi.s64 %d, %a, %b;", "%d", |a, b, _| ((a as i64 as i128 * b as i64 as i128) >> 64) as u64);
    check("div.u64 %d, %a, %b;", "%d", |a, b, _| a.checked_div(b).unwrap_or(u64::MAX));
    check(
        "rem.s64 %d, %a, %b;",
        "%d",
        |a, b, _| {
            if b == 0 { a } else { (a as i64).wrapping_rem(b as i64) as u64 }
        },
    );
    check("shl.b64 %d, %a, %rb;", "%d", |a, b, _| a.checked_shl(b as u32).unwrap_or(0));
    check("shr.s64 %d, %a, %rb;", "%d", |a, b, _| (a as i64 >> (b as u32).min(63)) as u64);
    check("clz.b64 %rd, %a;", "%rd", |a, _, _| a.leading_zeros().into());
    check("popc.b64 %rd, %a;", "%rd", |a, _, _| a.count_ones().into());
    check("bfe.u64 %d, %a, 40, 20;", "%d", |a, _, _| a >> 40 & 0xf_ffff);
    check("bfi.b64 %d, %a, %b, 33, 9;", "%d", |a, b, _| b & !(0x1ff << 33) | (a & 0x1ff) << 33);
    check("mov.b64 %d, {%ra, %rb};", "%d", |a, b, _| a & 0xffff_ffff | b << 32);
    check("mov.b64 {%re, %rd}, %a;", "%rd", |a, _, _| a >> 32);
    check("mov.b32 %rd, {%ha, %hb};", "%rd", |a, b, _| a & 0xffff | (b & 0xffff) << 16);
    check("mov.b32 {%he, %hd}, %ra;", "%hd", |a, _, _| a >> 16 & 0xffff);
}

#[test]
fn comparisons() {
    let predicate = |text: &str, want: fn(u64, u64, u64) -> bool| {
        check(text, "%pd", |a, b, c| want(a, b, c).into());
    };
    predicate("setp.lt.s32 %pd, %ra, %rb;", |a, b, _| (a as i32) < b as i32);
    predicate("setp.lo.u32 %pd, %ra, %rb;", |a, b, _| (a as u32) < b as u32);
    predicate("setp.ge.u64 %pd, %a, %b;", |a, b, _| a >= b);
    predicate("setp.gt.s16 %pd, %ha, %hb;", |a, b, _| a as i16 > b as i16);
    predicate("setp.eq.and.s32 %pd, %ra, %rb, %p;", |a, b, c| a as u32 == b as u32 && c & 1 != 0);
    predicate("setp.ne.or.s32 %pd, %ra, %rb, !%p;", |a, b, c| a as u32 != b as u32 || c & 1 == 0);
    predicate("setp.lt.xor.s32 %q|%pd, %ra, %rb, %p;", |a, b, c| (a as i32 >= b as i32) ^ (c & 1 != 0));
    let f = |a: u64| f32::from_bits(a as u32);
    predicate("setp.lt.f32 %pd, %ra, %rb;", |a, b, _| f32::from_bits(a as u32) < f32::from_bits(b as u32));
    predicate("setp.ne.f32 %pd, %ra, %rb;", |a, b, _| {
        let (a, b) = (f32::from_bits(a as u32), f32::from_bits(b as u32));
        a != b && !a.is_nan() && !b.is_nan()
    });
    check("setp.geu.f32 %pd, %ra, %rb;", "%pd", |a, b, _| {
        (f(a) >= f(b) || f(a).is_nan() || f(b).is_nan()).into()
    });
    check("setp.nan.f32 %pd, %ra, %rb;", "%pd", |a, b, _| (f(a).is_nan() || f(b).is_nan()).into());
    check("setp.num.f64 %pd, %a, %b;", "%pd", |a, b, _| {
        (!f64::from_bits(a).is_nan() && !f64::from_bits(b).is_nan()).into()
    });
    check("testp.finite.f32 %pd, %ra;", "%pd", |a, _, _| f(a).is_finite().into());
    predicate("and.pred %pd, %p, %p; not.pred %pd, %pd;", |_, _, c| c & 1 == 0);
}

#[test]
fn floats() {
    float("add.f32 %rd, %ra, %rb;", |a, b, _| a + b);
    float("sub.rn.f32 %rd, %ra, %rb;", |a, b, _| a - b);
    float("mul.rn.f32 %rd, %ra, 0f40490FDB;", |a, _, _| a * std::f32::consts::PI);
    float("fma.rn.f32 %rd, %ra, %rb, %rc;", f32::mul_add);
    float("div.rn.f32 %rd, %ra, %rb;", |a, b, _| a / b);
    float("sqrt.rn.f32 %rd, %ra;", |a, _, _| a.sqrt());
    float("rcp.rn.f32 %rd, %ra;", |a, _, _| 1.0 / a);
    let flush = |x: f32| if x.is_subnormal() { 0.0f32.copysign(x) } else { x };
    float("mul.rn.ftz.f32 %rd, %ra, %rb;", move |a, b, _| flush(flush(a) * flush(b)));
    float("add.sat.f32 %rd, %ra, %rb;", |a, b, _| if a + b > 0.0 { (a + b).min(1.0) } else { 0.0 });
    float("min.f32 %rd, %ra, %rb;", |a, b, _| match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ if a == b => f32::from_bits(a.to_bits() | b.to_bits()),
        _ => {
            if a < b {
                a
            } else {
                b
            }
        }
    });
    float("max.NaN.f32 %rd, %ra, %rb;", |a, b, _| {
        if a.is_nan() || b.is_nan() {
            f32::NAN
        } else if a == b {
            f32::from_bits(a.to_bits() & b.to_bits())
        } else if a > b {
            a
        } else {
            b
        }
    });
    narrow("neg.f32 %rd, %ra;", |a, _, _| a ^ 0x8000_0000);
    narrow("abs.f32 %rd, %ra;", |a, _, _| a & 0x7fff_ffff);
    narrow("copysign.f32 %rd, %ra, %rb;", |a, b, _| a & 0x8000_0000 | b & 0x7fff_ffff);
    let enclose = |text: &str, below: bool| {
        let got = run(text, "%rd");
        let [a, b, c] = [operands(1), operands(2), operands(3)].map(|values| {
            values.into_iter().map(|value| f64::from(f32::from_bits(value as u32))).collect::<Vec<_>>()
        });
        for at in 0..COUNT {
            let exact = a[at] * b[at] + c[at];
            let got = f64::from(f32::from_bits(got[at] as u32));
            if exact.abs() < 1e38 && got.is_finite() {
                assert!(if below { got <= exact } else { got >= exact }, "{text}: {got:e} {exact:e}");
                assert!((got - exact).abs() <= exact.abs() * 1.3e-7 + 2e-45, "{text}: {got:e} {exact:e}");
            }
        }
    };
    enclose("fma.rm.f32 %rd, %ra, %rb, %rc;", true);
    enclose("fma.rp.f32 %rd, %ra, %rb, %rc;", false);
    check("fma.rn.f64 %d, %a, %b, %c;", "%d", |a, b, c| {
        let value = f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c));
        if value.is_nan() { 0x7fff_ffff_ffff_ffff } else { value.to_bits() }
    });
    check("div.rn.f64 %d, %a, %b;", "%d", |a, b, _| {
        let value = f64::from_bits(a) / f64::from_bits(b);
        if value.is_nan() { 0x7fff_ffff_ffff_ffff } else { value.to_bits() }
    });
}

#[test]
fn approximations_stay_within_their_errors() {
    for (text, function, error) in [
        ("ex2.approx.f32 %rd, %ra;", f64::exp2 as fn(f64) -> f64, 2.4e-7),
        ("lg2.approx.f32 %rd, %ra;", f64::log2, 2.4e-7),
        ("rsqrt.approx.f32 %rd, %ra;", |x| 1.0 / x.sqrt(), 2.4e-7),
        ("tanh.approx.f32 %rd, %ra;", f64::tanh, 5e-4),
        ("sin.approx.f32 %rd, %ra;", f64::sin, 5e-4),
    ] {
        let got = run(
            &format!("cvt.rn.f32.s32 %ra, %ra; mul.f32 %ra, %ra, 0f30800000; abs.f32 %ra, %ra; {text}"),
            "%rd",
        );
        for (at, a) in operands(1).into_iter().enumerate() {
            let x = f64::from((a as u32 as i32 as f32 * f32::from_bits(0x3080_0000)).abs());
            let (got, want) = (f64::from(f32::from_bits(got[at] as u32)), function(x));
            if want.is_finite() {
                assert!((got - want).abs() <= error * want.abs().max(1.0), "{text} of {x}: {got} {want}");
            }
        }
    }
}

#[test]
fn halves() {
    use half::{bf16, f16};
    let nan = |bits: u16, is: bool| if is { 0x7fff } else { bits };
    check("add.rn.f16 %hd, %ha, %hb;", "%hd", |a, b, _| {
        let value = f16::from_f64(f16::from_bits(a as u16).to_f64() + f16::from_bits(b as u16).to_f64());
        nan(value.to_bits(), value.is_nan()).into()
    });
    check("mul.rn.bf16 %hd, %ha, %hb;", "%hd", |a, b, _| {
        let value = bf16::from_f64(bf16::from_bits(a as u16).to_f64() * bf16::from_bits(b as u16).to_f64());
        nan(value.to_bits(), value.is_nan()).into()
    });
    check("fma.rn.bf16x2 %rd, %ra, %rb, %rc;", "%rd", |a, b, c| {
        let one = |shift: u32| {
            let part = |x: u64| bf16::from_bits((x >> shift) as u16).to_f64();
            let value = bf16::from_f64(part(a) * part(b) + part(c));
            u64::from(nan(value.to_bits(), value.is_nan()))
        };
        one(0) | one(16) << 16
    });
    check("max.f16x2 %rd, %ra, %rb;", "%rd", |a, b, _| {
        let one = |shift: u32| {
            let (x, y) = (f16::from_bits((a >> shift) as u16), f16::from_bits((b >> shift) as u16));
            let value = match (x.is_nan(), y.is_nan()) {
                (true, true) => return 0x7fff,
                (true, _) => y,
                (_, true) => x,
                _ if x == y => f16::from_bits(x.to_bits() & y.to_bits()),
                _ => {
                    if x > y {
                        x
                    } else {
                        y
                    }
                }
            };
            u64::from(value.to_bits())
        };
        one(0) | one(16) << 16
    });
    check("fma.rn.relu.bf16 %hd, %ha, %hb, %hc;", "%hd", |a, b, c| {
        let part = |x: u64| bf16::from_bits(x as u16).to_f64();
        let value = bf16::from_f64(part(a) * part(b) + part(c));
        if value.is_nan() { 0x7fff } else { u64::from(value.max(bf16::ZERO).to_bits() & 0x7fff) }
    });
    check("neg.bf16x2 %rd, %ra;", "%rd", |a, _, _| u64::from(a as u32 ^ 0x8000_8000));
}

#[test]
fn conversions() {
    use half::{bf16, f16};
    let f = |a: u64| f32::from_bits(a as u32);
    check("cvt.s64.s32 %d, %ra;", "%d", |a, _, _| a as u32 as i32 as i64 as u64);
    check("cvt.s64.s8 %d, %a;", "%d", |a, _, _| i64::from(a as i8) as u64);
    check("cvt.u64.u16 %d, %a;", "%d", |a, _, _| a & 0xffff);
    check("cvt.u32.u16 %rd, %ha;", "%rd", |a, _, _| a & 0xffff);
    check("cvt.s32.s16 %rd, %ha;", "%rd", |a, _, _| u64::from(a as u16 as i16 as i32 as u32));
    check("cvt.s32.s8 %rd, %ra;", "%rd", |a, _, _| u64::from(a as i8 as i32 as u32));
    check("cvt.sat.u8.s32 %rd, %ra;", "%rd", |a, _, _| (a as u32 as i32).clamp(0, 255) as u64);
    check("cvt.rn.f32.s32 %rd, %ra;", "%rd", |a, _, _| (a as u32 as i32 as f32).to_bits().into());
    check("cvt.rn.f32.u64 %rd, %a;", "%rd", |a, _, _| (a as f32).to_bits().into());
    check("cvt.rz.f32.u32 %rd, %ra;", "%rd", |a, _, _| {
        let near = a as u32 as f32;
        let value = if f64::from(near) > f64::from(a as u32) { near.next_down() } else { near };
        value.to_bits().into()
    });
    check("cvt.rn.f64.s64 %d, %a;", "%d", |a, _, _| (a as i64 as f64).to_bits());
    check("cvt.rzi.s32.f32 %rd, %ra;", "%rd", |a, _, _| u64::from(f(a) as i32 as u32));
    check("cvt.rni.u32.f32 %rd, %ra;", "%rd", |a, _, _| u64::from(f(a).round_ties_even() as u32));
    check("cvt.rmi.s64.f64 %d, %a;", "%d", |a, _, _| {
        let x = f64::from_bits(a);
        if x.is_nan() { 1 << 63 } else { x.floor() as i64 as u64 }
    });
    check("cvt.rmi.f32.f32 %rd, %ra;", "%rd", |a, _, _| {
        let x = f(a).floor();
        if x.is_nan() { 0x7fff_ffff } else { u64::from(x.to_bits()) }
    });
    check("cvt.rn.f32.f64 %rd, %a;", "%rd", |a, _, _| {
        let x = f64::from_bits(a) as f32;
        if x.is_nan() { 0x7fff_ffff } else { u64::from(x.to_bits()) }
    });
    check("cvt.rn.bf16.f32 %hd, %ra;", "%hd", |a, _, _| {
        let x = bf16::from_f32(f(a));
        if x.is_nan() { 0x7fff } else { u64::from(x.to_bits()) }
    });
    check("cvt.rn.f16.f32 %hd, %ra;", "%hd", |a, _, _| {
        let x = f16::from_f32(f(a));
        if x.is_nan() { 0x7fff } else { u64::from(x.to_bits()) }
    });
    check(
        "cvt.rz.bf16.f32 %hd, %ra;",
        "%hd",
        |a, _, _| if f(a).is_nan() { 0x7fff } else { a >> 16 & 0xffff },
    );
    check("cvt.f32.f16 %rd, %ha;", "%rd", |a, _, _| {
        let x = f16::from_bits(a as u16).to_f32();
        if x.is_nan() { 0x7fff_ffff } else { u64::from(x.to_bits()) }
    });
    check("cvt.rn.bf16x2.f32 %rd, %ra, %rb;", "%rd", |a, b, _| {
        let one = |x: u64| {
            let value = bf16::from_f32(f(x));
            if value.is_nan() { 0x7fff } else { u64::from(value.to_bits()) }
        };
        one(a) << 16 | one(b)
    });
    check("cvt.rn.relu.f16x2.f32 %rd, %ra, %rb;", "%rd", |a, b, _| {
        let one = |x: u64| match f(x) {
            x if x.is_nan() => 0x7fff,
            x if x > 0.0 => u64::from(f16::from_f32(x).to_bits()),
            _ => 0,
        };
        one(a) << 16 | one(b)
    });
    check("cvt.rna.tf32.f32 %rd, %ra;", "%rd", |a, _, _| {
        let bits = a as u32;
        let magnitude = bits & 0x7fff_ffff;
        if magnitude > 0x7f80_0000 {
            return 0x7fff_e000;
        }
        u64::from(
            bits & 0x8000_0000
                | if magnitude == 0x7f80_0000 { magnitude } else { (magnitude + 0x1000) & !0x1fff },
        )
    });
}

#[test]
fn what_is_not_modelled_is_refused_at_load_with_its_line() {
    let refused = |text: &str| {
        let ptx = format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k() {{\n.reg .b32 %r<4>; .reg .b64 %d<4>;\n{text}\n}}"
        );
        diptych_virtual_gpu::Device::new(Target::Sm80, 1 << 20).load(&ptx).unwrap_err().to_string()
    };
    for (text, words) in [
        ("tex.2d.v4.f32.f32 {%r0,%r0,%r0,%r0}, [%d0, {%r0,%r0}];", "line 6, kernel k: `tex.2d.v4.f32.f32`"),
        ("add.strange.s32 %r0, %r1, %r2;", "modifier `.strange`"),
        ("add.s32 %r0, %r1;", "operand 3 is missing"),
        ("add.s32 %r0, %d1, %r2;", "64 bits wide where"),
        ("bra NOWHERE;", "the label NOWHERE does not exist"),
        ("call (%r0), printf, (%r1);", "printf and assert are not there"),
        ("mov.u32 %r0, nothing;", "`nothing` is not known"),
        ("add.s32 %r0, %r1, %r2", "expected `;`"),
    ] {
        let message = refused(text);
        assert!(message.contains(words), "{text}: {message}");
    }
    let newer = ".version 8.0\n.target sm_90a\n.address_size 64\n";
    let error = diptych_virtual_gpu::Device::new(Target::Sm80, 1 << 20).load(newer).unwrap_err().to_string();
    assert!(error.contains("for sm_90a, this device is sm_80"), "{error}");
    let broken = [
        "",
        "{",
        ".entry",
        ".visible .entry k(",
        "\u{e9}",
        "/* ",
        ".entry k() { .reg .b32",
        ".global .b8 x[4",
    ];
    for text in broken {
        // Whatever it says, it does not panic.
        let _ = diptych_virtual_gpu::Device::new(Target::Sm80, 1 << 20).load(text);
    }
}
