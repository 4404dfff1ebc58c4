/* The arithmetic decoder of HEVC (ITU-T H.265, 9.3.4.3). */

#include <string.h>

#include "hevc_tables.h"

enum { PADDING = 8 }; /* zeros behind the data, so that eight bytes can be read at once */
enum { MOST_BINS = 16 }; /* that one call may read without contexts */

/* A state. Wider than it must be, because the compiler then knows that to write one does not change
 * a reader, and keeps readers in registers. */
typedef uint16_t Context;

typedef struct {
    const uint8_t *data;
    size_t size, at;  /* bytes; `at` may pass the end, where zeros are read */
    uint64_t value;   /* what is left of the range's 9 bits, and the bits after them, left-aligned */
    int num_bits;     /* bits in value; at least 32 */
    uint32_t range;
    const uint32_t *inverses; /* 2^39 / range, rounded up, for ranges from 256 on */
} Cabac;

static void fill_inverses(uint32_t *inverses) {
    for (uint64_t range = 256; range < 512; range++)
        inverses[range - 256] = (uint32_t)(((uint64_t)1 << 39) / range + 1);
}

static inline uint64_t eight_bytes(const uint8_t *data) {
    uint64_t value;
    memcpy(&value, data, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    value = __builtin_bswap64(value);
#endif
    return value;
}

static inline void fill(Cabac *c) {
    size_t at = c->at < c->size ? c->at : c->size;
    int num_bytes = (63 - c->num_bits) >> 3;
    /* The last byte may enter in part. It enters again with the next eight. */
    c->value |= eight_bytes(c->data + at) >> c->num_bits;
    c->at += (size_t)num_bytes, c->num_bits += 8 * num_bytes;
}

/* Begins at a byte of data (9.3.2.5). */
static void start(Cabac *c, size_t at) {
    c->at = at, c->value = 0, c->num_bits = 0, c->range = 510;
    fill(c);
}

static inline void drop(Cabac *c, int count) {
    c->value <<= count, c->num_bits -= count;
    if (c->num_bits < 32) fill(c);
}

/* Decodes a bin with a context (9.3.4.3.2), without branches: each one would be mispredicted often. */
static inline int get(Cabac *c, Context *context) {
    unsigned state = *context;
    uint32_t lps = RANGE_LPS[state][c->range >> 6 & 3], rest = c->range - lps;
    uint64_t limit = (uint64_t)rest << 55;
    int is_lps = c->value >= limit;
    c->value -= limit & -(uint64_t)is_lps;
    c->range = rest + ((lps - rest) & -(uint32_t)is_lps);
    *context = NEXT_STATE[state][is_lps];
    int shift = __builtin_clz(c->range) - 23;
    c->range <<= shift;
    drop(c, shift);
    return (int)(state & 1) ^ is_lps;
}

/* Decodes a bin without a context (9.3.4.3.4). */
static inline int bypass(Cabac *c) {
    uint64_t half = (uint64_t)c->range << 54;
    int bin = c->value >= half;
    c->value -= half & -(uint64_t)bin;
    drop(c, 1);
    return bin;
}

/* The next bins without contexts, as a number. Each halves the interval, so together they are the
 * quotient of the value and the range. */
static inline uint32_t peek(const Cabac *c, int count) {
    return (uint32_t)((c->value >> (55 - count)) * c->inverses[c->range - 256] >> 39);
}

/* Goes behind the first `count` bins, which peek has found to be `bins`. */
static inline void consume(Cabac *c, int count, uint32_t bins) {
    c->value = (c->value << count) - ((uint64_t)bins * c->range << 55);
    c->num_bits -= count;
    if (c->num_bits < 32) fill(c);
}

static inline uint32_t bypass_bits(Cabac *c, int count) {
    uint32_t bins = peek(c, count);
    consume(c, count, bins);
    return bins;
}

/* Decodes a bin that ends something (9.3.4.3.5). */
static int terminates(Cabac *c) {
    c->range -= 2;
    if (c->value >= (uint64_t)c->range << 55) return 1;
    if (c->range < 256) {
        c->range <<= 1;
        drop(c, 1);
    }
    return 0;
}

static int has_overrun(const Cabac *c) { return 8 * c->at - (size_t)c->num_bits > 8 * c->size; }

/* After a bin that ends something: the last bit that the decoder has read is a one, and the rest of
 * its byte are zeros. Returns where the next byte is, or 0 if this does not hold. */
static size_t next_byte(const Cabac *c) {
    size_t num_read = 8 * c->at - (size_t)c->num_bits + 9, next = (num_read + 7) >> 3;
    if (next > c->size) return 0;
    int rest = (int)(8 * next - num_read);
    return (c->data[next - 1] & ((2 << rest) - 1)) == 1 << rest ? next : 0;
}
