//! cp.async: copies of a thread, in groups. A copy lands when a wait of its thread demands it, never earlier.

use super::access::{check_alignment, runs};
use super::block::Block;
use super::warp::{Warp, lanes};
use crate::counters::sectors;
use crate::diagnostic::{Fault, Problem};
use crate::memory::SHARED_WINDOW;
use crate::program::{Address, NONE, Slot};

/// One cp.async of the lanes in `lanes`.
struct Copy {
    lanes: u32,
    /// The group of each lane's copy.
    group: [u32; 32],
    shared: [u32; 32],
    global: [u64; 32],
    /// Bytes that come from global memory; the rest of `bytes` becomes zero.
    source: [u8; 32],
    bytes: u8,
    instruction: u32,
}

/// How the source of a copy is read.
pub(crate) struct Source {
    /// By which warp; none for the asynchronous proxy.
    pub warp: Option<usize>,
    /// Whether all of it must have been written.
    pub initialised: bool,
}

/// What the threads of a warp have in flight.
#[derive(Default)]
pub(crate) struct Copies {
    in_flight: Vec<Copy>,
    /// Groups that each lane has committed.
    committed: [u32; 32],
}

impl Copies {
    pub fn commit(&mut self, mask: u32) {
        lanes(mask).for_each(|lane| self.committed[lane] += 1);
    }

    pub fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }
}

impl Block<'_> {
    pub fn copy_async(
        &mut self,
        warp: &mut Warp,
        bytes: u8,
        shared: &Address,
        global: &Address,
        [source_bytes, ignore]: [Slot; 2],
        mask: u32,
    ) -> Result<(), Problem> {
        let size = usize::from(bytes);
        let (mut to, from) = (warp.addresses(shared), warp.addresses(global));
        if shared.wide {
            to.iter_mut()
                .for_each(|address| *address = address.checked_sub(SHARED_WINDOW).unwrap_or(*address));
        }
        check_alignment(&to, mask, size, "shared")?;
        check_alignment(&from, mask, size, "global")?;
        let mut copy = Copy {
            lanes: mask,
            group: warp.copies.committed,
            shared: to.map(|address| address as u32),
            global: from,
            source: [bytes; 32],
            bytes,
            instruction: warp.pc,
        };
        let mut reading = mask;
        for lane in lanes(mask) {
            if source_bytes != NONE {
                let asked = warp.narrow[source_bytes as usize][lane];
                if asked > u32::from(bytes) {
                    let message = format!("a source size of {asked} bytes for a copy of {bytes}");
                    return Err(Problem::at_lane(Fault::InvalidUse, lane as u32, message));
                }
                copy.source[lane] = asked as u8;
            }
            if ignore != NONE && warp.predicates[ignore as usize] >> lane & 1 != 0 {
                copy.source[lane] = 0;
            }
            let length = usize::from(copy.source[lane]);
            if length == 0 {
                reading &= !(1 << lane);
            } else if !self.memory.holds(from[lane], length) {
                let place = self.memory.describe(from[lane]);
                let message =
                    format!("copies {length} bytes from {:#x}{place}, which no allocation holds", from[lane]);
                return Err(Problem::at_lane(Fault::OutOfBounds, lane as u32, message));
            }
        }
        if self.configuration.counters {
            let (touched, ideal) = sectors(&from, reading, size);
            let counters = &mut self.counters[warp.pc as usize];
            counters.load_sectors += touched;
            counters.ideal_load_sectors += ideal;
        }
        self.count_shared(warp.pc, &to, mask, size);
        for run in runs(&to, mask, size) {
            let started = self.shared.start_copy(run.start, run.length, warp.index, warp.pc, &self.clocks);
            started.map_err(|problem| self.shared_problem(problem, &to, run.lanes, size, true))?;
        }
        warp.copies.in_flight.push(copy);
        Ok(())
    }

    /// cp.async.wait_group: for each executing lane all but its last `pending` groups land.
    pub fn copy_wait(&mut self, warp: &mut Warp, pending: u32, mask: u32) -> Result<(), Problem> {
        let limit = warp.copies.committed.map(|committed| committed.saturating_sub(pending));
        self.land_copies(warp, mask, |copy, lane| copy.group[lane] < limit[lane])
    }

    /// cp.async.wait_all: whatever was issued lands, committed or not.
    pub fn copy_wait_all(&mut self, warp: &mut Warp, mask: u32) -> Result<(), Problem> {
        self.land_copies(warp, mask, |_, _| true)
    }

    fn land_copies(
        &mut self,
        warp: &mut Warp,
        mask: u32,
        complete: impl Fn(&Copy, usize) -> bool,
    ) -> Result<(), Problem> {
        let mut copies = std::mem::take(&mut warp.copies.in_flight);
        let clock = self.clocks.seen(warp.index)[warp.index];
        for copy in &mut copies {
            for lane in lanes(copy.lanes & mask) {
                if !complete(copy, lane) {
                    continue;
                }
                copy.lanes &= !(1 << lane);
                let length = usize::from(copy.source[lane]);
                let mut bytes = [0; 16];
                self.read_source(
                    copy.global[lane],
                    &mut bytes[..length],
                    copy.instruction,
                    lane,
                    Source { warp: Some(warp.index), initialised: true },
                )?;
                let start = copy.shared[lane] as usize;
                self.shared.land(
                    start,
                    &bytes[..usize::from(copy.bytes)],
                    warp.index,
                    clock,
                    copy.instruction,
                );
            }
        }
        copies.retain(|copy| copy.lanes != 0);
        warp.copies.in_flight = copies;
        Ok(())
    }

    /// Reads the source of an asynchronous copy, with the checks of a load.
    pub fn read_source(
        &mut self,
        address: u64,
        bytes: &mut [u8],
        instruction: u32,
        lane: usize,
        Source { warp, initialised }: Source,
    ) -> Result<(), Problem> {
        if bytes.is_empty() {
            return Ok(());
        }
        let accessor = crate::memory::global::Accessor {
            launch: self.launch,
            block: self.linear,
            epoch: self.epoch,
            atomic: false,
            acquired: &self.acquired,
            warp: warp.map(|warp| (warp, self.clocks.seen(warp))),
        };
        let accessor = self.configuration.races.then_some(&accessor);
        let initialised = initialised && self.configuration.initialised;
        match self.memory.kernel_read(address, bytes.len(), initialised, accessor) {
            Ok(source) => {
                bytes.copy_from_slice(source);
                Ok(())
            }
            Err(problem) => {
                let run = super::access::Run { lanes: 1 << lane, start: address, length: bytes.len() };
                let mut problem = self.global_problem(problem, &[address; 32], run, bytes.len(), false);
                problem.message +=
                    &format!(" (the source of the copy issued at {})", self.line_of(instruction));
                Err(problem)
            }
        }
    }
}
