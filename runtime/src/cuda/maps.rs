//! The tensor maps of an entry's launches: one table in the GPU's memory, in which each launch has places of its own for
//! every layer and turn that it runs in, so that captured graphs can keep their addresses. What depends on the size of a
//! run is made anew by the driver when that changes, and copied before the run's launches.

use super::error::{CudaError, cause, could_not};
use super::gpu::Gpu;
use super::memory::{DeviceBytes, PinnedBytes};
use crate::executor::resolve::{Argument, LoadedLaunch, LoadedStep, Resolved, RunSize, even_turns};
use cudarc::driver::{CudaStream, result, sys};
use diptych_codegen::cuda::{ResolvedMap, Swizzle, TensorExtent, TensorMap};
use diptych_codegen::entry::{CompiledEntry, Limits, PlanStep};
use diptych_ir::DType;
use std::ffi::c_void;

/// What the driver makes: it writes at multiples of 64 bytes, and copies of boxes read at multiples of 128.
#[repr(C, align(128))]
struct Encoded(sys::CUtensorMap);

const MAP_BYTES: usize = size_of::<Encoded>();

/// The maps of all launches of an entry that have some.
#[derive(Debug, Default)]
pub(super) struct Maps {
    entry: &'static str,
    launches: Vec<LaunchMaps>,
    /// Which of these a launch is, by its position.
    by_position: Vec<Option<usize>>,
    table: Option<(PinnedBytes, DeviceBytes)>,
    /// Rows and sequences of the run whose maps the table holds: nothing else of a run is in them.
    size: Option<[usize; 2]>,
}

/// Where a launch stands among an entry's steps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    kernel: usize,
    /// In a repeat: how many layers there are, and whether the last comes first.
    layers: Option<(usize, bool)>,
    /// In turns over the rows: the most rows of one.
    turn_rows: Option<usize>,
}

impl Place {
    fn iterations(self) -> usize {
        self.layers.map_or(1, |layers| layers.0)
    }

    fn layer(self, iteration: usize) -> usize {
        match self.layers {
            Some((layers, true)) => layers - 1 - iteration,
            Some(_) => iteration,
            None => 0,
        }
    }

    fn most_turns(self, limits: Limits) -> usize {
        self.turn_rows.map_or(1, |most| limits.rows.div_ceil(most).max(1))
    }

    /// The first row of each turn of a run, and how large the turn is.
    fn turns(self, size: RunSize) -> impl Iterator<Item = (usize, RunSize)> {
        let (rows, turns) = self.turn_rows.map_or((size.rows, 1), |most| even_turns(size.rows, most));
        (0..turns).map(move |turn| {
            let row = turn * rows;
            (row, RunSize { rows: rows.min(size.rows - row.min(size.rows)), ..size })
        })
    }
}

/// The places of an entry's launches, by position.
fn places(entry: &CompiledEntry) -> Vec<Place> {
    fn collect(
        steps: &[PlanStep],
        layers: Option<(usize, bool)>,
        turn_rows: Option<usize>,
        places: &mut Vec<Place>,
    ) {
        for step in steps {
            let launches = match step {
                PlanStep::Launch(launch) => std::slice::from_ref(launch),
                PlanStep::Together(launches) => launches,
                PlanStep::Repeat { layers, reverse, body } => {
                    collect(body, Some((*layers, *reverse)), turn_rows, places);
                    continue;
                }
                PlanStep::Turns { rows, body } => {
                    collect(body, layers, Some(*rows), places);
                    continue;
                }
                PlanStep::Copy { .. } => continue,
            };
            let kernels = launches.iter().map(|launch| launch.kernel);
            places.extend(kernels.map(|kernel| Place { kernel, layers, turn_rows }));
        }
    }
    let mut places = Vec::new();
    collect(&entry.steps, None, None, &mut places);
    collect(&entry.load_steps, None, None, &mut places);
    places
}

/// All launches of some steps, in the order of their positions.
fn launches<F>(steps: &[LoadedStep<F>]) -> Vec<&LoadedLaunch<F>> {
    let mut found = Vec::new();
    for step in steps {
        match step {
            LoadedStep::Launches(together) => found.extend(together),
            LoadedStep::Repeat { body, .. } | LoadedStep::Turns { body, .. } => found.extend(launches(body)),
            LoadedStep::Copy { .. } => {}
        }
    }
    found
}

/// The maps of one launch.
#[derive(Debug)]
struct LaunchMaps {
    kernel: String,
    place: Place,
    /// Each with the argument that it lies in, and that one's name.
    maps: Vec<(TensorMap, Argument, String)>,
    /// Its first place in the table, in maps.
    first: usize,
    /// Whether the maps of two runs may differ.
    varies: bool,
}

impl LaunchMaps {
    /// The place of the first map, in an iteration of a turn.
    fn position(&self, iteration: usize, turn: usize) -> usize {
        self.first + (turn * self.place.iterations() + iteration) * self.maps.len()
    }

    /// What the driver is asked for: each map's place in the table, address and sizes, and whose it is.
    fn described(&self, size: RunSize) -> impl Iterator<Item = (usize, Described<'_>)> {
        let iterations = self.place.iterations();
        self.place.turns(size).enumerate().flat_map(move |(turn, (row, size))| {
            (0..iterations).flat_map(move |iteration| {
                let layer = self.place.layer(iteration);
                let first = self.position(iteration, turn);
                self.maps.iter().enumerate().map(move |(at, (map, argument, name))| {
                    let start = argument.at(iteration, layer, row) as u64;
                    let address = start + (map.offset * map.dtype.bytes()) as u64;
                    let resolved = map.resolve(|leading| size.rows(leading), argument.room(row));
                    (first + at, Described { map, address, resolved, argument: name })
                })
            })
        })
    }
}

/// A map of a run.
struct Described<'m> {
    map: &'m TensorMap,
    address: u64,
    resolved: Result<ResolvedMap, String>,
    argument: &'m str,
}

impl Described<'_> {
    /// The driver's bytes.
    fn encode(self) -> Result<Encoded, String> {
        let ResolvedMap { sizes, strides, box_sizes } = self.resolved?;
        use sys::CUtensorMapDataType_enum as Type;
        let dtype = match self.map.dtype {
            DType::F32 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
            DType::BF16 => Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            DType::F16 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            DType::I32 => Type::CU_TENSOR_MAP_DATA_TYPE_INT32,
            DType::I8 | DType::Bool => Type::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        };
        use sys::CUtensorMapSwizzle_enum as Swizzles;
        let swizzle = match self.map.swizzle {
            Swizzle::None => Swizzles::CU_TENSOR_MAP_SWIZZLE_NONE,
            Swizzle::Bytes32 => Swizzles::CU_TENSOR_MAP_SWIZZLE_32B,
            Swizzle::Bytes64 => Swizzles::CU_TENSOR_MAP_SWIZZLE_64B,
            Swizzle::Bytes128 => Swizzles::CU_TENSOR_MAP_SWIZZLE_128B,
        };
        let steps = [1; 5];
        let mut encoded = Encoded(sys::CUtensorMap { opaque: [0; 16] });
        // SAFETY: as many numbers as there are dimensions, one stride less; the address is only written down.
        let done = unsafe {
            sys::cuTensorMapEncodeTiled(
                &raw mut encoded.0,
                dtype,
                sizes.len() as u32,
                std::ptr::without_provenance_mut::<c_void>(self.address as usize),
                sizes.as_ptr(),
                strides.as_ptr(),
                box_sizes.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave_enum::CU_TENSOR_MAP_INTERLEAVE_NONE,
                swizzle,
                // Lines of the second-level cache are fetched whole: rows of boxes are at most that long.
                sys::CUtensorMapL2promotion_enum::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                sys::CUtensorMapFloatOOBfill_enum::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        match done.result() {
            Ok(()) => Ok(encoded),
            Err(error) => Err(format!(
                "{} (at {:#x}, sizes {sizes:?}, strides {strides:?}, boxes {box_sizes:?})",
                cause(error),
                self.address
            )),
        }
    }
}

impl Maps {
    /// Bytes of the table of an entry.
    pub fn bytes(entry: &CompiledEntry, limits: Limits) -> usize {
        let of = |place: Place| {
            let maps = entry.device_kernels.get(place.kernel).map_or(0, |kernel| kernel.maps.len());
            maps * place.iterations() * place.most_turns(limits) * MAP_BYTES
        };
        places(entry).into_iter().map(of).sum()
    }

    /// Room for the maps of runs of at most these sizes.
    ///
    /// # Errors
    /// When the GPU has no memory for them.
    pub fn new<F>(
        gpu: &Gpu,
        entry: &CompiledEntry,
        resolved: &Resolved<F>,
        limits: Limits,
    ) -> Result<Maps, CudaError> {
        let mut maps = Self::placed(entry, resolved, limits);
        let bytes = Self::bytes(entry, limits);
        if bytes > 0 {
            let host = PinnedBytes::zeroed(gpu.context(), bytes)?;
            maps.table = Some((host, DeviceBytes::new(gpu.context(), bytes, "tensor maps")?));
        }
        Ok(maps)
    }

    /// Which maps there are, and where each lies in the table.
    fn placed<F>(entry: &CompiledEntry, resolved: &Resolved<F>, limits: Limits) -> Maps {
        let mut maps = Maps { entry: entry.kind.name(), ..Maps::default() };
        let mut end = 0;
        let loaded = launches(&resolved.steps).into_iter().chain(launches(&resolved.load_steps));
        for (place, launch) in places(entry).into_iter().zip(loaded) {
            let kernel = entry.device_kernels.get(place.kernel).filter(|kernel| !kernel.maps.is_empty());
            maps.by_position.push(kernel.map(|_| maps.launches.len()));
            let Some(kernel) = kernel else { continue };
            let args = &entry.programs[place.kernel].args;
            let varies =
                |map: &TensorMap| map.dims.iter().any(|dim| matches!(dim.extent, TensorExtent::Leading(_)));
            let of_launch = LaunchMaps {
                kernel: kernel.name.clone(),
                place,
                maps: (kernel.maps.iter())
                    .map(|map| (map.clone(), launch.args[map.arg], args[map.arg].name.clone()))
                    .collect(),
                first: end,
                varies: place.turn_rows.is_some() || kernel.maps.iter().any(varies),
            };
            end = of_launch.position(0, place.most_turns(limits));
            maps.launches.push(of_launch);
        }
        maps
    }

    /// Makes the maps of a run of this size, and copies them to the GPU when the stream comes to it, if they are not there.
    /// The copy has to end before this is called again.
    ///
    /// # Errors
    /// When a tensor cannot be had as the kernel says, with the kernel and the argument.
    pub fn prepare(&mut self, size: RunSize, stream: &CudaStream) -> Result<(), CudaError> {
        let Some((host, gpu)) = &mut self.table else { return Ok(()) };
        let of_run = [size.rows, size.batch];
        if self.size == Some(of_run) {
            return Ok(());
        }
        let is_first = self.size.take().is_none();
        for launch in self.launches.iter().filter(|launch| is_first || launch.varies) {
            for (position, described) in launch.described(size) {
                let argument = described.argument;
                let encoded = described.encode().map_err(|problem| CudaError::TensorMap {
                    kernel: launch.kernel.clone(),
                    entry: self.entry,
                    argument: argument.to_owned(),
                    problem,
                })?;
                let bytes: &[u8] = bytemuck::cast_slice(&encoded.0.opaque);
                host.as_mut_slice()[position * MAP_BYTES..][..MAP_BYTES].copy_from_slice(bytes);
            }
        }
        // SAFETY: both have so many bytes and stay where they are; nobody changes them before the run has ended.
        unsafe { result::memcpy_htod_async(gpu.address(), host.as_slice(), stream.cu_stream()) }
            .map_err(could_not("copy tensor maps to the GPU"))?;
        self.size = Some(of_run);
        Ok(())
    }

    /// Where the maps of a launch are on the GPU, in an iteration of a turn; `None` if it has none.
    pub fn address(&self, position: usize, iteration: usize, turn: usize) -> Option<u64> {
        let launch = &self.launches[(*self.by_position.get(position)?)?];
        let (_, gpu) = self.table.as_ref()?;
        Some(gpu.address() + (launch.position(iteration, turn) * MAP_BYTES) as u64)
    }
}

#[cfg(test)]
mod tests;
