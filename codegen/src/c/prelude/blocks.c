/* Products of rounded rows with weights in blocks: c[i,j] = sum over k of a[i,k] * b[k,j].
 * Within a block (of 16 k for Q6_K, of 32 otherwise) products are summed in integers, exactly, whatever instruction
 * does it; over blocks each element of c is one chain of fused multiply-adds, ascending from zero:
 *     sum = fma(dot(integers of b less what 0 stands for, integers of a), scale of a * scale of b, sum)
 * and, where b has an offset of its own, then sum = fma(offset, scale of a * sum of integers of a, sum).
 * No tile, width or instruction set below changes a bit of the result. */

/* A block of rounded activations: see ROUNDED_WORDS. */
#define ROUNDED_WORDS 12
#define ROUNDED_SCALE 0
#define ROUNDED_SCALED_SUM 1
#define ROUNDED_MINUS_SUM 2
#define ROUNDED_MINUS_LOW 3
#define ROUNDED_INTEGERS 4

typedef uint8_t vb __attribute__((vector_size(VECTOR_BYTES)));
typedef int8_t lane_bytes __attribute__((vector_size(LANES)));
typedef uint8_t lane_ubytes __attribute__((vector_size(LANES)));
typedef vb unaligned_vb __attribute__((aligned(1), may_alias));
typedef lane_bytes unaligned_lane_bytes __attribute__((aligned(1), may_alias));
typedef lane_ubytes unaligned_lane_ubytes __attribute__((aligned(1), may_alias));

INLINE vb load_bytes(const uint8_t *p) { return *(const unaligned_vb *)p; }

INLINE vf load_halves(const uint8_t *p) {
#if VECTOR_BYTES == 64
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#elif VECTOR_BYTES == 32
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
#else
    vf v;
    for (int lane = 0; lane < LANES; lane++) v[lane] = half_at(p, lane);
    return v;
#endif
}
INLINE vf load_ubytes_as_float(const uint8_t *p) {
    return __builtin_convertvector(__builtin_convertvector(*(const unaligned_lane_ubytes *)p, vi), vf);
}
INLINE vf load_bytes_as_float(const uint8_t *p) {
    return __builtin_convertvector(__builtin_convertvector(*(const unaligned_lane_bytes *)p, vi), vf);
}

/* sum[lane] += the four bytes of u in a lane, unsigned, times the four of x, signed. Nothing saturates. */
#if VECTOR_BYTES == 64 && defined(__AVX512VNNI__)
typedef vi four_bytes;
INLINE four_bytes splat_bytes(int32_t x) { return splat_int(x); }
INLINE vi dot_bytes(vi sum, vb u, four_bytes x) {
    return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)u, (__m512i)x);
}
#else
/* Even and odd bytes as 16-bit integers, two products of which are summed to 32 bits. */
typedef struct { vi even, odd; } four_bytes;
INLINE four_bytes splat_bytes(int32_t x) {
    const uint32_t even = (uint16_t)(int16_t)(int8_t)x | (uint32_t)(uint16_t)(int16_t)(int8_t)(x >> 16) << 16;
    const uint32_t odd = (uint16_t)(int16_t)(int8_t)(x >> 8) | (uint32_t)(uint16_t)(int16_t)(int8_t)(x >> 24) << 16;
    return (four_bytes){splat_int((int32_t)even), splat_int((int32_t)odd)};
}
INLINE vi dot_pairs(vi a, vi b) {
#if VECTOR_BYTES == 64 && defined(__AVX512BW__)
    return (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif VECTOR_BYTES == 32
    return (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif VECTOR_BYTES == 16 && defined(__SSE2__)
    return (vi)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
    return (a << 16 >> 16) * (b << 16 >> 16) + (a >> 16) * (b >> 16);
#endif
}
INLINE vi dot_bytes(vi sum, vb u, four_bytes x) {
    const vu bytes = (vu)u;
    return sum + dot_pairs((vi)(bytes & 0x00ff00ffu), x.even) + dot_pairs((vi)(bytes >> 8 & 0x00ff00ffu), x.odd);
}
#endif

INLINE int32_t word_at(const float *p) {
    int32_t word;
    memcpy(&word, p, 4);
    return word;
}

/* What a column's integers of a part are multiplied with, and what is added for each of them. */
INLINE vf block_scale(const int format, const uint8_t *head, const uint8_t *scales, int part, int half) {
    if (format == Q4_K)
        return load_halves(head + half * 2 * LANES) * load_ubytes_as_float(scales + half * LANES);
    if (format == Q6_K)
        return load_halves(head + half * 2 * LANES) * load_bytes_as_float(scales + part * PANEL + half * LANES);
    return load_halves(scales + half * 2 * LANES);
}
INLINE vf block_offset(const int format, const uint8_t *head, const uint8_t *scales, int half) {
    if (format == Q4_K)
        return -(load_halves(head + 2 * PANEL + half * 2 * LANES) * load_ubytes_as_float(scales + PANEL + half * LANES));
    return load_halves(scales + 2 * PANEL + half * 2 * LANES);
}

/* The integers of four k: group 0 to 7 of a block. */
INLINE vb block_integers(const int format, const uint8_t *integers, int group, int half) {
    if (format == Q8_0) return load_bytes(integers + (2 * group + half) * VECTOR_BYTES);
    vu low = (vu)load_bytes(integers + (2 * (group % 4) + half) * VECTOR_BYTES);
    low = (group < 4 ? low : low >> 4) & 0x0f0f0f0fu;
    if (format == Q6_K) {
        const vu high = (vu)load_bytes(integers + 16 * PANEL + (2 * (group / 4) + half) * VECTOR_BYTES);
        const int at = group % 4;
        low |= (at < 2 ? high << (4 - 2 * at) : at == 2 ? high : high >> 2) & 0x30303030u;
    }
    return (vb)low;
}

/* So far ahead of what is multiplied with one or two rows weights are asked for, into the second-level cache. With more rows the
 * first few ask for the next panel. */
#define BLOCKS_AHEAD_BYTES 4096

/* One tile of rows x panels, both constants: all of c in registers while k runs. Of several panels each is a memory
 * stream of its own. `columns` may be written in the last panel. Weights are asked for so many
 * bytes ahead, if any. */
INLINE void blocks_tile(const int format, const int rows, const int panels, int64_t k, const float *a, int64_t a_m,
                        const uint8_t *b, int64_t b_panel, float *c, int64_t c_m, int64_t columns, int64_t ahead) {
    const int parts = format == Q6_K ? 2 : 1, groups = 8 / parts;
    vf sum[8][2];
    UNROLL for (int tile = 0; tile < rows * panels; tile++) sum[tile][0] = sum[tile][1] = (vf){0};
    for (int64_t block = 0; block < k / 32;) {
        const uint8_t *head = b;
        b += HEAD_BYTES(format);
        for (int within = 0; within < BLOCKS_A_HEAD(format); within++, block++) {
            UNROLL for (int p = 0; p < panels; p++) {
                const uint8_t *scales = b + p * b_panel, *integers = scales + SCALE_BYTES(format);
                if (ahead) {
                    UNROLL for (int line = 0; line < BLOCK_BYTES(format); line += 64)
                        __builtin_prefetch(scales + ahead + line, 0, 2);
                }
                UNROLL for (int part = 0; part < parts; part++) {
                    vi dot[8][2];
                    UNROLL for (int i = 0; i < rows; i++) {
                        vi start = {0};
                        if (ZERO_SHIFT(format) > 0) {
                            const float *x = a + i * a_m;
                            start = splat_int(word_at(x + ROUNDED_MINUS_SUM));
                            if (parts == 2) {
                                const vi low = splat_int(word_at(x + ROUNDED_MINUS_LOW));
                                start = part == 0 ? low : start - low;
                            }
                            start = start << ZERO_SHIFT(format);
                        }
                        dot[i][0] = dot[i][1] = start;
                    }
                    UNROLL for (int group = part * groups; group < (part + 1) * groups; group++) {
                        const vb low = block_integers(format, integers, group, 0);
                        const vb high = block_integers(format, integers, group, 1);
                        UNROLL for (int i = 0; i < rows; i++) {
                            const four_bytes x = splat_bytes(word_at(a + i * a_m + ROUNDED_INTEGERS + group));
                            dot[i][0] = dot_bytes(dot[i][0], low, x);
                            dot[i][1] = dot_bytes(dot[i][1], high, x);
                        }
                    }
                    UNROLL for (int half = 0; half < 2; half++) {
                        const vf scale = block_scale(format, head + p * b_panel, scales, part, half);
                        UNROLL for (int i = 0; i < rows; i++) {
                            vf *to = &sum[i * panels + p][half];
                            *to = v_fma(int_to_float(dot[i][half]), splat(a[i * a_m + ROUNDED_SCALE]) * scale, *to);
                        }
                        if (format == Q4_1 || format == Q4_K) {
                            const vf offset = block_offset(format, head + p * b_panel, scales, half);
                            UNROLL for (int i = 0; i < rows; i++) {
                                vf *to = &sum[i * panels + p][half];
                                *to = v_fma(offset, splat(a[i * a_m + ROUNDED_SCALED_SUM]), *to);
                            }
                        }
                    }
                }
            }
            b += BLOCK_BYTES(format);
            a += ROUNDED_WORDS;
        }
    }
    UNROLL for (int i = 0; i < rows; i++) UNROLL for (int p = 0; p < panels; p++) UNROLL for (int half = 0; half < 2; half++) {
        int64_t left = p + 1 < panels ? LANES : columns - half * LANES;
        left = left < 0 ? 0 : left < LANES ? left : LANES;
        float *to = c + i * c_m + p * PANEL + half * LANES;
        if (left == LANES) store(to, sum[i * panels + p][half]);
        else store_partial(to, left, sum[i * panels + p][half]);
    }
}

/* Rows of a tile of one panel, and panels of a tile of one or two rows. */
#if VECTOR_BYTES == 64
#define BLOCK_ROWS 6
#define BLOCK_TILES(X, format) \
    X(format, 1, 4) X(format, 1, 2) X(format, 2, 2) X(format, 1, 1) X(format, 2, 1) X(format, 3, 1) X(format, 4, 1) \
    X(format, 5, 1) X(format, 6, 1)
#else
#define BLOCK_ROWS 2
#define BLOCK_TILES(X, format) X(format, 1, 2) X(format, 1, 1) X(format, 2, 1)
#endif

struct blocks_work {
    int64_t k, a_m, b_panel, c_m, columns, ahead;
    const float *a;
    const uint8_t *b;
    float *c;
};
#define DEFINE_BLOCK_TILE(format, rows, panels)                                                                       \
    NOINLINE void tile_##format##_##rows##x##panels(const struct blocks_work *w) {                                    \
        blocks_tile(format, rows, panels, w->k, w->a, w->a_m, w->b, w->b_panel, w->c, w->c_m, w->columns, w->ahead); \
    }
#define BLOCK_TILE_CASE(format, rows, panels) \
    case 16 * rows + panels: tile_##format##_##rows##x##panels(w); return;

/* Each panel is read from memory once, and used for all rows while it is near. */
#define DEFINE_BLOCK_DOT(name, format)                                                                                \
    BLOCK_TILES(DEFINE_BLOCK_TILE, format)                                                                            \
    INLINE void tile_##name(int64_t rows, int64_t panels, const struct blocks_work *w) {                              \
        switch (16 * rows + panels) { BLOCK_TILES(BLOCK_TILE_CASE, format) }                                          \
    }                                                                                                                 \
    void diptych_dot_##name(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_m, const uint8_t *b, float *c, \
                            int64_t c_m) {                                                                            \
        const int64_t all = (n + PANEL - 1) / PANEL;                                                                  \
        struct blocks_work w = {.k = k, .a_m = a_m, .b_panel = panel_bytes(format, k), .c_m = c_m};                   \
        for (int64_t p = 0, step; p < all; p += step) {                                                               \
            step = panels_at_once(m, all - p);                                                                        \
            w.b = b + p * w.b_panel;                                                                                  \
            w.columns = p + step < all ? PANEL : n - (all - 1) * PANEL;                                               \
            for (int64_t i = 0; i < m; i += BLOCK_ROWS) {                                                             \
                w.a = a + i * a_m;                                                                                    \
                w.ahead = m <= 2 ? BLOCKS_AHEAD_BYTES : i == 0 ? step * w.b_panel : 0;                                \
                w.c = c + i * c_m + p * PANEL;                                                                        \
                tile_##name(m - i < BLOCK_ROWS ? m - i : BLOCK_ROWS, step, &w);                                       \
            }                                                                                                         \
        }                                                                                                             \
    }
INLINE int64_t panels_at_once(int64_t rows, int64_t left) {
#if VECTOR_BYTES == 64
    if (rows == 1 && left >= 4) return 4;
    return rows <= 2 && left >= 2 ? 2 : 1;
#else
    return rows == 1 && left >= 2 ? 2 : 1;
#endif
}

INLINE int32_t fold_int(vi v) {
#if LANES >= 16
    v += SHUFFLE(v, v, PARTNER, 8);
#endif
#if LANES >= 8
    v += SHUFFLE(v, v, PARTNER, 4);
#endif
    v += SHUFFLE(v, v, PARTNER, 2);
    v += SHUFFLE(v, v, PARTNER, 1);
    return v[0];
}

/* Rounds m rows of k floats to blocks. A block with what is no finite number has no scale, and what is
 * computed with it is none either. */
void diptych_round_blocks(int64_t m, int64_t k, const float *x, int64_t x_m, float *y, int64_t y_m) {
    for (int64_t i = 0; i < m; i++, x += x_m, y += y_m) {
        float *to = y;
        for (int64_t block = 0; block < k; block += 32, to += ROUNDED_WORDS) {
            const float *from = x + block;
            vf largest = {0};
            vi finite = ~(vi){0};
            UNROLL for (int j = 0; j < 32; j += LANES) {
                const vf size = v_abs(load(from + j));
                largest = v_max(size, largest);
                finite &= (vi)(size <= splat(0x1.fffffep127f));
            }
            const float most = fold_max(largest);
            float scale = 0.0f, inverse = 0.0f;
            if (most >= 1e-30f) scale = most / 127.0f, inverse = 127.0f / most;
            if (any_lane(~finite)) scale = __builtin_nanf(""), inverse = 0.0f;
            vi low = {0}, high = {0};
            UNROLL for (int j = 0; j < 32; j += LANES) {
                /* Added to this, a small number is rounded to a whole one, the even one of two. */
                const vf whole = load(from + j) * splat(inverse) + splat(0x1.8p23f);
                const vi integers = ((vi)whole & splat_int(0x7fffff)) - splat_int(0x400000);
                *(unaligned_lane_bytes *)((int8_t *)(to + ROUNDED_INTEGERS) + j) =
                    __builtin_convertvector(integers, lane_bytes);
                if (j < 16) low += integers;
                else high += integers;
            }
            const int32_t of_low = fold_int(low), sum = of_low + fold_int(high);
            const int32_t minus[2] = {-sum, -of_low};
            to[ROUNDED_SCALE] = scale;
            to[ROUNDED_SCALED_SUM] = scale * (float)sum;
            memcpy(to + ROUNDED_MINUS_SUM, minus, 8);
        }
    }
}
