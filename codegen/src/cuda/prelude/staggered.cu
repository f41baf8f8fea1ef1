// Tiles of floats whose rows are staggered: rows are a multiple of 32 floats and 8 more apart, and each four begin another 8
// later. So neither what products store, pairs of four rows at once, meets in a bank of shared memory, nor what is read
// across, 8 columns of every other row of eight. It is written so that of a sum of rows each part is had by itself.
static __device__ __forceinline__ int staggered(int i, int row) { return i * (row + 2) - (i & 3) * 2; }
// Where element (i, j) of a dot's result stands there; the tile begins at `base`.
template <class ELEMENT> struct in_staggered_rows {
    ELEMENT *base;
    int row, column;
    __device__ __forceinline__ ELEMENT *at(int i, int j) const { return base + staggered(i, row) + j * column; }
};
