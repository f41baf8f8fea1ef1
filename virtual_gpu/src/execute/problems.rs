//! Problems of memory accesses in words, with the lane that has them.

use super::access::Run;
use super::block::Block;
use super::warp::{Wide, lanes};
use crate::diagnostic::{Fault, Problem};
use crate::memory::global::GlobalProblem;
use crate::memory::shared::SharedProblem;

impl Block<'_> {
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
            SharedProblem::ReadRace { warp: Some(warp), .. } => {
                (Fault::SharedRace, format!("{access} that warp {warp} read, with no barrier between"))
            }
            SharedProblem::ReadRace { warp: None, .. } => (
                Fault::SharedRace,
                format!("{access} that a tcgen05.mma read; this warp has not waited for its mbarrier"),
            ),
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
            GlobalProblem::Undefined(offset)
            | GlobalProblem::Race { offset, .. }
            | GlobalProblem::RaceWithin { offset, .. } => {
                let at = run.start + offset as u64;
                lanes(run.lanes).find(|lane| at < addresses[*lane].saturating_add(bytes as u64)).unwrap_or(0)
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
            GlobalProblem::RaceWithin { warp, .. } => {
                let message =
                    format!("{access}, which warp {warp} of the block wrote, with no barrier between");
                (Fault::GlobalRace, message)
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
