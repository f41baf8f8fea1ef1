//! What a check found, and where.

use crate::parse::SourceLine;

/// Which check failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// An access outside every allocation, or outside the block's shared memory.
    OutOfBounds,
    /// An address that is not a multiple of the size of the access.
    Misaligned,
    /// A read of memory, or of a register, that nobody wrote.
    UninitialisedRead,
    /// Two warps touch shared memory, one of them writes, and no barrier orders them.
    SharedRace,
    /// Two warps touch tensor memory, one of them writes, and no barrier orders them.
    TensorRace,
    /// Two blocks of a launch, or two warps of a block, touch global memory, one of them writes, and nothing orders
    /// them.
    GlobalRace,
    /// The target of an asynchronous copy was touched before the copy was waited for, or the source of an asynchronous
    /// read was overwritten before that.
    MissingWait,
    /// Ordinary writes were read by the asynchronous proxy without `fence.proxy.async`, registers went to a
    /// warpgroup multiply without `wgmma.fence`, a tensor map in global memory was used without
    /// `fence.proxy.tensormap`, or tensor memory was touched after a barrier without the `tcgen05.fence` on both sides.
    MissingFence,
    /// A register that a warpgroup multiply in flight owns was touched before `wgmma.wait_group`, or one that
    /// `tcgen05.ld` writes before `tcgen05.wait::ld`.
    RegisterInFlight,
    /// Part of a warp arrived at an instruction that all its lanes have to execute together.
    Divergent,
    /// Warps wait for each other, or for arrivals and bytes that cannot come.
    Deadlock,
    /// The kernel ran for more instructions than a launch may.
    EndlessLoop,
    /// An instruction was given what it does not accept: an mbarrier that is none, a wrong descriptor.
    InvalidUse,
    /// The kernel executed `trap`.
    Trap,
}

/// A failed check: what happened, and where. `Display` gives all of it in one paragraph.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnostic {
    /// Which check failed.
    pub fault: Fault,
    /// What happened, in words.
    pub message: String,
    /// Name of the kernel.
    pub kernel: String,
    /// Index of the block in the grid.
    pub block: [u32; 3],
    /// Warp within the block.
    pub warp: u32,
    /// Lane within the warp, where one is concerned.
    pub lane: Option<u32>,
    /// The instruction.
    pub opcode: String,
    /// Line of the PTX text, from 1.
    pub ptx_line: u32,
    /// Line of the CUDA source, where the PTX names it.
    pub source: Option<SourceLine>,
}

impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [x, y, z] = self.block;
        write!(f, "{:?} in kernel {}, block ({x}, {y}, {z}), warp {}", self.fault, self.kernel, self.warp)?;
        if let Some(lane) = self.lane {
            write!(f, ", lane {lane}")?;
        }
        write!(f, ", PTX line {} (`{}`)", self.ptx_line, self.opcode)?;
        if let Some(source) = &self.source {
            write!(f, ", {source}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for Diagnostic {}

/// A fault before it is known where the warp stands.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub fault: Fault,
    pub lane: Option<u32>,
    pub message: String,
}

impl Problem {
    pub fn new(fault: Fault, message: impl Into<String>) -> Self {
        Problem { fault, lane: None, message: message.into() }
    }

    pub fn at_lane(fault: Fault, lane: u32, message: impl Into<String>) -> Self {
        Problem { fault, lane: Some(lane), message: message.into() }
    }
}
