// Stages: pieces of operands in shared memory, on their way to tensor cores, by all threads that work. A row of a stage is
// what is contiguous in memory. Pieces of 16 bytes are exchanged within a row as its number says, so that the 8 rows
// that tensor cores read at once, and the pieces that a warp writes, are in different banks. Rows of 128 bytes lie as
// TMA's swizzle of 128 bytes puts them.

// How a stage is filled.
#define COPY_ELEMENTS 0 // one by one: what is stored wider, or not at multiples of 16 bytes
#define COPY_PIECES 1   // 16 bytes at a time: what is as wide, and floats
#define COPY_ASYNC 2    // the same by the memory system: what lies in the device's memory
#define COPY_ROWS 3     // as pieces, by neighbouring threads from neighbouring rows, which begin in different banks

// Where element (row, column) of a tile with rows of WIDTH stands; `column` is a multiple of 8 here.
template <int WIDTH> static __device__ __forceinline__ int exchanged(int row, int column) {
    const int piece = column / 8;
    const int other = WIDTH >= 64 ? row & 7 : WIDTH == 32 ? row >> 1 & 3 : row >> 2 & 1;
    return row * WIDTH + (piece ^ other) * 8;
}

static __device__ __forceinline__ unsigned shared_address(const void *p) {
    return (unsigned)__cvta_generic_to_shared(p);
}
// 16 bytes, of which the first `bytes` are read and the others are zero.
static __device__ __forceinline__ void copy_async(bf16 *to, const void *from, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes) : "memory");
}
static __device__ __forceinline__ void end_of_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT> static __device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}
// 8 numbers side by side, from a multiple of 16 bytes on. Of 8 threads, which read at once, 4 begin with the upper
// half: together they read all banks.
static __device__ __forceinline__ void load_piece(float (&x)[8], const float *p) {
    const bool turned = threadIdx.x / 4 % 2;
    const float4 one = ((const float4 *)p)[turned], other = ((const float4 *)p)[!turned];
    const float4 low = turned ? other : one, high = turned ? one : other;
    x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
    x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
}
template <class ELEMENT> static __device__ __forceinline__ void load_piece(float (&x)[8], const ELEMENT *p) {
#pragma unroll
    for (int e = 0; e < 8; e++) x[e] = load(p + e);
}

// The next part of a number, its upper half, and what that leaves: three of them have all 24 digits. Nothing is
// rounded up, so that none becomes infinite, and an infinity leaves nothing.
static __device__ __forceinline__ unsigned next_part(float &x, int before) {
    const unsigned part = bits_of(x) & 0xffff0000u;
    const float rest = x - of_bits(part);
    // What a part before has left is finite.
    x = before == 0 && x == of_bits(part) ? 0.0f : rest;
    return part;
}
// The same of two numbers side by side, of which so many parts are cut off.
static __device__ __forceinline__ unsigned next_part(float &x, float &y, int before) {
    const unsigned low = next_part(x, before), high = next_part(y, before);
    return low >> 16 | high;
}

// 16 bytes to shared memory at once, which a compiler that does not know their place would split.
static __device__ __forceinline__ void store_piece(bf16 *to, uint4 x) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(to)), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w)
                 : "memory");
}

// What thread `thread` does to fill a stage with DEPTH x EXTENT elements of an operand, of which `extent` and `depth` are
// there; columns lie in blocks of WIDTH.
template <int DEPTH, int EXTENT, int WIDTH, bool ALONG_K, int PARTS, int COPY, int WORKERS = 256, class AT>
static __device__ __forceinline__ void fill_stage(bf16 *stage, int thread, int extent, int depth, AT at) {
    const int ROWS = ALONG_K ? EXTENT : DEPTH, COLUMNS = ALONG_K ? DEPTH : EXTENT, PIECES = ROWS * COLUMNS / 8;
#pragma unroll
    for (int first = 0; first < PIECES; first += WORKERS) {
        const int piece = first + thread;
        if (PIECES % WORKERS != 0 && piece >= PIECES) break;
        const int row = COPY == COPY_ROWS ? piece % ROWS : piece / (COLUMNS / 8);
        const int column = (COPY == COPY_ROWS ? piece / ROWS : piece % (COLUMNS / 8)) * 8;
        const int kk = ALONG_K ? column : row, x = ALONG_K ? row : column;
        const int rows = ALONG_K ? extent : depth, columns = ALONG_K ? depth : extent;
        const int there = row < rows ? smaller(8, larger(0, columns - column)) : 0;
        bf16 *const to = stage + column / WIDTH * (ROWS * WIDTH) + exchanged<WIDTH>(row, column % WIDTH);
        if (PARTS == 1 && COPY == COPY_ASYNC) {
            copy_async(to, there > 0 ? at(kk, x) : at(0, 0), there * 2);
        } else if (PARTS == 1 && COPY != COPY_ELEMENTS && there == 8) {
            store_piece(to, *(const uint4 *)at(kk, x));
        } else {
            float left[8];
            if (COPY != COPY_ELEMENTS && there == 8)
                load_piece(left, at(kk, x));
            else
#pragma unroll
                for (int e = 0; e < 8; e++)
                    left[e] = e < there ? load(ALONG_K ? at(kk + e, x) : at(kk, x + e)) : 0.0f;
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                unsigned words[4];
#pragma unroll
                for (int word = 0; word < 4; word++) words[word] = next_part(left[2 * word], left[2 * word + 1], part);
                store_piece(to + part * EXTENT * DEPTH, make_uint4(words[0], words[1], words[2], words[3]));
            }
        }
    }
}

