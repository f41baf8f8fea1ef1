// Sums and maxima over the lanes that share a row: lanes l and l ^ step are joined for step = LANES/2, …, 2, 1. LANES
// is a function of the length of the row alone, and so is the tree. All threads of a block have to call these, even
// those that have no row. `parts` is room for a number of each warp, where more than one shares a row.
struct sum {
    static __device__ __forceinline__ float join(float a, float b) { return a + b; }
    static __device__ __forceinline__ float join_in_quad(float a, float b) { return a + b; }
};
struct maximum {
    static __device__ __forceinline__ float join(float a, float b) { return larger(a, b); }
    // One instruction. Numbers that are none are passed over.
    static __device__ __forceinline__ float join_in_quad(float a, float b) { return fmaxf(a, b); }
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

// The same for a row that a quad of threads has in registers (see fragments.cu): what lanes LANES apart would have is
// joined first, in order, then halves of the LANES columns, down to neighbours. `x` is used up.
template <int LANES, class JOIN, int COUNT> static __device__ __forceinline__ float over_quad(float (&x)[COUNT]) {
    const int OWN = LANES / 4;
    static_assert(LANES >= 8 && COUNT % OWN == 0, "as many elements for each lane");
#pragma unroll
    for (int e = OWN; e < COUNT; e++) x[e % OWN] = JOIN::join_in_quad(x[e % OWN], x[e]);
#pragma unroll
    for (int step = OWN / 2; step > 1; step /= 2)
#pragma unroll
        for (int e = 0; e < step; e++) x[e] = JOIN::join_in_quad(x[e], x[e + step]);
#pragma unroll
    for (int step = 2; step > 0; step /= 2)
#pragma unroll
        for (int e = 0; e < 2; e++) x[e] = JOIN::join_in_quad(x[e], __shfl_xor_sync(0xffffffffu, x[e], step));
    return JOIN::join_in_quad(x[0], x[1]);
}
