/* What the dot is measured against: the peak of independent multiply-adds, and a plain read. */
float bench_peak(int64_t rounds) {
    vf sum[12], x = splat(0.999f), y = splat(1e-3f);
    UNROLL for (int i = 0; i < 12; i++) sum[i] = splat((float)i);
    for (int64_t round = 0; round < rounds; round++) UNROLL for (int i = 0; i < 12; i++) {
        sum[i] = v_fma(sum[i], x, y);
        __asm__ volatile("" : "+v"(sum[i])); /* so that nothing is folded away */
    }
    vf total = sum[0];
    UNROLL for (int i = 1; i < 12; i++) total += sum[i];
    return fold_sum(total);
}
float bench_read(int64_t n, const float *p) {
    vf sum[8] = {{0}};
    for (int64_t i = 0; i + 8 * LANES <= n; i += 8 * LANES)
        UNROLL for (int j = 0; j < 8; j++) sum[j] += load(p + i + j * LANES);
    vf total = sum[0];
    UNROLL for (int j = 1; j < 8; j++) total += sum[j];
    return fold_sum(total);
}
