// Causal attention forward of one head per blockIdx.y: o = softmax(q k^T * scale) v, bf16, head size 64. 64 queries a
// block, 16 a warp; keys in chunks of 64, never storing scores.
typedef unsigned short bfloat;
#define ALL 0xffffffffu
#define HEAD 64

__device__ __forceinline__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void copy16(unsigned to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void wait_all() {
  asm volatile("cp.async.commit_group;\n\tcp.async.wait_group 0;" ::: "memory");
}
__device__ __forceinline__ void load4(unsigned (&x)[4], unsigned from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(from) : "memory");
}
__device__ __forceinline__ void load4_transposed(unsigned (&x)[4], unsigned from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(from) : "memory");
}
__device__ __forceinline__ void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ unsigned pack(float low, float high) {
  unsigned result;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
}
__device__ __forceinline__ float exp2_approx(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
__device__ __forceinline__ unsigned place(unsigned row, unsigned chunk) { return row * 128 + ((chunk ^ (row % 8)) * 16); }

extern "C" __global__ void __launch_bounds__(128) attention(const bfloat* q, const bfloat* k, const bfloat* v, bfloat* o, int time, float scale) {
  __shared__ __align__(128) bfloat queries[64 * HEAD], keys[64 * HEAD], values[64 * HEAD];
  const unsigned thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const size_t head = (size_t)blockIdx.y * time * HEAD;
  const int first = blockIdx.x * 64;
  auto load = [&](const bfloat* to, const bfloat* from, int row) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const unsigned at = thread + i * 128;
      copy16(shared_address(to) + place(at / 8, at % 8), from + head + (size_t)(row + at / 8) * HEAD + at % 8 * 8);
    }
  };
  load(queries, q, first);
  wait_all();
  __syncthreads();
  unsigned x[4][4];
#pragma unroll
  for (int part = 0; part < 4; part++) load4(x[part], shared_address(queries) + place(warp * 16 + lane % 16, part * 2 + lane / 16));
  float out[8][4] = {}, greatest[2] = {-1e30f, -1e30f}, sum[2] = {};
  scale *= 1.44269504f;
  for (int start = 0; start <= first; start += 64) {
#ifndef NO_BARRIER
    __syncthreads();
#endif
    load(keys, k, start);
    load(values, v, start);
#ifdef NO_WAIT
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    wait_all();
#endif
    __syncthreads();
    float score[8][4] = {};
#pragma unroll
    for (int part = 0; part < 4; part++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        unsigned y[4];
        load4(y, shared_address(keys) + place(j * 16 + lane % 8 + lane / 16 * 8, part * 2 + lane / 8 % 2));
        multiply(score[2 * j], x[part], y[0], y[1]);
        multiply(score[2 * j + 1], x[part], y[2], y[3]);
      }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = first + warp * 16 + lane / 4 + half * 8;
      float most = greatest[half];
#pragma unroll
      for (int j = 0; j < 8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          float s = score[j][half * 2 + e] * scale;
#ifndef NO_MASK
          if (start + j * 8 + lane % 4 * 2 + e > row) s = -1e30f;
#endif
          score[j][half * 2 + e] = s;
          most = fmaxf(most, s);
        }
      most = fmaxf(most, __shfl_xor_sync(ALL, most, 1));
      most = fmaxf(most, __shfl_xor_sync(ALL, most, 2));
      const float factor = exp2_approx(greatest[half] - most);
      greatest[half] = most;
      float total = 0.0f;
#pragma unroll
      for (int j = 0; j < 8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const float p = exp2_approx(score[j][half * 2 + e] - most);
          score[j][half * 2 + e] = p;
          total += p;
        }
      sum[half] = sum[half] * factor + total;
#pragma unroll
      for (int j = 0; j < 8; j++) {
        out[j][half * 2] *= factor;
        out[j][half * 2 + 1] *= factor;
      }
    }
#pragma unroll
    for (int part = 0; part < 4; part++) {
      const unsigned p[4] = {pack(score[2 * part][0], score[2 * part][1]), pack(score[2 * part][2], score[2 * part][3]),
                             pack(score[2 * part + 1][0], score[2 * part + 1][1]), pack(score[2 * part + 1][2], score[2 * part + 1][3])};
#pragma unroll
      for (int j = 0; j < 4; j++) {
        unsigned y[4];
        load4_transposed(y, shared_address(values) + place(part * 16 + lane % 16, j * 2 + lane / 16));
        multiply(out[2 * j], p, y[0], y[1]);
        multiply(out[2 * j + 1], p, y[2], y[3]);
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float total = sum[half];
    total += __shfl_xor_sync(ALL, total, 1);
    total += __shfl_xor_sync(ALL, total, 2);
    const int row = first + warp * 16 + lane / 4 + half * 8;
#pragma unroll
    for (int j = 0; j < 8; j++)
      *(unsigned*)(o + head + (size_t)row * HEAD + j * 8 + lane % 4 * 2) = pack(out[j][half * 2] / total, out[j][half * 2 + 1] / total);
  }
}
