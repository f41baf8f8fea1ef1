// dot_bf16: c[i,j] (+)= sum over k of a[i,k] * b[k,j] where the numbers of at least one operand are of bf16, on
// tensor cores, by all threads of a block of 256. It is one family of instructions everywhere: mma.sync m16n8k16 with
// sums in floats, over ascending k from zero or from the c that is there, 16 k at a time from the first on. An
// operand of floats has three parts: a float is the exact sum of three numbers of bf16, each what the ones before
// leave, cut off; of each 16 k the smallest parts are multiplied first. (An infinite number of bf16 times a float is
// no number, since some part of the float is zero; an infinite float is as in a chain.) Rows, columns and k that are
// not there are zeros. So the bits of an element depend on its row of a, its column of b and k alone, whatever tile
// it is in: few rows take the same instructions as many.
//
// Shared memory holds some stages of BF16_STEP k of both operands, each as it lies in memory: a row of a tile is what
// is contiguous there. Pieces of 16 bytes are exchanged within a row as its number says, so that the 8 rows that a
// matrix load reads at once, and the pieces that a warp writes, are in different banks. While one stage is multiplied
// the next are on their way.

#define BF16_STEP 32

template <bool TURNED> static __device__ __forceinline__ void load_matrices(unsigned (&x)[4], const bf16 *p) {
    if (TURNED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(shared_address(p)) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(shared_address(p)) : "memory");
}
static __device__ __forceinline__ void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 8 warps: where there are 64 rows each has 32 of them and a quarter of the columns, otherwise all 16 and an eighth.
// PAIRS says that elements 2j and 2j + 1 of a row of the result stand side by side at a multiple of their size.
template <int ROWS, int COLUMNS, int STAGES, bool A_ALONG_K, bool B_ALONG_K, int A_PARTS, int B_PARTS, int A_COPY, int B_COPY,
          bool ACCUMULATE, bool PAIRS, class A, class B, class C>
static __device__ __forceinline__ void dot_bf16(int m, int n, int k, A a, B b, C c, bf16 *stages) {
    const int WARPS_M = ROWS / 32 > 0 ? ROWS / 32 : 1, WARPS_N = 8 / WARPS_M;
    const int TILES_M = ROWS / WARPS_M / 16, TILES_N = COLUMNS / WARPS_N / 8;
    const int STAGE = (ROWS * A_PARTS + COLUMNS * B_PARTS) * BF16_STEP;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int row = warp / WARPS_N * (TILES_M * 16), column = warp % WARPS_N * (TILES_N * 8);
    // Which row, and which of its pieces, of the matrices that it loads a lane names.
    const int near = lane % 8 + lane / 8 % 2 * 8, far = lane % 8 + lane / 16 * 8;
    const int near_piece = lane / 8 % 2 * 8, far_piece = lane / 16 * 8;
    const int steps = (k + BF16_STEP - 1) / BF16_STEP;
    for (int i0 = 0; i0 < m; i0 += ROWS)
        for (int j0 = 0; j0 < n; j0 += COLUMNS) {
            float sum[TILES_M][TILES_N][4];
#pragma unroll
            for (int i = 0; i < TILES_M; i++)
#pragma unroll
                for (int j = 0; j < TILES_N; j++)
#pragma unroll
                    for (int e = 0; e < 4; e += 2) {
                        const int y = i0 + row + i * 16 + lane / 4 + e / 2 * 8, x = j0 + column + j * 8 + lane % 4 * 2;
                        sum[i][j][e] = sum[i][j][e + 1] = 0.0f;
                        if (ACCUMULATE && y < m && x + 1 < n)
                            load_two<PAIRS>(sum[i][j][e], sum[i][j][e + 1], c.at(y, x), c.at(y, x + 1));
                        else if (ACCUMULATE && y < m && x < n)
                            sum[i][j][e] = load(c.at(y, x));
                    }
            const auto fill = [&](int step) {
                bf16 *const stage = stages + step % STAGES * STAGE;
                const int k0 = step * BF16_STEP;
                if (step < steps) {
                    fill_stage<BF16_STEP, ROWS, A_ALONG_K ? BF16_STEP : ROWS, A_ALONG_K, A_PARTS, A_COPY>(stage, threadIdx.x, m - i0, k - k0, [&](int kk, int x) { return a.at(i0 + x, k0 + kk); });
                    fill_stage<BF16_STEP, COLUMNS, B_ALONG_K ? BF16_STEP : COLUMNS, B_ALONG_K, B_PARTS, B_COPY>(stage + ROWS * A_PARTS * BF16_STEP, threadIdx.x, n - j0, k - k0,
                                                           [&](int kk, int x) { return b.at(k0 + kk, j0 + x); });
                }
                end_of_copies();
            };
#pragma unroll
            for (int step = 0; step < STAGES - 1; step++) fill(step);
#pragma unroll 1
            for (int step = 0; step < steps; step++) {
                wait_for_copies<STAGES - 2>();
                workers_wait();
                fill(step + STAGES - 1);
                const bf16 *const of_a = stages + step % STAGES * STAGE, *const of_b = of_a + ROWS * A_PARTS * BF16_STEP;
#pragma unroll
                for (int kk = 0; kk < BF16_STEP; kk += 16) {
                    unsigned left[A_PARTS][TILES_M][4], right[B_PARTS][TILES_N / 2][4];
#pragma unroll
                    for (int part = 0; part < A_PARTS; part++)
#pragma unroll
                        for (int i = 0; i < TILES_M; i++) {
                            const int first = row + i * 16;
                            const int at = A_ALONG_K ? exchanged<BF16_STEP>(first + near, kk + far_piece)
                                                     : exchanged<ROWS>(kk + far, first + near_piece);
                            load_matrices<!A_ALONG_K>(left[part][i], of_a + part * ROWS * BF16_STEP + at);
                        }
#pragma unroll
                    for (int part = 0; part < B_PARTS; part++)
#pragma unroll
                        for (int j = 0; j < TILES_N / 2; j++) {
                            const int first = column + j * 16;
                            const int at = B_ALONG_K ? exchanged<BF16_STEP>(first + far, kk + near_piece)
                                                     : exchanged<COLUMNS>(kk + near, first + far_piece);
                            load_matrices<!B_ALONG_K>(right[part][j], of_b + part * COLUMNS * BF16_STEP + at);
                        }
#pragma unroll
                    for (int part = A_PARTS * B_PARTS - 1; part >= 0; part--)
#pragma unroll
                        for (int i = 0; i < TILES_M; i++)
#pragma unroll
                            for (int j = 0; j < TILES_N; j++) {
                                const unsigned *const b_of = right[B_PARTS > 1 ? part : 0][j / 2] + j % 2 * 2;
                                multiply_add(sum[i][j], left[A_PARTS > 1 ? part : 0][i], b_of[0], b_of[1]);
                            }
                }
            }
            wait_for_copies<0>();
            workers_wait();
#pragma unroll
            for (int i = 0; i < TILES_M; i++)
#pragma unroll
                for (int j = 0; j < TILES_N; j++)
#pragma unroll
                    for (int e = 0; e < 4; e += 2) {
                        const int y = i0 + row + i * 16 + lane / 4 + e / 2 * 8, x = j0 + column + j * 8 + lane % 4 * 2;
                        if (y < m && x + 1 < n)
                            store_two<PAIRS>(c.at(y, x), c.at(y, x + 1), sum[i][j][e], sum[i][j][e + 1]);
                        else if (y < m && x < n)
                            store(c.at(y, x), sum[i][j][e]);
                    }
        }
}
