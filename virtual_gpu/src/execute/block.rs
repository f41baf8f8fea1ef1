//! A block: its warps, the barriers between them, and who runs next.

use super::Configuration;
use super::bulk::BulkLoad;
use super::mbarrier::Mbarrier;
use super::random::Random;
use super::tensor_products::TensorProducts;
use super::warp::{State, Warp, lanes};
use crate::clocks::{Clocks, FIRST_BARRIER_AGENT, Knowledge};
use crate::counters::Counters;
use crate::decode::CLUSTER_BARRIER;
use crate::diagnostic::{Diagnostic, Fault, Problem};
use crate::memory::global::GlobalMemory;
use crate::memory::shared::SharedMemory;
use crate::memory::tensor::TensorMemory;
use crate::program::{BarrierMode, Kernel, NONE, Operation, Slot};
use std::collections::HashMap;

/// What atomics have published: by address, blocks and the epochs up to which their writes are visible.
pub(crate) type Published = HashMap<u64, Vec<(u32, u32)>>;

/// Why a warp gave up its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Its turn is over, it could go on.
    Over,
    /// It waits, or has ended: see its state.
    Blocked,
}

struct Barrier {
    generation: u64,
    /// Threads that have arrived in this generation, and that are needed; 0 for all of the block.
    arrived: u32,
    needed: u32,
    /// Warps that have arrived in this generation.
    warps: u32,
    knowledge: Knowledge,
    /// Of the generation that was completed last.
    complete: Knowledge,
    population: u32,
    all: bool,
    result: (u32, bool),
    pc: u32,
}

pub(crate) struct Block<'a> {
    pub kernel: &'a Kernel,
    pub configuration: &'a Configuration,
    pub memory: &'a mut GlobalMemory,
    pub shared: &'a mut SharedMemory,
    pub counters: &'a mut [Counters],
    pub parameters: &'a [u8],
    pub published: &'a mut Published,
    pub random: &'a mut Random,
    pub clocks: Clocks,
    pub grid: [u32; 3],
    pub index: [u32; 3],
    /// Number of the block in the grid.
    pub linear: u32,
    pub launch: u32,
    /// Moves on with each release of global memory.
    pub epoch: u32,
    /// Blocks whose releases this one has seen.
    pub acquired: HashMap<u32, u32>,
    /// A fence was executed since the last release.
    pub fenced: bool,
    pub mbarriers: HashMap<u32, Mbarrier>,
    pub next_agent: usize,
    pub bulk_loads: Vec<BulkLoad>,
    pub tensor: TensorMemory,
    pub products: TensorProducts,
    /// Tensor maps in global memory that a fence acquired: address, warp, and its clock then.
    pub acquired_maps: Vec<(u64, usize, u32)>,
    pub instructions: u64,
    barriers: Vec<Barrier>,
    live_warps: u32,
    tickets: u64,
}

/// The parts of a launch that its blocks share.
pub(crate) struct Shared<'a> {
    pub kernel: &'a Kernel,
    pub configuration: &'a Configuration,
    pub memory: &'a mut GlobalMemory,
    pub shared: &'a mut SharedMemory,
    pub counters: &'a mut [Counters],
    pub parameters: &'a [u8],
    pub published: &'a mut Published,
    pub random: &'a mut Random,
    pub grid: [u32; 3],
    pub launch: u32,
}

impl<'a> Block<'a> {
    pub fn new(launch: Shared<'a>, linear: u32, warps: usize, clock: u32) -> Self {
        let grid = launch.grid;
        let index = [linear % grid[0], linear / grid[0] % grid[1], linear / grid[0] / grid[1]];
        let barriers = (0..=CLUSTER_BARRIER)
            .map(|_| Barrier {
                generation: 0,
                arrived: 0,
                needed: 0,
                warps: 0,
                knowledge: Knowledge::nothing(clock),
                complete: Knowledge::nothing(clock),
                population: 0,
                all: true,
                result: (0, true),
                pc: 0,
            })
            .collect();
        Block {
            kernel: launch.kernel,
            configuration: launch.configuration,
            memory: launch.memory,
            shared: launch.shared,
            counters: launch.counters,
            parameters: launch.parameters,
            published: launch.published,
            random: launch.random,
            clocks: Clocks::new(warps, clock),
            grid,
            index,
            linear,
            launch: launch.launch,
            epoch: 0,
            acquired: HashMap::new(),
            fenced: false,
            mbarriers: HashMap::new(),
            next_agent: FIRST_BARRIER_AGENT,
            bulk_loads: Vec::new(),
            tensor: TensorMemory::new(launch.configuration.races, launch.configuration.initialised),
            products: TensorProducts::default(),
            acquired_maps: Vec::new(),
            instructions: 0,
            barriers,
            live_warps: warps as u32,
            tickets: 0,
        }
    }

    pub fn block_index(&self, linear: u32) -> [u32; 3] {
        let grid = self.grid;
        [linear % grid[0], linear / grid[0] % grid[1], linear / grid[0] / grid[1]]
    }

    pub fn line_of(&self, instruction: u32) -> String {
        super::line_of(self.kernel, instruction)
    }

    pub fn new_ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    /// Runs all warps to their end, in random turns.
    pub fn run(&mut self, warps: &mut [Warp]) -> Result<(), Box<Diagnostic>> {
        let mut ready: Vec<usize> = Vec::with_capacity(warps.len());
        loop {
            ready.clear();
            for (index, warp) in warps.iter().enumerate() {
                let can = match warp.state {
                    State::Ready => true,
                    State::Barrier { id, generation } => self.barriers[id].generation != generation,
                    State::Mbarrier { address, phase } => self.mbarrier_ready(address, phase),
                    State::TensorMemory { columns } => !self.tensor.free(columns).is_empty(),
                    State::Done => false,
                };
                if can {
                    ready.push(index);
                }
            }
            if ready.is_empty() {
                if warps.iter().all(|warp| warp.state == State::Done) {
                    return self.finish(warps);
                }
                return Err(self.deadlock(warps));
            }
            let warp = &mut warps[ready[self.random.below(ready.len() as u32) as usize]];
            // Mostly long turns, which are fast, and now and then a short one, which mixes warps within a phase.
            let turn = if self.random.below(4) == 0 { 1 + self.random.below(24) } else { 200 };
            let was_done = warp.state == State::Done;
            match self.run_warp(warp, turn) {
                Ok(turn) => debug_assert!(turn == Turn::Over || warp.state != State::Ready),
                Err(problem) => return Err(self.diagnose(warp, problem)),
            }
            if warp.state == State::Done && !was_done {
                self.live_warps -= 1;
                // Those that wait for all threads wait for one warp less.
                for barrier in 0..self.barriers.len() {
                    self.complete_barrier(barrier);
                }
            }
            if self.instructions > self.configuration.instruction_limit {
                let message = format!(
                    "no end after {} instructions of this block: an endless loop, or a wait for another block (blocks \
                     run one after the other)",
                    self.configuration.instruction_limit
                );
                return Err(self.diagnose(warp, Problem::new(Fault::EndlessLoop, message)));
            }
        }
    }

    fn finish(&mut self, warps: &mut [Warp]) -> Result<(), Box<Diagnostic>> {
        for warp in warps.iter_mut() {
            if let Err(problem) = self.finish_bulk_stores(warp) {
                return Err(self.diagnose(warp, problem));
            }
            let left = if !warp.copies.is_empty() {
                Some("cp.async copies that were never waited for")
            } else if !warp.warpgroup.is_idle() {
                Some("products of wgmma.mma_async that were never waited for")
            } else {
                warp.tensor.left()
            };
            if let Some(left) = left
                && self.configuration.races
            {
                let problem = Problem::new(Fault::MissingWait, format!("the block ended with {left}"));
                return Err(self.diagnose(warp, problem));
            }
        }
        if let Some(load) = self.bulk_loads.first()
            && self.configuration.races
        {
            let message =
                format!("the block ended with a bulk copy to the mbarrier at {:#x} on its way", load.barrier);
            return Err(self.diagnose(&warps[0], Problem::new(Fault::MissingWait, message)));
        }
        if !self.products.is_idle() && self.configuration.races {
            let message = "the block ended with products of tcgen05.mma that were never waited for";
            return Err(self.diagnose(&warps[0], Problem::new(Fault::MissingWait, message)));
        }
        if let Some((first, columns, instruction)) = self.tensor.allocations().first() {
            let message = format!(
                "the block ended with {columns} columns of tensor memory from {first} on that were allocated at {} \
                 and not freed",
                self.line_of(*instruction)
            );
            return Err(self.diagnose(&warps[0], Problem::new(Fault::InvalidUse, message)));
        }
        // Marks of this block are no concern of the next one.
        self.shared.pending_reads.clear();
        Ok(())
    }

    /// A problem of the warp, with its place.
    fn diagnose(&self, warp: &Warp, problem: Problem) -> Box<Diagnostic> {
        let site = &self.kernel.sites[(warp.pc as usize).min(self.kernel.sites.len() - 1)];
        Box::new(Diagnostic {
            fault: problem.fault,
            message: problem.message,
            kernel: self.kernel.name.clone(),
            block: self.index,
            warp: warp.index as u32,
            lane: problem.lane,
            opcode: site.opcode.clone(),
            ptx_line: site.ptx_line,
            source: site.source.map(|source| self.kernel.source_lines[source as usize].clone()),
        })
    }

    fn deadlock(&self, warps: &[Warp]) -> Box<Diagnostic> {
        // Warps that wait at the same place for the same thing are told of together.
        let mut waits: Vec<(String, Vec<usize>)> = Vec::new();
        for warp in warps {
            let place = self.line_of(warp.pc);
            let wait = match warp.state {
                State::Barrier { id, .. } => {
                    let barrier = &self.barriers[id];
                    let needed = if barrier.needed == 0 { self.live_warps * 32 } else { barrier.needed };
                    format!("at {place} for barrier {id}, where {} of {needed} threads are", barrier.arrived)
                }
                State::Mbarrier { address, phase } => {
                    format!("at {place} for {}", self.describe_mbarrier(address, phase))
                }
                State::TensorMemory { columns } => {
                    format!("at {place} for {columns} columns of tensor memory, which others have")
                }
                State::Ready | State::Done => continue,
            };
            match waits.iter_mut().find(|(known, _)| *known == wait) {
                Some((_, warps)) => warps.push(warp.index),
                None => waits.push((wait, vec![warp.index])),
            }
        }
        let done = warps.iter().filter(|warp| warp.state == State::Done).count();
        let waits: Vec<String> = waits
            .iter()
            .map(|(wait, warps)| match warps.as_slice() {
                [warp] => format!("warp {warp} waits {wait}"),
                warps => format!("warps {warps:?} wait {wait}"),
            })
            .collect();
        let first = warps.iter().find(|warp| warp.state != State::Done).unwrap_or(&warps[0]);
        let message = format!("no warp can go on: {}; {done} warps have ended", waits.join("; "));
        self.diagnose(first, Problem::new(Fault::Deadlock, message))
    }

    /// Executes a barrier instruction. False if the warp has to wait; it comes back to the same instruction then.
    pub fn barrier(
        &mut self,
        warp: &mut Warp,
        mode: BarrierMode,
        [id, count, d, a]: [Slot; 4],
        negate: bool,
        aligned: bool,
        mask: u32,
    ) -> Result<bool, Problem> {
        let invalid = |message: String| Problem::new(Fault::InvalidUse, message);
        let Some(number) = warp.uniform(id, mask) else {
            return Err(invalid("the number of the barrier differs between lanes".into()));
        };
        if u64::from(number) > CLUSTER_BARRIER || (u64::from(number) == CLUSTER_BARRIER && count != NONE) {
            return Err(invalid(format!("barrier {number}: there are barriers 0 to 15")));
        }
        let number = number as usize;
        if let State::Barrier { .. } = warp.state {
            // The generation that the warp waited for is complete.
            warp.state = State::Ready;
            self.leave_barrier(warp, number, mode, d, mask);
            return Ok(true);
        }
        if aligned && mask != warp.live {
            let message = format!(
                "lanes {mask:#x} of a warp arrive at the barrier while lanes {:#x} are elsewhere: all threads of a \
                 warp have to execute it together",
                warp.live & !mask
            );
            return Err(Problem::at_lane(Fault::Divergent, mask.trailing_zeros(), message));
        }
        let needed = match count {
            NONE => 0,
            slot => match warp.uniform(slot, mask) {
                Some(count) if count > 0 && count % 32 == 0 => count,
                Some(count) => {
                    return Err(invalid(format!("a barrier of {count} threads: a multiple of 32 is needed")));
                }
                None => return Err(invalid("the number of threads differs between lanes".into())),
            },
        };
        let line = self.line_of(self.barriers[number].pc);
        let barrier = &mut self.barriers[number];
        if barrier.arrived > 0 && barrier.needed != needed {
            let name = |count: u32| if count == 0 { "all".to_string() } else { count.to_string() };
            return Err(invalid(format!(
                "barrier {number} for {} threads, but others arrived there ({line}) for {}",
                name(needed),
                name(barrier.needed)
            )));
        }
        // Without .aligned each part of a warp brings its own threads; the warp counts whole when it is.
        let arriving = if aligned { 32 } else { mask.count_ones() };
        if needed != 0 && barrier.arrived + arriving > needed {
            let arrived = barrier.arrived + arriving;
            return Err(invalid(format!("{arrived} threads at barrier {number}, which is for {needed}")));
        }
        barrier.needed = needed;
        barrier.arrived += arriving;
        barrier.warps |= 1 << warp.index;
        barrier.pc = warp.pc;
        barrier.knowledge.join(self.clocks.knowledge(warp.index));
        if a != NONE {
            let votes = (warp.predicates[a as usize] ^ if negate { u32::MAX } else { 0 }) & mask;
            barrier.population += votes.count_ones();
            barrier.all &= votes == mask;
        }
        self.clocks.advance(warp.index);
        let generation = self.barriers[number].generation;
        self.complete_barrier(number);
        if mode == BarrierMode::Arrive {
            return Ok(true);
        }
        if self.barriers[number].generation != generation {
            self.leave_barrier(warp, number, mode, d, mask);
            return Ok(true);
        }
        warp.state = State::Barrier { id: number, generation };
        Ok(false)
    }

    fn complete_barrier(&mut self, number: usize) {
        let barrier = &mut self.barriers[number];
        let needed = if barrier.needed == 0 { self.live_warps * 32 } else { barrier.needed };
        if barrier.arrived == 0 || barrier.arrived < needed {
            return;
        }
        barrier.generation += 1;
        barrier.complete = barrier.knowledge.clone();
        barrier.result = (barrier.population, barrier.all);
        (barrier.arrived, barrier.needed, barrier.warps) = (0, 0, 0);
        (barrier.population, barrier.all) = (0, true);
    }

    fn leave_barrier(&mut self, warp: &mut Warp, number: usize, mode: BarrierMode, d: Slot, mask: u32) {
        let barrier = &self.barriers[number];
        self.clocks.acquire(warp.index, &barrier.complete);
        let (population, all) = barrier.result;
        let predicate = |value: bool| if value { u32::MAX } else { 0 };
        match mode {
            BarrierMode::PopulationCount => warp.set_narrow(d, &[population; 32], mask),
            BarrierMode::And => warp.set_predicate(d, predicate(all), mask),
            BarrierMode::Or => warp.set_predicate(d, predicate(population > 0), mask),
            BarrierMode::Synchronise | BarrierMode::Arrive => {}
        }
    }

    /// Reads of registers that nobody wrote.
    pub fn check_unwritten(&self, warp: &Warp, mask: u32) -> Result<(), Problem> {
        let site = &self.kernel.sites[warp.pc as usize];
        let accumulators: &[u32] = match &self.kernel.instructions[warp.pc as usize].operation {
            Operation::WarpgroupMultiply(product)
                if warp.predicates[product.scale_d as usize] & mask == 0 =>
            {
                &[]
            }
            _ => &site.unwritten_accumulators,
        };
        for register in site.unwritten_reads.iter().chain(accumulators) {
            let missing = mask & !warp.valid[*register as usize];
            if let Some(lane) = lanes(missing).next() {
                let name = &self.kernel.followed[*register as usize];
                let message = format!("reads {name} of the PTX before anything was written to it");
                return Err(Problem::at_lane(Fault::UninitialisedRead, lane as u32, message));
            }
        }
        Ok(())
    }
}
