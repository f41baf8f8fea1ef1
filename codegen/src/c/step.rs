//! What a run tells every kernel: how many rows there are, of which sequences,
//! and where their caches lie. The struct is the same in C and in Rust.

use super::prelude::{BLOCK_FUNCTIONS, DOT_FUNCTIONS};
use std::ffi::c_void;

/// The run-time binding of an entry, as kernels see it. All tables live as long
/// as the run.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct StepTables {
    /// Tokens of all sequences.
    pub rows: i64,
    /// Sequences.
    pub batch: i64,
    /// Pairs of a sequence and a chunk of its tokens.
    pub blocks: i64,
    /// Chunks that a row of `chunk_row` has room for.
    pub chunk_stride: i64,
    /// Absolute position of each row in its sequence.
    pub row_position: *const i32,
    /// Row of each token in a cache.
    pub row_cache: *const i32,
    /// First row of each sequence, and the end.
    pub sequence_row: *const i32,
    /// Absolute position of each sequence's first row.
    pub sequence_origin: *const i32,
    /// Sequence of each pair.
    pub block_sequence: *const i32,
    /// Chunk of each pair, counted from the sequence's first row.
    pub block_index: *const i32,
    /// Pairs of a sequence and a chunk of its positions so far.
    pub past_blocks: i64,
    /// Sequence of each of these pairs.
    pub past_block_sequence: *const i32,
    /// Chunk of each of these pairs, counted from position 0.
    pub past_block_index: *const i32,
    /// First row of each chunk of each sequence's positions so far.
    pub chunk_row: *const i32,
    /// Place of each sequence's state of recurrences.
    pub sequence_state: *const i32,
    /// Threads that share the work.
    pub threads: i64,
    /// Where kernels run in turns over the rows: which turn it is, counted from 0.
    pub turn: i64,
    /// The functions [`super::prelude::DOT_FUNCTIONS`], compiled once for all kernels, as far as kernels call them.
    pub dots: [*const c_void; DOT_FUNCTIONS.len()],
    /// The functions [`super::prelude::BLOCK_FUNCTIONS`], as far as kernels call them.
    pub in_blocks: [*const c_void; BLOCK_FUNCTIONS.len()],
}

/// The same in C.
pub const STEP_TEXT: &str = "\
#define DOT_OF(ELEMENT, NAME)                                                                                          \\
    void(NAME)(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_m, int64_t a_k, const ELEMENT *b,            \\
               int64_t b_panel, int64_t b_k, int b_padded, float *c, int64_t c_m, int64_t c_panel, int c_padded,       \\
               int accumulate, float *scratch)
typedef DOT_OF(float, dot_of_floats);
#define DOT_TURNED_OF(ELEMENT, NAME)                                                                                   \\
    void(NAME)(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_m, int64_t a_k, const ELEMENT *b,            \\
               int64_t b_n, float *tile, int64_t tile_k, float *c, int64_t c_m, int accumulate, float *scratch,        \\
               dot_of_floats *dot)
typedef void dot_in_blocks(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_m, const uint8_t *b, float *c,
                           int64_t c_m);
/* What a run tells every kernel. */
struct step {
    int64_t rows, batch, blocks, chunk_stride;
    const int32_t *row_position, *row_cache;
    const int32_t *sequence_row, *sequence_origin;
    const int32_t *block_sequence, *block_index;
    int64_t past_blocks;
    const int32_t *past_block_sequence, *past_block_index;
    const int32_t *chunk_row, *sequence_state;
    int64_t threads, turn;
    dot_of_floats *dot;
    DOT_OF(bf16, *dot_bf16);
    DOT_OF(f16, *dot_f16);
    DOT_OF(i8, *dot_i8);
    DOT_TURNED_OF(float, *dot_turned);
    DOT_TURNED_OF(bf16, *dot_turned_bf16);
    DOT_TURNED_OF(f16, *dot_turned_f16);
    DOT_TURNED_OF(i8, *dot_turned_i8);
    void (*dot_across)(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_m, int64_t a_k, const float *b,
                       int64_t b_panel, float *c, int64_t c_m, int64_t c_panel, int c_padded, int accumulate,
                       float *scratch);
    void (*round_blocks)(int64_t m, int64_t k, const float *x, int64_t x_m, float *y, int64_t y_m);
    dot_in_blocks *dot_q8_0, *dot_q4_0, *dot_q4_1, *dot_q4_k, *dot_q6_k;
};
#define CHUNK 64
INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
/* Rows of an instance where it has at most so many: see entry::even_block. */
INLINE int64_t even_block(int64_t rows, int64_t most, int64_t threads) {
    if (rows <= most) return most;
    int64_t shares = (rows + most * threads - 1) / (most * threads) * threads;
    int64_t block = (rows + shares - 1) / shares;
    return block > most / 4 ? block : most / 4;
}
/* Where element (k, n) of a weight in panels stands. */
INLINE int64_t packed_offset(int64_t n, int64_t k, int64_t depth) {
    return n / PANEL * depth * PANEL + k * PANEL + n % PANEL;
}
";
