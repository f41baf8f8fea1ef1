//! Decoded kernels: one [`Operation`] drives the 32 lanes of a warp. Operands are slots of the register file;
//! immediates and special registers are slots as well, filled when a warp starts, so that no operation asks what its
//! operand is.

mod operation;
mod scalar;
mod tensor_memory;

pub(crate) use operation::*;
pub(crate) use scalar::*;
pub(crate) use tensor_memory::*;

use crate::parse::{Parameter, SourceLine};

/// Index into the register file of one class.
pub(crate) type Slot = u32;

/// No slot: a sink (`_`) or an operand that is not given.
pub(crate) const NONE: Slot = u32::MAX;

/// Values that a warp finds in registers before its first instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Special {
    ThreadIndex(u8),
    BlockSize(u8),
    BlockIndex(u8),
    GridSize(u8),
    Lane,
    Warp,
    WarpCount,
    LanesBelow,
    LanesBelowOrEqual,
    LanesAbove,
    LanesAboveOrEqual,
    LaneBit,
    ClusterRank,
    ClusterBlocks,
    DynamicShared,
    TotalShared,
    ProcessorId,
    ProcessorCount,
}

#[derive(Clone, Debug)]
pub(crate) struct Instruction {
    pub operation: Operation,
    /// Predicate slot, or [`NONE`] for an instruction that is always executed.
    pub guard: Slot,
    pub guard_value: bool,
    /// Where divergent lanes meet: the part of a warp with the lowest order runs first. See `control_flow.rs`.
    pub order: u32,
    /// Whether the site says anything that has to be looked at before each execution.
    pub checked: bool,
}

/// What diagnostics and counters say of an instruction.
#[derive(Clone, Debug)]
pub(crate) struct InstructionSite {
    pub ptx_line: u32,
    pub source: Option<u32>,
    pub opcode: String,
    /// Accumulators and operands that a pending warpgroup multiply may own: checked while one is pending.
    pub narrow_touched: Box<[Slot]>,
    /// Whether one of them is written.
    pub touch_writes: bool,
    /// Registers that some path reaches unwritten: checked at each read.
    pub unwritten_reads: Box<[UnwrittenRead]>,
    pub unwritten_writes: Box<[UnwrittenRead]>,
    /// Of these reads, accumulators of `wgmma`, which are read only where the product is added to them.
    pub unwritten_accumulators: Box<[UnwrittenRead]>,
}

/// A register whose validity is followed: index into the warp's validity masks.
pub(crate) type UnwrittenRead = u32;

/// A decoded kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    pub(crate) name: String,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) parameter_bytes: usize,
    pub(crate) instructions: Vec<Instruction>,
    pub(crate) sites: Vec<InstructionSite>,
    pub(crate) source_lines: Vec<SourceLine>,
    pub(crate) predicate_slots: u32,
    pub(crate) narrow_slots: u32,
    pub(crate) wide_slots: u32,
    pub(crate) predicate_constants: Vec<(Slot, u32)>,
    pub(crate) narrow_constants: Vec<(Slot, u32)>,
    pub(crate) wide_constants: Vec<(Slot, u64)>,
    pub(crate) specials: Vec<(Slot, Special)>,
    /// Names of the registers whose validity is followed, in the order of their masks.
    pub(crate) followed: Vec<String>,
    pub(crate) static_shared: u32,
    pub(crate) local_bytes: u32,
    pub(crate) maximum_threads: u32,
    pub(crate) required_threads: Option<[u32; 3]>,
    /// Bytes of the narrowest access to shared memory: the unit in which races there are followed.
    pub(crate) shared_unit: u32,
    /// Registers in use at once at most, in 32-bit units: a floor for what the compiler needs.
    pub(crate) live_registers: u32,
}

impl Kernel {
    /// The kernel's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its parameters, in order.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Bytes of shared memory that the kernel declares itself, without the KiB that the system keeps.
    pub fn static_shared_bytes(&self) -> u32 {
        self.static_shared - crate::parse::SHARED_START
    }

    /// Bytes of local memory per thread.
    pub fn local_bytes(&self) -> u32 {
        self.local_bytes
    }

    /// Threads per block that the kernel was compiled for at most; 0 where it does not say.
    pub fn maximum_threads(&self) -> u32 {
        self.maximum_threads
    }

    /// The most 32-bit registers that are live at once in the PTX: what a real compiler needs at least, about.
    pub fn live_registers(&self) -> u32 {
        self.live_registers
    }
}
