//! The buffers of an entry, twice: where a processor's kernels find them, and on the virtual GPU.

use diptych_codegen::entry::{ArgRef, Buffer, CompiledEntry, Limits, Role};
use diptych_codegen::tile::CHUNK;
use diptych_ir::{DType, Program};
use diptych_passes::layout::{Layout, Leading, product};
use diptych_runtime::executor::{AlignedBytes, CacheSize};
use diptych_virtual_gpu::Device;
use half::bf16;

/// What is smaller than this, in the mean, is noise.
const NOISE: f64 = 1e-7;

/// A buffer in both places.
pub struct Twin {
    pub host: AlignedBytes,
    pub device: u64,
    pub bytes: usize,
    pub slot_bytes: usize,
    pub row_bytes: usize,
}

/// xorshift64*: spread, not quality.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Rows that a slot of a buffer has room for.
fn rows(buffer: &Buffer, limits: Limits, cache: CacheSize) -> usize {
    match (&buffer.role, buffer.layout.leading()) {
        (Role::Cache { .. }, _) => cache.chunks * CHUNK,
        (Role::State { .. }, _) => cache.sequences,
        (_, Leading::Past) if cache.chunks > 0 => cache.chunks * CHUNK,
        (_, Leading::Chunks) => cache.chunks,
        (_, Leading::None) => 1,
        (_, Leading::Batch) => limits.batch,
        (_, Leading::Checkpoints) => limits.rows / 16 + limits.batch,
        _ => limits.rows,
    }
}

/// All buffers of an entry, filled: parameters and inputs with random numbers, what is computed with nothing, which on
/// the device is undefined.
pub fn twins(
    entry: &CompiledEntry,
    program: &Program,
    device: &mut Device,
    limits: Limits,
    cache: CacheSize,
) -> Vec<Twin> {
    let mut random = Random(42);
    let twin = |buffer: &Buffer| {
        let elements = rows(buffer, limits, cache) * buffer.layout.row_elements(entry.panel);
        let (slot_bytes, bytes) = {
            let slot = elements * buffer.dtype.bytes();
            (slot, (slot * buffer.slots).max(4))
        };
        let mut host = AlignedBytes::zeroed(bytes).unwrap();
        let address = device.allocate(bytes).unwrap();
        let given =
            matches!(buffer.role, Role::Stored(_) | Role::Input(_) | Role::Cache { .. } | Role::State { .. });
        if given {
            fill(buffer, program, entry.panel, &mut random, &mut host);
        }
        // Sums start where their states are; what fills up panels is zero from the start.
        if given || buffer.has_padding(entry.panel) {
            device.write(address, host.as_slice::<u8>()).unwrap();
        }
        let row_bytes = buffer.layout.row_elements(entry.panel) * buffer.dtype.bytes();
        Twin { host, device: address, bytes, slot_bytes, row_bytes }
    };
    entry.buffers.iter().map(twin).collect()
}

fn fill(buffer: &Buffer, program: &Program, panel: usize, random: &mut Random, host: &mut AlignedBytes) {
    let is_state = matches!(buffer.role, Role::Stored(name) if !program.params.contains_key(&name));
    let scale = if is_state { 0.01 } else { 0.3 };
    let is_padding = |at: usize| match &buffer.layout {
        Layout::Packed { k, n } => {
            let of_panel = product(k) * panel;
            let columns = product(n).div_ceil(panel) * of_panel;
            at % columns / of_panel * panel + at % panel >= product(n)
        }
        _ => false,
    };
    let mut number = |at: usize| {
        let x = random.float() * scale;
        // Squares and their sums are not negative.
        let x = if is_state { x.abs() } else { x };
        if is_padding(at) { 0.0 } else { x }
    };
    match buffer.dtype {
        DType::F32 => {
            host.as_mut_slice::<f32>().iter_mut().enumerate().for_each(|(at, x)| *x = number(at));
        }
        DType::BF16 => host
            .as_mut_slice::<u16>()
            .iter_mut()
            .enumerate()
            .for_each(|(at, x)| *x = bf16::from_f32(number(at)).to_bits()),
        DType::I32 => {
            // Ids of tokens; of a token of each sequence, its first.
            let ids = if buffer.layout.leading() == Leading::Batch { 1 } else { 23 };
            host.as_mut_slice::<i32>().iter_mut().for_each(|x| *x = (random.next() >> 40) as i32 % ids);
        }
        other => panic!("the zoo has no input of type {other}"),
    }
}

impl Twin {
    /// How far into the buffer an argument begins.
    pub fn offset(&self, place: ArgRef, iteration: usize, layer: usize, row: usize) -> usize {
        place.slot.position(iteration, layer) * self.slot_bytes + row * self.row_bytes
    }

    /// Copies within both.
    pub fn copy(&mut self, device: &mut Device, from: (Vec<u8>, u64), at: usize) {
        let (bytes, source) = from;
        self.host.as_mut_slice::<u8>()[at..at + bytes.len()].copy_from_slice(&bytes);
        device.copy(self.device + at as u64, source, bytes.len()).unwrap();
    }

    /// The relative distance in norm between what both places hold.
    pub fn distance(&self, device: &mut Device, dtype: DType) -> f64 {
        let mut bytes = vec![0; self.bytes];
        device.read(self.device, &mut bytes).unwrap();
        let host = self.host.as_slice::<u8>();
        let numbers = |bytes: &[u8]| -> Vec<f64> {
            match dtype {
                DType::F32 => bytes
                    .chunks_exact(4)
                    .map(|x| f64::from(f32::from_le_bytes([x[0], x[1], x[2], x[3]])))
                    .collect(),
                DType::BF16 => {
                    bytes.chunks_exact(2).map(|x| bf16::from_le_bytes([x[0], x[1]]).to_f64()).collect()
                }
                DType::I32 => bytes
                    .chunks_exact(4)
                    .map(|x| f64::from(i32::from_le_bytes([x[0], x[1], x[2], x[3]])))
                    .collect(),
                _ => bytes.iter().map(|&x| f64::from(x)).collect(),
            }
        };
        let (mut difference, mut norm) = (0.0, 0.0);
        for (x, y) in numbers(host).into_iter().zip(numbers(&bytes)) {
            if x == y || x.is_nan() && y.is_nan() {
                norm += if x.is_finite() { x * x } else { 0.0 };
                continue;
            }
            difference += (x - y) * (x - y);
            norm += x * x;
        }
        // What cancels but for rounding, such as the gradient of a bias of keys, has no relative error.
        let noise = NOISE * NOISE * (host.len() / dtype.bytes()) as f64;
        if difference <= noise { 0.0 } else { (difference / norm).sqrt() }
    }
}
