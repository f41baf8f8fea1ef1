//! How fast kernels run on the virtual GPU, with and without checks: `cargo run --release --example speed`.
//! The processor time of one run of each; NVRTC has to be installed (`setup/cuda.sh`).

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Bench, random};
use diptych_virtual_gpu::{Arguments, Swizzle, Target, TensorMap};
use std::time::Duration;

struct Case {
    name: &'static str,
    kernel: &'static str,
    bench: Bench,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    arguments: Arguments,
}

fn cases() -> Option<Vec<Case>> {
    let mut cases = Vec::new();
    let mut bench = Bench::new(include_str!("../tests/kernels/rows.cu"), Target::Sm80, &[])?;
    let (x, y) = (bench.floats(&random(256 * 4096, 1)), bench.empty(256 * 4096 * 4));
    let arguments = Arguments::new().pointer(x).pointer(y).integer(4096);
    let (grid, block) = ([256, 1, 1], [256, 1, 1]);
    cases.push(Case {
        name: "softmax 256 x 4096",
        kernel: "softmax",
        bench,
        grid,
        block,
        shared: 0,
        arguments,
    });

    let mut bench = Bench::new(include_str!("../tests/kernels/matmul.cu"), Target::Sm80, &[])?;
    let (a, b) = (bench.floats(&random(256 * 256, 1)), bench.floats(&random(256 * 256, 2)));
    let c = bench.empty(256 * 256 * 4);
    let arguments = Arguments::new().pointer(a).pointer(b).pointer(c).integer(256).integer(256).integer(256);
    let (grid, block) = ([16, 16, 1], [16, 16, 1]);
    cases.push(Case { name: "matmul f32 256^3", kernel: "matmul", bench, grid, block, shared: 0, arguments });

    let mut bench = Bench::new(include_str!("../tests/kernels/mma_gemm.cu"), Target::Sm80, &[])?;
    let (a, b) = (bench.brain_floats(&random(512 * 512, 1)), bench.brain_floats(&random(512 * 512, 2)));
    let c = bench.empty(512 * 512 * 4);
    let arguments = Arguments::new().pointer(a).pointer(b).pointer(c).integer(512).integer(512).integer(512);
    let (grid, block) = ([8, 8, 1], [128, 1, 1]);
    cases.push(Case { name: "mma gemm 512^3", kernel: "mma_gemm", bench, grid, block, shared: 0, arguments });

    let mut bench = Bench::new(include_str!("../tests/kernels/attention.cu"), Target::Sm80, &[])?;
    let [q, k, v] = [1, 2, 3].map(|seed| bench.brain_floats(&random(4 * 256 * 64, seed)));
    let o = bench.empty(4 * 256 * 64 * 2);
    let arguments = Arguments::new().pointer(q).pointer(k).pointer(v).pointer(o).integer(256).float(0.125);
    let (grid, block) = ([4, 4, 1], [128, 1, 1]);
    cases.push(Case {
        name: "attention 4 x 256 x 64",
        kernel: "attention",
        bench,
        grid,
        block,
        shared: 0,
        arguments,
    });

    let mut bench = Bench::new(include_str!("../tests/kernels/wgmma_gemm.cu"), Target::Sm90a, &[])?;
    let (a, b) = (bench.brain_floats(&random(512 * 512, 1)), bench.brain_floats(&random(512 * 512, 2)));
    let c = bench.empty(512 * 512 * 2);
    let map = |address: u64, rows: u32| {
        let (sizes, strides, box_sizes) = (vec![512, 512], vec![1024], vec![64, rows]);
        let map =
            TensorMap { address, element_bytes: 2, sizes, strides, box_sizes, swizzle: Swizzle::Bytes128 };
        map.encode().unwrap()
    };
    let arguments = Arguments::new().tensor_map(&map(a, 64)).tensor_map(&map(b, 128)).tensor_map(&map(c, 64));
    let (grid, block, shared) = ([4, 8, 1], [160, 1, 1], 1024 + 3 * 192 * 128 + 64 * 256);
    let arguments = arguments.integer(512);
    cases.push(Case {
        name: "wgmma gemm 512^3",
        kernel: "wgmma_gemm",
        bench,
        grid,
        block,
        shared,
        arguments,
    });
    Some(cases)
}

/// Processor time of this thread: other programs on the machine do not count.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.expect("Linux says how long a thread has run"))
}

fn main() {
    let Some(cases) = cases() else { return };
    println!(
        "{:<24} {:>12} {:>12} {:>12} {:>22}",
        "kernel", "all checks", "no counters", "no checks", "lane instructions / s"
    );
    for mut case in cases {
        let mut times = Vec::new();
        let mut lanes = 0;
        for (checks, counters) in [(true, true), (true, false), (false, false)] {
            case.bench.configuration.initialised = checks;
            case.bench.configuration.races = checks;
            case.bench.configuration.counters = counters;
            let best = (0..3)
                .map(|_| {
                    let start = processor_time();
                    let arguments = case.arguments.clone();
                    let result =
                        case.bench.launch(case.kernel, case.grid, case.block, case.shared, arguments);
                    lanes = result.unwrap_or_else(|error| panic!("{error}")).total.lane_instructions;
                    processor_time() - start
                })
                .min()
                .unwrap();
            times.push(best);
        }
        let milliseconds = |at: usize| format!("{:.1} ms", times[at].as_secs_f64() * 1e3);
        let rate = |at: usize| lanes as f64 / times[at].as_secs_f64() / 1e6;
        println!(
            "{:<24} {:>12} {:>12} {:>12} {:>10.0} M {:>8.0} M",
            case.name,
            milliseconds(0),
            milliseconds(1),
            milliseconds(2),
            rate(0),
            rate(2)
        );
    }
}
