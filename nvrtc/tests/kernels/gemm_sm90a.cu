// C = A times B transposed, bf16 to f32: A is rows x depth, B is columns x depth, all multiples of the tile.
// 128 x 128 x 64 a block: one warp fills four stages by TMA, two warp groups multiply them with wgmma.

typedef unsigned int u32;
typedef unsigned long long u64;

struct __align__(64) TensorMap {
    u64 opaque[16];
};

constexpr int tile_rows = 128, tile_columns = 128, tile_depth = 64, stages = 4;
constexpr u32 bytes_a = tile_rows * tile_depth * 2, bytes_stage = bytes_a + tile_columns * tile_depth * 2;
constexpr int threads = 384;

// Rows of 128 bytes, swizzled by TMA; the next eight rows follow after 1024 bytes.
__device__ __forceinline__ u64 matrix(u32 shared) {
    return (u64)((shared & 0x3ffff) >> 4) | 1ull << 16 | (u64)(1024 >> 4) << 32 | 1ull << 62;
}

__device__ __forceinline__ void initialise(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void arrive_and_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void wait(u32 barrier, u32 parity) {
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again_%=:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again_%=;\n"
                 "}" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
}

__device__ __forceinline__ void load(u32 shared, const TensorMap &map, int x, int y, u32 barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3}], [%4];" ::"r"(shared),
                 "l"(&map), "r"(x), "r"(y), "r"(barrier)
                 : "memory");
}

#define EIGHT(i)                                                                                                       \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]),       \
        "+f"(d[i + 7])

__device__ __forceinline__ void multiply(float (&d)[64], u64 a, u64 b) {
    asm volatile("{\n"
                 ".reg .pred add;\n"
                 "setp.ne.b32 add, 1, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "%64, %65, add, 1, 1, 0, 0;\n"
                 "}"
                 : EIGHT(0), EIGHT(8), EIGHT(16), EIGHT(24), EIGHT(32), EIGHT(40), EIGHT(48), EIGHT(56)
                 : "l"(a), "l"(b));
}

extern "C" __global__ void __launch_bounds__(threads)
    gemm_sm90a(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, float *__restrict__ c,
               int columns, int depth) {
    // The tiles, which must lie at a multiple of 1024, and behind them the barriers.
    extern __shared__ __align__(1024) unsigned char shared_memory[];
    const u32 shared = (u32)__cvta_generic_to_shared(shared_memory), full = shared + stages * bytes_stage;
    const u32 empty = full + stages * 8;
    const int thread = threadIdx.x, lane = thread % 32, group = thread / 128, steps = depth / tile_depth;
    if (thread == 0) {
        for (int stage = 0; stage < stages; stage++) {
            initialise(full + stage * 8, 1);
            initialise(empty + stage * 8, 8);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();

    if (group == 2) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (thread == 256)
#pragma unroll 1
            for (int step = 0; step < steps; step++) {
                const u32 stage = step % stages, tile = shared + stage * bytes_stage, barrier = full + stage * 8;
                // The first time around, all stages are empty.
                wait(empty + stage * 8, (step / stages & 1) ^ 1);
                arrive_and_expect(barrier, bytes_stage);
                load(tile, a, step * tile_depth, blockIdx.y * tile_rows, barrier);
                load(tile + bytes_a, b, step * tile_depth, blockIdx.x * tile_columns, barrier);
            }
        return;
    }

    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    float sums[64] = {};
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        const u32 stage = step % stages, tile = shared + stage * bytes_stage;
        wait(full + stage * 8, step / stages & 1);
        const u64 x = matrix(tile + group * 64 * tile_depth * 2), y = matrix(tile + bytes_a);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int k = 0; k < tile_depth / 16; k++) multiply(sums, x + k * 2, y + k * 2);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        if (lane == 0) arrive(empty + stage * 8);
    }

    const int warp = thread / 32 % 4;
    const size_t row = (size_t)blockIdx.y * tile_rows + group * 64 + warp * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < 16; j++) {
        const size_t column = (size_t)blockIdx.x * tile_columns + j * 8 + lane % 4 * 2;
        *(float2 *)&c[row * columns + column] = make_float2(sums[j * 4], sums[j * 4 + 1]);
        *(float2 *)&c[(row + 8) * columns + column] = make_float2(sums[j * 4 + 2], sums[j * 4 + 3]);
    }
}
