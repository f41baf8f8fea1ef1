// C = A times B transposed, bf16 to f32: A is rows x depth, B is columns x depth, all multiples of the tile.
// 128 x 128 x 32 a block of 8 warps, three stages of cp.async, ldmatrix, mma.sync.

typedef unsigned int u32;
typedef unsigned short bf16;

constexpr int tile_rows = 128, tile_columns = 128, tile_depth = 32, stages = 3, threads = 256;
constexpr u32 bytes_a = tile_rows * tile_depth * 2, bytes_stage = bytes_a + tile_columns * tile_depth * 2;

// Where 16 bytes lie in a tile whose rows have 64: swizzled, so that eight rows of ldmatrix touch all banks.
__device__ __forceinline__ u32 place(int row, int chunk) {
    return row * tile_depth * 2 + ((chunk ^ (row >> 1 & 3)) << 4);
}

__device__ __forceinline__ void copy_16_bytes(u32 shared, const void *global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
}

__device__ __forceinline__ void load_matrices(u32 (&x)[4], u32 shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(shared)
                 : "memory");
}

__device__ __forceinline__ void multiply(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

extern "C" __global__ void __launch_bounds__(threads)
    gemm_sm80(const bf16 *__restrict__ a, const bf16 *__restrict__ b, float *__restrict__ c, int columns, int depth) {
    extern __shared__ __align__(128) unsigned char shared_memory[];
    const u32 shared = (u32)__cvta_generic_to_shared(shared_memory);
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int warp_row = warp / 4 * 64, warp_column = warp % 4 * 32;
    const size_t first_row = (size_t)blockIdx.y * tile_rows, first_column = (size_t)blockIdx.x * tile_columns;

    auto load = [&](int step) {
        const u32 stage = shared + step % stages * bytes_stage;
#pragma unroll
        for (int i = 0; i < tile_rows * 4 / threads; i++) {
            const int row = (thread + i * threads) / 4, chunk = thread % 4;
            const size_t column = (size_t)step * tile_depth + chunk * 8;
            copy_16_bytes(stage + place(row, chunk), a + (first_row + row) * depth + column);
            copy_16_bytes(stage + bytes_a + place(row, chunk), b + (first_column + row) * depth + column);
        }
    };

    float sums[4][4][4] = {};
    const int steps = depth / tile_depth;
    for (int step = 0; step < stages - 1; step++) {
        if (step < steps) load(step);
        asm volatile("cp.async.commit_group;" ::: "memory");
    }
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        asm volatile("cp.async.wait_group %0;" ::"n"(stages - 2) : "memory");
        __syncthreads();
        if (step + stages - 1 < steps) load(step + stages - 1);
        asm volatile("cp.async.commit_group;" ::: "memory");
        const u32 tile_a = shared + step % stages * bytes_stage, tile_b = tile_a + bytes_a;
#pragma unroll
        for (int k = 0; k < tile_depth / 16; k++) {
            u32 x[4][4], y[2][4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                load_matrices(x[i], tile_a + place(warp_row + i * 16 + lane % 16, k * 2 + lane / 16));
#pragma unroll
            for (int j = 0; j < 2; j++)
                load_matrices(y[j],
                              tile_b + place(warp_column + j * 16 + lane % 8 + lane / 16 * 8, k * 2 + lane / 8 % 2));
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) multiply(sums[i][j], x[i], y[j / 2][j % 2 * 2], y[j / 2][j % 2 * 2 + 1]);
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const size_t row = first_row + warp_row + i * 16 + lane / 4;
            const size_t column = first_column + warp_column + j * 8 + lane % 4 * 2;
            *(float2 *)&c[row * columns + column] = make_float2(sums[i][j][0], sums[i][j][1]);
            *(float2 *)&c[(row + 8) * columns + column] = make_float2(sums[i][j][2], sums[i][j][3]);
        }
}
