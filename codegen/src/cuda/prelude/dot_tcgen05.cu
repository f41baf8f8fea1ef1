// dot_tcgen05: c[i,j] (+)= sum over k of a[i,k] * b[j,k] by the tensor cores of sm_100a, by the 256 consumers of a
// block. It is one family of instructions everywhere: tcgen05.mma of 64 or 128 rows and 16 k with sums in floats, over
// ascending k from zero or from the c that is there, 16 k at a time from the first on. Floats, which are always on
// the left, have three parts: a float is the exact sum of three numbers of bf16, each what the ones before leave, cut
// off; of each 16 k the smallest parts are multiplied first. The bits of an element depend on its row of a, its row of
// b and k alone, whatever tile they are in: few rows take the same instructions as many.
//
// One thread multiplies, the others wait. Sums are in tensor memory, of 128 lanes: of 128 rows each has a lane, of 64
// each warp's 32 lanes have 16. Operands come through the ring as for dot_wgmma. A left one of floats goes to
// tensor memory, behind the sums: IN_REGISTERS means that consumers read fragments where it lies, and store their parts
// there. What is beyond the last k is zero in both, since zero times what is no number is none. What is beyond the last
// row of a or of b may be anything: it is not stored.

// Of a slot, the columns of tensor memory that a part of the left operand has: two k in each.
#define PART_COLUMNS (RING_STEP / 2)

// Accesses to tensor memory are asynchronous: those before a barrier come before those behind it with a fence on either
// side.
static __device__ __forceinline__ void show_tensor_memory() { asm volatile("tcgen05.fence::before_thread_sync;" ::: "memory"); }
static __device__ __forceinline__ void see_tensor_memory() { asm volatile("tcgen05.fence::after_thread_sync;" ::: "memory"); }
static __device__ __forceinline__ void wait_for_stored() { asm volatile("tcgen05.wait::st.sync.aligned;" ::: "memory"); }
static __device__ __forceinline__ void wait_for_loaded() { asm volatile("tcgen05.wait::ld.sync.aligned;" ::: "memory"); }

// One thread of a warp that is whole: the compiler knows of it that it is one.
static __device__ __forceinline__ bool is_elected() {
    unsigned yes;
    asm volatile("{\n\t.reg .pred yes;\n\telect.sync _|yes, 0xffffffff;\n\tselp.b32 %0, 1, 0, yes;\n\t}" : "=r"(yes));
    return yes != 0;
}

// A block's columns of tensor memory, and the barrier at which all products of a tile are complete.
struct tensor_memory {
    unsigned columns, done, phase;
};
// The same as it lies in shared memory.
struct tensor_room {
    unsigned long long done;
    unsigned columns;
    // By the first warp, before a barrier of the block.
    template <int COLUMNS> __device__ __forceinline__ void take() {
        if (threadIdx.x == 0) {
            asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(&done)) : "memory");
            asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        }
        __syncwarp();
        asm volatile("tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%0], %1;"
                     ::"r"(shared_address(&columns)), "n"(COLUMNS) : "memory");
        asm volatile("tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;" ::: "memory");
    }
    __device__ __forceinline__ tensor_memory open() const { return {columns, shared_address(&done), 0}; }
};
// By all consumers, when they need it no more.
template <int COLUMNS> static __device__ __forceinline__ void give_back(const tensor_memory &tensor) {
    show_tensor_memory();
    workers_wait();
    see_tensor_memory();
    if (threadIdx.x < 32)
        asm volatile("tcgen05.dealloc.cta_group::1.sync.aligned.b32 %0, %1;" ::"r"(tensor.columns), "n"(COLUMNS) : "memory");
}

// A matrix in shared memory, as for wgmma: groups of 8 rows are 1024 bytes apart; where k does not run along memory, a row
// is 64 of them, and the next 64 are a block further.
static __device__ __forceinline__ unsigned long long matrix(unsigned address, unsigned further) {
    const unsigned low = (address >> 4 | BLOCK_BYTES / 16 << 16) + further, high = 2u << 29 | 1u << 14 | 1024 / 16;
    return (unsigned long long)high << 32 | low;
}
// Products of bf16 with sums in floats, of so many rows and columns; whether rows, or columns, run along memory.
template <int ROWS, int COLUMNS, bool A_TURNED, bool B_TURNED> struct product {
    static const unsigned DESCRIPTION = 1u << 4 | 1u << 7 | 1u << 10 | (A_TURNED ? 1u << 15 : 0) | (B_TURNED ? 1u << 16 : 0) |
                                        COLUMNS / 8 << 17 | ROWS / 16 << 24;
    static __device__ __forceinline__ void add(unsigned sums, unsigned long long a, unsigned long long b, bool goes_on) {
        asm volatile("{\n\t.reg .pred add;\n\tsetp.ne.b32 add, %4, 0;\n\t"
                     "tcgen05.mma.cta_group::1.kind::f16 [%0], %1, %2, %3, add;\n\t}"
                     ::"r"(sums), "l"(a), "l"(b), "n"(DESCRIPTION), "r"((int)goes_on) : "memory");
    }
    // The left operand in tensor memory.
    static __device__ __forceinline__ void add(unsigned sums, unsigned a, unsigned long long b, bool goes_on) {
        asm volatile("{\n\t.reg .pred add;\n\tsetp.ne.b32 add, %4, 0;\n\t"
                     "tcgen05.mma.cta_group::1.kind::f16 [%0], [%1], %2, %3, add;\n\t}"
                     ::"r"(sums), "r"(a), "l"(b), "n"(DESCRIPTION), "r"((int)goes_on) : "memory");
    }
};
// An arrival at a barrier when all products that the thread has begun are complete.
static __device__ __forceinline__ void arrive_when_complete(unsigned barrier) {
    asm volatile("tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%0];" ::"r"(barrier) : "memory");
}
// A fragment of 16 rows x 16 k of bf16 to tensor memory.
static __device__ __forceinline__ void store_fragment(unsigned to, const unsigned (&x)[4]) {
    asm volatile("tcgen05.st.sync.aligned.16x128b.x2.b32 [%0], {%1, %2, %3, %4};"
                 ::"r"(to), "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]) : "memory");
}

// The two warpgroups have half of the columns each. PAIRS says that elements 2j and 2j + 1 of a row of the result stand
// side by side at a multiple of their size.
template <int ROWS, int COLUMNS, int PARTS, int A_FROM, int B_FROM, bool A_ALONG_K, bool B_ALONG_K, bool ACCUMULATE,
          bool PAIRS, class A, class B, class C, class RING>
static __device__ __forceinline__ void dot_tcgen05(int m, int n, int k, A a, B b, C c, RING &ring_at, tensor_memory &tensor) {
    const int WIDTH = COLUMNS / 2, HALVES = ROWS / 64, B_EXTENT = B_ALONG_K || COLUMNS > 64 ? COLUMNS : 64;
    const bool A_TENSOR = A_FROM >= IN_REGISTERS;
    static_assert(!A_TENSOR || ROWS == 128, "in tensor memory a left operand has a lane for each row");
    const bool A_FILLS = A_FROM == BY_ELEMENTS || A_FROM == BY_PIECES;
    const bool B_FILLS = B_FROM == BY_ELEMENTS || B_FROM == BY_PIECES;
    const int A_COPY = A_FROM == BY_PIECES ? COPY_PIECES : COPY_ELEMENTS;
    const int B_COPY = B_FROM == BY_PIECES ? COPY_PIECES : COPY_ELEMENTS;
    // Whether consumers do something for each slot, or for some.
    const bool FILLS = A_TENSOR || A_FILLS || B_FILLS;
    const bool A_CLEARS = A_FROM == BY_TMA_ZEROED || A_FROM == BY_TMA_ROWS_ZEROED;
    const bool B_CLEARS = B_FROM == BY_TMA_ZEROED || B_FROM == BY_TMA_ROWS_ZEROED;
    const bool CLEARS = A_CLEARS || B_CLEARS;
    const int A_BYTES = A_TENSOR ? 0 : ROWS * RING_STEP * 2 * PARTS;
    typedef product<ROWS, COLUMNS, !A_TENSOR && !A_ALONG_K, !B_ALONG_K> products;
    const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    // The warp's lanes of tensor memory, and where the thread's elements of the result begin.
    const unsigned own_lanes = tensor.columns + (warp * 32 << 16), own_sums = own_lanes + group * WIDTH;
    const int own_row = warp * (ROWS / 4) + lane / 4, own_column = group * WIDTH + lane % 4 * 2;
    const int steps = (k + RING_STEP - 1) / RING_STEP;
    RING at = ring_at;
    for (int i0 = 0; i0 < m; i0 += ROWS)
        for (int j0 = 0; j0 < n; j0 += COLUMNS) {
            if (ACCUMULATE && steps > 0) {
                // What is stored may be what another warp has read for a dot of other columns.
                show_tensor_memory();
                workers_wait();
                see_tensor_memory();
#pragma unroll
                for (int half = 0; half < HALVES; half++) {
                    float sum[WIDTH / 2];
#pragma unroll
                    for (int e = 0; e < WIDTH / 2; e += 2) {
                        const int y = i0 + own_row + half * 16 + e / 2 % 2 * 8, x = j0 + own_column + e / 4 * 8;
                        sum[e] = sum[e + 1] = 0.0f;
                        if (y < m && x + 1 < n)
                            load_two<PAIRS>(sum[e], sum[e + 1], c.at(y, x), c.at(y, x + 1));
                        else if (y < m && x < n)
                            sum[e] = load(c.at(y, x));
                    }
                    store_sums(own_sums + (half * 16 << 16), sum);
                }
                wait_for_stored();
            }
            // How many rows of operands are to be kept, and whether something of a slot is not.
            const int a_extent = A_FROM == BY_TMA_ROWS_ZEROED ? m - i0 : ROWS;
            const int b_extent = B_FROM == BY_TMA_ROWS_ZEROED ? n - j0 : B_EXTENT;
            const bool rows_end = a_extent < ROWS || b_extent < B_EXTENT;
            const auto ends = [&](int step) { return CLEARS && (rows_end || k - step * RING_STEP < RING_STEP); };
            // Where parts of a slot's left operand are in tensor memory.
            const auto parts_of = [&](const RING &at) { return COLUMNS + at.slot * (PARTS * PART_COLUMNS); };
            // What consumers do for a slot that the producer has left to them, until tensor cores may read it.
            const auto fill = [&](const RING &at, int step) {
                const int k0 = step * RING_STEP;
                bf16 *const stage = (bf16 *)at.data();
                if constexpr (A_TENSOR) {
                    see_tensor_memory();
                    // Each warpgroup has half of the k.
#pragma unroll
                    for (int of = 0; of < 4; of++) {
                        const int half = of / 2, kk = group * 2 + of % 2, y = i0 + warp * 32 + half * 16 + lane / 4;
                        const int own_k = kk * 16 + lane % 4 * 2;
                        const bool there[2] = {y < m, y + 8 < m};
                        const auto element = [&](int row, int x) { return a.at(y + row, k0 + own_k + x); };
                        unsigned left[PARTS][4];
                        if (k - k0 >= RING_STEP)
                            load_fragments<PARTS, A_FROM == IN_REGISTERS_BY_PAIRS, true>(left, there, 0, element);
                        else
                            load_fragments<PARTS, A_FROM == IN_REGISTERS_BY_PAIRS, false>(left, there, k - k0 - own_k, element);
#pragma unroll
                        for (int part = 0; part < PARTS; part++)
                            store_fragment(own_lanes + (half * 16 << 16) + parts_of(at) + part * PART_COLUMNS + kk * 8, left[part]);
                    }
                    wait_for_stored();
                }
                if (A_FILLS)
                    fill_stage<RING_STEP, ROWS, 64, A_ALONG_K, PARTS, A_COPY>(
                        stage, thread_anew(), m - i0, k - k0, [&](int kk, int x) { return a.at(i0 + x, k0 + kk); });
                if (B_FILLS)
                    fill_stage<RING_STEP, B_EXTENT, 64, B_ALONG_K, 1, B_COPY>(
                        stage + A_BYTES / 2, thread_anew(), n - j0, k - k0, [&](int kk, int x) { return b.at(j0 + x, k0 + kk); });
                if (A_CLEARS) clear_beyond<ROWS, A_ALONG_K>(stage, a_extent, k - k0);
                if (B_CLEARS) clear_beyond<B_EXTENT, B_ALONG_K>(stage + A_BYTES / 2, b_extent, k - k0);
                show_to_tensor_cores();
            };
            // By one thread: the products of a slot, which is empty when they are complete.
            const auto multiply = [&](const RING &at, int step) {
                see_tensor_memory();
#pragma unroll
                for (int kk = 0; kk < 4; kk++)
#pragma unroll
                    for (int part = PARTS - 1; part >= 0; part--) {
                        const auto right = matrix(at.address() + A_BYTES, kk * (B_ALONG_K ? 2 : 128));
                        const bool goes_on = ACCUMULATE || kk > 0 || part < PARTS - 1 || step > 0;
                        if constexpr (A_TENSOR)
                            products::add(tensor.columns, tensor.columns + parts_of(at) + part * PART_COLUMNS + kk * 8, right, goes_on);
                        else
                            products::add(tensor.columns, matrix(at.address(), part * ROWS * RING_STEP / 8 + kk * (A_ALONG_K ? 2 : 128)),
                                          right, goes_on);
                    }
                arrive_when_complete(at.empty());
            };
            // All have read the sums before.
            show_tensor_memory();
            workers_wait();
            if constexpr (!FILLS && !CLEARS) {
                if (threadIdx.x < 32 && is_elected()) {
                    RING own = at;
#pragma unroll 1
                    for (int step = 0; step < steps; step++) {
                        own.wait_until_full();
                        multiply(own, step);
                        own = own.next();
                    }
                    if (steps > 0) arrive_when_complete(tensor.done);
                }
                at = at.behind(steps);
            } else {
                // While the products of a slot are under way, consumers prepare the next. Those that a slot does not wait for
                // look at its barrier only where they come to a barrier of theirs before it can be filled again.
#pragma unroll 1
                for (int step = 0; step < steps; step++) {
                    const bool prepares = FILLS || ends(step);
                    if (FILLS) at.wait_until_full();
                    if (!FILLS && threadIdx.x < 32) at.wait_until_full();
                    if (!FILLS && prepares) workers_wait();
                    if (prepares) {
                        fill(at, step);
                        show_tensor_memory();
                        workers_wait();
                    }
                    if (threadIdx.x < 32 && is_elected()) {
                        multiply(at, step);
                        if (step == steps - 1) arrive_when_complete(tensor.done);
                    }
                    __syncwarp();
                    at = at.next();
                }
            }
            if (steps > 0) {
                __syncwarp();
                wait_for_phase(tensor.done, tensor.phase);
                tensor.phase ^= 1;
                see_tensor_memory();
            }
            if (steps == 0 && ACCUMULATE) continue;
#pragma unroll
            for (int half = 0; half < HALVES; half++) {
                float sum[WIDTH / 2];
                if (steps > 0) {
                    load_sums(sum, own_sums + (half * 16 << 16));
                    wait_for_loaded();
#pragma unroll
                    for (int e = 0; e < WIDTH / 2; e++) settle(sum[e]);
                } else {
#pragma unroll
                    for (int e = 0; e < WIDTH / 2; e++) sum[e] = 0.0f;
                }
#pragma unroll
                for (int e = 0; e < WIDTH / 2; e += 2) {
                    const int y = i0 + own_row + half * 16 + e / 2 % 2 * 8, x = j0 + own_column + e / 4 * 8;
                    if (y < m && x + 1 < n)
                        store_two<PAIRS>(c.at(y, x), c.at(y, x + 1), sum[e], sum[e + 1]);
                    else if (y < m && x < n)
                        store(c.at(y, x), sum[e]);
                }
            }
        }
    ring_at = at;
}
