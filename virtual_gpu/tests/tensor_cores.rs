//! Kernels of tensor-core instructions with staged copies, against plain references, and faults in them.

mod common;

use common::{Bench, diagnostic, products, random, relative_error};
use diptych_virtual_gpu::{Arguments, Fault, LaunchError, LaunchReport, Target};

const MMA_GEMM: &str = include_str!("kernels/mma_gemm.cu");

struct Gemm {
    result: Result<LaunchReport, LaunchError>,
    output: Vec<f32>,
    error: f64,
}

fn mma_gemm(definitions: &[&str], [m, n, k]: [usize; 3], seed: u64) -> Option<Gemm> {
    let mut bench = Bench::new(MMA_GEMM, Target::Sm80, definitions)?;
    bench.configuration.seed = seed;
    let (a, b) = (random(m * k, 1), random(n * k, 2));
    let (left, right, output) = (bench.brain_floats(&a), bench.brain_floats(&b), bench.empty(m * n * 4));
    let arguments = Arguments::new().pointer(left).pointer(right).pointer(output);
    let arguments = arguments.integer(m as i32).integer(n as i32).integer(k as i32);
    let grid = [n.div_ceil(64) as u32, m.div_ceil(64) as u32, 1];
    let result = bench.launch("mma_gemm", grid, [128, 1, 1], 0, arguments);
    if result.is_err() {
        return Some(Gemm { result, output: Vec::new(), error: 0.0 });
    }
    let output = bench.read_floats(output, m * n);
    let error = relative_error(&output, &products(&a, &b, m, n, k));
    Some(Gemm { result, output, error })
}

#[test]
fn gemm_of_odd_sizes_is_right_and_without_bank_conflicts() {
    for seed in 0..3 {
        let Some(gemm) = mma_gemm(&[], [100, 75, 136], seed) else { return };
        let report = gemm.result.unwrap_or_else(|error| panic!("{error}"));
        assert!(gemm.error < 1e-5, "{}", gemm.error);
        let main_loop = report.main_loop();
        assert!(main_loop.bank_conflict_ratio() < 1.01, "{main_loop:?}");
        assert!(main_loop.tensor_core_instructions == report.total.tensor_core_instructions);
        let line = |text: &str| MMA_GEMM.lines().position(|line| line.contains(text)).unwrap() as u32 + 1;
        let by_line = report.source_lines(line("// main loop")..line("// end of the main loop"));
        assert_eq!(by_line.tensor_core_instructions, report.total.tensor_core_instructions);
    }
}

#[test]
fn instruction_families_show_in_bits() {
    let Some(k16) = mma_gemm(&[], [64, 64, 256], 1) else { return };
    let k8 = mma_gemm(&["K8"], [64, 64, 256], 1).unwrap();
    assert!(k16.error < 1e-5 && k8.error < 1e-5, "{} {}", k16.error, k8.error);
    assert_ne!(k16.output, k8.output);
    assert_eq!(k16.output, mma_gemm(&[], [64, 64, 256], 9).unwrap().output);
}

#[test]
fn swizzles_matter() {
    let Some(gemm) = mma_gemm(&["NO_SWIZZLE"], [64, 64, 64], 1) else { return };
    assert!(gemm.result.unwrap().main_loop().bank_conflict_ratio() > 1.5);
}

#[test]
fn faults_in_the_gemm_are_found() {
    for (definition, faults) in [
        ("NO_BARRIER", &[Fault::SharedRace, Fault::MissingWait][..]),
        ("PENDING 2 //", &[Fault::MissingWait]),
        ("NO_BOUND", &[Fault::OutOfBounds]),
        ("NO_STORE_BOUND", &[Fault::OutOfBounds, Fault::GlobalRace]),
        ("NO_ZERO", &[Fault::UninitialisedRead]),
    ] {
        let Some(gemm) = mma_gemm(&[definition], [100, 75, 136], 2) else { return };
        let diagnostic = diagnostic(gemm.result);
        println!("{diagnostic}");
        assert!(faults.contains(&diagnostic.fault), "{definition}: {diagnostic}");
    }
}
