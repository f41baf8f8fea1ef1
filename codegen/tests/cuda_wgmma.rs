//! The products of warpgroups of the CUDA prelude, and those in tensor memory, executed on the virtual GPU in every form
//! in which kernels call them: sizes that are no multiples of tiles, operands in both orders, by TMA, by threads and in
//! registers, whole and in parts.

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
    target: Target,
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
const TARGETS: [Target; 2] = [Target::Sm90a, Target::Sm100a];

/// As the writer has it (`tcgen05.rs`).
const TENSOR_MEMORY: [&str; 4] = [
    "__shared__ tensor_room room; if (threadIdx.x < 32) room.take<512>(); show_tensor_memory();",
    "see_tensor_memory(); tensor_memory tensor = room.open();",
    "give_back<512>(tensor);",
    ", tensor",
];

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
        let k = if self.from[operand].ends_with("_ZEROED") { k.next_multiple_of(8) } else { k };
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
        // Name, arrivals at an empty slot, and what is about tensor memory: before the block's first barrier, at the start and
        // at the end of the consumers' part.
        let (dot, leaving, [take, open, give, tensor]) = match self.target {
            Target::Sm100a => ("dot_tcgen05", 1, TENSOR_MEMORY),
            _ => ("dot_wgmma", 8, [""; 4]),
        };
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
    ring<{SLOTS}, {}, 256, {leaving}> slots{{shared, 0, 0}};
    if (threadIdx.x == 0) slots.set_up();
    {take}
    __syncthreads();
    if (threadIdx.x < 256) {{
        consume();
        {open}
        {dot}<{rows}, {columns}, {parts}, {}, {}, {a_along_k}, {b_along_k}, {accumulate}, {pairs}>(m, n, k,
            strided<const {a}>{{a, {}, {}}}, strided<const bf16>{{b, {}, {}}}, strided<float>{{c, {n}, 1}}, slots{tensor});
        {give}
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
        Probe { text, threads: 384, shared_bytes, maps, target: self.target }
    }

    fn run(&self, nvrtc: &Nvrtc) -> Outcome {
        self.product().run(nvrtc, &self.probe())
    }
}

/// The same product with operands in all orders, for tiles of several sizes; in the first both orders of each, in the
/// others one.
fn calls(target: Target, wide: bool, from: &[[&'static str; 2]]) -> Vec<Call> {
    const TILES: [(usize, usize, [usize; 3]); 4] = [
        (128, 128, [130, 140, 70]),
        (64, 128, [33, 130, 328]),
        (128, 16, [67, 9, 43]),
        (64, 16, [64, 16, 8]),
    ];
    let orders = [[true, false], [true, true], [false, false], [false, true]];
    let mut calls = Vec::new();
    for (at, &(rows, columns, sizes)) in TILES.iter().enumerate() {
        let orders = if at == 0 { &orders[..] } else { &orders[at..=at] };
        for (&along_k, &from) in orders.iter().flat_map(|order| from.iter().map(move |from| (order, from))) {
            if from[0] != "IN_REGISTERS_BY_PAIRS" || along_k[0] {
                let accumulate = (at + usize::from(along_k[0])) % 2 == 0;
                let rows = if wide && target == Target::Sm100a { 128 } else { rows };
                calls.push(Call {
                    target,
                    rows,
                    columns,
                    along_k,
                    from,
                    wide,
                    accumulate,
                    sizes,
                    extremes: &[],
                });
            }
        }
    }
    calls
}

/// Checks a product, and that threads use different banks at once, but for where a tile is not full.
fn check(nvrtc: &Nvrtc, call: Call) {
    let outcome = call.run(nvrtc);
    let (distance, report) = (outcome.distance(), &outcome.report);
    // Of three parts there are three times as many sums, each cut toward zero.
    assert!(distance < if call.wide { 5e-6 } else { 1e-6 }, "{distance:e}: {call:?}");
    assert!(report.total.tensor_core_instructions > 0);
    let conflicts = report.total.bank_conflict_ratio();
    assert!(conflicts <= 1.1, "{conflicts}: {call:?}");
}

#[test]
fn threads_fill_slots() {
    let Some(nvrtc) = nvrtc() else { return };
    let from = [["BY_ELEMENTS", "BY_ELEMENTS"], ["BY_PIECES", "BY_PIECES"]];
    for target in TARGETS {
        calls(target, false, &from).into_iter().for_each(|call| check(&nvrtc, call));
    }
}

#[test]
fn floats_are_three_parts() {
    let Some(nvrtc) = nvrtc() else { return };
    let from = [
        ["IN_REGISTERS", "BY_ELEMENTS"],
        ["IN_REGISTERS_BY_PAIRS", "BY_TMA"],
        ["IN_REGISTERS", "BY_TMA_ZEROED"],
    ];
    for target in TARGETS {
        calls(target, true, &from).into_iter().for_each(|call| check(&nvrtc, call));
    }
}

#[test]
fn boxes_arrive_by_tma() {
    let Some(nvrtc) = nvrtc() else { return };
    let from = [
        ["BY_TMA", "BY_TMA"],
        ["BY_TMA_ZEROED", "BY_TMA_ROWS_ZEROED"],
        ["BY_PIECES", "BY_TMA"],
        ["BY_TMA", "BY_ELEMENTS"],
    ];
    for target in TARGETS {
        calls(target, false, &from).into_iter().for_each(|call| check(&nvrtc, call));
    }
}

/// A left operand and a result in tiles of floats, whose rows the writer pads: fragments are read and written in as
/// few passes as there can be.
#[test]
fn fragments_of_padded_tiles_meet_in_no_bank() {
    let Some(nvrtc) = nvrtc() else { return };
    for (target, along_k) in TARGETS.into_iter().flat_map(|target| [(target, true), (target, false)]) {
        let from = [if along_k { "IN_REGISTERS_BY_PAIRS" } else { "IN_REGISTERS" }, "BY_TMA"];
        let call = Call {
            target,
            rows: if target == Target::Sm100a { 128 } else { 64 },
            columns: 128,
            along_k: [along_k, false],
            from,
            wide: true,
            accumulate: false,
            sizes: [64, 128, 128],
            extremes: &[],
        };
        let mut probe = call.probe();
        // Rows of the tile, as `padding.rs` has them.
        let (rows, columns, pitch) = if along_k { (64, 128, 136) } else { (128, 64, 68) };
        let (of_a, of_c) = (probe.shared_bytes, probe.shared_bytes + 4 * rows * pitch);
        probe.shared_bytes = of_c + 4 * 64 * 136;
        let strides = if along_k { [pitch, 1] } else { [1, pitch] };
        let [given, _] = call.product().strides();
        let a = |strides: [usize; 2], base: &str| {
            format!("strided<const float>{{{base}, {}, {}}}", strides[0], strides[1])
        };
        let dot = probe.text.find("        dot_").expect("a dot");
        let copy = format!(
            "        float *const left = (float *)(shared + {of_a}), *const sums = (float *)(shared + {of_c});
        for (int at = threadIdx.x; at < {rows} * {columns}; at += 256) left[at / {columns} * {pitch} + at % {columns}] = a[at];
        workers_wait();
"
        );
        probe.text.insert_str(dot, &copy);
        probe.text = probe.text.replace(&a(given, "a"), &a(strides, "left"));
        probe.text = probe.text.replace("strided<float>{c, 128, 1}", "strided<float>{sums, 136, 1}");
        let back = "workers_wait();
        for (int at = threadIdx.x; at < 64 * 128; at += 256) c[at] = sums[at / 128 * 136 + at % 128];
        return;";
        probe.text = probe.text.replace("return;\n", &format!("{back}\n"));
        let outcome = call.product().run(&nvrtc, &probe);
        assert!(outcome.distance() < 5e-6, "{}", outcome.distance());
        let conflicts = outcome.report.total.bank_conflict_ratio();
        assert!(conflicts <= 1.05, "{target:?}, {along_k}: {conflicts}");
    }
}

#[test]
fn infinities_and_the_largest_floats_are_as_in_a_chain() {
    let Some(nvrtc) = nvrtc() else { return };
    for (target, from) in [
        (Target::Sm90a, ["BY_PIECES", "BY_TMA"]),
        (Target::Sm90a, ["IN_REGISTERS_BY_PAIRS", "BY_TMA"]),
        (Target::Sm100a, ["IN_REGISTERS_BY_PAIRS", "BY_TMA"]),
    ] {
        let mut call = calls(target, true, &[from])[0];
        call.accumulate = false;
        call.extremes = &EXTREMES;
        let outcome = call.run(&nvrtc);
        assert!(outcome.chains.iter().any(|chain| chain.is_infinite()) && outcome.is_as_chains(), "{from:?}");
    }
}
