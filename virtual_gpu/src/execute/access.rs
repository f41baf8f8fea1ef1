//! Loads, stores and atomics of all spaces.

use super::block::Block;
use super::warp::{Warp, Wide, lanes};
use crate::counters::{sectors, wavefronts};
use crate::diagnostic::{Fault, Problem};
use crate::memory::global::Accessor;
use crate::memory::{LOCAL_WINDOW, PARAMETER_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use crate::parse::Space;
use crate::program::{Address, Elements, NONE};

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
    // Sizes are powers of two.
    let low_bits = bytes as u64 - 1;
    let mut any = 0;
    for lane in 0..32 {
        any |= u32::from(addresses[lane] & low_bits != 0) << lane;
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

pub(super) fn read_value(bytes: &[u8], size: usize) -> u64 {
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

/// Puts what a run of lanes loaded into their registers.
#[inline(always)]
fn set_run(warp: &mut Warp, elements: &Elements, addresses: &Wide, run: Run, bytes: &[u8]) {
    let place = |lane: usize| (addresses[lane] - run.start) as usize;
    if elements.bytes == 4 && elements.count == 1 && !elements.wide && elements.slots[0] != NONE {
        let values = &mut warp.narrow[elements.slots[0] as usize];
        for lane in lanes(run.lanes) {
            let at = place(lane);
            values[lane] = u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        }
        return;
    }
    for lane in lanes(run.lanes) {
        set_elements(warp, elements, lane, &bytes[place(lane)..]);
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

/// Lanes of one store that write different values to one place: which of them stays is not defined. Addresses are
/// multiples of the size, so places are the same or apart.
fn check_agreement(
    warp: &Warp,
    elements: &Elements,
    addresses: &Wide,
    mask: u32,
    fault: Fault,
) -> Result<()> {
    let mut before: Option<u64> = None;
    let ascending =
        lanes(mask).all(|lane| before.replace(addresses[lane]).is_none_or(|last| last < addresses[lane]));
    if ascending {
        return Ok(());
    }
    let mut places: Vec<(u64, usize)> = lanes(mask).map(|lane| (addresses[lane], lane)).collect();
    places.sort_unstable();
    let size = usize::from(elements.bytes) * usize::from(elements.count);
    for pair in places.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
        let (first, second) = (pair[0].1, pair[1].1);
        let (mut mine, mut other) = ([0; 64], [0; 64]);
        get_elements(warp, elements, first, &mut mine);
        get_elements(warp, elements, second, &mut other);
        if mine[..size] != other[..size] {
            let message = format!(
                "lanes {first} and {second} of one store write different values to the {size} bytes at {:#x}",
                pair[0].0
            );
            return Err(Problem::at_lane(fault, second as u32, message));
        }
    }
    Ok(())
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
pub(super) fn by_space(addresses: &mut Wide, mask: u32) -> Vec<(Space, u32)> {
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
                            set_run(warp, elements, addresses, run, bytes);
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
                        warp: Some((warp.index, self.clocks.seen(warp.index))),
                    };
                    let accessor = self.configuration.races.then_some(&accessor);
                    let defined = self.configuration.initialised;
                    match self.memory.kernel_read(run.start, run.length, defined, accessor) {
                        Ok(bytes) => {
                            set_run(warp, elements, addresses, run, bytes);
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
                if self.configuration.races {
                    check_agreement(warp, elements, addresses, mask, Fault::SharedRace)?;
                }
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
                if self.configuration.races && !atomic {
                    check_agreement(warp, elements, addresses, mask, Fault::GlobalRace)?;
                }
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
                        warp: Some((warp.index, self.clocks.seen(warp.index))),
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
}
