//! Tiles in the registers of a warpgroup, executed on the virtual GPU: as an operand and as the result of a product, of
//! sizes that are no multiples of tiles, and summed row by row with the bits of lanes that share a row.

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

/// A product of a tile in registers.
#[derive(Clone, Copy, Debug)]
struct Call {
    /// Columns of the left operand and of the result for which there are registers.
    width: usize,
    columns: usize,
    b_along_k: bool,
    b_from: &'static str,
    /// Whether the tile is of floats, or of numbers of bf16, two in a register.
    wide: bool,
    accumulate: bool,
    /// m, n and k.
    sizes: [usize; 3],
    extremes: &'static [f32],
}

/// Walks a thread's elements of a tile; `what` is done with each.
fn each_element(columns: usize, what: &str) -> String {
    format!(
        "#pragma unroll
        for (int e = 0; e < {columns} / 4; e++)
#pragma unroll
            for (int half = 0; half < 2; half++) {{
                const int row = own_row + half * 8, column = own_column + e / 2 * 8 + e % 2;
                {what}
            }}"
    )
}

impl Call {
    fn run(&self, nvrtc: &Nvrtc) -> Outcome {
        let Call { width, columns, b_along_k, b_from, wide, accumulate, sizes, extremes } = *self;
        let product =
            Product { along_k: [true, b_along_k], narrow: [!wide, true], accumulate, sizes, extremes };
        let [[a_row, _], [b_k, b_column]] = product.strides();
        let [_, n, k] = sizes;
        let (b_extent, slot_bytes) =
            (if b_along_k { columns } else { columns.max(64) }, columns.max(64) * 128);
        let of = |size, stride, box_size| TensorDim { extent: TensorExtent::Fixed(size), stride, box_size };
        let k_there = if b_from.ends_with("_ZEROED") { k.next_multiple_of(8) } else { k };
        let dims = match b_along_k {
            true => vec![of(k_there, b_k, 64), of(n, b_column, b_extent)],
            false => vec![of(n, b_column, 64), of(k_there, b_k, 64)],
        };
        let by_tma = b_from.starts_with("BY_TMA");
        let maps: Vec<TensorMap> = by_tma
            .then(|| TensorMap::new(1, DType::BF16, 0, dims, Swizzle::Bytes128).unwrap())
            .into_iter()
            .collect();
        let (x, at_k) = if b_along_k { (1, 0) } else { (0, 1) };
        let boxes = match by_tma {
            true => format!("boxes<2, {b_extent}, {b_along_k}, {x}, 1, {at_k}, 1>{{maps, {{0, 0}}}}"),
            false => "no_boxes{}".to_owned(),
        };
        let (parameter, acquired) =
            if by_tma { ("const tensor_map *maps, ", "acquire_map(maps);") } else { ("", "") };
        let (a, tile, parts) = if wide { ("float", "fragment", 3) } else { ("bf16", "fragment_bf16", 1) };
        // What is not there is no number, so that it is seen where it is used.
        let load_left = each_element(
            width,
            &format!(
                "left.put(half, e, row < m && column < k ? load(a + row * {a_row} + column) : NO_NUMBER);"
            ),
        );
        let load_sums = each_element(
            columns,
            &format!("sums.put(half, e, row < m && column < n ? c[row * {n} + column] : NO_NUMBER);"),
        );
        let store_sums = each_element(
            columns,
            &format!("if (row < m && column < n) c[row * {n} + column] = sums.get(half, e);"),
        );
        let steps = width.div_ceil(64);
        let text = format!(
            "extern \"C\" __global__ void __launch_bounds__(256, 2)
probe(int m, int n, int k, {parameter}const {a} *a, const bf16 *b, float *c) {{
    extern __shared__ __align__(1024) unsigned char shared[];
    ring<3, {slot_bytes}, 128> slots{{shared, 0, 0}};
    if (threadIdx.x == 0) slots.set_up();
    __syncthreads();
    if (threadIdx.x < 128) {{
        consume<224>();
        const int own_row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, own_column = threadIdx.x % 4 * 2;
        {tile}<{width}> left;
        fragment<{columns}> sums;
        {load_left}
        {load_sums}
        dot_wgmma<64, {columns}, {parts}, IN_FRAGMENTS, {b_from}, true, {b_along_k}, {accumulate}, false, {steps}>(m, n, k,
            left, strided<const bf16>{{b, {b_column}, {b_k}}}, sums, slots);
        {store_sums}
        return;
    }}
    copy<32>();
    if (threadIdx.x == 128) {{
        {acquired}
        produce<64, {columns}, 0>(m, n, k, no_boxes{{}}, {boxes}, slots);
    }}
}}
"
        );
        let shared_bytes = 3 * slot_bytes + 128;
        product.run(nvrtc, &Probe { text, threads: 256, shared_bytes, maps, target: Target::Sm90a })
    }
}

#[test]
fn tiles_in_registers_are_multiplied() {
    let Some(nvrtc) = nvrtc() else { return };
    let tiles: [(usize, usize, [usize; 3]); 5] = [
        (64, 128, [64, 128, 64]),
        (64, 128, [33, 104, 43]),
        (128, 64, [50, 40, 72]),
        (128, 128, [64, 128, 128]),
        (16, 16, [61, 9, 11]),
    ];
    let from = ["BY_TMA", "BY_TMA_ZEROED", "BY_ELEMENTS"];
    for (at, (width, columns, sizes)) in tiles.into_iter().enumerate() {
        for (turn, b_from) in from.into_iter().enumerate() {
            for wide in [true, false] {
                let (b_along_k, accumulate) = ((at + turn) % 2 == 0, (at + turn / 2) % 2 == 0);
                let call = Call { width, columns, b_along_k, b_from, wide, accumulate, sizes, extremes: &[] };
                let outcome = call.run(&nvrtc);
                assert!(
                    outcome.distance() < if wide { 5e-6 } else { 1e-6 },
                    "{}: {call:?}",
                    outcome.distance()
                );
                assert!(outcome.report.total.tensor_core_instructions > 0);
            }
        }
    }
}

#[test]
fn infinities_in_registers_are_as_in_a_chain() {
    let Some(nvrtc) = nvrtc() else { return };
    let call = Call {
        width: 64,
        columns: 64,
        b_along_k: false,
        b_from: "BY_TMA",
        wide: true,
        accumulate: false,
        sizes: [60, 64, 64],
        extremes: &EXTREMES,
    };
    let outcome = call.run(&nvrtc);
    assert!(outcome.chains.iter().any(|chain| chain.is_infinite()) && outcome.is_as_chains());
}

/// The sum of each row, and its largest number, by quads that hold it in registers, and beside each by lanes.
#[test]
fn rows_in_registers_are_summed_as_by_lanes() {
    let Some(nvrtc) = nvrtc() else { return };
    for length in [3, 8, 11, 16, 40, 64, 100, 128] {
        let lanes = usize::min(length, 32).next_power_of_two();
        let (quads, elements) = (lanes.max(8), length.div_ceil(8) * 2);
        let room = elements.next_multiple_of(quads / 4);
        let product = Product {
            along_k: [true, true],
            narrow: [false, true],
            accumulate: false,
            sizes: [64, 4, length],
            extremes: &[],
        };
        let [[row, _], _] = product.strides();
        let text = format!(
            "extern \"C\" __global__ void probe(int m, int n, int k, const float *a, const bf16 *b, float *c) {{
    const int lane = threadIdx.x % 32, own_column = threadIdx.x % 4 * 2;
    for (int half = 0; half < 2; half++) {{
        const int row = threadIdx.x / 32 * 16 + lane / 4 + half * 8;
        float x[{room}], y[{room}];
        for (int e = 0; e < {room}; e++) {{
            const int column = own_column + e / 2 * 8 + e % 2;
            x[e] = column < k ? a[row * {row} + column] : 0.0f;
            y[e] = column < k ? a[row * {row} + column] : -INFINITE;
        }}
        const float total = 0.0f + over_quad<{quads}, sum>(x), most = over_quad<{quads}, maximum>(y);
        if (lane % 4 == 0) c[row * 4] = total, c[row * 4 + 1] = most;
    }}
    for (int row = threadIdx.x / 32; row < m; row += 4) {{
        float x = 0.0f, y = -INFINITE;
        for (int i = lane % {lanes}; i < k; i += {lanes}) {{
            x = x + a[row * {row} + i];
            y = larger(y, a[row * {row} + i]);
        }}
        x = over_lanes<{lanes}, sum>(x);
        y = over_lanes<{lanes}, maximum>(y);
        if (lane == 0) c[row * 4 + 2] = x, c[row * 4 + 3] = y;
    }}
}}
"
        );
        let probe = Probe { text, threads: 128, shared_bytes: 0, maps: Vec::new(), target: Target::Sm90a };
        let found = product.run(&nvrtc, &probe).found;
        for (row, sums) in found.chunks_exact(4).enumerate() {
            let [total, most, of_lanes, most_of_lanes] = [0, 1, 2, 3].map(|at| sums[at].to_bits());
            assert!(total == of_lanes && most == most_of_lanes, "row {row} of {length}: {sums:?}");
        }
    }
}

/// Exponentials of all kinds of numbers, as a processor has them: scaled by two powers of two, and zero where they are
/// less than the smallest normal number. The form for what is at most zero has the same bits.
#[test]
fn exponentials_have_one_form() {
    let Some(nvrtc) = nvrtc() else { return };
    let product = Product {
        along_k: [true, true],
        narrow: [false, true],
        accumulate: false,
        sizes: [64, 2, 8],
        extremes: &[],
    };
    // Numbers of all magnitudes, and all around the largest and the smallest exponent.
    let text = "static __device__ float of_processor(float x) {
    x = larger(-104.0f, smaller(89.0f, x));
    const float shifted = x * 0x1.715476p+0f + ROUND_MAGIC, n = shifted - ROUND_MAGIC;
    const float p = exp_less_one(n, x) + 1.0f;
    const int power = (int)bits_of(shifted) - (int)bits_of(ROUND_MAGIC), half = power >> 1;
    const float y = p * of_bits((unsigned)(half + 127) << 23) * of_bits((unsigned)(power - half + 127) << 23);
    return y < 0x1p-126f ? 0.0f : y;
}
static __device__ bool same(float x, float y) { return bits_of(x) == bits_of(y) || x != x && y != y; }
static __device__ int faults(unsigned bits) {
    const float x = of_bits(bits);
    const float y = f_exp(x);
    return !same(y, of_processor(x)) + (!(x > 0.0f) && !same(y, f_exp_at_most_zero(x)));
}
extern \"C\" __global__ void probe(int m, int n, int k, const float *a, const bf16 *b, float *c) {
    int count = 0;
    for (unsigned at = threadIdx.x; at < 100000; at += 128) count += faults(at * 42949u);
    for (int at = threadIdx.x; at < 20000; at += 128)
        count += faults(0x42b17217u - 10000 + at) + faults(0xc2aeac4fu - 10000 + at) + faults(0xc2af5000u + at * 64);
    c[threadIdx.x] = (float)count;
}
";
    let probe = Probe {
        text: text.to_owned(),
        threads: 128,
        shared_bytes: 0,
        maps: Vec::new(),
        target: Target::Sm90a,
    };
    let found = product.run(&nvrtc, &probe).found;
    assert!(found.iter().all(|&count| count == 0.0), "{found:?}");
}
