// Kernels over rows: a softmax, a layer norm in bf16, and a sum that the last block finishes.
// What each macro breaks is said where it is looked at.
typedef unsigned short bfloat;
#define ALL 0xffffffffu

__device__ __forceinline__ float widen(bfloat x) { return __uint_as_float((unsigned)x << 16); }
__device__ __forceinline__ bfloat narrow(float x) {
  bfloat result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result) : "f"(x));
  return result;
}
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL, x, offset);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(ALL, x, offset));
  return x;
}

extern "C" __global__ void softmax(const float* x, float* y, int n) {
  __shared__ float partial[32];
  const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  x += (size_t)blockIdx.x * n;
  y += (size_t)blockIdx.x * n;
#ifdef OFF_BY_ONE
  const int end = n + 1;  // reads one element past the row
#else
  const int end = n;
#endif
  float greatest = -3.0e38f;
  for (int i = threadIdx.x; i < end; i += blockDim.x) greatest = fmaxf(greatest, x[i]);
  greatest = warp_max(greatest);
  if (lane == 0) partial[warp] = greatest;
#ifndef NO_BARRIER
  __syncthreads();
#endif
  greatest = -3.0e38f;
  for (int i = 0; i < warps; i++) greatest = fmaxf(greatest, partial[i]);
#ifndef NO_SECOND_BARRIER
  __syncthreads();
#endif
  float sum = 0.0f;
  for (int i = threadIdx.x; i < n; i += blockDim.x) sum += expf(x[i] - greatest);
  sum = warp_sum(sum);
#ifdef DIVERGENT_BARRIER
  if (lane == 0) {
    partial[warp] = sum;
    __syncthreads();
  }
#else
  if (lane == 0) partial[warp] = sum;
  __syncthreads();
#endif
#ifdef ONE_PARTIAL_TOO_MANY
  const int partials = warps + 1;
#else
  const int partials = warps;
#endif
  sum = 0.0f;
  for (int i = 0; i < partials; i++) sum += partial[i];
  for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = expf(x[i] - greatest) / sum;
}

extern "C" __global__ void layer_norm(const bfloat* x, const float* scale, const float* shift, bfloat* y, int n, float epsilon) {
  __shared__ float sums[32], squares[32];
  const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#ifdef SHARED_ROWS
  const int row = blockIdx.x / 2;  // two blocks write the same row
#else
  const int row = blockIdx.x;
#endif
  x += (size_t)row * n;
  y += (size_t)row * n;
  float sum = 0.0f, square = 0.0f;
#ifdef MISALIGNED
  const unsigned* pairs = (const unsigned*)(x + 1);
#else
  const unsigned* pairs = (const unsigned*)x;
#endif
  for (int i = threadIdx.x; i < n / 2; i += blockDim.x) {
    const unsigned pair = pairs[i];
    const float a = widen(pair & 0xffff), b = widen(pair >> 16);
    sum += a + b;
    square = fmaf(a, a, fmaf(b, b, square));
  }
  sum = warp_sum(sum);
  square = warp_sum(square);
  if (lane == 0) {
    sums[warp] = sum;
    squares[warp] = square;
  }
  __syncthreads();
  sum = 0.0f;
  square = 0.0f;
  for (int i = 0; i < warps; i++) {
    sum += sums[i];
    square += squares[i];
  }
  const float mean = sum / n, inverse = rsqrtf(square / n - mean * mean + epsilon);
  for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = narrow((widen(x[i]) - mean) * inverse * scale[i] + shift[i]);
}

// Each block writes a partial sum; the last to finish adds them up in order.
extern "C" __global__ void sum_by_last(const float* x, float* partials, unsigned* finished, float* result, int n) {
  __shared__ float shared[32];
  __shared__ bool last;
  float sum = 0.0f;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += x[i];
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    sum = 0.0f;
    for (int i = 0; i < blockDim.x / 32; i++) sum += shared[i];
    partials[blockIdx.x] = sum;
#ifndef NO_FENCE
    __threadfence();
#endif
    last = atomicAdd(finished, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (last && threadIdx.x == 0) {
#ifndef NO_FENCE
    __threadfence();
#endif
    sum = 0.0f;
    for (int i = 0; i < gridDim.x; i++) sum += partials[i];
    *result = sum;
  }
}
