//! The main loop: one decoded instruction at a time for the 32 lanes of a warp.

use super::block::{Block, Turn};
use super::warp::{State, Warp};
use crate::diagnostic::{Fault, Problem};
use crate::program::{NONE, Operation};

impl Block<'_> {
    /// Runs a warp for at most `turn` instructions, with the widest vectors that the processor has.
    pub fn run_warp(&mut self, warp: &mut Warp, turn: u32) -> Result<Turn, Problem> {
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            // SAFETY: the processor has what the function was compiled for.
            return unsafe { self.run_avx2(warp, turn) };
        }
        self.run_body(warp, turn)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
    unsafe fn run_avx2(&mut self, warp: &mut Warp, turn: u32) -> Result<Turn, Problem> {
        self.run_body(warp, turn)
    }

    #[inline(always)]
    fn run_body(&mut self, warp: &mut Warp, turn: u32) -> Result<Turn, Problem> {
        let kernel = self.kernel;
        let follows = !kernel.followed.is_empty();
        let mut executed = 0;
        let result = loop {
            if executed >= turn {
                break Ok(Turn::Over);
            }
            let pc = warp.pc as usize;
            let instruction = &kernel.instructions[pc];
            if instruction.order >= warp.limit {
                warp.regroup(kernel);
                continue;
            }
            executed += 1;
            let mask = if instruction.guard == NONE {
                warp.active
            } else {
                let predicate = warp.predicates[instruction.guard as usize];
                warp.active & if instruction.guard_value { predicate } else { !predicate }
            };
            let counters = &mut self.counters[pc];
            counters.warp_instructions += 1;
            counters.lane_instructions += u64::from(mask.count_ones());
            if mask == 0 {
                warp.pc += 1;
                continue;
            }
            if instruction.checked {
                if follows && let Err(problem) = self.check_unwritten(warp, mask) {
                    break Err(problem);
                }
                let site = &kernel.sites[pc];
                for register in &site.unwritten_writes {
                    warp.valid[*register as usize] |= mask;
                }
                if !site.narrow_touched.is_empty()
                    && let Err(problem) = warp
                        .warpgroup
                        .check_touched(&site.narrow_touched, site.touch_writes)
                        .and_then(|()| warp.tensor.check_touched(&site.narrow_touched))
                {
                    break Err(problem);
                }
            }
            if warp.scalar(&instruction.operation, mask) {
                warp.pc += 1;
                continue;
            }
            match &instruction.operation {
                Operation::Load { space, elements, address, atomic } => {
                    if let Err(problem) = self.load(warp, *space, elements, address, *atomic, mask) {
                        break Err(problem);
                    }
                }
                Operation::Store { space, elements, address, atomic } => {
                    if let Err(problem) = self.store(warp, *space, elements, address, *atomic, mask) {
                        break Err(problem);
                    }
                }
                Operation::MatrixMultiply { family, format, d, a, b, c } => {
                    if let Err(problem) = warp.multiply_matrices(*family, *format, [d, a, c], b, mask) {
                        break Err(problem);
                    }
                }
                Operation::Shuffle { mode, d, valid, a, b, c, members } => {
                    if let Err(problem) = warp.shuffle(*mode, [*d, *valid], [*a, *b, *c], *members, mask) {
                        break Err(problem);
                    }
                }
                Operation::Branch { target } => {
                    warp.branch(kernel, mask, *target);
                    continue;
                }
                operation => {
                    if !warp.conversion(operation, mask) {
                        match self.other(warp, operation, mask) {
                            Ok(After::Next) => {}
                            Ok(After::Stay) => break Ok(Turn::Blocked),
                            Ok(After::Exit) => {
                                warp.exit(kernel, mask);
                                if warp.state == State::Done {
                                    break Ok(Turn::Blocked);
                                }
                                continue;
                            }
                            Ok(After::Yield) => {
                                warp.pc += 1;
                                break Ok(Turn::Over);
                            }
                            Err(problem) => break Err(problem),
                        }
                    }
                }
            }
            warp.pc += 1;
        };
        self.instructions += u64::from(executed);
        result
    }

    /// Everything that takes longer than a call.
    #[inline(never)]
    fn other(&mut self, warp: &mut Warp, operation: &Operation, mask: u32) -> Result<After, Problem> {
        match operation {
            Operation::Nothing | Operation::FenceMbarrierInit => {}
            Operation::Exit => return Ok(After::Exit),
            Operation::Trap => {
                return Err(Problem::at_lane(Fault::Trap, mask.trailing_zeros(), "the kernel executed trap"));
            }
            Operation::Clock { wide, d } => {
                if *wide {
                    warp.set_wide(*d, &[self.instructions; 32], mask);
                } else {
                    warp.set_narrow(*d, &[self.instructions as u32; 32], mask);
                }
            }
            Operation::Atomic { space, operation, kind, d, address, b, c } => {
                self.atomic(warp, *space, *operation, *kind, [*d, *b, *c], address, mask)?;
            }
            Operation::Vote { mode, d, a, negate, members } => {
                warp.vote(*mode, *d, *a, *negate, *members, mask)?
            }
            Operation::Match { all, wide, d, valid, a, members } => {
                warp.match_lanes(*all, *wide, [*d, *valid], *a, *members, mask)?;
            }
            Operation::ReduceWarp { operation, signed, d, a, members } => {
                warp.reduce(*operation, *signed, *d, *a, *members, mask)?;
            }
            Operation::ActiveMask(d) => warp.set_narrow(*d, &[mask; 32], mask),
            Operation::Elect { d, predicate, members } => warp.elect(*d, *predicate, *members, mask)?,
            Operation::Barrier { mode, id, count, d, a, negate, aligned } => {
                if !self.barrier(warp, *mode, [*id, *count, *d, *a], *negate, *aligned, mask)? {
                    return Ok(After::Stay);
                }
            }
            Operation::BarrierWarp { members } => {
                warp.check_members(*members, mask)?;
            }
            Operation::Fence { device } => self.fenced |= *device,
            Operation::FenceProxyAsync => self.clocks.fence_proxy(warp.index),
            Operation::FenceTensorMap { map, acquires } => {
                if *acquires {
                    self.acquire_maps(warp, map, mask);
                }
            }
            Operation::LoadMatrix { count, transpose, registers, address } => {
                self.load_matrix(warp, *count, *transpose, registers, address, mask)?;
            }
            Operation::StoreMatrix { count, transpose, registers, address } => {
                self.store_matrix(warp, *count, *transpose, registers, address, mask)?;
            }
            Operation::CopyAsync { bytes, shared, global, source_bytes, ignore } => {
                self.copy_async(warp, *bytes, shared, global, [*source_bytes, *ignore], mask)?;
            }
            Operation::CopyCommit => warp.copies.commit(mask),
            Operation::CopyWait { pending } => self.copy_wait(warp, *pending, mask)?,
            Operation::CopyWaitAll => self.copy_wait_all(warp, mask)?,
            Operation::Mbarrier(operation, address) => {
                warp.state = State::Ready;
                if !self.mbarrier(warp, operation, address, mask)? {
                    return Ok(After::Stay);
                }
                if warp.polls > 0 {
                    return Ok(After::Yield);
                }
            }
            Operation::TensorLoad(copy) => self.tensor_load(warp, copy, mask)?,
            Operation::TensorStore(copy) => self.tensor_store(warp, copy, mask)?,
            Operation::BulkLoad { shared, global, bytes, barrier } => {
                self.bulk_load(warp, shared, global, *bytes, barrier, mask)?;
            }
            Operation::BulkStore { shared, global, bytes } => {
                self.bulk_store(warp, shared, global, *bytes, mask)?
            }
            Operation::BulkCommit => warp.bulk_stores.commit(mask),
            Operation::BulkWait { pending, read } => self.bulk_wait(warp, *pending, *read, mask)?,
            Operation::WarpgroupFence => {
                warp.check_whole(mask)?;
                warp.warpgroup.fence();
            }
            Operation::WarpgroupMultiply(matrix) => self.warpgroup_multiply(warp, matrix, mask)?,
            Operation::WarpgroupCommit => {
                warp.check_whole(mask)?;
                warp.warpgroup.commit();
            }
            Operation::WarpgroupWait { pending } => {
                warp.check_whole(mask)?;
                self.warpgroup_wait(warp, *pending);
            }
            Operation::TensorMemory(operation) => {
                if !self.tensor_memory(warp, operation, mask)? {
                    return Ok(After::Stay);
                }
            }
            Operation::SetMaximumRegisters { .. } => warp.check_whole(mask)?,
            operation => {
                let message = format!("the operation {operation:?} is decoded but not executed");
                return Err(Problem::new(Fault::InvalidUse, message));
            }
        }
        Ok(After::Next)
    }
}

/// Where a warp stands after an instruction.
enum After {
    Next,
    /// At the same instruction, waiting.
    Stay,
    Exit,
    /// At the next instruction, and others run first.
    Yield,
}
