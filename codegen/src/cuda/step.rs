//! What a launch gives a kernel, in Rust and in CUDA: the one place that says it.
//!
//! ```text
//! extern "C" __global__ void NAME(const step_tables *tables, unsigned char *scratch, long long flat, [const tensor_map *maps,]
//!                                      T0 *arg0, …)
//! ```
//!
//! - `tables` points to a [`StepTables`] in device memory. A captured graph keeps the pointer; what changes from run to
//!   run is copied there before the graph is launched again. Where steps run in turns over the rows, each turn has
//!   tables of its own, with `turn`, `rows` and `row_position` of that turn, and pointers to row-wise arguments that
//!   begin at its first row.
//! - `scratch` is memory for the tiles that do not fit in shared memory: [`KernelText::scratch_bytes`] for each block of
//!   the launch, aligned to 256 bytes; null where a kernel needs none.
//! - `flat` is [`Launch::flat`](crate::entry::Launch::flat), the elements of a flat value; 0 for other kernels.
//! - `maps`, of a kernel that has [`KernelText::maps`], and of no other, points to the launch's own maps in device memory:
//!   128 bytes each as `cuTensorMapEncodeTiled` makes them, in the kernel's order, aligned to 128. They are for the
//!   rows of the run or the turn. Copies from the host put them there before the launch, so that in each block the
//!   thread that copies boxes does `fence.proxy.tensormap::generic.acquire.sys [map], 128` once for each map before its
//!   first copy ("CUDA C++ Programming Guide", tensor maps in global memory): `prelude/tensor_map.cu`.
//! - then the arguments of the tile program, in its order: one pointer each, aligned to 256 bytes at the first slot of
//!   its buffer. Arguments may be the same buffer where the plan says so.
//!
//! A launch has [`KernelText::threads`] threads a block and [`KernelText::shared_bytes`] of dynamic shared memory (more
//! than 48 KiB must be asked for by a function attribute). Any number of blocks computes the same: block b of g takes
//! instances b, b + g, b + 2g, … of all that there are, which the kernel counts itself from `tables`. As many blocks as
//! [`GridCount::instances`](crate::entry::GridCount::instances) says, with one thread, is the most that have work.
//!
//! [`KernelText::maps`]: super::KernelText::maps
//! [`KernelText::scratch_bytes`]: super::KernelText::scratch_bytes
//! [`KernelText::threads`]: super::KernelText::threads
//! [`KernelText::shared_bytes`]: super::KernelText::shared_bytes

/// The run-time binding of an entry, as kernels see it in device memory; pointers are device addresses of tables of
/// `i32`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct StepTables {
    /// Tokens of all sequences.
    pub rows: i32,
    /// Sequences.
    pub batch: i32,
    /// Pairs of a sequence and a chunk of its tokens.
    pub blocks: i32,
    /// Pairs of a sequence and a chunk of its positions so far.
    pub past_blocks: i32,
    /// Chunks that a row of `chunk_row` has room for.
    pub chunk_stride: i32,
    /// Where kernels run in turns over the rows: which turn it is, counted from 0.
    pub turn: i32,
    /// Absolute position of each row in its sequence.
    pub row_position: u64,
    /// Row of each token in a cache.
    pub row_cache: u64,
    /// First row of each sequence, and the end.
    pub sequence_row: u64,
    /// Absolute position of each sequence's first row.
    pub sequence_origin: u64,
    /// Sequence of each pair of a sequence and a chunk of its tokens.
    pub block_sequence: u64,
    /// Chunk of each of these pairs, counted from the sequence's first row.
    pub block_index: u64,
    /// Sequence of each pair of a sequence and a chunk of its positions so far.
    pub past_block_sequence: u64,
    /// Chunk of each of these pairs, counted from position 0.
    pub past_block_index: u64,
    /// First row of each chunk of each sequence's positions so far.
    pub chunk_row: u64,
    /// Place of each sequence's state of recurrences.
    pub sequence_state: u64,
}

/// The same in CUDA.
pub const STEP_TEXT: &str = "\
// What a run tells every kernel.
struct step_tables {
    int rows, batch, blocks, past_blocks, chunk_stride, turn;
    const int *row_position, *row_cache;
    const int *sequence_row, *sequence_origin;
    const int *block_sequence, *block_index;
    const int *past_block_sequence, *past_block_index;
    const int *chunk_row, *sequence_state;
};
// Where element (k, n) of a weight in panels stands.
static __device__ __forceinline__ long long in_panels(int k, int n, int depth) {
    return (long long)(n / PANEL) * depth * PANEL + k * PANEL + n % PANEL;
}
";
