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
