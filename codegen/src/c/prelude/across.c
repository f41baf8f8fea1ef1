
/* dot_across: the dot with a weight in panels that hold k where b has columns: b[k,j] stands at
 * b + k/PANEL*b_panel + j*PANEL + k%PANEL. It is what a gradient is multiplied with, and is never stored otherwise: a panel
 * at a time is turned over into the first-level cache. The bits are those of dot. It needs scratch. */
NOINLINE void dot_across(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_m, int64_t a_k, const float *b,
                         int64_t b_panel, float *c, int64_t c_m, int64_t c_panel, int c_padded, int accumulate,
                         float *scratch) {
    dot_blocks(1, m, n, k, a, a_m, a_k, b, b_panel, PANEL, 0, c, c_m, c_panel, c_padded, accumulate, scratch);
}
