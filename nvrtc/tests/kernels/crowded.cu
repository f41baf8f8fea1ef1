// More values at once than registers: 96 running sums. `crowded` is meant for blocks of 1024 threads, which leaves it a
// fraction of the registers of `roomy`. `aside` and `aside_roomy` have the sums in a function that they call.

__device__ __forceinline__ void sums(const float *__restrict__ x, float *__restrict__ y, int count) {
    const int thread = threadIdx.x, threads = blockDim.x;
    float sum[96];
#pragma unroll
    for (int i = 0; i < 96; i++) sum[i] = x[i * threads + thread];
    for (int step = 1; step < count; step++)
#pragma unroll
        for (int i = 0; i < 96; i++) sum[i] = fmaf(sum[(i + 7) % 96], x[(step * 96 + i) * threads + thread], sum[i]);
#pragma unroll
    for (int i = 0; i < 96; i++) y[i * threads + thread] = sum[i];
}

extern "C" __global__ void __launch_bounds__(1024) crowded(const float *x, float *y, int count) { sums(x, y, count); }

extern "C" __global__ void __launch_bounds__(128) roomy(const float *x, float *y, int count) { sums(x, y, count); }

__device__ __noinline__ void called(const float *x, float *y, int count) { sums(x, y, count); }

extern "C" __global__ void __launch_bounds__(1024) aside(const float *x, float *y, int count) { called(x, y, count); }

extern "C" __global__ void __launch_bounds__(128) aside_roomy(const float *x, float *y, int count) {
    called(x, y, count);
}
