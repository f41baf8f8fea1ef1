//! The dots of the CUDA prelude, executed on the virtual GPU in every form in which kernels call them: sizes that are no
//! multiples of tiles, operands in both orders, copied in every way, whole and in parts.

#[path = "support/nvrtc.rs"]
mod installed;
#[path = "support/products.rs"]
mod products;

use diptych_nvrtc::Nvrtc;
use diptych_virtual_gpu::{LaunchReport, Target};
use installed::nvrtc;
use products::{EXTREMES, Outcome, Probe, Product};

/// A way to call a dot.
struct Call {
    rows: usize,
    columns: usize,
    /// Whether k runs along memory, in a and in b.
    along_k: [bool; 2],
    /// How many numbers of bf16 each of a and b is; `None`: by registers.
    parts: Option<[usize; 2]>,
    /// How stages are filled.
    copies: [&'static str; 2],
    accumulate: bool,
    /// m, n and k.
    sizes: [usize; 3],
    extremes: &'static [f32],
}

impl Call {
    fn is_bf16(&self, operand: usize) -> bool {
        self.parts.is_some_and(|parts| parts[operand] == 1)
    }

    fn text(&self, strides: [[usize; 2]; 2]) -> String {
        let Call { rows, columns, along_k: [a_along_k, b_along_k], accumulate, .. } = self;
        let call = match self.parts {
            None => format!("dot<{rows}, {columns}, {a_along_k}, {b_along_k}, {accumulate}>"),
            Some([a, b]) => format!(
                "dot_bf16<{rows}, {columns}, {}, {a_along_k}, {b_along_k}, {a}, {b}, {}, {}, {accumulate}, {}>",
                if a * b > 1 { 2 } else { 3 },
                self.copies[0],
                self.copies[1],
                self.sizes[1].is_multiple_of(2)
            ),
        };
        let [a, b] = [0, 1].map(|operand| if self.is_bf16(operand) { "bf16" } else { "float" });
        let stage = if self.parts.is_some() { "bf16" } else { "float" };
        let n = self.sizes[1];
        format!(
            "extern \"C\" __global__ void __launch_bounds__(256)
probe(int m, int n, int k, const {a} *a, const {b} *b, float *c) {{
    extern __shared__ __align__(1024) unsigned char shared[];
    {call}(m, n, k, strided<const {a}>{{a, {}, {}}}, strided<const {b}>{{b, {}, {}}}, strided<float>{{c, {n}, 1}}, ({stage} *)shared);
}}
",
            strides[0][0], strides[0][1], strides[1][0], strides[1][1]
        )
    }

    fn run(&self, nvrtc: &Nvrtc) -> Outcome {
        let product = Product {
            along_k: self.along_k,
            narrow: [0, 1].map(|operand| self.is_bf16(operand)),
            accumulate: self.accumulate,
            sizes: self.sizes,
            extremes: self.extremes,
        };
        let text = self.text(product.strides());
        let probe =
            Probe { text, threads: 256, shared_bytes: 96 << 10, maps: Vec::new(), target: Target::Sm80 };
        product.run(nvrtc, &probe)
    }
}

/// Threads that read or write shared memory at once use different banks, but for where a tile is not full.
fn check_conflicts(call: &Call, report: &LaunchReport) {
    let (all, inner) = (report.total.bank_conflict_ratio(), report.main_loop().bank_conflict_ratio());
    assert!(all <= 1.1 && inner <= 1.05, "{all} {inner}: {}", call.text([[0; 2]; 2]));
}

fn calls(parts: Option<[usize; 2]>, copies: &[[&'static str; 2]]) -> Vec<Call> {
    let mut calls = Vec::new();
    let tiles = if parts.is_some() {
        vec![(16, 128), (64, 64), (64, 128)]
    } else {
        vec![(16, 16), (64, 64), (64, 128)]
    };
    for (at, &(rows, columns)) in tiles.iter().enumerate() {
        for along_k in [[true, false], [true, true], [false, false], [false, true]] {
            for &copies in copies {
                let accumulate = (at + usize::from(along_k[0])) % 2 == 0;
                let sizes = [[5, 33, 70], [67, 130, 43], [64, 64, 8]][at];
                calls.push(Call { rows, columns, along_k, parts, copies, accumulate, sizes, extremes: &[] });
            }
        }
    }
    calls
}

#[test]
fn a_dot_by_registers_is_a_chain_of_multiply_adds() {
    let Some(nvrtc) = nvrtc() else { return };
    for call in calls(None, &[["", ""]]) {
        let Outcome { found, chains, report, .. } = call.run(&nvrtc);
        check_conflicts(&call, &report);
        assert!(
            found.iter().zip(&chains).all(|(x, y)| x.to_bits() == y.to_bits()),
            "{}",
            call.text([[0; 2]; 2])
        );
    }
}

#[test]
fn a_dot_on_tensor_cores_is_as_exact_as_floats() {
    let Some(nvrtc) = nvrtc() else { return };
    let all = ["COPY_ELEMENTS", "COPY_PIECES", "COPY_ASYNC", "COPY_ROWS"].map(|copy| [copy; 2]);
    let whole = calls(Some([1, 1]), &all);
    let left = calls(Some([3, 1]), &[["COPY_ELEMENTS", "COPY_ASYNC"], ["COPY_PIECES", "COPY_ELEMENTS"]]);
    let right = calls(Some([1, 3]), &[["COPY_ASYNC", "COPY_PIECES"]]);
    for call in whole.into_iter().chain(left).chain(right) {
        let outcome = call.run(&nvrtc);
        let (distance, report) = (outcome.distance(), &outcome.report);
        assert!(distance < 1e-6, "{distance:e}: {}", call.text([[0; 2]; 2]));
        assert!(report.total.tensor_core_instructions > 0);
        check_conflicts(&call, report);
    }
}

#[test]
fn infinities_and_the_largest_floats_are_as_in_a_chain() {
    let Some(nvrtc) = nvrtc() else { return };
    for (parts, copies) in [
        ([3, 1], ["COPY_ELEMENTS", "COPY_ASYNC"]),
        ([3, 1], ["COPY_PIECES", "COPY_ASYNC"]),
        ([1, 3], ["COPY_ASYNC", "COPY_PIECES"]),
    ] {
        let sizes = [67, 130, 43];
        let call = Call {
            rows: 64,
            columns: 64,
            along_k: [true, false],
            parts: Some(parts),
            copies,
            accumulate: false,
            sizes,
            extremes: &EXTREMES,
        };
        let outcome = call.run(&nvrtc);
        assert!(
            outcome.chains.iter().any(|chain| chain.is_infinite()) && outcome.is_as_chains(),
            "{parts:?} {copies:?}"
        );
    }
}
