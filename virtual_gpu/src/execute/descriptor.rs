//! Matrices in shared memory as descriptors of `wgmma` and of `tcgen05.mma` say them: both have the same layouts, and
//! other bits for them.

use super::block::Block;
use super::warp::Warp;
use crate::diagnostic::{Fault, Problem};
use crate::memory::shared::PendingRead;
use crate::tensor_map::Swizzle;
use std::ops::Range;

type Result<T> = std::result::Result<T, Problem>;

/// A descriptor of a matrix in shared memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor {
    start: u64,
    leading: u64,
    stride: u64,
    swizzle: Swizzle,
}

impl Descriptor {
    /// Of `wgmma`.
    pub fn of_wgmma(bits: u64) -> Result<Self> {
        let swizzle = match bits >> 62 {
            0 => Swizzle::None,
            1 => Swizzle::Bytes128,
            2 => Swizzle::Bytes64,
            _ => Swizzle::Bytes32,
        };
        Descriptor::of(bits, swizzle)
    }

    /// Of `tcgen05.mma`: its version is said in bits 46 to 48, and what is swizzled in three bits.
    pub fn of_tcgen05(bits: u64) -> Result<Self> {
        let invalid = |message: String| Err(Problem::new(Fault::InvalidUse, message));
        let version = bits >> 46 & 7;
        if version != 1 {
            return invalid(format!(
                "a matrix descriptor {bits:#x} with {version} in bits 46 to 48: tcgen05 has 1 there"
            ));
        }
        if bits >> 52 & 1 != 0 {
            return invalid(format!(
                "a matrix descriptor {bits:#x} with an absolute leading dimension: only offsets are modelled"
            ));
        }
        if bits >> 14 & 3 != 0 || bits >> 30 & 3 != 0 || bits >> 53 & 0xff != 0 {
            return invalid(format!("a matrix descriptor {bits:#x} with bits that have to be zero"));
        }
        let swizzle = match bits >> 61 {
            0 => Swizzle::None,
            2 => Swizzle::Bytes128,
            4 => Swizzle::Bytes64,
            6 => Swizzle::Bytes32,
            1 => return invalid("128-byte swizzles of 32 bytes at a time are not modelled".into()),
            kind => return invalid(format!("a matrix descriptor with layout {kind}: there is none")),
        };
        Descriptor::of(bits, swizzle)
    }

    fn of(bits: u64, swizzle: Swizzle) -> Result<Self> {
        let field = |shift: u32| (bits >> shift & 0x3fff) << 4;
        let base_offset = bits >> 49 & 7;
        if base_offset != 0 {
            let message = format!("a matrix descriptor with base offset {base_offset}: only 0 is modelled");
            return Err(Problem::new(Fault::InvalidUse, message));
        }
        Ok(Descriptor { start: field(0), leading: field(16), stride: field(32), swizzle })
    }

    /// Address of a chunk of 16 bytes. K-major: of row `row`, chunk `k` along k. Otherwise (`transposed`): of the 8
    /// rows from `row` on, at `k`.
    fn chunk(&self, row: u64, k: u64, transposed: bool) -> u64 {
        let width = self.swizzle.width() as u64;
        let swizzled = self.swizzle != Swizzle::None;
        let linear = match (transposed, swizzled) {
            (false, true) => row / 8 * self.stride + row % 8 * width + k * 16,
            (false, false) => row / 8 * self.stride + row % 8 * 16 + k * self.leading,
            (true, true) => {
                let span = width / 2;
                row / span * self.leading + row % span * 2 + k % 8 * width + k / 8 * self.stride
            }
            (true, false) => row / 8 * self.stride + k % 8 * 16 + k / 8 * self.leading,
        };
        self.swizzle.apply(self.start + linear)
    }
}

/// Calls `f` with each chunk of an operand of `depth` k: its address, first row and first k.
pub(super) fn chunks(
    descriptor: Descriptor,
    depth: usize,
    transposed: bool,
    rows: Range<u64>,
    mut f: impl FnMut(u64, usize, usize),
) {
    let first = rows.start;
    if transposed {
        for row in rows.step_by(8) {
            for k in 0..16 {
                f(descriptor.chunk(row, k, true), (row - first) as usize, k as usize);
            }
        }
        return;
    }
    let per_chunk = depth / 2;
    for row in rows {
        for k in 0..2 {
            f(descriptor.chunk(row, k, false), (row - first) as usize, k as usize * per_chunk);
        }
    }
}

impl Block<'_> {
    /// Checks that an operand of a product that is issued now can be read, and keeps it from being written until its
    /// ticket is given back.
    pub(super) fn issue_matrix(
        &mut self,
        warp: &Warp,
        descriptor: Descriptor,
        transposed: bool,
        rows: Range<u64>,
        depth: usize,
        operand: &str,
    ) -> Result<u64> {
        let (mut low, mut high) = (u64::MAX, 0);
        let mut failed = None;
        let mut addresses: Vec<u64> = Vec::with_capacity(512);
        chunks(descriptor, depth, transposed, rows, |address, _, _| {
            (low, high) = (low.min(address), high.max(address + 16));
            addresses.push(address);
        });
        // Two chunks next to each other are one access.
        let mut at = 0;
        while at < addresses.len() && failed.is_none() {
            let (mut start, mut length) = (addresses[at], 16);
            at += 1;
            if at < addresses.len() && addresses[at] == start ^ 16 {
                (start, length) = (start & !16, 32);
                at += 1;
            }
            if let Err(problem) = self.shared.check(start, length, warp.index, &self.clocks, true) {
                failed = Some((problem, start, length));
            }
        }
        if let Some((problem, start, length)) = failed {
            let mut problem = self.describe_shared(problem, start as usize, length, false);
            problem.message += &format!(" (operand {operand})");
            return Err(problem);
        }
        let ticket = self.new_ticket();
        let (start, end) = (low as usize, high as usize);
        let pending = PendingRead { start, end, warp: warp.index, instruction: warp.pc, ticket };
        self.shared.pending_reads.push(pending);
        Ok(ticket)
    }
}
