// c[m][n] (+)= sum over k of a[m][k] b[n][k] for sm_100a, by one block: ROWS of a, COLUMNS of b, 64 k, bf16 operands, sums
// in tensor memory. Four warps put operands where products find them and read the sums, a thread of the fifth
// multiplies. Each operand lies in shared memory with a swizzle of WIDTH bytes (16 for none), ALONG_K or along rows; the
// left one may lie in tensor memory. It is done ROUNDS times over, each time onto the same sums.
typedef unsigned u32;
typedef unsigned long long u64;
typedef unsigned short u16;
#define DEPTH 64
#ifndef ALLOCATED
#define ALLOCATED 512
#endif
#ifndef FREED
#define FREED ALLOCATED
#endif

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void before() {
#ifndef NO_FENCE_BEFORE
  asm volatile("tcgen05.fence::before_thread_sync;" ::: "memory");
#endif
}
__device__ __forceinline__ void after() {
#ifndef NO_FENCE_AFTER
  asm volatile("tcgen05.fence::after_thread_sync;" ::: "memory");
#endif
}
__device__ __forceinline__ void wait_for_loads() {
#ifndef NO_WAIT_LOAD
  asm volatile("tcgen05.wait::ld.sync.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void wait_for_stores() {
#ifndef NO_WAIT_STORE
  asm volatile("tcgen05.wait::st.sync.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
  asm volatile(
      "{\n\t.reg .pred done;\n"
      "WAIT:\n\tmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "\t@!done bra WAIT;\n\t}" ::"r"(barrier), "r"(parity) : "memory");
}

// An operand of `rows` x 64 k in shared memory from an address on.
template <int WIDTH, bool ALONG_K> struct layout {
  // Where an element lies.
  static __device__ __forceinline__ u32 at(u32 base, int rows, int row, int k) {
    const int span = WIDTH / 2;
    u32 place = ALONG_K ? k / span * rows * WIDTH + row * WIDTH + k % span * 2
                        : row / span * DEPTH * WIDTH + k * WIDTH + row % span * 2;
    place += base;
    return place ^ ((place >> 7 & (WIDTH / 16 - 1)) << 4);
  }
  // The matrix of 16 k from 16 * step on.
  static __device__ __forceinline__ u64 describe(u32 base, int rows, int step) {
    const int bytes = step * 32;
    const u32 start = base + (ALONG_K ? bytes / WIDTH * rows * WIDTH + bytes % WIDTH : step * 16 * WIDTH);
    u32 leading, stride;
    if (ALONG_K)
      leading = WIDTH == 16 ? rows * 16 : 16, stride = 8 * WIDTH;
    else
      leading = WIDTH == 16 ? 128 : DEPTH * WIDTH, stride = WIDTH == 16 ? DEPTH * 16 : 8 * WIDTH;
    const u64 kind = WIDTH == 16 ? 0 : WIDTH == 32 ? 6 : WIDTH == 64 ? 4 : 2;
#ifdef WRONG_VERSION
    const u64 version = 0;
#else
    const u64 version = 1;
#endif
    return (u64)(start >> 4) | (u64)(leading >> 4) << 16 | (u64)(stride >> 4) << 32 | version << 46 | kind << 61;
  }
};
typedef layout<A_WIDTH, A_ALONG_K> layout_a;
typedef layout<B_WIDTH, B_ALONG_K> layout_b;

#ifdef WRONG_ROWS
#define DESCRIBED_ROWS 96
#else
#define DESCRIBED_ROWS ROWS
#endif
__device__ __forceinline__ void multiply(u32 d, u64 a, u64 b, bool add) {
  const u32 description = 1 << 4 | 1 << 7 | 1 << 10 | (A_ALONG_K ? 0 : 1) << 15 | (B_ALONG_K ? 0 : 1) << 16 | COLUMNS / 8 << 17 |
                          DESCRIBED_ROWS / 16 << 24;
  asm volatile(
      "{\n\t.reg .pred add;\n\tsetp.ne.u32 add, %4, 0;\n\t"
#ifdef LEFT_IN_TENSOR
      "tcgen05.mma.cta_group::1.kind::f16 [%0], [%1], %2, %3, add;\n\t}" ::"r"(d), "r"((u32)a),
#else
      "tcgen05.mma.cta_group::1.kind::f16 [%0], %1, %2, %3, add;\n\t}" ::"r"(d), "l"(a),
#endif
      "l"(b), "r"(description), "r"((u32)add) : "memory");
}
__device__ __forceinline__ void commit(u32 barrier) {
  asm volatile("tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%0];" ::"r"(barrier) : "memory");
}

// Sums of a thread: eight columns of a lane, or fragments of 16 lanes.
__device__ __forceinline__ void load_lanes(float (&x)[8], u32 from) {
  asm volatile("tcgen05.ld.sync.aligned.32x32b.x8.b32 {%0, %1, %2, %3, %4, %5, %6, %7}, [%8];"
               : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3]), "=f"(x[4]), "=f"(x[5]), "=f"(x[6]), "=f"(x[7]) : "r"(from));
}
__device__ __forceinline__ void load_fragments(float (&x)[4], u32 from) {
  asm volatile("tcgen05.ld.sync.aligned.16x256b.x1.b32 {%0, %1, %2, %3}, [%4];"
               : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3]) : "r"(from));
}
template <int COUNT> __device__ __forceinline__ void settle(float (&x)[COUNT]) {
  for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(x[i]));
}

extern "C" __global__ void __launch_bounds__(160) tcgen05_product(const u16* a, const u16* b, float* c) {
  extern __shared__ __align__(1024) unsigned char memory[];
  __shared__ __align__(8) u64 barrier;
  __shared__ u32 tensor_memory;
  const u32 thread = threadIdx.x, warp = thread / 32, lane = thread % 32, done = shared_address(&barrier);
  const u32 left = (shared_address(memory) + 1023) & ~1023u, right = left + ROWS * DEPTH * 2;
  if (thread == 0) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(done) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  if (warp == 4) {
    asm volatile("tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%0], %1;" ::"r"(shared_address(&tensor_memory)), "n"(ALLOCATED) : "memory");
#ifdef TWO_ALLOCATIONS
    asm volatile("tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%0], %1;" ::"r"(shared_address(&tensor_memory)), "n"(ALLOCATED) : "memory");
#endif
    asm volatile("tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;");
#ifdef LATE_ALLOCATION
    asm volatile("tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%0], %1;" ::"r"(shared_address(&tensor_memory)), "n"(32) : "memory");
#endif
  }
  before();
  __syncthreads();
  after();
  // Sums from the first column on, a left operand behind them.
  const u32 sums = tensor_memory, operand = sums + COLUMNS, own = warp % 4 * 32 << 16;
#ifdef TWO_STORE
  // Warps 0 and 4 have the same lanes.
  if (warp == 4) {
    asm volatile("tcgen05.st.sync.aligned.32x32b.x1.b32 [%0], {%1};" ::"r"(operand + own), "r"(lane) : "memory");
    wait_for_stores();
  }
#endif
  for (int round = 0; round < ROUNDS; round++) {
    if (warp < 4) {
#if !defined(LEFT_IN_TENSOR)
      for (int i = thread; i < ROWS * DEPTH; i += 128)
        asm volatile("st.shared.u16 [%0], %1;" ::"r"(layout_a::at(left, ROWS, i / DEPTH, i % DEPTH)), "h"(a[i]) : "memory");
#elif defined(FRAGMENTS)
      for (int half = 0; half < 2; half++)
        for (int step = 0; step < DEPTH / 16; step++) {
          u32 x[4];
          for (int e = 0; e < 4; e++)
            x[e] = *(const u32*)(a + (warp * 32 + half * 16 + lane / 4 + e % 2 * 8) * DEPTH + step * 16 + e / 2 * 8 + lane % 4 * 2);
          asm volatile("tcgen05.st.sync.aligned.16x128b.x2.b32 [%0], {%1, %2, %3, %4};" ::"r"(operand + own + (half << 20) + step * 8),
                       "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]) : "memory");
        }
#else
      for (int step = 0; step < DEPTH / 16; step++) {
        const u32* x = (const u32*)(a + thread * DEPTH + step * 16);
        asm volatile("tcgen05.st.sync.aligned.32x32b.x8.b32 [%0], {%1, %2, %3, %4, %5, %6, %7, %8};" ::"r"(operand + own + step * 8),
                     "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(x[4]), "r"(x[5]), "r"(x[6]), "r"(x[7]) : "memory");
      }
#endif
      for (int i = thread; i < COLUMNS * DEPTH; i += 128)
        asm volatile("st.shared.u16 [%0], %1;" ::"r"(layout_b::at(right, COLUMNS, i / DEPTH, i % DEPTH)), "h"(b[i]) : "memory");
#ifndef NO_PROXY_FENCE
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
      wait_for_stores();
    }
    before();
#ifndef NO_BARRIER
    __syncthreads();
#endif
    after();
#ifdef ALL_ISSUE
    if (warp == 4) {
#else
    if (thread == 128) {
#endif
      for (int step = 0; step < DEPTH / 16; step++) {
#ifdef LEFT_IN_TENSOR
        const u64 left_matrix = operand + step * 8;
#else
        const u64 left_matrix = layout_a::describe(left, ROWS, step);
#endif
#ifdef ADD_FROM_NOTHING
        const bool add = true;
#else
        const bool add = round > 0 || step > 0;
#endif
#ifdef OTHER_SUMS
        multiply(sums + (step == 1 ? 16 : 0), left_matrix, layout_b::describe(right, COLUMNS, step), add);
#else
        multiply(sums, left_matrix, layout_b::describe(right, COLUMNS, step), add);
#endif
      }
#ifndef NO_COMMIT
      commit(done);
#endif
    }
#ifdef COMMIT_BY_ANOTHER
    if (thread == 129) commit(done);
#endif
    __syncwarp();
#ifndef NO_DONE_WAIT
    barrier_wait(done, round & 1);
#endif
#ifdef WAIT_BY_ONE
    __syncthreads();
#endif
    after();
  }
  if (warp < 4) {
#ifdef OTHER_LANES
    const u32 first = (warp + 1) % 4 * 32 << 16;
#else
    const u32 first = own;
#endif
#if ROWS == 128 && !defined(FRAGMENTS)
    for (int column = 0; column < COLUMNS; column += 8) {
      float x[8];
      load_lanes(x, sums + first + column);
      wait_for_loads();
      settle(x);
      for (int e = 0; e < 8; e++) c[thread * COLUMNS + column + e] = x[e];
    }
#else
    for (int half = 0; half < ROWS / 64; half++)
      for (int column = 0; column < COLUMNS; column += 8) {
        float x[4];
        load_fragments(x, sums + first + (half << 20) + column);
        wait_for_loads();
        settle(x);
        const int row = ROWS == 128 ? warp * 32 + half * 16 : warp * 16;
        for (int e = 0; e < 4; e++) c[(row + lane / 4 + e / 2 * 8) * COLUMNS + column + lane % 4 * 2 + e % 2] = x[e];
      }
#endif
  }
  before();
#ifndef NO_LAST_BARRIER
  __syncthreads();
#endif
  after();
#ifndef NO_FREE
  if (warp == 4) asm volatile("tcgen05.dealloc.cta_group::1.sync.aligned.b32 %0, %1;" ::"r"(sums), "n"(FREED));
#endif
}
