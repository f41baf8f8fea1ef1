// What consumers do for the slots of the ring and with fragments in registers, whichever tensor cores multiply; tiles
// that stay in registers are wgmma's alone.

// Where an operand comes from.
#define BY_TMA 0                // boxes that the producer copies
#define BY_TMA_ZEROED 1         // but behind the last k there is something else, which consumers set to zero
#define BY_TMA_ROWS_ZEROED 2    // behind the last row, too, where it may be what nobody wrote
#define BY_ELEMENTS 3           // consumers fill the slot, one by one
#define BY_PIECES 4             // consumers fill the slot, 16 bytes at a time
#define IN_REGISTERS 5          // consumers read fragments where it lies
#define IN_REGISTERS_BY_PAIRS 6 // two at a time, of k that runs along memory
#define IN_FRAGMENTS 7          // in registers already, as sums of products before
#define IN_FINITE_FRAGMENTS 8   // and none is infinite

// Registers that an asynchronous instruction reads, or has written: what is done with them before this is not moved behind
// it, nor what is done behind before it.
static __device__ __forceinline__ void settle(float &x) { asm volatile("" : "+f"(x)); }
static __device__ __forceinline__ void settle(unsigned &x) { asm volatile("" : "+r"(x)); }

// The thread's number, of which the compiler knows nothing: addresses that are made of it are made anew, and not kept in
// registers that sums have.
static __device__ __forceinline__ int thread_anew() {
    int thread = threadIdx.x;
    asm volatile("" : "+r"(thread));
    return thread;
}

// Sets what a slot has of an operand beyond `extent` rows, and from k `depth` on, to zero.
template <int EXTENT, bool ALONG_K, int WORKERS = 256>
static __device__ __forceinline__ void clear_beyond(bf16 *stage, int extent, int depth) {
    const int rows = ALONG_K ? extent : depth, columns = ALONG_K ? depth : extent;
    for (int piece = threadIdx.x; piece < EXTENT * 8; piece += WORKERS) {
        const int row = piece / 8 % (ALONG_K ? EXTENT : 64), block = ALONG_K ? 0 : piece / 512;
        const int column = block * 64 + piece % 8 * 8;
        bf16 *const to = stage + block * (BLOCK_BYTES / 2) + exchanged<64>(row, piece % 8 * 8);
        if (row >= rows || column >= columns)
            store_piece(to, make_uint4(0, 0, 0, 0));
        else if (column + 8 > columns)
            for (int e = columns - column; e < 8; e++) to[e].bits = 0;
    }
}

// The fragments of 64 rows x 16 k of an operand that a thread has in registers: of rows 0 and 8, k 0 and 8, and what
// is beside each. `there` says which of the two rows is there; of k there are all 16, or as many as `depth` says.
template <int PARTS, bool PAIRS, bool WHOLE, class AT>
static __device__ __forceinline__ void
load_fragments(unsigned (&left)[PARTS][4], const bool (&there)[2], int depth, AT at) {
#pragma unroll
    for (int e = 0; e < 4; e++) {
        const int row = e % 2 * 8, column = e / 2 * 8;
        float x = 0.0f, y = 0.0f;
        if (there[e % 2] && (WHOLE || column + 1 < depth))
            load_two<PAIRS>(x, y, at(row, column), at(row, column + 1));
        else if (!WHOLE && there[e % 2] && column < depth)
            x = load(at(row, column));
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            left[part][e] = next_part(x, y, part);
            settle(left[part][e]);
        }
    }
}
