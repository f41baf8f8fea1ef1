/* dot_turned: the dot with a right operand whose rows stand where a dot has columns, such as keys against
 * queries: b[k,j] stands at b + j*b_n + k. The bits are those of dot.
 * Few rows of a turn b over in registers, LANES x LANES at a time, and use it at once: to store it turned over,
 * and read it again, would take longer than the product. For more rows it is stored in `tile`
 * (tile[k,j] at tile + k*tile_k + j), and `dot` multiplies with that. */

INLINE void OF(turned_rows)(const int rows, int64_t n, int64_t k, const float *a, int64_t a_m, int64_t a_k,
                            const ELEMENT *b, int64_t b_n, float *c, int64_t c_m, int accumulate) {
    for (int64_t j = 0; j < n; j += LANES) {
        int64_t width = lanes_left(n, j), kk = 0;
        const ELEMENT *from = b + j * b_n;
        vf sum[TURNED_ROWS], block[LANES];
        UNROLL for (int i = 0; i < rows; i++) sum[i] = accumulate ? load_lanes(c + i * c_m + j, width) : (vf){0};
        if (width == LANES)
            for (; kk + LANES <= k; kk += LANES) {
                UNROLL for (int l = 0; l < LANES; l++) {
                    block[l] = OF(load)(from + l * b_n + kk);
                    __builtin_prefetch(from + (l + TURNED_AHEAD) * b_n + kk, 0, 2);
                }
                transpose_registers(block);
                UNROLL for (int l = 0; l < LANES; l++) UNROLL for (int i = 0; i < rows; i++)
                    sum[i] = v_fma(splat(a[i * a_m + (kk + l) * a_k]), block[l], sum[i]);
            }
        for (; kk < k; kk += LANES) {
            int64_t depth = lanes_left(k, kk);
            for (int l = 0; l < LANES; l++)
                block[l] = l < width ? OF(load_b)(from + l * b_n + kk, 0, depth) : (vf){0};
            transpose_registers(block);
            for (int64_t l = 0; l < depth; l++) UNROLL for (int i = 0; i < rows; i++)
                sum[i] = v_fma(splat(a[i * a_m + (kk + l) * a_k]), block[l], sum[i]);
        }
        UNROLL for (int i = 0; i < rows; i++) store_lanes(c + i * c_m + j, width, sum[i]);
    }
}

#define DEFINE_TURNED(rows)                                                                                   \
    NOINLINE void OF(turned_##rows)(int64_t n, int64_t k, const float *a, int64_t a_m, int64_t a_k,           \
                                    const ELEMENT *b, int64_t b_n, float *c, int64_t c_m, int accumulate) {   \
        OF(turned_rows)(rows, n, k, a, a_m, a_k, b, b_n, c, c_m, accumulate);                                 \
    }
TURNED_CASES(DEFINE_TURNED)

#define TURNED_CASE(rows) \
    case rows: OF(turned_##rows)(n, k, a, a_m, a_k, b, b_n, c, c_m, accumulate); return;
NOINLINE void OF(dot_turned)(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_m, int64_t a_k,
                             const ELEMENT *b, int64_t b_n, float *tile, int64_t tile_k, float *c, int64_t c_m,
                             int accumulate, float *scratch, dot_of_floats *dot) {
    switch (m) { TURNED_CASES(TURNED_CASE) }
    OF(transpose_block)(n, k, b, b_n, tile, tile_k);
    dot(m, n, k, a, a_m, a_k, tile, PANEL, tile_k, 0, c, c_m, PANEL, 0, accumulate, scratch);
}
