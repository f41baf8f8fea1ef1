//! The C prelude against f64 arithmetic, the `half` crate and a naive chain of fused multiply-adds, in
//! every vector width that this machine can run. Must not know of anything generated.

mod support;

use diptych_codegen::c::prelude::VectorWidth;
use diptych_ir::DType;
use half::{bf16, f16};
use libloading::Library;
use std::sync::OnceLock;
use support::{Guarded, Random};

const EXPORTS: &str = include_str!("support/exports.c");

/// The compiled prelude, once per width.
fn libraries() -> &'static [(VectorWidth, Library)] {
    static LIBRARIES: OnceLock<Vec<(VectorWidth, Library)>> = OnceLock::new();
    LIBRARIES.get_or_init(|| support::widths().into_iter().map(|w| (w, support::load(w, EXPORTS))).collect())
}

macro_rules! function {
    ($library:expr, $name:expr, $type:ty) => {
        // SAFETY: exports.c declares the function with this signature.
        *unsafe { $library.get::<$type>($name.as_bytes()) }.expect("an exported function")
    };
}

type OverArray = unsafe extern "C" fn(i64, *const f32, *mut f32);

fn apply(library: &Library, name: &str, x: &[f32]) -> Vec<f32> {
    let function = function!(library, format!("test_{name}"), OverArray);
    let mut y = vec![f32::NAN; x.len()];
    // SAFETY: both arrays have the length passed.
    unsafe { function(x.len() as i64, x.as_ptr(), y.as_mut_ptr()) };
    y
}

/// Error in units of the last place of the exact value's binade (of the smallest normal one at least).
fn ulps(got: f32, exact: f64) -> f64 {
    if got.is_nan() && exact.is_nan()
        || got as f64 == exact
        || exact.abs() > f32::MAX as f64 && got.is_infinite()
    {
        return 0.0;
    }
    let exponent = exact.abs().max(f32::MIN_POSITIVE as f64).log2().floor() as i32;
    (got as f64 - exact).abs() / 2f64.powi(exponent - 23)
}

fn sweep(from: f32, to: f32) -> impl Iterator<Item = f32> {
    const STEPS: usize = 200_003;
    (0..=STEPS).map(move |i| from + (to - from) * (i as f32 / STEPS as f32))
}

/// Floats spread evenly over their bit patterns, both signs.
fn all_magnitudes() -> impl Iterator<Item = f32> {
    (0..=u32::MAX).step_by(20_011).map(f32::from_bits).filter(|x| x.is_finite())
}

fn worst(library: &Library, name: &str, xs: &[f32], exact: impl Fn(f64) -> f64) -> (f64, f32) {
    let got = apply(library, name, xs);
    let errors = xs.iter().zip(&got).map(|(&x, &y)| (ulps(y, exact(x as f64)), x));
    errors.fold((0.0, 0.0), |a, b| if b.0 > a.0 || b.0.is_nan() { b } else { a })
}

/// erf by its series below 3 and by the continued fraction of erfc above: good to 1e-13.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    if x.is_nan() || a > 6.0 {
        return if x.is_nan() { x } else { x.signum() };
    }
    let scale = (-a * a).exp() / std::f64::consts::PI.sqrt();
    let value = if a < 3.0 {
        let (mut term, mut sum) = (2.0 * a * scale, 0.0);
        for n in 1..120 {
            sum += term;
            term *= 2.0 * a * a / (2 * n + 1) as f64;
        }
        sum
    } else {
        let fraction = (1..80).rev().fold(a, |f, n| a + n as f64 / 2.0 / f);
        1.0 - scale / fraction
    };
    value.copysign(x)
}

#[test]
fn functions_are_accurate() {
    type Case = (&'static str, f64, f32, f32, fn(f64) -> f64);
    let cases: [Case; 8] = [
        ("exp", 2.0, -104.5, 89.5, f64::exp),
        ("log", 2.0, 1e-4, 20.0, f64::ln),
        ("tanh", 4.0, -10.0, 10.0, f64::tanh),
        ("erf", 4.0, -5.0, 5.0, erf),
        ("sigmoid", 4.0, -87.0, 40.0, |x| 1.0 / (1.0 + (-x).exp())),
        ("sqrt", 0.5, 0.0, 100.0, f64::sqrt),
        ("rsqrt", 4.0, 1e-6, 100.0, |x| 1.0 / x.sqrt()),
        ("abs", 0.0, -2.0, 2.0, f64::abs),
    ];
    for (width, library) in libraries() {
        for (name, limit, from, to, exact) in cases {
            let mut xs: Vec<f32> = sweep(from, to).collect();
            if name != "sigmoid" {
                xs.extend(all_magnitudes());
            }
            let (error, at) = worst(library, name, &xs, exact);
            println!("{width:?} {name}: at most {error:.2} ulp, at {at:e}");
            assert!(error <= limit, "{width:?} {name}({at:e}) is {error} ulp off");
        }
    }
}

#[test]
fn sine_and_cosine_hold_at_every_position() {
    let mut xs: Vec<f32> =
        sweep(-200_000.0, 200_000.0).chain(sweep(-7.0, 7.0)).chain(all_magnitudes()).collect();
    xs.extend((0..200_000).map(|i| i as f32));
    xs.extend((0..120_000).map(|i| (i as f64 * std::f64::consts::FRAC_PI_2) as f32));
    for (width, library) in libraries() {
        for (name, exact) in [("sin", f64::sin as fn(f64) -> f64), ("cos", f64::cos)] {
            let got = apply(library, name, &xs);
            for (&x, y) in xs.iter().zip(got) {
                let error = (y as f64 - exact(x as f64)).abs();
                assert!(error < 1.2e-7, "{width:?} {name}({x:e}) = {y:e} is {error:e} off");
            }
        }
    }
}

#[test]
fn special_values() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let cases: &[(&str, &[(f32, f32)])] = &[
        (
            "exp",
            &[
                (-inf, 0.0),
                (inf, inf),
                (nan, nan),
                (0.0, 1.0),
                (-0.0, 1.0),
                (-104.0, 0.0),
                (89.0, inf),
                (-1e30, 0.0),
                (1e30, inf),
            ],
        ),
        ("log", &[(0.0, -inf), (-0.0, -inf), (inf, inf), (nan, nan), (-1.0, nan), (-inf, nan), (1.0, 0.0)]),
        ("tanh", &[(-inf, -1.0), (inf, 1.0), (nan, nan), (0.0, 0.0), (100.0, 1.0)]),
        ("erf", &[(-inf, -1.0), (inf, 1.0), (nan, nan), (0.0, 0.0), (1e30, 1.0)]),
        ("sigmoid", &[(-inf, 0.0), (inf, 1.0), (nan, nan), (0.0, 0.5), (-1e30, 0.0)]),
        ("sin", &[(inf, nan), (-inf, nan), (nan, nan), (0.0, 0.0)]),
        ("cos", &[(inf, nan), (-inf, nan), (nan, nan), (0.0, 1.0)]),
        ("sqrt", &[(inf, inf), (-1.0, nan), (nan, nan), (0.0, 0.0), (4.0, 2.0)]),
        ("rsqrt", &[(inf, 0.0), (-1.0, nan), (nan, nan), (0.0, inf), (4.0, 0.5)]),
    ];
    for (width, library) in libraries() {
        for (name, values) in cases {
            for &(x, want) in *values {
                let got = apply(library, name, &[x])[0];
                let same = got == want || got.is_nan() && want.is_nan();
                assert!(same, "{width:?} {name}({x}) = {got}, not {want}");
            }
        }
    }
}

/// A value's bits depend on the value alone, wherever it stands: in the body, in a tail, beside NaNs.
#[test]
fn body_and_tail_agree() {
    let mut random = Random(1);
    let scales = [1e-3, 1.0, 30.0, 1e5, 1e12];
    let mut xs: Vec<f32> = (0..301).map(|i| random.float() * scales[i % scales.len()]).collect();
    xs[7] = f32::NAN;
    xs[8] = f32::INFINITY;
    for (width, library) in libraries() {
        for name in ["exp", "log", "tanh", "erf", "sigmoid", "sin", "cos", "sqrt", "rsqrt"] {
            let whole = apply(library, name, &xs);
            for (i, x) in xs.iter().enumerate() {
                let alone = apply(library, name, &[*x])[0];
                assert_eq!(alone.to_bits(), whole[i].to_bits(), "{width:?} {name}({x}) at {i}");
            }
        }
    }
}

#[test]
fn maximum_minimum_and_fma_are_exact() {
    type Two = unsafe extern "C" fn(*const f32, *const f32, *mut f32);
    type Three = unsafe extern "C" fn(*const f32, *const f32, *const f32, *mut f32);
    let special = [0.0, -0.0, 1.0, -1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-40];
    let mut random = Random(2);
    for (width, library) in libraries() {
        let lanes = width.lanes();
        let (max, min) = (function!(library, "test_max", Two), function!(library, "test_min", Two));
        let fma = function!(library, "test_fma", Three);
        for round in 0..2000 {
            let mut pick = |round: usize| {
                (0..lanes)
                    .map(|_| if round.is_multiple_of(2) { special[random.below(8)] } else { random.float() })
                    .collect()
            };
            let (a, b): (Vec<f32>, Vec<f32>) = (pick(round), pick(round));
            // Near cancellation: the case in which a product rounded first would show.
            let c: Vec<f32> = a.iter().zip(&b).map(|(a, b)| -(a * b)).collect();
            let (mut high, mut low, mut fused) = (a.clone(), a.clone(), a.clone());
            // SAFETY: every array has the vector's lanes.
            unsafe {
                max(a.as_ptr(), b.as_ptr(), high.as_mut_ptr());
                min(a.as_ptr(), b.as_ptr(), low.as_mut_ptr());
                fma(a.as_ptr(), b.as_ptr(), c.as_ptr(), fused.as_mut_ptr());
            }
            for i in 0..lanes {
                let (want_high, want_low) =
                    (if a[i] > b[i] { a[i] } else { b[i] }, if a[i] < b[i] { a[i] } else { b[i] });
                assert_eq!(high[i].to_bits(), want_high.to_bits(), "{width:?} max({}, {})", a[i], b[i]);
                assert_eq!(low[i].to_bits(), want_low.to_bits(), "{width:?} min({}, {})", a[i], b[i]);
                let want = a[i].mul_add(b[i], c[i]);
                assert!(
                    fused[i].to_bits() == want.to_bits() || fused[i].is_nan() && want.is_nan(),
                    "{width:?} fma"
                );
            }
        }
    }
}

#[test]
fn integers_gather_and_folds() {
    type Integers = unsafe extern "C" fn(*const i32, *const i32, *mut i32);
    type Gather = unsafe extern "C" fn(*const f32, *const i32, *mut f32);
    type Fold = unsafe extern "C" fn(*const f32) -> f32;
    let mut random = Random(3);
    for (width, library) in libraries() {
        let lanes = width.lanes();
        let integers = function!(library, "test_integers", Integers);
        let gather = function!(library, "test_gather", Gather);
        let (sum, max) =
            (function!(library, "test_fold_sum", Fold), function!(library, "test_fold_max", Fold));
        for _ in 0..200 {
            let mut draw = || (0..lanes).map(|_| random.below(41) as i32 - 20).collect::<Vec<i32>>();
            let (a, b) = (draw(), draw());
            let mut out = vec![0; 5 * lanes + 1];
            // SAFETY: exports.c writes five vectors and one integer.
            unsafe { integers(a.as_ptr(), b.as_ptr(), out.as_mut_ptr()) };
            for i in 0..lanes {
                let chosen = if a[i] < b[i] { i as i32 } else { -7 };
                let want = [a[i].max(b[i]), a[i].min(b[i]), a[i].abs(), chosen, a[i]];
                assert_eq!(std::array::from_fn(|row| out[row * lanes + i]), want, "{width:?}");
            }
            assert_eq!(out[5 * lanes], a.iter().zip(&b).any(|(a, b)| a == b) as i32, "{width:?}");

            let table = (0..100).map(|_| random.float()).collect::<Vec<f32>>();
            let index: Vec<i32> = (0..lanes).map(|_| random.below(100) as i32).collect();
            let mut x = vec![0.0; lanes];
            // SAFETY: every index is inside the table.
            unsafe { gather(table.as_ptr(), index.as_ptr(), x.as_mut_ptr()) };
            assert!(x.iter().zip(&index).all(|(x, i)| *x == table[*i as usize]), "{width:?}");

            let mut tree = x.clone();
            let mut half = lanes / 2;
            while half > 0 {
                for i in 0..half {
                    tree[i] += tree[i + half];
                }
                half /= 2;
            }
            // SAFETY: x has the vector's lanes.
            let (got_sum, got_max) = unsafe { (sum(x.as_ptr()), max(x.as_ptr())) };
            assert_eq!(got_sum.to_bits(), tree[0].to_bits(), "{width:?}");
            assert_eq!(got_max, x.iter().copied().fold(f32::MIN, f32::max), "{width:?}");
        }
    }
}

#[test]
fn folds_of_many_are_the_folds_of_each() {
    type Folds = unsafe extern "C" fn(*const f32, *mut f32);
    type Fold = unsafe extern "C" fn(*const f32) -> f32;
    let mut random = Random(4);
    for (width, library) in libraries() {
        let lanes = width.lanes();
        let folds = function!(library, "test_folds", Folds);
        let (sum, max) =
            (function!(library, "test_fold_sum", Fold), function!(library, "test_fold_max", Fold));
        for _ in 0..100 {
            let x: Vec<f32> = (0..lanes * lanes).map(|_| random.float()).collect();
            let mut out = vec![0.0; 2 * lanes];
            // SAFETY: exports.c reads as many vectors as one has lanes, and writes two.
            unsafe { folds(x.as_ptr(), out.as_mut_ptr()) };
            for (lane, vector) in x.chunks(lanes).enumerate() {
                // SAFETY: a chunk is a vector.
                let (sum, max) = unsafe { (sum(vector.as_ptr()), max(vector.as_ptr())) };
                assert_eq!(out[lane].to_bits(), sum.to_bits(), "{width:?}");
                assert_eq!(out[lanes + lane].to_bits(), max.to_bits(), "{width:?}");
            }
        }
    }
}

#[test]
fn random_rounding_has_the_evaluator_s_bits() {
    type Round = unsafe extern "C" fn(i64, *const f32, *const f32, i32, *mut f32);
    let xs: Vec<f32> = (0..=u32::MAX).step_by(9_973).map(f32::from_bits).chain([1.0]).collect();
    let salts: Vec<f32> = (0..xs.len()).map(|at| (at as f32 * 0.37).sin()).collect();
    for (width, library) in libraries() {
        let round = function!(library, "test_round_randomly", Round);
        for seed in [0, 1, 0x7fff_ffff] {
            let mut rounded = vec![0.0f32; xs.len()];
            // SAFETY: all arrays have the length passed.
            unsafe { round(xs.len() as i64, xs.as_ptr(), salts.as_ptr(), seed, rounded.as_mut_ptr()) };
            for ((&x, &salt), found) in xs.iter().zip(&salts).zip(rounded) {
                let expected = diptych_ir::ops::round_randomly(x, salt, seed);
                assert_eq!(
                    found.to_bits(),
                    expected.to_bits(),
                    "{width:?}: {x:e} beside {salt}, seed {seed}"
                );
            }
        }
    }
}

/// What is rounded to a narrow type and widened from it in every width, against the intermediate representation's own
/// rounding: with denormal floats as they are, and read and written as zero, as threads that compute have them.
fn rounds_as<T: Copy + PartialEq + std::fmt::Debug + Default>(
    dtype: DType,
    xs: &[f32],
    all: &[T],
    widen: impl Fn(T) -> f32,
    narrow: impl Fn(f32) -> T,
) {
    type To<T> = unsafe extern "C" fn(i64, *const f32, *mut T, *mut f32, *mut T);
    type From<T> = unsafe extern "C" fn(i64, *const T, *mut f32, *mut f32);
    for (width, library) in libraries() {
        let name = |kind: &str| format!("test_{kind}_{dtype}");
        let (to, from) = (function!(library, name("to"), To<T>), function!(library, name("from"), From<T>));
        let flush = function!(library, "test_flush", unsafe extern "C" fn(i32));
        for flushes in [false, true] {
            let (mut stored, mut scalar) = (vec![T::default(); xs.len()], vec![T::default(); xs.len()]);
            let mut rounded = vec![0.0; xs.len()];
            let (mut vector, mut single) = (vec![0.0; all.len()], vec![0.0; all.len()]);
            // SAFETY: every array has as many elements as are told of.
            unsafe {
                flush(i32::from(flushes));
                let (x, n) = (xs.as_ptr(), xs.len() as i64);
                to(n, x, stored.as_mut_ptr(), rounded.as_mut_ptr(), scalar.as_mut_ptr());
                from(all.len() as i64, all.as_ptr(), vector.as_mut_ptr(), single.as_mut_ptr());
                flush(0);
            }
            for (i, &x) in xs.iter().enumerate() {
                let want = narrow(x);
                let place = || format!("{width:?} {dtype}, flushing {flushes}: {:#x}", x.to_bits());
                assert_eq!([stored[i], scalar[i]], [want; 2], "{}", place());
                assert_eq!(rounded[i].to_bits(), widen(want).to_bits(), "{}", place());
                let agrees = dtype.round(x);
                assert!(agrees == widen(want) || agrees.is_nan() && widen(want).is_nan(), "{}", place());
            }
            for (i, &bits) in all.iter().enumerate() {
                let want = widen(bits).to_bits();
                let found = [vector[i].to_bits(), single[i].to_bits()];
                assert_eq!(found, [want; 2], "{width:?} {dtype}, flushing {flushes}: {bits:?}");
            }
        }
    }
}

/// Floats from everywhere, and around the middle between two numbers whose bits below these 32 - `kept` are cut off.
fn floats_around_ties(kept: u32) -> Vec<f32> {
    let (cut, tie) = (32 - kept, 1_u32 << (31 - kept));
    let mut xs: Vec<f32> = (0..=u32::MAX).step_by(9_973).map(f32::from_bits).collect();
    let neighbours = |upper: u32| [tie - 1, tie, tie + 1].map(|low| f32::from_bits(upper << cut | low));
    xs.extend((0..u32::MAX >> cut).step_by(if kept > 16 { 7 } else { 1 }).flat_map(neighbours));
    xs.push(1.0); // an odd count: there is a tail
    xs
}

#[test]
fn bf16_rounds_as_half_does() {
    // Denormal numbers of bf16 are those of f32: the threads' mode does not reach moves of bits.
    let all: Vec<u16> = (0..=u16::MAX).chain([1, 2, 3]).collect();
    let widen = |bits: u16| f32::from_bits(u32::from(bits) << 16);
    rounds_as(DType::BF16, &floats_around_ties(16), &all, widen, |x| bf16::from_f32(x).to_bits());
}

#[test]
fn f16_rounds_as_half_does() {
    let all: Vec<u16> = (0..=u16::MAX).chain([1, 2, 3]).collect();
    let mut xs = floats_around_ties(19);
    // Between any two neighbours of f16, also of its denormal numbers: the middle, and what is next to it.
    xs.extend((0..0x7c00_u16).flat_map(|bits| {
        let [low, high] = [bits, bits + 1].map(|bits| f64::from(f16::from_bits(bits).to_f32()));
        let middle = if high.is_finite() { (low + high) / 2.0 } else { 65520.0 } as f32;
        let next = [middle.to_bits() - 1, middle.to_bits(), middle.to_bits() + 1].map(f32::from_bits);
        [next, next.map(|x| -x)].concat()
    }));
    let widen = |bits: u16| f16::from_bits(bits).to_f32();
    rounds_as(DType::F16, &xs, &all, widen, |x| f16::from_f32(x).to_bits());
}

#[test]
fn i8_rounds_to_the_nearest_even() {
    let all: Vec<i8> = (i8::MIN..=i8::MAX).chain([1, 2, 3]).collect();
    let mut xs = floats_around_ties(16);
    xs.extend((-300..300).flat_map(|half| {
        let middle = half as f32 / 2.0;
        [middle, f32::from_bits(middle.to_bits().saturating_sub(1)), f32::from_bits(middle.to_bits() + 1)]
    }));
    let narrow = |x: f32| if x.is_nan() { 0 } else { x.clamp(-127.0, 127.0).round_ties_even() as i8 };
    rounds_as(DType::I8, &xs, &all, f32::from, narrow);
}

#[test]
fn transposes_move_every_element() {
    check_transposes("test_transpose", |x| x, |x: f32| x);
    check_transposes("test_transpose_bf16", bf16::from_f32, |x| x.to_f32());
    check_transposes("test_transpose_f16", f16::from_f32, |x| x.to_f32());
    check_transposes("test_transpose_i8", |x| (x * 127.0) as i8, f32::from);
}

fn check_transposes<T: Copy>(name: &str, narrow: impl Fn(f32) -> T, widen: impl Fn(T) -> f32) {
    type Transpose<T> = unsafe extern "C" fn(i64, i64, *const T, i64, *mut f32, i64);
    let mut random = Random(4);
    for (width, library) in libraries() {
        let transpose = function!(library, name, Transpose<T>);
        let mut memory = Guarded::new(library);
        for _ in 0..200 {
            let (m, n) = (1 + random.below(50), 1 + random.below(50));
            let (lds, ldd) = (n + random.below(4), m + random.below(4));
            // The last row has no padding: reading past it would leave the allocation.
            let src: Vec<T> = (0..(m - 1) * lds + n).map(|_| narrow(random.float())).collect();
            let mut dst = vec![f32::NAN; n * ldd];
            // SAFETY: src holds m rows of stride lds, dst n rows of stride ldd.
            unsafe {
                let from = memory.put(&src);
                transpose(m as i64, n as i64, from, lds as i64, dst.as_mut_ptr(), ldd as i64);
            }
            for j in 0..n {
                for i in 0..ldd {
                    let got = dst[j * ldd + i];
                    if i < m {
                        assert_eq!(got, widen(src[i * lds + j]), "{name} {width:?} {m}x{n}")
                    } else {
                        assert!(got.is_nan(), "{name} {width:?} {m}x{n} wrote into padding")
                    }
                }
            }
        }
    }
}

#[test]
fn constants_agree_with_rust() {
    for (width, library) in libraries() {
        let constants = function!(library, "test_constants", unsafe extern "C" fn(i32) -> i64);
        // SAFETY: four constants are exported.
        let got = [0, 1, 2, 3].map(|which| unsafe { constants(which) } as usize);
        assert_eq!(got, [width.lanes(), width.panel(), width.tile_rows(), width.dot_scratch_floats()]);
    }
}

#[test]
fn widths_have_names_and_others_are_told() {
    for width in VectorWidth::ALL {
        match VectorWidth::named(width.name()) {
            Ok(found) => assert!(width.is_supported() && found == width),
            Err(error) => {
                assert!(!width.is_supported());
                assert!(
                    error.to_string().contains(&format!("cannot run the vector width `{}`", width.name()))
                );
            }
        }
    }
    let error = VectorWidth::named("avx1024").unwrap_err().to_string();
    assert!(error.contains("`avx1024`") && error.contains("avx512, avx2, portable"), "{error}");
}

/// Rows are divided alike by whoever counts instances and by the kernels that find their own; all of them, and never
/// more than there is room for.
#[test]
fn rows_are_divided_evenly_and_alike() {
    let source = format!(
        "{}\nint64_t test_even_block(int64_t rows, int64_t most, int64_t threads) {{ return even_block(rows, most, threads); }}",
        diptych_codegen::c::step::STEP_TEXT
    );
    let library = support::load(VectorWidth::Portable, &source);
    type Block = unsafe extern "C" fn(i64, i64, i64) -> i64;
    let of_kernels = function!(library, "test_even_block", Block);
    for most in [1, 7, 32, 144] {
        for threads in [1, 2, 3, 16] {
            for rows in 0..6 * most + 3 {
                let block = diptych_codegen::entry::even_block(rows, most, threads);
                // SAFETY: it takes three numbers.
                let found = unsafe { of_kernels(rows as i64, most as i64, threads as i64) };
                assert_eq!(found, block as i64, "{rows} rows, at most {most}, {threads} threads");
                assert!(
                    (1..=most).contains(&block),
                    "{rows} rows, at most {most}, {threads} threads: {block}"
                );
                let instances = rows.div_ceil(block);
                assert!(rows > most || instances <= 1, "one instance has room for {rows}");
                let fewest = rows.div_ceil(most);
                assert!(instances >= fewest && instances <= fewest + 4 * threads);
            }
        }
    }
}
