/* What the tests call: the prelude's functions over arrays, body and tail. */
#define OVER_ARRAY(NAME)                                                              \
    void test_##NAME(int64_t n, const float *x, float *y) {                           \
        int64_t i = 0;                                                                \
        for (; i + LANES <= n; i += LANES) store(y + i, v_##NAME(load(x + i)));       \
        if (i < n) store_partial(y + i, n - i, v_##NAME(load_partial(x + i, n - i))); \
    }
OVER_ARRAY(exp)
OVER_ARRAY(log)
OVER_ARRAY(tanh)
OVER_ARRAY(sin)
OVER_ARRAY(cos)
OVER_ARRAY(erf)
OVER_ARRAY(sigmoid)
OVER_ARRAY(sqrt)
OVER_ARRAY(rsqrt)
OVER_ARRAY(abs)

void test_max(const float *a, const float *b, float *out) { store(out, v_max(load(a), load(b))); }
void test_min(const float *a, const float *b, float *out) { store(out, v_min(load(a), load(b))); }
void test_fma(const float *a, const float *b, const float *c, float *out) {
    store(out, v_fma(load(a), load(b), load(c)));
}
float test_fold_sum(const float *x) { return fold_sum(load(x)); }
float test_fold_max(const float *x) { return fold_max(load(x)); }
void test_folds(const float *x, float *out) {
    vf sums[LANES], maxima[LANES];
    for (int l = 0; l < LANES; l++) sums[l] = maxima[l] = load(x + l * LANES);
    store(out, fold_sums(sums));
    store(out + LANES, fold_maxima(maxima));
}
void test_integers(const int32_t *a, const int32_t *b, int32_t *out) {
    vi x = load_int(a), y = load_int(b);
    store_int(out, v_max_int(x, y));
    store_int(out + LANES, v_min_int(x, y));
    store_int(out + 2 * LANES, v_abs_int(x));
    store_int(out + 3 * LANES, select_int(x < y, iota(), splat_int(-7)));
    store_int(out + 4 * LANES, float_to_int(int_to_float(x)));
    out[5 * LANES] = any_lane(x == y);
}
void test_gather(const float *base, const int32_t *index, float *out) {
    store(out, gather(base, load_int(index)));
}

/* Bits of the three ways to round; they must agree. */
#define OVER_NARROW(TYPE, BITS)                                                                              \
    void test_to_##TYPE(int64_t n, const float *x, BITS *stored, float *rounded, BITS *scalar) {             \
        for (int64_t i = 0; i < n; i += LANES) {                                                             \
            int64_t lanes = n - i < LANES ? n - i : LANES;                                                   \
            vf v = load_partial(x + i, lanes);                                                               \
            if (lanes == LANES) store_##TYPE(stored + i, v);                                                 \
            else store_partial_##TYPE(stored + i, lanes, v);                                                 \
            store_partial(rounded + i, lanes, round_##TYPE(v));                                              \
        }                                                                                                    \
        for (int64_t i = 0; i < n; i++) scalar[i] = float_to_##TYPE(x[i]);                                   \
    }                                                                                                        \
    void test_from_##TYPE(int64_t n, const BITS *x, float *vector, float *scalar) {                          \
        for (int64_t i = 0; i < n; i += LANES) {                                                             \
            int64_t lanes = n - i < LANES ? n - i : LANES;                                                   \
            if (lanes == LANES) store(vector + i, load_##TYPE(x + i));                                       \
            else store_partial(vector + i, lanes, load_partial_##TYPE(x + i, lanes));                        \
        }                                                                                                    \
        for (int64_t i = 0; i < n; i++) scalar[i] = TYPE##_to_float(x[i]);                                   \
    }                                                                                                        \
    void test_transpose_##TYPE(int64_t m, int64_t n, const TYPE *src, int64_t lds, float *dst, int64_t ldd) { \
        transpose_block_##TYPE(m, n, src, lds, dst, ldd);                                                    \
    }
OVER_NARROW(bf16, uint16_t)
OVER_NARROW(f16, uint16_t)
OVER_NARROW(i8, int8_t)

/* Denormal floats are read and written as zero from here on, as in every thread that computes, or no longer. */
void test_flush(int flush) {
#if defined(__x86_64__)
    _mm_setcsr(flush ? _mm_getcsr() | 0x8040 : _mm_getcsr() & ~0x8040u);
#endif
    (void)flush;
}
void test_round_randomly(int64_t n, const float *x, const float *salt, int32_t seed, float *rounded) {
    for (int64_t i = 0; i < n; i += LANES) {
        int64_t lanes = n - i < LANES ? n - i : LANES;
        vf v = v_round_randomly(load_partial(x + i, lanes), load_partial(salt + i, lanes), splat_int(seed));
        store_partial(rounded + i, lanes, v);
    }
}

void test_transpose(int64_t m, int64_t n, const float *src, int64_t lds, float *dst, int64_t ldd) {
    transpose_block(m, n, src, lds, dst, ldd);
}
int64_t test_constants(int which) {
    int64_t constants[] = {LANES, PANEL, TILE_ROWS, DOT_SCRATCH_FLOATS};
    return constants[which];
}
#define DOTS_OF(SUFFIX, ELEMENT)                                                                                 \
    void test_dot##SUFFIX(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_m, int64_t a_k,             \
                          const ELEMENT *b, int64_t b_panel, int64_t b_k, int b_padded, float *c, int64_t c_m,   \
                          int64_t c_panel, int c_padded, int accumulate, float *scratch) {                       \
        dot##SUFFIX(m, n, k, a, a_m, a_k, b, b_panel, b_k, b_padded, c, c_m, c_panel, c_padded, accumulate,      \
                    scratch);                                                                                    \
    }                                                                                                            \
    void test_dot_turned##SUFFIX(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_m, int64_t a_k,      \
                                 const ELEMENT *b, int64_t b_n, float *tile, int64_t tile_k, float *c,           \
                                 int64_t c_m, int accumulate, float *scratch) {                                  \
        dot_turned##SUFFIX(m, n, k, a, a_m, a_k, b, b_n, tile, tile_k, c, c_m, accumulate, scratch, dot);        \
    }
DOTS_OF(, float)
DOTS_OF(_bf16, bf16)
DOTS_OF(_f16, f16)
DOTS_OF(_i8, i8)

/* The end of a region of 16 MiB behind which nothing may be touched: a read or write there faults. */
#include <sys/mman.h>
char *test_guarded_end(void) {
    const size_t size = 16 << 20, guard = 1 << 16;
    char *region = mmap(0, size + guard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED || mprotect(region + size, guard, PROT_NONE)) return 0;
    return region + size;
}
void test_dot_across(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_m, int64_t a_k, const float *b,
                     int64_t b_panel, float *c, int64_t c_m, int64_t c_panel, int c_padded, int accumulate,
                     float *scratch) {
    dot_across(m, n, k, a, a_m, a_k, b, b_panel, c, c_m, c_panel, c_padded, accumulate, scratch);
}
