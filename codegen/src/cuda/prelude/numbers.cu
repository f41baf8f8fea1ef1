// Numbers: loads widen what is stored narrow, exactly; stores round to the nearest, the even one of two that are as
// near. Nothing here knows of tensors, shapes or threads.
struct bf16 { unsigned short bits; };
struct f16 { unsigned short bits; };
typedef signed char i8;
typedef unsigned char truth; // 0 or 1

static __device__ __forceinline__ unsigned bits_of(float x) { return __float_as_uint(x); }
static __device__ __forceinline__ float of_bits(unsigned bits) { return __uint_as_float(bits); }

// a > b ? a : b and a < b ? a : b exactly: where either is no number, and for zeros of either sign, b.
static __device__ __forceinline__ float larger(float a, float b) { return a > b ? a : b; }
static __device__ __forceinline__ float smaller(float a, float b) { return a < b ? a : b; }
static __device__ __forceinline__ int larger(int a, int b) { return a > b ? a : b; }
static __device__ __forceinline__ int smaller(int a, int b) { return a < b ? a : b; }
static __device__ __forceinline__ float magnitude(float x) { return of_bits(bits_of(x) & 0x7fffffff); }
static __device__ __forceinline__ int magnitude(int x) { return x < 0 ? -x : x; }

// bf16 is the upper half of a float.
static __device__ __forceinline__ bf16 to_bf16(float x) {
    bf16 h;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h.bits) : "f"(x));
    return h;
}
static __device__ __forceinline__ float to_float(bf16 h) { return of_bits((unsigned)h.bits << 16); }

// f16 is IEEE half precision. From 65520 on what is rounded becomes infinite.
static __device__ __forceinline__ f16 to_f16(float x) {
    f16 h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h.bits) : "f"(x));
    return h;
}
static __device__ __forceinline__ float to_float(f16 h) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h.bits));
    return x;
}

// i8 is a whole number from -127 to 127. What is larger becomes the largest, what is no number becomes 0.
static __device__ __forceinline__ float round_i8(float x) {
    const float whole = 12582912.0f; // 1.5 * 2^23: the last place of what is near it is 1
    x = x == x ? x : 0.0f;
    return smaller(larger(x, -127.0f), 127.0f) + whole - whole;
}
static __device__ __forceinline__ float round_bf16(float x) { return to_float(to_bf16(x)); }
static __device__ __forceinline__ float round_f16(float x) { return to_float(to_f16(x)); }

static __device__ __forceinline__ float load(const float *p) { return *p; }
static __device__ __forceinline__ float load(const bf16 *p) { return to_float(*p); }
static __device__ __forceinline__ float load(const f16 *p) { return to_float(*p); }
static __device__ __forceinline__ float load(const i8 *p) { return (float)*p; }
static __device__ __forceinline__ int load(const int *p) { return *p; }
static __device__ __forceinline__ bool load(const truth *p) { return *p != 0; }
static __device__ __forceinline__ void store(float *p, float x) { *p = x; }
static __device__ __forceinline__ void store(bf16 *p, float x) { *p = to_bf16(x); }
static __device__ __forceinline__ void store(f16 *p, float x) { *p = to_f16(x); }
static __device__ __forceinline__ void store(i8 *p, float x) { *p = (i8)(int)round_i8(x); }
static __device__ __forceinline__ void store(int *p, int x) { *p = x; }
static __device__ __forceinline__ void store(truth *p, bool x) { *p = x; }

// Up or down, as likely as it is near: the lower half, plus a hash of the number, of one beside it and of a seed.
static __device__ __forceinline__ unsigned hash_mix(unsigned hash, unsigned factor, int shift) {
    hash *= factor;
    return hash ^ (hash >> shift);
}
static __device__ __forceinline__ float round_randomly(float x, float salt, int seed) {
    const unsigned bits = bits_of(x);
    unsigned hash = hash_mix(bits, 0x9e3779b1u, 15) ^ bits_of(salt);
    hash = hash_mix(hash, 0x85ebca6bu, 13) ^ (unsigned)seed;
    const unsigned noise = hash_mix(hash_mix(hash, 0xc2b2ae35u, 16), 0x27d4eb2fu, 15) >> 16;
    const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
    return of_bits(((bits + (finite ? noise : 0u)) | (x != x ? 0x400000u : 0u)) & 0xffff0000u);
}

// Lets the threads of a block that do a kernel's work wait for one another. A block may have others besides, which
// copy.
template <int WORKERS = 256> static __device__ __forceinline__ void workers_wait() {
    asm volatile("bar.sync 1, %0;" ::"n"(WORKERS) : "memory");
}
