//! The products of warpgroups of the CUDA prelude, executed on the virtual GPU in every form in which kernels call them:
//! sizes that are no multiples of tiles, operands in both orders, by TMA, by threads and in registers, whole and in parts.

#[path = "support/nvrtc.rs"]
mod installed;
#[path = "support/products.rs"]
mod products;

use diptych_codegen::cuda::{Swizzle, TensorDim, TensorExtent, TensorMap};
use diptych_ir::DType;
use diptych_nvrtc::Nvrtc;
use diptych_virtual_gpu::Target;
use installed::nvrtc;
use products::{EXTREMES, Outcome, Probe, Product};

/// A way to call a dot.
#[derive(Clone, Copy, Debug)]
struct Call {
    rows: usize,
    columns: usize,
    /// Whether k runs along memory, in a and in b.
    along_k: [bool; 2],
    /// Where operands come from.
    from: [&'static str; 2],
    /// Whether a is of floats.
    wide: bool,
    accumulate: bool,
    /// m, n and k.
    sizes: [usize; 3],
    extremes: &'static [f32],
}

const SLOTS: usize = 3;

impl Call {
    fn product(&self) -> Product {
        Product {
            along_k: self.along_k,
            narrow: [!self.wide, true],
            accumulate: self.accumulate,
            sizes: self.sizes,
            extremes: self.extremes,
        }
    }

    fn parts(&self) -> usize {
        if self.wide { 3 } else { 1 }
    }

    /// Bytes of a slot that a and b have.
    fn bytes(&self) -> [usize; 2] {
        let columns = if self.along_k[1] { self.columns } else { self.columns.max(64) };
        let of_a = if self.from[0].starts_with("IN") { 0 } else { self.rows * 128 * self.parts() };
        [of_a, columns * 128]
    }

    fn is_boxes(&self, operand: usize) -> bool {
        self.from[operand].starts_with("BY_TMA")
    }

    /// An operand as boxes. Where there is something else behind the last k, the tensor has that too.
    fn map(&self, operand: usize, strides: [usize; 2]) -> TensorMap {
        let (size, k) = (self.sizes[operand], self.sizes[2]);
        let k = if self.from[operand] == "BY_TMA_ZEROED" { k.next_multiple_of(8) } else { k };
        let [x_stride, k_stride] = if operand == 0 { strides } else { [strides[1], strides[0]] };
        let of = |size, stride, box_size| TensorDim { extent: TensorExtent::Fixed(size), stride, box_size };
        let extent = [self.rows, self.columns][operand];
        let dims = match self.along_k[operand] {
            true => vec![of(k, k_stride, 64), of(size, x_stride, extent)],
            false => vec![of(size, x_stride, 64), of(k, k_stride, 64)],
        };
        TensorMap::new(operand, DType::BF16, 0, dims, Swizzle::Bytes128).unwrap()
    }

    fn probe(&self) -> Probe {
        let Call { rows, columns, along_k: [a_along_k, b_along_k], from, accumulate, .. } = self;
        let [a_strides, b_strides] = self.product().strides();
        let mut maps = Vec::new();
        let mut boxes = |operand: usize, strides| {
            if !self.is_boxes(operand) {
                return "no_boxes{}".to_owned();
            }
            maps.push(self.map(operand, strides));
            let (extent, along_k) = ([*rows, *columns][operand], self.along_k[operand]);
            let extent = if along_k { extent } else { extent.max(64) };
            let (x, k) = if along_k { (1, 0) } else { (0, 1) };
            let at = maps.len() - 1;
            format!("boxes<2, {extent}, {along_k}, {x}, 1, {k}, 1>{{maps + {at}, {{0, 0}}}}")
        };
        let (of_a, of_b) = (boxes(0, a_strides), boxes(1, b_strides));
        let acquired: String =
            (0..maps.len()).map(|at| format!("        acquire_map(maps + {at});\n")).collect();
        let parameter = if maps.is_empty() { "" } else { "const tensor_map *maps, " };
        let [a_bytes, b_bytes] = self.bytes();
        let (parts, n) = (self.parts(), self.sizes[1]);
        let pairs = n.is_multiple_of(2);
        let a = if self.wide { "float" } else { "bf16" };
        let text = format!(
            "extern \"C\" __global__ void __launch_bounds__(384, 1)
probe(int m, int n, int k, {parameter}const {a} *a, const bf16 *b, float *c) {{
    extern __shared__ __align__(1024) unsigned char shared[];
    ring<{SLOTS}, {}> slots{{shared, 0, 0}};
    if (threadIdx.x == 0) slots.set_up();
    __syncthreads();
    if (threadIdx.x < 256) {{
        consume();
        dot_wgmma<{rows}, {columns}, {parts}, {}, {}, {a_along_k}, {b_along_k}, {accumulate}, {pairs}>(m, n, k,
            strided<const {a}>{{a, {}, {}}}, strided<const bf16>{{b, {}, {}}}, strided<float>{{c, {n}, 1}}, slots);
        return;
    }}
    copy();
    if (threadIdx.x == 256) {{
{acquired}        produce<{rows}, {columns}, {a_bytes}>(m, n, k, {of_a}, {of_b}, slots);
    }}
}}
",
            a_bytes + b_bytes,
            from[0],
            from[1],
            a_strides[0],
            a_strides[1],
            b_strides[1],
            b_strides[0],
        );
        let shared_bytes = SLOTS * (a_bytes + b_bytes) + 128;
        Probe { text, threads: 384, shared_bytes, maps, target: Target::Sm90a }
    }

    fn run(&self, nvrtc: &Nvrtc) -> Outcome {
        self.product().run(nvrtc, &self.probe())
    }
}

fn calls(wide: bool, from: &[[&'static str; 2]]) -> Vec<Call> {
    let mut calls = Vec::new();
    for (at, &(rows, columns)) in [(128, 128), (64, 128), (128, 16), (64, 16)].iter().enumerate() {
        for along_k in [[true, false], [true, true], [false, false], [false, true]] {
            for &from in from {
                if from[0] == "IN_REGISTERS_BY_PAIRS" && !along_k[0] {
                    continue;
                }
                let accumulate = (at + usize::from(along_k[0])) % 2 == 0;
                let sizes = [[130, 140, 70], [33, 130, 328], [67, 9, 43], [64, 16, 8]][at];
                calls.push(Call { rows, columns, along_k, from, wide, accumulate, sizes, extremes: &[] });
            }
        }
    }
    calls
}

/// Checks a product, and that threads use different banks at once in its main loop.
fn check(nvrtc: &Nvrtc, call: Call) {
    let outcome = call.run(nvrtc);
    let (distance, report) = (outcome.distance(), &outcome.report);
    // Of three parts there are three times as many sums, each cut toward zero.
    assert!(distance < if call.wide { 5e-6 } else { 1e-6 }, "{distance:e}: {call:?}");
    assert!(report.total.tensor_core_instructions > 0);
    println!(
        "{call:?} {distance:e} {} {}",
        report.main_loop().bank_conflict_ratio(),
        report.total.bank_conflict_ratio()
    );
    assert!(report.main_loop().bank_conflict_ratio() <= 1.05, "{call:?}");
}

#[test]
fn threads_fill_slots() {
    let Some(nvrtc) = nvrtc() else { return };
    for call in calls(false, &[["BY_ELEMENTS", "BY_ELEMENTS"], ["BY_PIECES", "BY_PIECES"]]) {
        check(&nvrtc, call);
    }
}

#[test]
fn floats_are_three_parts() {
    let Some(nvrtc) = nvrtc() else { return };
    let from = [
        ["BY_ELEMENTS", "BY_PIECES"],
        ["BY_PIECES", "BY_TMA"],
        ["IN_REGISTERS", "BY_ELEMENTS"],
        ["IN_REGISTERS_BY_PAIRS", "BY_TMA"],
    ];
    for call in calls(true, &from) {
        // Three parts of 128 rows, and the columns, are a slot of 64 KiB.
        check(&nvrtc, call);
    }
}

#[test]
fn boxes_arrive_by_tma() {
    let Some(nvrtc) = nvrtc() else { return };
    let from = [
        ["BY_TMA", "BY_TMA"],
        ["BY_TMA_ZEROED", "BY_TMA_ZEROED"],
        ["BY_PIECES", "BY_TMA"],
        ["BY_TMA", "BY_ELEMENTS"],
    ];
    for call in calls(false, &from) {
        check(&nvrtc, call);
    }
}

#[test]
fn infinities_and_the_largest_floats_are_as_in_a_chain() {
    let Some(nvrtc) = nvrtc() else { return };
    for from in [["BY_PIECES", "BY_TMA"], ["IN_REGISTERS_BY_PAIRS", "BY_TMA"]] {
        let mut call = calls(true, &[from])[0];
        call.accumulate = false;
        call.extremes = &EXTREMES;
        let outcome = call.run(&nvrtc);
        assert!(outcome.chains.iter().any(|chain| chain.is_infinite()) && outcome.is_as_chains(), "{from:?}");
    }
}
