// The ring: slots of shared memory through which the operands of all dots of a kernel go, in the order of the kernel.
// A slot belongs to the producer until its barrier `full` says that it is filled, and to the consumers until its barrier
// `empty` has all arrivals: of each of their warps (wgmma), or of the products that read it (tcgen05). The producer, a
// thread of a warpgroup of its own, walks the same instances, loops and steps as the consumers and copies boxes of tensors
// by TMA. Both count slots on and on, over dots and instances, so the producer runs ahead as far as there are slots. What
// no TMA copies, consumers put into the slot when they have it.

#define RING_STEP 64     // k of a slot: a row of 128 bytes of bf16, which is the widest swizzle
#define BLOCK_BYTES 8192 // 64 rows of 128 bytes

static __device__ __forceinline__ void wait_for_phase(unsigned barrier, unsigned phase) {
    asm volatile("{\n\t.reg .pred done;\nWAIT:\n\tmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n\t"
                 "@!done bra WAIT;\n\t}" ::"r"(barrier), "r"(phase) : "memory");
}
static __device__ __forceinline__ void arrive(unsigned barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
static __device__ __forceinline__ void arrive_expecting(unsigned barrier, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// What was written to shared memory by ordinary stores may be read by tensor cores after this, and a barrier.
static __device__ __forceinline__ void show_to_tensor_cores() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Registers of a block are dealt out at its start, as many to each thread: 168 where two warpgroups consume, 128 where
// one does. Consumers get what the producer's warpgroup can spare.
template <int REGISTERS = 232> static __device__ __forceinline__ void consume() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS) : "memory");
}
template <int REGISTERS = 40> static __device__ __forceinline__ void copy() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS) : "memory");
}

// Where a thread stands in a ring: which slot it has next, and which phase of the slot's barriers. A slot is empty
// after LEAVING arrivals.
template <int SLOTS, int BYTES, int CONSUMERS = 256, int LEAVING = CONSUMERS / 32> struct ring {
    static const int WORKERS = CONSUMERS;
    unsigned char *memory;
    int slot;
    unsigned phase;
    // The barriers stand behind the slots: those of full ones, then those of empty ones.
    __device__ __forceinline__ unsigned char *data() const { return memory + slot * BYTES; }
    __device__ __forceinline__ unsigned address() const { return shared_address(memory) + slot * BYTES; }
    // How far the slot is from the first, in pieces of 16 bytes.
    __device__ __forceinline__ unsigned pieces() const { return slot * (BYTES / 16); }
    __device__ __forceinline__ unsigned full() const { return shared_address(memory) + SLOTS * BYTES + slot * 8; }
    __device__ __forceinline__ unsigned empty() const { return full() + SLOTS * 8; }
    __device__ __forceinline__ ring next() const {
        const bool last = slot == SLOTS - 1;
        return {memory, last ? 0 : slot + 1, last ? phase ^ 1 : phase};
    }
    __device__ __forceinline__ ring behind(int steps) const {
        const int at = slot + steps;
        return {memory, at % SLOTS, phase ^ at / SLOTS % 2};
    }
    // By one thread, before a barrier of the block.
    __device__ __forceinline__ void set_up() const {
#pragma unroll
        for (int at = 0; at < 2 * SLOTS; at++)
            asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;"
                         ::"r"(shared_address(memory) + SLOTS * BYTES + at * 8), "r"(at < SLOTS ? 1 : LEAVING) : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __device__ __forceinline__ void wait_until_full() const { wait_for_phase(full(), phase); }
    // The first time round nobody has to empty a slot.
    __device__ __forceinline__ void wait_until_empty() const { wait_for_phase(empty(), phase ^ 1); }
    __device__ __forceinline__ void leave() const {
        if (threadIdx.x % 32 == 0) arrive(empty());
    }
};

// Copies a box of a tensor to shared memory; its bytes are counted at a barrier.
#define COPY_BOX(dims, coordinates, ...)                                                                  \
    asm volatile("cp.async.bulk.tensor." dims ".shared::cluster.global.tile.mbarrier::complete_tx::bytes " \
                 "[%0], [%1, {" coordinates "}], [%2];" ::"r"(to), "l"(map), "r"(barrier), __VA_ARGS__ : "memory")
template <int DIMS>
static __device__ __forceinline__ void copy_box(unsigned to, const tensor_map *map, const int (&at)[5], unsigned barrier) {
    static_assert(DIMS >= 2 && DIMS <= 5, "a tensor of rows and k");
    if (DIMS == 2) COPY_BOX("2d", "%3, %4", "r"(at[0]), "r"(at[1]));
    if (DIMS == 3) COPY_BOX("3d", "%3, %4, %5", "r"(at[0]), "r"(at[1]), "r"(at[2]));
    if (DIMS == 4) COPY_BOX("4d", "%3, %4, %5, %6", "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]));
    if (DIMS == 5)
        COPY_BOX("5d", "%3, %4, %5, %6, %7", "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4]));
}

// An operand that no TMA copies.
struct no_boxes {
    static const int BYTES = 0;
    __device__ __forceinline__ void copy(unsigned, unsigned, int, int) const {}
};

// An operand as boxes of a tensor: EXTENT rows, or columns, by RING_STEP k, whichever of them runs along memory.
// Dimension X of the tensor has rows, or columns, dimension K has k; each position of these is X_UNIT or K_UNIT of
// them, where panels of so many are a dimension. `first` is where the instance begins.
template <int DIMS, int EXTENT, bool ALONG_K, int X, int X_UNIT, int K, int K_UNIT> struct boxes {
    static const int BYTES = EXTENT * RING_STEP * 2;
    const tensor_map *map;
    int first[5];
    __device__ __forceinline__ void copy(unsigned to, unsigned barrier, int x, int k) const {
#pragma unroll
        for (int part = 0; part < (ALONG_K ? 1 : EXTENT / 64); part++) {
            int at[5];
#pragma unroll
            for (int dim = 0; dim < 5; dim++)
                at[dim] = first[dim] + (dim == X ? (x + part * 64) / X_UNIT : 0) + (dim == K ? k / K_UNIT : 0);
            copy_box<DIMS>(to + part * BLOCK_BYTES, map, at, barrier);
        }
    }
};

// The producer's part of a dot of ROWS x COLUMNS: A_BYTES of a slot are the left operand's.
template <int ROWS, int COLUMNS, int A_BYTES, class A, class B, class RING>
static __device__ __forceinline__ void produce(int m, int n, int k, A a, B b, RING &at) {
    for (int i0 = 0; i0 < m; i0 += ROWS)
        for (int j0 = 0; j0 < n; j0 += COLUMNS)
#pragma unroll 1
            for (int k0 = 0; k0 < k; k0 += RING_STEP) {
                at.wait_until_empty();
                if (A::BYTES + B::BYTES > 0)
                    arrive_expecting(at.full(), A::BYTES + B::BYTES);
                else
                    arrive(at.full());
                a.copy(at.address(), at.full(), i0, k0);
                b.copy(at.address() + A_BYTES, at.full(), j0, k0);
                at = at.next();
            }
}
