//! wgmma: matrix products of a warpgroup, issued now and executed when they are waited for.
//!
//! Operands in shared memory are checked when a product is issued and read when it is waited for. Until then nobody may
//! write them, and nobody may touch the accumulators or operands in registers. Each warp computes its own 16 of the 64
//! rows.

use super::accumulate::accumulate_rows;
use super::block::Block;
use super::descriptor::{Descriptor, chunks};
use super::matrix::element;
use super::warp::Warp;
use crate::diagnostic::{Fault, Problem};
use crate::program::{MatrixFamily, Slot, WarpgroupMatrix, WarpgroupSource};
use std::collections::VecDeque;

type Result<T> = std::result::Result<T, Problem>;

/// A product that was issued.
struct Product {
    /// Instruction that holds the shape and the slots.
    instruction: u32,
    a: u64,
    b: u64,
    accumulate: bool,
    tickets: [u64; 2],
}

#[derive(Default)]
pub(crate) struct WarpgroupQueue {
    current: Vec<Product>,
    groups: VecDeque<Vec<Product>>,
    /// How many products in flight own each narrow slot.
    in_flight: Vec<u16>,
    /// Whether registers were fenced since they were last written.
    fenced: bool,
}

impl WarpgroupQueue {
    fn own(&mut self, matrix: &WarpgroupMatrix, slots: usize, change: i32) {
        self.in_flight.resize(slots, 0);
        let registers: &[Slot] = match &matrix.a {
            WarpgroupSource::Registers(registers) => registers,
            WarpgroupSource::Shared(_) => &[],
        };
        for slot in matrix.accumulators.iter().chain(registers) {
            let count = &mut self.in_flight[*slot as usize];
            *count = count.saturating_add_signed(change as i16);
        }
    }

    /// For instructions that touch registers which products may own.
    pub fn check_touched(&mut self, slots: &[Slot], writes: bool) -> Result<()> {
        let owned = |slot: &&Slot| self.in_flight.get(**slot as usize).is_some_and(|count| *count > 0);
        if slots.iter().any(|slot| owned(&slot)) {
            return Err(Problem::new(
                Fault::RegisterInFlight,
                "touches a register that a wgmma.mma_async in flight owns: wgmma.wait_group is missing before",
            ));
        }
        if writes {
            self.fenced = false;
        }
        Ok(())
    }

    pub fn fence(&mut self) {
        self.fenced = true;
    }

    pub fn commit(&mut self) {
        let current = std::mem::take(&mut self.current);
        self.groups.push_back(current);
    }

    pub fn is_idle(&self) -> bool {
        self.current.is_empty() && self.groups.iter().all(Vec::is_empty)
    }
}

impl Block<'_> {
    pub fn warpgroup_multiply(&mut self, warp: &mut Warp, matrix: &WarpgroupMatrix, mask: u32) -> Result<()> {
        warp.check_whole(mask)?;
        if !warp.warpgroup.fenced {
            let message =
                "registers of the product were written since the last wgmma.fence, or there was none";
            return Err(Problem::new(Fault::MissingFence, message));
        }
        let uniform = |slot: Slot, what: &str| {
            let values = &warp.wide[slot as usize];
            if values.iter().any(|value| *value != values[0]) {
                let message = format!("the descriptor of {what} differs between lanes");
                return Err(Problem::new(Fault::InvalidUse, message));
            }
            Ok(values[0])
        };
        let b = uniform(matrix.b, "b")?;
        let a = match matrix.a {
            WarpgroupSource::Shared(slot) => uniform(slot, "a")?,
            WarpgroupSource::Registers(_) => 0,
        };
        let scale = warp.predicates[matrix.scale_d as usize];
        if scale != 0 && scale != u32::MAX {
            return Err(Problem::new(Fault::InvalidUse, "scale-d differs between lanes"));
        }
        let mut tickets = [u64::MAX; 2];
        if let WarpgroupSource::Shared(_) = matrix.a {
            tickets[0] = self.issue_operand(warp, matrix, a, true)?;
        }
        tickets[1] = self.issue_operand(warp, matrix, b, false)?;
        let slots = warp.narrow.len();
        warp.warpgroup.own(matrix, slots, 1);
        let product = Product { instruction: warp.pc, a, b, accumulate: scale != 0, tickets };
        warp.warpgroup.current.push(product);
        Ok(())
    }

    fn operand_rows(warp: &Warp, matrix: &WarpgroupMatrix, is_a: bool) -> std::ops::Range<u64> {
        if is_a {
            let first = warp.index as u64 % 4 * 16;
            first..first + 16
        } else {
            0..u64::from(matrix.columns)
        }
    }

    /// Checks that an operand can be read, and keeps it from being written.
    fn issue_operand(&mut self, warp: &Warp, matrix: &WarpgroupMatrix, bits: u64, is_a: bool) -> Result<u64> {
        let descriptor = Descriptor::of_wgmma(bits)?;
        let transposed = if is_a { matrix.transpose_a } else { matrix.transpose_b };
        let rows = Self::operand_rows(warp, matrix, is_a);
        let operand = if is_a { "a" } else { "b" };
        self.issue_matrix(warp, descriptor, transposed, rows, matrix.family.depth(), operand)
    }

    /// wgmma.wait_group: all but the last `pending` groups are executed.
    pub fn warpgroup_wait(&mut self, warp: &mut Warp, pending: u32) {
        while warp.warpgroup.groups.len() > pending as usize {
            let group = warp.warpgroup.groups.pop_front().unwrap_or_default();
            for product in group {
                self.execute_product(warp, &product);
            }
        }
    }

    fn execute_product(&mut self, warp: &mut Warp, product: &Product) {
        let kernel = self.kernel;
        let crate::program::Operation::WarpgroupMultiply(matrix) =
            &kernel.instructions[product.instruction as usize].operation
        else {
            return;
        };
        let (depth, columns) = (matrix.family.depth(), matrix.columns as usize);
        let sign = |negate: bool| if negate { -1.0 } else { 1.0 };
        let mut left = [0f32; 16 * 16];
        match matrix.a {
            WarpgroupSource::Shared(_) => {
                let sign = sign(matrix.negate_a);
                self.read_operand(warp, matrix, product.a, true, |row, k, value| {
                    left[row * depth + k] = sign * value
                });
            }
            WarpgroupSource::Registers(slots) => {
                let per_register = if depth == 8 { 1 } else { 2 };
                for (at, slot) in slots.iter().enumerate() {
                    for (lane, bits) in warp.narrow[*slot as usize].iter().enumerate() {
                        let row = lane / 4 + at % 2 * 8;
                        let k = (lane % 4 + at / 2 * 4) * per_register;
                        for half in 0..per_register {
                            let value = element(matrix.format, bits >> (16 * half));
                            left[row * depth + k + half] = sign(matrix.negate_a) * value;
                        }
                    }
                }
            }
        }
        let mut right = vec![0f32; depth * columns];
        let negate_b = sign(matrix.negate_b);
        self.read_operand(warp, matrix, product.b, false, |row, k, value| {
            right[k * columns + row] = negate_b * value
        });
        let mut sum = vec![0f32; 16 * columns];
        let place = |at: usize, lane: usize| {
            (lane / 4 + at / 2 % 2 * 8) * columns + at / 4 * 8 + lane % 4 * 2 + at % 2
        };
        if product.accumulate {
            for (at, slot) in matrix.accumulators.iter().enumerate() {
                for (lane, bits) in warp.narrow[*slot as usize].iter().enumerate() {
                    sum[place(at, lane)] = f32::from_bits(*bits);
                }
            }
        }
        accumulate_rows(matrix.family, &left[..16 * depth], &right, columns, &mut sum);
        for (at, slot) in matrix.accumulators.iter().enumerate() {
            for (lane, bits) in warp.narrow[*slot as usize].iter_mut().enumerate() {
                *bits = sum[place(at, lane)].to_bits();
            }
        }
        self.shared.pending_reads.retain(|read| !product.tickets.contains(&read.ticket));
        let slots = warp.narrow.len();
        warp.warpgroup.own(matrix, slots, -1);
    }

    fn read_operand(
        &mut self,
        warp: &Warp,
        matrix: &WarpgroupMatrix,
        bits: u64,
        is_a: bool,
        mut set: impl FnMut(usize, usize, f32),
    ) {
        let Ok(descriptor) = Descriptor::of_wgmma(bits) else { return };
        let transposed = if is_a { matrix.transpose_a } else { matrix.transpose_b };
        let rows = Self::operand_rows(warp, matrix, is_a);
        let (shared, format) = (&mut self.shared, matrix.format);
        let clock = self.clocks.seen(warp.index)[warp.index];
        let width = if matrix.family == MatrixFamily::WgmmaTf32 { 4 } else { 2 };
        chunks(descriptor, matrix.family.depth(), transposed, rows, |address, row, k| {
            let bytes = shared.reread(address, 16, warp.index, clock);
            for (at, bytes) in bytes.chunks_exact(width).enumerate() {
                let bits = if width == 4 {
                    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
                } else {
                    u16::from_le_bytes([bytes[0], bytes[1]]).into()
                };
                let value = element(format, bits);
                if transposed { set(row + at, k, value) } else { set(row, k + at, value) }
            }
        });
    }
}
