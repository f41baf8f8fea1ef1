// What is largest, and running sums of counts: in the order of positions, whatever thread finds them.
template <class NUMBER> struct ranked {
    NUMBER value;
    int at; // -1: none
    static __device__ __forceinline__ ranked none() { return {0, -1}; }
    // Largest first, the lower position first among equals, what is not a number last.
    __device__ __forceinline__ bool before(ranked other) const {
        const bool number = value == value, others = other.value == other.value;
        if (number && others && value != other.value) return value > other.value;
        return number == others ? at < other.at : number;
    }
};
template <class NUMBER> static __device__ __forceinline__ ranked<NUMBER> first_of_warp(ranked<NUMBER> best) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        const ranked<NUMBER> other = {__shfl_xor_sync(0xffffffffu, best.value, step),
                                      __shfl_xor_sync(0xffffffffu, best.at, step)};
        if (other.at >= 0 && (best.at < 0 || other.before(best))) best = other;
    }
    return best;
}

// Each number becomes the sum of all up to it. `seen` is room for one of each of 256 threads, all of which call this.
static __device__ __forceinline__ void running_sums(int *numbers, int count, int *seen) {
    int before = 0;
    for (int from = 0; from < count; from += 256) {
        const int at = from + threadIdx.x;
        seen[threadIdx.x] = at < count ? numbers[at] : 0;
        workers_wait();
        for (int step = 1; step < 256; step *= 2) {
            const int added = threadIdx.x >= step ? seen[threadIdx.x - step] : 0;
            workers_wait();
            seen[threadIdx.x] += added;
            workers_wait();
        }
        if (at < count) numbers[at] = before + seen[threadIdx.x];
        before += seen[255];
        workers_wait();
    }
}
