/* dot: c[i,j] (+)= sum over k of a[i,k] * b[k,j], by register tiles.
 * Every element of c is one chain of fused multiply-adds over ascending k, from zero or from the
 * c that is there: no choice of tile, block or panel below changes a bit of the result.
 *
 * a[i,k] stands at a + i*a_m + k*a_k.
 * b is cut in panels of PANEL columns: b[k,j] stands at b + (j/PANEL)*b_panel + k*b_k + j%PANEL.
 *   A row-major matrix of leading dimension ld has b_panel = PANEL, b_k = ld;
 *   a packed weight has b_panel = K*PANEL, b_k = PANEL.
 * c[i,j] stands at c + i*c_m + (j/PANEL)*c_panel + j%PANEL.
 * Where b_padded (c_padded) is zero nothing past column n is read (written); otherwise the last
 * panel has PANEL columns in memory, and what lies past n is read (overwritten) freely.
 * scratch is room for DOT_SCRATCH_FLOATS, or null: then operands are always read in place, which is
 * slower where m is large. The bits are the same. */

#define PANEL (2 * LANES)
#if VECTOR_BYTES == 64
#define TILE_ROWS 12
#elif VECTOR_BYTES == 32
#define TILE_ROWS 6
#else
#define TILE_ROWS 4
#endif

/* Blocks: DOT_BLOCK_K rows of a panel stay in a first-level cache of 48 KiB beside a tile's rows of a, DOT_BLOCK_M rows
 * of a in the second. */
#define DOT_BLOCK_K 192
#define DOT_BLOCK_M 288
#define DOT_SCRATCH_FLOATS (DOT_BLOCK_M * DOT_BLOCK_K + LANES + PANEL * DOT_BLOCK_K)
/* So few rows are bound by reading b: it is not cut into blocks. Later tiles of rows find a panel in the second-level
 * cache, up to a k of some 4000. */
#define DOT_FEW_ROWS 36
/* Copying pays from this many panels (for a) or rows (for b) on: a tile then reaches its rows of a by constant
 * distances from one pointer, and those of b lie in one piece. */
#define DOT_PACK_PANELS 6
#define DOT_PACK_ROWS 48
/* So far ahead the few rows' tiles ask for b, into the second-level cache: more requests can be on their way there than
 * to the first (measured on Zen 4, two threads: 25 to 26 GB/s into the first, 30 to 42 into the second). */
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
INLINE vf load_lanes_bf16(const bf16 *p, int64_t lanes) {
    if (VECTOR_BYTES != 64 && lanes == LANES) return load_bf16(p);
    return load_partial_bf16(p, lanes);
}
INLINE void store_lanes(float *p, int64_t lanes, vf v) {
    if (lanes == LANES) store(p, v);
    else store_partial(p, lanes, v);
}
INLINE vf load_b(const void *b, int64_t index, int is_bf16, int whole, int64_t lanes) {
    if (is_bf16) return whole ? load_bf16((const bf16 *)b + index) : load_lanes_bf16((const bf16 *)b + index, lanes);
    return whole ? load((const float *)b + index) : load_lanes((const float *)b + index, lanes);
}

/* How a tile reads: the last panel may lack columns; whole panels from memory, in streams, asked for ahead; or panels
 * that are near, and an a that dot_pack_a left. */
enum dot_reads { DOT_PARTIAL, DOT_STREAMED, DOT_PACKED };

/* One tile of rows x panels (both constants): all of c in registers while k runs. With several
 * panels each is a memory stream of its own, which is what a matrix-vector product lives by. */
INLINE void dot_tile(const int rows, const int panels, const int is_bf16, const enum dot_reads reads,
                     const struct dot_tile *t) {
    const int whole = reads == DOT_STREAMED, packed = reads == DOT_PACKED;
    int64_t b_low = lanes_left(t->b_columns, 0), b_high = lanes_left(t->b_columns, LANES);
    int64_t c_low = lanes_left(t->c_columns, 0), c_high = lanes_left(t->c_columns, LANES);
    int64_t a_m = packed ? 1 : t->a_m, a_k = packed ? TILE_ROWS : t->a_k, b_k = t->b_k, b_panel = t->b_panel;
    const float *a = t->a;
    const char *b = t->b;
    const int element = is_bf16 ? 2 : 4;
    vf sum[16][2];
    UNROLL for (int i = 0; i < rows; i++) UNROLL for (int p = 0; p < panels; p++) {
        const float *c = t->c + i * t->c_m + p * t->c_panel;
        int tile = i * panels + p;
        sum[tile][0] = sum[tile][1] = (vf){0};
        if (t->accumulate) {
            sum[tile][0] = whole ? load(c) : load_lanes(c, c_low);
            sum[tile][1] = whole ? load(c + LANES) : load_lanes(c + LANES, c_high);
        }
    }
    for (int64_t k = 0; k < t->k; k++) {
        UNROLL for (int p = 0; p < panels; p++) {
            vf low = load_b(b, p * b_panel, is_bf16, whole, b_low);
            vf high = load_b(b, p * b_panel + LANES, is_bf16, whole, b_high);
            if (whole) {
                const char *ahead = b + (p * b_panel + DOT_PREFETCH_STEPS * b_k) * element;
                __builtin_prefetch(ahead, 0, 2);
                if (PANEL * element > 64) __builtin_prefetch(ahead + 64, 0, 2);
            }
            UNROLL for (int i = 0; i < rows; i++) {
                /* Rows in threes, so that few pointers reach all of them. */
                vf x = splat(a[(i / 3) * 3 * a_m + (i % 3) * a_m]);
                sum[i * panels + p][0] = v_fma(x, low, sum[i * panels + p][0]);
                sum[i * panels + p][1] = v_fma(x, high, sum[i * panels + p][1]);
            }
        }
        a += a_k;
        b += b_k * element;
    }
    UNROLL for (int i = 0; i < rows; i++) UNROLL for (int p = 0; p < panels; p++) {
        float *c = t->c + i * t->c_m + p * t->c_panel;
        vf *tile = sum[i * panels + p];
        if (whole) {
            store(c, tile[0]);
            store(c + LANES, tile[1]);
        } else {
            store_lanes(c, c_low, tile[0]);
            store_lanes(c + LANES, c_high, tile[1]);
        }
    }
}

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
#define DEFINE_STREAMED(rows, panels)                                          \
    NOINLINE void dot_streamed_##rows##x##panels(const struct dot_tile *t) {      \
        dot_tile(rows, panels, 0, DOT_STREAMED, t);                               \
    }                                                                             \
    NOINLINE void dot_streamed_bf16_##rows##x##panels(const struct dot_tile *t) { \
        dot_tile(rows, panels, 1, DOT_STREAMED, t);                               \
    }
#define DEFINE_PARTIAL(rows)                                                                                  \
    NOINLINE void dot_partial_##rows(const struct dot_tile *t) { dot_tile(rows, 1, 0, DOT_PARTIAL, t); }      \
    NOINLINE void dot_partial_bf16_##rows(const struct dot_tile *t) { dot_tile(rows, 1, 1, DOT_PARTIAL, t); }
STREAMED_TILES(DEFINE_STREAMED)
PARTIAL_TILES(DEFINE_PARTIAL)
NOINLINE void dot_packed(const struct dot_tile *t) { dot_tile(TILE_ROWS, 1, 0, DOT_PACKED, t); }
NOINLINE void dot_packed_bf16(const struct dot_tile *t) { dot_tile(TILE_ROWS, 1, 1, DOT_PACKED, t); }

/* A tile of as many panels as there are whole ones and registers: how many it took. */
#define STREAMED_CASE(tile_rows, tile_panels)                                     \
    if (rows == tile_rows && panels >= tile_panels) {                             \
        if (is_bf16) dot_streamed_bf16_##tile_rows##x##tile_panels(t);            \
        else dot_streamed_##tile_rows##x##tile_panels(t);                         \
        return tile_panels;                                                       \
    }
INLINE int64_t dot_streamed(int64_t rows, int64_t panels, int is_bf16, const struct dot_tile *t) {
    STREAMED_TILES(STREAMED_CASE)
    return 0;
}
#define PARTIAL_CASE(rows)                        \
    case rows:                                    \
        if (is_bf16) dot_partial_bf16_##rows(t);  \
        else dot_partial_##rows(t);               \
        return;
INLINE void dot_partial(int64_t rows, int is_bf16, const struct dot_tile *t) {
    switch (rows) { PARTIAL_TILES(PARTIAL_CASE) }
}

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

INLINE void dot_any(int is_bf16, int64_t m, int64_t n, int64_t k, const float *a, int64_t a_m, int64_t a_k,
                    const void *b, int64_t b_panel, int64_t b_k, int b_padded, float *c, int64_t c_m,
                    int64_t c_panel, int c_padded, int accumulate, float *scratch) {
    const int element = is_bf16 ? 2 : 4;
    int64_t panels = (n + PANEL - 1) / PANEL, last = n - (panels - 1) * PANEL;
    int64_t whole_panels = (b_padded && c_padded) || last == PANEL ? panels : panels - 1;
    struct dot_tile t = {.b_panel = b_panel, .b_k = b_k, .c_m = c_m, .c_panel = c_panel};
    if (m <= 0) return;
    if (m <= DOT_FEW_ROWS) { /* b is read from memory once, straight through */
        int64_t tiles = (m + TILE_ROWS - 1) / TILE_ROWS, rows = (m + tiles - 1) / tiles, done = 1;
        t.k = k, t.a_m = a_m, t.a_k = a_k, t.accumulate = accumulate;
        for (int64_t p = 0; p < panels; p += done) {
            int64_t whole = tiles == 1 || p >= whole_panels ? whole_panels - p : 1;
            t.b = (const char *)b + p * b_panel * element;
            t.b_columns = b_padded || p + 1 < panels ? PANEL : last;
            t.c_columns = c_padded || p + 1 < panels ? PANEL : last;
            for (int64_t i = 0; i < m; i += rows) {
                int64_t height = m - i < rows ? m - i : rows;
                t.a = a + i * a_m;
                t.c = c + i * c_m + p * c_panel;
                done = dot_streamed(height, whole, is_bf16, &t);
                if (done == 0) dot_partial(height, is_bf16, &t), done = 1;
            }
        }
        return;
    }
    float *packed_a = scratch, *packed_b = scratch ? scratch + DOT_BLOCK_M * DOT_BLOCK_K + LANES : 0;
    int pack_a = scratch && panels >= DOT_PACK_PANELS;
    for (int64_t i0 = 0; i0 < m; i0 += DOT_BLOCK_M) {
        int64_t rows = m - i0 < DOT_BLOCK_M ? m - i0 : DOT_BLOCK_M;
        int pack_b = scratch && rows >= DOT_PACK_ROWS && !is_bf16 && b_k != PANEL;
        int64_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
        int64_t k0 = 0;
        do {
            t.k = k - k0 < DOT_BLOCK_K ? k - k0 : DOT_BLOCK_K;
            t.accumulate = accumulate || k0 > 0;
            t.a_m = pack_a ? 1 : a_m;
            t.a_k = pack_a ? TILE_ROWS : a_k;
            const float *block = a + i0 * a_m + k0 * a_k;
            if (pack_a) dot_pack_a(rows, t.k, block, a_m, a_k, packed_a);
            for (int64_t p = 0; p < panels; p++) {
                const void *panel = (const char *)b + (p * b_panel + k0 * b_k) * element;
                t.b = pack_b ? packed_b : panel;
                t.b_k = pack_b ? PANEL : b_k;
                t.b_columns = b_padded || p + 1 < panels ? PANEL : last;
                t.c_columns = c_padded || p + 1 < panels ? PANEL : last;
                if (pack_b) {
                    dot_pack_b(t.k, panel, b_k, t.b_columns, packed_b);
                    t.b_columns = PANEL;
                }
                for (int64_t i = 0, tile = 0; i < rows; i += TILE_ROWS, tile++) {
                    int64_t height = rows - i < TILE_ROWS ? rows - i : TILE_ROWS;
                    t.a = pack_a ? packed_a + i * t.k : block + i * a_m;
                    t.c = c + (i0 + i) * c_m + p * c_panel;
                    /* What comes next is on its way meanwhile: a part of the next panel, the next tile of sums. */
                    if (p + 1 < panels)
                        dot_ask_for_panel((const char *)panel + b_panel * element, b_k * element, PANEL * element,
                                          t.k * tile / tiles, t.k * (tile + 1) / tiles);
                    if (accumulate && k0 == 0 && rows - i >= 2 * TILE_ROWS)
                        dot_ask_for_sums(t.c + TILE_ROWS * c_m, c_m);
                    if (!pack_a || height < TILE_ROWS) dot_partial(height, is_bf16, &t);
                    else if (is_bf16) dot_packed_bf16(&t);
                    else dot_packed(&t);
                }
            }
            k0 += t.k;
        } while (k0 < k);
    }
}
NOINLINE void dot(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_m, int64_t a_k, const float *b,
                  int64_t b_panel, int64_t b_k, int b_padded, float *c, int64_t c_m, int64_t c_panel,
                  int c_padded, int accumulate, float *scratch) {
    dot_any(0, m, n, k, a, a_m, a_k, b, b_panel, b_k, b_padded, c, c_m, c_panel, c_padded, accumulate, scratch);
}
NOINLINE void dot_bf16(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_m, int64_t a_k,
                       const bf16 *b, int64_t b_panel, int64_t b_k, int b_padded, float *c, int64_t c_m,
                       int64_t c_panel, int c_padded, int accumulate, float *scratch) {
    dot_any(1, m, n, k, a, a_m, a_k, b, b_panel, b_k, b_padded, c, c_m, c_panel, c_padded, accumulate, scratch);
}
