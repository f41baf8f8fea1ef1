//! What the lanes of a warp do together: shuffles, votes, matches and reductions.

use super::warp::{Warp, lanes};
use crate::diagnostic::{Fault, Problem};
use crate::program::{AtomicOperation, NONE, ShuffleMode, Slot, VoteMode};

type Result<T> = std::result::Result<T, Problem>;

impl Warp {
    /// The members that an instruction names have to execute it together. Lanes that have exited do not count.
    pub fn check_members(&self, members: Slot, mask: u32) -> Result<u32> {
        let values = &self.narrow[members as usize];
        let named = values[mask.trailing_zeros() as usize & 31];
        if let Some(lane) = lanes(mask).find(|lane| values[*lane] != named) {
            let message = format!("its member mask is {:#x}, that of others {named:#x}", values[lane]);
            return Err(Problem::at_lane(Fault::Divergent, lane as u32, message));
        }
        let missing = named & self.live & !mask;
        if missing != 0 {
            let message = format!(
                "the member mask {named:#x} names lanes {missing:#x}, which are elsewhere in the code; only {mask:#x} \
                 arrived"
            );
            return Err(Problem::at_lane(Fault::Divergent, mask.trailing_zeros(), message));
        }
        if named & mask != mask {
            let lane = (mask & !named).trailing_zeros();
            let message = format!("the lane is not in its member mask {named:#x}");
            return Err(Problem::at_lane(Fault::Divergent, lane, message));
        }
        Ok(named)
    }

    #[inline(always)]
    pub fn shuffle(
        &mut self,
        mode: ShuffleMode,
        [d, valid]: [Slot; 2],
        [a, b, c]: [Slot; 3],
        members: Slot,
        mask: u32,
    ) -> Result<()> {
        self.check_members(members, mask)?;
        let (a, b, c) = (self.narrow[a as usize], &self.narrow[b as usize], &self.narrow[c as usize]);
        let (mut result, mut inside, mut inactive) = (a, 0u32, 0u32);
        for lane in 0..32u32 {
            let (offset, clamp) = (b[lane as usize] & 31, c[lane as usize] & 31);
            let segment = c[lane as usize] >> 8 & 31;
            let highest = (lane & segment) | (clamp & !segment);
            let lowest = lane & segment;
            let (source, ok) = match mode {
                ShuffleMode::Up => (lane.wrapping_sub(offset), lane as i32 - offset as i32 >= highest as i32),
                ShuffleMode::Down => (lane + offset, lane + offset <= highest),
                ShuffleMode::Butterfly => (lane ^ offset, lane ^ offset <= highest),
                ShuffleMode::Index => {
                    let source = lowest | (offset & !segment);
                    (source, source <= highest)
                }
            };
            let source = if ok { source & 31 } else { lane };
            result[lane as usize] = a[source as usize];
            inside |= u32::from(ok) << lane;
            inactive |= (!mask >> source & 1) << lane;
        }
        if inactive & mask != 0 {
            let lane = (inactive & mask).trailing_zeros();
            let message = "reads the value of a lane that does not take part";
            return Err(Problem::at_lane(Fault::Divergent, lane, message));
        }
        if d != NONE {
            self.set_narrow(d, &result, mask);
        }
        self.set_predicate(valid, inside, mask);
        Ok(())
    }

    pub fn vote(
        &mut self,
        mode: VoteMode,
        d: Slot,
        a: Slot,
        negate: bool,
        members: Slot,
        mask: u32,
    ) -> Result<()> {
        self.check_members(members, mask)?;
        let votes = (self.predicates[a as usize] ^ if negate { u32::MAX } else { 0 }) & mask;
        let holds = match mode {
            VoteMode::Ballot => {
                self.set_narrow(d, &[votes; 32], mask);
                return Ok(());
            }
            VoteMode::All => votes == mask,
            VoteMode::Any => votes != 0,
            VoteMode::Uniform => votes == mask || votes == 0,
        };
        self.set_predicate(d, if holds { u32::MAX } else { 0 }, mask);
        Ok(())
    }

    pub fn match_lanes(
        &mut self,
        all: bool,
        wide: bool,
        [d, valid]: [Slot; 2],
        a: Slot,
        members: Slot,
        mask: u32,
    ) -> Result<()> {
        self.check_members(members, mask)?;
        let values: [u64; 32] =
            if wide { self.wide[a as usize] } else { self.narrow[a as usize].map(u64::from) };
        let equal = |lane: usize| {
            lanes(mask).filter(|other| values[*other] == values[lane]).fold(0, |m, l| m | 1 << l)
        };
        let mut result = [0; 32];
        for lane in lanes(mask) {
            result[lane] = equal(lane);
        }
        if all {
            let agree = lanes(mask).all(|lane| result[lane] == mask);
            result = [if agree { mask } else { 0 }; 32];
            self.set_predicate(valid, if agree { u32::MAX } else { 0 }, mask);
        }
        if d != NONE {
            self.set_narrow(d, &result, mask);
        }
        Ok(())
    }

    pub fn reduce(
        &mut self,
        operation: AtomicOperation,
        signed: bool,
        d: Slot,
        a: Slot,
        members: Slot,
        mask: u32,
    ) -> Result<()> {
        self.check_members(members, mask)?;
        let values = self.narrow[a as usize];
        let combine = |x: u32, y: u32| match operation {
            AtomicOperation::And => x & y,
            AtomicOperation::Or => x | y,
            AtomicOperation::Xor => x ^ y,
            AtomicOperation::Min if signed => (x as i32).min(y as i32) as u32,
            AtomicOperation::Max if signed => (x as i32).max(y as i32) as u32,
            AtomicOperation::Min => x.min(y),
            AtomicOperation::Max => x.max(y),
            _ => x.wrapping_add(y),
        };
        let result = lanes(mask).map(|lane| values[lane]).reduce(combine).unwrap_or(0);
        self.set_narrow(d, &[result; 32], mask);
        Ok(())
    }

    /// elect.sync: the lowest member leads.
    pub fn elect(&mut self, d: Slot, predicate: Slot, members: Slot, mask: u32) -> Result<()> {
        let named = self.check_members(members, mask)?;
        let leader = (named & mask).trailing_zeros();
        if d != NONE {
            self.set_narrow(d, &[leader; 32], mask);
        }
        self.set_predicate(predicate, 1 << (leader & 31), mask);
        Ok(())
    }

    /// For instructions that all 32 lanes have to execute together.
    pub fn check_whole(&self, mask: u32) -> Result<()> {
        if mask == u32::MAX {
            return Ok(());
        }
        Err(Problem::new(
            Fault::Divergent,
            format!("all 32 lanes have to execute it together, only {mask:#x} arrived"),
        ))
    }
}
