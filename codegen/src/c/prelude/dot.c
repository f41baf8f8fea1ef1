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
 * Elements of b are of type ELEMENT, stored narrow or not; OF(name) is name for that type. They are widened as they are
 * read, and a and c are floats.
 * scratch is room for DOT_SCRATCH_FLOATS, or null: then operands are always read in place, which is
 * slower where m is large. The bits are the same. */

INLINE vf OF(load_b)(const ELEMENT *b, int whole, int64_t lanes) {
    if (whole || (VECTOR_BYTES != 64 && lanes == LANES)) return OF(load)(b);
    return OF(load_partial)(b, lanes);
}

/* One tile of rows x panels (both constants): all of c in registers while k runs. With several
 * panels each is a memory stream of its own, which is what a matrix-vector product lives by. */
INLINE void OF(dot_tile)(const int rows, const int panels, const enum dot_reads reads, const struct dot_tile *t) {
    const int whole = reads == DOT_STREAMED, packed = reads == DOT_PACKED;
    int64_t b_low = lanes_left(t->b_columns, 0), b_high = lanes_left(t->b_columns, LANES);
    int64_t c_low = lanes_left(t->c_columns, 0), c_high = lanes_left(t->c_columns, LANES);
    int64_t a_m = packed ? 1 : t->a_m, a_k = packed ? TILE_ROWS : t->a_k, b_k = t->b_k, b_panel = t->b_panel;
    const float *a = t->a;
    const ELEMENT *b = t->b;
    const int row_bytes = PANEL * sizeof(ELEMENT);
    const int64_t steps_ahead = DOT_PREFETCH_STEPS * sizeof(float) / sizeof(ELEMENT);
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
            vf low = OF(load_b)(b + p * b_panel, whole, b_low);
            vf high = OF(load_b)(b + p * b_panel + LANES, whole, b_high);
            if (whole) {
                const char *ahead = (const char *)(b + p * b_panel + steps_ahead * b_k);
                __builtin_prefetch(ahead, 0, 2);
                if (row_bytes > 64) __builtin_prefetch(ahead + 64, 0, 2);
            }
            UNROLL for (int i = 0; i < rows; i++) {
                /* Rows in threes, so that few pointers reach all of them. */
                vf x = splat(a[(i / 3) * 3 * a_m + (i % 3) * a_m]);
                sum[i * panels + p][0] = v_fma(x, low, sum[i * panels + p][0]);
                sum[i * panels + p][1] = v_fma(x, high, sum[i * panels + p][1]);
            }
        }
        a += a_k;
        b += b_k;
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

#define DEFINE_STREAMED(rows, panels)                                            \
    NOINLINE void OF(dot_streamed_##rows##x##panels)(const struct dot_tile *t) { \
        OF(dot_tile)(rows, panels, DOT_STREAMED, t);                             \
    }
#define DEFINE_PARTIAL(rows) \
    NOINLINE void OF(dot_partial_##rows)(const struct dot_tile *t) { OF(dot_tile)(rows, 1, DOT_PARTIAL, t); }
STREAMED_TILES(DEFINE_STREAMED)
PARTIAL_TILES(DEFINE_PARTIAL)
NOINLINE void OF(dot_packed)(const struct dot_tile *t) { OF(dot_tile)(TILE_ROWS, 1, DOT_PACKED, t); }

/* A tile of as many panels as there are whole ones and registers: how many it took. */
#define STREAMED_CASE(tile_rows, tile_panels)                 \
    if (rows == tile_rows && panels >= tile_panels) {         \
        OF(dot_streamed_##tile_rows##x##tile_panels)(t);      \
        return tile_panels;                                   \
    }
INLINE int64_t OF(dot_streamed)(int64_t rows, int64_t panels, const struct dot_tile *t) {
    STREAMED_TILES(STREAMED_CASE)
    return 0;
}
#define PARTIAL_CASE(rows) \
    case rows: OF(dot_partial_##rows)(t); return;
INLINE void OF(dot_partial)(int64_t rows, const struct dot_tile *t) {
    switch (rows) { PARTIAL_TILES(PARTIAL_CASE) }
}

/* Copies k rows of a panel out of panels that lie across: they hold k where b has columns, b_panel elements from one
 * PANEL of k to the next. Of its columns that are not there become zeros. */
INLINE void OF(dot_turn_b)(int64_t k, const ELEMENT *b, int64_t b_panel, int64_t columns, float *packed) {
    for (int64_t kk = 0; kk < k; kk += LANES) {
        const ELEMENT *from = b + kk / PANEL * b_panel + kk % PANEL;
        for (int64_t j = 0; j < PANEL; j += LANES) {
            vf rows[LANES];
            int64_t width = lanes_left(columns, j), depth = lanes_left(k, kk);
            if (width == LANES) UNROLL for (int l = 0; l < LANES; l++) rows[l] = OF(load)(from + (j + l) * PANEL);
            else for (int l = 0; l < LANES; l++) rows[l] = l < width ? OF(load)(from + (j + l) * PANEL) : (vf){0};
            transpose_registers(rows);
            if (depth == LANES) UNROLL for (int l = 0; l < LANES; l++) store(packed + (kk + l) * PANEL + j, rows[l]);
            else for (int64_t l = 0; l < depth; l++) store(packed + (kk + l) * PANEL + j, rows[l]);
        }
    }
}
/* Asks for rows first .. end of k of a panel, as far as dot_turn_b reads that many, into the second-level cache. */
INLINE void OF(dot_ask_across)(const ELEMENT *panel, int64_t b_panel, int64_t first, int64_t end) {
    for (int64_t k = first; k < end; k++)
        for (int64_t at = 0; at < PANEL; at += 64 / (int64_t)sizeof(ELEMENT))
            __builtin_prefetch(panel + k / PANEL * b_panel + k % PANEL * PANEL + at, 0, 2);
}

/* Many rows, in blocks. Where b lies across (a constant), its panels are turned over one by one. */
INLINE void OF(dot_blocks)(const int across, int64_t m, int64_t n, int64_t k, const float *a, int64_t a_m,
                           int64_t a_k, const ELEMENT *b, int64_t b_panel, int64_t b_k, int b_padded, float *c,
                           int64_t c_m, int64_t c_panel, int c_padded, int accumulate, float *scratch) {
    int64_t panels = (n + PANEL - 1) / PANEL, last = n - (panels - 1) * PANEL;
    struct dot_tile t = {.b_panel = b_panel, .b_k = b_k, .c_m = c_m, .c_panel = c_panel};
    float *packed_a = scratch, *packed_b = scratch ? scratch + DOT_BLOCK_M * DOT_BLOCK_K + LANES : 0;
    int pack_a = scratch && panels >= DOT_PACK_PANELS;
    for (int64_t i0 = 0; i0 < m; i0 += DOT_BLOCK_M) {
        int64_t rows = m - i0 < DOT_BLOCK_M ? m - i0 : DOT_BLOCK_M;
        int pack_b = scratch && rows >= DOT_PACK_ROWS && IS_FLOAT && b_k != PANEL;
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
                const ELEMENT *panel = b + p * b_panel + k0 * b_k;
                if (across) panel = b + k0 / PANEL * b_panel + p * PANEL * PANEL;
                t.b = across || pack_b ? (const void *)packed_b : panel;
                t.b_k = across || pack_b ? PANEL : b_k;
                t.b_columns = b_padded || p + 1 < panels ? PANEL : last;
                t.c_columns = c_padded || p + 1 < panels ? PANEL : last;
                if (across) {
                    OF(dot_turn_b)(t.k, panel, b_panel, p + 1 < panels ? PANEL : last, packed_b);
                    t.b_columns = PANEL;
                } else if (pack_b) {
                    dot_pack_b(t.k, (const float *)panel, b_k, t.b_columns, packed_b);
                    t.b_columns = PANEL;
                }
                for (int64_t i = 0, tile = 0; i < rows; i += TILE_ROWS, tile++) {
                    int64_t height = rows - i < TILE_ROWS ? rows - i : TILE_ROWS;
                    t.a = pack_a ? packed_a + i * t.k : block + i * a_m;
                    t.c = c + (i0 + i) * c_m + p * c_panel;
                    /* What comes next is on its way meanwhile: a part of the next panel, the next tile of sums. */
                    if (across && (p + 1 < panels || k0 + t.k < k))
                        OF(dot_ask_across)(p + 1 < panels ? panel + PANEL * PANEL : b + (k0 + t.k) / PANEL * b_panel,
                                       b_panel, t.k * tile / tiles, t.k * (tile + 1) / tiles);
                    else if (p + 1 < panels)
                        dot_ask_for_panel((const char *)(panel + b_panel), b_k * sizeof(ELEMENT),
                                          PANEL * sizeof(ELEMENT), t.k * tile / tiles, t.k * (tile + 1) / tiles);
                    if (accumulate && k0 == 0 && rows - i >= 2 * TILE_ROWS)
                        dot_ask_for_sums(t.c + TILE_ROWS * c_m, c_m);
                    if (!pack_a || height < TILE_ROWS) OF(dot_partial)(height, &t);
                    else OF(dot_packed)(&t);
                }
            }
            k0 += t.k;
        } while (k0 < k);
    }
}

NOINLINE void OF(dot)(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_m, int64_t a_k, const ELEMENT *b,
                      int64_t b_panel, int64_t b_k, int b_padded, float *c, int64_t c_m, int64_t c_panel,
                      int c_padded, int accumulate, float *scratch) {
    int64_t panels = (n + PANEL - 1) / PANEL, last = n - (panels - 1) * PANEL;
    int64_t whole_panels = (b_padded && c_padded) || last == PANEL ? panels : panels - 1;
    struct dot_tile t = {.b_panel = b_panel, .b_k = b_k, .c_m = c_m, .c_panel = c_panel};
    if (m <= 0) return;
    if (m <= DOT_FEW_ROWS) { /* b is read from memory once, straight through */
        int64_t tiles = (m + TILE_ROWS - 1) / TILE_ROWS, rows = (m + tiles - 1) / tiles, done = 1;
        t.k = k, t.a_m = a_m, t.a_k = a_k, t.accumulate = accumulate;
        for (int64_t p = 0; p < panels; p += done) {
            int64_t whole = tiles == 1 || p >= whole_panels ? whole_panels - p : 1;
            t.b = b + p * b_panel;
            t.b_columns = b_padded || p + 1 < panels ? PANEL : last;
            t.c_columns = c_padded || p + 1 < panels ? PANEL : last;
            for (int64_t i = 0; i < m; i += rows) {
                int64_t height = m - i < rows ? m - i : rows;
                t.a = a + i * a_m;
                t.c = c + i * c_m + p * c_panel;
                done = OF(dot_streamed)(height, whole, &t);
                if (done == 0) OF(dot_partial)(height, &t), done = 1;
            }
        }
        return;
    }
    OF(dot_blocks)(0, m, n, k, a, a_m, a_k, b, b_panel, b_k, b_padded, c, c_m, c_panel, c_padded, accumulate,
                   scratch);
}
