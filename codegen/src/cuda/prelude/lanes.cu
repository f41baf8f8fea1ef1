// Sums and maxima over the lanes that share a row: lanes l and l ^ step are joined for step = LANES/2, …, 2, 1. LANES
// is a function of the length of the row alone, and so is the tree. All threads of a block have to call these, even
// those that have no row. `parts` is room for a number of each warp, where more than one shares a row.
struct sum {
    static __device__ __forceinline__ float join(float a, float b) { return a + b; }
};
struct maximum {
    static __device__ __forceinline__ float join(float a, float b) { return larger(a, b); }
};
template <int LANES, class JOIN> static __device__ __forceinline__ float over_lanes(float x, float *parts = nullptr) {
    const int within = LANES < 32 ? LANES : 32;
#pragma unroll
    for (int step = within / 2; step > 0; step /= 2) x = JOIN::join(x, __shfl_xor_sync(0xffffffffu, x, step));
    if (LANES > 32) {
        // Long rows: each warp leaves its part where the others find it.
        const int warp = threadIdx.x / 32, first = warp / (LANES / 32) * (LANES / 32);
        if (threadIdx.x % 32 == 0) parts[warp] = x;
        workers_wait();
        x = parts[first];
#pragma unroll
        for (int other = 1; other < LANES / 32; other++) x = JOIN::join(x, parts[first + other]);
        workers_wait();
    }
    return x;
}
