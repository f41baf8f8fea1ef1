/* Transposes: strided blocks turned over in registers, LANES x LANES at a time.
 * Only moves data: every value arrives with the bits that it had. */

/* Butterfly step s exchanges, between rows i and i + s, the lanes whose index differs in bit s. */
#define KEEP_LOW(lane, s) (((lane) & (s)) == 0 ? (lane) : LANES + (lane) - (s))
#define KEEP_HIGH(lane, s) (((lane) & (s)) == 0 ? (lane) + (s) : LANES + (lane))
#define TRANSPOSE_STEP(rows, s)                                    \
    UNROLL for (int i = 0; i < LANES; i++) if ((i & (s)) == 0) {   \
        vf low = SHUFFLE(rows[i], rows[i + (s)], KEEP_LOW, s);     \
        rows[i + (s)] = SHUFFLE(rows[i], rows[i + (s)], KEEP_HIGH, s); \
        rows[i] = low;                                             \
    }
INLINE void transpose_registers(vf rows[LANES]) {
    TRANSPOSE_STEP(rows, 1)
    TRANSPOSE_STEP(rows, 2)
#if LANES >= 8
    TRANSPOSE_STEP(rows, 4)
#endif
#if LANES >= 16
    TRANSPOSE_STEP(rows, 8)
#endif
}

/* dst[j * ldd + i] = src[i * lds + j] for i < m, j < n. */
#define DEFINE_TRANSPOSE(NAME, ELEMENT, LOAD, LOAD_PARTIAL)                                          \
    NOINLINE void NAME(int64_t m, int64_t n, const ELEMENT *src, int64_t lds, float *dst, int64_t ldd) { \
        for (int64_t i0 = 0; i0 < m; i0 += LANES) {                                                  \
            int64_t height = m - i0 < LANES ? m - i0 : LANES;                                        \
            for (int64_t j0 = 0; j0 < n; j0 += LANES) {                                              \
                int64_t width = n - j0 < LANES ? n - j0 : LANES;                                     \
                const ELEMENT *from = src + i0 * lds + j0;                                           \
                float *to = dst + j0 * ldd + i0;                                                     \
                vf rows[LANES];                                                                      \
                if (height == LANES && width == LANES) {                                             \
                    UNROLL for (int i = 0; i < LANES; i++) rows[i] = LOAD(from + i * lds);           \
                    transpose_registers(rows);                                                       \
                    UNROLL for (int j = 0; j < LANES; j++) store(to + j * ldd, rows[j]);             \
                } else {                                                                             \
                    for (int i = 0; i < LANES; i++)                                                  \
                        rows[i] = i < height ? LOAD_PARTIAL(from + i * lds, width) : (vf){0};        \
                    transpose_registers(rows);                                                       \
                    for (int j = 0; j < width; j++) store_partial(to + j * ldd, height, rows[j]);    \
                }                                                                                    \
            }                                                                                        \
        }                                                                                            \
    }
DEFINE_TRANSPOSE(transpose_block, float, load, load_partial)
DEFINE_TRANSPOSE(transpose_block_bf16, bf16, load_bf16, load_partial_bf16)
DEFINE_TRANSPOSE(transpose_block_f16, f16, load_f16, load_partial_f16)
DEFINE_TRANSPOSE(transpose_block_i8, i8, load_i8, load_partial_i8)
