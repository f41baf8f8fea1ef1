//! A product of two matrices by a kernel of the CUDA prelude, executed on the virtual GPU beside f64 and chains of
//! multiply-adds.

#[path = "maps.rs"]
mod maps;

use diptych_codegen::cuda::{KernelText, TensorMap, file_text};
use diptych_nvrtc::{Form, KernelCache, Nvrtc};
use diptych_virtual_gpu::{Arguments, Configuration, Device, LaunchReport, LaunchSizes, Target};
use half::bf16;

/// A product.
pub struct Product {
    /// Whether k runs along memory, in a and in b.
    pub along_k: [bool; 2],
    /// Whether numbers are of bf16, of a and of b.
    pub narrow: [bool; 2],
    pub accumulate: bool,
    /// m, n and k.
    pub sizes: [usize; 3],
    /// Numbers of the operand of floats, if there is one: the first stands in its first row, at the first k, the next in the
    /// next, at the next k.
    pub extremes: &'static [f32],
}

/// Infinities, the largest floats, the smallest that bf16 rounds to an infinity, what is no number, also where a bit of the
/// lower half alone says so, and numbers of which bf16 has not all digits.
pub const EXTREMES: [f32; 9] = [
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::MAX,
    f32::MIN,
    f32::from_bits(0x7f7f_8000),
    f32::NAN,
    f32::from_bits(0x7f80_0001),
    f32::from_bits(0x3fff_ffff),
    f32::from_bits(0x3f7f_ffff),
];

/// A kernel `probe(int m, int n, int k, [const tensor_map *maps,] a, b, float *c)`, and its launch.
pub struct Probe {
    pub text: String,
    pub threads: usize,
    pub shared_bytes: usize,
    /// Tensors in a (argument 0) and in b (1).
    pub maps: Vec<TensorMap>,
    pub target: Target,
}

/// What a kernel computed, what it should have, and what was counted.
pub struct Outcome {
    pub found: Vec<f32>,
    pub exact: Vec<f64>,
    pub chains: Vec<f32>,
    pub report: LaunchReport,
}

impl Outcome {
    /// How far what was found is from what is exact, in norm.
    pub fn distance(&self) -> f64 {
        let difference: f64 =
            self.found.iter().zip(&self.exact).map(|(&x, y)| (f64::from(x) - y).powi(2)).sum();
        let norm: f64 = self.exact.iter().map(|y| y * y).sum();
        (difference / norm).sqrt()
    }

    /// Whether each number is near what a chain gives, infinite where that is, and none where that is none.
    pub fn is_as_chains(&self) -> bool {
        self.found.iter().zip(&self.chains).all(|(&found, &chain)| match chain.is_finite() {
            true => (f64::from(found) - f64::from(chain)).abs() < 1e-5 * f64::from(chain.abs().max(1.0)),
            false => found == chain || found.is_nan() && chain.is_nan(),
        })
    }
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

impl Product {
    /// The strides of a from row to row and from k to k, and of b from k to k and from column to column. Rows of operands
    /// begin at multiples of 16 bytes.
    pub fn strides(&self) -> [[usize; 2]; 2] {
        let [m, n, k] = self.sizes;
        let wide = |size: usize| size.next_multiple_of(8);
        [
            if self.along_k[0] { [wide(k), 1] } else { [1, wide(m)] },
            if self.along_k[1] { [1, wide(k)] } else { [wide(n), 1] },
        ]
    }

    /// Runs a kernel on random numbers.
    pub fn run(&self, nvrtc: &Nvrtc, probe: &Probe) -> Outcome {
        let [m, n, k] = self.sizes;
        let wide = |size: usize| size.next_multiple_of(8);
        let [a_strides, b_strides] = self.strides();
        let mut random = Random(7);
        let mut numbers = |count: usize, narrow: bool| -> Vec<f32> {
            let number = |x: f32| if narrow { bf16::from_f32(x).to_f32() } else { x };
            (0..count).map(|_| number(random.float())).collect()
        };
        let mut a = numbers(m.max(1) * wide(k) + k * wide(m), self.narrow[0]);
        let mut b = numbers(n * wide(k) + k * wide(n), self.narrow[1]);
        for (at, &extreme) in self.extremes.iter().enumerate() {
            if !self.narrow[0] {
                a[at * (a_strides[0] + a_strides[1])] = extreme;
            } else if !self.narrow[1] {
                b[at * (b_strides[0] + b_strides[1])] = extreme;
            }
        }
        let start = numbers(m * n, false);
        let bytes = |x: &[f32], narrow: bool| -> Vec<u8> {
            match narrow {
                true => x.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
                false => x.iter().flat_map(|x| x.to_le_bytes()).collect(),
            }
        };
        let mut device = Device::new(probe.target, 1 << 28);
        let mut put = |bytes: &[u8]| {
            let address = device.allocate(bytes.len()).unwrap();
            device.write(address, bytes).unwrap();
            address
        };
        let [of_a, of_b] = [bytes(&a, self.narrow[0]), bytes(&b, self.narrow[1])];
        let operands = [(put(&of_a), of_a.len()), (put(&of_b), of_b.len())];
        let c_at = put(&bytes(&start, false));
        let encoded = |map: &TensorMap| {
            let (address, bytes) = operands[map.arg];
            maps::encoded(map, address, bytes, |_| 1)
        };
        let maps: Vec<u8> = probe.maps.iter().flat_map(encoded).collect();
        let maps_at = (!maps.is_empty()).then(|| put(&maps));
        let kernel = KernelText {
            name: "probe".into(),
            text: probe.text.clone(),
            threads: probe.threads,
            shared_bytes: 0,
            scratch_bytes: 0,
            scratch_tiles: Vec::new(),
            maps: probe.maps.clone(),
        };
        let target = probe.target.name().parse().unwrap();
        let ptx = KernelCache::standard()
            .compile(nvrtc, &file_text([&kernel]), "probe.cu", target, Form::Ptx)
            .unwrap_or_else(|error| panic!("{error}"));
        let module = device.load(&ptx.ptx).unwrap();
        let mut arguments = Arguments::new().integer(m as i32).integer(n as i32).integer(k as i32);
        if let Some(address) = maps_at {
            arguments = arguments.pointer(address);
        }
        let arguments = arguments.pointer(operands[0].0).pointer(operands[1].0).pointer(c_at);
        let sizes = LaunchSizes {
            grid: [1, 1, 1],
            block: [probe.threads as u32, 1, 1],
            dynamic_shared: probe.shared_bytes as u32,
        };
        let kernel = module.kernel("probe").unwrap();
        let report = device
            .launch(kernel, &sizes, arguments.bytes(), &Configuration::default())
            .unwrap_or_else(|error| panic!("{error}\n{}", probe.text));
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
        Outcome { found, exact, chains, report }
    }
}
