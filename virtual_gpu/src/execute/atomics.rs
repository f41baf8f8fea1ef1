//! Atomics, and what they make visible to other blocks.

use super::access::{Run, by_space, check_alignment, read_value};
use super::block::Block;
use super::half::add_half;
use super::warp::{Warp, Wide, lanes};
use crate::diagnostic::{Fault, Problem};
use crate::memory::global::Accessor;
use crate::parse::Space;
use crate::program::{Address, AtomicKind, AtomicOperation, HalfFormat, NONE, Slot};

type Result<T> = std::result::Result<T, Problem>;

impl Block<'_> {
    pub fn atomic(
        &mut self,
        warp: &mut Warp,
        space: Space,
        operation: AtomicOperation,
        kind: AtomicKind,
        slots: [Slot; 3],
        address: &Address,
        mask: u32,
    ) -> Result<()> {
        let mut addresses = warp.addresses(address);
        let parts =
            if space == Space::Generic { by_space(&mut addresses, mask) } else { vec![(space, mask)] };
        let size = kind.bytes();
        for (space, mask) in parts {
            check_alignment(&addresses, mask, size, "atomic")?;
            for lane in lanes(mask) {
                self.atomic_lane(warp, space, operation, kind, slots, addresses, lane)?;
            }
        }
        Ok(())
    }

    fn atomic_lane(
        &mut self,
        warp: &mut Warp,
        space: Space,
        operation: AtomicOperation,
        kind: AtomicKind,
        [d, b, c]: [Slot; 3],
        addresses: Wide,
        lane: usize,
    ) -> Result<()> {
        let size = kind.bytes();
        let value = |slot: Slot| match (slot, size) {
            (NONE, _) => 0,
            (slot, 8) => warp.wide[slot as usize][lane],
            (slot, _) => warp.narrow[slot as usize][lane].into(),
        };
        let (b, c) = (value(b), value(c));
        let address = addresses[lane];
        let run = Run { lanes: 1 << lane, start: address, length: size };
        let old = if space == Space::Shared {
            // Atomics of different warps need no order among themselves.
            match self.shared.atomic(address, size, warp.index, warp.pc, &self.clocks) {
                Ok(bytes) => {
                    let old = read_value(bytes, size);
                    bytes.copy_from_slice(&combine(operation, kind, old, b, c).to_le_bytes()[..size]);
                    old
                }
                Err(problem) => return Err(self.shared_problem(problem, &addresses, run.lanes, size, true)),
            }
        } else if space == Space::Global {
            self.acquire_global(address);
            let accessor = Accessor {
                launch: self.launch,
                block: self.linear,
                epoch: self.epoch,
                atomic: true,
                acquired: &self.acquired,
                warp: Some((warp.index, self.clocks.seen(warp.index))),
            };
            let accessor = self.configuration.races.then_some(&accessor);
            let old = match self.memory.kernel_read(address, size, self.configuration.initialised, accessor) {
                Ok(bytes) => read_value(bytes, size),
                Err(problem) => return Err(self.global_problem(problem, &addresses, run, size, false)),
            };
            match self.memory.kernel_write(address, size, accessor) {
                Ok(bytes) => {
                    bytes.copy_from_slice(&combine(operation, kind, old, b, c).to_le_bytes()[..size])
                }
                Err(problem) => return Err(self.global_problem(problem, &addresses, run, size, true)),
            }
            self.release_global(address);
            old
        } else {
            let message = "an atomic outside global and shared memory";
            return Err(Problem::at_lane(Fault::OutOfBounds, lane as u32, message));
        };
        if d != NONE {
            if size == 8 {
                warp.wide[d as usize][lane] = old;
            } else {
                warp.narrow[d as usize][lane] = old as u32;
            }
        }
        Ok(())
    }

    /// After a fence, an atomic or a strong store publishes what the block has written so far.
    pub(super) fn release_global(&mut self, address: u64) {
        if self.fenced {
            let published = self.published.entry(address).or_default();
            published.retain(|(block, _)| *block != self.linear);
            published.push((self.linear, self.epoch));
            published.extend(self.acquired.iter().map(|(block, epoch)| (*block, *epoch)));
            self.epoch += 1;
            self.fenced = false;
        }
    }

    /// An atomic or a strong load learns what was published there.
    pub(super) fn acquire_global(&mut self, address: u64) {
        if let Some(published) = self.published.get(&address) {
            for (block, epoch) in published {
                let known = self.acquired.entry(*block).or_default();
                *known = (*known).max(*epoch);
            }
        }
    }
}

fn combine(operation: AtomicOperation, kind: AtomicKind, old: u64, b: u64, c: u64) -> u64 {
    use AtomicKind::{BF16, BF16x2, F16, F16x2, F32, F64, S32, S64, U32, U64};
    match (operation, kind) {
        (AtomicOperation::Exchange, _) => b,
        (AtomicOperation::CompareAndSwap, U64 | S64) => {
            if old == b {
                c
            } else {
                old
            }
        }
        (AtomicOperation::CompareAndSwap, _) => {
            if old as u32 == b as u32 {
                c
            } else {
                old
            }
        }
        (AtomicOperation::And, _) => old & b,
        (AtomicOperation::Or, _) => old | b,
        (AtomicOperation::Xor, _) => old ^ b,
        (AtomicOperation::Add, F32) => {
            super::numbers::canonical(f32::from_bits(old as u32) + f32::from_bits(b as u32)).into()
        }
        (AtomicOperation::Add, F64) => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        (AtomicOperation::Add, F16x2 | F16) => add_half(HalfFormat::Float16, old as u32, b as u32).into(),
        (AtomicOperation::Add, BF16x2 | BF16) => add_half(HalfFormat::BFloat16, old as u32, b as u32).into(),
        (AtomicOperation::Add, _) => old.wrapping_add(b),
        (AtomicOperation::Min, S32) => (old as i32).min(b as i32) as u32 as u64,
        (AtomicOperation::Max, S32) => (old as i32).max(b as i32) as u32 as u64,
        (AtomicOperation::Min, S64) => (old as i64).min(b as i64) as u64,
        (AtomicOperation::Max, S64) => (old as i64).max(b as i64) as u64,
        (AtomicOperation::Min, U32) => (old as u32).min(b as u32).into(),
        (AtomicOperation::Max, U32) => (old as u32).max(b as u32).into(),
        (AtomicOperation::Min, _) => old.min(b),
        (AtomicOperation::Max, _) => old.max(b),
        (AtomicOperation::Increment, _) => {
            if old as u32 >= b as u32 {
                0
            } else {
                old + 1
            }
        }
        (AtomicOperation::Decrement, _) => {
            if old as u32 == 0 || old as u32 > b as u32 {
                b
            } else {
                old - 1
            }
        }
    }
}
