//! Control, barriers, and what the lanes of a warp do together.

use super::operands::{Decoder, Modifiers};
use crate::error::LoadError;
use crate::parse::{Class, Operand};
use crate::program::{AtomicOperation, BarrierMode, NONE, Operation, ShuffleMode, VoteMode};

type Result<T> = std::result::Result<T, LoadError>;

/// The barrier that `barrier.cluster` uses: clusters have one block, so it is one more barrier of the block.
pub(crate) const CLUSTER_BARRIER: u64 = 16;

impl Decoder<'_> {
    /// `None` for an opcode of another kind. Branches are resolved by the caller, which knows where blocks start.
    pub(super) fn warp(&mut self, base: &str, m: &mut Modifiers) -> Result<Option<Operation>> {
        let operation = match base {
            "ret" | "exit" => {
                m.take("uni");
                Operation::Exit
            }
            "trap" => Operation::Trap,
            "nanosleep" | "griddepcontrol" | "pmevent" => {
                m.drop_all(|text| matches!(text, "u32" | "wait" | "launch_dependents" | "mask"));
                Operation::Nothing
            }
            "activemask" => {
                m.take("b32");
                Operation::ActiveMask(self.destination(0, Class::Narrow)?)
            }
            "shfl" => self.shuffle(m)?,
            "vote" => self.vote(m)?,
            "match" => self.match_lanes(m)?,
            "redux" => self.reduce_warp(m)?,
            "elect" => {
                m.take("sync");
                let (d, predicate) = self.destination_pair(0, Class::Narrow, Class::Predicate)?;
                Operation::Elect { d, predicate, members: self.narrow(1)? }
            }
            "bar" | "barrier" => self.barrier(base, m)?,
            "fence" | "membar" => self.fence(m)?,
            "setmaxnreg" => {
                let increase = m.take("inc");
                if !increase && !m.take("dec") {
                    return self.unsupported("setmaxnreg without .inc or .dec");
                }
                m.drop_all(|text| matches!(text, "sync" | "aligned" | "u32"));
                let count = self.immediate(0)? as u32;
                if !(24..=256).contains(&count) || !count.is_multiple_of(8) {
                    return self
                        .unsupported("the number of registers has to be a multiple of 8 from 24 to 256");
                }
                Operation::SetMaximumRegisters { count, increase }
            }
            _ => return Ok(None),
        };
        Ok(Some(operation))
    }

    fn shuffle(&mut self, m: &mut Modifiers) -> Result<Operation> {
        m.take("b32");
        if !m.take("sync") {
            return self.unsupported("shuffles without .sync do not exist on this target");
        }
        let mode = m.find(|text| {
            Some(match text {
                "up" => ShuffleMode::Up,
                "down" => ShuffleMode::Down,
                "bfly" => ShuffleMode::Butterfly,
                "idx" => ShuffleMode::Index,
                _ => return None,
            })
        });
        let Some(mode) = mode else { return self.unsupported("the mode") };
        let (d, valid) = self.destination_pair(0, Class::Narrow, Class::Predicate)?;
        let (a, b, c, members) = (self.narrow(1)?, self.narrow(2)?, self.narrow(3)?, self.narrow(4)?);
        Ok(Operation::Shuffle { mode, d, valid, a, b, c, members })
    }

    fn vote(&mut self, m: &mut Modifiers) -> Result<Operation> {
        m.drop_all(|text| matches!(text, "sync" | "pred" | "b32"));
        let mode = m.find(|text| {
            Some(match text {
                "all" => VoteMode::All,
                "any" => VoteMode::Any,
                "uni" => VoteMode::Uniform,
                "ballot" => VoteMode::Ballot,
                _ => return None,
            })
        });
        let Some(mode) = mode else { return self.unsupported("the mode") };
        let class = if mode == VoteMode::Ballot { Class::Narrow } else { Class::Predicate };
        let d = self.destination(0, class)?;
        let (a, negate) = self.signed_predicate(1)?;
        Ok(Operation::Vote { mode, d, a, negate, members: self.narrow(2)? })
    }

    fn match_lanes(&mut self, m: &mut Modifiers) -> Result<Operation> {
        m.take("sync");
        let all = m.take("all");
        m.take("any");
        let wide = m.last() == "b64";
        let (d, valid) = self.destination_pair(0, Class::Narrow, Class::Predicate)?;
        let a = if wide { self.wide(1)? } else { self.narrow(1)? };
        Ok(Operation::Match { all, wide, d, valid, a, members: self.narrow(2)? })
    }

    fn reduce_warp(&mut self, m: &mut Modifiers) -> Result<Operation> {
        m.take("sync");
        let signed = match m.last() {
            "s32" => true,
            "u32" | "b32" => false,
            kind => return self.unsupported(format!("type `{kind}`")),
        };
        let operation = m.find(|text| {
            Some(match text {
                "add" => AtomicOperation::Add,
                "min" => AtomicOperation::Min,
                "max" => AtomicOperation::Max,
                "and" => AtomicOperation::And,
                "or" => AtomicOperation::Or,
                "xor" => AtomicOperation::Xor,
                _ => return None,
            })
        });
        let Some(operation) = operation else { return self.unsupported("the operation") };
        let d = self.destination(0, Class::Narrow)?;
        Ok(Operation::ReduceWarp { operation, signed, d, a: self.narrow(1)?, members: self.narrow(2)? })
    }

    fn barrier(&mut self, base: &str, m: &mut Modifiers) -> Result<Operation> {
        m.take("cta");
        if m.take("warp") {
            m.take("sync");
            return Ok(Operation::BarrierWarp { members: self.narrow(0)? });
        }
        let aligned = m.take("aligned") || base == "bar";
        if m.take("cluster") {
            m.drop_all(|text| matches!(text, "acquire" | "release" | "relaxed"));
            let id = self.constant(Class::Narrow, CLUSTER_BARRIER);
            // The arrival is counted where the wait stands: with one block per cluster nothing can tell the two apart
            // but a write between them.
            if m.take("arrive") {
                return Ok(Operation::Nothing);
            }
            if !m.take("wait") {
                return self.unsupported("barrier.cluster without .arrive or .wait");
            }
            let mode = BarrierMode::Synchronise;
            return Ok(Operation::Barrier {
                mode,
                id,
                count: NONE,
                d: NONE,
                a: NONE,
                negate: false,
                aligned,
            });
        }
        if m.take("red") {
            let mode = if m.take("popc") {
                BarrierMode::PopulationCount
            } else if m.take("and") {
                BarrierMode::And
            } else if m.take("or") {
                BarrierMode::Or
            } else {
                return self.unsupported("the operation");
            };
            m.drop_all(|text| matches!(text, "u32" | "pred"));
            let class = if mode == BarrierMode::PopulationCount { Class::Narrow } else { Class::Predicate };
            let d = self.destination(0, class)?;
            let id = self.narrow(1)?;
            let last = self.operand_count() - 1;
            let count = if last == 3 { self.narrow(2)? } else { NONE };
            let (a, negate) = self.signed_predicate(last)?;
            return Ok(Operation::Barrier { mode, id, count, d, a, negate, aligned });
        }
        let mode = if m.take("arrive") {
            BarrierMode::Arrive
        } else if m.take("sync") {
            BarrierMode::Synchronise
        } else {
            return self.unsupported("the kind of barrier");
        };
        let id = self.narrow(0)?;
        let count = if self.operand_count() > 1 { self.narrow(1)? } else { NONE };
        if mode == BarrierMode::Arrive && count == NONE {
            return self.unsupported("bar.arrive has to name the number of threads");
        }
        Ok(Operation::Barrier { mode, id, count, d: NONE, a: NONE, negate: false, aligned })
    }

    fn fence(&mut self, m: &mut Modifiers) -> Result<Operation> {
        if m.take("proxy") {
            if m.take("async") {
                m.drop_all(|text| matches!(text, "global" | "shared::cta" | "shared::cluster"));
                return Ok(Operation::FenceProxyAsync);
            }
            if m.take("alias") {
                return Ok(Operation::Nothing);
            }
            if m.take("tensormap::generic") {
                return self.fence_tensor_map(m);
            }
            return self.unsupported("this proxy");
        }
        if m.take("mbarrier_init") {
            m.drop_all(|text| matches!(text, "release" | "cluster"));
            return Ok(Operation::FenceMbarrierInit);
        }
        m.drop_all(|text| matches!(text, "sc" | "acq_rel" | "acquire" | "release"));
        let device = m.take("gpu") | m.take("gl") | m.take("sys") | m.take("cluster");
        if !device && !m.take("cta") {
            return self.unsupported("a fence without a scope");
        }
        Ok(Operation::Fence { device })
    }

    fn fence_tensor_map(&mut self, m: &mut Modifiers) -> Result<Operation> {
        let device = m.take("gpu") | m.take("sys") | m.take("cluster");
        if !device && !m.take("cta") {
            return self.unsupported("a fence without a scope");
        }
        if m.take("release") {
            return Ok(Operation::Nothing);
        }
        if !m.take("acquire") || self.immediate(1)? != 128 {
            return self.unsupported("only .release, and .acquire of the 128 bytes of a tensor map");
        }
        Ok(Operation::FenceTensorMap { map: self.address(0)?, acquires: device })
    }

    /// The label that a branch names.
    pub(super) fn label(&self, index: usize) -> Result<&str> {
        match self.operand(index)? {
            Operand::Name(name) => Ok(name),
            _ => self.unsupported("a branch to something that is not a label"),
        }
    }
}
