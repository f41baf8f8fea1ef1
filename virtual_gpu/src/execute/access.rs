//! Loads, stores and atomics of all spaces.

use super::block::Block;
use super::scalar::add_half;
use super::warp::{Warp, Wide, lanes};
use crate::counters::{sectors, wavefronts};
use crate::diagnostic::{Fault, Problem};
use crate::memory::global::{Accessor, GlobalProblem};
use crate::memory::shared::SharedProblem;
use crate::memory::{LOCAL_WINDOW, PARAMETER_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use crate::parse::Space;
use crate::program::{Address, AtomicKind, AtomicOperation, Elements, HalfFormat, NONE, Slot};

type Result<T> = std::result::Result<T, Problem>;

/// Neighbouring lanes whose addresses follow each other, or are equal: one range of memory.
#[derive(Clone, Copy)]
pub(super) struct Run {
    pub lanes: u32,
    pub start: u64,
    pub length: usize,
}

/// Cuts the executing lanes into runs.
pub(super) fn runs(addresses: &Wide, mask: u32, bytes: usize) -> impl Iterator<Item = Run> + '_ {
    let mut left = mask;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let first = left.trailing_zeros() as usize;
        let start = addresses[first];
        let (mut last, mut taken) = (start, 1u32 << first);
        left &= left - 1;
        while left != 0 {
            let lane = left.trailing_zeros() as usize;
            let address = addresses[lane];
            if address != last && address != last.wrapping_add(bytes as u64) {
                break;
            }
            last = address;
            taken |= 1 << lane;
            left &= left - 1;
        }
        Some(Run { lanes: taken, start, length: (last - start) as usize + bytes })
    })
}

pub(super) fn check_alignment(addresses: &Wide, mask: u32, bytes: usize, what: &str) -> Result<()> {
    let mut any = 0;
    for lane in 0..32 {
        any |= u32::from(!addresses[lane].is_multiple_of(bytes as u64)) << lane;
    }
    if any & mask == 0 {
        return Ok(());
    }
    let lane = (any & mask).trailing_zeros();
    let address = addresses[lane as usize];
    Err(Problem::at_lane(
        Fault::Misaligned,
        lane,
        format!("{what} address {address:#x} is not a multiple of {bytes}, the size of the access"),
    ))
}

fn read_value(bytes: &[u8], size: usize) -> u64 {
    let mut value = [0; 8];
    value[..size].copy_from_slice(&bytes[..size]);
    u64::from_le_bytes(value)
}

/// Puts the elements that one lane loaded into its registers.
#[inline(always)]
fn set_elements(warp: &mut Warp, elements: &Elements, lane: usize, bytes: &[u8]) {
    let size = usize::from(elements.bytes);
    for (at, slot) in elements.slots[..usize::from(elements.count)].iter().enumerate() {
        if *slot == NONE {
            continue;
        }
        let mut value = if size == 4 {
            u64::from(u32::from_le_bytes(bytes[at * 4..at * 4 + 4].try_into().expect("four bytes")))
        } else {
            read_value(&bytes[at * size..], size)
        };
        if elements.signed && size < 8 {
            let shift = 64 - 8 * size as u32;
            value = ((value << shift) as i64 >> shift) as u64;
            // Narrow registers keep 16-bit values without the bits above them.
            if size == 2 && !elements.wide {
                value &= 0xffff;
            }
        }
        if elements.wide {
            warp.wide[*slot as usize][lane] = value;
        } else {
            warp.narrow[*slot as usize][lane] = value as u32;
        }
    }
}

#[inline(always)]
fn get_elements(warp: &Warp, elements: &Elements, lane: usize, bytes: &mut [u8]) {
    let size = usize::from(elements.bytes);
    for (at, slot) in elements.slots[..usize::from(elements.count)].iter().enumerate() {
        if elements.wide {
            let value = warp.wide[*slot as usize][lane].to_le_bytes();
            bytes[at * size..(at + 1) * size].copy_from_slice(&value[..size]);
        } else {
            let value = warp.narrow[*slot as usize][lane].to_le_bytes();
            bytes[at * size..(at + 1) * size].copy_from_slice(&value[..size]);
        }
    }
}

/// Where a generic address leads: the space and the base of its window.
fn window(address: u64) -> (Space, u64) {
    for (space, base) in
        [(Space::Shared, SHARED_WINDOW), (Space::Local, LOCAL_WINDOW), (Space::Parameter, PARAMETER_WINDOW)]
    {
        if (base..base + WINDOW_BYTES).contains(&address) {
            return (space, base);
        }
    }
    (Space::Global, 0)
}

/// Splits lanes by the space that their generic addresses lead to, and makes the addresses those of that space.
fn by_space(addresses: &mut Wide, mask: u32) -> Vec<(Space, u32)> {
    let mut result: Vec<(Space, u32)> = Vec::new();
    for lane in lanes(mask) {
        let (space, base) = window(addresses[lane]);
        addresses[lane] -= base;
        match result.iter_mut().find(|(known, _)| *known == space) {
            Some((_, lanes)) => *lanes |= 1 << lane,
            None => result.push((space, 1 << lane)),
        }
    }
    result
}

impl Block<'_> {
    #[inline(always)]
    pub fn load(
        &mut self,
        warp: &mut Warp,
        space: Space,
        elements: &Elements,
        address: &Address,
        atomic: bool,
        mask: u32,
    ) -> Result<()> {
        let mut addresses = warp.addresses(address);
        if space == Space::Generic {
            for (space, mask) in by_space(&mut addresses, mask) {
                self.load_space(warp, space, elements, &addresses, atomic, mask)?;
            }
            return Ok(());
        }
        self.load_space(warp, space, elements, &addresses, atomic, mask)
    }

    fn load_space(
        &mut self,
        warp: &mut Warp,
        space: Space,
        elements: &Elements,
        addresses: &Wide,
        atomic: bool,
        mask: u32,
    ) -> Result<()> {
        let total = usize::from(elements.bytes) * usize::from(elements.count);
        match space {
            Space::Shared => {
                check_alignment(addresses, mask, total, "shared")?;
                self.count_shared(warp.pc, addresses, mask, total);
                for run in runs(addresses, mask, total) {
                    match self.shared.read(run.start, run.length, warp.index, &self.clocks, false) {
                        Ok(bytes) => {
                            for lane in lanes(run.lanes) {
                                set_elements(
                                    warp,
                                    elements,
                                    lane,
                                    &bytes[(addresses[lane] - run.start) as usize..],
                                );
                            }
                        }
                        Err(problem) => {
                            return Err(self.shared_problem(problem, addresses, run.lanes, total, false));
                        }
                    }
                }
            }
            Space::Global | Space::Constant | Space::Generic => {
                check_alignment(addresses, mask, total, "global")?;
                if self.configuration.counters {
                    let (touched, ideal) = sectors(addresses, mask, total);
                    let counters = &mut self.counters[warp.pc as usize];
                    counters.load_sectors += touched;
                    counters.ideal_load_sectors += ideal;
                }
                if atomic {
                    lanes(mask).for_each(|lane| self.acquire_global(addresses[lane]));
                }
                for run in runs(addresses, mask, total) {
                    let accessor = Accessor {
                        launch: self.launch,
                        block: self.linear,
                        epoch: self.epoch,
                        atomic,
                        acquired: &self.acquired,
                    };
                    let accessor = self.configuration.races.then_some(&accessor);
                    let defined = self.configuration.initialised;
                    match self.memory.kernel_read(run.start, run.length, defined, accessor) {
                        Ok(bytes) => {
                            for lane in lanes(run.lanes) {
                                set_elements(
                                    warp,
                                    elements,
                                    lane,
                                    &bytes[(addresses[lane] - run.start) as usize..],
                                );
                            }
                        }
                        Err(problem) => {
                            return Err(self.global_problem(problem, addresses, run, total, false));
                        }
                    }
                }
            }
            Space::Parameter => {
                for lane in lanes(mask) {
                    let start = addresses[lane] as usize;
                    let Some(bytes) = self.parameters.get(start..start.saturating_add(total)) else {
                        return Err(Problem::at_lane(
                            Fault::OutOfBounds,
                            lane as u32,
                            format!("byte {start} of {} bytes of parameters", self.parameters.len()),
                        ));
                    };
                    set_elements(warp, elements, lane, bytes);
                }
            }
            Space::Local => {
                check_alignment(addresses, mask, total, "local")?;
                for lane in lanes(mask) {
                    let range = self.local_range(addresses[lane], lane, total)?;
                    let mut bytes = [0; 64];
                    bytes[..total].copy_from_slice(&warp.local[range]);
                    set_elements(warp, elements, lane, &bytes);
                }
            }
        }
        Ok(())
    }

    fn local_range(&self, address: u64, lane: usize, total: usize) -> Result<std::ops::Range<usize>> {
        let size = self.kernel.local_bytes as usize;
        let start = address as usize;
        if start.checked_add(total).is_none_or(|end| end > size) {
            return Err(Problem::at_lane(
                Fault::OutOfBounds,
                lane as u32,
                format!("byte {start} of {size} bytes of local memory"),
            ));
        }
        Ok(lane * size + start..lane * size + start + total)
    }

    #[inline(always)]
    pub fn store(
        &mut self,
        warp: &mut Warp,
        space: Space,
        elements: &Elements,
        address: &Address,
        atomic: bool,
        mask: u32,
    ) -> Result<()> {
        let mut addresses = warp.addresses(address);
        if space == Space::Generic {
            for (space, mask) in by_space(&mut addresses, mask) {
                self.store_space(warp, space, elements, &addresses, atomic, mask)?;
            }
            return Ok(());
        }
        self.store_space(warp, space, elements, &addresses, atomic, mask)
    }

    fn store_space(
        &mut self,
        warp: &mut Warp,
        space: Space,
        elements: &Elements,
        addresses: &Wide,
        atomic: bool,
        mask: u32,
    ) -> Result<()> {
        let total = usize::from(elements.bytes) * usize::from(elements.count);
        match space {
            Space::Shared => {
                check_alignment(addresses, mask, total, "shared")?;
                self.count_shared(warp.pc, addresses, mask, total);
                for run in runs(addresses, mask, total) {
                    match self.shared.write(run.start, run.length, warp.index, warp.pc, &self.clocks) {
                        Ok(bytes) => {
                            for lane in lanes(run.lanes) {
                                let at = (addresses[lane] - run.start) as usize;
                                get_elements(warp, elements, lane, &mut bytes[at..]);
                            }
                        }
                        Err(problem) => {
                            return Err(self.shared_problem(problem, addresses, run.lanes, total, true));
                        }
                    }
                }
            }
            Space::Global | Space::Generic => {
                check_alignment(addresses, mask, total, "global")?;
                if self.configuration.counters {
                    let (touched, ideal) = sectors(addresses, mask, total);
                    let counters = &mut self.counters[warp.pc as usize];
                    counters.store_sectors += touched;
                    counters.ideal_store_sectors += ideal;
                }
                for run in runs(addresses, mask, total) {
                    let accessor = Accessor {
                        launch: self.launch,
                        block: self.linear,
                        epoch: self.epoch,
                        atomic,
                        acquired: &self.acquired,
                    };
                    let accessor = self.configuration.races.then_some(&accessor);
                    match self.memory.kernel_write(run.start, run.length, accessor) {
                        Ok(bytes) => {
                            for lane in lanes(run.lanes) {
                                let at = (addresses[lane] - run.start) as usize;
                                get_elements(warp, elements, lane, &mut bytes[at..]);
                            }
                        }
                        Err(problem) => return Err(self.global_problem(problem, addresses, run, total, true)),
                    }
                }
                if atomic {
                    lanes(mask).for_each(|lane| self.release_global(addresses[lane]));
                }
            }
            Space::Local => {
                check_alignment(addresses, mask, total, "local")?;
                for lane in lanes(mask) {
                    let range = self.local_range(addresses[lane], lane, total)?;
                    let mut bytes = [0; 64];
                    get_elements(warp, elements, lane, &mut bytes);
                    warp.local[range].copy_from_slice(&bytes[..total]);
                }
            }
            Space::Parameter | Space::Constant => {
                return Err(Problem::at_lane(
                    Fault::OutOfBounds,
                    mask.trailing_zeros(),
                    "a store to memory that can only be read",
                ));
            }
        }
        Ok(())
    }

    pub fn count_shared(&mut self, pc: u32, addresses: &Wide, mask: u32, bytes: usize) {
        if self.configuration.counters {
            let (actual, ideal) = wavefronts(addresses, mask, bytes);
            let counters = &mut self.counters[pc as usize];
            counters.shared_wavefronts += actual;
            counters.ideal_shared_wavefronts += ideal;
        }
    }

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
    fn release_global(&mut self, address: u64) {
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
    fn acquire_global(&mut self, address: u64) {
        if let Some(published) = self.published.get(&address) {
            for (block, epoch) in published {
                let known = self.acquired.entry(*block).or_default();
                *known = (*known).max(*epoch);
            }
        }
    }

    /// The problem in words, with the lane that has it.
    pub fn shared_problem(
        &self,
        problem: SharedProblem,
        addresses: &Wide,
        mask: u32,
        bytes: usize,
        write: bool,
    ) -> Problem {
        let concerned = |at: usize| {
            lanes(mask).find(|lane| {
                let start = addresses[*lane] as usize;
                at >= start && at < start + bytes
            })
        };
        let size = self.shared.bytes.len();
        let (lane, at) = match problem {
            SharedProblem::OutOfBounds => {
                let first = u64::from(crate::parse::SHARED_START);
                let outside = |lane: &usize| {
                    addresses[*lane] < first || addresses[*lane].saturating_add(bytes as u64) > size as u64
                };
                let lane = lanes(mask).find(outside).unwrap_or(0);
                (Some(lane), addresses[lane] as usize)
            }
            SharedProblem::Undefined { at }
            | SharedProblem::WriteRace { at, .. }
            | SharedProblem::ReadRace { at, .. }
            | SharedProblem::Pending { at, .. }
            | SharedProblem::NoProxyFence { at, .. }
            | SharedProblem::Mbarrier { at }
            | SharedProblem::PendingRead { at, .. } => (concerned(at), at),
        };
        let mut result = self.describe_shared(problem, at, bytes, write);
        result.lane = lane.map(|lane| lane as u32);
        result
    }

    pub fn describe_shared(&self, problem: SharedProblem, at: usize, bytes: usize, write: bool) -> Problem {
        let verb = if write { "writes" } else { "reads" };
        let access = format!("{verb} {bytes} bytes of shared memory at {at:#x}");
        let line = |instruction: u32| self.line_of(instruction);
        let (fault, message) = match problem {
            SharedProblem::OutOfBounds => {
                let (first, end) = (crate::parse::SHARED_START, self.shared.bytes.len());
                (Fault::OutOfBounds, format!("{access}, but the block has {first:#x} up to {end:#x}"))
            }
            SharedProblem::Undefined { .. } => {
                (Fault::UninitialisedRead, format!("{access} that nobody wrote"))
            }
            SharedProblem::WriteRace { warp: Some(warp), instruction, .. } => (
                Fault::SharedRace,
                format!("{access} that warp {warp} wrote at {}, with no barrier between", line(instruction)),
            ),
            SharedProblem::WriteRace { warp: None, instruction, .. } => (
                Fault::SharedRace,
                format!(
                    "{access} that a bulk copy issued at {} wrote; this warp has not waited for its mbarrier",
                    line(instruction)
                ),
            ),
            SharedProblem::ReadRace { warp, .. } => {
                (Fault::SharedRace, format!("{access} that warp {warp} read, with no barrier between"))
            }
            SharedProblem::Pending { instruction, .. } => (
                Fault::MissingWait,
                format!(
                    "{access}, the target of an asynchronous copy issued at {} that was not waited for",
                    line(instruction)
                ),
            ),
            SharedProblem::NoProxyFence { warp, instruction, .. } => (
                Fault::MissingFence,
                format!(
                    "{access} through the asynchronous proxy; warp {warp} wrote them with ordinary stores at {} and no \
                     fence.proxy.async followed before the barrier",
                    line(instruction)
                ),
            ),
            SharedProblem::Mbarrier { .. } => {
                (Fault::InvalidUse, format!("{access}, which belong to an mbarrier"))
            }
            SharedProblem::PendingRead { warp, instruction, .. } => (
                Fault::MissingWait,
                format!(
                    "{access} that an asynchronous instruction of warp {warp}, issued at {}, may still read",
                    line(instruction)
                ),
            ),
        };
        Problem::new(fault, message)
    }

    /// The problem in words; the lane is the first whose own access has it.
    pub fn global_problem(
        &mut self,
        problem: GlobalProblem,
        addresses: &Wide,
        run: Run,
        bytes: usize,
        write: bool,
    ) -> Problem {
        let verb = if write { "writes" } else { "reads" };
        let lane = match problem {
            GlobalProblem::OutOfBounds => {
                lanes(run.lanes).find(|lane| !self.memory.holds(addresses[*lane], bytes)).unwrap_or(0)
            }
            GlobalProblem::Undefined(offset) | GlobalProblem::Race { offset, .. } => {
                let at = run.start + offset as u64;
                lanes(run.lanes).find(|lane| at < addresses[*lane] + bytes as u64).unwrap_or(0)
            }
        };
        let address = addresses[lane];
        let place = self.memory.describe(address);
        let access = format!("{verb} {bytes} bytes at {address:#x}{place}");
        let (fault, message) = match problem {
            GlobalProblem::OutOfBounds => {
                (Fault::OutOfBounds, format!("{access}, which no allocation holds"))
            }
            GlobalProblem::Undefined(_) => {
                (Fault::UninitialisedRead, format!("{access}, which nobody wrote"))
            }
            GlobalProblem::Race { block, wrote, .. } => {
                let other = match block {
                    Some(block) => format!("block {:?}", self.block_index(block)),
                    None => "several other blocks".to_string(),
                };
                let did = if wrote { "wrote" } else { "read" };
                (Fault::GlobalRace, format!("{access}, which {other} of the same launch {did}"))
            }
        };
        Problem::at_lane(fault, lane as u32, message)
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
