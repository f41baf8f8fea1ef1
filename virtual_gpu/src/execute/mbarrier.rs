//! mbarriers: arrivals, bytes of asynchronous copies, and phases.

use super::block::Block;
use super::warp::{Phase, State, Warp, lanes};
use crate::clocks::{AGENTS, FIRST_BARRIER_AGENT, Knowledge};
use crate::diagnostic::{Fault, Problem};
use crate::memory::SHARED_WINDOW;
use crate::program::{Address, MbarrierOperation, NONE};

/// The greatest count of arrivals and of bytes in flight.
const MAXIMUM_COUNT: u32 = (1 << 20) - 1;

pub(crate) struct Mbarrier {
    expected: u32,
    pending: u32,
    /// Bytes expected and not yet landed.
    bytes: i64,
    /// Number of the phase that is not complete yet.
    phase: u64,
    arriving: Knowledge,
    complete: Knowledge,
    /// Its number among the agents of the clocks.
    pub agent: usize,
    initialised: (usize, u32),
    instruction: u32,
}

impl Mbarrier {
    fn is_complete(&self, phase: Phase) -> bool {
        match phase {
            Phase::Parity(parity) => (self.phase & 1 != 0) != parity,
            Phase::Number(number) => self.phase > number,
        }
    }
}

/// The address of an mbarrier in shared memory.
pub(super) fn barrier_address(address: u64) -> u32 {
    address.checked_sub(SHARED_WINDOW).unwrap_or(address) as u32
}

impl Block<'_> {
    /// False if the warp has to wait at this instruction.
    pub fn mbarrier(
        &mut self,
        warp: &mut Warp,
        operation: &MbarrierOperation,
        address: &Address,
        mask: u32,
    ) -> Result<bool, Problem> {
        let addresses = warp.addresses(address).map(barrier_address);
        let value = |warp: &Warp, slot: u32, lane: usize| warp.narrow[slot as usize][lane];
        match *operation {
            MbarrierOperation::Initialise { count } => {
                for lane in lanes(mask) {
                    self.initialise_mbarrier(warp, addresses[lane], value(warp, count, lane), lane)?;
                }
            }
            MbarrierOperation::Invalidate => {
                for lane in lanes(mask) {
                    self.find_mbarrier(addresses[lane], warp, lane)?;
                    self.mbarriers.remove(&addresses[lane]);
                    let marked = self.shared.mark_mbarrier(
                        addresses[lane].into(),
                        false,
                        warp.index,
                        warp.pc,
                        &self.clocks,
                    );
                    marked.map_err(|problem| {
                        self.describe_shared(problem, addresses[lane] as usize, 8, true)
                    })?;
                }
            }
            MbarrierOperation::ExpectBytes { bytes } => {
                for lane in lanes(mask) {
                    let bytes = value(warp, bytes, lane);
                    self.find_mbarrier(addresses[lane], warp, lane)?.bytes += i64::from(bytes);
                    self.check_bytes(addresses[lane], lane)?;
                }
            }
            MbarrierOperation::Arrive { state, count, bytes } => {
                let knowledge = self.clocks.knowledge(warp.index).clone();
                for lane in lanes(mask) {
                    let count = if count == NONE { 1 } else { value(warp, count, lane) };
                    let bytes = if bytes == NONE { 0 } else { value(warp, bytes, lane) };
                    let barrier = self.find_mbarrier(addresses[lane], warp, lane)?;
                    barrier.bytes += i64::from(bytes);
                    barrier.arriving.join(&knowledge);
                    let phase = barrier.phase;
                    if count == 0 || count > barrier.pending {
                        let message = format!(
                            "{count} arrivals at the mbarrier at {:#x}, which expects {} more of {} in this phase",
                            addresses[lane], barrier.pending, barrier.expected
                        );
                        return Err(Problem::at_lane(Fault::InvalidUse, lane as u32, message));
                    }
                    barrier.pending -= count;
                    self.check_bytes(addresses[lane], lane)?;
                    self.complete_phase(addresses[lane]);
                    if state != NONE {
                        warp.wide[state as usize][lane] = phase;
                    }
                }
                self.clocks.advance(warp.index);
            }
            MbarrierOperation::Wait { complete, by, parity, blocking } => {
                let mut done = 0;
                for lane in lanes(mask) {
                    let phase = if parity {
                        Phase::Parity(value(warp, by, lane) & 1 != 0)
                    } else {
                        Phase::Number(warp.wide[by as usize][lane])
                    };
                    if self.mbarrier_complete(warp, addresses[lane], phase, lane)? {
                        done |= 1 << lane;
                    } else if blocking {
                        warp.state = State::Mbarrier { address: addresses[lane], phase };
                        return Ok(false);
                    }
                }
                warp.polls = if done == mask { 0 } else { warp.polls + 1 };
                warp.set_predicate(complete, done, mask);
            }
        }
        Ok(true)
    }

    fn initialise_mbarrier(
        &mut self,
        warp: &Warp,
        address: u32,
        count: u32,
        lane: usize,
    ) -> Result<(), Problem> {
        if !address.is_multiple_of(8) {
            let message = format!("an mbarrier at {address:#x}, which is not a multiple of 8");
            return Err(Problem::at_lane(Fault::Misaligned, lane as u32, message));
        }
        if count == 0 || count > MAXIMUM_COUNT {
            let message = format!("an mbarrier of {count} arrivals: from 1 to {MAXIMUM_COUNT}");
            return Err(Problem::at_lane(Fault::InvalidUse, lane as u32, message));
        }
        // A second initialisation takes the number of the first.
        let old = self.mbarriers.remove(&address);
        if old.is_some() {
            let unmarked =
                self.shared.mark_mbarrier(address.into(), false, warp.index, warp.pc, &self.clocks);
            unmarked.map_err(|problem| self.describe_shared(problem, address as usize, 8, true))?;
        }
        let agent = old.map_or(self.next_agent, |old| old.agent);
        if agent == self.next_agent {
            if agent >= AGENTS {
                let message = format!("more than {} mbarriers in a block", AGENTS - FIRST_BARRIER_AGENT);
                return Err(Problem::at_lane(Fault::InvalidUse, lane as u32, message));
            }
            self.next_agent += 1;
        }
        let marked = self.shared.mark_mbarrier(address.into(), true, warp.index, warp.pc, &self.clocks);
        marked.map_err(|problem| self.describe_shared(problem, address as usize, 8, true))?;
        let nothing = Knowledge::nothing(self.clocks.start());
        self.mbarriers.insert(
            address,
            Mbarrier {
                expected: count,
                pending: count,
                bytes: 0,
                phase: 0,
                arriving: nothing.clone(),
                complete: nothing,
                agent,
                initialised: (warp.index, self.clocks.seen(warp.index)[warp.index]),
                instruction: warp.pc,
            },
        );
        Ok(())
    }

    /// The mbarrier at an address, of whose initialisation the warp must have heard.
    pub fn find_mbarrier(
        &mut self,
        address: u32,
        warp: &Warp,
        lane: usize,
    ) -> Result<&mut Mbarrier, Problem> {
        let Some(barrier) = self.mbarriers.get_mut(&address) else {
            let message = format!("no mbarrier was initialised at {address:#x} of shared memory");
            return Err(Problem::at_lane(Fault::InvalidUse, lane as u32, message));
        };
        let (by, clock) = barrier.initialised;
        if self.configuration.races && by != warp.index && clock > self.clocks.seen(warp.index)[by] {
            let line = super::line_of(self.kernel, barrier.instruction);
            let message = format!(
                "warp {by} initialised the mbarrier at {address:#x} ({line}) and no barrier orders that before this use"
            );
            return Err(Problem::at_lane(Fault::SharedRace, lane as u32, message));
        }
        Ok(barrier)
    }

    fn check_bytes(&self, address: u32, lane: usize) -> Result<(), Problem> {
        let bytes = self.mbarriers[&address].bytes;
        if bytes.unsigned_abs() <= u64::from(MAXIMUM_COUNT) {
            return Ok(());
        }
        let message = format!("the mbarrier at {address:#x} counts {bytes} bytes: at most {MAXIMUM_COUNT}");
        Err(Problem::at_lane(Fault::InvalidUse, lane as u32, message))
    }

    fn complete_phase(&mut self, address: u32) {
        let barrier = self.mbarriers.get_mut(&address).expect("found before");
        if barrier.pending == 0 && barrier.bytes == 0 {
            barrier.phase += 1;
            barrier.pending = barrier.expected;
            barrier.complete = barrier.arriving.clone();
        }
    }

    /// Whether a phase is complete. Copies land now if nothing else is missing, and the warp learns what those who
    /// arrived knew.
    fn mbarrier_complete(
        &mut self,
        warp: &Warp,
        address: u32,
        phase: Phase,
        lane: usize,
    ) -> Result<bool, Problem> {
        let barrier = self.find_mbarrier(address, warp, lane)?;
        if !barrier.is_complete(phase) && barrier.pending > 0 {
            self.land_commits(address);
        }
        let barrier = self.find_mbarrier(address, warp, lane)?;
        if !barrier.is_complete(phase) && barrier.pending == 0 {
            self.land_bulk_loads(address)?;
            let clock = self.clocks.now();
            let barrier = self.mbarriers.get_mut(&address).expect("found before");
            if barrier.bytes < 0 {
                let message = format!(
                    "{} bytes more than expected came to the mbarrier at {address:#x}",
                    -barrier.bytes
                );
                return Err(Problem::at_lane(Fault::InvalidUse, lane as u32, message));
            }
            let agent = barrier.agent;
            barrier.arriving.seen[agent] = clock;
            self.complete_phase(address);
        }
        let barrier = &self.mbarriers[&address];
        let complete = barrier.is_complete(phase);
        if complete {
            self.clocks.acquire(warp.index, &barrier.complete);
        }
        Ok(complete)
    }

    /// If what is missing at an mbarrier are arrivals of tcgen05.commit alone, they come now.
    fn land_commits(&mut self, address: u32) {
        let pending = self.mbarriers[&address].pending;
        if self.products.arriving(address) < pending {
            return;
        }
        for _ in 0..pending {
            let Some(knowledge) = self.land_commit(address) else { return };
            let barrier = self.mbarriers.get_mut(&address).expect("found before");
            barrier.arriving.join(&knowledge);
            barrier.pending -= 1;
        }
        self.complete_phase(address);
    }

    /// Whether a warp that waits for an mbarrier can go on.
    pub fn mbarrier_ready(&self, address: u32, phase: Phase) -> bool {
        let Some(barrier) = self.mbarriers.get(&address) else { return true };
        // With all arrivals there, what is still missing is bytes, and they may be on their way.
        let landing: i64 =
            self.bulk_loads.iter().filter(|copy| copy.barrier == address).map(|copy| copy.bytes as i64).sum();
        barrier.is_complete(phase)
            || (barrier.pending <= self.products.arriving(address) && barrier.bytes <= landing)
    }

    /// Adds the bytes of a copy that has landed.
    pub fn landed(&mut self, address: u32, bytes: usize) {
        if let Some(barrier) = self.mbarriers.get_mut(&address) {
            barrier.bytes -= bytes as i64;
        }
    }

    /// What a waiting warp waits for, in words.
    pub fn describe_mbarrier(&self, address: u32, phase: Phase) -> String {
        let Some(barrier) = self.mbarriers.get(&address) else {
            return format!("the mbarrier at {address:#x}, which is gone");
        };
        let (arrived, expected) = (barrier.expected - barrier.pending, barrier.expected);
        let phase = match phase {
            Phase::Parity(parity) => format!("parity {}", u8::from(parity)),
            Phase::Number(number) => format!("phase {number}"),
        };
        format!(
            "{phase} of the mbarrier at {address:#x} (initialised at {}), which is in phase {}, has {arrived} of \
             {expected} arrivals and lacks {} bytes",
            self.line_of(barrier.instruction),
            barrier.phase,
            barrier.bytes
        )
    }
}
