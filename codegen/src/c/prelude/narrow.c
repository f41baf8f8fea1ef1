/* Numbers that are stored in fewer bytes than a float: bf16, f16 and i8. Loads widen them, exactly; stores round to the
 * nearest, the even one of two that are as near. Threads read and write denormal floats as zero: the small numbers of
 * f16 are none of these once they are widened, and no step below makes one on the way. */

/* bf16 is the upper half of a float. A NaN stays one (made quiet). */
INLINE vf bf16_lanes_to_float(vh h) {
#if VECTOR_BYTES == 64
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)h), 16);
#elif VECTOR_BYTES == 32
    return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)h), 16);
#else
    return (vf)(__builtin_convertvector(h, vu) << 16);
#endif
}
INLINE vu bf16_round_bits(vf v) {
    vu bits = (vu)v;
    vu rounded = bits + 0x7fff + ((bits >> 16) & 1);
    vu nan = (vu)(v != v);
    return ((nan & (bits | 0x400000)) | (~nan & rounded)) & 0xffff0000u;
}
INLINE vf round_bf16(vf v) { return (vf)bf16_round_bits(v); }
INLINE vh float_lanes_to_bf16(vf v) { return __builtin_convertvector(bf16_round_bits(v) >> 16, vh); }
INLINE float bf16_to_float(bf16 h) {
    uint32_t bits = (uint32_t)h << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
INLINE bf16 float_to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return (bf16)((bits | 0x400000) >> 16);
    return (bf16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/* f16 is IEEE half precision. From 65520 on what is rounded becomes infinite; a NaN stays one (made quiet). */
#if VECTOR_BYTES == 64
INLINE vf f16_lanes_to_float(vh h) { return (vf)_mm512_cvtph_ps((__m256i)h); }
INLINE vh float_lanes_to_f16(vf v) { return (vh)_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT); }
#elif VECTOR_BYTES == 32
INLINE vf f16_lanes_to_float(vh h) { return (vf)_mm256_cvtph_ps((__m128i)h); }
INLINE vh float_lanes_to_f16(vf v) { return (vh)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT); }
#else
INLINE vf f16_lanes_to_float(vh h) {
    vu half = __builtin_convertvector(h, vu), bits = (half & 0x7fff) << 13, sign = (half & 0x8000) << 16;
    vu exponent = bits & 0x0f800000;
    vu normal = bits + 0x38000000;
    /* The fraction of 2^-14 times 1 and so much, without that 1. */
    vu small = (vu)((vf)(bits + 0x38800000) - (vf)((vu){0} + 0x38800000));
    vu quiet = (vu)((bits & 0x7fffff) != 0) & 0x400000;
    vu special = (bits + 0x70000000) | quiet;
    vu is_small = (vu)(exponent == 0), is_special = (vu)(exponent == 0x0f800000);
    vu magnitude = (is_small & small) | (is_special & special) | (~(is_small | is_special) & normal);
    return (vf)(magnitude | sign);
}
INLINE vh float_lanes_to_f16(vf v) {
    vu bits = (vu)v & 0x7fffffff, sign = ((vu)v >> 16) & 0x8000;
    vu normal = (bits + 0xfff + ((bits >> 13) & 1) - 0x38000000) >> 13;
    /* The last place of a half is the least of f16. */
    vu small = (vu)((vf)bits + 0.5f) - 0x3f000000;
    vu quiet = 0x7e00 | ((bits >> 13) & 0x3ff);
    vu is_small = (vu)(bits < 0x38800000), is_nan = (vu)(bits > 0x7f800000);
    vu is_large = (vu)(bits >= 0x47800000) & ~is_nan;
    vu half = (is_small & small) | (is_nan & quiet) | (is_large & 0x7c00) | (~(is_small | is_nan | is_large) & normal);
    return __builtin_convertvector(half | sign, vh);
}
#endif
INLINE vf round_f16(vf v) { return f16_lanes_to_float(float_lanes_to_f16(v)); }
INLINE float f16_to_float(f16 h) {
    vh lanes = {h};
    return f16_lanes_to_float(lanes)[0];
}
INLINE f16 float_to_f16(float x) { return float_lanes_to_f16(splat(x))[0]; }

/* i8 is a whole number from -127 to 127. What is larger becomes the largest, a NaN becomes 0. */
INLINE vf i8_lanes_to_float(vq h) {
#if VECTOR_BYTES == 64
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)h));
#else
    return int_to_float(__builtin_convertvector(h, vi));
#endif
}
INLINE vf round_i8(vf v) {
    const vf whole = splat(12582912.0f); /* 1.5 * 2^23: the last place of what is near it is 1 */
    v = select_float(v == v, v, (vf){0});
    return v_min(v_max(v, splat(-127.0f)), splat(127.0f)) + whole - whole;
}
INLINE vq float_lanes_to_i8(vf v) {
    vi whole = float_to_int(round_i8(v));
#if VECTOR_BYTES == 64
    return (vq)_mm512_cvtepi32_epi8((__m512i)whole);
#else
    return __builtin_convertvector(whole, vq);
#endif
}
INLINE float i8_to_float(i8 h) { return (float)h; }
INLINE i8 float_to_i8(float x) { return float_lanes_to_i8(splat(x))[0]; }

/* A whole vector from memory and to it; in part, of which nothing from p + n on is touched. */
#define DEFINE_NARROW(TYPE, LANES_OF)                                                                  \
    INLINE vf load_##TYPE(const TYPE *p) {                                                             \
        return TYPE##_lanes_to_float(*(const unaligned_##LANES_OF *)p);                                \
    }                                                                                                  \
    INLINE void store_##TYPE(TYPE *p, vf v) { *(unaligned_##LANES_OF *)p = float_lanes_to_##TYPE(v); } \
    INLINE vf load_partial_##TYPE(const TYPE *p, int64_t n) {                                          \
        return TYPE##_lanes_to_float(load_some_##LANES_OF(p, n));                                      \
    }                                                                                                  \
    INLINE void store_partial_##TYPE(TYPE *p, int64_t n, vf v) {                                       \
        store_some_##LANES_OF(p, n, float_lanes_to_##TYPE(v));                                         \
    }
INLINE vh load_some_vh(const uint16_t *p, int64_t n) {
#if VECTOR_BYTES == 64 && defined(__AVX512BW__) && defined(__AVX512VL__)
    return (vh)_mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), p);
#else
    vh h = {0};
    memcpy(&h, p, (size_t)n * 2);
    return h;
#endif
}
INLINE void store_some_vh(uint16_t *p, int64_t n, vh h) {
#if VECTOR_BYTES == 64 && defined(__AVX512BW__) && defined(__AVX512VL__)
    _mm256_mask_storeu_epi16(p, (__mmask16)((1u << n) - 1), (__m256i)h);
#else
    memcpy(p, &h, (size_t)n * 2);
#endif
}
INLINE vq load_some_vq(const i8 *p, int64_t n) {
#if VECTOR_BYTES == 64 && defined(__AVX512BW__) && defined(__AVX512VL__)
    return (vq)_mm_maskz_loadu_epi8((__mmask16)((1u << n) - 1), p);
#else
    vq h = {0};
    memcpy(&h, p, (size_t)n);
    return h;
#endif
}
INLINE void store_some_vq(i8 *p, int64_t n, vq h) {
#if VECTOR_BYTES == 64 && defined(__AVX512BW__) && defined(__AVX512VL__)
    _mm_mask_storeu_epi8(p, (__mmask16)((1u << n) - 1), (__m128i)h);
#else
    memcpy(p, &h, (size_t)n);
#endif
}
DEFINE_NARROW(bf16, vh)
DEFINE_NARROW(f16, vh)
DEFINE_NARROW(i8, vq)
