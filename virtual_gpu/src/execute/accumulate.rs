//! The sums of tensor-core instructions.
//!
//! The hardware's order of summation and its rounding are not documented, and they differ between generations. Here
//! they differ between all instruction families and k-sizes on purpose, so that a program which computes one value by
//! two families, and claims equal bits, is found out:
//!
//! | family | products are summed | then |
//! |---|---|---|
//! | `mma` k = 8, 16-bit | in pairs, as a tree | added to the accumulator toward zero |
//! | `mma` k = 16, 16-bit | in four chains of stride 4, chains 0 and 2, 1 and 3 first | added toward zero |
//! | `mma` k = 4, tf32 | first to last, onto the accumulator | to nearest at each step |
//! | `mma` k = 8, tf32 | the two halves of k each first to last | the second half is added first |
//! | `wgmma` k = 16, 16-bit | the even and the odd k, last to first | the odd sum is added first, both toward zero |
//! | `wgmma` k = 8, tf32 | last to first, onto the accumulator | toward zero at the end |
//! | `tcgen05.mma` k = 16, 16-bit | with the accumulator, in f64, first to last | toward zero, once |
//!
//! Products are exact in f32 for 16-bit operands; those of tf32 are rounded to nearest. Where nothing else is said, sums
//! are in f32.

use crate::program::MatrixFamily;

/// The float next to a sum, toward zero.
#[inline(always)]
fn cut_toward_zero(exact: f64) -> f32 {
    let near = exact as f32;
    // One step back where rounding went away from zero.
    let back = f32::from_bits(near.to_bits().wrapping_sub(1));
    if f64::from(near).abs() > exact.abs() && near.is_finite() { back } else { near }
}

/// `a + b`, cut toward zero.
#[inline(always)]
fn add_toward_zero(a: f32, b: f32) -> f32 {
    cut_toward_zero(f64::from(a) + f64::from(b))
}

const WIDTH: usize = 8;
type Columns = [f32; WIDTH];

/// The products of one value of `a` with `WIDTH` columns of `b`, for some k.
#[inline(always)]
fn product(a: &[f32], b: &[f32], columns: usize, first: usize, k: usize) -> Columns {
    let b: &Columns = b[k * columns + first..][..WIDTH].try_into().expect("WIDTH columns");
    let mut result = [0.0; WIDTH];
    for n in 0..WIDTH {
        result[n] = a[k] * b[n];
    }
    result
}

#[inline(always)]
fn add(mut x: Columns, y: Columns) -> Columns {
    for n in 0..WIDTH {
        x[n] += y[n];
    }
    x
}

#[inline(always)]
fn add_columns_toward_zero(mut x: Columns, y: Columns) -> Columns {
    for n in 0..WIDTH {
        x[n] = add_toward_zero(x[n], y[n]);
    }
    x
}

/// Adds to a row of accumulators the products of a row of `a` with columns of `b`: `a[k]` and `b[k * columns + n]`.
/// The loops over columns become vector code; what they call is inlined for that.
#[inline(always)]
pub(super) fn accumulate(family: MatrixFamily, a: &[f32], b: &[f32], columns: usize, row: &mut [f32]) {
    let depth = family.depth();
    assert!(
        a.len() == depth
            && b.len() == depth * columns
            && row.len() == columns
            && columns.is_multiple_of(WIDTH)
    );
    for first in (0..columns).step_by(WIDTH) {
        macro_rules! p {
            ($k:expr) => {
                product(a, b, columns, first, $k)
            };
        }
        let place: &mut Columns = (&mut row[first..first + WIDTH]).try_into().expect("WIDTH columns");
        let accumulator = *place;
        *place = match family {
            MatrixFamily::Mma16k8 => {
                let left = add(add(p!(0), p!(1)), add(p!(2), p!(3)));
                let right = add(add(p!(4), p!(5)), add(p!(6), p!(7)));
                add_columns_toward_zero(accumulator, add(left, right))
            }
            MatrixFamily::Mma16k16 => {
                let mut chains = [p!(0), p!(1), p!(2), p!(3)];
                for k in 4..16 {
                    chains[k % 4] = add(chains[k % 4], p!(k));
                }
                let sum = add(add(chains[0], chains[2]), add(chains[1], chains[3]));
                add_columns_toward_zero(accumulator, sum)
            }
            MatrixFamily::MmaTf32k4 => {
                let mut sum = accumulator;
                for k in 0..4 {
                    sum = add(sum, p!(k));
                }
                sum
            }
            MatrixFamily::MmaTf32k8 => {
                let low = add(add(add(p!(0), p!(1)), p!(2)), p!(3));
                let high = add(add(add(p!(4), p!(5)), p!(6)), p!(7));
                add(add(accumulator, high), low)
            }
            MatrixFamily::Wgmma16 => {
                let (mut even, mut odd) = (p!(14), p!(15));
                for step in (0..7).rev() {
                    even = add(even, p!(2 * step));
                    odd = add(odd, p!(2 * step + 1));
                }
                add_columns_toward_zero(add_columns_toward_zero(accumulator, odd), even)
            }
            MatrixFamily::Tcgen16 => {
                let mut sum = accumulator.map(f64::from);
                for k in 0..16 {
                    let products = p!(k);
                    for n in 0..WIDTH {
                        sum[n] += f64::from(products[n]);
                    }
                }
                sum.map(cut_toward_zero)
            }
            MatrixFamily::WgmmaTf32 => {
                let mut sum = accumulator;
                for k in (1..8).rev() {
                    sum = add(sum, p!(k));
                }
                add_columns_toward_zero(sum, p!(0))
            }
        };
    }
}

/// `accumulate` for each row of `a`, with the widest vectors that the processor has.
pub(super) fn accumulate_rows(family: MatrixFamily, a: &[f32], b: &[f32], columns: usize, rows: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has what the function was compiled for.
        return unsafe { accumulate_rows_avx2(family, a, b, columns, rows) };
    }
    accumulate_each(family, a, b, columns, rows);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn accumulate_rows_avx2(family: MatrixFamily, a: &[f32], b: &[f32], columns: usize, rows: &mut [f32]) {
    accumulate_each(family, a, b, columns, rows);
}

#[inline(always)]
fn accumulate_each(family: MatrixFamily, a: &[f32], b: &[f32], columns: usize, rows: &mut [f32]) {
    for (a, row) in a.chunks_exact(family.depth()).zip(rows.chunks_exact_mut(columns)) {
        accumulate(family, a, b, columns, row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // As many bits as a bf16 has, over seven powers of two and both signs.
            f32::from_bits(state & 0x807f_0000 | (122 + (state >> 8) % 7) << 23)
        })
        .take(count)
        .collect()
    }

    /// Sums of 64 products by one family.
    fn sums(family: MatrixFamily) -> Vec<f32> {
        let (a, b) = (random(64, 1), random(64 * 8, 2));
        let mut row = vec![0.0; 8];
        let depth = family.depth();
        for k in (0..64).step_by(depth) {
            accumulate(family, &a[k..k + depth], &b[k * 8..(k + depth) * 8], 8, &mut row);
        }
        row
    }

    #[test]
    fn families_differ_in_bits_and_in_nothing_else() {
        let families = [
            MatrixFamily::Mma16k8,
            MatrixFamily::Mma16k16,
            MatrixFamily::MmaTf32k4,
            MatrixFamily::MmaTf32k8,
            MatrixFamily::Wgmma16,
            MatrixFamily::WgmmaTf32,
            MatrixFamily::Tcgen16,
        ];
        let (a, b) = (random(64, 1), random(64 * 8, 2));
        for (at, family) in families.iter().enumerate() {
            let got = sums(*family);
            for n in 0..8 {
                let want: f64 = (0..64).map(|k| f64::from(a[k]) * f64::from(b[k * 8 + n])).sum();
                assert!((f64::from(got[n]) - want).abs() < 1e-5, "{family:?}: {} {want}", got[n]);
            }
            for other in &families[..at] {
                assert_ne!(got, sums(*other), "{family:?} and {other:?}");
            }
        }
    }

    #[test]
    fn toward_zero_is_never_away_from_it() {
        assert_eq!(add_toward_zero(1.0, 2f32.powi(-25)), 1.0);
        assert_eq!(add_toward_zero(1.0, -2f32.powi(-30)), 1.0f32.next_down());
        assert_eq!(add_toward_zero(-1.0, 2f32.powi(-30)), -(1.0f32.next_down()));
        assert_eq!(add_toward_zero(1.5, 1.5), 3.0);
        assert_eq!(add_toward_zero(f32::INFINITY, 1.0), f32::INFINITY);
    }
}
