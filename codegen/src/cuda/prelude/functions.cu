// Transcendentals: those of the C prelude, operation for operation, so that a processor and a GPU give the same bits
// (but for subnormal numbers, which a processor's threads take for zero). Polynomials are minimax fits made for these
// intervals (relative error in brackets, before rounding).

// Nearest integer, ties to even, for |x| < 2^22: in the low bits of x + 1.5 * 2^23.
#define ROUND_MAGIC 12582912.0f

// e^(x - n log 2) - 1.
static __device__ __forceinline__ float exp_less_one(float n, float x) {
    float r = fmaf(n, -0x1.62e430p-1f, x);
    r = fmaf(n, 0x1.05c610p-29f, r);
    float p = 0x1.6a23e6p-10f;
    p = fmaf(p, r, 0x1.123a1ep-7f);
    p = fmaf(p, r, 0x1.5558f2p-5f);
    p = fmaf(p, r, 0x1.555492p-3f);
    p = fmaf(p, r, 0x1.fffffcp-2f);
    return fmaf(r * r, p, r);
}

// e^x [3e-9]. Overflows to inf; what is less than the smallest normal number is 0, as in a processor's threads.
static __device__ __forceinline__ float f_exp(float x) {
    const float shifted = x * 0x1.715476p+0f + ROUND_MAGIC;
    const float n = shifted - ROUND_MAGIC;
    const float p = exp_less_one(n, x) + 1.0f;
    // 2^n * p: n is added to the exponent, which is exact between the logarithms of the smallest normal number and of the
    // largest. Beyond the latter, and where x is no number, x plus infinity is what is wanted.
    const float scaled = of_bits(bits_of(p) + (bits_of(shifted) << 23));
    const float normal = x < -0x1.5d589ep+6f ? 0.0f : scaled;
    return x <= 0x1.62e42ep+6f ? normal : x + INFINITE;
}

// The same of what is at most zero, or no number: there is nothing to overflow, and what is too small is flushed.
static __device__ __forceinline__ float f_exp_at_most_zero(float x) {
    x = larger(-88.0f, x); // a NaN passes; the power of two is zero from 2^-127 on
    const float shifted = x * 0x1.715476p+0f + ROUND_MAGIC;
    const float n = shifted - ROUND_MAGIC;
    const float p = exp_less_one(n, x), power = of_bits((bits_of(shifted) << 23) + 0x3f800000u);
    float result;
    asm("fma.rn.ftz.f32 %0, %1, %2, %2;" : "=f"(result) : "f"(p), "f"(power));
    return result;
}

// Natural logarithm [4e-9]. log(0) = -inf, log(negative) = NaN.
static __device__ __forceinline__ float f_log(float x) {
    const bool tiny = x < 0x1p-126f;
    const float scaled = tiny ? x * 0x1p23f : x;
    // Subtracting the bits of sqrt(1/2) makes the mantissa run over [sqrt(1/2), sqrt(2)).
    const int offset = (int)(bits_of(scaled) - 0x3f3504f3u);
    const float e = (float)((offset >> 23) - (tiny ? 23 : 0));
    const float f = of_bits((unsigned)((offset & 0x7fffff) + 0x3f3504f3)) - 1.0f;
    float p = -0x1.38307ep-4f;
    p = fmaf(p, f, 0x1.084aa6p-3f);
    p = fmaf(p, f, -0x1.0f386ep-3f);
    p = fmaf(p, f, 0x1.22715ap-3f);
    p = fmaf(p, f, -0x1.542714p-3f);
    p = fmaf(p, f, 0x1.99a3f4p-3f);
    p = fmaf(p, f, -0x1.000428p-2f);
    p = fmaf(p, f, 0x1.555550p-2f);
    p = fmaf(p, f, -0x1.fffff8p-2f);
    const float low = fmaf(f * f, p, e * 0x1.7f7d1cp-20f);
    float result = fmaf(e, 0x1.62e400p-1f, f + low);
    result = x == INFINITE ? x : result;
    result = x == 0.0f ? -INFINITE : result;
    return x < 0.0f || x != x ? NO_NUMBER : result;
}

// The magnitude of a with the sign of b.
static __device__ __forceinline__ float copy_sign(float a, float b) {
    return of_bits((bits_of(a) & 0x7fffffffu) | (bits_of(b) & 0x80000000u));
}

static __device__ __forceinline__ float f_tanh(float x) {
    const float a = magnitude(x), y = a * a;
    float p = -0x1.76ac0ap-8f; // x + x^3 p(x^2) up to 0.625 [4e-9]
    p = fmaf(p, y, 0x1.5256d4p-6f);
    p = fmaf(p, y, -0x1.b84448p-5f);
    p = fmaf(p, y, 0x1.110768p-3f);
    p = fmaf(p, y, -0x1.555534p-2f);
    const float small = fmaf(a * y, p, a);
    const float large = 1.0f - 2.0f / (f_exp(a + a) + 1.0f);
    return copy_sign(a < 0.625f ? small : large, x);
}

static __device__ __forceinline__ float f_sigmoid(float x) { return 1.0f / (1.0f + f_exp(-x)); }
static __device__ __forceinline__ float f_sqrt(float x) { return sqrtf(x); }

// 1 / sqrt(x), each correctly rounded.
static __device__ __forceinline__ float f_rsqrt(float x) { return 1.0f / sqrtf(x); }

// Up to 1: x + x p(x^2) [1e-9]. Beyond: 1 - exp(log(erfc(x))), the logarithm a polynomial in x - 2 up to 4, where erf
// rounds to 1.
static __device__ __forceinline__ float f_erf(float x) {
    const float a = magnitude(x), y = a * a;
    float p = 0x1.4ae4bap-14f;
    p = fmaf(p, y, -0x1.a485e6p-11f);
    p = fmaf(p, y, 0x1.5419f4p-8f);
    p = fmaf(p, y, -0x1.b7fbb4p-6f);
    p = fmaf(p, y, 0x1.ce2d20p-4f);
    p = fmaf(p, y, -0x1.81273ep-2f);
    p = fmaf(p, y, 0x1.06eba8p-3f);
    const float small = fmaf(a, p, a);
    const float d = smaller(4.0f, a) - 2.0f; // 4 < NaN is false: a NaN passes
    float q = -0x1.6bd6d0p-16f;
    q = fmaf(q, d, 0x1.20d27cp-13f);
    q = fmaf(q, d, -0x1.7ed88ep-11f);
    q = fmaf(q, d, 0x1.d3fe2cp-9f);
    q = fmaf(q, d, -0x1.0dc6a2p-6f);
    q = fmaf(q, d, -0x1.d8f5e4p-1f);
    q = fmaf(q, d, -0x1.1ac326p+2f);
    q = fmaf(q, d, -0x1.575b32p+2f);
    const float large = 1.0f - f_exp(q);
    return copy_sign(a < 1.0f ? small : large, x);
}

// 32 bits of 2/pi, of the string that Payne and Hanek multiply with: no table, which would lie in memory.
static __device__ __forceinline__ unsigned two_over_pi(int word) {
    const unsigned low = word < 3 ? 0xa2f9836eu : word == 3 ? 0x4e441529u : 0xfc2757d1u;
    const unsigned high = word == 5 ? 0xf534ddc0u : word == 6 ? 0xdb629599u : word == 7 ? 0x3c439041u : 0xfe5163abu;
    return word < 2 ? 0u : word < 5 ? low : high;
}
// Sine and cosine share the reduction x = n pi/2 + r (Cody and Waite, three parts, the first product exact by fma): good
// for |x| <= 2^20, so for every rotary position in use; beyond that the angle is folded exactly by reduce_huge.
static __device__ __forceinline__ float reduce_huge(float x, int *quadrant) {
    const unsigned bits = bits_of(x), mantissa = (bits & 0x7fffff) | 0x800000;
    const int exponent = (int)((bits >> 23) & 0xff) - 150; // |x| = mantissa * 2^exponent
    const int start = exponent + 62;                       // drops whole multiples of 4 quadrants
    const int word = start / 32, shift = start % 32;
    typedef unsigned long long wide;
    wide high = (wide)two_over_pi(word) << 32 | two_over_pi(word + 1);
    wide low = (wide)two_over_pi(word + 2) << 32 | two_over_pi(word + 3);
    if (shift) {
        high = high << shift | low >> (64 - shift);
        low = low << shift;
    }
    const wide product = mantissa * high + __umul64hi(mantissa, low);
    int n = (int)(product >> 62); // the top two bits count quadrants, the rest is a fraction
    const long long fraction = (long long)(product << 2);
    if (fraction < 0) n += 1;
    const double r = (double)fraction * (0x1.921fb54442d18p+0 * 0x1p-64);
    *quadrant = bits >> 31 ? -n : n;
    return (float)(bits >> 31 ? -r : r);
}
static __device__ __forceinline__ float reduce_angle(float x, int *quadrant) {
    const float shifted = x * 0x1.45f306p-1f + ROUND_MAGIC;
    const float n = shifted - ROUND_MAGIC;
    *quadrant = (int)(bits_of(shifted) - bits_of(ROUND_MAGIC));
    float r = fmaf(n, -0x1.921fb6p+0f, x);
    r = fmaf(n, 0x1.777a5cp-25f, r);
    r = fmaf(n, 0x1.ee59dap-50f, r);
    if (magnitude(x) > 0x1p20f && magnitude(x) < INFINITE) r = reduce_huge(x, quadrant);
    return magnitude(x) == INFINITE ? NO_NUMBER : r;
}
static __device__ __forceinline__ float sine_of_quadrant(float r, int quadrant) {
    const float y = r * r;
    float p = -0x1.992c06p-13f; // r + r^3 p(r^2) [4e-9]
    p = fmaf(p, y, 0x1.1106fcp-7f);
    p = fmaf(p, y, -0x1.555544p-3f);
    const float sine = fmaf(r * y, p, r);
    float q = 0x1.99e33cp-16f; // 1 - r^2/2 + r^4 q(r^2) [1e-10]
    q = fmaf(q, y, -0x1.6c0c22p-10f);
    q = fmaf(q, y, 0x1.55554ap-5f);
    const float cosine = fmaf(y * y, q, fmaf(y, -0.5f, 1.0f));
    const float value = (quadrant & 1) == 0 ? sine : cosine;
    return of_bits(bits_of(value) ^ ((unsigned)(quadrant & 2) << 30));
}
static __device__ __forceinline__ float f_sin(float x) {
    int quadrant;
    const float r = reduce_angle(x, &quadrant);
    return sine_of_quadrant(r, quadrant);
}
static __device__ __forceinline__ float f_cos(float x) {
    int quadrant;
    const float r = reduce_angle(x, &quadrant);
    return sine_of_quadrant(r, quadrant + 1);
}
