/* Vectors: the types and the lane by lane operations that every kernel is written in.
 * The width is chosen by -DVECTOR_BYTES=64 (AVX-512), 32 (AVX2 with FMA) or 16 (anything).
 * Nothing here knows of tensors, shapes or threads. */
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

#ifndef VECTOR_BYTES
#error "compile with -DVECTOR_BYTES=64, 32 or 16"
#endif
#define LANES (VECTOR_BYTES / 4)
#define INLINE static inline __attribute__((always_inline, unused))
#define NOINLINE static __attribute__((noinline, unused))
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 64")
#endif

typedef uint16_t bf16, f16;
typedef int8_t i8;
typedef float vf __attribute__((vector_size(VECTOR_BYTES)));
typedef int32_t vi __attribute__((vector_size(VECTOR_BYTES))); /* also masks: each lane 0 or -1 */
typedef uint32_t vu __attribute__((vector_size(VECTOR_BYTES)));
typedef uint16_t vh __attribute__((vector_size(VECTOR_BYTES / 2)));
typedef int8_t vq __attribute__((vector_size(VECTOR_BYTES / 4)));
typedef vf unaligned_vf __attribute__((aligned(4), may_alias));
typedef vi unaligned_vi __attribute__((aligned(4), may_alias));
typedef vh unaligned_vh __attribute__((aligned(2), may_alias));
typedef vq unaligned_vq __attribute__((aligned(1), may_alias));

INLINE vf splat(float x) { return x - (vf){0}; }
INLINE vi splat_int(int32_t x) { return x + (vi){0}; }
INLINE vi iota(void) {
#if LANES == 16
    return (vi){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif LANES == 8
    return (vi){0, 1, 2, 3, 4, 5, 6, 7};
#else
    return (vi){0, 1, 2, 3};
#endif
}

INLINE vf load(const float *p) { return *(const unaligned_vf *)p; }
INLINE vi load_int(const int32_t *p) { return *(const unaligned_vi *)p; }
INLINE void store(float *p, vf v) { *(unaligned_vf *)p = v; }
INLINE void store_int(int32_t *p, vi v) { *(unaligned_vi *)p = v; }

/* The first n lanes, 0 <= n <= LANES; the others are zero. Nothing from p + n on is touched. */
INLINE vi load_partial_int(const int32_t *p, int64_t n) {
#if VECTOR_BYTES == 64
    return (vi)_mm512_maskz_loadu_epi32((__mmask16)((1u << n) - 1), p);
#elif VECTOR_BYTES == 32
    return (vi)_mm256_maskload_epi32(p, (__m256i)(iota() < splat_int((int32_t)n)));
#else
    vi v = {0};
    memcpy(&v, p, (size_t)n * 4);
    return v;
#endif
}
INLINE void store_partial_int(int32_t *p, int64_t n, vi v) {
#if VECTOR_BYTES == 64
    _mm512_mask_storeu_epi32(p, (__mmask16)((1u << n) - 1), (__m512i)v);
#elif VECTOR_BYTES == 32
    _mm256_maskstore_epi32(p, (__m256i)(iota() < splat_int((int32_t)n)), (__m256i)v);
#else
    memcpy(p, &v, (size_t)n * 4);
#endif
}
INLINE vf load_partial(const float *p, int64_t n) { return (vf)load_partial_int((const int32_t *)p, n); }
INLINE void store_partial(float *p, int64_t n, vf v) { store_partial_int((int32_t *)p, n, (vi)v); }

/* Masks are stored as bytes, 0 or 1. */
INLINE vi load_partial_bool(const uint8_t *p, int64_t n) {
    vi v = {0};
    for (int64_t lane = 0; lane < n; lane++) v[lane] = -p[lane];
    return v;
}
INLINE void store_partial_bool(uint8_t *p, int64_t n, vi v) {
    for (int64_t lane = 0; lane < n; lane++) p[lane] = (uint8_t)(v[lane] & 1);
}
INLINE vi load_bool(const uint8_t *p) { return load_partial_bool(p, LANES); }
INLINE void store_bool(uint8_t *p, vi v) { store_partial_bool(p, LANES, v); }

/* base[index[lane]] for each lane. */
INLINE vf gather(const float *base, vi index) {
    vf v;
    for (int lane = 0; lane < LANES; lane++) v[lane] = base[index[lane]];
    return v;
}

/* mask ? a : b; every lane of mask is 0 or -1. */
INLINE vf select_float(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }
INLINE vi select_int(vi mask, vi a, vi b) { return (mask & a) | (~mask & b); }
INLINE int any_lane(vi mask) {
#if VECTOR_BYTES == 64
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif VECTOR_BYTES == 32
    return _mm256_movemask_ps((__m256)mask) != 0;
#else
    int32_t any = 0;
    for (int lane = 0; lane < LANES; lane++) any |= mask[lane];
    return any != 0;
#endif
}

/* a > b ? a : b and a < b ? a : b exactly: where either is NaN, and for zeros of either sign, b. */
INLINE vf v_max(vf a, vf b) {
#if VECTOR_BYTES == 64
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif VECTOR_BYTES == 32
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
    return (vf)_mm_max_ps((__m128)a, (__m128)b);
#else
    return select_float(a > b, a, b);
#endif
}
INLINE vf v_min(vf a, vf b) {
#if VECTOR_BYTES == 64
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif VECTOR_BYTES == 32
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
    return (vf)_mm_min_ps((__m128)a, (__m128)b);
#else
    return select_float(a < b, a, b);
#endif
}
INLINE vi v_max_int(vi a, vi b) { return select_int(a > b, a, b); }
INLINE vi v_min_int(vi a, vi b) { return select_int(a < b, a, b); }
INLINE vf v_abs(vf x) { return (vf)((vi)x & 0x7fffffff); }
INLINE vi v_abs_int(vi x) { return select_int(x < 0, -x, x); }

#if VECTOR_BYTES == 16 && defined(__SSE2__) && !defined(__FMA__)
/* Two lanes of a fused multiply-add without the instruction. The product of two floats is exact in
 * double; the sum is rounded to odd (Boldo and Melquiond, 2008), after which rounding to float is
 * the one rounding of the exact result. */
INLINE __m128 fma_in_double(__m128d a, __m128d b, __m128d c) {
    __m128d product = _mm_mul_pd(a, b);
    __m128d sum = _mm_add_pd(product, c);
    __m128d part = _mm_sub_pd(sum, product); /* the error of the sum, exactly (Knuth) */
    __m128d error = _mm_add_pd(_mm_sub_pd(product, _mm_sub_pd(sum, part)), _mm_sub_pd(c, part));
    __m128i bits = _mm_castpd_si128(sum);
    __m128d zero = _mm_setzero_pd();
    __m128d inexact = _mm_or_pd(_mm_cmplt_pd(error, zero), _mm_cmpgt_pd(error, zero)); /* false for NaN */
    __m128i even = _mm_andnot_si128(bits, _mm_set1_epi64x(1));
    __m128i opposite = _mm_srli_epi64(_mm_xor_si128(bits, _mm_castpd_si128(error)), 63);
    /* An even last bit becomes odd: up by one in magnitude, or down if the error has the other sign. */
    __m128i step = _mm_sub_epi64(even, _mm_slli_epi64(_mm_and_si128(opposite, even), 1));
    bits = _mm_add_epi64(bits, _mm_and_si128(step, _mm_castpd_si128(inexact)));
    return _mm_cvtpd_ps(_mm_castsi128_pd(bits));
}
#endif
/* a * b + c with one rounding, in every width. */
INLINE vf v_fma(vf a, vf b, vf c) {
#if VECTOR_BYTES == 64
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif VECTOR_BYTES == 32
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__FMA__)
    return (vf)_mm_fmadd_ps((__m128)a, (__m128)b, (__m128)c);
#elif defined(__SSE2__)
    __m128 x = (__m128)a, y = (__m128)b, z = (__m128)c;
    __m128 low = fma_in_double(_mm_cvtps_pd(x), _mm_cvtps_pd(y), _mm_cvtps_pd(z));
    __m128 high = fma_in_double(_mm_cvtps_pd(_mm_movehl_ps(x, x)), _mm_cvtps_pd(_mm_movehl_ps(y, y)),
                                _mm_cvtps_pd(_mm_movehl_ps(z, z)));
    return (vf)_mm_movelh_ps(low, high);
#else
    vf r;
    for (int lane = 0; lane < LANES; lane++) r[lane] = __builtin_fmaf(a[lane], b[lane], c[lane]);
    return r;
#endif
}

INLINE vf v_sqrt(vf x) {
#if VECTOR_BYTES == 64
    return (vf)_mm512_sqrt_ps((__m512)x);
#elif VECTOR_BYTES == 32
    return (vf)_mm256_sqrt_ps((__m256)x);
#elif defined(__SSE2__)
    return (vf)_mm_sqrt_ps((__m128)x);
#else
    vf r;
    for (int lane = 0; lane < LANES; lane++) r[lane] = __builtin_sqrtf(x[lane]);
    return r;
#endif
}

INLINE vf int_to_float(vi x) { return __builtin_convertvector(x, vf); }
/* Rounds toward zero; the value must fit. */
INLINE vi float_to_int(vf x) { return __builtin_convertvector(x, vi); }

/* Up or down, as likely as it is near: the lower half, plus a hash of the number, of one beside it and of a seed. */
INLINE vu hash_mix(vu hash, uint32_t factor, int shift) {
    hash *= factor;
    return hash ^ (hash >> shift);
}
INLINE vf v_round_randomly(vf x, vf salt, vi seed) {
    vu bits = (vu)x, finite = (vu)((bits & 0x7f800000u) != 0x7f800000u), nan = (vu)(x != x);
    vu hash = hash_mix(bits, 0x9e3779b1u, 15) ^ (vu)salt;
    hash = hash_mix(hash, 0x85ebca6bu, 13) ^ (vu)seed;
    vu noise = hash_mix(hash_mix(hash, 0xc2b2ae35u, 16), 0x27d4eb2fu, 15) >> 16;
    return (vf)(((bits + (noise & finite)) | (nan & 0x400000u)) & 0xffff0000u);
}

/* A two-operand shuffle whose index in each lane is INDEX(lane, step). */
#if LANES == 16
#define SHUFFLE(a, b, INDEX, s)                                                                    \
    __builtin_shufflevector(a, b, INDEX(0, s), INDEX(1, s), INDEX(2, s), INDEX(3, s), INDEX(4, s), \
                            INDEX(5, s), INDEX(6, s), INDEX(7, s), INDEX(8, s), INDEX(9, s),       \
                            INDEX(10, s), INDEX(11, s), INDEX(12, s), INDEX(13, s), INDEX(14, s),  \
                            INDEX(15, s))
#elif LANES == 8
#define SHUFFLE(a, b, INDEX, s)                                                                    \
    __builtin_shufflevector(a, b, INDEX(0, s), INDEX(1, s), INDEX(2, s), INDEX(3, s), INDEX(4, s), \
                            INDEX(5, s), INDEX(6, s), INDEX(7, s))
#else
#define SHUFFLE(a, b, INDEX, s) \
    __builtin_shufflevector(a, b, INDEX(0, s), INDEX(1, s), INDEX(2, s), INDEX(3, s))
#endif
#define PARTNER(lane, step) ((lane) ^ (step))

/* Horizontal folds: lanes l and l ^ step are joined for step = LANES/2, …, 2, 1. The tree is a
 * function of LANES alone. */
INLINE float fold_sum(vf v) {
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
INLINE float fold_max(vf v) {
#if LANES >= 16
    v = v_max(v, SHUFFLE(v, v, PARTNER, 8));
#endif
#if LANES >= 8
    v = v_max(v, SHUFFLE(v, v, PARTNER, 4));
#endif
    v = v_max(v, SHUFFLE(v, v, PARTNER, 2));
    v = v_max(v, SHUFFLE(v, v, PARTNER, 1));
    return v[0];
}

/* The folds of as many vectors as a vector has lanes, that of vector l in lane l: each by the tree above, so with the
 * same bits. Two vectors share each shuffle and each sum, whose halves are theirs. */
#define FOLD_LOW(lane, step) ((lane) & (step) ? LANES + ((lane) ^ (step)) : (lane))
#define FOLD_HIGH(lane, step) ((lane) & (step) ? LANES + (lane) : (lane) ^ (step))
#define FOLD_HALVES(v, step, JOIN)                                                    \
    UNROLL for (int l = 0; l < (step); l++) {                                         \
        vf low = SHUFFLE(v[l], v[l + (step)], FOLD_LOW, step);                        \
        v[l] = JOIN(low, SHUFFLE(v[l], v[l + (step)], FOLD_HIGH, step));              \
    }
INLINE vf v_add(vf a, vf b) { return a + b; }
INLINE vf fold_sums(vf *v) {
#if LANES >= 16
    FOLD_HALVES(v, 8, v_add)
#endif
#if LANES >= 8
    FOLD_HALVES(v, 4, v_add)
#endif
    FOLD_HALVES(v, 2, v_add)
    FOLD_HALVES(v, 1, v_add)
    return v[0];
}
INLINE vf fold_maxima(vf *v) {
#if LANES >= 16
    FOLD_HALVES(v, 8, v_max)
#endif
#if LANES >= 8
    FOLD_HALVES(v, 4, v_max)
#endif
    FOLD_HALVES(v, 2, v_max)
    FOLD_HALVES(v, 1, v_max)
    return v[0];
}
