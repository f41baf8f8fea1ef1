// A tensor in the device's memory of which boxes are copied to shared memory: the driver's bytes.
struct __align__(64) tensor_map {
    unsigned long long words[16];
};

// Lets copies of boxes see a map that was copied to the device's memory before the launch. To be done by the thread that
// copies, once before its first.
static __device__ __forceinline__ void acquire_map(const tensor_map *map) {
    asm volatile("fence.proxy.tensormap::generic.acquire.sys [%0], 128;" ::"l"(map) : "memory");
}
