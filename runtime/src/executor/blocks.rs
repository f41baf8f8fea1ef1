//! Weights in blocks: from numbers to blocks as files have them, and from these to where kernels read them
//! (`blocks_layout.c` of the prelude says the same in C). It knows no parameter and no file.

use diptych_ir::blocks::{BLOCK, BlockFormat};
use diptych_passes::layout::bytes_of_256;
use half::f16;

/// Blocks of panels with so many columns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Panels {
    /// The format.
    pub format: BlockFormat,
    /// Rows: numbers of a column.
    pub depth: usize,
    /// Columns of a panel, two vectors.
    pub panel: usize,
}

/// Where something of a block of 32 rows lies, in bytes of a panel.
struct Part {
    /// The 16-bit numbers of 256 rows, those of the panel's first column.
    head: usize,
    /// The scales, those of the first column.
    scales: usize,
    /// The integers.
    integers: usize,
}

/// The 4 bits of an element in bytes whose low halves are the first `half` elements, and whose high halves the others.
fn nibble(bytes: &[u8], half: usize, at: usize) -> u8 {
    bytes[at % half] >> (4 * (at / half)) & 15
}

/// The unsigned integer of an element of a block as files have it.
fn integer(format: BlockFormat, block: &[u8], at: usize) -> u8 {
    match format {
        BlockFormat::Q8_0 => block[2 + at] ^ 0x80,
        BlockFormat::Q4_0 => nibble(&block[2..], 16, at),
        BlockFormat::Q4_1 => nibble(&block[4..], 16, at),
        BlockFormat::Q4K => nibble(&block[16 + at / 64 * 32..], 32, at % 64),
        BlockFormat::Q6K => {
            let (half, at_half) = (at / 128, at % 128);
            let high = block[128 + 32 * half + at % 32] >> (2 * (at_half / 32)) & 3;
            nibble(&block[64 * half..], 64, at_half) | high << 4
        }
    }
}

/// The 6-bit scale and least value of 32 elements of a `q4_k` block.
fn six_bits(block: &[u8], part: usize) -> [u8; 2] {
    let packed = &block[4..16];
    match part {
        0..4 => [packed[part] & 63, packed[part + 4] & 63],
        _ => [
            packed[part + 4] & 15 | packed[part - 4] >> 6 << 4,
            packed[part + 4] >> 4 | packed[part] >> 6 << 4,
        ],
    }
}

impl Panels {
    /// Bytes of a panel.
    pub fn panel_bytes(self) -> usize {
        self.depth * self.panel * bytes_of_256(self.format) / 256
    }

    /// Bytes of a column's blocks, as files have them.
    pub fn column_bytes(self) -> usize {
        self.depth / self.format.elements() * self.format.bytes()
    }

    /// Bytes of the 16-bit numbers that 256 rows share, of the scales of 32 rows, and of these rows in all.
    fn sizes(self) -> (usize, usize, usize) {
        let (head, scales, integers) = match self.format {
            BlockFormat::Q8_0 => (0, 2, 32),
            BlockFormat::Q4_0 => (0, 2, 16),
            BlockFormat::Q4_1 => (0, 4, 16),
            BlockFormat::Q4K => (4, 2, 16),
            BlockFormat::Q6K => (2, 2, 24),
        };
        (head * self.panel, scales * self.panel, (scales + integers) * self.panel)
    }

    fn part(self, block: usize) -> Part {
        let (head_bytes, scale_bytes, block_bytes) = self.sizes();
        let of_head = self.format.elements() / BLOCK;
        let head = block / of_head * (head_bytes + of_head * block_bytes);
        let scales = head + head_bytes + block % of_head * block_bytes;
        Part { head, scales, integers: scales + scale_bytes }
    }

    /// Where the integer of a row lies, beyond the first of its block, and by how many bits it is shifted; and the same
    /// of its upper two bits.
    fn place(self, column: usize, row: usize) -> [(usize, usize); 2] {
        let (lanes, vector) = (self.panel / 2, 2 * self.panel);
        let group = row % BLOCK / 4;
        let within = column / lanes * vector + column % lanes * 4 + row % 4;
        match self.format {
            BlockFormat::Q8_0 => [(group * 2 * vector + within, 0); 2],
            _ => {
                let high = 16 * self.panel + group / 4 * 2 * vector + within;
                [(group % 4 * 2 * vector + within, 4 * (group / 4)), (high, 2 * (group % 4))]
            }
        }
    }

    /// Puts a column of blocks, as files have them, into its panel.
    pub fn put(self, panel: &mut [u8], column: usize, blocks: &[u8]) {
        let format = self.format;
        let two = |panel: &mut [u8], at: usize, number: &[u8]| panel[at..at + 2].copy_from_slice(number);
        for (number, block) in blocks.chunks_exact(format.bytes()).enumerate() {
            for within in 0..format.elements() / BLOCK {
                let part = self.part(number * (format.elements() / BLOCK) + within);
                match format {
                    BlockFormat::Q8_0 | BlockFormat::Q4_0 => {
                        two(panel, part.scales + 2 * column, &block[..2])
                    }
                    BlockFormat::Q4_1 => {
                        two(panel, part.scales + 2 * column, &block[..2]);
                        two(panel, part.scales + 2 * (self.panel + column), &block[2..4]);
                    }
                    BlockFormat::Q4K => {
                        two(panel, part.head + 2 * column, &block[..2]);
                        two(panel, part.head + 2 * (self.panel + column), &block[2..4]);
                        for (kind, scale) in six_bits(block, within).into_iter().enumerate() {
                            panel[part.scales + kind * self.panel + column] = scale;
                        }
                    }
                    BlockFormat::Q6K => {
                        two(panel, part.head + 2 * column, &block[208..210]);
                        for half in 0..2 {
                            panel[part.scales + half * self.panel + column] = block[192 + 2 * within + half];
                        }
                    }
                }
                for row in 0..BLOCK {
                    let whole = integer(format, block, within * BLOCK + row);
                    let [(low, shift), (high, shift_of_high)] = self.place(column, row);
                    let mut set = |at: usize, mask: u8, value: u8| {
                        let byte = &mut panel[part.integers + at];
                        *byte = *byte & !mask | value;
                    };
                    match format {
                        BlockFormat::Q8_0 => set(low, 255, whole),
                        _ => set(low, 15 << shift, (whole & 15) << shift),
                    }
                    if format == BlockFormat::Q6K {
                        set(high, 3 << shift_of_high, (whole >> 4) << shift_of_high);
                    }
                }
            }
        }
    }

    /// The number in a row of a column of a panel.
    pub fn get(self, panel: &[u8], column: usize, row: usize) -> f32 {
        let part = self.part(row / BLOCK);
        let half = |at: usize| f16::from_le_bytes([panel[at], panel[at + 1]]).to_f32();
        let [(low, shift), (high, shift_of_high)] = self.place(column, row);
        let byte = panel[part.integers + low];
        let four = f32::from(byte >> shift & 15);
        match self.format {
            BlockFormat::Q8_0 => half(part.scales + 2 * column) * (f32::from(byte) - 128.0),
            BlockFormat::Q4_0 => half(part.scales + 2 * column) * (four - 8.0),
            BlockFormat::Q4_1 => {
                half(part.scales + 2 * column) * four + half(part.scales + 2 * (self.panel + column))
            }
            BlockFormat::Q4K => {
                let of_part = |kind: usize| f32::from(panel[part.scales + kind * self.panel + column]);
                half(part.head + 2 * column) * of_part(0) * four
                    - half(part.head + 2 * (self.panel + column)) * of_part(1)
            }
            BlockFormat::Q6K => {
                let scale = panel[part.scales + row % BLOCK / 16 * self.panel + column] as i8;
                let upper = panel[part.integers + high] >> shift_of_high & 3;
                half(part.head + 2 * column) * f32::from(scale) * (four + f32::from(upper << 4) - 32.0)
            }
        }
    }
}

/// Rounds a column of numbers to blocks as files have them. `None` if a number is not finite or too large for the
/// format, or the format is one that is only read.
pub fn round_to_blocks(format: BlockFormat, numbers: &[f32]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(numbers.len() / BLOCK * format.bytes());
    for block in numbers.chunks(BLOCK) {
        let block: &[f32; BLOCK] = block.try_into().ok()?;
        match format {
            BlockFormat::Q8_0 => round_8(block, &mut bytes)?,
            BlockFormat::Q4_1 => round_4(block, &mut bytes)?,
            BlockFormat::Q4_0 | BlockFormat::Q4K | BlockFormat::Q6K => return None,
        }
    }
    Some(bytes)
}

/// An f16 with its bytes, if a number fits one.
fn half(number: f32) -> Option<(f32, [u8; 2])> {
    let half = f16::from_f32(number);
    half.is_finite().then(|| (half.to_f32(), half.to_le_bytes()))
}

fn round_8(block: &[f32; BLOCK], bytes: &mut Vec<u8>) -> Option<()> {
    if block.iter().any(|x| !x.is_finite()) {
        return None;
    }
    let largest = block.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let (scale, scale_bytes) = half(largest / 127.0)?;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    bytes.extend(scale_bytes);
    bytes.extend(block.iter().map(|x| (x * inverse).round().clamp(-127.0, 127.0) as i8 as u8));
    Some(())
}

/// How much wider than 15 steps the range of a block is taken to be, in steps: what lies outside is cut off. The best
/// of these is kept.
const WIDTHS: [f32; 6] = [-1.6, -1.0, -0.5, 0.0, 0.4, 0.8];

/// A scale and a least value whose squared error is small: for several widths of the range, integers are chosen, and
/// for them the best scale and least value.
fn round_4(block: &[f32; BLOCK], bytes: &mut Vec<u8>) -> Option<()> {
    if block.iter().any(|x| !x.is_finite()) {
        return None;
    }
    let least = block.iter().copied().fold(f32::INFINITY, f32::min);
    let range = block.iter().copied().fold(f32::NEG_INFINITY, f32::max) - least;
    let mut best: Option<(f32, [u8; 4], [u8; BLOCK])> = None;
    for width in WIDTHS {
        let inverse = if range > 0.0 { (15.0 + width) / range } else { 0.0 };
        // What is cut off is cut off on both sides.
        let start = least + width * 0.5 * range / (15.0 + width);
        let whole = |scale: f32, start: f32| block.map(|x| ((x - start) * scale).round().clamp(0.0, 15.0));
        let (scale, start) = fitted(block, &whole(inverse, start)).unwrap_or((0.0, least));
        let ((scale, scale_bytes), (start, start_bytes)) = (half(scale)?, half(start)?);
        let integers = whole(if scale > 0.0 { 1.0 / scale } else { 0.0 }, start);
        let error: f32 = block.iter().zip(integers).map(|(x, u)| (x - scale * u - start).powi(2)).sum();
        if best.as_ref().is_none_or(|best| error < best.0) {
            let header = [scale_bytes[0], scale_bytes[1], start_bytes[0], start_bytes[1]];
            best = Some((error, header, integers.map(|u| u as u8)));
        }
    }
    let (_, header, integers) = best?;
    bytes.extend(header);
    bytes.extend((0..BLOCK / 2).map(|at| integers[at] | integers[at + BLOCK / 2] << 4));
    Some(())
}

/// The scale and the start for which `scale * u + start` has the least squared error; `None` where all integers are
/// alike, or the scale were negative.
fn fitted(block: &[f32; BLOCK], integers: &[f32; BLOCK]) -> Option<(f32, f32)> {
    let count = BLOCK as f32;
    let (mut u, mut uu, mut x, mut ux) = (0.0, 0.0, 0.0, 0.0);
    for (&number, &integer) in block.iter().zip(integers) {
        u += integer;
        uu += integer * integer;
        x += number;
        ux += integer * number;
    }
    let determinant = count * uu - u * u;
    let scale = (count * ux - u * x) / determinant;
    (determinant > 0.0 && scale > 0.0).then(|| (scale, (x - scale * u) / count))
}
