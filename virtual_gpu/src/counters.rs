//! What a launch did: per instruction, and summed over lines of the source.

use crate::parse::SourceLine;
use crate::program::{Kernel, Operation, TensorOperation};

/// Counts of one instruction, of a line, or of a launch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Instructions executed, per warp.
    pub warp_instructions: u64,
    /// Instructions executed, per lane.
    pub lane_instructions: u64,
    /// Tensor-core instructions, per warp.
    pub tensor_core_instructions: u64,
    /// Passes through the banks of shared memory.
    pub shared_wavefronts: u64,
    /// Passes that the same accesses would take without conflicts.
    pub ideal_shared_wavefronts: u64,
    /// Sectors of 32 bytes that loads from global memory touched.
    pub load_sectors: u64,
    /// Sectors that the same bytes would fill.
    pub ideal_load_sectors: u64,
    /// Sectors that stores to global memory touched.
    pub store_sectors: u64,
    /// Sectors that the same bytes would fill.
    pub ideal_store_sectors: u64,
}

fn ratio(actual: u64, ideal: u64) -> f64 {
    if ideal == 0 { 1.0 } else { actual as f64 / ideal as f64 }
}

impl Counters {
    /// Passes through the banks over those without conflicts; 1 is the best, and the value where nothing was accessed.
    pub fn bank_conflict_ratio(&self) -> f64 {
        ratio(self.shared_wavefronts, self.ideal_shared_wavefronts)
    }

    /// Sectors that loads touched over those that their bytes fill.
    pub fn load_sector_ratio(&self) -> f64 {
        ratio(self.load_sectors, self.ideal_load_sectors)
    }

    /// Sectors that stores touched over those that their bytes fill.
    pub fn store_sector_ratio(&self) -> f64 {
        ratio(self.store_sectors, self.ideal_store_sectors)
    }

    /// Adds other counts to these.
    pub fn add(&mut self, other: &Counters) {
        self.warp_instructions += other.warp_instructions;
        self.lane_instructions += other.lane_instructions;
        self.tensor_core_instructions += other.tensor_core_instructions;
        self.shared_wavefronts += other.shared_wavefronts;
        self.ideal_shared_wavefronts += other.ideal_shared_wavefronts;
        self.load_sectors += other.load_sectors;
        self.ideal_load_sectors += other.ideal_load_sectors;
        self.store_sectors += other.store_sectors;
        self.ideal_store_sectors += other.ideal_store_sectors;
    }
}

/// Counts of one instruction of the PTX.
#[derive(Clone, Debug, PartialEq)]
pub struct InstructionReport {
    /// Line of the PTX text, from 1.
    pub ptx_line: u32,
    /// The instruction.
    pub opcode: String,
    /// Line of the CUDA source, where the PTX names it.
    pub source: Option<SourceLine>,
    /// Its counts.
    pub counters: Counters,
}

/// What a launch did.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct LaunchReport {
    /// Sums over the launch.
    pub total: Counters,
    /// Counts by instruction, in the order of the PTX; instructions that were never executed have zeros.
    pub instructions: Vec<InstructionReport>,
}

impl LaunchReport {
    pub(crate) fn of(kernel: &Kernel, counters: &[Counters]) -> Self {
        let mut report = LaunchReport::default();
        for (at, counters) in counters.iter().enumerate() {
            let site = &kernel.sites[at];
            let mut counters = *counters;
            let multiplies = match &kernel.instructions[at].operation {
                Operation::MatrixMultiply { .. } | Operation::WarpgroupMultiply(_) => true,
                Operation::TensorMemory(operation) => matches!(**operation, TensorOperation::Multiply(_)),
                _ => false,
            };
            if multiplies {
                counters.tensor_core_instructions = counters.warp_instructions;
            }
            report.total.add(&counters);
            report.instructions.push(InstructionReport {
                ptx_line: site.ptx_line,
                opcode: site.opcode.clone(),
                source: site.source.map(|source| kernel.source_lines[source as usize].clone()),
                counters,
            });
        }
        report
    }

    /// Sums over the instructions of some lines of the kernel's own body; inlined code counts where it is called.
    pub fn source_lines(&self, lines: impl std::ops::RangeBounds<u32>) -> Counters {
        self.sum(|instruction| {
            instruction.source.as_ref().is_some_and(|source| lines.contains(&source.kernel_line()))
        })
    }

    /// Sums over the instructions of some lines of the PTX.
    pub fn ptx_lines(&self, lines: impl std::ops::RangeBounds<u32>) -> Counters {
        self.sum(|instruction| lines.contains(&instruction.ptx_line))
    }

    /// Sums over the loops that executed tensor-core instructions most often, or at least half as often: what stands
    /// around these instructions and was executed as often. What lies between two such loops, and is executed once for
    /// both, is not among it.
    pub fn main_loop(&self) -> Counters {
        let runs = |at: usize| self.instructions[at].counters.warp_instructions;
        let multiplies = |at: &usize| self.instructions[*at].counters.tensor_core_instructions > 0;
        let tensor: Vec<usize> = (0..self.instructions.len()).filter(multiplies).collect();
        let most = tensor.iter().map(|&at| runs(at)).max().unwrap_or(0);
        let mut within = vec![false; self.instructions.len()];
        for at in tensor.into_iter().filter(|&at| 2 * runs(at) >= most) {
            let before = (0..=at).rev().take_while(|&other| runs(other) >= runs(at));
            let after = (at..within.len()).take_while(|&other| runs(other) >= runs(at));
            before.chain(after).for_each(|other| within[other] = true);
        }
        let mut sum = Counters::default();
        let counted = self.instructions.iter().zip(within).filter(|(_, within)| *within);
        counted.for_each(|(instruction, _)| sum.add(&instruction.counters));
        sum
    }

    fn sum(&self, select: impl Fn(&InstructionReport) -> bool) -> Counters {
        let mut sum = Counters::default();
        self.instructions.iter().filter(|i| select(i)).for_each(|instruction| sum.add(&instruction.counters));
        sum
    }
}

/// Whether each lane's address is that of the lane before, `step` on.
#[inline(always)]
fn follows(addresses: &[u64; 32], step: u64) -> bool {
    let mut other = false;
    for lane in 1..32 {
        other |= addresses[lane] != addresses[0].wrapping_add(step * lane as u64);
    }
    !other
}

/// Wavefronts of one access to shared memory, and those without conflicts. Lanes take part in groups that together
/// fill 128 bytes; lanes that read the same word share it.
pub(crate) fn wavefronts(addresses: &[u64; 32], mask: u32, bytes: usize) -> (u64, u64) {
    let lanes_per_phase = (128 / bytes.clamp(4, 16)).min(32);
    let (mut actual, mut ideal) = (0, 0);
    // Lanes next to each other, each its own bytes, and all lanes at one place: by far the most frequent.
    if mask == u32::MAX && bytes >= 4 {
        let phases = 32 / lanes_per_phase as u64;
        if addresses[0].is_multiple_of(bytes as u64) && follows(addresses, bytes as u64)
            || follows(addresses, 0)
        {
            return (phases, phases);
        }
    }
    for first in (0..32).step_by(lanes_per_phase) {
        // Of each bank the word that it served last, and how many so far; words of banks that served several.
        let (mut latest, mut depth) = ([u64::MAX; 32], [0u8; 32]);
        let mut words: [u64; 128] = [u64::MAX; 128];
        let (mut most, mut count) = (0, 0);
        let phase = mask >> first & (u32::MAX >> (32 - lanes_per_phase));
        let mut left = phase;
        while left != 0 {
            let lane = first + left.trailing_zeros() as usize;
            left &= left - 1;
            for word in addresses[lane] / 4..=(addresses[lane] + bytes as u64 - 1) / 4 {
                let bank = (word % 32) as usize;
                if latest[bank] == word || (depth[bank] > 1 && words[..count].contains(&word)) {
                    continue;
                }
                for seen in [latest[bank], word] {
                    if depth[bank] > 0 && count < words.len() {
                        words[count] = seen;
                        count += 1;
                    }
                }
                latest[bank] = word;
                depth[bank] += 1;
                most = most.max(depth[bank]);
            }
        }
        actual += u64::from(most);
        ideal += u64::from(phase != 0);
    }
    (actual, ideal)
}

/// Sectors of 32 bytes that one access touches, and those that its distinct bytes would fill.
pub(crate) fn sectors(addresses: &[u64; 32], mask: u32, bytes: usize) -> (u64, u64) {
    if mask == u32::MAX && follows(addresses, bytes as u64) {
        let (first, last) = (addresses[0], addresses[0] + 32 * bytes as u64 - 1);
        return (last / 32 - first / 32 + 1, bytes as u64);
    }
    let mut touched: [u64; 64] = [u64::MAX; 64];
    let mut count = 0;
    let mut starts: [u64; 32] = [u64::MAX; 32];
    let mut distinct = 0;
    for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
        let address = addresses[lane];
        if distinct == 0 || (starts[distinct - 1] != address && !starts[..distinct].contains(&address)) {
            starts[distinct] = address;
            distinct += 1;
        }
        for sector in address / 32..=(address + bytes as u64 - 1) / 32 {
            if count > 0 && touched[count - 1] == sector || touched[..count].contains(&sector) {
                continue;
            }
            if count < touched.len() {
                touched[count] = sector;
                count += 1;
            }
        }
    }
    (count as u64, ((distinct * bytes) as u64).div_ceil(32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(f: impl Fn(u64) -> u64) -> [u64; 32] {
        std::array::from_fn(|lane| f(lane as u64))
    }

    #[test]
    fn conflicts_are_words_of_one_bank() {
        assert_eq!(wavefronts(&addresses(|lane| lane * 4), !0, 4), (1, 1));
        assert_eq!(wavefronts(&addresses(|lane| lane * 128), !0, 4), (32, 1));
        assert_eq!(wavefronts(&addresses(|lane| lane * 8), !0, 4), (2, 1));
        assert_eq!(wavefronts(&addresses(|_| 64), !0, 4), (1, 1));
        assert_eq!(wavefronts(&addresses(|lane| lane * 16), !0, 16), (4, 4));
        assert_eq!(wavefronts(&addresses(|lane| lane * 64), !0, 16), (16, 4));
        assert_eq!(wavefronts(&addresses(|lane| lane * 2), !0, 2), (1, 1));
        assert_eq!(wavefronts(&addresses(|lane| lane * 128), 0xff, 16), (8, 1));
    }

    #[test]
    fn sectors_over_those_that_the_bytes_fill() {
        assert_eq!(sectors(&addresses(|lane| lane * 4), !0, 4), (4, 4));
        assert_eq!(sectors(&addresses(|lane| 4 + lane * 4), !0, 4), (5, 4));
        assert_eq!(sectors(&addresses(|lane| lane * 128), !0, 4), (32, 4));
        assert_eq!(sectors(&addresses(|_| 64), !0, 4), (1, 1));
        assert_eq!(sectors(&addresses(|lane| lane * 16), !0, 16), (16, 16));
    }
}
