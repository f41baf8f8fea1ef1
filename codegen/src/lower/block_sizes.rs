//! How large the blocks are that instances have of long dimensions: a processor's instances keep to its caches, a GPU's
//! to the shared memory and registers of a thread block. It knows no dimension and no instruction.

use crate::cuda::Architecture;
use crate::tile::{PAIRS, TURNED_ROWS};

/// Block sizes, in elements of the dimension that is meant. No bit of a contraction depends on one; sums over rows or
/// over a streamed axis are cut by them, alike in all entries of a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockSizes {
    /// Rows of an instance where each row is a pass over memory.
    pub pointwise_rows: usize,
    /// Rows of an instance of a contraction at most, and of a gradient of a weight at least.
    pub rows: usize,
    /// The same where there are few rows in all.
    pub few_rows: usize,
    /// Whether an instance of a contraction may have all columns of its rows, so that sums over them join its kernel.
    pub whole_rows: bool,
    /// Elements of an operand that an instance of a contraction may compute for itself.
    pub operand: usize,
    /// Columns that an instance of a contraction has at least.
    pub columns: usize,
    /// Columns that it has at most, where they can be divided so.
    pub most_columns: usize,
    /// Columns of a block of a gradient of a weight at least.
    pub gradient_columns: usize,
    /// Rows walked at once when summing over rows.
    pub streamed_rows: usize,
    /// Elements of a block of a value without run-time axes.
    pub flat: usize,
    /// Positions of an instance along each of two axes at most, where values without run-time axes are stored along
    /// another axis than they are read; `None`: such an instance has all of both.
    pub patch: Option<usize>,
    /// Elements of a block of a streamed fixed axis.
    pub streamed_columns: usize,
    /// Heads that share a product with a chunk of keys, where all heads see the same keys.
    pub heads: usize,
    /// The same where chunks are divided among instances: each chunk is to be read by few.
    pub heads_of_shared_chunks: usize,
    /// Whether heads that share keys are divided among instances even where others have keys of their own.
    pub divides_groups: bool,
    /// Pairs of a row and an id.
    pub pairs: usize,
    /// Bytes that values take at most which are kept for a turn over some of the rows. A GPU needs many rows to have work
    /// for all of it: 8 GiB are 8192 rows of 128 Ki logits and their gradients, and the smallest GPU that is taken has 40 GB.
    pub turn_bytes: usize,
}

impl BlockSizes {
    /// Elements that a row of an operand has at most, if an instance of a contraction computes it.
    pub const fn operand_elements(&self, few_rows: bool) -> usize {
        self.operand / if few_rows { self.few_rows } else { self.rows }
    }

    /// Whether columns are divided however many rows there are.
    pub const fn divides_finely(&self) -> bool {
        self.most_columns < usize::MAX
    }

    /// Those of a processor, given the rows that an instance of a contraction has at most.
    pub const fn of_processor(rows: usize) -> BlockSizes {
        BlockSizes {
            pointwise_rows: 32,
            rows,
            few_rows: rows,
            whole_rows: true,
            operand: usize::MAX,
            columns: 128,
            most_columns: usize::MAX,
            gradient_columns: 256,
            streamed_rows: 256,
            flat: 16384,
            patch: None,
            streamed_columns: 512,
            heads: 4,
            heads_of_shared_chunks: TURNED_ROWS,
            divides_groups: false,
            pairs: PAIRS,
            turn_bytes: 256 << 20,
        }
    }

    /// Those of a GPU. A thread block's results are at most 64 x 128 floats, 32 KiB, so that two of them and what is
    /// staged of their operands fit in shared memory twice over; warpgroups have 128 x 128, 64 KiB, and a multiprocessor
    /// for themselves, since each of them reads all columns of a slot for its 64 rows. A pass over memory has as many
    /// rows as a block of 256 threads has warps; attention has one head. Columns are divided finely, so that all of the
    /// GPU has work: what an instance computes for its own columns, others compute too, which is worth it only where it
    /// is little.
    pub const fn of_gpu(architecture: Architecture) -> BlockSizes {
        BlockSizes {
            pointwise_rows: 8,
            rows: if architecture.has_warpgroups() { 128 } else { 64 },
            few_rows: 16,
            whole_rows: false,
            operand: 32 << 10,
            columns: 128,
            most_columns: 128,
            gradient_columns: 128,
            streamed_rows: 64,
            flat: 4096,
            patch: Some(64),
            streamed_columns: 128,
            heads: 1,
            heads_of_shared_chunks: 1,
            divides_groups: true,
            pairs: 64,
            turn_bytes: 8 << 30,
        }
    }
}
