//! Tensor memory: allocation, and what warps load from it and store to it. Products are in `tensor_products`.
//!
//! A load owns its registers until tcgen05.wait::ld; what a store writes may be touched after tcgen05.wait::st. For other
//! warps, and for products, both are done only behind tcgen05.fence::before_thread_sync, a barrier and
//! tcgen05.fence::after_thread_sync.

use super::block::Block;
use super::warp::{State, Warp};
use crate::diagnostic::{Fault, Problem};
use crate::memory::SHARED_WINDOW;
use crate::memory::tensor::{Actor, LANES, Region, TensorMemory, TensorProblem};
use crate::program::{Address, Slot, TensorOperation, TensorShape};

type Result<T> = std::result::Result<T, Problem>;

/// What a warp has under way.
#[derive(Default)]
pub(crate) struct TensorAccesses {
    /// Tickets of loads.
    loads: Vec<u64>,
    /// Narrow slots that loads own.
    in_flight: Vec<bool>,
    stores: Vec<Region>,
}

impl TensorAccesses {
    /// For instructions that touch registers which loads may own.
    pub fn check_touched(&self, slots: &[Slot]) -> Result<()> {
        if slots.iter().any(|slot| self.in_flight.get(*slot as usize).is_some_and(|owned| *owned)) {
            return Err(Problem::new(
                Fault::RegisterInFlight,
                "touches a register that a tcgen05.ld in flight writes: tcgen05.wait::ld is missing before",
            ));
        }
        Ok(())
    }

    /// What was never waited for.
    pub fn left(&self) -> Option<&'static str> {
        match (self.loads.is_empty(), self.stores.is_empty()) {
            (false, _) => Some("loads of tcgen05.ld that were never waited for"),
            (_, false) => Some("stores of tcgen05.st that were never waited for"),
            _ => None,
        }
    }
}

impl Block<'_> {
    /// False if the warp has to wait at this instruction.
    pub fn tensor_memory(&mut self, warp: &mut Warp, operation: &TensorOperation, mask: u32) -> Result<bool> {
        match operation {
            TensorOperation::FenceBefore => self.clocks.fence_before_thread_sync(warp.index),
            TensorOperation::FenceAfter => self.clocks.fence_after_thread_sync(warp.index),
            TensorOperation::Multiply(matrix) => self.tensor_multiply(warp, matrix, mask)?,
            TensorOperation::Commit { barrier } => self.tensor_commit(warp, barrier, mask)?,
            TensorOperation::Allocate { destination, columns } => {
                warp.check_whole(mask)?;
                return self.allocate_tensor_memory(warp, destination, *columns);
            }
            TensorOperation::Deallocate { address, columns } => {
                warp.check_whole(mask)?;
                self.free_tensor_memory(warp, *address, *columns)?;
            }
            TensorOperation::Relinquish => {
                warp.check_whole(mask)?;
                self.tensor.relinquish();
            }
            TensorOperation::Load { shape, registers, address } => {
                warp.check_whole(mask)?;
                self.tensor_load_registers(warp, *shape, registers, address)?;
            }
            TensorOperation::Store { shape, registers, address } => {
                warp.check_whole(mask)?;
                self.tensor_store_registers(warp, *shape, registers, address)?;
            }
            TensorOperation::WaitLoad => {
                warp.check_whole(mask)?;
                let clock = self.clocks.seen(warp.index)[warp.index];
                for ticket in std::mem::take(&mut warp.tensor.loads) {
                    self.tensor.end_reads(ticket, warp.index, clock);
                }
                warp.tensor.in_flight.fill(false);
            }
            TensorOperation::WaitStore => {
                warp.check_whole(mask)?;
                let clock = self.clocks.seen(warp.index)[warp.index];
                for region in std::mem::take(&mut warp.tensor.stores) {
                    self.tensor.end_stores(region, warp.index, clock);
                }
            }
        }
        Ok(true)
    }

    fn allocate_tensor_memory(
        &mut self,
        warp: &mut Warp,
        destination: &Address,
        columns: Slot,
    ) -> Result<bool> {
        let columns = Self::tensor_columns(warp, columns)?;
        if self.tensor.is_relinquished() {
            let message = "tensor memory is allocated after tcgen05.relinquish_alloc_permit";
            return Err(Problem::new(Fault::InvalidUse, message));
        }
        let free = self.tensor.free(columns);
        if free.is_empty() {
            warp.state = State::TensorMemory { columns };
            return Ok(false);
        }
        warp.state = State::Ready;
        let first = free[self.random.below(free.len() as u32) as usize];
        self.tensor.allocate(first, columns, warp.pc);
        let address = warp.addresses(destination)[0];
        let address = address.checked_sub(SHARED_WINDOW).unwrap_or(address);
        if !address.is_multiple_of(4) {
            let message = format!("an address of tensor memory goes to {address:#x}, no multiple of 4");
            return Err(Problem::new(Fault::Misaligned, message));
        }
        match self.shared.write(address, 4, warp.index, warp.pc, &self.clocks) {
            Ok(bytes) => bytes.copy_from_slice(&(first as u32).to_le_bytes()),
            Err(problem) => return Err(self.describe_shared(problem, address as usize, 4, true)),
        }
        Ok(true)
    }

    fn tensor_columns(warp: &Warp, columns: Slot) -> Result<usize> {
        let columns = warp.uniform(columns, u32::MAX).map(|columns| columns as usize);
        columns.filter(|columns| TensorMemory::is_size(*columns)).ok_or_else(|| {
            let found = columns.map_or("numbers that differ between lanes".into(), |found| found.to_string());
            let message =
                format!("{found} columns of tensor memory: a power of two from 32 to 512 is needed");
            Problem::new(Fault::InvalidUse, message)
        })
    }

    fn free_tensor_memory(&mut self, warp: &mut Warp, address: Slot, columns: Slot) -> Result<()> {
        let columns = Self::tensor_columns(warp, columns)?;
        let invalid = |message: String| Err(Problem::new(Fault::InvalidUse, message));
        let Some(address) = warp.uniform(address, u32::MAX) else {
            return invalid("addresses of tensor memory differ between lanes".into());
        };
        let (lane, first) = (address >> 16, address as usize & 0xffff);
        if lane != 0 || !self.tensor.allocations().iter().any(|&(at, size, _)| (at, size) == (first, columns))
        {
            return invalid(format!(
                "{columns} columns of tensor memory are freed at {address:#x}, where no allocation of so many is"
            ));
        }
        let region = Region::of_lanes(0, LANES, first, columns);
        let checked = self.tensor.check_write(region, Actor::Warp(warp.index), &self.clocks);
        checked.map_err(|problem| self.tensor_problem(problem, "frees"))?;
        self.tensor.deallocate(first, columns);
        Ok(())
    }

    /// The lanes and columns of a load or store of a warp: of its own 32 lanes.
    fn tensor_region(
        &self,
        warp: &Warp,
        shape: TensorShape,
        registers: usize,
        address: &Address,
    ) -> Result<(usize, Region)> {
        let addresses = warp.addresses(address);
        if addresses.iter().any(|address| *address != addresses[0]) {
            let message = "addresses of tensor memory differ between lanes";
            return Err(Problem::new(Fault::InvalidUse, message));
        }
        let (lane, column) = (addresses[0] as usize >> 16 & 0xffff, addresses[0] as usize & 0xffff);
        let own = warp.index % 4 * 32;
        if lane != own && !(shape.lanes() == 16 && lane == own + 16) {
            let message = format!(
                "lanes {lane} and on of tensor memory: warp {} has lanes {own} to {} alone, and begins at the first{}",
                warp.index,
                own + 31,
                if shape.lanes() == 16 { " or at the 17th" } else { "" }
            );
            return Err(Problem::new(Fault::InvalidUse, message));
        }
        let (of_one, columns) = shape.registers_and_columns();
        Ok((lane, Region::of_lanes(lane, shape.lanes(), column, registers / of_one * columns)))
    }

    fn tensor_load_registers(
        &mut self,
        warp: &mut Warp,
        shape: TensorShape,
        registers: &[Slot],
        address: &Address,
    ) -> Result<()> {
        let (lane, region) = self.tensor_region(warp, shape, registers.len(), address)?;
        let actor = Actor::Warp(warp.index);
        let checked = self.tensor.check_read(region, actor, &self.clocks);
        checked.map_err(|problem| self.tensor_problem(problem, "reads"))?;
        let ticket = self.new_ticket();
        self.tensor.start_read(region, actor, warp.pc, ticket);
        warp.tensor.loads.push(ticket);
        warp.tensor.in_flight.resize(warp.narrow.len(), false);
        for (register, slot) in registers.iter().enumerate() {
            for thread in 0..32 {
                let (row, column) = shape.place(thread, register);
                warp.narrow[*slot as usize][thread] =
                    self.tensor.row(lane + row, region.column + column, 1)[0];
            }
            warp.tensor.in_flight[*slot as usize] = true;
        }
        Ok(())
    }

    fn tensor_store_registers(
        &mut self,
        warp: &mut Warp,
        shape: TensorShape,
        registers: &[Slot],
        address: &Address,
    ) -> Result<()> {
        let (lane, region) = self.tensor_region(warp, shape, registers.len(), address)?;
        let checked = self.tensor.check_write(region, Actor::Warp(warp.index), &self.clocks);
        checked.map_err(|problem| self.tensor_problem(problem, "writes"))?;
        for (register, slot) in registers.iter().enumerate() {
            for thread in 0..32 {
                let (row, column) = shape.place(thread, register);
                self.tensor.row_mut(lane + row, region.column + column, 1)[0] =
                    warp.narrow[*slot as usize][thread];
            }
        }
        self.tensor.start_store(region, warp.index, warp.pc);
        warp.tensor.stores.push(region);
        Ok(())
    }

    /// The problem in words.
    pub(super) fn tensor_problem(&self, problem: TensorProblem, verb: &str) -> Problem {
        let line = |instruction: u32| self.line_of(instruction);
        let access = |column: usize| format!("{verb} column {column} of tensor memory");
        let (fault, message) = match problem {
            TensorProblem::NotAllocated { column } => {
                (Fault::OutOfBounds, format!("{}, which is not allocated", access(column)))
            }
            TensorProblem::Undefined { column } => {
                (Fault::UninitialisedRead, format!("{} that nobody wrote", access(column)))
            }
            TensorProblem::Storing { column, warp, instruction } => (
                Fault::MissingWait,
                format!(
                    "{} that warp {warp} stored at {}: tcgen05.wait::st is missing before",
                    access(column),
                    line(instruction)
                ),
            ),
            TensorProblem::Loading { column, warp, instruction } => (
                Fault::MissingWait,
                format!(
                    "{} that warp {warp} loads at {}: tcgen05.wait::ld is missing before",
                    access(column),
                    line(instruction)
                ),
            ),
            TensorProblem::Multiplying { column, instruction } => (
                Fault::MissingWait,
                format!(
                    "{} of which a product issued at {} is not complete: nobody has waited for a tcgen05.commit \
                     behind it",
                    access(column),
                    line(instruction)
                ),
            ),
            TensorProblem::NotWaited { column, instruction } => (
                Fault::MissingWait,
                format!(
                    "{} that a product{} touched; this warp has not waited for a tcgen05.commit behind it",
                    access(column),
                    instruction.map_or_else(String::new, |issued| format!(" issued at {}", line(issued)))
                ),
            ),
            TensorProblem::Race { column, warp } => (
                Fault::TensorRace,
                format!("{} that warp {warp} touched, with no barrier between", access(column)),
            ),
            TensorProblem::NoFence { column, warp: Some(warp) } => (
                Fault::MissingFence,
                format!(
                    "{} that warp {warp} touched: tcgen05.fence::before_thread_sync is missing before the barrier, \
                     or tcgen05.fence::after_thread_sync behind it",
                    access(column)
                ),
            ),
            TensorProblem::NoFence { column, warp: None } => (
                Fault::MissingFence,
                format!(
                    "{} that a product touched: tcgen05.fence::after_thread_sync is missing behind the wait for its \
                     mbarrier",
                    access(column)
                ),
            ),
        };
        Problem::new(fault, message)
    }
}
