//! mma.sync, and loads and stores of matrices of 8 by 8.

use super::access::check_alignment;
use super::accumulate::accumulate;
use super::block::Block;
use super::numbers::{bfloat16, float16};
use super::warp::Warp;
use crate::diagnostic::Problem;
use crate::memory::SHARED_WINDOW;
use crate::program::{Address, MatrixFamily, MatrixFormat, Slot};

/// The value of a 16-bit element.
#[inline(always)]
pub(super) fn element(format: MatrixFormat, bits: u32) -> f32 {
    match format {
        MatrixFormat::Float16 => float16(bits & 0xffff),
        MatrixFormat::BFloat16 => bfloat16(bits),
        // The hardware reads 19 bits of a tf32.
        MatrixFormat::TensorFloat32 => f32::from_bits(bits & 0xffff_e000),
    }
}

impl Warp {
    #[inline(always)]
    pub fn multiply_matrices(
        &mut self,
        family: MatrixFamily,
        format: MatrixFormat,
        [d, a, c]: [&[Slot; 4]; 3],
        b: &[Slot; 2],
        mask: u32,
    ) -> Result<(), Problem> {
        self.check_whole(mask)?;
        let depth = family.depth();
        let (mut left, mut right, mut sum) = ([0f32; 16 * 16], [0f32; 16 * 8], [0f32; 16 * 8]);
        let narrow = |slot: Slot| &self.narrow[slot as usize];
        if format == MatrixFormat::TensorFloat32 {
            for part in 0..depth / 4 {
                let (upper, lower, right_values) =
                    (narrow(a[2 * part]), narrow(a[2 * part + 1]), narrow(b[part]));
                for lane in 0..32 {
                    let (group, k) = (lane / 4, lane % 4 + 4 * part);
                    left[group * depth + k] = element(format, upper[lane]);
                    left[(group + 8) * depth + k] = element(format, lower[lane]);
                    right[k * 8 + group] = element(format, right_values[lane]);
                }
            }
        } else {
            for part in 0..depth / 8 {
                let (upper, lower, right_values) =
                    (narrow(a[2 * part]), narrow(a[2 * part + 1]), narrow(b[part]));
                for lane in 0..32 {
                    let (group, k) = (lane / 4, lane % 4 * 2 + 8 * part);
                    for half in 0..2 {
                        left[group * depth + k + half] = element(format, upper[lane] >> (16 * half));
                        left[(group + 8) * depth + k + half] = element(format, lower[lane] >> (16 * half));
                        right[(k + half) * 8 + group] = element(format, right_values[lane] >> (16 * half));
                    }
                }
            }
        }
        for (at, slot) in c.iter().enumerate() {
            let values = narrow(*slot);
            for lane in 0..32 {
                sum[(lane / 4 + at / 2 * 8) * 8 + lane % 4 * 2 + at % 2] = f32::from_bits(values[lane]);
            }
        }
        for row in 0..16 {
            let left = &left[row * depth..(row + 1) * depth];
            accumulate(family, left, &right[..depth * 8], 8, &mut sum[row * 8..(row + 1) * 8]);
        }
        for (at, slot) in d.iter().enumerate() {
            let values = &mut self.narrow[*slot as usize];
            for lane in 0..32 {
                values[lane] = sum[(lane / 4 + at / 2 * 8) * 8 + lane % 4 * 2 + at % 2].to_bits();
            }
        }
        Ok(())
    }
}

/// Addresses in shared memory, where 64-bit ones may be generic.
fn shared_addresses(warp: &Warp, address: &Address) -> [u64; 32] {
    let mut addresses = warp.addresses(address);
    if address.wide {
        addresses
            .iter_mut()
            .for_each(|address| *address = address.checked_sub(SHARED_WINDOW).unwrap_or(*address));
    }
    addresses
}

impl Block<'_> {
    pub fn load_matrix(
        &mut self,
        warp: &mut Warp,
        count: u8,
        transpose: bool,
        registers: &[Slot; 4],
        address: &Address,
        mask: u32,
    ) -> Result<(), Problem> {
        warp.check_whole(mask)?;
        let addresses = shared_addresses(warp, address);
        let naming = if count == 4 { u32::MAX } else { (1 << (8 * count)) - 1 };
        check_alignment(&addresses, naming, 16, "shared")?;
        for (at, slot) in registers[..usize::from(count)].iter().enumerate() {
            let rows = 0xff << (8 * at);
            self.count_shared(warp.pc, &addresses, rows, 16);
            let mut matrix = [0u16; 64];
            for row in 0..8 {
                let lane = at * 8 + row;
                match self.shared.read(addresses[lane], 16, warp.index, &self.clocks, false) {
                    Ok(bytes) => {
                        for (value, bytes) in matrix[row * 8..].iter_mut().zip(bytes.chunks_exact(2)) {
                            *value = u16::from_le_bytes([bytes[0], bytes[1]]);
                        }
                    }
                    Err(problem) => {
                        return Err(self.shared_problem(problem, &addresses, 1 << lane, 16, false));
                    }
                }
            }
            let values = &mut warp.narrow[*slot as usize];
            for lane in 0..32 {
                let (row, column) = (lane / 4, lane % 4 * 2);
                let (first, second) = if transpose {
                    (matrix[column * 8 + row], matrix[(column + 1) * 8 + row])
                } else {
                    (matrix[row * 8 + column], matrix[row * 8 + column + 1])
                };
                values[lane] = u32::from(first) | u32::from(second) << 16;
            }
        }
        Ok(())
    }

    pub fn store_matrix(
        &mut self,
        warp: &mut Warp,
        count: u8,
        transpose: bool,
        registers: &[Slot; 4],
        address: &Address,
        mask: u32,
    ) -> Result<(), Problem> {
        warp.check_whole(mask)?;
        let addresses = shared_addresses(warp, address);
        let naming = if count == 4 { u32::MAX } else { (1 << (8 * count)) - 1 };
        check_alignment(&addresses, naming, 16, "shared")?;
        for (at, slot) in registers[..usize::from(count)].iter().enumerate() {
            self.count_shared(warp.pc, &addresses, 0xff << (8 * at), 16);
            let values = &warp.narrow[*slot as usize];
            let mut matrix = [0u8; 128];
            for lane in 0..32 {
                let (row, column) = (lane / 4, lane % 4 * 2);
                for half in 0..2 {
                    let place = if transpose { (column + half) * 8 + row } else { row * 8 + column + half };
                    let value = (values[lane] >> (16 * half)) as u16;
                    matrix[2 * place..2 * place + 2].copy_from_slice(&value.to_le_bytes());
                }
            }
            for row in 0..8 {
                let lane = at * 8 + row;
                match self.shared.write(addresses[lane], 16, warp.index, warp.pc, &self.clocks) {
                    Ok(bytes) => bytes.copy_from_slice(&matrix[row * 16..row * 16 + 16]),
                    Err(problem) => {
                        return Err(self.shared_problem(problem, &addresses, 1 << lane, 16, true));
                    }
                }
            }
        }
        Ok(())
    }
}
