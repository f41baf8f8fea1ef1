/* How weights in blocks lie, and what number stands where.
 * A panel of PANEL columns is a row of blocks of 32 k: scales of all columns, then their integers. Formats whose 16-bit
 * numbers are for 256 k have these before each 8 blocks.
 * Integers lie as the dot wants them: a vector has 4 k of LANES columns, a byte each; 4-bit ones of 4 k in its low
 * halves, and of the 4 k that are 16 further on in its high halves. Of 6-bit ones the upper two bits of 16 k share a
 * vector. */

#define Q8_0 0
#define Q4_0 1
#define Q4_1 2
#define Q4_K 3
#define Q6_K 4
#define HEAD_BYTES(format) ((format) == Q4_K ? 4 * PANEL : (format) == Q6_K ? 2 * PANEL : 0)
#define SCALE_BYTES(format) ((format) == Q4_1 ? 4 * PANEL : 2 * PANEL)
#define INTEGER_BYTES(format) ((format) == Q8_0 ? 32 * PANEL : (format) == Q6_K ? 24 * PANEL : 16 * PANEL)
#define BLOCK_BYTES(format) (SCALE_BYTES(format) + INTEGER_BYTES(format))
/* Blocks that share a head; without one, each is by itself. */
#define BLOCKS_A_HEAD(format) (HEAD_BYTES(format) > 0 ? 8 : 1)
#define PART_BYTES(format) (HEAD_BYTES(format) + BLOCKS_A_HEAD(format) * BLOCK_BYTES(format))
/* What an integer of 0 stands for, as a power of two: 0 is 1, and stands for no such number. */
#define ZERO_SHIFT(format) ((format) == Q8_0 ? 7 : (format) == Q4_0 ? 3 : (format) == Q6_K ? 5 : 0)

INLINE int64_t panel_bytes(const int format, int64_t k) {
    return k / 32 / BLOCKS_A_HEAD(format) * PART_BYTES(format);
}

/* An f16 as a float, exactly, whatever the mode for subnormal floats. */
INLINE float half_to_float(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 0x3ff;
    uint32_t bits;
    if (exponent == 0) {
        float x = (float)fraction * 0x1p-24f;
        memcpy(&bits, &x, 4);
    } else {
        bits = (exponent == 31 ? 255u << 23 : (exponent + 112) << 23) | fraction << 13;
    }
    bits |= sign;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
INLINE float half_at(const uint8_t *p, int64_t column) {
    uint16_t h;
    memcpy(&h, p + 2 * column, 2);
    return half_to_float(h);
}

/* The number in row k of column n. */
INLINE float element_in_blocks(const int format, const void *base, int64_t depth, int64_t n, int64_t k) {
    const int64_t column = n % PANEL, half = column / LANES, lane = column % LANES, block = k / 32, group = k % 32 / 4;
    const uint8_t *head = (const uint8_t *)base + n / PANEL * panel_bytes(format, depth) +
                          block / BLOCKS_A_HEAD(format) * PART_BYTES(format);
    const uint8_t *scales = head + HEAD_BYTES(format) + block % BLOCKS_A_HEAD(format) * BLOCK_BYTES(format);
    const uint8_t *integers = scales + SCALE_BYTES(format) + half * VECTOR_BYTES + lane * 4 + k % 4;
    int u = integers[(format == Q8_0 ? group : group % 4) * 2 * VECTOR_BYTES];
    if (format != Q8_0) u = group < 4 ? u & 15 : u >> 4;
    if (format == Q6_K) u |= (integers[16 * PANEL + group / 4 * 2 * VECTOR_BYTES] >> (2 * (group % 4)) & 3) << 4;
    switch (format) {
    case Q8_0: return half_at(scales, column) * (float)(u - 128);
    case Q4_0: return half_at(scales, column) * (float)(u - 8);
    case Q4_1: return half_at(scales, column) * (float)u + half_at(scales + 2 * PANEL, column);
    case Q4_K:
        return half_at(head, column) * (float)scales[column] * (float)u -
               half_at(head + 2 * PANEL, column) * (float)scales[PANEL + column];
    default: return half_at(head, column) * (float)(int8_t)scales[k % 32 / 16 * PANEL + column] * (float)(u - 32);
    }
}
#define DEFINE_ELEMENT(name, format)                                                          \
    INLINE float element_of_##name(const void *base, int64_t depth, int64_t n, int64_t k) {   \
        return element_in_blocks(format, base, depth, n, k);                                  \
    }
DEFINE_ELEMENT(q8_0, Q8_0)
DEFINE_ELEMENT(q4_0, Q4_0)
DEFINE_ELEMENT(q4_1, Q4_1)
DEFINE_ELEMENT(q4_k, Q4_K)
DEFINE_ELEMENT(q6_k, Q6_K)
