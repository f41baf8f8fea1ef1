// Where the operands and the result of a dot stand.

// Element (i, j) stands at base + i*row + j*column.
template <class ELEMENT> struct strided {
    ELEMENT *base;
    int row, column;
    __device__ __forceinline__ ELEMENT *at(int i, int j) const { return base + (long long)i * row + j * column; }
};
// Panels of 64 columns: element (k, n) of a weight of so many k, from column `first` on.
template <class ELEMENT> struct panels {
    ELEMENT *base;
    int depth, row, first;
    __device__ __forceinline__ ELEMENT *at(int k, int n) const {
        return base + (long long)((first + n) / PANEL) * depth * PANEL + (row + k) * PANEL + (first + n) % PANEL;
    }
};
// The same with its axes exchanged: panels that hold k where a dot has columns.
template <class ELEMENT> struct panels_across {
    ELEMENT *base;
    int depth, row, first;
    __device__ __forceinline__ ELEMENT *at(int k, int n) const {
        return base + (long long)((first + k) / PANEL) * depth * PANEL + (row + n) * PANEL + (first + k) % PANEL;
    }
};

// Two numbers, at once where PAIRS says that they stand side by side at a multiple of their size.
template <bool PAIRS, class ELEMENT>
static __device__ __forceinline__ void load_two(float &x, float &y, const ELEMENT *one, const ELEMENT *other) {
    x = load(one);
    y = load(other);
}
template <bool PAIRS>
static __device__ __forceinline__ void load_two(float &x, float &y, const float *one, const float *other) {
    if (PAIRS) {
        const float2 both = *(const float2 *)one;
        x = both.x, y = both.y;
    } else {
        x = *one, y = *other;
    }
}
template <bool PAIRS>
static __device__ __forceinline__ void load_two(float &x, float &y, const bf16 *one, const bf16 *other) {
    if (PAIRS) {
        const unsigned both = *(const unsigned *)one;
        x = of_bits(both << 16), y = of_bits(both & 0xffff0000u);
    } else {
        x = load(one), y = load(other);
    }
}

template <bool PAIRS, class ELEMENT>
static __device__ __forceinline__ void store_two(ELEMENT *one, ELEMENT *other, float x, float y) {
    store(one, x);
    store(other, y);
}
template <bool PAIRS> static __device__ __forceinline__ void store_two(bf16 *one, bf16 *other, float x, float y) {
    if (PAIRS)
        *(unsigned *)one = to_bf16(x).bits | (unsigned)to_bf16(y).bits << 16;
    else
        store(one, x), store(other, y);
}
template <bool PAIRS> static __device__ __forceinline__ void store_two(float *one, float *other, float x, float y) {
    if (PAIRS)
        *(float2 *)one = make_float2(x, y);
    else
        *one = x, *other = y;
}
