//! Decoded kernels: one [`Operation`] drives the 32 lanes of a warp. Operands are slots of the register file; immediates
//! and special registers are slots as well, filled when a warp starts, so that no operation asks what its operand is.

use crate::parse::{Parameter, SourceLine, Space};

/// Index into the register file of one class.
pub(crate) type Slot = u32;

/// No slot: a sink (`_`) or an operand that is not given.
pub(crate) const NONE: Slot = u32::MAX;

/// `[base + offset]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Address {
    pub base: Slot,
    pub wide: bool,
    pub offset: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    Nearest,
    /// To nearest, ties away from zero: of `cvt.rna.tf32`.
    NearestAway,
    Zero,
    Down,
    Up,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NarrowUnary {
    Move,
    Not,
    Not16,
    Negate32,
    Negate16,
    Abs32,
    Abs16,
    ReverseBits,
    LeadingZeros,
    PopulationCount,
    FindLeadU32,
    FindLeadS32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NarrowBinary {
    Add32,
    Add16,
    Sub32,
    Sub16,
    MulLow32,
    MulLow16,
    MulHighS32,
    MulHighU32,
    MulHighS16,
    MulHighU16,
    MulWideS16,
    MulWideU16,
    DivS32,
    DivU32,
    DivS16,
    DivU16,
    RemS32,
    RemU32,
    RemS16,
    RemU16,
    MinS32,
    MinU32,
    MinS16,
    MinU16,
    MaxS32,
    MaxU32,
    MaxS16,
    MaxU16,
    And,
    Or,
    Xor,
    Shl32,
    Shl16,
    ShrU32,
    ShrS32,
    ShrS16,
    AddSatS32,
    SubSatS32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NarrowTernary {
    MadLow32,
    MadLow16,
    MadHighS32,
    MadHighU32,
    MadWideS16,
    MadWideU16,
    SadS32,
    SadU32,
    ShiftLeftClamp,
    ShiftLeftWrap,
    ShiftRightClamp,
    ShiftRightWrap,
    ExtractU32,
    ExtractS32,
    Permute,
    PermuteForward4,
    PermuteBackward4,
    PermuteReplicate8,
    PermuteEdgeLeft,
    PermuteEdgeRight,
    PermuteReplicate16,
    /// The truth table of `lop3`.
    Logic(u8),
    /// Signedness of the bytes of the first and of the second operand.
    DotBytes(bool, bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WideUnary {
    Move,
    Not,
    Negate,
    Abs,
    ReverseBits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WideToNarrow {
    LeadingZeros,
    PopulationCount,
    FindLeadU64,
    FindLeadS64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WideBinary {
    Add,
    Sub,
    MulLow,
    MulHighS,
    MulHighU,
    DivS,
    DivU,
    RemS,
    RemU,
    MinS,
    MinU,
    MaxS,
    MaxU,
    And,
    Or,
    Xor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WideTernary {
    MadLow,
    MadHighS,
    MadHighU,
    Logic(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WideShift {
    Left,
    RightU,
    RightS,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloatUnary {
    Negate,
    Abs,
    Sqrt,
    Reciprocal,
    ReciprocalApproximate,
    SqrtApproximate,
    ReciprocalSqrt,
    Sine,
    Cosine,
    Log2,
    Exp2,
    Tanh,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloatBinary {
    Add,
    Sub,
    Mul,
    Div,
    /// `div.full` and `div.approx`.
    DivApproximate,
    Min,
    Max,
    MinNan,
    MaxNan,
    CopySign,
}

/// Modifiers of float arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FloatMode {
    pub rounding: Rounding,
    /// `.ftz`: subnormal operands and results become zero of the same sign.
    pub flush: bool,
    /// `.sat`: clamped to [0, 1], NaN to 0.
    pub saturate: bool,
    /// `.relu`: negative results and NaN become 0.
    pub relu: bool,
}

impl FloatMode {
    pub fn is_plain(&self) -> bool {
        self.rounding == Rounding::Nearest && !self.flush && !self.saturate && !self.relu
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HalfFormat {
    Float16,
    BFloat16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    /// As the six above, but true where an operand is NaN.
    EqualUnordered,
    NotEqualUnordered,
    LessUnordered,
    LessEqualUnordered,
    GreaterUnordered,
    GreaterEqualUnordered,
    BothNumbers,
    EitherNan,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CompareKind {
    S16,
    U16,
    S32,
    U32,
    S64,
    U64,
    F32 { flush: bool },
    F64,
    Half(HalfFormat),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
}

/// Types of `cvt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scalar {
    S8,
    S16,
    S32,
    S64,
    U8,
    U16,
    U32,
    U64,
    F16,
    BF16,
    TF32,
    F32,
    F64,
}

impl Scalar {
    pub fn is_wide(self) -> bool {
        matches!(self, Scalar::S64 | Scalar::U64 | Scalar::F64)
    }

    pub fn is_float(self) -> bool {
        matches!(self, Scalar::F16 | Scalar::BF16 | Scalar::TF32 | Scalar::F32 | Scalar::F64)
    }

    pub fn is_signed(self) -> bool {
        matches!(self, Scalar::S8 | Scalar::S16 | Scalar::S32 | Scalar::S64)
    }

    /// Bits of an integer type.
    pub fn bits(self) -> u32 {
        match self {
            Scalar::S8 | Scalar::U8 => 8,
            Scalar::S16 | Scalar::U16 | Scalar::F16 | Scalar::BF16 => 16,
            Scalar::S32 | Scalar::U32 | Scalar::F32 | Scalar::TF32 => 32,
            Scalar::S64 | Scalar::U64 | Scalar::F64 => 64,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conversion {
    pub from: Scalar,
    pub to: Scalar,
    /// To the destination's precision, or to an integer.
    pub rounding: Rounding,
    /// Round to an integral value in the same float type (`.rni` and its like between equal float types).
    pub integral: bool,
    pub saturate: bool,
    pub flush: bool,
    pub relu: bool,
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
}

impl MatrixFamily {
    pub fn depth(self) -> usize {
        match self {
            MatrixFamily::MmaTf32k4 => 4,
            MatrixFamily::Mma16k8 | MatrixFamily::MmaTf32k8 | MatrixFamily::WgmmaTf32 => 8,
            MatrixFamily::Mma16k16 | MatrixFamily::Wgmma16 => 16,
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
    SetMaximumRegisters {
        count: u32,
        increase: bool,
    },
}

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
