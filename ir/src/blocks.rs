//! Formats of numbers in blocks: small unsigned integers with a scale for each block, and what a block
//! begins at. It says what numbers a format holds, not how they lie in memory.

use crate::Axis;
use std::fmt;

/// Elements of a block of activations, and of every format's smallest unit but that of `q6_k`.
pub const BLOCK: usize = 32;

/// How the numbers of a block are written: as in GGUF.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum BlockFormat {
    /// 8 bits: `scale * (u - 128)`, with an f16 scale for each 32.
    Q8_0,
    /// 4 bits: `scale * (u - 8)`, with an f16 scale for each 32.
    Q4_0,
    /// 4 bits: `scale * u + least`, with two f16 for each 32.
    Q4_1,
    /// 4 bits: `scale * s * u - least * t`, with two f16 for each 256, and 6 bits s and t for each 32.
    Q4K,
    /// 6 bits: `scale * s * (u - 32)`, with an f16 for each 256 and 8 bits s for each 16.
    Q6K,
}

impl BlockFormat {
    /// All of them; their positions are their numbers in generated code.
    pub const ALL: [BlockFormat; 5] =
        [BlockFormat::Q8_0, BlockFormat::Q4_0, BlockFormat::Q4_1, BlockFormat::Q4K, BlockFormat::Q6K];

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            BlockFormat::Q8_0 => "q8_0",
            BlockFormat::Q4_0 => "q4_0",
            BlockFormat::Q4_1 => "q4_1",
            BlockFormat::Q4K => "q4_k",
            BlockFormat::Q6K => "q6_k",
        }
    }

    /// The format of this name.
    pub fn of_name(name: &str) -> Option<BlockFormat> {
        BlockFormat::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Elements of a block: what shares its f16 numbers.
    pub fn elements(self) -> usize {
        match self {
            BlockFormat::Q8_0 | BlockFormat::Q4_0 | BlockFormat::Q4_1 => 32,
            BlockFormat::Q4K | BlockFormat::Q6K => 256,
        }
    }

    /// Elements that share a scale.
    pub fn elements_of_scale(self) -> usize {
        if self == BlockFormat::Q6K { 16 } else { BLOCK }
    }

    /// Bytes of a block in a file.
    pub fn bytes(self) -> usize {
        match self {
            BlockFormat::Q8_0 => 34,
            BlockFormat::Q4_0 => 18,
            BlockFormat::Q4_1 => 20,
            BlockFormat::Q4K => 144,
            BlockFormat::Q6K => 210,
        }
    }
}

impl fmt::Display for BlockFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// That a parameter's numbers are those of blocks, and along which axes blocks lie.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Blocks {
    /// The format.
    pub format: BlockFormat,
    /// The axes along which elements are counted into blocks, the last fastest: those over which contractions sum.
    pub along: Vec<Axis>,
}

impl Blocks {
    /// Elements along the axes of the blocks.
    pub fn depth(&self) -> usize {
        self.along.iter().map(|axis| axis.fixed_size().unwrap_or(0)).product()
    }
}

/// The scale of a block of activations whose largest magnitude this is, and what elements are multiplied with
/// before they are rounded.
pub fn activation_scale(largest: f32) -> (f32, f32) {
    match largest {
        _ if !largest.is_finite() => (f32::NAN, 0.0),
        _ if largest >= LEAST_MAGNITUDE => (largest / 127.0, 127.0 / largest),
        _ => (0.0, 0.0),
    }
}

/// A block of activations with nothing larger than this is all zeros.
const LEAST_MAGNITUDE: f32 = 1e-30;
