// dot_wgmma: c[i,j] (+)= sum over k of a[i,k] * b[j,k] by the tensor cores of sm_90a, by the consumers of a block,
// which are one or two warpgroups. It is one family of instructions everywhere: wgmma m64nNk16 with sums in floats,
// over ascending k from zero or from the c that is there, 16 k at a time from the first on. Floats, which are always
// on the left, have three parts: a float is the exact sum of three numbers of bf16, each what the ones before leave,
// cut off; of each 16 k the smallest parts are multiplied first. The bits of an element depend on its row of a, its
// row of b and k alone, whatever tile they are in: few rows take the same instructions as many.
//
// Operands come through the ring, rows of 128 bytes with their pieces exchanged as TMA's widest swizzle does,
// whichever of k or rows runs along memory. The left one may also stay in registers. What is beyond the last k is
// zero in both, since zero times what is no number is none. What is beyond the last row of a or of b may be anything:
// it is not stored.

static __device__ __forceinline__ void fence_registers() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
static __device__ __forceinline__ void end_of_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT> static __device__ __forceinline__ void wait_for_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}
// A matrix in shared memory: groups of 8 rows are 1024 bytes apart; where k does not run along memory, a row is 64 of
// them, and the next 64 are a block further. Of its description, the lower half says where it is, in pieces of 16
// bytes.
static __device__ __forceinline__ unsigned matrix_at(unsigned address) { return address >> 4 | BLOCK_BYTES / 16 << 16; }
static __device__ __forceinline__ unsigned long long matrix(unsigned at) {
    return (unsigned long long)(1u << 30 | 1024 / 16) << 32 | at;
}

// What is the same in all lanes, in a form from which the compiler knows it: it is kept once for a warp.
static __device__ __forceinline__ unsigned uniform(unsigned x) { return __shfl_sync(0xffffffffu, x, 0); }

// The fragments of 16 k that a thread has of a tile in registers, for k from `first` on, where `depth` of them are left for the thread. FINITE says
// that no number is infinite.
template <int PARTS, bool FINITE, int COLUMNS>
static __device__ __forceinline__ void
cut_fragments(unsigned (&left)[PARTS][4], const fragment<COLUMNS> &tile, int first, int depth) {
#pragma unroll
    for (int e = 0; e < 4; e++) {
        const int column = first + e / 2 * 8;
        float x = 0.0f, y = 0.0f;
        if (column < COLUMNS) {
            x = e / 2 * 8 < depth ? tile.get(e % 2, column / 4) : 0.0f;
            y = e / 2 * 8 + 1 < depth ? tile.get(e % 2, column / 4 + 1) : 0.0f;
        }
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            left[part][e] = next_part(x, y, part + FINITE);
            settle(left[part][e]);
        }
    }
}

template <int PARTS, bool FINITE, int COLUMNS>
static __device__ __forceinline__ void
cut_fragments(unsigned (&left)[PARTS][4], const fragment_bf16<COLUMNS> &tile, int first, int depth) {
    static_assert(PARTS == 1, "numbers of bf16");
#pragma unroll
    for (int e = 0; e < 4; e++) {
        const int column = first + e / 2 * 8;
        const unsigned both = column < COLUMNS ? tile.x[tile.place(e % 2, column / 4)] : 0;
        left[0][e] = e / 2 * 8 + 1 < depth ? both : e / 2 * 8 < depth ? both & 0xffffu : 0;
        settle(left[0][e]);
    }
}

// Of 128 rows each of two warpgroups has 64 and all columns, of 64 rows both have all and half of the columns; one has
// all. PAIRS says that elements 2j and 2j + 1 of a row of the result stand side by side at a multiple of their size.
// STEPS is how many steps of k there are, where that is known: they are then written one by one.
template <int ROWS, int COLUMNS, int PARTS, int A_FROM, int B_FROM, bool A_ALONG_K, bool B_ALONG_K, bool ACCUMULATE,
          bool PAIRS, int STEPS = 0, class A, class B, class C, class RING>
static __device__ __forceinline__ void dot_wgmma(int m, int n, int k, A &&a, B b, C &&c, RING &ring_at) {
    const int WORKERS = RING::WORKERS;
    const int WIDTH = ROWS == WORKERS / 2 ? COLUMNS : COLUMNS / 2, B_EXTENT = B_ALONG_K || COLUMNS > 64 ? COLUMNS : 64;
    const bool A_REGISTERS = A_FROM >= IN_REGISTERS, A_FRAGMENTS = A_FROM >= IN_FRAGMENTS;
    const bool HELD = is_fragment<typename without_reference<C>::type>::value;
    const bool A_FILLS = A_FROM == BY_ELEMENTS || A_FROM == BY_PIECES;
    const bool B_FILLS = B_FROM == BY_ELEMENTS || B_FROM == BY_PIECES;
    const int A_COPY = A_FROM == BY_PIECES ? COPY_PIECES : COPY_ELEMENTS;
    const int B_COPY = B_FROM == BY_PIECES ? COPY_PIECES : COPY_ELEMENTS;
    // Where it is known which product is the first, it needs no zeros.
    const bool ANEW = STEPS > 0 && !ACCUMULATE;
    const bool FILLS = A_FILLS || B_FILLS;
    const bool A_CLEARS = A_FROM == BY_TMA_ZEROED || A_FROM == BY_TMA_ROWS_ZEROED;
    const bool B_CLEARS = B_FROM == BY_TMA_ZEROED || B_FROM == BY_TMA_ROWS_ZEROED;
    const bool CLEARS = A_CLEARS || B_CLEARS;
    const int A_BYTES = A_REGISTERS ? 0 : ROWS * RING_STEP * 2 * PARTS;
    const int group = uniform(threadIdx.x / 128), lane = threadIdx.x % 32;
    const int row = ROWS == 128 ? group * 64 : 0, column = WIDTH == COLUMNS ? 0 : group * WIDTH;
    // Where the thread's elements of the result, and of the left operand in registers, begin.
    const int own_row = row + threadIdx.x / 32 % 4 * 16 + lane / 4, own_column = column + lane % 4 * 2;
    const int steps = STEPS > 0 ? STEPS : (k + RING_STEP - 1) / RING_STEP;
    RING at = ring_at;
    // The warpgroup's matrices in the first slot.
    const unsigned first = shared_address(at.memory);
    const unsigned a_at = uniform(matrix_at(first + (A_ALONG_K ? row * 128 : row / 64 * BLOCK_BYTES)));
    const unsigned b_at = uniform(
        matrix_at(first + A_BYTES + (B_ALONG_K ? column * 128 : column / 64 * BLOCK_BYTES + column % 64 * 2)));
    // What is in registers is one tile.
    for (int i0 = 0; i0 < (HELD || A_FRAGMENTS ? 1 : m); i0 += ROWS)
        for (int j0 = 0; j0 < (HELD ? 1 : n); j0 += COLUMNS) {
            float own[WIDTH / 2];
            float (&sum)[WIDTH / 2] = sums_of(c, own);
#pragma unroll
            for (int e = 0; e < WIDTH / 2; e += 2) {
                const int y = i0 + own_row + e / 2 % 2 * 8, x = j0 + own_column + e / 4 * 8;
                if (!ANEW && (!HELD || !ACCUMULATE)) sum[e] = sum[e + 1] = 0.0f;
                if constexpr (HELD) continue;
                else if (ACCUMULATE && y < m && x + 1 < n)
                    load_two<PAIRS>(sum[e], sum[e + 1], c.at(y, x), c.at(y, x + 1));
                else if (ACCUMULATE && y < m && x < n)
                    sum[e] = load(c.at(y, x));
            }
#pragma unroll
            for (int e = 0; !ANEW && e < WIDTH / 2; e++) settle(sum[e]);
            unsigned left[4][PARTS][4];
            const bool there[2] = {i0 + own_row < m, i0 + own_row + 8 < m};
            // How many rows of operands are to be kept, and whether something of a slot is not.
            const int a_extent = A_FROM == BY_TMA_ROWS_ZEROED ? m - i0 : ROWS;
            const int b_extent = B_FROM == BY_TMA_ROWS_ZEROED ? n - j0 : B_EXTENT;
            const bool rows_end = a_extent < ROWS || b_extent < B_EXTENT;
            const auto ends = [&](int step) { return CLEARS && (rows_end || k - step * RING_STEP < RING_STEP); };
            // What consumers do for a slot that the producer has left to them, until tensor cores may read it.
            const auto fill = [&](const RING &at, int step) {
                const int k0 = step * RING_STEP;
                bf16 *const stage = (bf16 *)at.data();
                if constexpr (A_FILLS)
                    fill_stage<RING_STEP, ROWS, 64, A_ALONG_K, PARTS, A_COPY, WORKERS>(
                        stage, thread_anew(), m - i0, k - k0, [&](int kk, int x) { return a.at(i0 + x, k0 + kk); });
                if constexpr (B_FILLS)
                    fill_stage<RING_STEP, B_EXTENT, 64, B_ALONG_K, 1, B_COPY, WORKERS>(
                        stage + A_BYTES / 2, thread_anew(), n - j0, k - k0, [&](int kk, int x) { return b.at(j0 + x, k0 + kk); });
                if (A_CLEARS) clear_beyond<ROWS, A_ALONG_K, WORKERS>(stage, a_extent, k - k0);
                if (B_CLEARS) clear_beyond<B_EXTENT, B_ALONG_K, WORKERS>(stage + A_BYTES / 2, b_extent, k - k0);
                show_to_tensor_cores();
            };
            // Of an operand in registers the next fragments are made while the products of those before are under way.
            const auto multiply = [&](const RING &at, int step) {
                const unsigned of_a = a_at + at.pieces(), of_b = b_at + at.pieces();
                const int depth = k - step * RING_STEP;
                if (!A_REGISTERS) fence_registers();
#pragma unroll
                for (int kk = 0; kk < 4; kk++) {
                    if constexpr (A_FRAGMENTS) {
                        const int first_k = step * RING_STEP + kk * 16;
                        cut_fragments<PARTS, A_FROM == IN_FINITE_FRAGMENTS>(left[kk], a, first_k, k - first_k - lane % 4 * 2);
                        fence_registers();
                    } else if constexpr (A_REGISTERS) {
                        const bool PAIRWISE = A_FROM == IN_REGISTERS_BY_PAIRS;
                        const int own_k = kk * 16 + lane % 4 * 2;
                        const auto element = [&](int y, int x) {
                            return a.at(i0 + own_row + y, step * RING_STEP + own_k + x);
                        };
                        if (depth >= RING_STEP)
                            load_fragments<PARTS, PAIRWISE, true>(left[kk], there, 0, element);
                        else
                            load_fragments<PARTS, PAIRWISE, false>(left[kk], there, depth - own_k, element);
                        fence_registers();
                    }
#pragma unroll
                    for (int part = PARTS - 1; part >= 0; part--) {
                        const auto right = matrix(of_b + kk * (B_ALONG_K ? 2 : 128));
                        const bool first = ANEW && step == 0 && kk == 0 && part == PARTS - 1;
                        if constexpr (A_REGISTERS) {
                            if (first)
                                wgmma_anew<!B_ALONG_K>(sum, left[kk][part], right);
                            else
                                wgmma<!B_ALONG_K>(sum, left[kk][part], right);
                        } else {
                            const auto of_left =
                                matrix(of_a + part * ROWS * RING_STEP / 8 + kk * (A_ALONG_K ? 2 : 128));
                            if (first)
                                wgmma_anew<!A_ALONG_K, !B_ALONG_K>(sum, of_left, right);
                            else
                                wgmma<!A_ALONG_K, !B_ALONG_K>(sum, of_left, right);
                        }
                    }
                }
                end_of_products();
            };
            if constexpr (!FILLS && !A_REGISTERS) {
                // The products of a step are under way while those of the next begin. Where there are none, nothing is waited
                // for: of a wait that loaded sums reach without a product, the assembler would make one after each product.
                RING before = at;
                if (steps > 0) {
#pragma unroll(STEPS > 0 ? STEPS : 1)
                    for (int step = 0; step < steps; step++) {
                        at.wait_until_full();
                        if (ends(step)) {
                            fill(at, step);
                            workers_wait<WORKERS>();
                        }
                        multiply(at, step);
                        wait_for_products<1>();
                        if (step > 0) before.leave();
                        before = at;
                        at = at.next();
                    }
                    wait_for_products<0>();
                    before.leave();
                }
            } else {
                // While the products of a step are under way, consumers prepare the next.
                const auto prepare = [&](int step) {
                    at.wait_until_full();
                    if (FILLS || ends(step)) fill(at, step);
                };
                const auto prepared = [&](int step) {
                    if (FILLS || ends(step)) workers_wait<WORKERS>();
                };
                if (steps > 0) {
                    prepare(0);
                    prepared(0);
                }
#pragma unroll(STEPS > 0 ? STEPS : 1)
                for (int step = 0; step < steps; step++) {
                    multiply(at, step);
                    const RING before = at;
                    at = at.next();
                    if (step + 1 < steps) prepare(step + 1);
                    wait_for_products<0>();
                    before.leave();
                    if (step + 1 < steps) prepared(step + 1);
                }
            }
// The compiler sees no use of the sums in the wait above: what comes of them is not to move before it.
#pragma unroll
            for (int e = 0; e < WIDTH / 2; e++) settle(sum[e]);
#pragma unroll
            for (int e = 0; e < WIDTH / 2; e += 2) {
                const int y = i0 + own_row + e / 2 % 2 * 8, x = j0 + own_column + e / 4 * 8;
                if constexpr (HELD) continue;
                else if (y < m && x + 1 < n)
                    store_two<PAIRS>(c.at(y, x), c.at(y, x + 1), sum[e], sum[e + 1]);
                else if (y < m && x < n)
                    store(c.at(y, x), sum[e]);
            }
        }
    ring_at = at;
}
