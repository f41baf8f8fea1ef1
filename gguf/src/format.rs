//! The number formats of tensors: how many elements make a block, how many bytes it takes, and what
//! an element of it is, in f32 arithmetic.
//!
//! In a block of 32 or 256 elements the scales are f16 and elements are small integers. Each product
//! of a scale with them fits the 24 bits of an f32, so that only the last addition rounds, and the
//! values do not depend on whether it is fused.

use half::{bf16, f16};

/// A number format that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// 32 elements: a scale, and an i8 each; x = d q.
    Q8_0,
    /// 32 elements: a scale, and 4 bits each; x = d (q - 8).
    Q4_0,
    /// 32 elements: a scale, a least value, and 4 bits each; x = d q + m.
    Q4_1,
    /// 256 elements in 8 parts of 32: a scale and a least value, for each part 6 bits to multiply
    /// either with, and 4 bits for each element; x = d s q - m t.
    Q4K,
    /// 256 elements in 16 parts of 16: a scale, an i8 for each part, and 6 bits for each element;
    /// x = d s (q - 32).
    Q6K,
}

/// Reads an element, by its position, from all bytes of a tensor.
pub type Reader = fn(&[u8], usize) -> f32;

/// A format's row: its number and name in GGUF, elements and bytes of a block, and how to read one.
struct Row(u32, &'static str, Format, usize, usize, Reader);

const ROWS: [Row; 8] = [
    Row(0, "F32", Format::F32, 1, 4, |bytes, at| f32::from_le_bytes(bytes_at(bytes, 4 * at))),
    Row(1, "F16", Format::F16, 1, 2, |bytes, at| half_at(bytes, 2 * at)),
    Row(30, "BF16", Format::Bf16, 1, 2, |bytes, at| bf16::from_le_bytes(bytes_at(bytes, 2 * at)).to_f32()),
    Row(8, "Q8_0", Format::Q8_0, 32, 34, |bytes, at| in_block::<32, 34>(bytes, at, q8_0)),
    Row(2, "Q4_0", Format::Q4_0, 32, 18, |bytes, at| in_block::<32, 18>(bytes, at, q4_0)),
    Row(3, "Q4_1", Format::Q4_1, 32, 20, |bytes, at| in_block::<32, 20>(bytes, at, q4_1)),
    Row(12, "Q4_K", Format::Q4K, 256, 144, |bytes, at| in_block::<256, 144>(bytes, at, q4_k)),
    Row(14, "Q6_K", Format::Q6K, 256, 210, |bytes, at| in_block::<256, 210>(bytes, at, q6_k)),
];

/// Names of formats that are known of and cannot be read, with their numbers.
const OTHERS: [(u32, &str); 27] = [
    (6, "Q5_0"),
    (7, "Q5_1"),
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (13, "Q5_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

/// The name of a format, by its number in a file.
pub fn format_name(number: u32) -> String {
    let readable = ROWS.iter().map(|row| (row.0, row.1));
    match readable.chain(OTHERS).find(|row| row.0 == number) {
        Some((_, name)) => name.to_owned(),
        None => format!("format {number}"),
    }
}

impl Format {
    /// All that can be read.
    pub fn all() -> impl Iterator<Item = Format> {
        ROWS.iter().map(|row| row.2)
    }

    /// The format with this number in a file, if it can be read.
    pub fn of_number(number: u32) -> Option<Format> {
        ROWS.iter().find(|row| row.0 == number).map(|row| row.2)
    }

    /// Its number in a file.
    pub fn number(self) -> u32 {
        self.row().0
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Elements of a block. A row of a tensor is whole blocks.
    pub fn block_elements(self) -> usize {
        self.row().3
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.row().4
    }

    /// Reads an element, by its position, from all bytes of a tensor; panics beyond their end.
    pub fn reader(self) -> Reader {
        self.row().5
    }

    fn row(self) -> &'static Row {
        // Every format has a row, which the tests see to.
        ROWS.iter().find(|row| row.2 == self).unwrap_or(&ROWS[0])
    }
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|byte| bytes[at + byte])
}

fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes(bytes_at(bytes, at)).to_f32()
}

/// Reads an element from its block, of so many elements and bytes.
fn in_block<const ELEMENTS: usize, const BYTES: usize>(
    bytes: &[u8],
    at: usize,
    read: impl Fn(&[u8; BYTES], usize) -> f32,
) -> f32 {
    let start = at / ELEMENTS * BYTES;
    match bytes[start..start + BYTES].first_chunk() {
        Some(block) => read(block, at % ELEMENTS),
        None => f32::NAN,
    }
}

fn q8_0(block: &[u8; 34], at: usize) -> f32 {
    half_at(block, 0) * f32::from(block[2 + at] as i8)
}

/// The low halves of 16 bytes are the first 16 elements, the high halves the others.
fn nibble(bytes: &[u8], half: usize, at: usize) -> u8 {
    bytes[at % half] >> (4 * (at / half)) & 15
}

fn q4_0(block: &[u8; 18], at: usize) -> f32 {
    half_at(block, 0) * (f32::from(nibble(&block[2..], 16, at)) - 8.0)
}

fn q4_1(block: &[u8; 20], at: usize) -> f32 {
    half_at(block, 0) * f32::from(nibble(&block[4..], 16, at)) + half_at(block, 2)
}

/// 12 bytes hold 8 scales and 8 factors of the least value, 6 bits each: the first four of either in
/// the low bits of a byte of their own; of the others, 4 bits share a byte and the upper 2 lie above
/// those of the first four.
fn q4_k(block: &[u8; 144], at: usize) -> f32 {
    let packed = &block[4..16];
    let part = at / 32;
    let (scale, least) = match part {
        0..4 => (packed[part] & 63, packed[part + 4] & 63),
        _ => (
            packed[part + 4] & 15 | packed[part - 4] >> 6 << 4,
            packed[part + 4] >> 4 | packed[part] >> 6 << 4,
        ),
    };
    let element = nibble(&block[16 + at / 64 * 32..], 32, at % 64);
    half_at(block, 0) * f32::from(scale) * f32::from(element) - half_at(block, 2) * f32::from(least)
}

/// Each half of the block has 64 bytes of low bits (4 for each of two elements) and 32 of high bits
/// (2 for each of four elements); elements of one byte lie 32 or 64 apart.
fn q6_k(block: &[u8; 210], at: usize) -> f32 {
    let (half, at_half) = (at / 128, at % 128);
    let low = nibble(&block[64 * half..], 64, at_half);
    let high = block[128 + 32 * half + at % 32] >> (2 * (at_half / 32)) & 3;
    let scale = f32::from(block[192 + at / 16] as i8);
    half_at(block, 208) * scale * (f32::from(low | high << 4) - 32.0)
}
