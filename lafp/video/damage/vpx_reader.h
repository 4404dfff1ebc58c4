/* The arithmetic decoder of VP8 (RFC 6386, 7) and VP9 (VP9 Bitstream & Decoding Process
 * Specification, 9.2). Beyond the end of its data it reads zeros.
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    uint64_t value; /* the next bits, left-aligned; the first 8 are what the decoder compares */
    uint32_t range;
    int num_bits;   /* valid bits in value, with the zeros beyond the data */
    int num_beyond; /* bytes beyond the data that were read as zeros */
    const uint8_t *at, *end;
} Reader;

static inline void fill(Reader *r) {
    if (r->end - r->at >= 8) {
        uint64_t next;
        memcpy(&next, r->at, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        next = __builtin_bswap64(next);
#endif
        int num_bytes = (64 - r->num_bits) >> 3;
        /* Whole bytes only, and never by 64 places, which C does not define. */
        r->value |= next >> (64 - 8 * num_bytes) << (64 - 8 * num_bytes) >> r->num_bits;
        r->num_bits += 8 * num_bytes, r->at += num_bytes;
        return;
    }
    while (r->num_bits <= 56) {
        if (r->at < r->end)
            r->value |= (uint64_t)*r->at++ << (56 - r->num_bits);
        else
            r->num_beyond++;
        r->num_bits += 8;
    }
}

/* Decodes a bit that is 0 with a probability of 256. */
static inline int get(Reader *r, int prob) {
    if (r->num_bits < 8) fill(r);
    uint32_t split = 1 + (((r->range - 1) * (uint32_t)prob) >> 8);
    uint64_t big_split = (uint64_t)split << 56;
    int bit = r->value >= big_split;
    if (bit) {
        r->range -= split;
        r->value -= big_split;
    } else {
        r->range = split;
    }
    int shift = __builtin_clz(r->range) - 24;
    r->range <<= shift, r->value <<= shift, r->num_bits -= shift;
    return bit;
}

static void begin(Reader *r, const uint8_t *data, size_t size) {
    *r = (Reader){.range = 255, .at = data, .end = data + size};
}

static int literal(Reader *r, int num_bits) {
    int value = 0;
    while (num_bits--) value = 2 * value + get(r, 128);
    return value;
}

static inline int tree(Reader *r, const int8_t *nodes, const uint8_t *probs) {
    int i = 0;
    while ((i = nodes[i + get(r, probs[i >> 1])]) > 0) {}
    return -i;
}

/* Bits after the last one that was decoded. A decoder compares 8 of them, so fewer are too few. */
static int64_t num_spare(const Reader *r) {
    return 8 * (int64_t)(r->end - r->at) + r->num_bits - 8 * (int64_t)r->num_beyond;
}
