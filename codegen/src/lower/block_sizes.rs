//! How large the blocks are that instances have of long dimensions: a processor's instances keep to its caches, a GPU's
//! to the shared memory and registers of a thread block. It knows no dimension and no instruction.

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
    /// Columns that an instance of a contraction has at least.
    pub columns: usize,
    /// Columns of a block of a gradient of a weight at least.
    pub gradient_columns: usize,
    /// Rows walked at once when summing over rows.
    pub streamed_rows: usize,
    /// Elements of a block of a value without run-time axes.
    pub flat: usize,
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
}

impl BlockSizes {
    /// Those of a processor, given the rows that an instance of a contraction has at most.
    pub const fn of_processor(rows: usize) -> BlockSizes {
        BlockSizes {
            pointwise_rows: 32,
            rows,
            few_rows: rows,
            columns: 128,
            gradient_columns: 256,
            streamed_rows: 256,
            flat: 16384,
            streamed_columns: 512,
            heads: 4,
            heads_of_shared_chunks: TURNED_ROWS,
            divides_groups: false,
            pairs: PAIRS,
        }
    }

    /// Those of a GPU. A thread block's results are at most 64 x 128 floats, 32 KiB, so that two of them and what is
    /// staged of their operands fit in shared memory twice over; a pass over memory has as many rows as a block of 256
    /// threads has warps; attention has one head.
    pub const fn of_gpu() -> BlockSizes {
        BlockSizes {
            pointwise_rows: 8,
            rows: 64,
            few_rows: 16,
            columns: 128,
            gradient_columns: 128,
            streamed_rows: 64,
            flat: 4096,
            streamed_columns: 128,
            heads: 1,
            heads_of_shared_chunks: 1,
            divides_groups: true,
            pairs: 64,
        }
    }
}
