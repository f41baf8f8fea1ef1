// As `strided`, where rows or columns are farther apart, or the last column is, than 32 bits count.
template <class ELEMENT> struct far_strided {
    ELEMENT *base;
    long long row, column;
    __device__ __forceinline__ ELEMENT *at(int i, int j) const { return base + i * row + j * column; }
};
