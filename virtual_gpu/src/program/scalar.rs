//! What scalar operations there are, one name for each operation and type.

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
    /// The same of two halves of the first and of two bytes of the second; whether it is the upper two.
    DotHalves(bool, bool, bool),
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
    /// `.relu`: negative results become 0; NaN stays.
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
