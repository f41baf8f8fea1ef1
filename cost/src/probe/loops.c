/* What the speed of this machine is measured with: loops that do one thing. It stands after the vectors and
 * functions that generated kernels use, so that it is compiled as they are. Each function repeats its loop;
 * the caller takes the time. Nothing here knows of tensors or kernels. */
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* Pins the calling thread to the index-th CPU that the process may use; 0 if that worked. */
int probe_pin(int index) {
    static cpu_set_t allowed;
    static int known = 0;
    if (!known) {
        if (sched_getaffinity(getpid(), sizeof allowed, &allowed)) return 1;
        known = 1;
    }
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &allowed) && index-- == 0) {
            cpu_set_t one;
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            return sched_setaffinity(0, sizeof one, &one);
        }
    return 1;
}

/* Seconds that the calling thread has run: what it spent waiting for a CPU that others use is not in it. */
double probe_thread_seconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* Bytes of the data cache of a level (1 to 3) as the C library knows them; 0 where it does not. */
int64_t probe_cache_bytes(int level) {
    long bytes = 0;
#ifdef _SC_LEVEL1_DCACHE_SIZE
    bytes = sysconf(level == 1 ? _SC_LEVEL1_DCACHE_SIZE : level == 2 ? _SC_LEVEL2_CACHE_SIZE : _SC_LEVEL3_CACHE_SIZE);
#else
    (void)level;
#endif
    return bytes > 0 ? bytes : 0;
}

/* Memory on large pages where the system gives them, as arenas of tensors are; filled with 1. */
float *probe_allocate(int64_t bytes) {
    void *memory = NULL;
    if (posix_memalign(&memory, 2 << 20, (size_t)bytes)) return NULL;
#ifdef MADV_HUGEPAGE
    madvise(memory, (size_t)bytes, MADV_HUGEPAGE);
#endif
    for (int64_t i = 0; i < bytes / 4; i++) ((float *)memory)[i] = 1.0f;
    return memory;
}
void probe_free(float *memory) { free(memory); }

/* The compiler must neither drop nor merge what computes v. */
#define KEEP(v) __asm__ volatile("" : "+m"(v) : : "memory")

/* 12 independent chains hide the latency of a multiply-add on every machine known: 24 * LANES flops a time. */
int64_t probe_multiply_add(int64_t times) {
    vf sums[12];
    for (int i = 0; i < 12; i++) sums[i] = splat((float)i);
    vf x = splat(0.999f), y = splat(0.001f);
    KEEP(x);
    KEEP(y);
    for (int64_t t = 0; t < times; t++) {
        UNROLL
        for (int i = 0; i < 12; i++) sums[i] = v_fma(sums[i], x, y);
    }
    for (int i = 0; i < 12; i++) KEEP(sums[i]);
    return 24 * LANES;
}

/* Additions and multiplications in equal parts: 24 * LANES operations a time. */
int64_t probe_arithmetic(int64_t times) {
    vf sums[12];
    for (int i = 0; i < 12; i++) sums[i] = splat((float)i);
    vf x = splat(0.999f), y = splat(0.001f);
    KEEP(x);
    KEEP(y);
    for (int64_t t = 0; t < times; t++) {
        UNROLL
        for (int i = 0; i < 12; i++) sums[i] = sums[i] * x + y;
    }
    for (int i = 0; i < 12; i++) KEEP(sums[i]);
    return 24 * LANES;
}

/* A function over an array that stays in the first cache: 1024 operations a time. */
#define POINTWISE(name, expression)                                       \
    int64_t name(int64_t times) {                                         \
        float from[1024] __attribute__((aligned(64)));                    \
        float to[1024] __attribute__((aligned(64)));                      \
        for (int i = 0; i < 1024; i++) from[i] = 0.5f + (float)i / 256;   \
        for (int64_t t = 0; t < times; t++) {                             \
            KEEP(from);                                                   \
            for (int i = 0; i < 1024; i += LANES) {                       \
                vf x = load(from + i);                                    \
                store(to + i, expression);                                \
            }                                                             \
            KEEP(to);                                                     \
        }                                                                 \
        return 1024;                                                      \
    }
POINTWISE(probe_divide, splat(3.0f) / x)
POINTWISE(probe_exponential, v_exp(x))
POINTWISE(probe_logarithm, v_log(x))
POINTWISE(probe_trigonometric, v_sin(x))

/* Loads of the whole array, in order. */
void probe_read(int64_t times, const float *from, int64_t floats) {
    vf sums[8];
    for (int i = 0; i < 8; i++) sums[i] = splat(0.0f);
    for (int64_t t = 0; t < times; t++)
        for (int64_t at = 0; at < floats; at += 8 * LANES) {
            UNROLL
            for (int i = 0; i < 8; i++) sums[i] += load(from + at + i * LANES);
        }
    for (int i = 0; i < 8; i++) KEEP(sums[i]);
}

/* Stores to the whole array, in order. */
void probe_write(int64_t times, float *to, int64_t floats) {
    for (int64_t t = 0; t < times; t++) {
        vf x = splat((float)t);
        KEEP(x);
        for (int64_t at = 0; at < floats; at += 8 * LANES) {
            UNROLL
            for (int i = 0; i < 8; i++) store(to + at + i * LANES, x);
        }
    }
}

/* The contraction of generated kernels, b packed and no larger than the second cache. */
void probe_dot(int64_t times, int64_t rows, int64_t depth, int64_t columns, const float *a, const float *b, float *c,
               float *scratch) {
    for (int64_t t = 0; t < times; t++)
        dot(rows, columns, depth, a, depth, 1, b, depth * PANEL, PANEL, 1, c, columns, PANEL, 1, 0, scratch);
}
int64_t probe_panel_columns(void) { return PANEL; }
int64_t probe_dot_scratch_bytes(void) { return (int64_t)DOT_SCRATCH_FLOATS * 4; }
