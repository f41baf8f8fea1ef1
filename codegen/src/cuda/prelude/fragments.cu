// Tiles of 64 rows in the registers of a warpgroup, as wgmma leaves its sums there: a warp has 16 rows, of which a
// thread has two, `half` 0 and 1, eight apart; of each eight columns it has two side by side, and the four threads of a
// quad have all. Of a row, e counts the thread's elements. Loops over these are unrolled: an element is a register.
template <int COLUMNS> struct fragment {
    float x[COLUMNS / 2];
    __device__ __forceinline__ float &at(int half, int e) { return x[e / 2 * 4 + half * 2 + e % 2]; }
};
// A number for each row, the same in all threads of a quad.
struct fragment_rows {
    float x[2];
    __device__ __forceinline__ float &at(int half) { return x[half]; }
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
