//! Runs an entry launch by launch in both places, and compares what each launch writes.

use super::memory::Twin;
use diptych_codegen::c::step::StepTables;
use diptych_codegen::cuda::step::StepTables as DeviceTables;
use diptych_codegen::cuda::{Swizzle, TensorMap};
use diptych_codegen::entry::{CompiledEntry, Launch, PlanStep, Slot};
use diptych_ir::DType;
use diptych_passes::layout::{CHECKPOINT, Leading};
use diptych_runtime::executor::Kernels;
use diptych_virtual_gpu::{self as virtual_gpu, Arguments, Configuration, Device, LaunchSizes, Module};
use std::ffi::c_void;

pub struct Run<'a> {
    pub of_processor: &'a CompiledEntry,
    pub of_device: &'a CompiledEntry,
    pub kernels: &'a Kernels,
    pub module: &'a Module,
    pub device: &'a mut Device,
    pub twins: &'a mut [Twin],
    pub host_tables: StepTables,
    pub device_tables: DeviceTables,
    /// How far results may be apart, in norm.
    pub tolerance: [(DType, f64); 2],
    pub row: usize,
    pub in_turns: bool,
    pub wrong: Vec<String>,
    pub launches: usize,
    pub same_bits: usize,
}

impl Run<'_> {
    pub fn steps(
        &mut self,
        of_processor: &[PlanStep],
        of_device: &[PlanStep],
        iteration: usize,
        layer: usize,
    ) {
        assert_eq!(of_processor.len(), of_device.len());
        for (one, other) in of_processor.iter().zip(of_device) {
            match (one, other) {
                (PlanStep::Launch(one), PlanStep::Launch(other)) => self.launch(one, other, iteration, layer),
                (PlanStep::Together(one), PlanStep::Together(other)) => {
                    assert_eq!(one.len(), other.len());
                    one.iter().zip(other).for_each(|(one, other)| self.launch(one, other, iteration, layer));
                }
                (PlanStep::Repeat { layers, reverse, body: one }, PlanStep::Repeat { body: other, .. }) => {
                    for iteration in 0..*layers {
                        let layer = if *reverse { layers - 1 - iteration } else { iteration };
                        self.steps(one, other, iteration, layer);
                    }
                }
                (PlanStep::Turns { rows, body: one }, PlanStep::Turns { body: other, .. }) => {
                    self.turns(*rows, one, other, iteration, layer);
                }
                (PlanStep::Copy { from, to }, PlanStep::Copy { .. }) => {
                    let buffer = &self.of_processor.buffers[from.buffer];
                    let leading = buffer.layout.leading();
                    let mut bytes = self.rows(leading) * self.twins[from.buffer].row_bytes;
                    if leading == Leading::None && from.slot == Slot::First {
                        bytes *= buffer.slots;
                    }
                    let start = self.twins[from.buffer].offset(*from, iteration, layer, 0);
                    let end = self.twins[to.buffer].offset(*to, iteration, layer, 0);
                    let source = &self.twins[from.buffer];
                    let copied = source.host.as_slice::<u8>()[start..start + bytes].to_vec();
                    let address = source.device + start as u64;
                    self.twins[to.buffer].copy(self.device, (copied, address), end);
                }
                _ => panic!("the steps differ"),
            }
        }
    }

    fn rows(&self, leading: Leading) -> usize {
        let (rows, batch) = (self.host_tables.rows as usize, self.host_tables.batch as usize);
        match leading {
            Leading::None => 1,
            Leading::Batch => batch,
            Leading::Checkpoints => rows / CHECKPOINT + batch,
            _ => rows,
        }
    }

    /// A kernel's map of an argument that begins at an address and has so many bytes.
    fn tensor_map(&self, map: &TensorMap, address: u64, bytes: usize) -> [u8; 128] {
        let resolved = map.resolve(|leading| self.rows(leading), bytes).unwrap();
        let swizzle = match map.swizzle {
            Swizzle::None => virtual_gpu::Swizzle::None,
            Swizzle::Bytes32 => virtual_gpu::Swizzle::Bytes32,
            Swizzle::Bytes64 => virtual_gpu::Swizzle::Bytes64,
            Swizzle::Bytes128 => virtual_gpu::Swizzle::Bytes128,
        };
        let map = virtual_gpu::TensorMap {
            address: address + (map.offset * map.dtype.bytes()) as u64,
            element_bytes: map.dtype.bytes(),
            sizes: resolved.sizes,
            strides: resolved.strides,
            box_sizes: resolved.box_sizes,
            swizzle,
        };
        map.encode().unwrap()
    }

    fn turns(&mut self, rows: usize, one: &[PlanStep], other: &[PlanStep], iteration: usize, layer: usize) {
        let (host, device) = (self.host_tables, self.device_tables);
        let all = host.rows as usize;
        let rows = all.div_ceil(all.div_ceil(rows).max(1)).max(1);
        for turn in 0..all.div_ceil(rows).max(1) {
            self.row = turn * rows;
            self.host_tables.turn = turn as i64;
            self.host_tables.rows = rows.min(all - self.row) as i64;
            // SAFETY: the tables have an element for each row of the run.
            self.host_tables.row_position = unsafe { host.row_position.add(self.row) };
            self.device_tables.turn = turn as i32;
            self.device_tables.rows = self.host_tables.rows as i32;
            self.device_tables.row_position = device.row_position + 4 * self.row as u64;
            self.in_turns = true;
            self.steps(one, other, iteration, layer);
            self.in_turns = false;
        }
        (self.row, self.host_tables, self.device_tables) = (0, host, device);
    }

    fn launch(&mut self, one: &Launch, other: &Launch, iteration: usize, layer: usize) {
        let name = &self.of_processor.kernels[one.kernel].name;
        let kernel = &self.of_device.device_kernels[other.kernel];
        assert_eq!(one.grid, other.grid, "{name}");
        let chunks = [self.host_tables.blocks, self.host_tables.past_blocks].map(|count| count as usize);
        let instances: usize =
            one.grid.iter().map(|count| count.instances(|leading| self.rows(leading), chunks, 1)).product();
        let offset = |run: &Self, place: diptych_codegen::entry::ArgRef| {
            let buffer = &run.of_processor.buffers[place.buffer];
            let moves = run.in_turns && buffer.turn.is_none() && buffer.layout.leading() == Leading::Rows;
            run.twins[place.buffer].offset(place, iteration, layer, if moves { run.row } else { 0 })
        };
        let args: Vec<*mut c_void> = one
            .args
            .iter()
            .map(|&place| {
                let at = offset(self, place);
                // SAFETY: a slot of the buffer.
                unsafe { self.twins[place.buffer].host.as_ptr().add(at).cast() }
            })
            .collect();
        let function = self.kernels.function(name).expect("a kernel");
        let mut scratch = vec![0f32; self.of_processor.kernels[one.kernel].scratch_floats + (1 << 18)];
        for instance in 0..instances {
            let sizes = [one.flat as i64];
            // SAFETY: the arguments are the buffers that the kernel was compiled for.
            unsafe {
                function(
                    &self.host_tables,
                    args.as_ptr(),
                    sizes.as_ptr(),
                    scratch.as_mut_ptr(),
                    instance as i64,
                );
            }
        }
        // Fewer blocks than instances: each takes some, in turn.
        let blocks = instances.div_ceil(2).max(1);
        let scratch = self.device.allocate((kernel.scratch_bytes * blocks).max(4)).unwrap();
        let tables = self.device.allocate(size_of::<DeviceTables>()).unwrap();
        // SAFETY: the struct has no padding and no pointers of the host's.
        let bytes = unsafe {
            std::slice::from_raw_parts(
                (&raw const self.device_tables).cast::<u8>(),
                size_of::<DeviceTables>(),
            )
        };
        self.device.write(tables, bytes).unwrap();
        let mut arguments = Arguments::new().pointer(tables).pointer(scratch).pointer(other.flat as u64);
        let encoded: Vec<u8> = (kernel.maps.iter())
            .flat_map(|map| {
                let place = other.args[map.arg];
                let at = offset(self, place);
                let slot_bytes = self.twins[place.buffer].slot_bytes;
                self.tensor_map(
                    map,
                    self.twins[place.buffer].device + at as u64,
                    slot_bytes - at % slot_bytes,
                )
            })
            .collect();
        let maps = self.device.allocate(encoded.len().max(4)).unwrap();
        if !encoded.is_empty() {
            self.device.write(maps, &encoded).unwrap();
            arguments = arguments.pointer(maps);
        }
        for &place in &other.args {
            arguments = arguments.pointer(self.twins[place.buffer].device + offset(self, place) as u64);
        }
        let sizes = LaunchSizes {
            grid: [blocks as u32, 1, 1],
            block: [kernel.threads as u32, 1, 1],
            dynamic_shared: kernel.shared_bytes as u32,
        };
        let configuration = Configuration { seed: self.launches as u64 + 1, ..Configuration::default() };
        let compiled = self.module.kernel(&kernel.name).expect("a kernel");
        let launched = self.device.launch(compiled, &sizes, arguments.bytes(), &configuration);
        self.device.free(scratch).unwrap();
        self.device.free(tables).unwrap();
        self.device.free(maps).unwrap();
        self.launches += 1;
        if let Err(error) = launched {
            self.wrong.push(format!("{}: {error}", kernel.name));
            return;
        }
        let written = one.args.iter().zip(&self.of_processor.programs[one.kernel].args);
        let written: Vec<usize> =
            written.filter(|(_, arg)| arg.written).map(|(place, _)| place.buffer).collect();
        for buffer in written {
            let dtype = self.of_processor.buffers[buffer].dtype;
            let distance = self.twins[buffer].distance(self.device, dtype);
            let most = self.tolerance.iter().find(|entry| entry.0 == dtype).map_or(0.0, |entry| entry.1);
            if distance == 0.0 {
                self.same_bits += 1;
            }
            if distance.is_nan() || distance > most {
                let role = &self.of_processor.buffers[buffer].role;
                self.wrong.push(format!("{}: {role:?} of {dtype} is {distance:e} apart", kernel.name));
            }
        }
    }
}
