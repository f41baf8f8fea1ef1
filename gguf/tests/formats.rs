//! Each format against an independent reading of its description: whole blocks, part by part, in the
//! order of the bytes, where the crate reads single elements.

use diptych_gguf::Format;
use half::{bf16, f16};

/// Bytes that look random, the same each time.
fn noise(count: usize, mut state: u64) -> Vec<u8> {
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u8
        })
        .collect()
}

fn half(bytes: &[u8]) -> f32 {
    f16::from_bits(u16::from_le_bytes([bytes[0], bytes[1]])).to_f32()
}

/// The values of a block.
fn block(format: Format, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0f32; format.block_elements()];
    match format {
        Format::F32 => out[0] = f32::from_bits(u32::from_le_bytes(bytes.try_into().unwrap())),
        Format::F16 => out[0] = half(bytes),
        Format::Bf16 => out[0] = f32::from_bits(u32::from(u16::from_le_bytes([bytes[0], bytes[1]])) << 16),
        Format::Q8_0 => {
            for (value, &q) in out.iter_mut().zip(&bytes[2..]) {
                *value = half(bytes) * f32::from(q.cast_signed());
            }
        }
        Format::Q4_0 => {
            for (at, q) in bytes[2..].iter().enumerate() {
                out[at] = half(bytes) * (i32::from(q & 0xf) - 8) as f32;
                out[at + 16] = half(bytes) * (i32::from(q >> 4) - 8) as f32;
            }
        }
        Format::Q4_1 => {
            let (d, m) = (half(bytes), half(&bytes[2..]));
            for (at, q) in bytes[4..].iter().enumerate() {
                out[at] = d * f32::from(q & 0xf) + m;
                out[at + 16] = d * f32::from(q >> 4) + m;
            }
        }
        Format::Q4K => {
            let (d, least) = (half(bytes), half(&bytes[2..]));
            // The 96 bits of scales and of factors of the least value, unpacked byte by byte.
            let (mut scales, mut factors) = ([0u8; 8], [0u8; 8]);
            for at in 0..4 {
                let (first, second, third) = (bytes[4 + at], bytes[8 + at], bytes[12 + at]);
                (scales[at], scales[at + 4]) = (first % 64, third % 16 + first / 64 * 16);
                (factors[at], factors[at + 4]) = (second % 64, third / 16 + second / 64 * 16);
            }
            for pair in 0..4 {
                for at in 0..32 {
                    let q = bytes[16 + 32 * pair + at];
                    for (high, q) in [(0, q % 16), (1, q / 16)] {
                        let part = 2 * pair + high;
                        let scale = d * f32::from(scales[part]);
                        out[32 * part + at] = scale * f32::from(q) - least * f32::from(factors[part]);
                    }
                }
            }
        }
        Format::Q6K => {
            let d = half(&bytes[208..]);
            let (mut low, mut high, mut scales) = (&bytes[..128], &bytes[128..192], &bytes[192..208]);
            for start in [0, 128] {
                for at in 0..32 {
                    let bits = high[at];
                    for (quarter, four) in [low[at] % 16, low[at + 32] % 16, low[at] / 16, low[at + 32] / 16]
                        .into_iter()
                        .enumerate()
                    {
                        let q = i32::from(four) + 16 * i32::from(bits >> (2 * quarter) & 3) - 32;
                        let scale = f32::from(scales[2 * quarter + at / 16].cast_signed());
                        out[start + 32 * quarter + at] = d * scale * q as f32;
                    }
                }
                (low, high, scales) = (&low[64..], &high[32..], &scales[8..]);
            }
        }
    }
    out
}

#[test]
fn elements_are_what_the_formats_define() {
    assert_eq!(Format::all().count(), 8);
    for format in Format::all() {
        let blocks = 64;
        let mut bytes = noise(blocks * format.block_bytes(), u64::from(format.number()) + 1);
        for block in bytes.chunks_exact_mut(format.block_bytes()) {
            // Scales that are finite: clear a bit of their exponents.
            let halves: &[usize] = match format {
                Format::F32 => &[2],
                Format::F16 | Format::Bf16 | Format::Q8_0 | Format::Q4_0 => &[0],
                Format::Q4_1 | Format::Q4K => &[0, 2],
                Format::Q6K => &[208],
            };
            halves.iter().for_each(|at| block[at + 1] &= 0xbf);
        }
        let read = format.reader();
        let mut seen = 0;
        for (number, bytes_of_block) in bytes.chunks_exact(format.block_bytes()).enumerate() {
            for (at, wanted) in block(format, bytes_of_block).into_iter().enumerate() {
                let found = read(&bytes, number * format.block_elements() + at);
                assert!(wanted.is_finite(), "{format:?}: {wanted}");
                assert_eq!(found.to_bits(), wanted.to_bits(), "{format:?}, block {number}, element {at}");
                seen += 1;
            }
        }
        assert_eq!(seen, blocks * format.block_elements());
    }
}

#[test]
fn values_that_were_rounded_to_a_format_come_back() {
    let values: Vec<f32> = (0..64).map(|at| (at as f32 - 20.0) / 8.0).collect();
    let f16s: Vec<u8> = values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
    let bf16s: Vec<u8> = values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect();
    for (format, bytes) in [(Format::F16, f16s), (Format::Bf16, bf16s)] {
        let read = format.reader();
        let found: Vec<f32> = (0..64).map(|at| read(&bytes, at)).collect();
        assert_eq!(found, values, "{format:?}");
    }
}
