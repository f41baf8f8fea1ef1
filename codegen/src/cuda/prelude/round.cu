// A warp rounds 32 numbers to integers of 8 bits with one scale. `to` has room for 12 words: the scale, the scale times
// the sum of the integers, that sum negated, that of the first half negated, and the integers.
static __device__ __forceinline__ void round_block(const float *from, float *to) {
    const int lane = threadIdx.x % 32;
    const float x = from[lane];
    float most = magnitude(x);
    const bool finite = __all_sync(0xffffffffu, most <= 0x1.fffffep127f);
#pragma unroll
    for (int step = 16; step > 0; step /= 2) most = larger(most, __shfl_xor_sync(0xffffffffu, most, step));
    float scale = 0.0f, inverse = 0.0f;
    if (most >= 1e-30f) scale = most / 127.0f, inverse = 127.0f / most;
    if (!finite) scale = NO_NUMBER, inverse = 0.0f;
    // Added to this, a small number is rounded to a whole one, the even one of two.
    const float whole = x * inverse + 0x1.8p23f;
    const int integer = (int)(bits_of(whole) & 0x7fffff) - 0x400000;
    int sum = integer;
#pragma unroll
    for (int step = 8; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    const int low = __shfl_sync(0xffffffffu, sum, 0), high = __shfl_sync(0xffffffffu, sum, 16);
    ((i8 *)(to + 4))[lane] = (i8)integer;
    if (lane == 0) {
        to[0] = scale;
        to[1] = scale * (float)(low + high);
        ((int *)to)[2] = -(low + high);
        ((int *)to)[3] = -low;
    }
}
