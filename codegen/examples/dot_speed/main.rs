//! How near the prelude's `dot` comes to what one core can do: the share of the measured peak of
//! multiply-adds where it computes, and of a plain read where it streams weights.
//! The things compared are measured in turns, since a shared machine's speed drifts.

#[path = "../../tests/support/mod.rs"]
#[allow(dead_code)]
mod support;

use diptych_codegen::c::prelude::VectorWidth;
use half::bf16;
use std::hint::black_box;
use std::time::Instant;

const SOURCE: &str = concat!(include_str!("../../tests/support/exports.c"), include_str!("reference.c"));

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

struct Kernels {
    dot: Dot<f32>,
    dot_bf16: Dot<bf16>,
    peak: unsafe extern "C" fn(i64) -> f32,
    read: unsafe extern "C" fn(i64, *const f32) -> f32,
    panel: usize,
    scratch: Vec<f32>,
}

fn main() {
    let only = std::env::args().nth(1).filter(|name| !name.starts_with('-'));
    for width in support::widths() {
        let named = only.as_deref().is_some_and(|name| format!("{width:?}").eq_ignore_ascii_case(name));
        if !named && (only.is_some() || width == VectorWidth::Portable) {
            continue; // the portable width calls a function per lane: only when asked for
        }
        let library = support::load(width, SOURCE);
        // SAFETY: exports.c and dot.c declare these with these signatures.
        let mut kernels = unsafe {
            Kernels {
                dot: *library.get(b"test_dot").expect("dot"),
                dot_bf16: *library.get(b"test_dot_bf16").expect("dot_bf16"),
                peak: *library.get(b"bench_peak").expect("peak"),
                read: *library.get(b"bench_read").expect("read"),
                panel: width.panel(),
                scratch: vec![0.0; width.dot_scratch_floats()],
            }
        };
        println!("{width:?}, one thread, medians");
        for (m, k, n) in
            [(128, 288, 768), (128, 768, 288), (128, 1024, 768), (256, 512, 1408), (2048, 288, 2048)]
        {
            compute(&mut kernels, m, k, n);
        }
        stream(&mut kernels);
    }
}

/// Units of work per second, in 1e9, for each of the things done in turns: the median of the rounds.
fn in_turns<const N: usize>(rounds: usize, work: [f64; N], mut run: impl FnMut(usize)) -> [f64; N] {
    let mut speeds = [const { Vec::new() }; N];
    for _ in 0..rounds {
        for which in 0..N {
            let start = Instant::now();
            run(which);
            speeds[which].push(work[which] / start.elapsed().as_secs_f64() / 1e9);
        }
    }
    speeds.map(|mut speeds| {
        speeds.sort_by(f64::total_cmp);
        speeds[speeds.len() / 2]
    })
}

/// Activations [m, k] times weights [k, n]: packed, packed bf16, and row-major.
fn compute(kernels: &mut Kernels, m: usize, k: usize, n: usize) {
    let (panel, columns) = (kernels.panel, n.next_multiple_of(kernels.panel));
    let a = vec![0.5_f32; m * k];
    let b = vec![0.25_f32; k * columns];
    let b_bf16 = vec![bf16::from_f32(0.25); k * columns];
    let mut c = vec![0.0_f32; m * columns];
    let repeats = (100_000_000 / (m * n * k)).max(1);
    let flops = (2 * m * n * k * repeats) as f64;
    let peak_rounds = 1_000_000;
    let peak_flops = (2 * 12 * panel / 2 * peak_rounds) as f64;
    let [peak, packed, narrow, row_major] = in_turns(15, [peak_flops, flops, flops, flops], |which| {
        let (m, n, k, panel, columns) = (m as i64, n as i64, k as i64, panel as i64, columns as i64);
        let (a, b, c, scratch) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr(), kernels.scratch.as_mut_ptr());
        // SAFETY: a is m x k, b and c have whole panels.
        unsafe {
            match which {
                0 => drop(black_box((kernels.peak)(peak_rounds as i64))),
                1 => {
                    for _ in 0..repeats {
                        (kernels.dot)(
                            m,
                            n,
                            k,
                            a,
                            k,
                            1,
                            b,
                            k * panel,
                            panel,
                            1,
                            c,
                            columns,
                            panel,
                            1,
                            0,
                            scratch,
                        )
                    }
                }
                2 => {
                    for _ in 0..repeats {
                        let b = b_bf16.as_ptr();
                        (kernels.dot_bf16)(
                            m,
                            n,
                            k,
                            a,
                            k,
                            1,
                            b,
                            k * panel,
                            panel,
                            1,
                            c,
                            columns,
                            panel,
                            1,
                            0,
                            scratch,
                        )
                    }
                }
                _ => {
                    for _ in 0..repeats {
                        (kernels.dot)(
                            m, n, k, a, k, 1, b, panel, columns, 1, c, columns, panel, 1, 0, scratch,
                        )
                    }
                }
            }
        }
    });
    let share = |speed: f64| format!("{speed:6.1} GFLOP/s ({:3.0} %)", 100.0 * speed / peak);
    println!(
        "  m {m:4} k {k:4} n {n:4}: packed {}, bf16 {}, row-major {}; peak {peak:.1}",
        share(packed),
        share(narrow),
        share(row_major)
    );
}

/// A few rows through weights far larger than the caches, against a plain read of the same bytes.
fn stream(kernels: &mut Kernels) {
    let (k, n, weights) = (768, 3072, 24);
    let each = k * n;
    let w: Vec<f32> = (0..weights * each).map(|i| (i % 11) as f32 * 0.1).collect();
    let x = vec![0.5_f32; 8 * n];
    let mut y = vec![0.0_f32; 8 * n];
    let bytes = (w.len() * 4) as f64;
    const CASES: [&str; 7] = ["plain read", "m 1", "m 2", "m 4", "m 8", "m 1 bf16", "m 1 row-major"];
    let speeds = in_turns(9, [bytes; 7], |which| {
        let panel = kernels.panel as i64;
        let (k, n, scratch, y) = (k as i64, n as i64, kernels.scratch.as_mut_ptr(), y.as_mut_ptr());
        // SAFETY: x and y have room for eight rows, w for its weights; any bits are bf16 values.
        unsafe {
            match which {
                0 => drop(black_box((kernels.read)(w.len() as i64, w.as_ptr()))),
                5 => {
                    for weight in w.chunks_exact(each / 2) {
                        let b = weight.as_ptr().cast::<bf16>();
                        (kernels.dot_bf16)(
                            1,
                            n,
                            k,
                            x.as_ptr(),
                            k,
                            1,
                            b,
                            k * panel,
                            panel,
                            1,
                            y,
                            n,
                            panel,
                            1,
                            0,
                            scratch,
                        )
                    }
                }
                _ => {
                    for weight in w.chunks_exact(each) {
                        let m = [0, 1, 2, 4, 8, 1, 1][which];
                        let (b_panel, b_k) = if which == 6 { (panel, n) } else { (k * panel, panel) };
                        let b = weight.as_ptr();
                        (kernels.dot)(
                            m,
                            n,
                            k,
                            x.as_ptr(),
                            k,
                            1,
                            b,
                            b_panel,
                            b_k,
                            1,
                            y,
                            n,
                            panel,
                            1,
                            0,
                            scratch,
                        )
                    }
                }
            }
        }
    });
    for (case, speed) in CASES.iter().zip(speeds) {
        println!("  {case:13} {speed:5.1} GB/s ({:3.0} % of the plain read)", 100.0 * speed / speeds[0]);
    }
}
