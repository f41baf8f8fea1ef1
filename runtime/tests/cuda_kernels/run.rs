//! Runs an entry launch by launch on the virtual GPU, and compares what each launch writes with what it must be; if a
//! processor's kernels are given too, also with what they write.

use super::memory::Twin;
use super::places::{Bound, Positions};
use super::reference::{Key, Reference};
use diptych_codegen::c::step::StepTables;
use diptych_codegen::cuda::step::StepTables as DeviceTables;
use diptych_codegen::entry::{ArgRef, CompiledEntry, Launch, PlanStep, Role, Slot};
use diptych_codegen::lower::Source;
use diptych_ir::Program;
use diptych_passes::layout::{CHECKPOINT, Leading};
use diptych_runtime::executor::Kernels;
use diptych_virtual_gpu::{Arguments, Configuration, Device, LaunchError, LaunchReport};
use diptych_virtual_gpu::{Counters, LaunchSizes, Module};
use std::collections::BTreeMap;
use std::ffi::c_void;

/// How far results may be from a processor's, in norm.
const OF_PROCESSOR: f64 = 1e-5;

/// Counts of a kernel.
#[derive(Default)]
pub struct Counted {
    pub total: Counters,
    /// Of the innermost loop that has tensor-core instructions.
    pub main_loop: Counters,
}

/// Sees each launch before it is made: the launch, in which iteration, of which layer.
pub type Observer<'a> = Box<dyn FnMut(&mut Run<'_>, &Launch, usize, usize) + 'a>;

pub struct Run<'a> {
    pub entry: &'a CompiledEntry,
    /// The same entry for a processor.
    pub of_processor: Option<(&'a CompiledEntry, &'a Kernels)>,
    pub reference: &'a Reference,
    pub bound: &'a Bound,
    pub module: &'a Module,
    pub device: &'a mut Device,
    pub twins: &'a mut [Twin],
    pub host_tables: StepTables,
    pub device_tables: DeviceTables,
    /// How far results may be from what they must be, in norm.
    pub tolerance: f64,
    /// The largest distance that was found.
    pub largest: f64,
    pub compared: usize,
    pub row: usize,
    pub in_turns: bool,
    pub wrong: Vec<String>,
    pub launches: usize,
    pub same_bits: usize,
    pub observer: Option<Observer<'a>>,
    /// What was counted in the launches of each kernel.
    pub counted: BTreeMap<usize, Counted>,
    /// Whether results are compared, or kernels are executed for what they count.
    pub compares: bool,
}

impl Run<'_> {
    pub fn steps(&mut self, steps: &[PlanStep], iteration: usize, layer: usize) {
        for step in steps {
            match step {
                PlanStep::Launch(launch) => self.launch(launch, iteration, layer),
                PlanStep::Together(together) => {
                    together.iter().for_each(|launch| self.launch(launch, iteration, layer));
                }
                PlanStep::Repeat { layers, reverse, body } => {
                    for iteration in 0..*layers {
                        let layer = if *reverse { layers - 1 - iteration } else { iteration };
                        self.steps(body, iteration, layer);
                    }
                }
                PlanStep::Turns { rows, body } => self.turns(*rows, body, iteration, layer),
                PlanStep::Copy { from, to } => {
                    let buffer = &self.entry.buffers[from.buffer];
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

    fn turns(&mut self, rows: usize, body: &[PlanStep], iteration: usize, layer: usize) {
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
            self.steps(body, iteration, layer);
            self.in_turns = false;
        }
        (self.row, self.host_tables, self.device_tables) = (0, host, device);
    }

    fn launch(&mut self, launch: &Launch, iteration: usize, layer: usize) {
        if let Some(of_processor) = self.of_processor {
            self.on_processor(of_processor, launch, iteration, layer);
        }
        if let Some(mut observer) = self.observer.take() {
            observer(self, launch, iteration, layer);
            self.observer = Some(observer);
        }
        self.launches += 1;
        match self.execute(self.module, launch, iteration, layer) {
            Ok(report) => {
                let counted = self.counted.entry(launch.kernel).or_default();
                counted.total.add(&report.total);
                counted.main_loop.add(&report.main_loop());
                if self.compares {
                    self.compare_written(launch, iteration, layer);
                }
            }
            Err(error) => {
                let name = &self.entry.device_kernels[launch.kernel].name;
                self.wrong.push(format!("{name}: {error}"));
            }
        }
    }

    /// How many instances a launch has.
    fn instances(&self, launch: &Launch) -> usize {
        let chunks = [self.host_tables.blocks, self.host_tables.past_blocks].map(|count| count as usize);
        launch.grid.iter().map(|count| count.instances(|leading| self.rows(leading), chunks, 1)).product()
    }

    /// How far into its buffer an argument of a launch begins.
    fn offset(&self, place: ArgRef, iteration: usize, layer: usize) -> usize {
        let buffer = &self.entry.buffers[place.buffer];
        let moves = self.in_turns && buffer.turn.is_none() && buffer.layout.leading() == Leading::Rows;
        self.twins[place.buffer].offset(place, iteration, layer, if moves { self.row } else { 0 })
    }

    /// Executes a launch, with its kernel taken from a module, on the virtual GPU.
    pub fn execute(
        &mut self,
        module: &Module,
        launch: &Launch,
        iteration: usize,
        layer: usize,
    ) -> Result<LaunchReport, LaunchError> {
        let kernel = &self.entry.device_kernels[launch.kernel];
        // Fewer blocks than instances: each takes some, in turn.
        let blocks = self.instances(launch).div_ceil(2).max(1);
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
        let mut arguments = Arguments::new().pointer(tables).pointer(scratch).pointer(launch.flat as u64);
        let encoded: Vec<u8> = (kernel.maps.iter())
            .flat_map(|map| {
                let place = launch.args[map.arg];
                let at = self.offset(place, iteration, layer);
                let slot_bytes = self.twins[place.buffer].slot_bytes;
                let address = self.twins[place.buffer].device + at as u64;
                let rows = |leading| self.rows(leading);
                let leading = self.entry.buffers[place.buffer].layout.leading();
                super::maps::encoded(&map.of_rows(leading), address, slot_bytes - at % slot_bytes, rows)
            })
            .collect();
        let maps = self.device.allocate(encoded.len().max(4)).unwrap();
        if !encoded.is_empty() {
            self.device.write(maps, &encoded).unwrap();
            arguments = arguments.pointer(maps);
        }
        for &place in &launch.args {
            let at = self.offset(place, iteration, layer);
            arguments = arguments.pointer(self.twins[place.buffer].device + at as u64);
        }
        let sizes = LaunchSizes {
            grid: [blocks as u32, 1, 1],
            block: [kernel.threads as u32, 1, 1],
            dynamic_shared: kernel.shared_bytes as u32,
        };
        let configuration = Configuration {
            seed: self.launches as u64,
            initialised: self.compares,
            ..Configuration::default()
        };
        let compiled = module.kernel(&kernel.name).expect("a kernel");
        let launched = self.device.launch(compiled, &sizes, arguments.bytes(), &configuration);
        self.device.free(scratch).unwrap();
        self.device.free(tables).unwrap();
        self.device.free(maps).unwrap();
        launched
    }

    /// Compares the arguments that a launch wrote.
    pub fn compare_written(&mut self, launch: &Launch, iteration: usize, layer: usize) {
        let written = &self.entry.programs[launch.kernel].args;
        for (position, _) in written.iter().enumerate().filter(|(_, arg)| arg.written) {
            self.compare(launch, position, iteration, layer);
        }
    }

    /// Calls a processor's kernel for each instance.
    fn on_processor(
        &mut self,
        (entry, kernels): (&CompiledEntry, &Kernels),
        launch: &Launch,
        iteration: usize,
        layer: usize,
    ) {
        let args: Vec<*mut c_void> = launch
            .args
            .iter()
            .map(|&place| {
                let at = self.offset(place, iteration, layer);
                // SAFETY: a slot of the buffer.
                unsafe { self.twins[place.buffer].host.as_ptr().add(at).cast() }
            })
            .collect();
        let kernel = &entry.kernels[launch.kernel];
        let function = kernels.function(&kernel.name).expect("a kernel");
        let mut scratch = vec![0f32; kernel.scratch_floats + (1 << 18)];
        for instance in 0..self.instances(launch) {
            let sizes = [launch.flat as i64];
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
    }

    /// Compares an argument that a launch wrote.
    fn compare(&mut self, launch: &Launch, position: usize, iteration: usize, layer: usize) {
        let place = launch.args[position];
        let buffer = &self.entry.buffers[place.buffer];
        let name = &self.entry.device_kernels[launch.kernel].name;
        if self.of_processor.is_some() {
            let distance = self.twins[place.buffer].distance(self.device, buffer.dtype);
            self.same_bits += usize::from(distance == 0.0);
            if distance.is_nan() || distance > OF_PROCESSOR {
                let role = &buffer.role;
                self.wrong.push(format!("{name}: {role:?} is {distance:e} from a processor's"));
            }
        }
        let (node, positions) = match launch.sources[position] {
            // What kernels leave for one another is no value of the graph; nor are the states kept of a recurrence.
            _ if buffer.layout.leading() == Leading::Checkpoints => return,
            Source::Value(node) => (node, Positions::All),
            Source::Cache(node) => (node, Positions::New),
            Source::Order(..) | Source::Starts(..) | Source::Chunks(_) | Source::State { .. } => return,
        };
        let sums_on = self.in_turns && buffer.layout.leading() != Leading::Rows;
        // States may go on from what they held: they are compared when all is done.
        if matches!(buffer.role, Role::Stored(_)) || sums_on {
            return;
        }
        let key = (launch.region, (launch.region != Program::MAIN).then_some(layer), node);
        let what = format!("{name}: {:?}", buffer.role);
        self.compare_with(&what, place.buffer, place.slot.position(iteration, layer), key, positions);
    }

    /// Compares a slot of a buffer with what a node must be.
    fn compare_with(&mut self, what: &str, id: usize, slot: usize, key: Key, positions: Positions) {
        let (buffer, panel) = (&self.entry.buffers[id], self.entry.panel);
        let slot_elements = self.twins[id].slot_bytes / buffer.dtype.bytes();
        let mut elements = Vec::new();
        for trace in &self.reference.traces {
            let sequences = trace.sequences.clone();
            let placed = trace.value(key).and_then(|value| {
                self.bound.placed((buffer, panel, slot_elements), value, sequences, positions)
            });
            match placed {
                Some(placed) => elements.extend(placed),
                None => return self.wrong.push(format!("{what} has no value in the graph")),
            }
        }
        if self.in_turns {
            let width = buffer.layout.row_elements(panel);
            let rows = self.row..self.row + self.device_tables.rows as usize;
            elements.retain(|(at, _)| rows.contains(&(at / width)));
            let first = if buffer.turn.is_some() { self.row * width } else { 0 };
            elements.iter_mut().for_each(|(at, _)| *at -= first);
        }
        elements.iter_mut().for_each(|(at, _)| *at += slot * slot_elements);
        let distance = self.twins[id].distance_of(self.device, buffer.dtype, elements);
        self.compared += 1;
        let distance = if distance.is_noise(self.tolerance) { 0.0 } else { distance.relative() };
        self.largest = self.largest.max(distance);
        if distance.is_nan() || distance > self.tolerance {
            self.wrong.push(format!("{what} of {} is {distance:e} from what it must be", buffer.dtype));
        }
    }

    /// Compares the roots and the updates of the entry, when all is done.
    pub fn results(&mut self) {
        for &(name, node) in &self.reference.results {
            let of = |role: Role| self.entry.buffer(&role);
            let id = of(Role::Root(name)).or_else(|| of(Role::Stored(name))).expect("a result");
            self.compare_with(name.as_str(), id, 0, (Program::MAIN, None, node), Positions::All);
        }
    }
}
