//! How many blocks of a kernel a GPU's multiprocessor holds at once, and what lets no more in. It must not know kernels.

use diptych_codegen::cuda::Architecture;

/// Registers are given to a warp so many at a time.
const REGISTER_UNIT: usize = 256;
/// Warps share a multiprocessor's registers in so many equal parts.
const PARTITIONS: usize = 4;
/// Shared memory is given to a block so many bytes at a time.
const SHARED_UNIT: usize = 128;
/// Shared memory that the system takes of each block, in bytes.
const SHARED_OF_SYSTEM: usize = 1 << 10;
/// Threads of a warp.
const WARP: usize = 32;

/// What a multiprocessor has ("CUDA C++ Programming Guide", table of technical specifications per compute capability).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Multiprocessor {
    /// Registers of 32 bits.
    pub registers: usize,
    /// Threads at once.
    pub threads: usize,
    /// Blocks at once.
    pub blocks: usize,
    /// Bytes of shared memory, with the system's.
    pub shared_bytes: usize,
}

impl Multiprocessor {
    /// That of an architecture.
    pub const fn of(architecture: Architecture) -> Multiprocessor {
        // The capabilities 8.0, 9.0 and 10.0 differ in shared memory alone; a block may have all but the system's part of it.
        let shared_bytes = architecture.shared_bytes() + SHARED_OF_SYSTEM;
        Multiprocessor { registers: 1 << 16, threads: 2048, blocks: 32, shared_bytes }
    }

    /// The blocks of this size that it holds at once.
    ///
    /// `threads` are those of a block, `registers` of a thread, `shared_bytes` of a block, static and dynamic together.
    pub fn occupancy(&self, threads: usize, registers: usize, shared_bytes: usize) -> Occupancy {
        let warps = threads.div_ceil(WARP).max(1);
        let of_warp = (registers.max(1) * WARP).next_multiple_of(REGISTER_UNIT);
        let warps_with_registers = self.registers / PARTITIONS / of_warp * PARTITIONS;
        let shared = shared_bytes.next_multiple_of(SHARED_UNIT) + SHARED_OF_SYSTEM;
        let limits = [
            (Limit::Registers, warps_with_registers / warps),
            (Limit::SharedMemory, self.shared_bytes / shared),
            (Limit::Threads, self.threads / WARP / warps),
            (Limit::Blocks, self.blocks),
        ];
        // The first of those that allow the fewest.
        let (limit, blocks) = limits
            .into_iter()
            .reduce(|least, next| if next.1 < least.1 { next } else { least })
            .unwrap_or((Limit::Blocks, 0));
        let share = (blocks * warps * WARP) as f64 / self.threads as f64;
        Occupancy { blocks, share, limit }
    }
}

/// How full a multiprocessor is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Occupancy {
    /// Blocks at once; 0 where not one fits.
    pub blocks: usize,
    /// Their threads, as a part of those that there can be.
    pub share: f64,
    /// What lets no more in.
    pub limit: Limit,
}

/// What lets no more blocks in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// Registers.
    Registers,
    /// Shared memory.
    SharedMemory,
    /// Threads, or warps.
    Threads,
    /// Blocks, however small.
    Blocks,
}

impl Limit {
    /// As people call it.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Registers => "registers",
            Limit::SharedMemory => "shared memory",
            Limit::Threads => "threads",
            Limit::Blocks => "blocks",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of NVIDIA's occupancy calculator for the capabilities 8.0 and 9.0.
    #[test]
    fn blocks_are_those_of_the_calculator() {
        let [a100, h100, _] = Architecture::ALL.map(Multiprocessor::of);
        let blocks = |of: &Multiprocessor, threads, registers, shared| {
            let found = of.occupancy(threads, registers, shared);
            (found.blocks, found.limit)
        };
        // 256 threads of 32 registers fill it; of 33, each warp takes 40 registers a thread.
        assert_eq!(blocks(&a100, 256, 32, 0), (8, Limit::Registers));
        assert_eq!(blocks(&a100, 256, 24, 0), (8, Limit::Threads));
        assert_eq!(blocks(&a100, 256, 33, 0), (6, Limit::Registers));
        assert_eq!(blocks(&a100, 256, 128, 0), (2, Limit::Registers));
        assert_eq!(blocks(&a100, 256, 168, 0), (1, Limit::Registers));
        assert_eq!(blocks(&a100, 32, 16, 0), (32, Limit::Blocks));
        // 48 KiB with the KiB of the system: three in 164 KiB, four in 228.
        assert_eq!(blocks(&a100, 128, 32, 48 << 10), (3, Limit::SharedMemory));
        assert_eq!(blocks(&h100, 128, 32, 48 << 10), (4, Limit::SharedMemory));
        assert_eq!(blocks(&h100, 384, 168, 227 << 10), (1, Limit::Registers));
        assert_eq!(blocks(&h100, 256, 64, 228 << 10), (0, Limit::SharedMemory));
        assert_eq!(h100.occupancy(256, 128, 0).share, 0.25);
    }
}
