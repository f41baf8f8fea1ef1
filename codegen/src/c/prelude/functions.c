/* Transcendentals, a vector at a time: the same bits in the body of a loop and in its tail, and on
 * every thread. Polynomials are minimax fits made for these intervals (relative error in
 * brackets, before rounding). Nothing here reads memory. */

#define POLYNOMIAL_STEP(p, x, c) v_fma(p, x, splat(c))

/* Nearest integer, ties to even, for |x| < 2^22: in the low bits of x + 1.5 * 2^23. */
#define ROUND_MAGIC 12582912.0f

/* 2^n * p in two exact steps, for -252 <= n <= 254: only the last multiplication can round. */
INLINE vf scale_by_power(vf p, vi n) {
    vi half = n >> 1;
    vf first = (vf)((half + 127) << 23);
    vf second = (vf)((n - half + 127) << 23);
    return p * first * second;
}

/* e^x [3e-9]. Overflows to inf, underflows to 0. */
INLINE vf v_exp(vf x) {
    x = v_max(splat(-104.0f), v_min(splat(89.0f), x)); /* in this order a NaN passes */
    vf shifted = x * splat(0x1.715476p+0f) + splat(ROUND_MAGIC);
    vf n = shifted - splat(ROUND_MAGIC);
    vf r = v_fma(n, splat(-0x1.62e430p-1f), x);
    r = v_fma(n, splat(0x1.05c610p-29f), r);
    vf p = splat(0x1.6a23e6p-10f);
    p = POLYNOMIAL_STEP(p, r, 0x1.123a1ep-7f);
    p = POLYNOMIAL_STEP(p, r, 0x1.5558f2p-5f);
    p = POLYNOMIAL_STEP(p, r, 0x1.555492p-3f);
    p = POLYNOMIAL_STEP(p, r, 0x1.fffffcp-2f);
    p = v_fma(r * r, p, r) + splat(1.0f);
    return scale_by_power(p, (vi)shifted - (vi)splat(ROUND_MAGIC));
}

/* Natural logarithm [4e-9]. log(0) = -inf, log(negative) = NaN. */
INLINE vf v_log(vf x) {
    vi tiny = x < splat(0x1p-126f);
    vf scaled = select_float(tiny, x * splat(0x1p23f), x);
    /* Subtracting the bits of sqrt(1/2) makes the mantissa run over [sqrt(1/2), sqrt(2)). */
    vi offset = (vi)scaled - 0x3f3504f3;
    vf e = int_to_float((offset >> 23) - (tiny & 23));
    vf f = (vf)((offset & 0x7fffff) + 0x3f3504f3) - splat(1.0f);
    vf p = splat(-0x1.38307ep-4f);
    p = POLYNOMIAL_STEP(p, f, 0x1.084aa6p-3f);
    p = POLYNOMIAL_STEP(p, f, -0x1.0f386ep-3f);
    p = POLYNOMIAL_STEP(p, f, 0x1.22715ap-3f);
    p = POLYNOMIAL_STEP(p, f, -0x1.542714p-3f);
    p = POLYNOMIAL_STEP(p, f, 0x1.99a3f4p-3f);
    p = POLYNOMIAL_STEP(p, f, -0x1.000428p-2f);
    p = POLYNOMIAL_STEP(p, f, 0x1.555550p-2f);
    p = POLYNOMIAL_STEP(p, f, -0x1.fffff8p-2f);
    vf low = v_fma(f * f, p, e * splat(0x1.7f7d1cp-20f));
    vf result = v_fma(e, splat(0x1.62e400p-1f), f + low);
    result = select_float(x == splat(__builtin_inff()), x, result);
    result = select_float(x == splat(0.0f), splat(-__builtin_inff()), result);
    vi invalid = (x < splat(0.0f)) | (x != x);
    return select_float(invalid, splat(__builtin_nanf("")), result);
}

/* The magnitude of a with the sign of b. */
INLINE vf copy_sign(vf a, vf b) {
    vi sign = splat_int(INT32_MIN);
    return (vf)(((vi)a & ~sign) | ((vi)b & sign));
}

INLINE vf v_tanh(vf x) {
    vf a = v_abs(x);
    vf y = a * a;
    vf p = splat(-0x1.76ac0ap-8f); /* x + x^3 p(x^2) up to 0.625 [4e-9] */
    p = POLYNOMIAL_STEP(p, y, 0x1.5256d4p-6f);
    p = POLYNOMIAL_STEP(p, y, -0x1.b84448p-5f);
    p = POLYNOMIAL_STEP(p, y, 0x1.110768p-3f);
    p = POLYNOMIAL_STEP(p, y, -0x1.555534p-2f);
    vf small = v_fma(a * y, p, a);
    vf large = splat(1.0f) - splat(2.0f) / (v_exp(a + a) + splat(1.0f));
    return copy_sign(select_float(a < splat(0.625f), small, large), x);
}

INLINE vf v_sigmoid(vf x) { return splat(1.0f) / (splat(1.0f) + v_exp(-x)); }

/* 1 / sqrt(x), each correctly rounded. */
INLINE vf v_rsqrt(vf x) { return splat(1.0f) / v_sqrt(x); }

/* Up to 1: x + x p(x^2) [1e-9]. Beyond: 1 - exp(log(erfc(x))), the logarithm a polynomial in
 * x - 2 up to 4, where erf rounds to 1. */
INLINE vf v_erf(vf x) {
    vf a = v_abs(x);
    vf y = a * a;
    vf p = splat(0x1.4ae4bap-14f);
    p = POLYNOMIAL_STEP(p, y, -0x1.a485e6p-11f);
    p = POLYNOMIAL_STEP(p, y, 0x1.5419f4p-8f);
    p = POLYNOMIAL_STEP(p, y, -0x1.b7fbb4p-6f);
    p = POLYNOMIAL_STEP(p, y, 0x1.ce2d20p-4f);
    p = POLYNOMIAL_STEP(p, y, -0x1.81273ep-2f);
    p = POLYNOMIAL_STEP(p, y, 0x1.06eba8p-3f);
    vf small = v_fma(a, p, a);
    vf d = v_min(splat(4.0f), a) - splat(2.0f); /* 4 < NaN is false: a NaN passes */
    vf q = splat(-0x1.6bd6d0p-16f);
    q = POLYNOMIAL_STEP(q, d, 0x1.20d27cp-13f);
    q = POLYNOMIAL_STEP(q, d, -0x1.7ed88ep-11f);
    q = POLYNOMIAL_STEP(q, d, 0x1.d3fe2cp-9f);
    q = POLYNOMIAL_STEP(q, d, -0x1.0dc6a2p-6f);
    q = POLYNOMIAL_STEP(q, d, -0x1.d8f5e4p-1f);
    q = POLYNOMIAL_STEP(q, d, -0x1.1ac326p+2f);
    q = POLYNOMIAL_STEP(q, d, -0x1.575b32p+2f);
    vf large = splat(1.0f) - v_exp(q);
    return copy_sign(select_float(a < splat(1.0f), small, large), x);
}

/* Sine and cosine share the reduction x = n pi/2 + r (Cody and Waite, three parts, the first
 * product exact by fma): good for |x| <= 2^20, so for every rotary position in use; beyond that
 * the angle is folded exactly by reduce_huge, lane by lane. */
NOINLINE float reduce_huge(float x, int32_t *quadrant) {
    /* 2/pi as a string of bits (Payne and Hanek): only the 96 bits that decide x mod 2 pi count. */
    static const uint32_t two_over_pi[9] = {0,          0,          0xa2f9836e, 0x4e441529, 0xfc2757d1,
                                            0xf534ddc0, 0xdb629599, 0x3c439041, 0xfe5163ab};
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint32_t mantissa = (bits & 0x7fffff) | 0x800000;
    int exponent = (int)((bits >> 23) & 0xff) - 150; /* |x| = mantissa * 2^exponent */
    int start = exponent + 62;                       /* drops whole multiples of 4 quadrants */
    const uint32_t *word = two_over_pi + start / 32;
    int shift = start % 32;
    uint64_t high = (uint64_t)word[0] << 32 | word[1], low = (uint64_t)word[2] << 32 | word[3];
    if (shift) {
        high = high << shift | low >> (64 - shift);
        low = low << shift;
    }
    uint64_t product = mantissa * high + (uint64_t)(((unsigned __int128)mantissa * low) >> 64);
    int32_t n = (int32_t)(product >> 62); /* the top two bits count quadrants, the rest is a fraction */
    int64_t fraction = (int64_t)(product << 2);
    if (fraction < 0) n += 1;
    double r = (double)fraction * (0x1.921fb54442d18p+0 * 0x1p-64);
    *quadrant = bits >> 31 ? -n : n;
    return (float)(bits >> 31 ? -r : r);
}
INLINE vf reduce_angle(vf x, vi *quadrant) {
    vf shifted = x * splat(0x1.45f306p-1f) + splat(ROUND_MAGIC);
    vf n = shifted - splat(ROUND_MAGIC);
    *quadrant = (vi)shifted - (vi)splat(ROUND_MAGIC);
    vf r = v_fma(n, splat(-0x1.921fb6p+0f), x);
    r = v_fma(n, splat(0x1.777a5cp-25f), r);
    r = v_fma(n, splat(0x1.ee59dap-50f), r);
    vi huge = (v_abs(x) > splat(0x1p20f)) & (v_abs(x) < splat(__builtin_inff()));
    if (any_lane(huge))
        for (int lane = 0; lane < LANES; lane++)
            if (huge[lane]) {
                int32_t count;
                r[lane] = reduce_huge(x[lane], &count);
                (*quadrant)[lane] = count;
            }
    return select_float(v_abs(x) == splat(__builtin_inff()), splat(__builtin_nanf("")), r);
}
INLINE vf sine_of_quadrant(vf r, vi quadrant) {
    vf y = r * r;
    vf p = splat(-0x1.992c06p-13f); /* r + r^3 p(r^2) [4e-9] */
    p = POLYNOMIAL_STEP(p, y, 0x1.1106fcp-7f);
    p = POLYNOMIAL_STEP(p, y, -0x1.555544p-3f);
    vf sine = v_fma(r * y, p, r);
    vf q = splat(0x1.99e33cp-16f); /* 1 - r^2/2 + r^4 q(r^2) [1e-10] */
    q = POLYNOMIAL_STEP(q, y, -0x1.6c0c22p-10f);
    q = POLYNOMIAL_STEP(q, y, 0x1.55554ap-5f);
    vf cosine = v_fma(y * y, q, v_fma(y, splat(-0.5f), splat(1.0f)));
    vf value = select_float((quadrant & 1) == 0, sine, cosine);
    return (vf)((vi)value ^ ((quadrant & 2) << 30));
}
INLINE vf v_sin(vf x) {
    vi quadrant;
    vf r = reduce_angle(x, &quadrant);
    return sine_of_quadrant(r, quadrant);
}
INLINE vf v_cos(vf x) {
    vi quadrant;
    vf r = reduce_angle(x, &quadrant);
    return sine_of_quadrant(r, quadrant + 1);
}
