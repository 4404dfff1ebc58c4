/* Parses the Huffman codes of JPEG pictures, to find out whether their data is what an encoder writes.
 *
 * Damaged data decodes to garbage, which regains its place in the stream within a few blocks, often
 * with another number of blocks, or with levels that no picture of 8 bits can give. Clause numbers
 * are those of ITU-T T.81. Only sequential pictures of 8 bits are parsed.
 *
 * Input is hostile: a reader gives ones beyond the end of its data, each block checks that it has
 * not passed that end, and nothing is allocated by sizes that the data states.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Signs of damage. `mjpeg_scans.py` holds the same numbers. */
enum {
    BAD_HEADER = 1,    /* a marker segment that breaks the rules, or a picture of another kind */
    BAD_CODE = 2,      /* a code that no table holds, or levels beyond the 64th */
    OVERRUN = 4,       /* blocks are left when the data ends */
    BAD_RESTART = 8,   /* not the restart marker that is due */
    LEFTOVER = 16,     /* data is left after the last block */
    BAD_PADDING = 32,  /* the last byte is filled up with neither zeros nor ones */
    OUT_OF_RANGE = 64, /* pixels far outside 0 to 255 */
    NO_PICTURE = 128,
};
enum { MAX_COMPONENTS = 4, MAX_TABLES = 4, LOOK_BITS = 9 };
enum { SOF0 = 0xC0, SOF1 = 0xC1, DHT = 0xC4, RST0 = 0xD0, RST7 = 0xD7, SOI = 0xD8, EOI = 0xD9 };
enum { SOS = 0xDA, DQT = 0xDB, DRI = 0xDD, TEM = 0x01 };

static const uint8_t ZIGZAG[64] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
};

/* ---- tables of files that hold none (K.3) ---- */

static const uint8_t DC_COUNTS[2][16] = {
    {0, 1, 5, 1, 1, 1, 1, 1, 1}, {0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1}};
static const uint8_t DC_VALUES[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
static const uint8_t AC_COUNTS[2][16] = {
    {0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125},
    {0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119}};
static const uint8_t AC_VALUES[2][162] = {
    {0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07,
     0x22, 0x71, 0x14, 0x32, 0x81, 0x91, 0xA1, 0x08, 0x23, 0x42, 0xB1, 0xC1, 0x15, 0x52, 0xD1, 0xF0,
     0x24, 0x33, 0x62, 0x72, 0x82, 0x09, 0x0A, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x25, 0x26, 0x27, 0x28,
     0x29, 0x2A, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3A, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49,
     0x4A, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5A, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69,
     0x6A, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89,
     0x8A, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0xA2, 0xA3, 0xA4, 0xA5, 0xA6, 0xA7,
     0xA8, 0xA9, 0xAA, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xB9, 0xBA, 0xC2, 0xC3, 0xC4, 0xC5,
     0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA, 0xE1, 0xE2,
     0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xF1, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8,
     0xF9, 0xFA},
    {0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71,
     0x13, 0x22, 0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xA1, 0xB1, 0xC1, 0x09, 0x23, 0x33, 0x52, 0xF0,
     0x15, 0x62, 0x72, 0xD1, 0x0A, 0x16, 0x24, 0x34, 0xE1, 0x25, 0xF1, 0x17, 0x18, 0x19, 0x1A, 0x26,
     0x27, 0x28, 0x29, 0x2A, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3A, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48,
     0x49, 0x4A, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5A, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68,
     0x69, 0x6A, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87,
     0x88, 0x89, 0x8A, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0xA2, 0xA3, 0xA4, 0xA5,
     0xA6, 0xA7, 0xA8, 0xA9, 0xAA, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xB9, 0xBA, 0xC2, 0xC3,
     0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA,
     0xE2, 0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8,
     0xF9, 0xFA}};

/* ---- state ---- */

typedef struct {
    int is_known;
    uint16_t look[1 << LOOK_BITS]; /* length << 8 | value of the code that begins so; 0: longer */
    int32_t last[17], shift[17];   /* last code of each length, -1 for none; its place in values */
    uint8_t values[256];
} Codes;

typedef struct {
    int is_known;
    uint16_t steps[64];  /* in the order of the zigzag */
    int32_t square_step; /* sum of their squares */
} Steps;

typedef struct {
    int id, h, v, steps, dc, ac, last_dc;
} Component;

typedef struct {
    Codes codes[2][MAX_TABLES]; /* tables stay from picture to picture */
    Steps steps[MAX_TABLES];
    Component components[MAX_COMPONENTS];
    int num_components, width, height, max_h, max_v, restart_interval;
} Mjpeg;

/* ---- reader of entropy-coded data (F.2.2) ---- */

typedef struct {
    const uint8_t *at, *next_ff, *end; /* `end` is that of the restart interval */
    uint64_t value;                    /* the next bits, left-aligned */
    int num_bits;                      /* bits in value; beyond the data they are ones */
    int64_t num_used, num_read;
} Reader;

static const uint8_t *find_ff(const uint8_t *at, const uint8_t *end) {
    const uint8_t *found = at < end ? memchr(at, 0xFF, (size_t)(end - at)) : NULL;
    return found ? found : end;
}

static void fill(Reader *r) {
    while (r->num_bits <= 56) {
        uint64_t byte = 0xFF;
        if (r->at < r->end) {
            byte = *r->at++;
            r->num_read += 8;
            if (byte == 0xFF) r->at++, r->next_ff = find_ff(r->at, r->end); /* a stuffed zero */
        }
        r->value |= byte << (56 - r->num_bits);
        r->num_bits += 8;
    }
}

static inline void refill(Reader *r) {
    if (r->next_ff - r->at < 8) {
        fill(r);
        return;
    }
    uint64_t next = 0;
    for (int i = 0; i < 8; i++) next = next << 8 | r->at[i];
    int num_bytes = (64 - r->num_bits) >> 3;
    if (num_bytes < 8) next = next >> (64 - 8 * num_bytes) << (64 - 8 * num_bytes);
    r->value |= next >> r->num_bits;
    r->at += num_bytes, r->num_bits += 8 * num_bytes, r->num_read += 8 * num_bytes;
}

static void start(Reader *r, const uint8_t *data, const uint8_t *end) {
    *r = (Reader){.at = data, .end = end, .next_ff = find_ff(data, end)};
    fill(r);
}

static inline void skip(Reader *r, int num_bits) {
    r->value <<= num_bits, r->num_bits -= num_bits, r->num_used += num_bits;
}

/* Returns the value of the next code, or -1. A code and its level need at most 32 bits. */
static inline int read_code(Reader *r, const Codes *codes) {
    if (r->num_bits < 32) refill(r);
    unsigned entry = codes->look[r->value >> (64 - LOOK_BITS)];
    if (entry) {
        skip(r, entry >> 8);
        return entry & 0xFF;
    }
    int32_t next = (int32_t)(r->value >> 48);
    for (int length = LOOK_BITS + 1; length <= 16; length++) {
        int32_t code = next >> (16 - length);
        if (code <= codes->last[length]) {
            skip(r, length);
            return codes->values[(code + codes->shift[length]) & 0xFF];
        }
    }
    return -1;
}

static inline int read_level(Reader *r, int num_bits) {
    if (!num_bits) return 0;
    int value = (int)(r->value >> (64 - num_bits));
    skip(r, num_bits);
    return value < 1 << (num_bits - 1) ? value - (1 << num_bits) + 1 : value;
}

/* ---- tables (B.2.4, C.2) ---- */

static int set_codes(Codes *codes, const uint8_t *counts, const uint8_t *values, int num_values) {
    memset(codes, 0, sizeof *codes);
    memcpy(codes->values, values, (size_t)num_values);
    int code = 0, at = 0;
    for (int length = 1; length <= 16; length++, code <<= 1) {
        int count = counts[length - 1];
        codes->shift[length] = at - code;
        codes->last[length] = count ? code + count - 1 : -1;
        if (code + count > 1 << length) return BAD_HEADER;
        for (int i = 0; i < count; i++, at++, code++)
            for (int j = 0; length <= LOOK_BITS && j < 1 << (LOOK_BITS - length); j++)
                codes->look[(code << (LOOK_BITS - length)) + j] = (uint16_t)(length << 8 | values[at]);
    }
    codes->is_known = 1;
    return 0;
}

static int read_huffman_tables(Mjpeg *s, const uint8_t *at, const uint8_t *end) {
    while (at < end) {
        if (end - at < 17) return BAD_HEADER;
        int table_class = at[0] >> 4, index = at[0] & 15, num_values = 0;
        for (int i = 1; i <= 16; i++) num_values += at[i];
        if (table_class > 1 || index >= MAX_TABLES) return BAD_HEADER;
        if (num_values > 256 || end - at < 17 + num_values) return BAD_HEADER;
        if (set_codes(&s->codes[table_class][index], at + 1, at + 17, num_values)) return BAD_HEADER;
        at += 17 + num_values;
    }
    return 0;
}

static int read_quantization_tables(Mjpeg *s, const uint8_t *at, const uint8_t *end) {
    while (at < end) {
        int num_bytes = 1 + (at[0] >> 4), index = at[0] & 15;
        if (num_bytes > 2 || index >= MAX_TABLES || end - at < 1 + 64 * num_bytes) return BAD_HEADER;
        at++;
        Steps *steps = &s->steps[index];
        int64_t square = 0;
        for (int i = 0; i < 64; i++, at += num_bytes) {
            steps->steps[i] = num_bytes == 2 ? (uint16_t)(at[0] << 8 | at[1]) : at[0];
            if (!steps->steps[i]) return BAD_HEADER;
            square += steps->steps[i] * (int64_t)steps->steps[i];
        }
        steps->square_step = square < INT32_MAX ? (int32_t)square : INT32_MAX;
        steps->is_known = 1;
    }
    return 0;
}

static int read_frame_header(Mjpeg *s, const uint8_t *at, const uint8_t *end) {
    s->num_components = 0;
    if (end - at < 6 || at[0] != 8) return BAD_HEADER;
    int count = at[5];
    s->height = at[1] << 8 | at[2], s->width = at[3] << 8 | at[4];
    if (!s->height || !s->width || !count || count > MAX_COMPONENTS) return BAD_HEADER;
    if (end - at != 6 + 3 * count) return BAD_HEADER;
    s->max_h = s->max_v = 1;
    for (int i = 0; i < count; i++) {
        const uint8_t *given = at + 6 + 3 * i;
        Component *c = &s->components[i];
        *c = (Component){.id = given[0], .h = given[1] >> 4, .v = given[1] & 15, .steps = given[2]};
        if (!c->h || !c->v || c->h > 4 || c->v > 4 || c->steps >= MAX_TABLES) return BAD_HEADER;
        if (c->h > s->max_h) s->max_h = c->h;
        if (c->v > s->max_v) s->max_v = c->v;
    }
    s->num_components = count;
    return 0;
}

/* ---- blocks ---- */

/* cos((2 x + 1) u pi / 16), times 1/2, or 1/sqrt(8) for u = 0: [u][x] */
#define A 0.35355339f
#define C1 0.49039264f
#define C2 0.46193977f
#define C3 0.41573481f
#define C5 0.27778512f
#define C6 0.19134172f
#define C7 0.09754516f
static const float WAVES[8][8] = {
    {A, A, A, A, A, A, A, A},        {C1, C3, C5, C7, -C7, -C5, -C3, -C1},
    {C2, C6, -C6, -C2, -C2, -C6, C6, C2}, {C3, -C7, -C1, -C5, C5, C1, C7, -C3},
    {A, -A, -A, A, A, -A, -A, A},    {C5, -C1, C7, C3, -C3, -C7, C1, -C5},
    {C6, -C2, C2, -C6, -C6, C2, -C2, C6}, {C7, -C5, C3, -C1, C1, -C3, C5, -C7},
};

/* Rounding to steps moves a pixel by a sum of errors with this many standard deviations at most. */
static const float MOST_DEVIATIONS = 6;
/* What encoders add on purpose, or by coarse arithmetic. */
static const float MOST_LEVELS_BEYOND = 8;

/* Says whether pixels lie further outside of -128 to 127 than rounding explains. */
static int is_out_of_range(const float *block, const Steps *steps) {
    float rows[8][8] = {{0}}, most = 0;
    for (int v = 0; v < 8; v++)
        for (int u = 0; u < 8; u++) {
            float value = block[8 * v + u];
            if (value == 0) continue;
            for (int x = 0; x < 8; x++) rows[v][x] += value * WAVES[u][x];
        }
    for (int y = 0; y < 8; y++) {
        float pixels[8] = {0};
        for (int v = 0; v < 8; v++)
            for (int x = 0; x < 8; x++) pixels[x] += rows[v][x] * WAVES[v][y];
        for (int x = 0; x < 8; x++) {
            float beyond = pixels[x] < 0 ? -128 - pixels[x] : pixels[x] - 127;
            if (beyond > most) most = beyond;
        }
    }
    most -= MOST_LEVELS_BEYOND;
    /* The error of a level is spread evenly over a step, so its variance is step * step / 12. */
    float variance = (float)steps->square_step / 12 / 64;
    return most > 0 && most * most > MOST_DEVIATIONS * MOST_DEVIATIONS * variance;
}

static int read_block(Mjpeg *s, Reader *r, Component *c, int *signs) {
    const Codes *dc = &s->codes[0][c->dc], *ac = &s->codes[1][c->ac];
    const Steps *steps = &s->steps[c->steps];
    float block[64] = {0};
    int size = read_code(r, dc);
    if (size < 0 || size > 11) return BAD_CODE;
    c->last_dc += read_level(r, size);
    /* Also keeps sums of garbage small. */
    if (c->last_dc > 4096 || c->last_dc < -4096) return BAD_CODE;
    block[0] = (float)(c->last_dc * steps->steps[0]);
    float most = (block[0] < 0 ? -block[0] : block[0]) / 8; /* no pixel is further from 0 */
    /* The mean of pixels, whose rounding is known, must lie within their range. */
    if (most > 128 + (float)steps->steps[0] / 8) *signs |= OUT_OF_RANGE;
    for (int i = 1; i < 64; i++) {
        int code = read_code(r, ac);
        if (code < 0) return BAD_CODE;
        size = code & 15;
        if (!size && code == 0) break; /* end of block */
        if (!size && code != 0xF0) return BAD_CODE;
        i += code >> 4;
        if (i > 63 || size > 10) return BAD_CODE;
        if (!size) continue;
        float value = (float)(read_level(r, size) * steps->steps[i]);
        block[ZIGZAG[i]] = value;
        most += (value < 0 ? -value : value) / 4;
    }
    if (most > 127 + MOST_LEVELS_BEYOND && is_out_of_range(block, steps)) *signs |= OUT_OF_RANGE;
    return r->num_used > r->num_read ? OVERRUN : 0;
}

/* Parses a restart interval of `count` units, which must fill its data. */
static int read_interval(Mjpeg *s, Reader *r, Component **scan, int num, int64_t count, int *signs) {
    for (int i = 0; i < num; i++) scan[i]->last_dc = 0;
    while (count--)
        for (int i = 0; i < num; i++) {
            int num_blocks = num > 1 ? scan[i]->h * scan[i]->v : 1;
            while (num_blocks--) {
                int error = read_block(s, r, scan[i], signs);
                if (error) return error;
            }
        }
    int64_t num_spare = r->num_read - r->num_used;
    if (r->at < r->end || num_spare >= 8) *signs |= LEFTOVER;
    int num_padding = (int)(num_spare & 7);
    if (num_padding) {
        unsigned padding = (unsigned)(r->value >> (64 - num_padding));
        if (padding && padding != (1u << num_padding) - 1) *signs |= BAD_PADDING;
    }
    return 0;
}

/* Returns where entropy-coded data ends: at an FF that no zero follows. */
static const uint8_t *find_end(const uint8_t *at, const uint8_t *end) {
    while ((at = find_ff(at, end)) < end - 1 && !at[1]) at += 2;
    return at < end - 1 ? at : end;
}

/* Parses a scan: its header at `*at`, of `length` bytes, and its data, whose end is put to `*at`. */
static int read_scan(Mjpeg *s, const uint8_t **at, int length, const uint8_t *end, int *signs) {
    const uint8_t *header = *at;
    Component *scan[MAX_COMPONENTS];
    int num = length ? header[0] : 0, w = s->width, h = s->height;
    if (!num || num > s->num_components || length != 4 + 2 * num) return BAD_HEADER;
    for (int i = 0; i < num; i++) {
        Component *c = s->components;
        while (c < s->components + s->num_components && c->id != header[1 + 2 * i]) c++;
        if (c == s->components + s->num_components) return BAD_HEADER;
        c->dc = header[2 + 2 * i] >> 4, c->ac = header[2 + 2 * i] & 15;
        if (c->dc >= MAX_TABLES || c->ac >= MAX_TABLES || !s->steps[c->steps].is_known) return BAD_HEADER;
        if (!s->codes[0][c->dc].is_known || !s->codes[1][c->ac].is_known) return BAD_HEADER;
        scan[i] = c;
    }
    const uint8_t *last = header + 1 + 2 * num;
    if (last[0] != 0 || last[1] != 63 || last[2] != 0) return BAD_HEADER;
    int unit_w = 8 * s->max_h, unit_h = 8 * s->max_v; /* in pixels */
    if (num == 1) { /* one block, of a component that may be smaller than the picture (A.2.2) */
        w = (w * scan[0]->h + s->max_h - 1) / s->max_h;
        h = (h * scan[0]->v + s->max_v - 1) / s->max_v;
        unit_w = unit_h = 8;
    }
    int64_t left = (int64_t)((w + unit_w - 1) / unit_w) * ((h + unit_h - 1) / unit_h);
    *at += length;
    for (int restart = 0; left > 0; restart = (restart + 1) & 7) {
        int64_t count = s->restart_interval && s->restart_interval < left ? s->restart_interval : left;
        const uint8_t *interval_end = find_end(*at, end);
        Reader r;
        start(&r, *at, interval_end);
        int error = read_interval(s, &r, scan, num, count, signs);
        if (error) return error;
        *at = interval_end, left -= count;
        if (!left) break;
        while (end - *at > 1 && (*at)[1] == 0xFF) ++*at;
        if (end - *at < 2 || (*at)[1] != RST0 + restart) return BAD_RESTART;
        *at += 2;
    }
    return 0;
}

/* ---- pictures ---- */

/* Parses a picture after its SOI, and puts the place after its EOI to `*at`. */
static int read_picture(Mjpeg *s, const uint8_t **at, const uint8_t *end, int *signs) {
    int error = 0, has_scan = 0;
    s->num_components = 0, s->restart_interval = 0;
    while (!error) {
        while (end - *at > 1 && (*at)[0] == 0xFF && (*at)[1] == 0xFF) ++*at; /* fill bytes (B.1.1.2) */
        if (end - *at < 2) break; /* FFmpeg says that there is no EOI */
        int marker = (*at)[1];
        if ((*at)[0] != 0xFF) return BAD_HEADER;
        *at += 2;
        if (marker == EOI) break;
        if (marker == TEM) continue;
        if (marker >= RST0 && marker <= SOI) return marker == SOI ? BAD_HEADER : BAD_RESTART;
        if (end - *at < 2) return BAD_HEADER;
        int length = ((*at)[0] << 8 | (*at)[1]) - 2;
        *at += 2;
        if (length < 0 || length > end - *at) return BAD_HEADER;
        const uint8_t *segment = *at, *segment_end = *at + length;
        if (marker == SOS) {
            error = read_scan(s, at, length, end, signs), has_scan = 1;
            continue;
        }
        *at = segment_end;
        if (marker == DHT) error = read_huffman_tables(s, segment, segment_end);
        else if (marker == DQT) error = read_quantization_tables(s, segment, segment_end);
        else if (marker == SOF0 || marker == SOF1) error = read_frame_header(s, segment, segment_end);
        else if (marker > SOF1 && marker < RST0) error = BAD_HEADER;
        else if (marker == DRI && length != 2) error = BAD_HEADER;
        else if (marker == DRI) s->restart_interval = segment[0] << 8 | segment[1];
    }
    return error ? error : has_scan ? 0 : BAD_HEADER;
}

Mjpeg *lafp_mjpeg_new(void) {
    Mjpeg *s = calloc(1, sizeof(Mjpeg));
    for (int i = 0; s && i < 2; i++) {
        set_codes(&s->codes[0][i], DC_COUNTS[i], DC_VALUES, 12);
        set_codes(&s->codes[1][i], AC_COUNTS[i], AC_VALUES[i], 162);
    }
    return s;
}

void lafp_mjpeg_free(Mjpeg *s) { free(s); }

/* Parses the pictures of a packet: one, or one for each field. Returns the signs of damage. */
int lafp_mjpeg_parse(Mjpeg *s, const uint8_t *data, size_t size) {
    const uint8_t *end = data + size;
    int signs = 0, num_pictures = 0;
    for (;;) {
        /* Cameras fill up the place after a picture. */
        while (data < end && (*data == 0 || (*data == 0xFF && (end - data < 2 || data[1] != SOI)))) data++;
        if (end - data < 2 || data[0] != 0xFF) break;
        data += 2, num_pictures++;
        int error = read_picture(s, &data, end, &signs);
        if (error) return signs | error;
    }
    return num_pictures ? signs : NO_PICTURE;
}
