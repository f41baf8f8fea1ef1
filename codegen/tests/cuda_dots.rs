//! The dots of the CUDA prelude, executed on the virtual GPU in every form in which kernels call them: sizes that are no
//! multiples of tiles, operands in both orders, copied in every way, whole and in parts.

#[path = "support/nvrtc.rs"]
mod installed;

use diptych_codegen::cuda::{KernelText, file_text};
use diptych_nvrtc::{Form, KernelCache, Nvrtc};
use diptych_virtual_gpu::{Arguments, Configuration, Device, LaunchReport, LaunchSizes, Target};
use half::bf16;
use installed::nvrtc;

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
}

struct Random(u64);

impl Random {
    fn float(&mut self) -> f32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
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
                "dot_bf16<{rows}, {columns}, {}, {a_along_k}, {b_along_k}, {a}, {b}, {}, {}, {accumulate}>",
                if a * b > 1 { 2 } else { 3 },
                self.copies[0],
                self.copies[1]
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

    /// The result on the virtual GPU, that in f64, that by chains of multiply-adds, and what was counted.
    fn run(&self, nvrtc: &Nvrtc) -> (Vec<f32>, Vec<f64>, Vec<f32>, LaunchReport) {
        let [m, n, k] = self.sizes;
        // Rows of operands begin at multiples of 16 bytes.
        let wide = |size: usize| size.next_multiple_of(8);
        let [a_along_k, b_along_k] = self.along_k;
        let a_strides = if a_along_k { [wide(k), 1] } else { [1, wide(m)] };
        let b_strides = if b_along_k { [1, wide(k)] } else { [wide(n), 1] };
        let mut random = Random(7);
        let mut numbers = |count: usize, narrow: bool| -> Vec<f32> {
            let number = |x: f32| if narrow { bf16::from_f32(x).to_f32() } else { x };
            (0..count).map(|_| number(random.float())).collect()
        };
        let a = numbers(m.max(1) * wide(k) + k * wide(m), self.is_bf16(0));
        let b = numbers(n * wide(k) + k * wide(n), self.is_bf16(1));
        let start = numbers(m * n, false);
        let bytes = |x: &[f32], narrow: bool| -> Vec<u8> {
            match narrow {
                true => x.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
                false => x.iter().flat_map(|x| x.to_le_bytes()).collect(),
            }
        };
        let mut device = Device::new(Target::Sm80, 1 << 28);
        let mut put = |bytes: &[u8]| {
            let address = device.allocate(bytes.len()).unwrap();
            device.write(address, bytes).unwrap();
            address
        };
        let (a_at, b_at) = (put(&bytes(&a, self.is_bf16(0))), put(&bytes(&b, self.is_bf16(1))));
        let c_at = put(&bytes(&start, false));
        let text = self.text([a_strides, b_strides]);
        let kernel = KernelText {
            name: "probe".into(),
            text,
            threads: 256,
            shared_bytes: 0,
            scratch_bytes: 0,
            scratch_tiles: Vec::new(),
            maps: Vec::new(),
        };
        let ptx = KernelCache::standard()
            .compile(nvrtc, &file_text([&kernel]), "probe.cu", "sm_80".parse().unwrap(), Form::Ptx)
            .unwrap_or_else(|error| panic!("{error}"));
        let module = device.load(std::str::from_utf8(&ptx.bytes).unwrap()).unwrap();
        let arguments = Arguments::new()
            .integer(m as i32)
            .integer(n as i32)
            .integer(k as i32)
            .pointer(a_at)
            .pointer(b_at)
            .pointer(c_at);
        let sizes = LaunchSizes { grid: [1, 1, 1], block: [256, 1, 1], dynamic_shared: 96 << 10 };
        let kernel = module.kernel("probe").unwrap();
        let report = device
            .launch(kernel, &sizes, arguments.bytes(), &Configuration::default())
            .unwrap_or_else(|error| panic!("{error}"));
        let mut found = vec![0; 4 * m * n];
        device.read(c_at, &mut found).unwrap();
        let found = found.chunks_exact(4).map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).collect();
        let (mut exact, mut chains) = (Vec::new(), Vec::new());
        for i in 0..m {
            for j in 0..n {
                let first = if self.accumulate { start[i * n + j] } else { 0.0 };
                let (mut sum, mut chain) = (f64::from(first), first);
                for kk in 0..k {
                    let x = a[i * a_strides[0] + kk * a_strides[1]];
                    let y = b[kk * b_strides[0] + j * b_strides[1]];
                    sum += f64::from(x) * f64::from(y);
                    chain = x.mul_add(y, chain);
                }
                exact.push(sum);
                chains.push(chain);
            }
        }
        (found, exact, chains, report)
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
                calls.push(Call { rows, columns, along_k, parts, copies, accumulate, sizes });
            }
        }
    }
    calls
}

#[test]
fn a_dot_by_registers_is_a_chain_of_multiply_adds() {
    let Some(nvrtc) = nvrtc() else { return };
    for call in calls(None, &[["", ""]]) {
        let (found, _, chains, report) = call.run(&nvrtc);
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
    let all = ["COPY_ELEMENTS", "COPY_PIECES", "COPY_ASYNC"].map(|copy| [copy; 2]);
    let whole = calls(Some([1, 1]), &all);
    let left = calls(Some([3, 1]), &[["COPY_ELEMENTS", "COPY_ASYNC"], ["COPY_PIECES", "COPY_ELEMENTS"]]);
    let right = calls(Some([1, 3]), &[["COPY_ASYNC", "COPY_PIECES"]]);
    for call in whole.into_iter().chain(left).chain(right) {
        let (found, exact, _, report) = call.run(&nvrtc);
        let difference: f64 = found.iter().zip(&exact).map(|(&x, y)| (f64::from(x) - y).powi(2)).sum();
        let norm: f64 = exact.iter().map(|y| y * y).sum();
        let distance = (difference / norm).sqrt();
        assert!(distance < 1e-6, "{distance:e}: {}", call.text([[0; 2]; 2]));
        assert!(report.total.tensor_core_instructions > 0);
        check_conflicts(&call, &report);
    }
}
