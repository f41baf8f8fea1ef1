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
//!
//! Products are exact in f32 for 16-bit operands; those of tf32 are rounded to nearest. All sums are in f32.

use crate::program::MatrixFamily;

/// `a + b`, cut toward zero.
#[inline(always)]
fn add_toward_zero(a: f32, b: f32) -> f32 {
    let exact = f64::from(a) + f64::from(b);
    let near = exact as f32;
    // One step back where rounding went away from zero.
    let back = f32::from_bits(near.to_bits().wrapping_sub(1));
    if f64::from(near).abs() > exact.abs() && near.is_finite() { back } else { near }
}

const WIDTH: usize = 8;

/// Adds to a row of accumulators the products of a row of `a` with columns of `b`: `a[k]` and `b[k * columns + n]`.
/// The loops over columns become vector code.
#[inline(always)]
pub(super) fn accumulate(family: MatrixFamily, a: &[f32], b: &[f32], columns: usize, row: &mut [f32]) {
    let depth = family.depth();
    debug_assert!(
        a.len() == depth
            && b.len() == depth * columns
            && row.len() == columns
            && columns.is_multiple_of(WIDTH)
    );
    for first in (0..columns).step_by(WIDTH) {
        let product = |k: usize| -> [f32; WIDTH] {
            let b: &[f32; WIDTH] = b[k * columns + first..][..WIDTH].try_into().expect("WIDTH columns");
            std::array::from_fn(|n| a[k] * b[n])
        };
        let accumulator: &mut [f32; WIDTH] =
            (&mut row[first..first + WIDTH]).try_into().expect("WIDTH columns");
        let add = |x: [f32; WIDTH], y: [f32; WIDTH]| -> [f32; WIDTH] { std::array::from_fn(|n| x[n] + y[n]) };
        match family {
            MatrixFamily::Mma16k8 => {
                let pair = |k: usize| add(product(k), product(k + 1));
                let sum = add(add(pair(0), pair(2)), add(pair(4), pair(6)));
                for n in 0..WIDTH {
                    accumulator[n] = add_toward_zero(accumulator[n], sum[n]);
                }
            }
            MatrixFamily::Mma16k16 => {
                let chain =
                    |k: usize| add(add(add(product(k), product(k + 4)), product(k + 8)), product(k + 12));
                let sum = add(add(chain(0), chain(2)), add(chain(1), chain(3)));
                for n in 0..WIDTH {
                    accumulator[n] = add_toward_zero(accumulator[n], sum[n]);
                }
            }
            MatrixFamily::MmaTf32k4 => {
                let mut sum = *accumulator;
                for k in 0..4 {
                    sum = add(sum, product(k));
                }
                *accumulator = sum;
            }
            MatrixFamily::MmaTf32k8 => {
                let half =
                    |k: usize| add(add(add(product(k), product(k + 1)), product(k + 2)), product(k + 3));
                *accumulator = add(add(*accumulator, half(4)), half(0));
            }
            MatrixFamily::Wgmma16 => {
                let chain = |k: usize| {
                    let mut sum = product(k + 14);
                    for step in (0..7).rev() {
                        sum = add(sum, product(k + 2 * step));
                    }
                    sum
                };
                let (even, odd) = (chain(0), chain(1));
                for n in 0..WIDTH {
                    accumulator[n] = add_toward_zero(add_toward_zero(accumulator[n], odd[n]), even[n]);
                }
            }
            MatrixFamily::WgmmaTf32 => {
                let mut sum = *accumulator;
                for k in (1..8).rev() {
                    sum = add(sum, product(k));
                }
                let last = product(0);
                for n in 0..WIDTH {
                    accumulator[n] = add_toward_zero(sum[n], last[n]);
                }
            }
        }
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
