//! tcgen05: products with sums in tensor memory, with every layout of their operands, and the faults that are found.

mod common;

use common::{Bench, diagnostic, products, random, relative_error};
use diptych_virtual_gpu::{Arguments, Fault, LaunchError, LaunchReport, Target};

const SOURCE: &str = include_str!("kernels/tcgen05_product.cu");
const DEPTH: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Case {
    rows: usize,
    columns: usize,
    /// Bytes of the swizzles of both operands, and whether k runs along memory.
    widths: [usize; 2],
    along_k: [bool; 2],
    rounds: usize,
}

const CASE: Case = Case { rows: 128, columns: 64, widths: [128, 128], along_k: [true, true], rounds: 1 };

/// Runs the kernel with some definitions: the result, what is found in c, and what should be. `None` without NVRTC.
#[allow(clippy::type_complexity)]
fn run(
    case: Case,
    definitions: &[&str],
    seed: u64,
) -> Option<(Result<LaunchReport, LaunchError>, Vec<f32>, Vec<f64>)> {
    let Case { rows, columns, widths, along_k, rounds } = case;
    let numbers = [
        format!("#define ROWS {rows}\n#define COLUMNS {columns}\n#define ROUNDS {rounds}\n"),
        format!("#define A_WIDTH {}\n#define B_WIDTH {}\n", widths[0], widths[1]),
        format!("#define A_ALONG_K {}\n#define B_ALONG_K {}\n", along_k[0], along_k[1]),
    ];
    let defined: String = definitions.iter().map(|name| format!("#define {name}\n")).collect();
    let source = format!("{}{defined}#line 1\n{SOURCE}", numbers.concat());
    let mut bench = Bench::new(&source, Target::Sm100a, &[])?;
    bench.configuration.seed = seed;
    let (a, b) = (random(rows * DEPTH, 1), random(columns * DEPTH, 2));
    let (at_a, at_b) = (bench.brain_floats(&a), bench.brain_floats(&b));
    let c = bench.empty(rows * columns * 4);
    let arguments = Arguments::new().pointer(at_a).pointer(at_b).pointer(c);
    let shared = ((rows + columns) * DEPTH * 2 + 1024) as u32;
    let result = bench.launch("tcgen05_product", [1, 1, 1], [160, 1, 1], shared, arguments);
    let mut want = products(&a, &b, rows, columns, DEPTH);
    want.iter_mut().for_each(|value| *value *= rounds as f64);
    Some((result, bench.read_floats(c, rows * columns), want))
}

fn check(case: Case, definitions: &[&str]) {
    let Some((result, got, want)) = run(case, definitions, 1) else { return };
    result.unwrap_or_else(|error| panic!("{case:?} {definitions:?}: {error}"));
    let error = relative_error(&got, &want);
    assert!(error < 1e-6, "{case:?} {definitions:?}: {error}");
}

#[test]
fn products_of_all_layouts() {
    for width in [16, 32, 64, 128] {
        for along_k in [true, false] {
            check(Case { widths: [width, 128], along_k: [along_k, true], ..CASE }, &[]);
            check(Case { widths: [128, width], along_k: [true, along_k], ..CASE }, &[]);
        }
    }
    for (rows, columns) in [(64, 16), (64, 24), (64, 256), (128, 16), (128, 48), (128, 256)] {
        check(Case { rows, columns, rounds: 3, widths: [128, 16], ..CASE }, &[]);
    }
    check(Case { rows: 128, ..CASE }, &["FRAGMENTS"]);
    check(Case { rounds: 2, ..CASE }, &["LEFT_IN_TENSOR"]);
    check(Case { rounds: 2, ..CASE }, &["LEFT_IN_TENSOR", "FRAGMENTS"]);
}

#[test]
fn what_is_missing_is_found() {
    let two = Case { rounds: 2, ..CASE };
    let in_tensor = ["LEFT_IN_TENSOR"];
    let nothing: [&str; 0] = [];
    for (case, base, fault_seeded, fault) in [
        (CASE, &nothing[..], "NO_PROXY_FENCE", Fault::MissingFence),
        (CASE, &nothing, "NO_BARRIER", Fault::UninitialisedRead),
        (CASE, &nothing, "NO_FENCE_AFTER", Fault::MissingFence),
        (CASE, &nothing, "NO_FENCE_BEFORE", Fault::MissingFence),
        (CASE, &in_tensor, "NO_FENCE_BEFORE", Fault::MissingFence),
        (CASE, &in_tensor, "NO_WAIT_STORE", Fault::MissingWait),
        (CASE, &nothing, "NO_WAIT_LOAD", Fault::RegisterInFlight),
        // The sums are read, or an operand is written, while products are under way.
        (CASE, &["WAIT_BY_ONE"], "NO_DONE_WAIT", Fault::MissingWait),
        (two, &["WAIT_BY_ONE"], "NO_DONE_WAIT", Fault::MissingWait),
        (two, &["WAIT_BY_ONE", "LEFT_IN_TENSOR"], "NO_DONE_WAIT", Fault::MissingWait),
        (CASE, &nothing, "NO_COMMIT", Fault::Deadlock),
        (CASE, &["NO_COMMIT"], "COMMIT_BY_ANOTHER", Fault::MissingWait),
        (CASE, &nothing, "ALL_ISSUE", Fault::InvalidUse),
        (CASE, &nothing, "ADD_FROM_NOTHING", Fault::UninitialisedRead),
        (CASE, &nothing, "OTHER_SUMS", Fault::MissingWait),
        (CASE, &nothing, "OTHER_LANES", Fault::InvalidUse),
        (CASE, &nothing, "WRONG_VERSION", Fault::InvalidUse),
        (CASE, &nothing, "WRONG_ROWS", Fault::InvalidUse),
        (CASE, &nothing, "ALLOCATED 32", Fault::OutOfBounds),
        (CASE, &nothing, "ALLOCATED 96", Fault::InvalidUse),
        (CASE, &nothing, "ALLOCATED 16", Fault::InvalidUse),
        (CASE, &nothing, "TWO_ALLOCATIONS", Fault::Deadlock),
        (CASE, &nothing, "LATE_ALLOCATION", Fault::InvalidUse),
        (CASE, &nothing, "NO_FREE", Fault::InvalidUse),
        (CASE, &nothing, "FREED 256", Fault::InvalidUse),
        (CASE, &nothing, "NO_LAST_BARRIER", Fault::OutOfBounds),
        (CASE, &in_tensor, "TWO_STORE", Fault::TensorRace),
    ] {
        let definitions: Vec<&str> = base.iter().copied().chain([fault_seeded]).collect();
        // Which warp comes first is up to the seed; some order shows the fault.
        let mut others = Vec::new();
        let found = (0..8).find_map(|seed| {
            let diagnostic = diagnostic(run(case, &definitions, seed)?.0);
            if diagnostic.fault == fault {
                return Some(diagnostic);
            }
            others.push(diagnostic.to_string());
            None
        });
        match found {
            Some(diagnostic) => println!("{fault_seeded}: {diagnostic}"),
            // Without NVRTC nothing ran.
            None => assert!(others.is_empty(), "{definitions:?}: no {fault:?}, but {others:?}"),
        }
    }
}

#[test]
fn other_forms_are_refused() {
    let mut device = diptych_virtual_gpu::Device::new(Target::Sm100a, 1 << 20);
    let mut refused = |target: &str, instruction: &str, why: &str| {
        let ptx = format!(
            ".version 8.6\n.target {target}\n.address_size 64\n.visible .entry one() {{
            .reg .pred %p<2>; .reg .b32 %r<8>; .reg .b64 %d<4>; {instruction} ret; }}"
        );
        let error = device.load(&ptx).err().unwrap_or_else(|| panic!("{instruction} was taken")).to_string();
        assert!(error.contains(why), "{error}");
    };
    let mma = "tcgen05.mma.cta_group::1.kind::f16 [%r0], %d0, %d1, %r1, %p0;";
    let variant = |from: &str, to: &str| mma.replace(from, to);
    refused("sm_90", mma, "sm_100a");
    refused("sm_100a", &variant("group::1", "group::2"), "clusters have one block");
    refused("sm_100a", &variant("kind::f16", "kind::i8"), "kind::f16");
    refused("sm_100a", &variant("f16 ", "f16.collector::a::fill "), "modifier");
    refused("sm_100a", &variant("mma", "mma.ws"), "modifier");
    refused("sm_100a", &variant("%p0", "{%r2, %r3, %r4, %r5}, %p0"), "masks");
    refused("sm_100a", "tcgen05.ld.sync.aligned.16x64b.x1.b32 {%r0}, [%r1];", "shapes");
    refused("sm_100a", "tcgen05.ld.sync.aligned.32x32b.x2.b32 {%r0}, [%r1];", "1 registers where 2");
    refused("sm_100a", "tcgen05.cp.cta_group::1.128x256b [%r0], %d0;", "this operation");
    let commit = "tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.multicast::cluster.b64 [%r0], %r1;";
    refused("sm_100a", commit, "multicast");
    refused("sm_100a", "wgmma.fence.sync.aligned;", "sm_90a");
}
