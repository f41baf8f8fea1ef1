//! What the CUDA writer will give.

/// A kernel as CUDA text, and what its launch takes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct KernelText {
    /// The kernel's name.
    pub name: String,
    /// The kernel, without the prelude.
    pub text: String,
    /// Threads of a block.
    pub threads: usize,
    /// Dynamic shared memory of a block.
    pub shared_bytes: usize,
    /// Other memory of a block, for tiles that do not fit there.
    pub scratch_bytes: usize,
}

/// A whole file of kernels.
pub fn file_text<'a>(kernels: impl IntoIterator<Item = &'a KernelText>) -> String {
    let mut text = STEP_TEXT.to_owned();
    for kernel in kernels {
        text.push('\n');
        text.push_str(&kernel.text);
    }
    text
}

/// What code is generated for.
pub fn options(gpu: &super::Gpu) -> diptych_codegen::entry::EntryOptions {
    diptych_codegen::entry::EntryOptions::new(64, 128, gpu.multiprocessors())
}

/// The kernels of an entry.
pub fn kernels_of(_entry: &diptych_codegen::entry::CompiledEntry) -> &[KernelText] {
    &[]
}
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
