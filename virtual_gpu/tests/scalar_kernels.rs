//! Whole kernels of ordinary instructions, as NVRTC compiles them, against plain references, and faults in them.

mod common;

use common::{Bench, diagnostic, products, random, relative_error};
use diptych_virtual_gpu::{Arguments, Fault, LaunchError, LaunchReport, Target};

const ROWS: &str = include_str!("kernels/rows.cu");
const MATMUL: &str = include_str!("kernels/matmul.cu");

fn softmax(definitions: &[&str], seed: u64) -> Option<(Result<LaunchReport, LaunchError>, f64)> {
    let mut bench = Bench::new(ROWS, Target::Sm80, definitions)?;
    bench.configuration.seed = seed;
    let (rows, n) = (7, 1000);
    let x = random(rows * n, 1);
    let (input, output) = (bench.floats(&x), bench.empty(rows * n * 4));
    let arguments = Arguments::new().pointer(input).pointer(output).integer(n as i32);
    let result = bench.launch("softmax", [rows as u32, 1, 1], [256, 1, 1], 0, arguments);
    let mut want = Vec::new();
    for row in x.chunks(n) {
        let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
        want.extend(row.iter().map(|x| f64::from(*x).exp() / sum));
    }
    let error =
        if result.is_ok() { relative_error(&bench.read_floats(output, rows * n), &want) } else { 0.0 };
    Some((result, error))
}

#[test]
fn softmax_is_right_whatever_the_schedule() {
    for seed in 0..5 {
        let Some((result, error)) = softmax(&[], seed) else { return };
        let report = result.unwrap_or_else(|error| panic!("{error}"));
        assert!(error < 1e-6, "{error}");
        assert!(report.total.load_sector_ratio() < 1.1 && report.total.store_sector_ratio() < 1.1);
    }
}

#[test]
fn faults_in_softmax_are_found_where_they_are() {
    for (definition, fault, needle) in [
        ("NO_BARRIER", Fault::SharedRace, "partial[i]"),
        ("NO_SECOND_BARRIER", Fault::SharedRace, "partial[warp] = sum"),
        ("OFF_BY_ONE", Fault::OutOfBounds, "x[i]"),
        ("DIVERGENT_BARRIER", Fault::Divergent, "__syncthreads"),
        ("ONE_PARTIAL_TOO_MANY", Fault::UninitialisedRead, "partial[i]"),
    ] {
        let Some((result, _)) = softmax(&[definition], 3) else { return };
        let diagnostic = diagnostic(result);
        println!("{diagnostic}");
        // A missing first barrier shows as a race or as a read of what is not written yet, whichever comes first.
        let early = definition == "NO_BARRIER" && diagnostic.fault == Fault::UninitialisedRead;
        assert!(diagnostic.fault == fault || early, "{definition}: {diagnostic}");
        let line = diagnostic.source.as_ref().unwrap().kernel_line() as usize;
        let text = ROWS.lines().nth(line - 1).unwrap();
        assert!(text.contains(needle) || diagnostic.fault != fault, "{definition}: {diagnostic}: {text}");
        assert_eq!(diagnostic.kernel, "softmax");
    }
}

fn layer_norm(definitions: &[&str]) -> Option<Result<LaunchReport, LaunchError>> {
    let mut bench = Bench::new(ROWS, Target::Sm80, definitions)?;
    let (rows, n) = (6, 770);
    let (x, scale, shift) = (random(rows * n, 2), random(n, 3), random(n, 4));
    let (input, a, b) = (bench.brain_floats(&x), bench.floats(&scale), bench.floats(&shift));
    let output = bench.empty(rows * n * 2);
    let arguments = Arguments::new().pointer(input).pointer(a).pointer(b).pointer(output);
    let arguments = arguments.integer(n as i32).float(1e-5);
    let result = bench.launch("layer_norm", [rows as u32, 1, 1], [128, 1, 1], 0, arguments);
    if result.is_ok() {
        let mut want = Vec::new();
        for row in x.chunks(n) {
            let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / n as f64;
            let variance = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n as f64;
            want.extend(row.iter().enumerate().map(|(i, x)| {
                (f64::from(*x) - mean) / (variance + 1e-5).sqrt() * f64::from(scale[i]) + f64::from(shift[i])
            }));
        }
        let error = relative_error(&bench.read_brain_floats(output, rows * n), &want);
        assert!(error < 3e-3, "{error}");
    }
    Some(result)
}

#[test]
fn layer_norm_and_its_faults() {
    let Some(result) = layer_norm(&[]) else { return };
    result.unwrap_or_else(|error| panic!("{error}"));
    for (definition, fault) in [("SHARED_ROWS", Fault::GlobalRace), ("MISALIGNED", Fault::Misaligned)] {
        let diagnostic = diagnostic(layer_norm(&[definition]).unwrap());
        println!("{diagnostic}");
        assert_eq!(diagnostic.fault, fault, "{diagnostic}");
    }
}

fn sum_by_last(definitions: &[&str]) -> Option<Result<LaunchReport, LaunchError>> {
    let mut bench = Bench::new(ROWS, Target::Sm80, definitions)?;
    let (n, blocks) = (10_000, 13);
    let x = random(n, 5);
    let (input, partials) = (bench.floats(&x), bench.empty(blocks * 4));
    let (finished, output) = (bench.upload(&[0; 4]), bench.empty(4));
    let arguments = Arguments::new().pointer(input).pointer(partials).pointer(finished).pointer(output);
    let result =
        bench.launch("sum_by_last", [blocks as u32, 1, 1], [128, 1, 1], 0, arguments.integer(n as i32));
    if result.is_ok() {
        let want: f64 = x.iter().map(|x| f64::from(*x)).sum();
        assert!((f64::from(bench.read_floats(output, 1)[0]) - want).abs() < 1e-2);
    }
    Some(result)
}

#[test]
fn blocks_that_synchronise_by_fence_and_atomic_do_not_race() {
    let Some(result) = sum_by_last(&[]) else { return };
    result.unwrap_or_else(|error| panic!("{error}"));
    let diagnostic = diagnostic(sum_by_last(&["NO_FENCE"]).unwrap());
    println!("{diagnostic}");
    assert_eq!(diagnostic.fault, Fault::GlobalRace);
}

fn matmul(definitions: &[&str]) -> Option<Result<LaunchReport, LaunchError>> {
    let mut bench = Bench::new(MATMUL, Target::Sm80, definitions)?;
    let (rows, columns, depth) = (50, 37, 45);
    let (a, b) = (random(rows * depth, 6), random(depth * columns, 7));
    let (left, right, output) = (bench.floats(&a), bench.floats(&b), bench.empty(rows * columns * 4));
    let arguments = Arguments::new().pointer(left).pointer(right).pointer(output);
    let arguments = arguments.integer(rows as i32).integer(columns as i32).integer(depth as i32);
    let result = bench.launch("matmul", [3, 4, 1], [16, 16, 1], 0, arguments);
    if result.is_ok() {
        let transposed: Vec<f32> = (0..columns * depth).map(|i| b[i % depth * columns + i / depth]).collect();
        let want = products(&a, &transposed, rows, columns, depth);
        assert!(relative_error(&bench.read_floats(output, rows * columns), &want) < 1e-6);
    }
    Some(result)
}

#[test]
fn matmul_of_odd_sizes_and_its_bank_conflicts() {
    let Some(result) = matmul(&[]) else { return };
    let good = result.unwrap_or_else(|error| panic!("{error}")).total.bank_conflict_ratio();
    let bad = matmul(&["COLUMN_STORE"]).unwrap().unwrap().total.bank_conflict_ratio();
    assert!(good < 1.01 && bad > 2.0, "{good} {bad}");
    let diagnostic = diagnostic(matmul(&["NO_BARRIER"]).unwrap());
    println!("{diagnostic}");
    assert_eq!(diagnostic.fault, Fault::SharedRace);
}
