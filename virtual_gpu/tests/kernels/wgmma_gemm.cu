// c[m][n] = sum over k of a[m][k] b[n][k] for sm_90a: bf16 operands, f32 sums, bf16 result. Tiles of 64 by 128 by 64. One
// warp loads by TMA, a warpgroup multiplies; full and empty barriers per stage; the result leaves through shared memory
// by TMA. Sizes may end anywhere: TMA fills with zeros and does not store outside.
typedef unsigned u32;
typedef unsigned long long u64;
#define ROWS 64
#define COLUMNS 128
#define DEPTH 64
#define STAGES 3
#define STAGE_BYTES ((ROWS + COLUMNS) * DEPTH * 2)

struct __align__(64) TensorMap { u64 opaque[16]; };

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void barrier_init(u32 barrier, u32 count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
__device__ __forceinline__ void barrier_expect(u32 barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
  asm volatile(
      "{\n\t.reg .pred done;\n"
      "WAIT:\n\tmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "\t@!done bra WAIT;\n\t}" ::"r"(barrier), "r"(parity) : "memory");
}
__device__ __forceinline__ void load_box(u32 to, const TensorMap* map, int x, int y, u32 barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to),
      "l"(map), "r"(x), "r"(y), "r"(barrier) : "memory");
}
__device__ __forceinline__ void store_box(const TensorMap* map, u32 from, int x, int y) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(x), "r"(y),
               "r"(from) : "memory");
}
// K-major with a swizzle of 128 bytes: groups of eight rows are 1024 bytes apart.
__device__ __forceinline__ u64 descriptor(u32 address) {
  return (u64)((address & 0x3ffff) >> 4) | (u64)1 << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}
#define F(i) "+f"(d[i])
#define F8(i) F(i), F(i + 1), F(i + 2), F(i + 3), F(i + 4), F(i + 5), F(i + 6), F(i + 7)
__device__ __forceinline__ void multiply(float (&d)[64], u64 a, u64 b) {
  asm volatile(
      "{\n\t.reg .pred add;\n\tsetp.ne.b32 add, 1, 0;\n\t"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, "
      "%25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, %64, %65, add, 1, 1, 0, 0;\n\t}"
      : F8(0), F8(8), F8(16), F8(24), F8(32), F8(40), F8(48), F8(56)
      : "l"(a), "l"(b));
}
__device__ __forceinline__ u32 pack(float low, float high) {
  u32 result;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
}

extern "C" __global__ void __launch_bounds__(160) wgmma_gemm(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, const __grid_constant__ TensorMap c, int k) {
  extern __shared__ __align__(1024) unsigned char memory[];
  __shared__ __align__(8) u64 full[STAGES], empty[STAGES];
  const u32 thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const u32 stages = (shared_address(memory) + 1023) & ~1023u;
  const int row = blockIdx.y * ROWS, column = blockIdx.x * COLUMNS, steps = (k + DEPTH - 1) / DEPTH;
  if (thread == 0) {
    for (int stage = 0; stage < STAGES; stage++) {
      barrier_init(shared_address(&full[stage]), 1);
#ifdef WRONG_COUNT
      barrier_init(shared_address(&empty[stage]), 129);  // one more than arrive
#else
      barrier_init(shared_address(&empty[stage]), 128);
#endif
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
#ifndef NO_INIT_BARRIER
  __syncthreads();
#endif
  if (warp == 4) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (lane == 0) {
      for (int step = 0; step < steps; step++) {
        const int stage = step % STAGES;
        const u32 barrier = shared_address(&full[stage]), to = stages + stage * STAGE_BYTES;
#ifdef WRONG_PARITY
        barrier_wait(shared_address(&empty[stage]), step / STAGES % 2);
#elif !defined(NO_EMPTY_WAIT)
        barrier_wait(shared_address(&empty[stage]), (step / STAGES % 2) ^ 1);
#endif
#ifdef WRONG_BYTES
        barrier_expect(barrier, STAGE_BYTES + 16);
#else
        barrier_expect(barrier, STAGE_BYTES);
#endif
        load_box(to, &a, step * DEPTH, row, barrier);
        load_box(to + ROWS * DEPTH * 2, &b, step * DEPTH, column, barrier);
      }
    }
    return;
  }
  float sums[64];
  for (int i = 0; i < 64; i++) sums[i] = 0.0f;
  for (int step = 0; step < steps; step++) {  // main loop
    const int stage = step % STAGES;
#ifndef NO_FULL_WAIT
    barrier_wait(shared_address(&full[stage]), step / STAGES % 2);
#endif
    const u32 left = stages + stage * STAGE_BYTES, right = left + ROWS * DEPTH * 2;
#ifndef NO_WGMMA_FENCE
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
#pragma unroll
    for (int part = 0; part < DEPTH / 16; part++) multiply(sums, descriptor(left + part * 32), descriptor(right + part * 32));
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#ifdef EARLY_RELEASE
    barrier_arrive(shared_address(&empty[stage]));  // before the products were waited for
#endif
#ifndef NO_PRODUCT_WAIT
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#endif
#ifndef EARLY_RELEASE
    barrier_arrive(shared_address(&empty[stage]));
#endif
  }  // end of the main loop
  // The result as two boxes of 64 columns, swizzled as the map says, in a place of its own.
  const u32 result = stages + STAGES * STAGE_BYTES;
#pragma unroll
  for (int j = 0; j < 16; j++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const u32 r = warp * 16 + lane / 4 + half * 8, box = j / 8, chunk = j % 8;
#ifdef WRONG_SWIZZLE
      const u32 place = result + box * 8192 + r * 128 + ((chunk ^ (r / 2 % 8)) * 16) + lane % 4 * 4;
#else
      const u32 place = result + box * 8192 + r * 128 + ((chunk ^ (r % 8)) * 16) + lane % 4 * 4;
#endif
      asm volatile("st.shared.b32 [%0], %1;" ::"r"(place), "r"(pack(sums[j * 4 + half * 2], sums[j * 4 + half * 2 + 1])) : "memory");
    }
#ifndef NO_PROXY_FENCE
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
#ifndef NO_RESULT_BARRIER
  asm volatile("bar.sync 1, 128;" ::: "memory");
#endif
  if (thread == 0) {
    store_box(&c, result, column, row);
    store_box(&c, result + 8192, column + 64, row);
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#ifndef NO_STORE_WAIT
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
#endif
  }
}
