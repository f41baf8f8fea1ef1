//! Tensor memory on sm_100a: how many columns a kernel takes for the sums of its dots and for left operands of
//! floats, and when. It is had by a block as long as it runs: see `prelude/dot_tcgen05.cu`.

use super::Architecture;
use super::boxes::RING_STEP;
use super::dots::{each, warpgroups};
use super::warpgroups::{Ring, Warpgroups};
use super::writer::Writer;
use crate::tile::TileProgram;

/// The fewest columns that can be taken; others are powers of two.
const FEWEST_COLUMNS: usize = 32;

/// Columns of tensor memory that a program's kernel takes; none where nothing sums there.
fn columns(program: &TileProgram, architecture: Architecture, ring: Ring) -> Option<usize> {
    if !architecture.has_tensor_memory() {
        return None;
    }
    // Of a left operand of floats, all slots' parts lie behind the sums, two k of bf16 in a column.
    let of_dot = |dot: Warpgroups| {
        let of_slot = if dot.parts() > 1 { dot.parts() * RING_STEP / 2 } else { 0 };
        dot.columns() + ring.slots * of_slot
    };
    let mut most = 0;
    each(&program.body, &mut |dot| {
        most = most.max(warpgroups(program, dot, architecture).map_or(0, of_dot));
    });
    Some(most.next_power_of_two().max(FEWEST_COLUMNS))
}

impl Writer<'_> {
    /// Columns of tensor memory that the kernel takes.
    pub(super) fn tensor_columns(&self) -> Option<usize> {
        self.staging.ring.and_then(|ring| columns(self.program, self.architecture, ring))
    }

    /// Takes tensor memory, before the block's first barrier.
    pub(super) fn take_tensor_memory(&mut self) {
        let Some(columns) = self.tensor_columns() else { return };
        self.line("__shared__ tensor_room room;");
        self.line(format!("if (threadIdx.x < 32) room.take<{columns}>();"));
        self.line("show_tensor_memory();");
    }

    /// Where consumers find it.
    pub(super) fn open_tensor_memory(&mut self) {
        if self.tensor_columns().is_some() {
            self.line("see_tensor_memory();");
            self.line("tensor_memory tensor = room.open();");
        }
    }

    /// Gives it back, at the end of what consumers do.
    pub(super) fn give_back_tensor_memory(&mut self) {
        if let Some(columns) = self.tensor_columns() {
            self.line(format!("give_back<{columns}>(tensor);"));
        }
    }

    /// Opens what the first block alone does. A block that has tensor memory must not return before its end.
    pub(super) fn first_block_alone(&mut self) -> bool {
        let returns = self.tensor_columns().is_none();
        if returns {
            self.line("if (blockIdx.x > 0) return;");
        } else {
            self.open("if (blockIdx.x == 0) {");
        }
        !returns
    }
}
