// c[m][n] = sum over k of a[m][k] b[k][n] for sm_90a, as a persistent kernel of three warpgroups: one thread of the first
// copies boxes by maps in global memory and runs ahead of the others as far as there is room; the other two multiply 64
// rows each, b as it lies, whose columns run along memory. Tiles of 128 by 64 by 64, one block for all of them.
typedef unsigned u32;
typedef unsigned long long u64;
#define ROWS 128
#define COLUMNS 64
#define DEPTH 64
#define STAGES 4
#define STAGE_BYTES ((ROWS + COLUMNS) * DEPTH * 2)

struct __align__(64) tensor_map { u64 words[16]; };

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void barrier_arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
  asm volatile(
      "{\n\t.reg .pred done;\n"
      "WAIT:\n\tmbarrier.try_wait.parity.acquire.cta.shared::cta.b64 done, [%0], %1, 0x989680;\n"
      "\t@!done bra WAIT;\n\t}" ::"r"(barrier), "r"(parity) : "memory");
}
__device__ __forceinline__ void load_box(u32 to, const tensor_map* map, int x, int y, u32 barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to),
      "l"(map), "r"(x), "r"(y), "r"(barrier) : "memory");
}
__device__ __forceinline__ bool is_elected() {
  u32 elected;
  asm volatile("{\n\t.reg .pred p;\n\telect.sync _|p, 0xffffffff;\n\tselp.u32 %0, 1, 0, p;\n\t}" : "=r"(elected));
  return elected != 0;
}
// A swizzle of 128 bytes: groups of eight rows, along k or across it, are 1024 bytes apart.
__device__ __forceinline__ u64 descriptor(u32 address) {
  return (u64)((address & 0x3ffff) >> 4) | (u64)1 << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}
#define F(i) "+f"(d[i])
#define F8(i) F(i), F(i + 1), F(i + 2), F(i + 3), F(i + 4), F(i + 5), F(i + 6), F(i + 7)
__device__ __forceinline__ void multiply(float (&d)[32], u64 a, u64 b, int add) {
  asm volatile(
      "{\n\t.reg .pred add;\n\tsetp.ne.b32 add, %34, 0;\n\t"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, "
      "%25, %26, %27, %28, %29, %30, %31}, %32, %33, add, 1, 1, 0, 1;\n\t}"
      : F8(0), F8(8), F8(16), F8(24)
      : "l"(a), "l"(b), "r"(add));
}

extern "C" __global__ void __launch_bounds__(384)
warp_specialised(const tensor_map *maps, float *c, int m, int n, int k) {
  extern __shared__ __align__(1024) unsigned char memory[];
  __shared__ __align__(8) u64 full[STAGES], empty[STAGES];
  const int thread = threadIdx.x, group = thread / 128;
  const u32 stages = (shared_address(memory) + 1023) & ~1023u;
  const int steps = (k + DEPTH - 1) / DEPTH, across = (n + COLUMNS - 1) / COLUMNS, tiles = (m + ROWS - 1) / ROWS * across;
  if (thread == 0) {
    for (int stage = 0; stage < STAGES; stage++) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(&full[stage])) : "memory");
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 2;" ::"r"(shared_address(&empty[stage])) : "memory");
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (thread / 32 == 0 && is_elected()) {
#ifndef NO_ACQUIRE
      for (int map = 0; map < 2; map++)
        asm volatile("fence.proxy.tensormap::generic.acquire.sys [%0], 128;" ::"l"(maps + map) : "memory");
#endif
      int stage = 0, phase = 1;
      for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x)
        for (int step = 0; step < steps; step++) {
          const u32 barrier = shared_address(&full[stage]), to = stages + stage * STAGE_BYTES;
          barrier_wait(shared_address(&empty[stage]), phase);
          asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(STAGE_BYTES) : "memory");
          load_box(to, maps, step * DEPTH, tile / across * ROWS, barrier);
          load_box(to + ROWS * DEPTH * 2, maps + 1, tile % across * COLUMNS, step * DEPTH, barrier);
          if (++stage == STAGES) stage = 0, phase ^= 1;
        }
    }
    return;
  }
  asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
  const int warp = thread % 128 / 32, lane = thread % 32;
  int stage = 0, phase = 0;
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    float sums[32];
    for (int step = 0; step < steps; step++) {
      barrier_wait(shared_address(&full[stage]), phase);
      const u32 left = stages + stage * STAGE_BYTES + (group - 1) * 64 * DEPTH * 2;
      const u32 right = stages + stage * STAGE_BYTES + ROWS * DEPTH * 2;
      asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
      for (int part = 0; part < DEPTH / 16; part++)
#ifdef NO_START
        multiply(sums, descriptor(left + part * 32), descriptor(right + part * 2048), 1);
#else
        multiply(sums, descriptor(left + part * 32), descriptor(right + part * 2048), step + part > 0);
#endif
      asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
      asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
      // All of the warpgroup have read the stage before its first thread says so.
      asm volatile("bar.sync %0, 128;" ::"r"(group) : "memory");
#ifdef ONE_GROUP_RELEASES
      if (group == 1 && thread % 128 == 0) {
        barrier_arrive(shared_address(&empty[stage]));
        barrier_arrive(shared_address(&empty[stage]));
      }
#else
      if (thread % 128 == 0) barrier_arrive(shared_address(&empty[stage]));
#endif
      if (++stage == STAGES) stage = 0, phase ^= 1;
    }
    for (int i = 0; i < 32; i++) {
      const int row = tile / across * ROWS + (group - 1) * 64 + warp * 16 + lane / 4 + i / 2 % 2 * 8;
      const int column = tile % across * COLUMNS + i / 4 * 8 + lane % 4 * 2 + i % 2;
      if (row < m && column < n) c[(long long)row * n + column] = sums[i];
    }
  }
}
