//! The prelude's `dot` against one naive chain of fused multiply-adds per element, bit for bit, in every
//! vector width, layout, padding and accumulation. Must not know of anything generated.

mod support;

use diptych_codegen::c::prelude::VectorWidth;
use half::bf16;
use support::{Guarded, Random};

const EXPORTS: &str = include_str!("support/exports.c");

type Dot<B> = unsafe extern "C" fn(
    i64,
    i64,
    i64,
    *const f32,
    i64,
    i64,
    *const B,
    i64,
    i64,
    i32,
    *mut f32,
    i64,
    i64,
    i32,
    i32,
    *mut f32,
);

type Turned<B> = unsafe extern "C" fn(
    i64,
    i64,
    i64,
    *const f32,
    i64,
    i64,
    *const B,
    i64,
    *mut f32,
    i64,
    *mut f32,
    i64,
    i32,
    *mut f32,
);

/// One matrix in memory: where each element stands, and how long the allocation must be. Everything that
/// is no element holds NaN, so that a read of it shows, and a write to it as well.
struct Layout {
    row: i64,
    panel: i64,
    step: i64,
    padded: bool,
    length: usize,
}

impl Layout {
    /// rows x columns, row-major or in panels of their own, with a random excess in every stride.
    fn in_panels(random: &mut Random, rows: usize, columns: usize, panel: usize) -> Layout {
        let panels = columns.div_ceil(panel);
        let padded = random.below(2) == 0;
        let width = if padded { panels * panel } else { columns };
        if random.below(2) == 0 {
            let row =
                if random.below(4) == 0 { width.next_multiple_of(512) } else { width + random.below(5) };
            let length = (rows - 1) * row + width;
            Layout { row: row as i64, panel: panel as i64, step: 1, padded, length }
        } else {
            let row = panel + random.below(2) * 3;
            let each = rows * row;
            let length = (panels - 1) * each + (rows - 1) * row + (width - (panels - 1) * panel);
            Layout { row: row as i64, panel: each as i64, step: 1, padded, length }
        }
    }
    fn strided(random: &mut Random, rows: usize, columns: usize) -> Layout {
        let (row, step) = match random.below(4) {
            0 => (columns + random.below(9), 1),
            1 => (columns.next_multiple_of(512), 1),
            2 => (1, rows + random.below(9)),
            _ => (2 * columns + 1, 2),
        };
        let length = (rows - 1) * row + (columns - 1) * step + 1;
        Layout { row: row as i64, panel: 0, step: step as i64, padded: false, length }
    }
    fn at(&self, i: usize, j: usize, panel: usize) -> usize {
        let column = if self.panel == 0 {
            j as i64 * self.step
        } else {
            (j / panel) as i64 * self.panel + (j % panel) as i64
        };
        (i as i64 * self.row + column) as usize
    }
    fn fill(&self, random: &mut Random, rows: usize, columns: usize, panel: usize) -> Vec<f32> {
        let mut values = vec![f32::NAN; self.length];
        for i in 0..rows {
            for j in 0..columns {
                values[self.at(i, j, panel)] = bf16::from_f32(random.float()).to_f32() * 0.37;
            }
        }
        values
    }
}

fn size(random: &mut Random, largest: usize) -> usize {
    match random.below(4) {
        0 => 1 + random.below(13),
        1 => [1, 2, 3, 5, 7, 11, 13, 17, 31, 37, 61, 67, 97, 127][random.below(14)].min(largest),
        2 => (1 + random.below(6)) * 32,
        _ => 1 + random.below(largest),
    }
}

#[test]
fn every_element_is_one_chain() {
    for width in support::widths() {
        let library = support::load(width, EXPORTS);
        // SAFETY: exports.c declares both with these signatures.
        let (dot, dot_bf16) = unsafe {
            (
                *library.get::<Dot<f32>>(b"test_dot").unwrap(),
                *library.get::<Dot<bf16>>(b"test_dot_bf16").unwrap(),
            )
        };
        let mut random = Random(5);
        let mut memory = [(); 3].map(|_| Guarded::new(&library));
        let panel = width.panel();
        let rounds = if width == VectorWidth::Portable { 150 } else { 500 };
        for round in 0..rounds {
            // Rarely large: what splits into blocks of rows and of k.
            let (largest_m, largest_k) = if round % 25 == 0 { (330, 900) } else { (60, 130) };
            let (m, n) = (size(&mut random, largest_m), size(&mut random, 300));
            let k =
                if round % 10 == 0 { 385 + random.below(largest_k) } else { size(&mut random, largest_k) };
            check(&mut random, &mut memory, dot, dot_bf16, width, [m, n, k], panel);
        }
        check_empty(dot, width);
    }
}

fn check(
    random: &mut Random,
    memory: &mut [Guarded; 3],
    dot: Dot<f32>,
    dot_bf16: Dot<bf16>,
    width: VectorWidth,
    [m, n, k]: [usize; 3],
    panel: usize,
) {
    let a = Layout::strided(random, m, k);
    let b = Layout::in_panels(random, k, n, panel);
    let c = Layout::in_panels(random, m, n, panel);
    let a_values = a.fill(random, m, k, panel);
    let mut b_values = b.fill(random, k, n, panel);
    let mut c_values = c.fill(random, m, n, panel);
    let before = c_values.clone();
    let is_bf16 = random.below(2) == 0;
    let narrow: Vec<bf16> = b_values.iter().map(|x| bf16::from_f32(*x)).collect();
    if is_bf16 {
        b_values = narrow.iter().map(|x| x.to_f32()).collect();
    }
    let accumulate = random.below(2) == 0;
    let mut scratch = vec![f32::NAN; width.dot_scratch_floats()];
    let scratch = if random.below(2) == 0 { scratch.as_mut_ptr() } else { std::ptr::null_mut() };
    let (a_p, c_p) = (memory[0].put(&a_values), memory[2].put(&c_values));
    // SAFETY: the layouts were made for these sizes, and their allocations end where they must.
    unsafe {
        let (m, n, k) = (m as i64, n as i64, k as i64);
        let (bp, cp, accumulate) = (b.padded as i32, c.padded as i32, accumulate as i32);

        if is_bf16 {
            let b_p = memory[1].put(&narrow);
            dot_bf16(
                m, n, k, a_p, a.row, a.step, b_p, b.panel, b.row, bp, c_p, c.row, c.panel, cp, accumulate,
                scratch,
            );
        } else {
            let b_p = memory[1].put(&b_values);
            dot(
                m, n, k, a_p, a.row, a.step, b_p, b.panel, b.row, bp, c_p, c.row, c.panel, cp, accumulate,
                scratch,
            );
        }
    }
    // SAFETY: c was put there with its length.
    c_values.copy_from_slice(unsafe { std::slice::from_raw_parts(c_p, c.length) });
    let mut is_element = vec![false; c.length];
    for i in 0..m {
        for j in 0..n {
            let at = c.at(i, j, panel);
            is_element[at] = true;
            let mut want = if accumulate { before[at] } else { 0.0 };
            for kk in 0..k {
                want = a_values[a.at(i, kk, panel)].mul_add(b_values[b.at(kk, j, panel)], want);
            }
            assert_eq!(
                c_values[at].to_bits(),
                want.to_bits(),
                "{width:?} m={m} n={n} k={k} bf16={is_bf16} accumulate={accumulate} at [{i},{j}]: {} is not {want}",
                c_values[at]
            );
        }
    }
    if !c.padded {
        for (at, value) in c_values.iter().enumerate().filter(|(at, _)| !is_element[*at]) {
            assert!(value.is_nan(), "{width:?} m={m} n={n} k={k}: wrote to {at}, which is no element");
        }
    }
}

/// An empty sum is zero, or what was there.
fn check_empty(dot: Dot<f32>, width: VectorWidth) {
    for m in [1, 5, 40] {
        for (accumulate, want) in [(0, 0.0), (1, 3.0)] {
            let n = width.panel();
            let mut c = vec![3.0_f32; m * n];
            let (row, null) = (n as i64, std::ptr::null());
            // SAFETY: with k = 0 neither operand is read.
            unsafe {
                let out = c.as_mut_ptr();
                dot(
                    m as i64,
                    row,
                    0,
                    null,
                    0,
                    1,
                    null,
                    row,
                    row,
                    1,
                    out,
                    row,
                    row,
                    1,
                    accumulate,
                    std::ptr::null_mut(),
                );
            }
            assert!(c.iter().all(|x| *x == want), "{width:?}");
        }
    }
}

/// The right operand's rows stand as columns do: few rows are multiplied in registers, more through the tile.
#[test]
fn a_right_operand_that_is_turned_over_gives_the_same_chains() {
    for width in support::widths() {
        let library = support::load(width, EXPORTS);
        // SAFETY: exports.c declares both with these signatures.
        let (turned, turned_bf16) = unsafe {
            (
                *library.get::<Turned<f32>>(b"test_dot_turned").unwrap(),
                *library.get::<Turned<bf16>>(b"test_dot_turned_bf16").unwrap(),
            )
        };
        let mut random = Random(7);
        let mut memory = [(); 3].map(|_| Guarded::new(&library));
        for _ in 0..if width == VectorWidth::Portable { 100 } else { 400 } {
            let (m, n, k) = (1 + random.below(14), size(&mut random, 80), size(&mut random, 200));
            let a = Layout::strided(&mut random, m, k);
            let (b_n, c_m) = (k + random.below(3) * 7, n + random.below(5));
            let b = Layout { row: b_n as i64, panel: 0, step: 1, padded: false, length: (n - 1) * b_n + k };
            let c = Layout { row: c_m as i64, panel: 0, step: 1, padded: false, length: (m - 1) * c_m + n };
            let a_values = a.fill(&mut random, m, k, 1);
            let b_values = b.fill(&mut random, n, k, 1);
            let mut c_values = c.fill(&mut random, m, n, 1);
            let before = c_values.clone();
            let narrow: Vec<bf16> = b_values.iter().map(|x| bf16::from_f32(*x)).collect();
            let (is_bf16, accumulate) = (random.below(2) == 0, random.below(2) == 0);
            let mut scratch = vec![f32::NAN; width.dot_scratch_floats()];
            let (mut tile, tile_k) = (vec![f32::NAN; k * (n + 3)], (n + 3) as i64);
            let (a_p, c_p) = (memory[0].put(&a_values), memory[2].put(&c_values));
            // SAFETY: the layouts were made for these sizes, and their allocations end where they must.
            unsafe {
                let (m, n, k, goes_on) = (m as i64, n as i64, k as i64, i32::from(accumulate));
                let (tile, scratch) = (tile.as_mut_ptr(), scratch.as_mut_ptr());
                if is_bf16 {
                    let b_p = memory[1].put(&narrow);
                    turned_bf16(
                        m, n, k, a_p, a.row, a.step, b_p, b.row, tile, tile_k, c_p, c.row, goes_on, scratch,
                    );
                } else {
                    let b_p = memory[1].put(&b_values);
                    turned(
                        m, n, k, a_p, a.row, a.step, b_p, b.row, tile, tile_k, c_p, c.row, goes_on, scratch,
                    );
                }
                c_values.copy_from_slice(std::slice::from_raw_parts(c_p, c.length));
            }
            let mut wanted = before.clone();
            for i in 0..m {
                for j in 0..n {
                    let start = if accumulate { before[c.at(i, j, 1)] } else { 0.0 };
                    let right = |kk| match is_bf16 {
                        true => narrow[b.at(j, kk, 1)].to_f32(),
                        false => b_values[b.at(j, kk, 1)],
                    };
                    wanted[c.at(i, j, 1)] =
                        (0..k).fold(start, |sum, kk| a_values[a.at(i, kk, 1)].mul_add(right(kk), sum));
                }
            }
            // What is no element is a number that is none, there as before.
            for (at, (found, wanted)) in c_values.iter().zip(&wanted).enumerate() {
                let same = found.to_bits() == wanted.to_bits();
                assert!(same, "{width:?} m={m} n={n} k={k} bf16={is_bf16} at {at}: {found} is not {wanted}");
            }
        }
    }
}
