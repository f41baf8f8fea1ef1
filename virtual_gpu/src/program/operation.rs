//! The operations, and what belongs to one.

use super::Slot;
use super::scalar::{
    CompareKind, Comparison, Conversion, FloatBinary, FloatMode, FloatUnary, HalfFormat, Logic, NarrowBinary,
    NarrowTernary, NarrowUnary, WideBinary, WideShift, WideTernary, WideToNarrow, WideUnary,
};
use super::tensor_memory::TensorOperation;
use crate::parse::Space;

/// `[base + offset]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Address {
    pub base: Slot,
    pub wide: bool,
    pub offset: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShuffleMode {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uniform,
    Ballot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtomicOperation {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
    CompareAndSwap,
    Increment,
    Decrement,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtomicKind {
    U32,
    S32,
    U64,
    S64,
    F32,
    F64,
    F16x2,
    BF16x2,
    F16,
    BF16,
}

impl AtomicKind {
    pub fn bytes(self) -> usize {
        match self {
            AtomicKind::U64 | AtomicKind::S64 | AtomicKind::F64 => 8,
            AtomicKind::F16 | AtomicKind::BF16 => 2,
            _ => 4,
        }
    }
}

/// How `ld`, `st` and `mov` see a run of registers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Elements {
    pub slots: [Slot; 8],
    pub count: u8,
    pub bytes: u8,
    pub wide: bool,
    /// Loads extend the sign.
    pub signed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BarrierMode {
    Synchronise,
    Arrive,
    PopulationCount,
    And,
    Or,
}

/// The instruction families whose sums differ in order and rounding: see `execute/accumulate.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum MatrixFamily {
    /// `mma.sync.m16n8k8`, 16-bit operands.
    Mma16k8,
    /// `mma.sync.m16n8k16`, 16-bit operands.
    Mma16k16,
    /// `mma.sync.m16n8k4`, tf32.
    MmaTf32k4,
    /// `mma.sync.m16n8k8`, tf32.
    MmaTf32k8,
    /// `wgmma` with k = 16, 16-bit operands.
    Wgmma16,
    /// `wgmma` with k = 8, tf32.
    WgmmaTf32,
    /// `tcgen05.mma` with k = 16, 16-bit operands.
    Tcgen16,
}

impl MatrixFamily {
    pub fn depth(self) -> usize {
        match self {
            MatrixFamily::MmaTf32k4 => 4,
            MatrixFamily::Mma16k8 | MatrixFamily::MmaTf32k8 | MatrixFamily::WgmmaTf32 => 8,
            MatrixFamily::Mma16k16 | MatrixFamily::Wgmma16 | MatrixFamily::Tcgen16 => 16,
        }
    }
}

/// Format of the operands of a matrix instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MatrixFormat {
    Float16,
    BFloat16,
    TensorFloat32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum WarpgroupSource {
    /// A descriptor of a matrix in shared memory.
    Shared(Slot),
    Registers([Slot; 4]),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WarpgroupMatrix {
    pub family: MatrixFamily,
    pub format: MatrixFormat,
    pub columns: u32,
    pub accumulators: Box<[Slot]>,
    pub a: WarpgroupSource,
    pub b: Slot,
    /// Predicate: whether the accumulators are added to.
    pub scale_d: Slot,
    pub negate_a: bool,
    pub negate_b: bool,
    pub transpose_a: bool,
    pub transpose_b: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum MbarrierOperation {
    Initialise {
        count: Slot,
    },
    Invalidate,
    /// `state` is the slot of the token or [`NONE`]; the transaction count is added before the arrival.
    Arrive {
        state: Slot,
        count: Slot,
        bytes: Slot,
    },
    ExpectBytes {
        bytes: Slot,
    },
    /// `complete` is the predicate; by parity or by the token of an arrival. `blocking` for `try_wait`.
    Wait {
        complete: Slot,
        by: Slot,
        parity: bool,
        blocking: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TensorCopy {
    pub dimensions: u8,
    pub map: Slot,
    pub coordinates: [Slot; 5],
    pub shared: Slot,
    pub shared_wide: bool,
    pub barrier: Slot,
    pub barrier_wide: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operation {
    Nothing,
    NarrowUnary(NarrowUnary, Slot, Slot),
    NarrowBinary(NarrowBinary, Slot, Slot, Slot),
    NarrowTernary(NarrowTernary, Slot, Slot, Slot, Slot),
    InsertNarrow([Slot; 5]),
    InsertWide([Slot; 5]),
    ExtractWide {
        signed: bool,
        d: Slot,
        a: Slot,
        position: Slot,
        length: Slot,
    },
    WideUnary(WideUnary, Slot, Slot),
    WideToNarrow(WideToNarrow, Slot, Slot),
    WideBinary(WideBinary, Slot, Slot, Slot),
    WideTernary(WideTernary, Slot, Slot, Slot, Slot),
    WideShift(WideShift, Slot, Slot, Slot),
    MulWide {
        signed: bool,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    MadWide {
        signed: bool,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    FloatUnary(FloatUnary, bool, Slot, Slot),
    FloatBinary(FloatBinary, FloatMode, Slot, Slot, Slot),
    FloatFused(FloatMode, Slot, Slot, Slot, Slot),
    DoubleUnary(FloatUnary, Slot, Slot),
    DoubleBinary(FloatBinary, Slot, Slot, Slot),
    DoubleFused(Slot, Slot, Slot, Slot),
    HalfUnary {
        operation: FloatUnary,
        format: HalfFormat,
        packed: bool,
        d: Slot,
        a: Slot,
    },
    HalfBinary {
        operation: FloatBinary,
        format: HalfFormat,
        packed: bool,
        mode: FloatMode,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    HalfFused {
        format: HalfFormat,
        packed: bool,
        mode: FloatMode,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    Compare {
        comparison: Comparison,
        kind: CompareKind,
        d: Slot,
        complement: Slot,
        a: Slot,
        b: Slot,
        combine: Option<(Logic, Slot, bool)>,
    },
    /// `testp`: finite, infinite, number, notanumber, normal, subnormal, as 0 to 5.
    TestFloat {
        test: u8,
        wide: bool,
        d: Slot,
        a: Slot,
    },
    SelectNarrow {
        d: Slot,
        a: Slot,
        b: Slot,
        predicate: Slot,
    },
    SelectWide {
        d: Slot,
        a: Slot,
        b: Slot,
        predicate: Slot,
    },
    PredicateMove(Slot, Slot),
    PredicateNot(Slot, Slot),
    PredicateLogic(Logic, Slot, Slot, Slot),
    Convert(Conversion, Slot, Slot),
    ConvertPair {
        conversion: Conversion,
        d: Slot,
        high: Slot,
        low: Slot,
    },
    /// Registers of `bytes` each to one register, lowest first, and back.
    Pack {
        d: Slot,
        wide: bool,
        parts: Elements,
    },
    Unpack {
        a: Slot,
        wide: bool,
        parts: Elements,
    },
    /// Adds (true) or takes away the base of a space's window: `cvta` and `cvta.to`.
    ConvertAddress {
        to_generic: bool,
        space: Space,
        wide: bool,
        d: Slot,
        a: Slot,
    },
    Clock {
        wide: bool,
        d: Slot,
    },
    Load {
        space: Space,
        elements: Elements,
        address: Address,
        atomic: bool,
    },
    Store {
        space: Space,
        elements: Elements,
        address: Address,
        atomic: bool,
    },
    Atomic {
        space: Space,
        operation: AtomicOperation,
        kind: AtomicKind,
        d: Slot,
        address: Address,
        b: Slot,
        c: Slot,
    },
    Branch {
        target: u32,
    },
    Exit,
    Trap,
    Shuffle {
        mode: ShuffleMode,
        d: Slot,
        valid: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
        members: Slot,
    },
    Vote {
        mode: VoteMode,
        d: Slot,
        a: Slot,
        negate: bool,
        members: Slot,
    },
    Match {
        all: bool,
        wide: bool,
        d: Slot,
        valid: Slot,
        a: Slot,
        members: Slot,
    },
    ReduceWarp {
        operation: AtomicOperation,
        signed: bool,
        d: Slot,
        a: Slot,
        members: Slot,
    },
    ActiveMask(Slot),
    Elect {
        d: Slot,
        predicate: Slot,
        members: Slot,
    },
    Barrier {
        mode: BarrierMode,
        id: Slot,
        count: Slot,
        d: Slot,
        a: Slot,
        negate: bool,
        aligned: bool,
    },
    BarrierWarp {
        members: Slot,
    },
    /// `fence`/`membar` at a scope beyond the block: orders this thread's global accesses for other blocks.
    Fence {
        device: bool,
    },
    FenceProxyAsync,
    /// `fence.proxy.tensormap::generic`: an acquire lets tensor copies see a map that was written to global memory, if its
    /// scope is beyond the block; a release has nothing to do here, where kernels do not write maps.
    FenceTensorMap {
        map: Address,
        acquires: bool,
    },
    FenceMbarrierInit,
    MatrixMultiply {
        family: MatrixFamily,
        format: MatrixFormat,
        d: [Slot; 4],
        a: [Slot; 4],
        b: [Slot; 2],
        c: [Slot; 4],
    },
    LoadMatrix {
        count: u8,
        transpose: bool,
        registers: [Slot; 4],
        address: Address,
    },
    StoreMatrix {
        count: u8,
        transpose: bool,
        registers: [Slot; 4],
        address: Address,
    },
    CopyAsync {
        bytes: u8,
        shared: Address,
        global: Address,
        source_bytes: Slot,
        ignore: Slot,
    },
    CopyCommit,
    CopyWait {
        pending: u32,
    },
    /// `cp.async.wait_all`: waits for copies that were not committed as well.
    CopyWaitAll,
    Mbarrier(MbarrierOperation, Address),
    TensorLoad(TensorCopy),
    TensorStore(TensorCopy),
    BulkLoad {
        shared: Address,
        global: Address,
        bytes: Slot,
        barrier: Address,
    },
    BulkStore {
        shared: Address,
        global: Address,
        bytes: Slot,
    },
    BulkCommit,
    /// `read`: only the reads of shared memory are waited for.
    BulkWait {
        pending: u32,
        read: bool,
    },
    WarpgroupFence,
    WarpgroupMultiply(Box<WarpgroupMatrix>),
    WarpgroupCommit,
    WarpgroupWait {
        pending: u32,
    },
    TensorMemory(Box<TensorOperation>),
    SetMaximumRegisters {
        count: u32,
        increase: bool,
    },
}
