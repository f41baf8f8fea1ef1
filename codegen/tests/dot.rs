//! The prelude's `dot` against one naive chain of fused multiply-adds per element, bit for bit, in every
//! vector width, layout, padding and accumulation. Must not know of anything generated.

mod support;

use diptych_codegen::c::prelude::VectorWidth;
use half::{bf16, f16};
use libloading::Library;
use std::collections::BTreeSet;
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

/// A type of right operands: what its functions' names end with, and how numbers become its elements.
trait Element: Copy {
    const SUFFIX: &'static str;
    fn narrow(x: f32) -> Self;
    fn widen(self) -> f32;
}

impl Element for f32 {
    const SUFFIX: &'static str = "";
    fn narrow(x: f32) -> f32 {
        x
    }
    fn widen(self) -> f32 {
        self
    }
}

impl Element for bf16 {
    const SUFFIX: &'static str = "_bf16";
    fn narrow(x: f32) -> bf16 {
        bf16::from_f32(x)
    }
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl Element for f16 {
    const SUFFIX: &'static str = "_f16";
    /// Some of them denormal.
    fn narrow(x: f32) -> f16 {
        f16::from_f32(if x.abs() < 0.05 { x * 1e-4 } else { x })
    }
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl Element for i8 {
    const SUFFIX: &'static str = "_i8";
    fn narrow(x: f32) -> i8 {
        (x * 300.0) as i8
    }
    fn widen(self) -> f32 {
        f32::from(self)
    }
}

#[test]
fn every_element_is_one_chain() {
    for width in support::widths() {
        let library = support::load(width, EXPORTS);
        let rounds = if width == VectorWidth::Portable { 75 } else { 250 };
        chains::<f32>(&library, width, rounds);
        chains::<bf16>(&library, width, rounds);
        chains::<f16>(&library, width, rounds);
        chains::<i8>(&library, width, rounds);
    }
}

#[test]
fn no_block_changes_a_chain() {
    for width in support::widths() {
        let depths: BTreeSet<usize> = width.blockings().iter().map(|blocking| blocking.depth).collect();
        for depth in depths.into_iter().filter(|&depth| depth != width.blocking().depth) {
            let library = support::load_with(width, &[format!("-DDOT_BLOCK_K={depth}")], EXPORTS);
            chains::<f32>(&library, width, 26);
            chains::<bf16>(&library, width, 11);
            across_chains(&library, width, 16);
        }
    }
}

fn chains<T: Element>(library: &Library, width: VectorWidth, rounds: usize) {
    // SAFETY: exports.c declares it with this signature.
    let dot = unsafe { *library.get::<Dot<T>>(format!("test_dot{}", T::SUFFIX).as_bytes()).unwrap() };
    let mut random = Random(5);
    let mut memory = [(); 3].map(|_| Guarded::new(library));
    let panel = width.panel();
    for round in 0..rounds {
        // Rarely large: what splits into blocks of rows and of k.
        let (largest_m, largest_k) = if round % 25 == 0 { (330, 900) } else { (60, 130) };
        let (m, n) = (size(&mut random, largest_m), size(&mut random, 300));
        let k = if round % 10 == 0 { 385 + random.below(largest_k) } else { size(&mut random, largest_k) };
        check(&mut random, &mut memory, dot, width, [m, n, k], panel);
    }
    check_empty(dot, width);
}

fn check<T: Element>(
    random: &mut Random,
    memory: &mut [Guarded; 3],
    dot: Dot<T>,
    width: VectorWidth,
    [m, n, k]: [usize; 3],
    panel: usize,
) {
    let a = Layout::strided(random, m, k);
    let b = Layout::in_panels(random, k, n, panel);
    let c = Layout::in_panels(random, m, n, panel);
    let a_values = a.fill(random, m, k, panel);
    let b_values: Vec<T> = b.fill(random, k, n, panel).into_iter().map(T::narrow).collect();
    let mut c_values = c.fill(random, m, n, panel);
    let before = c_values.clone();
    let accumulate = random.below(2) == 0;
    let mut scratch = vec![f32::NAN; width.dot_scratch_floats()];
    let scratch = if random.below(2) == 0 { scratch.as_mut_ptr() } else { std::ptr::null_mut() };
    let (a_p, b_p, c_p) = (memory[0].put(&a_values), memory[1].put(&b_values), memory[2].put(&c_values));
    // SAFETY: the layouts were made for these sizes, and their allocations end where they must.
    unsafe {
        let (m, n, k) = (m as i64, n as i64, k as i64);
        let (bp, cp, accumulate) = (b.padded as i32, c.padded as i32, accumulate as i32);
        dot(
            m, n, k, a_p, a.row, a.step, b_p, b.panel, b.row, bp, c_p, c.row, c.panel, cp, accumulate,
            scratch,
        );
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
                want = a_values[a.at(i, kk, panel)].mul_add(b_values[b.at(kk, j, panel)].widen(), want);
            }
            assert_eq!(
                c_values[at].to_bits(),
                want.to_bits(),
                "{width:?}{} m={m} n={n} k={k} accumulate={accumulate} at [{i},{j}]: {} is not {want}",
                T::SUFFIX,
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
fn check_empty<T: Element>(dot: Dot<T>, width: VectorWidth) {
    for m in [1, 5, 40] {
        for (accumulate, want) in [(0, 0.0), (1, 3.0)] {
            let n = width.panel();
            let mut c = vec![3.0_f32; m * n];
            let row = n as i64;
            // SAFETY: with k = 0 neither operand is read.
            unsafe {
                let out = c.as_mut_ptr();
                dot(
                    m as i64,
                    row,
                    0,
                    std::ptr::null(),
                    0,
                    1,
                    std::ptr::null(),
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
        turned_chains::<f32>(&library, width);
        turned_chains::<bf16>(&library, width);
        turned_chains::<f16>(&library, width);
        turned_chains::<i8>(&library, width);
    }
}

fn turned_chains<T: Element>(library: &Library, width: VectorWidth) {
    let name = format!("test_dot_turned{}", T::SUFFIX);
    // SAFETY: exports.c declares it with this signature.
    let turned = unsafe { *library.get::<Turned<T>>(name.as_bytes()).unwrap() };
    let mut random = Random(7);
    let mut memory = [(); 3].map(|_| Guarded::new(library));
    for _ in 0..if width == VectorWidth::Portable { 50 } else { 200 } {
        let (m, n, k) = (1 + random.below(14), size(&mut random, 80), size(&mut random, 200));
        let a = Layout::strided(&mut random, m, k);
        let (b_n, c_m) = (k + random.below(3) * 7, n + random.below(5));
        let b = Layout { row: b_n as i64, panel: 0, step: 1, padded: false, length: (n - 1) * b_n + k };
        let c = Layout { row: c_m as i64, panel: 0, step: 1, padded: false, length: (m - 1) * c_m + n };
        let a_values = a.fill(&mut random, m, k, 1);
        let b_values: Vec<T> = b.fill(&mut random, n, k, 1).into_iter().map(T::narrow).collect();
        let mut c_values = c.fill(&mut random, m, n, 1);
        let before = c_values.clone();
        let accumulate = random.below(2) == 0;
        let mut scratch = vec![f32::NAN; width.dot_scratch_floats()];
        let (mut tile, tile_k) = (vec![f32::NAN; k * (n + 3)], (n + 3) as i64);
        let (a_p, b_p, c_p) = (memory[0].put(&a_values), memory[1].put(&b_values), memory[2].put(&c_values));
        // SAFETY: the layouts were made for these sizes, and their allocations end where they must.
        unsafe {
            let (m, n, k, goes_on) = (m as i64, n as i64, k as i64, i32::from(accumulate));
            let (tile, scratch) = (tile.as_mut_ptr(), scratch.as_mut_ptr());
            turned(m, n, k, a_p, a.row, a.step, b_p, b.row, tile, tile_k, c_p, c.row, goes_on, scratch);
            c_values.copy_from_slice(std::slice::from_raw_parts(c_p, c.length));
        }
        let mut wanted = before.clone();
        for i in 0..m {
            for j in 0..n {
                let start = if accumulate { before[c.at(i, j, 1)] } else { 0.0 };
                let right = |kk| b_values[b.at(j, kk, 1)].widen();
                wanted[c.at(i, j, 1)] =
                    (0..k).fold(start, |sum, kk| a_values[a.at(i, kk, 1)].mul_add(right(kk), sum));
            }
        }
        // What is no element is a number that is none, there as before.
        for (at, (found, wanted)) in c_values.iter().zip(&wanted).enumerate() {
            let same = found.to_bits() == wanted.to_bits();
            assert!(same, "{width:?} {name} m={m} n={n} k={k} at {at}: {found} is not {wanted}");
        }
    }
}

type Across = unsafe extern "C" fn(
    i64,
    i64,
    i64,
    *const f32,
    i64,
    i64,
    *const f32,
    i64,
    *mut f32,
    i64,
    i64,
    i32,
    i32,
    *mut f32,
);

/// A weight whose panels hold what is summed: turned over panel by panel, in blocks of rows and of the sum.
#[test]
fn a_weight_that_lies_across_gives_the_same_chains() {
    for width in support::widths() {
        let rounds = if width == VectorWidth::Portable { 40 } else { 150 };
        across_chains(&support::load(width, EXPORTS), width, rounds);
    }
}

fn across_chains(library: &Library, width: VectorWidth, rounds: usize) {
    // SAFETY: exports.c declares it with this signature.
    let across = unsafe { *library.get::<Across>(b"test_dot_across").unwrap() };
    let mut random = Random(11);
    let mut memory = [(); 3].map(|_| Guarded::new(library));
    let panel = width.panel();
    for round in 0..rounds {
        let (largest_m, largest_k) = if round % 15 == 0 { (330, 900) } else { (60, 130) };
        let (m, n) = (size(&mut random, largest_m), size(&mut random, 300));
        let k = size(&mut random, largest_k);
        let a = Layout::strided(&mut random, m, k);
        let c = Layout::in_panels(&mut random, m, n, panel);
        // Panels may have more rows than are asked for; the last is filled up.
        let b_panel = (n + random.below(3)) * panel;
        let b_at = |kk: usize, j: usize| kk / panel * b_panel + j * panel + kk % panel;
        let a_values = a.fill(&mut random, m, k, panel);
        let mut b_values = vec![f32::NAN; k.div_ceil(panel) * b_panel];
        for kk in 0..k {
            for j in 0..n {
                b_values[b_at(kk, j)] = random.float();
            }
        }
        let before = c.fill(&mut random, m, n, panel);
        let accumulate = random.below(2) == 0;
        let mut scratch = vec![f32::NAN; width.dot_scratch_floats()];
        let (a_p, b_p, c_p) = (memory[0].put(&a_values), memory[1].put(&b_values), memory[2].put(&before));
        // SAFETY: the layouts were made for these sizes, and their allocations end where they must.
        let found = unsafe {
            let (m, n, k, goes_on) = (m as i64, n as i64, k as i64, i32::from(accumulate));
            let (padded, scratch) = (i32::from(c.padded), scratch.as_mut_ptr());
            across(
                m,
                n,
                k,
                a_p,
                a.row,
                a.step,
                b_p,
                b_panel as i64,
                c_p,
                c.row,
                c.panel,
                padded,
                goes_on,
                scratch,
            );
            std::slice::from_raw_parts(c_p, c.length).to_vec()
        };
        let mut is_element = vec![false; c.length];
        for i in 0..m {
            for j in 0..n {
                let at = c.at(i, j, panel);
                is_element[at] = true;
                let start = if accumulate { before[at] } else { 0.0 };
                let add = |sum: f32, kk| a_values[a.at(i, kk, panel)].mul_add(b_values[b_at(kk, j)], sum);
                let wanted = (0..k).fold(start, add);
                let what = format!("{width:?} m={m} n={n} k={k} accumulate={accumulate} at [{i},{j}]");
                assert_eq!(found[at].to_bits(), wanted.to_bits(), "{what}: {} is not {wanted}", found[at]);
            }
        }
        let untouched = c.padded || found.iter().zip(&is_element).all(|(x, element)| *element || x.is_nan());
        assert!(untouched, "{width:?} m={m} n={n} k={k}: wrote to what is no element");
    }
}
