//! Attributes of the device, occupancy, and tensor maps.

use crate::{CudaResult, Driver, Handle, Status, complain, put, with_device};
use diptych_virtual_gpu::{Swizzle, Target, TensorMap};
use std::ffi::{c_int, c_uint, c_void};

fn attribute(target: Target, attribute: c_uint) -> Option<u32> {
    let (major, minor) = target.compute_capability();
    let of = |ampere: u32, hopper: u32, blackwell: u32| match target {
        Target::Sm80 => ampere,
        Target::Sm90a => hopper,
        Target::Sm100a => blackwell,
    };
    Some(match attribute {
        1..=3 => 1024,
        4 => 64,
        5 => i32::MAX as u32,
        6 | 7 => 65535,
        8 => 48 << 10,
        9 => 64 << 10,
        10 => 32,
        11 => i32::MAX as u32,
        12 | 82 => 65536,
        // Kilohertz of the processors and of the memory, bits of its bus, bytes of the second cache: of an A100, an H100
        // and a B200, for programs that derive peaks from them.
        13 => of(1_410_000, 1_830_000, 1_965_000),
        36 => of(1_512_000, 2_619_000, 3_996_000),
        37 => of(5120, 5120, 8192),
        38 => of(40 << 20, 50 << 20, 126 << 20),
        16 => target.processors(),
        17 | 18 | 19 | 20 | 32 | 33 | 34 | 35 | 50 => 0,
        31 | 41 | 78 | 79 | 80 => 1,
        39 => 2048,
        40 => 3,
        75 => major,
        76 => minor,
        81 => target.shared_bytes_per_processor(),
        // Memory that host and device share, cooperative launches, access to pageable memory, clusters.
        83..=96 | 98..=105 | 107..=110 | 112..=114 | 116..=126 | 128.. => 0,
        97 => target.shared_bytes_per_block(),
        106 => 32,
        111 => 1024,
        115 => 1,
        127 => of(0, 1, 1),
        _ => return None,
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, which: c_uint, device: c_int) -> CudaResult {
    with_device(|driver| {
        if device != 0 {
            return Err(Status::InvalidDevice);
        }
        let found = attribute(driver.target, which).ok_or_else(|| {
            complain(Status::InvalidValue, format!("device attribute {which} is not known"))
        })?;
        unsafe { put(value, found as c_int) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceComputeCapability(
    major: *mut c_int,
    minor: *mut c_int,
    _device: c_int,
) -> CudaResult {
    with_device(|driver| {
        let (first, second) = driver.target.compute_capability();
        unsafe { put(major, first as c_int).and_then(|()| put(minor, second as c_int)) }
    })
}

impl Driver {
    /// Blocks of a size that fit on a multiprocessor by threads, shared memory and, as far as the PTX tells, registers.
    fn blocks_per_processor(
        &self,
        function: Handle,
        threads: u32,
        dynamic_shared: usize,
    ) -> Result<u32, Status> {
        let function = self.function(function)?;
        let kernel = &function.module.kernels()[function.kernel];
        if threads == 0 || threads > 1024 {
            return Ok(0);
        }
        let warps = threads.div_ceil(32);
        let shared = u64::from(kernel.static_shared_bytes()) + dynamic_shared as u64 + 1024;
        let by_shared = u64::from(self.target.shared_bytes_per_processor()) / shared;
        let registers = kernel.live_registers().clamp(16, 255).next_multiple_of(8) * warps * 32;
        Ok((64 / warps).min(32).min(by_shared as u32).min(65536 / registers))
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: *mut c_int,
    function: Handle,
    threads: c_int,
    dynamic_shared: usize,
) -> CudaResult {
    with_device(|driver| {
        let found = driver.blocks_per_processor(function, threads.max(0) as u32, dynamic_shared)?;
        unsafe { put(blocks, found as c_int) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    blocks: *mut c_int,
    function: Handle,
    threads: c_int,
    dynamic_shared: usize,
    _flags: c_uint,
) -> CudaResult {
    unsafe { cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, dynamic_shared) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuOccupancyAvailableDynamicSMemPerBlock(
    bytes: *mut usize,
    function: Handle,
    blocks: c_int,
    _threads: c_int,
) -> CudaResult {
    with_device(|driver| {
        let found = driver.function(function)?;
        let kernel = &found.module.kernels()[found.kernel];
        let each = driver.target.shared_bytes_per_processor() / blocks.max(1) as u32;
        let most = each.min(driver.target.shared_bytes_per_block() + 1024);
        unsafe { put(bytes, most.saturating_sub(1024 + kernel.static_shared_bytes()) as usize) }
    })
}

/// Dynamic shared memory of a block by its number of threads.
type SharedOfThreads = Option<unsafe extern "C" fn(c_int) -> usize>;

/// The number of threads with which most are active at once, and the grid that fills the device.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuOccupancyMaxPotentialBlockSize(
    grid: *mut c_int,
    threads: *mut c_int,
    function: Handle,
    shared_of: SharedOfThreads,
    dynamic_shared: usize,
    limit: c_int,
) -> CudaResult {
    with_device(|driver| {
        let found = driver.function(function)?;
        let most = match found.module.kernels()[found.kernel].maximum_threads() {
            0 => 1024,
            threads => threads,
        };
        let most = if limit > 0 { most.min(limit as u32) } else { most };
        let (mut best, mut blocks_of_best) = (0, 0);
        for size in (1..=most / 32).map(|warps| warps * 32) {
            // SAFETY: the caller promises a function that can be called.
            let shared = shared_of.map_or(dynamic_shared, |shared| unsafe { shared(size as c_int) });
            let blocks = driver.blocks_per_processor(function, size, shared)?;
            if blocks * size >= best * blocks_of_best {
                (best, blocks_of_best) = (size, blocks);
            }
        }
        let all = (blocks_of_best * driver.target.processors()) as c_int;
        unsafe { put(grid, all).and_then(|()| put(threads, best as c_int)) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuOccupancyMaxPotentialBlockSizeWithFlags(
    grid: *mut c_int,
    threads: *mut c_int,
    function: Handle,
    shared_of: SharedOfThreads,
    dynamic_shared: usize,
    limit: c_int,
    _flags: c_uint,
) -> CudaResult {
    unsafe { cuOccupancyMaxPotentialBlockSize(grid, threads, function, shared_of, dynamic_shared, limit) }
}

/// Bytes of an element by `CUtensorMapDataType`.
fn element_bytes(kind: c_uint) -> Option<usize> {
    Some(match kind {
        0 => 1,
        1 | 6 | 9 => 2,
        2 | 3 | 7 | 10 | 11 | 12 => 4,
        4 | 5 | 8 => 8,
        _ => return None,
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuTensorMapEncodeTiled(
    map: *mut [u8; 128],
    kind: c_uint,
    rank: c_uint,
    address: *mut c_void,
    sizes: *const u64,
    strides: *const u64,
    box_sizes: *const c_uint,
    element_strides: *const c_uint,
    interleave: c_uint,
    swizzle: c_uint,
    _promotion: c_uint,
    fill: c_uint,
) -> CudaResult {
    with_device(|driver| {
        let refuse =
            |text: String| Err(complain(Status::InvalidValue, format!("cuTensorMapEncodeTiled: {text}")));
        if driver.target == Target::Sm80 {
            return Err(complain(Status::NotSupported, "tensor maps need sm_90a or sm_100a"));
        }
        if !(1..=5).contains(&rank)
            || sizes.is_null()
            || box_sizes.is_null()
            || (rank > 1 && strides.is_null())
        {
            return refuse(format!("rank {rank}, or a list that is missing"));
        }
        // SAFETY: the caller promises as many numbers as the rank says, and one stride less.
        let (sizes, box_sizes, strides, steps) = unsafe {
            let rank = rank as usize;
            let steps = if element_strides.is_null() {
                vec![1; rank]
            } else {
                std::slice::from_raw_parts(element_strides, rank).to_vec()
            };
            let strides =
                if rank > 1 { std::slice::from_raw_parts(strides, rank - 1).to_vec() } else { Vec::new() };
            (
                std::slice::from_raw_parts(sizes, rank).to_vec(),
                std::slice::from_raw_parts(box_sizes, rank).to_vec(),
                strides,
                steps,
            )
        };
        if steps.iter().any(|step| *step != 1) || interleave != 0 || fill != 0 {
            let text =
                "tensor maps with element strides, interleaving, or NaN outside the tensor are not built";
            return Err(complain(Status::NotSupported, text));
        }
        let Some(element_bytes) = element_bytes(kind) else { return refuse(format!("data type {kind}")) };
        let swizzle = match swizzle {
            0 => Swizzle::None,
            1 => Swizzle::Bytes32,
            2 => Swizzle::Bytes64,
            3 => Swizzle::Bytes128,
            other => return refuse(format!("swizzle {other} is not built")),
        };
        let described =
            TensorMap { address: address as u64, element_bytes, sizes, strides, box_sizes, swizzle };
        match described.encode() {
            Ok(bytes) => unsafe { put(map, bytes) },
            Err(problem) => refuse(problem),
        }
    })
}
