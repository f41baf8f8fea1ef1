//! Kernels of tensor-core instructions with staged copies, against plain references, and faults in them.

mod common;

use common::{Bench, diagnostic, products, random, relative_error};
use diptych_virtual_gpu::{Arguments, Fault, LaunchError, LaunchReport, Swizzle, Target, TensorMap};

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
        // What is seen first depends on the schedule: a copy on its way, one that was not even issued, or one that landed.
        ("NO_BARRIER", &[Fault::SharedRace, Fault::MissingWait, Fault::UninitialisedRead][..]),
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

fn attention(definitions: &[&str], seed: u64) -> Option<Gemm> {
    let mut bench = Bench::new(include_str!("kernels/attention.cu"), Target::Sm80, definitions)?;
    bench.configuration.seed = seed;
    let (heads, time, size) = (2, 192, 64);
    let [q, k, v] = [1, 2, 3].map(|seed| random(heads * time * size, seed));
    let [queries, keys, values] = [&q, &k, &v].map(|values| bench.brain_floats(values));
    let output = bench.empty(heads * time * size * 2);
    let arguments = Arguments::new().pointer(queries).pointer(keys).pointer(values).pointer(output);
    let arguments = arguments.integer(time as i32).float(0.125);
    let result = bench.launch("attention", [time as u32 / 64, heads as u32, 1], [128, 1, 1], 0, arguments);
    if result.is_err() {
        return Some(Gemm { result, output: Vec::new(), error: 0.0 });
    }
    let mut want = Vec::new();
    for head in 0..heads {
        let part = |x: &[f32]| x[head * time * size..][..time * size].to_vec();
        let (q, k, v) = (part(&q), part(&k), part(&v));
        for (row, scores) in products(&q, &k, time, time, size).chunks(time).enumerate() {
            let weights: Vec<f64> = scores[..=row].iter().map(|score| (score * 0.125).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for column in 0..size {
                let value = |(at, weight): (usize, &f64)| weight / sum * f64::from(v[at * size + column]);
                want.push(weights.iter().enumerate().map(value).sum());
            }
        }
    }
    let output = bench.read_brain_floats(output, heads * time * size);
    let error = relative_error(&output, &want);
    Some(Gemm { result, output, error })
}

#[test]
fn causal_attention_and_its_faults() {
    for seed in 0..3 {
        let Some(attention) = attention(&[], seed) else { return };
        let report = attention.result.unwrap_or_else(|error| panic!("{error}"));
        assert!(attention.error < 5e-3, "{}", attention.error);
        assert!(report.total.bank_conflict_ratio() < 1.01);
    }
    assert!(attention(&["NO_MASK"], 1).unwrap().error > 0.1);
    for (definition, faults) in
        [("NO_BARRIER", &[Fault::SharedRace, Fault::MissingWait][..]), ("NO_WAIT", &[Fault::MissingWait])]
    {
        let diagnostic = diagnostic(attention(&[definition], 2).unwrap().result);
        println!("{diagnostic}");
        assert!(faults.contains(&diagnostic.fault), "{definition}: {diagnostic}");
    }
}

fn wgmma_gemm(definitions: &[&str], [m, n, k]: [usize; 3], seed: u64) -> Option<Gemm> {
    let mut bench = Bench::new(include_str!("kernels/wgmma_gemm.cu"), Target::Sm90a, definitions)?;
    bench.configuration.seed = seed;
    let (a, b) = (random(m * k, 1), random(n * k, 2));
    let (left, right, output) = (bench.brain_floats(&a), bench.brain_floats(&b), bench.empty(m * n * 2));
    let map = |address: u64, columns: usize, rows: usize, box_rows: u32| {
        let map = TensorMap {
            address,
            element_bytes: 2,
            sizes: vec![columns as u64, rows as u64],
            strides: vec![columns as u64 * 2],
            box_sizes: vec![64, box_rows],
            swizzle: Swizzle::Bytes128,
        };
        map.encode().unwrap()
    };
    let arguments = Arguments::new().tensor_map(&map(left, k, m, 64)).tensor_map(&map(right, k, n, 128));
    let arguments = arguments.tensor_map(&map(output, n, m, 64)).integer(k as i32);
    let grid = [n.div_ceil(128) as u32, m.div_ceil(64) as u32, 1];
    let shared = 1024 + 3 * (64 + 128) * 64 * 2 + 64 * 128 * 2;
    let result = bench.launch("wgmma_gemm", grid, [160, 1, 1], shared, arguments);
    if result.is_err() {
        return Some(Gemm { result, output: Vec::new(), error: 0.0 });
    }
    let output = bench.read_brain_floats(output, m * n);
    let error = relative_error(&output, &products(&a, &b, m, n, k));
    Some(Gemm { result, output, error })
}

#[test]
fn warp_specialised_gemm_with_tensor_copies_is_right() {
    for seed in 0..4 {
        let Some(gemm) = wgmma_gemm(&[], [100, 200, 456], seed) else { return };
        let report = gemm.result.unwrap_or_else(|error| panic!("{error}"));
        assert!(gemm.error < 3e-3, "{}", gemm.error);
        assert_eq!(report.total.tensor_core_instructions, 4 * 4 * 8 * 4);
    }
}

#[test]
fn faults_in_the_warp_specialised_gemm_are_found() {
    assert!(wgmma_gemm(&["WRONG_SWIZZLE"], [100, 200, 456], 1).is_none_or(|gemm| gemm.error > 0.1));
    for (definition, faults) in [
        ("WRONG_COUNT", &[Fault::Deadlock][..]),
        ("WRONG_BYTES", &[Fault::Deadlock]),
        ("WRONG_PARITY", &[Fault::Deadlock]),
        ("NO_INIT_BARRIER", &[Fault::SharedRace, Fault::InvalidUse]),
        ("NO_EMPTY_WAIT", &[Fault::MissingWait, Fault::SharedRace, Fault::InvalidUse]),
        ("NO_FULL_WAIT", &[Fault::MissingWait, Fault::SharedRace, Fault::UninitialisedRead]),
        ("NO_WGMMA_FENCE", &[Fault::MissingFence]),
        ("NO_PRODUCT_WAIT", &[Fault::RegisterInFlight, Fault::MissingWait]),
        ("EARLY_RELEASE", &[Fault::MissingWait, Fault::SharedRace]),
        ("NO_PROXY_FENCE", &[Fault::MissingFence]),
        (
            "NO_RESULT_BARRIER",
            &[Fault::SharedRace, Fault::UninitialisedRead, Fault::MissingFence, Fault::MissingWait],
        ),
        ("NO_STORE_WAIT", &[Fault::MissingWait]),
    ] {
        let Some(gemm) = wgmma_gemm(&[definition], [100, 200, 456], 2) else { return };
        let diagnostic = diagnostic(gemm.result);
        println!("{definition}: {diagnostic}");
        assert!(faults.contains(&diagnostic.fault), "{definition}: {diagnostic}");
    }
}

/// A persistent kernel of three warpgroups with its maps in global memory.
fn warp_specialised(definitions: &[&str], [m, n, k]: [usize; 3], seed: u64) -> Option<Gemm> {
    let mut bench = Bench::new(include_str!("kernels/warp_specialised.cu"), Target::Sm90a, definitions)?;
    bench.configuration.seed = seed;
    let (a, b) = (random(m * k, 1), random(n * k, 2));
    // Columns of b run along memory.
    let across: Vec<f32> = (0..k * n).map(|at| b[at % n * k + at / n]).collect();
    let (left, right, output) = (bench.brain_floats(&a), bench.brain_floats(&across), bench.empty(4 * m * n));
    let map = |address: u64, columns: usize, rows: usize, box_rows: u32| {
        let map = TensorMap {
            address,
            element_bytes: 2,
            sizes: vec![columns as u64, rows as u64],
            strides: vec![columns as u64 * 2],
            box_sizes: vec![64, box_rows],
            swizzle: Swizzle::Bytes128,
        };
        map.encode().unwrap()
    };
    let maps = bench.upload(&[map(left, k, m, 128), map(right, n, k, 64)].concat());
    let sizes = [m, n, k].map(|size| size as i32);
    let arguments = Arguments::new().pointer(maps).pointer(output);
    let arguments = sizes.into_iter().fold(arguments, Arguments::integer);
    let shared = 1024 + 4 * (128 + 64) * 64 * 2;
    let result = bench.launch("warp_specialised", [2, 1, 1], [384, 1, 1], shared, arguments);
    if result.is_err() {
        return Some(Gemm { result, output: Vec::new(), error: 0.0 });
    }
    let output = bench.read_floats(output, m * n);
    let error = relative_error(&output, &products(&a, &b, m, n, k));
    Some(Gemm { result, output, error })
}

#[test]
fn a_producer_runs_ahead_of_two_warpgroups_over_many_tiles() {
    for seed in 0..4 {
        let Some(gemm) = warp_specialised(&[], [200, 152, 328], seed) else { return };
        let report = gemm.result.unwrap_or_else(|error| panic!("{error}"));
        assert!(gemm.error < 1e-6, "{}", gemm.error);
        // Tiles, steps, instructions of a step, warps.
        assert_eq!(report.total.tensor_core_instructions, 6 * 6 * 4 * 8);
    }
    for (definition, faults) in [
        ("NO_ACQUIRE", &[Fault::MissingFence][..]),
        ("NO_START", &[Fault::UninitialisedRead]),
        ("ONE_GROUP_RELEASES", &[Fault::MissingWait, Fault::SharedRace]),
    ] {
        let Some(gemm) = warp_specialised(&[definition], [200, 152, 328], 3) else { return };
        let diagnostic = diagnostic(gemm.result);
        println!("{definition}: {diagnostic}");
        assert!(faults.contains(&diagnostic.fault), "{definition}: {diagnostic}");
    }
}
