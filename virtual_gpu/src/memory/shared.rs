//! Shared memory of one block, and which warp wrote and read each unit of it when, by the clocks of `clocks.rs`.

use crate::clocks::{Clocks, FIRST_BARRIER_AGENT, WARPS};

/// In place of the writer: the target of an asynchronous copy that was not waited for.
const PENDING: u64 = 255;
/// Added to the writer's number where it wrote by an atomic.
const ATOMIC: u64 = 128;
/// In place of the writer: the eight bytes of an mbarrier.
const MBARRIER: u64 = 254;

/// Writer of a unit: agent (8 bits), its clock (32), instruction (24).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct Write(u64);

impl Write {
    fn new(agent: u64, clock: u32, instruction: u32) -> Self {
        Write(agent << 56 | u64::from(clock) << 24 | u64::from(instruction & 0xff_ffff))
    }

    fn agent(self) -> u64 {
        self.0 >> 56
    }

    fn is_atomic(self) -> bool {
        (ATOMIC..ATOMIC + WARPS as u64).contains(&self.agent())
    }

    fn clock(self) -> u32 {
        (self.0 >> 24) as u32
    }

    fn instruction(self) -> u32 {
        self.0 as u32 & 0xff_ffff
    }
}

/// What is wrong with an access. `at` is the first byte concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SharedProblem {
    OutOfBounds,
    Undefined {
        at: usize,
    },
    /// Written by a warp, or by the copies of an mbarrier, without order to this access.
    WriteRace {
        at: usize,
        warp: Option<usize>,
        instruction: u32,
    },
    /// Read by a warp, or by products of tcgen05, without order to this access.
    ReadRace {
        at: usize,
        warp: Option<usize>,
    },
    /// The target of a copy in flight.
    Pending {
        at: usize,
        instruction: u32,
    },
    /// Written by ordinary stores, read by the asynchronous proxy without fence.proxy.async.
    NoProxyFence {
        at: usize,
        warp: usize,
        instruction: u32,
    },
    Mbarrier {
        at: usize,
    },
    /// A warpgroup multiply or a bulk store still reads it.
    PendingRead {
        at: usize,
        warp: usize,
        instruction: u32,
    },
}

/// A range that an asynchronous instruction reads until it is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PendingRead {
    pub start: usize,
    pub end: usize,
    pub warp: usize,
    pub instruction: u32,
    /// Tells the reads of one instruction from others.
    pub ticket: u64,
}

pub(crate) struct SharedMemory {
    pub bytes: Vec<u8>,
    shift: u32,
    writers: Vec<Write>,
    /// Clock of the last read, by agent and unit; nothing for agents that never read.
    readers: Vec<Vec<u32>>,
    pub pending_reads: Vec<PendingRead>,
    /// Whether races and undefined reads are looked for.
    checked: bool,
    first: usize,
}

impl SharedMemory {
    /// `size` bytes from address 0, of which those before `first` belong to the system.
    pub fn new(size: usize, first: usize, unit: u32, warps: usize, checked: bool) -> Self {
        let shift = unit.trailing_zeros().min(2);
        let units = if checked { size.div_ceil(1 << shift) } else { 0 };
        SharedMemory {
            bytes: vec![0; size],
            shift,
            writers: vec![Write::default(); units],
            readers: vec![vec![0; units]; warps],
            pending_reads: Vec::new(),
            checked,
            first,
        }
    }

    fn units(&self, start: usize, length: usize) -> std::ops::Range<usize> {
        start >> self.shift..(start + length).div_ceil(1 << self.shift)
    }

    fn bounds(&self, start: u64, length: usize) -> Result<usize, SharedProblem> {
        let end = start.checked_add(length as u64);
        if start < self.first as u64 || end.is_none_or(|end| end > self.bytes.len() as u64) {
            return Err(SharedProblem::OutOfBounds);
        }
        Ok(start as usize)
    }

    /// Checks and notes a read by a warp; `proxy` for reads of the asynchronous proxy.
    pub fn read(
        &mut self,
        start: u64,
        length: usize,
        warp: usize,
        clocks: &Clocks,
        proxy: bool,
    ) -> Result<&[u8], SharedProblem> {
        let start = self.bounds(start, length)?;
        if self.checked {
            let seen = clocks.seen(warp);
            let own = seen[warp];
            let mut good = Write(u64::MAX);
            let units = self.units(start, length);
            for unit in units.clone() {
                let write = self.writers[unit];
                if write != good {
                    let at = (unit << self.shift).max(start);
                    check_read(write, at, warp, clocks, proxy)?;
                    good = write;
                }
            }
            self.readers[warp][units].fill(own);
        }
        Ok(&self.bytes[start..start + length])
    }

    /// As `read`, of an asynchronous instruction that reads later: see `reread`.
    pub fn check(
        &self,
        start: u64,
        length: usize,
        warp: usize,
        clocks: &Clocks,
        proxy: bool,
    ) -> Result<(), SharedProblem> {
        let start = self.bounds(start, length)?;
        if self.checked {
            let mut good = Write(u64::MAX);
            for unit in self.units(start, length) {
                let write = self.writers[unit];
                if write != good {
                    check_read(write, (unit << self.shift).max(start), warp, clocks, proxy)?;
                    good = write;
                }
            }
        }
        Ok(())
    }

    /// Bytes whose read was checked before, by an asynchronous instruction that ends now: a read of an agent at its
    /// clock.
    pub fn reread(&mut self, start: u64, length: usize, agent: usize, clock: u32) -> &[u8] {
        let start = start as usize;
        if self.checked {
            let units = self.units(start, length);
            let size = self.writers.len();
            if self.readers.len() <= agent {
                self.readers.resize(agent + 1, Vec::new());
            }
            self.readers[agent].resize(size, 0);
            self.readers[agent][units].fill(clock);
        }
        &self.bytes[start..start + length]
    }

    /// Checks and notes a write by a warp, and gives the bytes to be written.
    pub fn write(
        &mut self,
        start: u64,
        length: usize,
        warp: usize,
        instruction: u32,
        clocks: &Clocks,
    ) -> Result<&mut [u8], SharedProblem> {
        let start = self.bounds(start, length)?;
        if self.checked {
            self.check_write(start, length, warp, clocks)?;
            let units = self.units(start, length);
            self.writers[units].fill(Write::new(warp as u64, clocks.seen(warp)[warp], instruction));
        }
        Ok(&mut self.bytes[start..start + length])
    }

    /// As `write`, for an atomic: its bytes have to be defined, and atomics of other warps are no race.
    pub fn atomic(
        &mut self,
        start: u64,
        length: usize,
        warp: usize,
        instruction: u32,
        clocks: &Clocks,
    ) -> Result<&mut [u8], SharedProblem> {
        let start = self.bounds(start, length)?;
        if self.checked {
            let units = self.units(start, length);
            for unit in units.clone() {
                let write = self.writers[unit];
                if !write.is_atomic() || write.clock() <= clocks.start() {
                    check_read(write, (unit << self.shift).max(start), warp, clocks, false)?;
                    self.check_write(start, length, warp, clocks)?;
                }
            }
            self.writers[units].fill(Write::new(ATOMIC + warp as u64, clocks.seen(warp)[warp], instruction));
        }
        Ok(&mut self.bytes[start..start + length])
    }

    /// A warp starts an asynchronous copy to these bytes: nobody may touch them until it is waited for.
    pub fn start_copy(
        &mut self,
        start: u64,
        length: usize,
        warp: usize,
        instruction: u32,
        clocks: &Clocks,
    ) -> Result<(), SharedProblem> {
        let start = self.bounds(start, length)?;
        if self.checked {
            self.check_write(start, length, warp, clocks)?;
            let units = self.units(start, length);
            self.writers[units].fill(Write::new(PENDING, clocks.now(), instruction));
        }
        Ok(())
    }

    /// A copy lands: as a write of the warp that waited, or of the copies of an mbarrier.
    pub fn land(&mut self, start: usize, bytes: &[u8], agent: usize, clock: u32, instruction: u32) {
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        if self.checked {
            let units = self.units(start, bytes.len());
            self.writers[units].fill(Write::new(agent as u64, clock, instruction));
        }
    }

    /// A byte that a copy brought is as undefined as where it came from.
    pub fn forget(&mut self, at: usize) {
        if self.checked {
            self.writers[at >> self.shift] = Write::default();
        }
    }

    /// Eight bytes become an mbarrier, or stop being one.
    pub fn mark_mbarrier(
        &mut self,
        start: u64,
        is: bool,
        warp: usize,
        instruction: u32,
        clocks: &Clocks,
    ) -> Result<(), SharedProblem> {
        let start = self.bounds(start, 8)?;
        if self.checked {
            let units = self.units(start, 8);
            let write = if is {
                self.check_write(start, 8, warp, clocks)?;
                Write::new(MBARRIER, clocks.now(), instruction)
            } else {
                Write::default()
            };
            self.writers[units].fill(write);
        }
        Ok(())
    }

    fn check_write(
        &self,
        start: usize,
        length: usize,
        warp: usize,
        clocks: &Clocks,
    ) -> Result<(), SharedProblem> {
        for read in &self.pending_reads {
            if start < read.end && read.start < start + length {
                let (warp, instruction) = (read.warp, read.instruction);
                return Err(SharedProblem::PendingRead { at: start.max(read.start), warp, instruction });
            }
        }
        let seen = clocks.seen(warp);
        let units = self.units(start, length);
        let mut good = Write(u64::MAX);
        for unit in units.clone() {
            let write = self.writers[unit];
            if write != good {
                check_order(write, (unit << self.shift).max(start), warp, clocks)?;
                good = write;
            }
        }
        for (reader, clocks) in self.readers.iter().enumerate() {
            let known = seen[reader];
            // Clocks of earlier blocks are lower than any that this block knows.
            if reader != warp
                && !clocks.is_empty()
                && clocks[units.clone()].iter().any(|clock| *clock > known)
            {
                let unit = units.clone().find(|unit| clocks[*unit] > known).expect("found above");
                let warp = Some(reader).filter(|agent| *agent < FIRST_BARRIER_AGENT);
                return Err(SharedProblem::ReadRace { at: (unit << self.shift).max(start), warp });
            }
        }
        Ok(())
    }
}

fn check_read(
    write: Write,
    at: usize,
    warp: usize,
    clocks: &Clocks,
    proxy: bool,
) -> Result<(), SharedProblem> {
    if write.clock() <= clocks.start() {
        return Err(SharedProblem::Undefined { at });
    }
    check_order(write, at, warp, clocks)?;
    let agent = write.agent() as usize;
    if proxy && agent < WARPS && write.clock() > clocks.proxied(warp)[agent] {
        return Err(SharedProblem::NoProxyFence { at, warp: agent, instruction: write.instruction() });
    }
    Ok(())
}

fn check_order(write: Write, at: usize, warp: usize, clocks: &Clocks) -> Result<(), SharedProblem> {
    // What earlier blocks left behind, whatever it was, is of no concern.
    if write.clock() <= clocks.start() {
        return Ok(());
    }
    match if write.is_atomic() { write.agent() - ATOMIC } else { write.agent() } {
        PENDING => Err(SharedProblem::Pending { at, instruction: write.instruction() }),
        MBARRIER => Err(SharedProblem::Mbarrier { at }),
        agent if agent as usize == warp || write.clock() <= clocks.seen(warp)[agent as usize] => Ok(()),
        agent => {
            let warp = Some(agent as usize).filter(|agent| *agent < FIRST_BARRIER_AGENT);
            Err(SharedProblem::WriteRace { at, warp, instruction: write.instruction() })
        }
    }
}
