/* Parses VP8 frames without decoding pictures, to find out where their data ends.
 *
 * VP8 (RFC 6386) codes a frame as a few partitions of arithmetic code. An undamaged partition ends
 * where its size says, and what follows its last symbol is padding of zeros. Damaged data decodes to
 * garbage of another length. Clause numbers are those of the RFC.
 *
 * Input is hostile: a reader gives zeros beyond the end of its data, and all indices come from
 * values that the code bounds itself.
 */

#include <stdlib.h>
#include <string.h>

#include "vp8_tables.h"
#include "vpx_reader.h"

enum { BAD_HEADER = -1, OUT_OF_MEMORY = -2, NO_KEY_FRAME = -3, OVERRUN = -4, TOO_LARGE = -5 };
enum { MAX_PARTITIONS = 9, MAX_OVERRUN_BITS = 64 };

static int has_overrun(const Reader *r) { return num_spare(r) < -MAX_OVERRUN_BITS; }

/* ---- state ---- */

typedef struct { int16_t row, col; } Mv;

typedef struct {
    uint8_t mode, ref, skips;
    uint8_t sub_modes[16];
    Mv mv, sub_mvs[16];
} Block; /* a macroblock */

typedef struct {
    uint8_t tokens[1056], mv[2][19], y_mode[4], uv_mode[3];
} Probs;

typedef struct {
    int width, height; /* in macroblocks */
    int max_blocks, has_key, version;
    uint8_t sign_bias[4];
    uint8_t segment_probs[3];
    Probs probs, saved;
    Block *blocks;    /* (width + 1) x (height + 1); row 0 and column 0 lie outside the picture */
    uint8_t *above;   /* [width][9]: whether blocks of coefficients above are not zero */
} Vp8;

Vp8 *lafp_vp8_new(int max_blocks) {
    Vp8 *s = calloc(1, sizeof(Vp8));
    if (s) s->max_blocks = max_blocks;
    return s;
}

void lafp_vp8_free(Vp8 *s) {
    if (!s) return;
    free(s->blocks), free(s->above), free(s);
}

static int resize(Vp8 *s, int width, int height) {
    if ((int64_t)width * height > s->max_blocks) return TOO_LARGE;
    if (s->blocks && s->width == width && s->height == height) return 0;
    free(s->blocks), free(s->above);
    s->blocks = calloc((size_t)(width + 1) * (height + 1), sizeof(Block));
    s->above = calloc((size_t)width, 9);
    s->width = width, s->height = height;
    if (s->blocks && s->above) return 0;
    free(s->blocks), free(s->above);
    s->blocks = NULL, s->above = NULL;
    return OUT_OF_MEMORY;
}

/* ---- frame header (9, 19.2) ---- */

typedef struct {
    int is_key, updates_segments, num_token_partitions, keeps_probs;
    int may_skip, prob_skip, prob_intra, prob_last, prob_golden;
} Header;

static void skip_optional(Reader *r, int count, int num_bits) {
    while (count--)
        if (get(r, 128)) literal(r, num_bits + 1); /* a value and its sign */
}

static void reset(Vp8 *s) {
    memcpy(s->probs.tokens, DEFAULT_TOKEN_PROBS, sizeof s->probs.tokens);
    memcpy(s->probs.mv, DEFAULT_MV, sizeof s->probs.mv);
    memcpy(s->probs.y_mode, DEFAULT_Y_MODE, 4);
    memcpy(s->probs.uv_mode, DEFAULT_UV_MODE, 3);
    memset(s->sign_bias, 0, sizeof s->sign_bias);
}

static void read_segmentation(Vp8 *s, Reader *r, Header *h) {
    h->updates_segments = 0;
    if (!get(r, 128)) return;
    h->updates_segments = get(r, 128);
    if (get(r, 128)) {
        get(r, 128);
        skip_optional(r, 4, 7);
        skip_optional(r, 4, 6);
    }
    if (h->updates_segments)
        for (int i = 0; i < 3; i++) s->segment_probs[i] = get(r, 128) ? literal(r, 8) : 255;
}

static void read_header(Vp8 *s, Reader *r, Header *h) {
    if (h->is_key) {
        literal(r, 2);
        reset(s);
    }
    read_segmentation(s, r, h);
    literal(r, 10); /* loop filter */
    if (get(r, 128) && get(r, 128)) skip_optional(r, 8, 6);
    h->num_token_partitions = 1 << literal(r, 2);
    literal(r, 7);
    skip_optional(r, 5, 4);
    if (!h->is_key) {
        int golden = get(r, 128), altref = get(r, 128);
        if (!golden) literal(r, 2);
        if (!altref) literal(r, 2);
        s->sign_bias[2] = get(r, 128);
        s->sign_bias[3] = get(r, 128);
    }
    h->keeps_probs = get(r, 128);
    if (!h->keeps_probs) s->saved = s->probs;
    if (!h->is_key) get(r, 128);
    for (int i = 0; i < 1056; i++)
        if (get(r, TOKEN_UPDATE_PROBS[i])) s->probs.tokens[i] = literal(r, 8);
    h->may_skip = get(r, 128);
    h->prob_skip = h->may_skip ? literal(r, 8) : 0;
    if (h->is_key) return;
    h->prob_intra = literal(r, 8), h->prob_last = literal(r, 8), h->prob_golden = literal(r, 8);
    if (get(r, 128))
        for (int i = 0; i < 4; i++) s->probs.y_mode[i] = literal(r, 8);
    if (get(r, 128))
        for (int i = 0; i < 3; i++) s->probs.uv_mode[i] = literal(r, 8);
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 19; j++)
            if (get(r, MV_UPDATE[i][j])) {
                int x = literal(r, 7);
                s->probs.mv[i][j] = x ? 2 * x : 1;
            }
}

/* ---- modes and motion vectors (8, 10, 11, 16, 17) ---- */

static int is_zero(Mv mv) { return !(mv.row | mv.col); }
static int are_equal(Mv a, Mv b) { return a.row == b.row && a.col == b.col; }

static int read_mv_part(Reader *r, const uint8_t *p) {
    int x = 0;
    if (get(r, p[0])) {
        for (int i = 0; i < 3; i++) x += get(r, p[9 + i]) << i;
        for (int i = 9; i > 3; i--) x += get(r, p[9 + i]) << i;
        if (!(x & 0xFFF0) || get(r, p[12])) x += 8;
    } else {
        x = tree(r, SHORT_MV_TREE, p + 2);
    }
    return x && get(r, p[1]) ? -x : x;
}

static Mv read_mv(Reader *r, Vp8 *s, Mv base) {
    /* Sums are of 16 bits: damaged ones wrap. */
    int row = base.row + read_mv_part(r, s->probs.mv[0]);
    int col = base.col + read_mv_part(r, s->probs.mv[1]);
    return (Mv){(int16_t)row, (int16_t)col};
}

static int clamped(int x, int low, int high) { return x < low ? low : x > high ? high : x; }

static Mv clamped_mv(const Vp8 *s, Mv mv, int row, int col) {
    return (Mv){clamped(mv.row, -64 * (row + 1), 64 * (s->height - row)),
                clamped(mv.col, -64 * (col + 1), 64 * (s->width - col))};
}

static void set_mv(Block *b, int mode, Mv mv) {
    b->mode = mode, b->mv = mv;
    for (int i = 0; i < 16; i++) b->sub_mvs[i] = mv;
}

static void read_split(Vp8 *s, Reader *r, Block *b, const Block *left, const Block *above, Mv best) {
    int split = !get(r, SPLIT_PROBS[0])   ? 3
                : !get(r, SPLIT_PROBS[1]) ? 2
                                          : get(r, SPLIT_PROBS[2]);
    for (int part = 0; part < SPLIT_COUNTS[split]; part++) {
        int k = 0;
        while (SPLITS[split][k] != part) k++;
        Mv l = k & 3 ? b->sub_mvs[k - 1] : left->sub_mvs[k + 3];
        Mv a = k >> 2 ? b->sub_mvs[k - 4] : above->sub_mvs[k + 12];
        int context = are_equal(l, a) ? (is_zero(a) ? 4 : 3) : is_zero(a) ? 2 : is_zero(l) ? 1 : 0;
        const uint8_t *p = SUB_MV_PROBS[context];
        Mv mv = !get(r, p[0])   ? l
                : !get(r, p[1]) ? a
                : !get(r, p[2]) ? (Mv){0, 0}
                                : read_mv(r, s, best);
        for (int i = k; i < 16; i++)
            if (SPLITS[split][i] == part) b->sub_mvs[i] = mv;
    }
    b->mode = MV_SPLIT, b->mv = b->sub_mvs[15];
}

static void read_inter(Vp8 *s, Reader *r, Block *b, int row, int col) {
    const Block *left = b - 1, *above = b - (s->width + 1), *corner = above - 1;
    const Block *near_blocks[3] = {above, left, corner};
    Mv near[4] = {{0, 0}, {0, 0}, {0, 0}, {0, 0}};
    int counts[4] = {0, 0, 0, 0}, last = 0;
    for (int i = 0; i < 3; i++) {
        const Block *other = near_blocks[i];
        int weight = i < 2 ? 2 : 1;
        if (!other->ref) continue;
        if (is_zero(other->mv)) {
            counts[0] += weight;
            continue;
        }
        Mv mv = other->mv;
        if (s->sign_bias[other->ref] != s->sign_bias[b->ref]) mv = (Mv){-mv.row, -mv.col};
        if (!last || !are_equal(mv, near[last])) near[++last] = mv;
        counts[last] += weight;
    }
    if (counts[3] && are_equal(near[3], near[1])) counts[1]++;
    counts[3] = 2 * ((above->mode == MV_SPLIT) + (left->mode == MV_SPLIT)) + (corner->mode == MV_SPLIT);
    if (counts[2] > counts[1]) {
        int count = counts[1];
        Mv mv = near[1];
        counts[1] = counts[2], near[1] = near[2];
        counts[2] = count, near[2] = mv;
    }
    Mv best = clamped_mv(s, counts[1] >= counts[0] ? near[1] : near[0], row, col);
    if (!get(r, MV_CONTEXTS[counts[0]][0]))
        set_mv(b, MV_WHOLE, (Mv){0, 0});
    else if (!get(r, MV_CONTEXTS[counts[1]][1]))
        set_mv(b, MV_WHOLE, clamped_mv(s, near[1], row, col));
    else if (!get(r, MV_CONTEXTS[counts[2]][2]))
        set_mv(b, MV_WHOLE, clamped_mv(s, near[2], row, col));
    else if (!get(r, MV_CONTEXTS[counts[3]][3]))
        set_mv(b, MV_WHOLE, read_mv(r, s, best));
    else
        read_split(s, r, b, left, above, best);
}

static void read_key_sub_modes(Vp8 *s, Reader *r, Block *b) {
    const Block *left = b - 1, *above = b - (s->width + 1);
    for (int i = 0; i < 16; i++) {
        int a = i >> 2 ? b->sub_modes[i - 4] : above->sub_modes[i + 12];
        int l = i & 3 ? b->sub_modes[i - 1] : left->sub_modes[i + 3];
        b->sub_modes[i] = tree(r, SUB_TREE, KEY_SUBBLOCK_MODE_PROBS + 90 * a + 9 * l);
    }
}

static void read_modes(Vp8 *s, Reader *r, const Header *h, Block *b, int row, int col) {
    if (h->updates_segments) get(r, s->segment_probs[1 + get(r, s->segment_probs[0])]);
    b->skips = h->may_skip ? get(r, h->prob_skip) : 0;
    b->ref = 0;
    if (!h->is_key && get(r, h->prob_intra)) {
        b->ref = get(r, h->prob_last) ? 2 + get(r, h->prob_golden) : 1;
        read_inter(s, r, b, row, col);
        return;
    }
    int mode = h->is_key ? tree(r, KEY_Y_TREE, KEY_Y_PROBS) : tree(r, Y_TREE, s->probs.y_mode);
    set_mv(b, mode, (Mv){0, 0});
    if (mode != B_PRED)
        memset(b->sub_modes, SUB_OF_MODE[mode], 16);
    else if (h->is_key)
        read_key_sub_modes(s, r, b);
    else
        for (int i = 0; i < 16; i++) b->sub_modes[i] = tree(r, SUB_TREE, SUB_PROBS);
    tree(r, UV_TREE, h->is_key ? KEY_UV_PROBS : s->probs.uv_mode);
}

/* ---- coefficients (13) ---- */

/* Skips a value of at least 2, after its first two nodes. */
static void skip_large(Reader *r, const uint8_t *p) {
    if (!get(r, p[3])) {
        if (get(r, p[4])) get(r, p[5]);
        return;
    }
    int category;
    if (!get(r, p[6])) {
        category = get(r, p[7]);
    } else {
        int high = get(r, p[8]);
        category = 2 + 2 * high + get(r, p[9 + high]);
    }
    for (const uint8_t *extra = EXTRA_BITS[category]; *extra; extra++) get(r, *extra);
}

/* Returns whether any coefficient is coded. */
static int skip_coefficients(Reader *r, const uint8_t *probs, int first, int context) {
    int i = first;
    const uint8_t *p = probs + 33 * BANDS[i] + 11 * context;
    if (!get(r, p[0])) return 0;
    for (;;) {
        if (!get(r, p[1])) {
            if (++i == 16) return 1;
            p = probs + 33 * BANDS[i];
            continue; /* a zero is never the last one */
        }
        if (get(r, p[2])) {
            skip_large(r, p);
            context = 2;
        } else {
            context = 1;
        }
        get(r, 128);
        if (++i == 16) return 1;
        p = probs + 33 * BANDS[i] + 11 * context;
        if (!get(r, p[0])) return 1;
    }
}

static void skip_plane(Reader *r, const uint8_t *probs, int first, int size, uint8_t *a, uint8_t *l) {
    for (int y = 0; y < size; y++)
        for (int x = 0; x < size; x++) a[x] = l[y] = skip_coefficients(r, probs, first, a[x] + l[y]);
}

static void skip_tokens(Vp8 *s, Reader *r, const Block *b, uint8_t *a, uint8_t *l) {
    const uint8_t *probs = s->probs.tokens;
    int has_y2 = b->mode != B_PRED && b->mode != MV_SPLIT;
    if (b->skips) {
        memset(a, 0, 8), memset(l, 0, 8);
        if (has_y2) a[8] = l[8] = 0;
        return;
    }
    if (has_y2) a[8] = l[8] = skip_coefficients(r, probs + 264, 0, a[8] + l[8]);
    skip_plane(r, probs + (has_y2 ? 0 : 792), has_y2, 4, a, l);
    skip_plane(r, probs + 528, 0, 2, a + 4, l + 4);
    skip_plane(r, probs + 528, 0, 2, a + 6, l + 6);
}

/* ---- frames ---- */

static int open_partitions(Reader *readers, int count, const uint8_t *data, size_t size) {
    size_t sizes = 3 * (size_t)(count - 1);
    if (size < sizes) return BAD_HEADER;
    const uint8_t *at = data + sizes;
    size -= sizes;
    for (int i = 0; i < count; i++, data += 3) {
        size_t part = size;
        if (i < count - 1) part = data[0] | data[1] << 8 | (size_t)data[2] << 16;
        if (part > size) return BAD_HEADER;
        begin(&readers[i], at, part);
        at += part, size -= part;
    }
    return 0;
}

static int read_blocks(Vp8 *s, Reader *readers, const Header *h) {
    memset(s->above, 0, 9 * (size_t)s->width);
    for (int row = 0; row < s->height; row++) {
        Reader *tokens = &readers[1 + row % h->num_token_partitions];
        uint8_t left[9] = {0};
        for (int col = 0; col < s->width; col++) {
            Block *b = s->blocks + (size_t)(row + 1) * (s->width + 1) + col + 1;
            read_modes(s, &readers[0], h, b, row, col);
            skip_tokens(s, tokens, b, s->above + 9 * col, left);
            if (has_overrun(&readers[0]) || has_overrun(tokens)) return OVERRUN;
        }
    }
    return 0;
}

/* Counts the bits that a partition has left, and says whether one of them is not zero. */
static void finish(const Reader *r, int32_t *spare_bits, int32_t *has_rest) {
    *spare_bits = (int32_t)num_spare(r);
    int rest = r->value != 0;
    for (const uint8_t *at = r->at; at < r->end; at++) rest |= *at != 0;
    *has_rest = rest;
}

/* Parses a frame. Returns the number of partitions, or a negative number if the frame is damaged. */
int lafp_vp8_parse(Vp8 *s, const uint8_t *data, size_t size, int32_t *spare_bits, int32_t *has_rest) {
    Reader readers[MAX_PARTITIONS];
    Header h = {0};
    if (size < 3) return BAD_HEADER;
    uint32_t tag = data[0] | data[1] << 8 | (uint32_t)data[2] << 16;
    size_t first_size = tag >> 5;
    int version = tag >> 1 & 7;
    h.is_key = !(tag & 1);
    if (version > 3 || (!h.is_key && s->has_key && version != s->version)) return BAD_HEADER;
    data += 3, size -= 3;
    if (h.is_key) {
        if (size < 7 || data[0] != 0x9D || data[1] != 0x01 || data[2] != 0x2A) return BAD_HEADER;
        int width = (data[3] | data[4] << 8) & 0x3FFF, height = (data[5] | data[6] << 8) & 0x3FFF;
        if (!width || !height) return BAD_HEADER;
        int error = resize(s, (width + 15) / 16, (height + 15) / 16);
        if (error) return error;
        s->has_key = 1, s->version = version;
        data += 7, size -= 7;
    }
    if (!s->has_key || !s->blocks) return NO_KEY_FRAME;
    if (first_size > size) return BAD_HEADER;
    begin(&readers[0], data, first_size);
    read_header(s, &readers[0], &h);
    int error = has_overrun(&readers[0]) ? OVERRUN : 0;
    if (!error)
        error = open_partitions(readers + 1, h.num_token_partitions, data + first_size, size - first_size);
    if (!error) error = read_blocks(s, readers, &h);
    if (!h.keeps_probs) s->probs = s->saved;
    if (error) return error;
    for (int i = 0; i <= h.num_token_partitions; i++) finish(&readers[i], &spare_bits[i], &has_rest[i]);
    return 1 + h.num_token_partitions;
}
