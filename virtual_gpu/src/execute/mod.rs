//! Executes launches: blocks in a seeded random order, one after the other, the warps of a block in random turns.

// Loops over lanes name the lane in every array that they touch.
#![allow(clippy::needless_range_loop)]

mod access;
mod accumulate;
mod atomics;
mod block;
mod bulk;
mod convert;
mod copies;
mod descriptor;
mod float;
mod half;
mod lanes;
mod matrix;
mod mbarrier;
mod numbers;
mod problems;
mod random;
mod run;
mod scalar;
mod tensor_memory;
mod tensor_products;
mod warp;
mod warpgroup;

use crate::counters::{Counters, LaunchReport};
use crate::error::LaunchError;
use crate::memory::global::GlobalMemory;
use crate::memory::shared::SharedMemory;
use crate::parse::SHARED_START;
use crate::program::{Kernel, Special};
use block::{Block, Published, Shared};
use random::Random;
use warp::Warp;

/// What is checked and counted during a launch, and the seed of its schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// Reads of undefined memory.
    pub initialised: bool,
    /// Races, missing waits and missing fences.
    pub races: bool,
    /// Bank conflicts and sectors; instructions are always counted.
    pub counters: bool,
    /// Seed of the order of blocks and of the turns of warps: the same seed gives the same run.
    pub seed: u64,
    /// Instructions that one block may execute, over its warps.
    pub instruction_limit: u64,
}

impl Default for Configuration {
    /// All checks on.
    fn default() -> Self {
        Configuration {
            initialised: true,
            races: true,
            counters: true,
            seed: 1,
            instruction_limit: 2_000_000_000,
        }
    }
}

/// Sizes of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchSizes {
    /// Blocks along each axis.
    pub grid: [u32; 3],
    /// Threads of a block along each axis.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
}

/// Limits of a device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub shared_per_block: u32,
    pub processors: u32,
}

/// Where an instruction stands, for messages.
pub(crate) fn line_of(kernel: &Kernel, instruction: u32) -> String {
    let site = &kernel.sites[(instruction as usize).min(kernel.sites.len() - 1)];
    match site.source {
        Some(source) => format!("PTX line {}, {}", site.ptx_line, kernel.source_lines[source as usize]),
        None => format!("PTX line {}", site.ptx_line),
    }
}

fn check_sizes(
    kernel: &Kernel,
    sizes: &LaunchSizes,
    limits: Limits,
    parameters: &[u8],
) -> Result<(), LaunchError> {
    let invalid = |problem: String| Err(LaunchError::Invalid { kernel: kernel.name.clone(), problem });
    let LaunchSizes { grid, block, dynamic_shared } = *sizes;
    let threads = block.iter().map(|size| u64::from(*size)).product::<u64>();
    if threads == 0 || threads > 1024 || block[2] > 64 {
        return invalid(format!("a block of {block:?} threads: 1 to 1024, at most 64 along the last axis"));
    }
    if grid.contains(&0) || grid[0] > i32::MAX as u32 || grid[1] > 65535 || grid[2] > 65535 {
        return invalid(format!("a grid of {grid:?} blocks: none 0, the last two at most 65535"));
    }
    if grid.iter().map(|size| u64::from(*size)).product::<u64>() >= (1 << 28) - 1 {
        return invalid(format!("a grid of {grid:?} blocks: fewer than 2^28 here"));
    }
    if let Some(required) = kernel.required_threads
        && required != block
    {
        return invalid(format!(
            "a block of {block:?} threads, but the kernel was compiled for {required:?}"
        ));
    }
    if kernel.maximum_threads != 0 && threads > u64::from(kernel.maximum_threads) {
        return invalid(format!(
            "a block of {threads} threads, but the kernel was compiled for {} (__launch_bounds__)",
            kernel.maximum_threads
        ));
    }
    let shared = u64::from(kernel.static_shared - SHARED_START) + u64::from(dynamic_shared);
    if shared > u64::from(limits.shared_per_block) {
        return invalid(format!(
            "{shared} bytes of shared memory, {dynamic_shared} of them dynamic: a block has at most {}",
            limits.shared_per_block
        ));
    }
    if parameters.len() != kernel.parameter_bytes {
        return invalid(format!("{} bytes of parameters, not {}", parameters.len(), kernel.parameter_bytes));
    }
    Ok(())
}

/// Runs a kernel on a grid. `launch` is the number of the launch on this device.
pub(crate) fn launch(
    memory: &mut GlobalMemory,
    kernel: &Kernel,
    sizes: &LaunchSizes,
    parameters: &[u8],
    configuration: &Configuration,
    limits: Limits,
    launch: u32,
) -> Result<LaunchReport, LaunchError> {
    check_sizes(kernel, sizes, limits, parameters)?;
    let threads: u32 = sizes.block.iter().product();
    let warp_count = threads.div_ceil(32) as usize;
    let size = (kernel.static_shared + sizes.dynamic_shared) as usize;
    let mut shared =
        SharedMemory::new(size, SHARED_START as usize, kernel.shared_unit, warp_count, configuration.races);
    let mut random = Random::new(configuration.seed);
    let mut counters = vec![Counters::default(); kernel.instructions.len()];
    let mut published = Published::new();
    let lanes = |warp: usize| {
        let left = threads - warp as u32 * 32;
        if left >= 32 { u32::MAX } else { (1 << left) - 1 }
    };
    let mut warps: Vec<Warp> = (0..warp_count).map(|warp| Warp::new(kernel, warp, lanes(warp))).collect();
    let blocks: u32 = sizes.grid.iter().product();
    let mut clock = 0;
    for linear in random.order(blocks) {
        let common = Shared {
            kernel,
            configuration,
            memory,
            shared: &mut shared,
            counters: &mut counters,
            parameters,
            published: &mut published,
            random: &mut random,
            grid: sizes.grid,
            launch,
        };
        let mut block = Block::new(common, linear, warp_count, clock);
        for (index, warp) in warps.iter_mut().enumerate() {
            warp.restart(kernel, lanes(index));
            set_specials(warp, kernel, sizes, block.index, linear, limits);
        }
        block.run(&mut warps)?;
        clock = block.clocks.now();
    }
    Ok(LaunchReport::of(kernel, &counters))
}

fn set_specials(
    warp: &mut Warp,
    kernel: &Kernel,
    sizes: &LaunchSizes,
    index: [u32; 3],
    linear: u32,
    limits: Limits,
) {
    let [x, y, _] = sizes.block;
    let first = warp.index as u32 * 32;
    let warps = sizes.block.iter().product::<u32>().div_ceil(32);
    for (slot, special) in &kernel.specials {
        let values = std::array::from_fn(|lane| {
            let lane = lane as u32;
            let thread = first + lane;
            match special {
                Special::ThreadIndex(0) => thread % x,
                Special::ThreadIndex(1) => thread / x % y,
                Special::ThreadIndex(_) => thread / (x * y),
                Special::BlockSize(axis) => sizes.block[usize::from(*axis)],
                Special::BlockIndex(axis) => index[usize::from(*axis)],
                Special::GridSize(axis) => sizes.grid[usize::from(*axis)],
                Special::Lane => lane,
                Special::Warp => warp.index as u32,
                Special::WarpCount => warps,
                Special::LanesBelow => (1 << lane) - 1,
                Special::LanesBelowOrEqual => u32::MAX >> (31 - lane),
                Special::LanesAbove => !(u32::MAX >> (31 - lane)),
                Special::LanesAboveOrEqual => u32::MAX << lane,
                Special::LaneBit => 1 << lane,
                Special::ClusterRank => 0,
                Special::ClusterBlocks => 1,
                Special::DynamicShared => sizes.dynamic_shared,
                Special::TotalShared => kernel.static_shared + sizes.dynamic_shared,
                Special::ProcessorId => linear % limits.processors,
                Special::ProcessorCount => limits.processors,
            }
        });
        warp.narrow[*slot as usize] = values;
    }
}
