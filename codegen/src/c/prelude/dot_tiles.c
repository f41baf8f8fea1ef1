/* What the dots of all elements share: their tiles, and copies of operands. */

#define PANEL (2 * LANES)
#if VECTOR_BYTES == 64
#define TILE_ROWS 12
#elif VECTOR_BYTES == 32
#define TILE_ROWS 6
#else
#define TILE_ROWS 4
#endif

/* Blocks: DOT_BLOCK_K rows of a panel are to stay in the first-level cache beside a tile's rows of a, DOT_BLOCK_M rows
 * of a in the second. What they are best is found by a search on the machine. */
#ifndef DOT_BLOCK_K
#define DOT_BLOCK_K 192
#endif
#define DOT_MOST_K 384
#define DOT_BLOCK_M 288
#define DOT_SCRATCH_FLOATS (DOT_BLOCK_M * DOT_MOST_K + LANES + PANEL * DOT_MOST_K)
_Static_assert(DOT_BLOCK_K <= DOT_MOST_K, "the scratch is too small");
_Static_assert(DOT_BLOCK_K % PANEL == 0, "panels that lie across are not cut");
/* So few rows are bound by reading b: it is not cut into blocks. Later tiles of rows find a panel in the second-level
 * cache, up to a k of some 4000. */
#define DOT_FEW_ROWS 36
/* Copying pays from this many panels (for a) or rows (for b) on: a tile then reaches its rows of a by constant
 * distances from one pointer, and those of b lie in one piece. */
#define DOT_PACK_PANELS 6
#define DOT_PACK_ROWS 48
/* So many rows of floats ahead the few rows' tiles ask for b, into the second-level cache: more requests can be on their
 * way there than to the first (measured on Zen 4, two threads: 25 to 26 GB/s into the first, 30 to 42 into the second). */
#define DOT_PREFETCH_STEPS 16

struct dot_tile {
    int64_t k;
    const float *a;
    int64_t a_m, a_k;
    const void *b;
    int64_t b_panel, b_k;
    int64_t b_columns; /* that may be read in the last panel */
    float *c;
    int64_t c_m, c_panel;
    int64_t c_columns; /* that may be written in the last panel */
    int accumulate;
};

/* Columns first .. first + LANES of a row of which only `columns` may be touched. AVX-512 masks cost
 * nothing, so there one path serves both; elsewhere a whole vector takes the plain load. */
INLINE int64_t lanes_left(int64_t columns, int64_t first) {
    int64_t left = columns - first;
    return left < 0 ? 0 : left < LANES ? left : LANES;
}
INLINE vf load_lanes(const float *p, int64_t lanes) {
    if (VECTOR_BYTES != 64 && lanes == LANES) return load(p);
    return load_partial(p, lanes);
}
INLINE void store_lanes(float *p, int64_t lanes, vf v) {
    if (lanes == LANES) store(p, v);
    else store_partial(p, lanes, v);
}

/* How a tile reads: the last panel may lack columns; whole panels from memory, in streams, asked for ahead; or panels
 * that are near, and an a that dot_pack_a left. */
enum dot_reads { DOT_PARTIAL, DOT_STREAMED, DOT_PACKED };

/* Tiles of whole panels, those of most panels first: as many as their sums leave registers for. */
#if VECTOR_BYTES == 64
#define STREAMED_TILES(X)                                                                                        \
    X(1, 6) X(1, 4) X(1, 2) X(1, 1) X(2, 4) X(2, 2) X(2, 1) X(3, 4) X(3, 2) X(3, 1) X(4, 2) X(4, 1) X(5, 2) X(5, 1) \
    X(6, 2) X(6, 1) X(7, 1) X(8, 1) X(9, 1) X(10, 1) X(11, 1) X(12, 1)
#define PARTIAL_TILES(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12)
#elif VECTOR_BYTES == 32
#define STREAMED_TILES(X) \
    X(1, 4) X(1, 2) X(1, 1) X(2, 2) X(2, 1) X(3, 2) X(3, 1) X(4, 1) X(5, 1) X(6, 1)
#define PARTIAL_TILES(X) X(1) X(2) X(3) X(4) X(5) X(6)
#else
#define STREAMED_TILES(X) X(1, 4) X(1, 2) X(1, 1) X(2, 2) X(2, 1) X(3, 1) X(4, 1)
#define PARTIAL_TILES(X) X(1) X(2) X(3) X(4)
#endif

/* Copies a block of a so that each tile's rows stand together: tile, then k, then TILE_ROWS. Whole
 * vectors are stored at that smaller pitch: what one spills is overwritten by the next. */
NOINLINE void dot_pack_a(int64_t m, int64_t k, const float *a, int64_t a_m, int64_t a_k, float *packed) {
    for (int64_t i0 = 0; i0 < m; i0 += TILE_ROWS, a += TILE_ROWS * a_m) {
        int64_t height = m - i0 < TILE_ROWS ? m - i0 : TILE_ROWS, kk = 0;
        if (a_m == 1)
            for (; kk < k; kk++, packed += TILE_ROWS) store(packed, load_partial(a + kk * a_k, height));
        else if (a_k == 1 && height == TILE_ROWS)
            for (; kk + LANES <= k; kk += LANES) {
                vf rows[LANES] = {{0}};
                UNROLL for (int i = 0; i < TILE_ROWS; i++) rows[i] = load(a + i * a_m + kk);
                transpose_registers(rows);
                UNROLL for (int j = 0; j < LANES; j++, packed += TILE_ROWS) store(packed, rows[j]);
            }
        for (; kk < k; kk++, packed += TILE_ROWS)
            for (int64_t i = 0; i < height; i++) packed[i] = a[i * a_m + kk * a_k];
    }
}
/* Copies k rows of one panel; columns that must not be read become zeros. */
NOINLINE void dot_pack_b(int64_t k, const float *b, int64_t b_k, int64_t columns, float *packed) {
    int64_t low = lanes_left(columns, 0), high = lanes_left(columns, LANES);
    for (int64_t kk = 0; kk < k; kk++, packed += PANEL) {
        store(packed, load_lanes(b + kk * b_k, low));
        store(packed + LANES, load_lanes(b + kk * b_k + LANES, high));
    }
}

/* Asks for rows first .. end of a panel, into the second-level cache. */
INLINE void dot_ask_for_panel(const char *panel, int64_t row_bytes, int64_t width, int64_t first, int64_t end) {
    for (int64_t row = first; row < end; row++)
        for (int64_t byte = 0; byte < width; byte += 64) __builtin_prefetch(panel + row * row_bytes + byte, 0, 2);
}
/* Asks for a tile of c that is to be added to, likewise. */
INLINE void dot_ask_for_sums(const float *c, int64_t c_m) {
    for (int64_t row = 0; row < TILE_ROWS; row++)
        for (int64_t at = 0; at < PANEL; at += 16) __builtin_prefetch(c + row * c_m + at, 1, 2);
}

/* Rows of b that are asked for ahead, into the second-level cache: a chunk of positions. Chunks of one sequence often lie
 * one after the other. */
#define TURNED_AHEAD 64

/* Rows of a whose sums stay in registers beside such a block. */
#if VECTOR_BYTES == 64
#define TURNED_ROWS 8
#define TURNED_CASES(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8)
#else
#define TURNED_ROWS 4
#define TURNED_CASES(X) X(1) X(2) X(3) X(4)
#endif
/* The dot whose right operand is of floats: `dot`. */
typedef void dot_of_floats(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_m, int64_t a_k, const float *b,
                           int64_t b_panel, int64_t b_k, int b_padded, float *c, int64_t c_m, int64_t c_panel,
                           int c_padded, int accumulate, float *scratch);
