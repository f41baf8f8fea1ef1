// Tiles of 64 rows in the registers of a warpgroup, as wgmma leaves its sums there: a warp has 16 rows, of which a
// thread has two, `half` 0 and 1, eight apart; of each eight columns it has two side by side, and the four threads of a
// quad have all. Of a row, e counts the thread's elements. Loops over these are unrolled: an element is a register.
template <int COLUMNS> struct fragment {
    float x[COLUMNS / 2];
    static __device__ __forceinline__ int place(int half, int e) { return e / 2 * 4 + half * 2 + e % 2; }
    __device__ __forceinline__ float get(int half, int e) const { return x[place(half, e)]; }
    __device__ __forceinline__ void put(int half, int e, float value) { x[place(half, e)] = value; }
    __device__ __forceinline__ void fill(float value) {
#pragma unroll
        for (int at = 0; at < COLUMNS / 2; at++) x[at] = value;
    }
};
// The same of numbers that are rounded to bf16 already, two in a register, as tensor cores take them.
template <int COLUMNS> struct fragment_bf16 {
    unsigned x[COLUMNS / 4];
    static __device__ __forceinline__ int place(int half, int e) { return e / 2 * 2 + half; }
    __device__ __forceinline__ float get(int half, int e) const {
        const unsigned both = x[place(half, e)];
        return of_bits(e % 2 == 0 ? both << 16 : both & 0xffff0000u);
    }
    // Elements in order: the first of two makes room for the other.
    __device__ __forceinline__ void put(int half, int e, float value) {
        unsigned &both = x[place(half, e)];
        both = e % 2 == 0 ? bits_of(value) >> 16 : both | bits_of(value);
    }
    __device__ __forceinline__ void fill(float value) {
#pragma unroll
        for (int at = 0; at < COLUMNS / 4; at++) x[at] = bits_of(value) >> 16 | bits_of(value);
    }
};
// A number for each row, the same in all threads of a quad.
struct fragment_rows {
    float x[2];
    __device__ __forceinline__ float get(int half) const { return x[half]; }
    __device__ __forceinline__ void put(int half, float value) { x[half] = value; }
    __device__ __forceinline__ void fill(float value) { x[0] = x[1] = value; }
};

template <class PLACE> struct without_reference { typedef PLACE type; };
template <class PLACE> struct without_reference<PLACE &> { typedef PLACE type; };
// Whether a dot's operand or result is such a tile, and the sums of a result.
template <class PLACE> struct is_fragment { static const bool value = false; };
template <int COLUMNS> struct is_fragment<fragment<COLUMNS>> { static const bool value = true; };
template <int COUNT, class PLACE>
static __device__ __forceinline__ float (&sums_of(PLACE &, float (&own)[COUNT]))[COUNT] { return own; }
template <int COUNT>
static __device__ __forceinline__ float (&sums_of(fragment<2 * COUNT> &place, float (&)[COUNT]))[COUNT] {
    return place.x;
}
