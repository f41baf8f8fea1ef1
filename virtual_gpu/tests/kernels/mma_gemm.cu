// c[m][n] = sum over k of a[m][k] b[n][k]: bf16 operands, f32 sums. Tiles of 64 by 64 by 32, four warps of 32 by 32, three
// stages of cp.async. Rows and columns may end anywhere; k is a multiple of 8.
typedef unsigned short bfloat;
#define ROWS 64
#define COLUMNS 64
#define DEPTH 32
#define STAGES 3
#ifndef PENDING
#define PENDING STAGES - 2
#endif

__device__ __forceinline__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void copy16(unsigned to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void load4(unsigned (&x)[4], unsigned from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(from) : "memory");
}
__device__ __forceinline__ void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#ifdef K8
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(b0));
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[2]), "r"(a[3]), "r"(b1));
#else
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}
// Four chunks of 16 bytes a row; two rows share the 128 bytes of the banks.
__device__ __forceinline__ unsigned place(unsigned row, unsigned chunk) {
#ifdef NO_SWIZZLE
  return row * 64 + chunk * 16;
#else
  return row * 64 + ((chunk ^ (row / 2 % 4)) * 16);
#endif
}

extern "C" __global__ void __launch_bounds__(128) mma_gemm(const bfloat* a, const bfloat* b, float* c, int m, int n, int k) {
  __shared__ __align__(128) bfloat left[STAGES][ROWS * DEPTH], right[STAGES][COLUMNS * DEPTH];
  const unsigned thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const int first_row = blockIdx.y * ROWS, first_column = blockIdx.x * COLUMNS;
  float sums[2][4][4];
#ifndef NO_ZERO
  for (int i = 0; i < 2; i++)
    for (int j = 0; j < 4; j++)
      for (int e = 0; e < 4; e++) sums[i][j][e] = 0.0f;
#endif
  auto load = [&](int stage, int step) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const unsigned row = thread / 4 + i * 32, chunk = thread % 4;
      const int depth = step * DEPTH + chunk * 8;
#ifdef NO_BOUND
      const bool in_a = true, in_b = true;
#else
      const bool in_a = first_row + row < m && depth < k, in_b = first_column + row < n && depth < k;
#endif
      copy16(shared_address(left[stage]) + place(row, chunk), in_a ? a + (size_t)(first_row + row) * k + depth : a, in_a ? 16 : 0);
      copy16(shared_address(right[stage]) + place(row, chunk), in_b ? b + (size_t)(first_column + row) * k + depth : b, in_b ? 16 : 0);
    }
  };
  const int steps = (k + DEPTH - 1) / DEPTH;
  for (int step = 0; step < STAGES - 1; step++) {
    if (step < steps) load(step, step);
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
  const unsigned warp_row = warp / 2 * 32, warp_column = warp % 2 * 32;
  for (int step = 0; step < steps; step++) {  // main loop
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#ifndef NO_BARRIER
    __syncthreads();
#endif
    if (step + STAGES - 1 < steps) load((step + STAGES - 1) % STAGES, step + STAGES - 1);
    asm volatile("cp.async.commit_group;" ::: "memory");
    const unsigned a_stage = shared_address(left[step % STAGES]), b_stage = shared_address(right[step % STAGES]);
#pragma unroll
    for (int part = 0; part < DEPTH / 16; part++) {
      unsigned x[2][4], y[2][4];
#pragma unroll
      for (int i = 0; i < 2; i++) load4(x[i], a_stage + place(warp_row + i * 16 + lane % 16, part * 2 + lane / 16));
#pragma unroll
      for (int j = 0; j < 2; j++)
        load4(y[j], b_stage + place(warp_column + j * 16 + lane % 8 + lane / 16 * 8, part * 2 + lane / 8 % 2));
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) multiply(sums[i][j], x[i], y[j / 2][j % 2 * 2], y[j / 2][j % 2 * 2 + 1]);
    }
  }  // end of the main loop
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int row = first_row + warp_row + i * 16 + lane / 4 + e / 2 * 8;
        const int column = first_column + warp_column + j * 8 + lane % 4 * 2 + e % 2;
#ifdef NO_STORE_BOUND
        c[(size_t)row * n + column] = sums[i][j][e];
#else
        if (row < m && column < n) c[(size_t)row * n + column] = sums[i][j][e];
#endif
      }
}
