//! Tensor memory of one block: 128 lanes of 512 columns of 32 bits, what of it is allocated, and who wrote and read
//! it when. Instructions touch 16 lanes at a time at least, so that is the unit in which accesses are followed.

use crate::clocks::{Clocks, FIRST_BARRIER_AGENT};

pub(crate) const LANES: usize = 128;
pub(crate) const COLUMNS: usize = 512;
/// Lanes of a unit.
const UNIT_LANES: usize = 16;
const UNITS: usize = LANES / UNIT_LANES * COLUMNS;
/// The fewest columns that can be allocated; other numbers are powers of two.
const FEWEST_COLUMNS: usize = 32;

/// Lanes and columns that an instruction touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// Groups of 16 lanes, as bits.
    pub groups: u8,
    pub column: usize,
    pub columns: usize,
}

impl Region {
    /// All lanes from one on.
    pub fn of_lanes(lane: usize, lanes: usize, column: usize, columns: usize) -> Region {
        let groups = ((1u32 << (lanes / UNIT_LANES)) - 1) << (lane / UNIT_LANES);
        Region { groups: groups as u8, column, columns }
    }

    fn units(self) -> impl Iterator<Item = usize> {
        let groups = (0..8).filter(move |group| self.groups >> group & 1 != 0);
        groups.flat_map(move |group| {
            (self.column..self.column + self.columns).map(move |at| group * COLUMNS + at)
        })
    }

    fn meets(self, other: Region) -> bool {
        self.groups & other.groups != 0
            && self.column < other.column + other.columns
            && other.column < self.column + self.columns
    }
}

/// Where products sum, and in what shape: those of one thread that agree in it are done in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accumulators {
    pub address: u32,
    pub rows: usize,
    pub columns: usize,
}

/// Who wrote a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Never,
    /// A tcgen05.st of a warp that has not waited for it.
    Storing {
        warp: usize,
    },
    Stored {
        warp: usize,
        clock: u32,
    },
    /// So many products of a thread are in flight.
    Multiplying {
        agent: usize,
        accumulators: Accumulators,
        products: u32,
    },
    Multiplied {
        agent: usize,
        clock: u32,
        accumulators: Accumulators,
    },
}

#[derive(Clone, Copy, Debug)]
struct Unit {
    written: Written,
    instruction: u32,
}

const NEVER: Unit = Unit { written: Written::Never, instruction: 0 };

/// Who touches tensor memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Actor {
    /// A warp, by tcgen05.ld, tcgen05.st or tcgen05.dealloc.
    Warp(usize),
    /// Products of a thread of a warp.
    Products { warp: usize, agent: usize, accumulators: Accumulators },
}

impl Actor {
    fn warp(self) -> usize {
        match self {
            Actor::Warp(warp) | Actor::Products { warp, .. } => warp,
        }
    }

    /// Whether it is an agent of the clocks. Products touch tensor memory by themselves: what other threads of their
    /// warp did there is done by somebody else.
    fn is(self, agent: usize) -> bool {
        match self {
            Actor::Warp(own) | Actor::Products { agent: own, .. } => own == agent,
        }
    }

    /// Whether it follows products of that agent in order.
    fn goes_on(self, agent: usize, accumulators: Accumulators) -> bool {
        matches!(self, Actor::Products { accumulators: same, .. } if self.is(agent) && same == accumulators)
    }
}

/// An access of an actor behind one of an agent at a clock: whether the actor's warp has heard of that, and fenced.
fn check_behind(
    agent: usize,
    clock: u32,
    (column, instruction): (usize, Option<u32>),
    actor: Actor,
    clocks: &Clocks,
) -> Result<(), TensorProblem> {
    let warp = Some(agent).filter(|agent| *agent < FIRST_BARRIER_AGENT);
    match warp {
        _ if clock <= clocks.tensor_seen(actor.warp())[agent] => Ok(()),
        _ if clock <= clocks.seen(actor.warp())[agent] => Err(TensorProblem::NoFence { column, warp }),
        Some(warp) => Err(TensorProblem::Race { column, warp }),
        None => Err(TensorProblem::NotWaited { column, instruction }),
    }
}

/// What is wrong with an access; `column` is the first concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TensorProblem {
    NotAllocated {
        column: usize,
    },
    Undefined {
        column: usize,
    },
    /// A tcgen05.st that its warp has not waited for.
    Storing {
        column: usize,
        warp: usize,
        instruction: u32,
    },
    /// A tcgen05.ld that its warp has not waited for.
    Loading {
        column: usize,
        warp: usize,
        instruction: u32,
    },
    /// Products that nobody has waited for write, or read, it.
    Multiplying {
        column: usize,
        instruction: u32,
    },
    /// Products of which this warp knows nothing wrote, or read, it.
    NotWaited {
        column: usize,
        instruction: Option<u32>,
    },
    /// Another warp wrote, or read, it, and no barrier orders that before.
    Race {
        column: usize,
        warp: usize,
    },
    /// It is ordered before by a barrier, but a fence is missing.
    NoFence {
        column: usize,
        warp: Option<usize>,
    },
}

/// A read that is not complete: of a tcgen05.ld, or of a product's left operand.
#[derive(Clone, Copy, Debug)]
struct PendingRead {
    region: Region,
    actor: Actor,
    instruction: u32,
    ticket: u64,
}

pub(crate) struct TensorMemory {
    cells: Vec<u32>,
    units: Vec<Unit>,
    /// Clock of the last read, by agent and unit; nothing for agents that never read.
    readers: Vec<Vec<u32>>,
    pending_reads: Vec<PendingRead>,
    /// First column and number of columns, and the instruction that allocated them.
    allocations: Vec<(usize, usize, u32)>,
    relinquished: bool,
    checked: bool,
    initialised: bool,
}

impl TensorMemory {
    /// Nothing is allocated. `checked` looks for what is not ordered, `initialised` for reads of what nobody wrote.
    pub fn new(checked: bool, initialised: bool) -> Self {
        TensorMemory {
            cells: Vec::new(),
            units: Vec::new(),
            readers: Vec::new(),
            pending_reads: Vec::new(),
            allocations: Vec::new(),
            relinquished: false,
            checked,
            initialised,
        }
    }

    /// Whether so many columns can be asked for.
    pub fn is_size(columns: usize) -> bool {
        columns.is_power_of_two() && (FEWEST_COLUMNS..=COLUMNS).contains(&columns)
    }

    pub fn is_relinquished(&self) -> bool {
        self.relinquished
    }

    pub fn relinquish(&mut self) {
        self.relinquished = true;
    }

    /// Allocations that were not freed: first column, columns, instruction.
    pub fn allocations(&self) -> &[(usize, usize, u32)] {
        &self.allocations
    }

    /// First columns at which so many are free.
    pub fn free(&self, columns: usize) -> Vec<usize> {
        let is_free = |first: &usize| {
            let meets =
                |&(other, size, _): &(usize, usize, u32)| *first < other + size && other < first + columns;
            !self.allocations.iter().any(meets)
        };
        (0..=COLUMNS - columns).step_by(FEWEST_COLUMNS).filter(is_free).collect()
    }

    /// Allocates columns that are free. What is there is undefined.
    pub fn allocate(&mut self, first: usize, columns: usize, instruction: u32) {
        self.cells.resize(LANES * COLUMNS, 0);
        self.units.resize(UNITS, NEVER);
        self.allocations.push((first, columns, instruction));
        for unit in Region::of_lanes(0, LANES, first, columns).units() {
            self.units[unit] = NEVER;
            self.readers
                .iter_mut()
                .filter(|readers| !readers.is_empty())
                .for_each(|readers| readers[unit] = 0);
        }
    }

    /// Frees what was allocated at a column; false if nothing of that size was.
    pub fn deallocate(&mut self, first: usize, columns: usize) -> bool {
        let found = self.allocations.iter().position(|&(at, size, _)| (at, size) == (first, columns));
        found.map(|at| self.allocations.remove(at)).is_some()
    }

    fn check_allocated(&self, region: Region) -> Result<(), TensorProblem> {
        let mut column = region.column;
        let end = region.column + region.columns;
        while column < end {
            let holds = |&&(first, size, _): &&(usize, usize, u32)| (first..first + size).contains(&column);
            match self.allocations.iter().find(holds) {
                Some((first, size, _)) => column = first + size,
                None => return Err(TensorProblem::NotAllocated { column }),
            }
        }
        Ok(())
    }

    /// Checks that an instruction that is issued now finds what it reads.
    pub fn check_read(&self, region: Region, actor: Actor, clocks: &Clocks) -> Result<(), TensorProblem> {
        self.check_allocated(region)?;
        for unit in region.units() {
            let Unit { written, instruction } = self.units[unit];
            if written == Written::Never && self.initialised {
                return Err(TensorProblem::Undefined { column: unit % COLUMNS });
            }
            self.check_order(written, instruction, unit % COLUMNS, actor, clocks)?;
        }
        Ok(())
    }

    /// Checks that an instruction that is issued now may write.
    pub fn check_write(&self, region: Region, actor: Actor, clocks: &Clocks) -> Result<(), TensorProblem> {
        self.check_allocated(region)?;
        if !self.checked {
            return Ok(());
        }
        for read in &self.pending_reads {
            if read.region.meets(region) {
                let (column, instruction) = (region.column.max(read.region.column), read.instruction);
                return Err(match read.actor {
                    Actor::Warp(warp) => TensorProblem::Loading { column, warp, instruction },
                    Actor::Products { .. } => TensorProblem::Multiplying { column, instruction },
                });
            }
        }
        for unit in region.units() {
            let Unit { written, instruction } = self.units[unit];
            self.check_order(written, instruction, unit % COLUMNS, actor, clocks)?;
        }
        let others = self.readers.iter().enumerate();
        for (reader, last) in others.filter(|(reader, last)| !last.is_empty() && !actor.is(*reader)) {
            for unit in region.units() {
                check_behind(reader, last[unit], (unit % COLUMNS, None), actor, clocks)?;
            }
        }
        Ok(())
    }

    fn check_order(
        &self,
        written: Written,
        instruction: u32,
        column: usize,
        actor: Actor,
        clocks: &Clocks,
    ) -> Result<(), TensorProblem> {
        if !self.checked {
            return Ok(());
        }
        match written {
            Written::Never => Ok(()),
            Written::Storing { warp } => Err(TensorProblem::Storing { column, warp, instruction }),
            Written::Stored { warp, .. } if actor.is(warp) => Ok(()),
            Written::Stored { warp, clock } => {
                check_behind(warp, clock, (column, Some(instruction)), actor, clocks)
            }
            Written::Multiplying { agent, accumulators, .. } if actor.goes_on(agent, accumulators) => Ok(()),
            Written::Multiplying { .. } => Err(TensorProblem::Multiplying { column, instruction }),
            Written::Multiplied { agent, accumulators, .. } if actor.goes_on(agent, accumulators) => Ok(()),
            Written::Multiplied { agent, clock, .. } => {
                check_behind(agent, clock, (column, Some(instruction)), actor, clocks)
            }
        }
    }

    /// A read is under way: nobody may write there until it is complete.
    pub fn start_read(&mut self, region: Region, actor: Actor, instruction: u32, ticket: u64) {
        self.pending_reads.push(PendingRead { region, actor, instruction, ticket });
    }

    /// Reads with a ticket are complete, as those of an agent at its clock.
    pub fn end_reads(&mut self, ticket: u64, agent: usize, clock: u32) {
        let Self { pending_reads, readers, .. } = self;
        pending_reads.retain(|read| {
            if read.ticket != ticket {
                return true;
            }
            if readers.len() <= agent {
                readers.resize(agent + 1, Vec::new());
            }
            readers[agent].resize(UNITS, 0);
            read.region.units().for_each(|unit| readers[agent][unit] = clock);
            false
        });
    }

    /// A tcgen05.st of a warp writes these units; it is not waited for.
    pub fn start_store(&mut self, region: Region, warp: usize, instruction: u32) {
        for unit in region.units() {
            self.units[unit] = Unit { written: Written::Storing { warp }, instruction };
        }
    }

    /// tcgen05.wait::st: what the warp has stored is there.
    pub fn end_stores(&mut self, region: Region, warp: usize, clock: u32) {
        for unit in region.units() {
            let unit = &mut self.units[unit];
            if unit.written == (Written::Storing { warp }) {
                unit.written = Written::Stored { warp, clock };
            }
        }
    }

    /// A product was issued that will write its accumulators.
    pub fn start_product(
        &mut self,
        region: Region,
        agent: usize,
        accumulators: Accumulators,
        instruction: u32,
    ) {
        for unit in region.units() {
            let unit = &mut self.units[unit];
            let products = match unit.written {
                Written::Multiplying { products, .. } => products + 1,
                _ => 1,
            };
            *unit = Unit { written: Written::Multiplying { agent, accumulators, products }, instruction };
        }
    }

    /// A product has written its accumulators.
    pub fn end_product(&mut self, region: Region, clock: u32) {
        for unit in region.units() {
            let written = &mut self.units[unit].written;
            if let Written::Multiplying { agent, accumulators, products } = *written {
                *written = match products {
                    1 => Written::Multiplied { agent, clock, accumulators },
                    _ => Written::Multiplying { agent, accumulators, products: products - 1 },
                };
            }
        }
    }

    pub fn row(&self, lane: usize, column: usize, columns: usize) -> &[u32] {
        &self.cells[lane * COLUMNS + column..][..columns]
    }

    pub fn row_mut(&mut self, lane: usize, column: usize, columns: usize) -> &mut [u32] {
        &mut self.cells[lane * COLUMNS + column..][..columns]
    }
}
