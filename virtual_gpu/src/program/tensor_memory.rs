//! What `tcgen05` does: tensor memory, and products whose sums are there.

use super::{Address, Slot};

/// How lanes and columns of tensor memory are dealt out over the threads of a warp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TensorShape {
    /// Each thread has a lane, each register a column.
    Lanes32,
    /// 16 lanes of 4 columns for two registers: as operands of 16 bits of a matrix product.
    Lanes16Bits128,
    /// 16 lanes of 8 columns for four registers: as accumulators of a matrix product.
    Lanes16Bits256,
}

impl TensorShape {
    /// Registers of a thread for the smallest number of columns, and that number.
    pub fn registers_and_columns(self) -> (usize, usize) {
        match self {
            TensorShape::Lanes32 => (1, 1),
            TensorShape::Lanes16Bits128 => (2, 4),
            TensorShape::Lanes16Bits256 => (4, 8),
        }
    }

    /// Lanes that an instruction touches.
    pub fn lanes(self) -> usize {
        if self == TensorShape::Lanes32 { 32 } else { 16 }
    }

    /// Lane, from the first, and column of a thread's register.
    pub fn place(self, thread: usize, register: usize) -> (usize, usize) {
        match self {
            TensorShape::Lanes32 => (thread, register),
            TensorShape::Lanes16Bits128 => (thread / 4 + register % 2 * 8, register / 2 * 4 + thread % 4),
            TensorShape::Lanes16Bits256 => {
                (thread / 4 + register / 2 % 2 * 8, register / 4 * 8 + thread % 4 * 2 + register % 2)
            }
        }
    }
}

/// The left operand of a product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum TensorSource {
    /// A descriptor of a matrix in shared memory.
    Shared(Slot),
    /// Lanes and columns of tensor memory.
    Tensor(Address),
}

/// `tcgen05.mma`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TensorMatrix {
    pub d: Address,
    pub a: TensorSource,
    pub b: Slot,
    pub description: Slot,
    /// Predicate, or its opposite: whether what is in `d` is added to.
    pub accumulate: Slot,
    pub negate: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TensorOperation {
    Allocate { destination: Address, columns: Slot },
    Deallocate { address: Slot, columns: Slot },
    Relinquish,
    Load { shape: TensorShape, registers: Box<[Slot]>, address: Address },
    Store { shape: TensorShape, registers: Box<[Slot]>, address: Address },
    WaitLoad,
    WaitStore,
    FenceBefore,
    FenceAfter,
    Multiply(TensorMatrix),
    Commit { barrier: Address },
}
