// dot: c[i,j] (+)= sum over k of a[i,k] * b[k,j], by all threads of a block of 256.
// Every element of c is one chain of fused multiply-adds over ascending k, from zero or from the c that is there: no
// choice of tile below changes a bit of the result, and it is that of a processor's dot.
//
// Operands say where an element stands: see `operands.cu`. What lies outside of them is zero. STAGE floats of
// shared memory hold a few k of both, first k, then rows or columns, so that a thread reads its own side by side.
//
// A thread has ROWS / 16 x COLUMNS / 16 elements: of columns, fours that are 64 apart, so that neighbours read
// neighbouring banks.

#define K_STEP 16

// Copies K_STEP x EXTENT elements of an operand to shared memory, of which `extent` and `depth` are there. Where k runs
// along memory, neighbouring threads take neighbouring k, 8 at a time: they read whole sectors, and write different banks.
template <int EXTENT, bool ALONG_K, class AT>
static __device__ __forceinline__ void stage_operand(float *stage, int extent, int depth, AT at) {
#pragma unroll 2
    for (int first = 0; first < K_STEP * EXTENT; first += 256) {
        const int e = first + threadIdx.x;
        const int kk = ALONG_K ? e % 8 + e / (8 * EXTENT) * 8 : e / EXTENT;
        const int x = ALONG_K ? e / 8 % EXTENT : e % EXTENT;
        stage[kk * (EXTENT + 4) + x] = x < extent && kk < depth ? load(at(kk, x)) : 0.0f;
    }
}

template <int ROWS, int COLUMNS, bool A_ALONG_K, bool B_ALONG_K, bool ACCUMULATE, class A, class B, class C>
static __device__ __forceinline__ void dot(int m, int n, int k, A a, B b, C c, float *stage) {
    const int TILE_M = ROWS / 16, TILE_N = COLUMNS / 16, RUN = TILE_N < 4 ? TILE_N : 4;
    float *const stage_a = stage, *const stage_b = stage + K_STEP * (ROWS + 4);
    const int row = threadIdx.x / 16 * TILE_M, column = threadIdx.x % 16 * RUN;
    for (int i0 = 0; i0 < m; i0 += ROWS)
        for (int j0 = 0; j0 < n; j0 += COLUMNS) {
            float sum[TILE_M][TILE_N];
#pragma unroll
            for (int i = 0; i < TILE_M; i++)
#pragma unroll
                for (int j = 0; j < TILE_N; j++) {
                    const int y = i0 + row + i, x = j0 + column + j / RUN * 64 + j % RUN;
                    sum[i][j] = ACCUMULATE && y < m && x < n ? load(c.at(y, x)) : 0.0f;
                }
            for (int k0 = 0; k0 < k; k0 += K_STEP) {
                stage_operand<ROWS, A_ALONG_K>(stage_a, m - i0, k - k0, [&](int kk, int x) { return a.at(i0 + x, k0 + kk); });
                stage_operand<COLUMNS, B_ALONG_K>(stage_b, n - j0, k - k0, [&](int kk, int x) { return b.at(k0 + kk, j0 + x); });
                workers_wait();
// All 16 at once would hold more registers than a thread has.
#pragma unroll 4
                for (int kk = 0; kk < K_STEP; kk++) {
                    float left[TILE_M], right[TILE_N];
#pragma unroll
                    for (int i = 0; i < TILE_M; i++) left[i] = stage_a[kk * (ROWS + 4) + row + i];
#pragma unroll
                    for (int j = 0; j < TILE_N; j++)
                        right[j] = stage_b[kk * (COLUMNS + 4) + column + j / RUN * 64 + j % RUN];
#pragma unroll
                    for (int i = 0; i < TILE_M; i++)
#pragma unroll
                        for (int j = 0; j < TILE_N; j++) sum[i][j] = fmaf(left[i], right[j], sum[i][j]);
                }
                workers_wait();
            }
#pragma unroll
            for (int i = 0; i < TILE_M; i++)
#pragma unroll
                for (int j = 0; j < TILE_N; j++) {
                    const int y = i0 + row + i, x = j0 + column + j / RUN * 64 + j % RUN;
                    if (y < m && x < n) store(c.at(y, x), sum[i][j]);
                }
        }
}
