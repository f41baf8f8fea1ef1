//! What a value is: an element type over a set of axes. It knows nothing of
//! how the value is stored.

use crate::{Axes, Axis};
use std::fmt;

/// An element type. Arithmetic on `BF16`, `F16` and `I8` values is done in f32, which holds every one of them, and
/// rounded by an explicit cast; accumulation is always in f32.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum DType {
    /// IEEE 754 single precision.
    F32,
    /// bfloat16: the upper half of an f32.
    BF16,
    /// IEEE 754 half precision.
    F16,
    /// 8-bit signed integers, -127 to 127: numbers that are multiplied with a scale.
    I8,
    /// 32-bit signed integers: token ids, positions.
    I32,
    /// Truth values: masks.
    Bool,
}

impl DType {
    /// Storage size of an element, in bytes.
    pub fn bytes(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::BF16 | DType::F16 => 2,
            DType::I8 | DType::Bool => 1,
        }
    }

    /// Whether it is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::BF16 | DType::F16)
    }

    /// Whether it is stored in fewer bytes than the f32 that loads widen it to, exactly.
    pub fn is_narrow(self) -> bool {
        matches!(self, DType::BF16 | DType::F16 | DType::I8)
    }

    /// Every type.
    pub const ALL: [DType; 6] = [DType::F32, DType::BF16, DType::F16, DType::I8, DType::I32, DType::Bool];

    /// The number of this type nearest to one of f32, the even one of two that are as near. What is too large becomes
    /// infinite in `F16` and `BF16`, and 127 or -127 in `I8`, in which what is no number is 0.
    pub fn round(self, x: f32) -> f32 {
        match self {
            DType::BF16 => half::bf16::from_f32(x).to_f32(),
            DType::F16 => half::f16::from_f32(x).to_f32(),
            DType::I8 if x.is_nan() => 0.0,
            DType::I8 => x.clamp(-127.0, 127.0).round_ties_even() + 0.0,
            DType::F32 | DType::I32 | DType::Bool => x,
        }
    }

    /// The name in the text form: `f32`, `bf16`, `f16`, `i8`, `i32`, `bool`.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::BF16 => "bf16",
            DType::F16 => "f16",
            DType::I8 => "i8",
            DType::I32 => "i32",
            DType::Bool => "bool",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The type of a value: element type and axes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// The axes, as a set.
    pub axes: Axes,
}

impl TensorType {
    /// The type with these axes.
    pub fn new(dtype: DType, axes: Axes) -> TensorType {
        TensorType { dtype, axes }
    }

    /// A scalar of this element type.
    pub fn scalar(dtype: DType) -> TensorType {
        TensorType { dtype, axes: Axes::none() }
    }

    /// This type with one more axis; `None` if the name is taken.
    pub fn with_axis(&self, axis: Axis) -> Option<TensorType> {
        if self.axes.get(axis.name).is_some() {
            return None;
        }
        let axes = Axes::new(self.axes.iter().copied().chain([axis])).ok()?;
        Some(TensorType { dtype: self.dtype, axes })
    }

    /// This type without the axis.
    pub fn without_axis(&self, axis: Axis) -> TensorType {
        TensorType { dtype: self.dtype, axes: self.axes.without(&[axis]) }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, self.axes)
    }
}

impl fmt::Debug for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
