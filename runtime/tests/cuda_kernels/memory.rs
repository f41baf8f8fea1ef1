//! The buffers of an entry, twice: where a processor's kernels find them, and on the virtual GPU.

use super::places::{Bound, Positions};
use super::reference::{Key, Random, Reference};
use diptych_codegen::entry::{ArgRef, Buffer, CompiledEntry, Limits, Role, Slot};
use diptych_codegen::lower::Source;
use diptych_codegen::tile::CHUNK;
use diptych_ir::{DType, Program};
use diptych_passes::layout::{CHECKPOINT, Leading};
use diptych_runtime::executor::{AlignedBytes, CacheSize};
use diptych_virtual_gpu::Device;
use half::bf16;

/// Differences of this part of the tolerance, in the mean, are noise: numbers here are from a thousandth to one, but
/// for gradients in which all but rounding cancels, such as that of a bias of keys, which no softmax sees.
const NOISE: f64 = 5e-5;

/// A buffer in both places.
pub struct Twin {
    pub host: AlignedBytes,
    pub device: u64,
    pub bytes: usize,
    pub slot_bytes: usize,
    pub row_bytes: usize,
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
        (_, Leading::Checkpoints) => limits.rows / CHECKPOINT + limits.batch,
        _ => limits.rows,
    }
}

/// All buffers of an entry: what a run is given is there; what it computes is zero on the host, and undefined on the
/// device. Caches hold what the positions before the run have, and elsewhere what earlier texts may have left.
pub fn twins(
    entry: &CompiledEntry,
    reference: &Reference,
    bound: &Bound,
    device: &mut Device,
    (limits, cache): (Limits, CacheSize),
) -> Vec<Twin> {
    let mut random = Random(7);
    let twin = |(id, buffer): (usize, &Buffer)| {
        let elements = rows(buffer, limits, cache) * buffer.layout.row_elements(entry.panel);
        let slot_bytes = elements * buffer.dtype.bytes();
        let bytes = (slot_bytes * buffer.slots).max(4);
        let mut host = AlignedBytes::zeroed(bytes).unwrap();
        let address = device.allocate(bytes).unwrap();
        let shape = (buffer, entry.panel, elements);
        let mut put = |slot: usize, placed: Option<Vec<(usize, f64)>>| {
            for (at, number) in placed.expect("rows of a kind that values have") {
                put(host.as_mut_slice::<u8>(), buffer.dtype, slot * elements + at, number);
            }
        };
        match &buffer.role {
            Role::Stored(name) => {
                put(0, bound.placed(shape, &reference.stored[name], 0..0, Positions::All));
            }
            Role::Input(name) => reference.traces.iter().for_each(|trace| {
                put(0, bound.placed(shape, &trace.inputs[name], trace.sequences.clone(), Positions::New));
            }),
            Role::Cache { .. } | Role::State { .. } => {
                put(
                    0,
                    Some((0..elements * buffer.slots).map(|at| (at, f64::from(random.float()))).collect()),
                );
                for (key, slot) in cached(entry, id) {
                    for trace in &reference.traces {
                        let value = trace.value(key).expect("what a cache keeps");
                        put(slot, bound.placed(shape, value, trace.sequences.clone(), Positions::Old));
                    }
                }
            }
            Role::Root(_) | Role::Derived | Role::Temporary => {}
        }
        let given =
            matches!(buffer.role, Role::Stored(_) | Role::Input(_) | Role::Cache { .. } | Role::State { .. });
        // Sums start where their states are; what fills up panels is zero from the start.
        if given || buffer.has_padding(entry.panel) {
            device.write(address, host.as_slice::<u8>()).unwrap();
        }
        let row_bytes = buffer.layout.row_elements(entry.panel) * buffer.dtype.bytes();
        Twin { host, device: address, bytes, slot_bytes, row_bytes }
    };
    entry.buffers.iter().enumerate().map(twin).collect()
}

/// The values that a cache keeps, each with its slot.
fn cached(entry: &CompiledEntry, buffer: usize) -> Vec<(Key, usize)> {
    let mut found = Vec::new();
    for launch in entry.all_launches() {
        for (place, source) in launch.args.iter().zip(&launch.sources) {
            let &Source::Cache(node) = source else { continue };
            if place.buffer != buffer {
                continue;
            }
            match place.slot {
                Slot::Layer => {
                    let layers = 0..entry.buffers[buffer].slots;
                    found.extend(layers.map(|layer| ((launch.region, Some(layer), node), layer)));
                }
                _ => found.push(((Program::MAIN, None, node), 0)),
            }
        }
    }
    found.dedup();
    found
}

fn put(bytes: &mut [u8], dtype: DType, at: usize, number: f64) {
    match dtype {
        DType::F32 => bytes[4 * at..][..4].copy_from_slice(&(number as f32).to_le_bytes()),
        DType::I32 => bytes[4 * at..][..4].copy_from_slice(&(number as i32).to_le_bytes()),
        DType::BF16 => bytes[2 * at..][..2].copy_from_slice(&bf16::from_f64(number).to_le_bytes()),
        other => panic!("the zoo is given nothing of type {other}"),
    }
}

fn get(bytes: &[u8], dtype: DType, at: usize) -> f64 {
    let four = |at: usize| [0, 1, 2, 3].map(|byte| bytes[4 * at + byte]);
    match dtype {
        DType::F32 => f64::from(f32::from_le_bytes(four(at))),
        DType::I32 => f64::from(i32::from_le_bytes(four(at))),
        DType::BF16 => bf16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]).to_f64(),
        _ => f64::from(bytes[at]),
    }
}

/// A distance in norm, relative to what is expected.
#[derive(Default)]
pub struct Distance {
    difference: f64,
    norm: f64,
    count: usize,
}

impl Distance {
    pub fn add(&mut self, found: f64, expected: f64) {
        self.count += 1;
        if found == expected || found.is_nan() && expected.is_nan() {
            self.norm += if expected.is_finite() { expected * expected } else { 0.0 };
            return;
        }
        self.difference += (found - expected) * (found - expected);
        self.norm += expected * expected;
    }

    /// Relative to what is expected.
    pub fn relative(&self) -> f64 {
        if self.difference == 0.0 { 0.0 } else { (self.difference / self.norm).sqrt() }
    }

    /// Whether all that is different is rounding, of results that may be so far apart.
    pub fn is_noise(&self, tolerance: f64) -> bool {
        self.difference <= (NOISE * tolerance).powi(2) * self.count as f64
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

    /// How far what the device holds is from what a processor computed.
    pub fn distance(&self, device: &mut Device, dtype: DType) -> f64 {
        self.distance_to(device, dtype, self.host.as_slice::<u8>())
    }

    /// How far what the device holds is from a whole buffer.
    pub fn distance_to(&self, device: &mut Device, dtype: DType, expected: &[u8]) -> f64 {
        let elements = (0..self.bytes / dtype.bytes()).map(|at| (at, get(expected, dtype, at)));
        self.distance_of(device, dtype, elements).relative()
    }

    /// How far elements that the device holds are from what they must be.
    pub fn distance_of(
        &self,
        device: &mut Device,
        dtype: DType,
        elements: impl IntoIterator<Item = (usize, f64)>,
    ) -> Distance {
        let found = self.of_device(device);
        let mut distance = Distance::default();
        elements.into_iter().for_each(|(at, expected)| distance.add(get(&found, dtype, at), expected));
        distance
    }

    /// All bytes on the device; what is undefined has some value.
    pub fn of_device(&self, device: &mut Device) -> Vec<u8> {
        let mut bytes = vec![0; self.bytes];
        device.read(self.device, &mut bytes).unwrap();
        bytes
    }
}
