/* Parses VP9 frames without decoding pictures, to find out where their data ends.
 *
 * A frame is a header of plain bits, a compressed header and tiles, which both are arithmetic code.
 * What follows the last symbol of an undamaged tile is padding of zeros. Damaged data decodes to
 * garbage of another length. Section numbers are those of the VP9 Bitstream & Decoding Process
 * Specification, version 0.6; what it leaves open is done as libvpx does it.
 *
 * Input is hostile: a reader gives zeros beyond the end of its data, and all indices come from
 * values that the code bounds itself.
 */

#include "vp9_modes.h"

/* ---- coefficients (6.4, 9.3) ---- */

/* Skips a value of at least 2, after its first three nodes. Returns how large it counts. */
static inline int skip_large(Reader *r, const uint8_t *p, const uint8_t *large_bits) {
    if (!get(r, p[0])) {
        if (!get(r, p[1])) return 2;
        get(r, p[2]);
        return 3;
    }
    const uint8_t *extra;
    int size = 5;
    if (!get(r, p[3]))
        extra = EXTRA_BITS[get(r, p[4])], size = 4;
    else if (!get(r, p[5]))
        extra = EXTRA_BITS[2 + get(r, p[6])];
    else
        extra = get(r, p[7]) ? large_bits : EXTRA_BITS[4];
    for (; *extra; extra++) get(r, *extra);
    return size;
}

typedef struct {
    const uint8_t (*probs)[3];
    uint32_t (*counts)[5];
    const uint8_t (*pareto)[8];
    const uint8_t *large_bits;
} Coder;

/* Returns whether any coefficient is coded. */
static int skip_coefs(Reader *shared, const Coder *c, const Step *step, int num_coefs, int context) {
    Reader r = *shared; /* a copy, so that it can stay in registers */
    uint8_t sizes[1024];
    const Step *end = step + num_coefs;
    int is_coded = 0, may_end = 1;
    for (; step < end; step++) {
        if (is_coded) context = (1 + sizes[step->near[0]] + sizes[step->near[1]]) >> 1;
        const uint8_t *p = c->probs[step->band + context];
        uint32_t *n = c->counts[step->band + context];
        if (may_end) {
            n[4]++;
            if (!get(&r, p[0])) {
                n[3]++;
                break;
            }
        }
        is_coded = 1;
        if (!get(&r, p[1])) {
            n[0]++, sizes[step->at] = 0;
            may_end = 0; /* a zero is never the last one */
            continue;
        }
        may_end = 1;
        if (!get(&r, p[2]))
            n[1]++, sizes[step->at] = 1;
        else
            n[2]++, sizes[step->at] = (uint8_t)skip_large(&r, c->pareto[p[2]], c->large_bits);
        get(&r, 128);
    }
    *shared = r;
    return is_coded;
}

static const Step *steps_of(const Vp9 *s, int tx, int scan) {
    return tx == 0 ? s->small[scan] : tx == 1 ? s->middle[scan] : tx == 2 ? s->large[scan] : s->huge;
}

/* Scans follow the direction of prediction in luma within a picture (9.3). */
static int scan_of(const Vp9 *s, const Block *b, int plane, int mode) {
    if (plane || b->is_inter || s->header.is_lossless) return BOTH_SCAN;
    if (mode == V_PRED || mode == D117_PRED || mode == D63_PRED) return ROW_SCAN;
    return mode == H_PRED || mode == D153_PRED || mode == D207_PRED ? COL_SCAN : BOTH_SCAN;
}

/* Flags of a transform's columns or rows are read and written at once, because single bytes that
 * have just been written are slow to read as a word. */
static int any(const uint8_t *flags, int tx) {
    uint64_t all = 0;
    switch (tx) {
    case 0: return flags[0];
    case 1: memcpy(&all, flags, 2); break;
    case 2: memcpy(&all, flags, 4); break;
    default: memcpy(&all, flags, 8);
    }
    return all != 0;
}

/* Beyond the picture nothing is coded. */
static void set_flags(uint8_t *flags, int value, int num_inside, int tx) {
    uint64_t all = value ? 0x0101010101010101 : 0;
    if (num_inside < 1 << tx) {
        for (int i = 0; i < 1 << tx; i++) flags[i] = (uint8_t)(i < num_inside && value);
        return;
    }
    switch (tx) {
    case 0: flags[0] = (uint8_t)value; break;
    case 1: memcpy(flags, &all, 2); break;
    case 2: memcpy(flags, &all, 4); break;
    default: memcpy(flags, &all, 8);
    }
}

static int smaller(int a, int b) { return a < b ? a : b; }

static int log2_of(int x) { return 31 - __builtin_clz((unsigned)x); }

/* Returns whether any coefficient of a plane is coded. */
static int skip_plane(Vp9 *s, Tile *t, const Block *b, int plane) {
    int half_x = plane && s->chroma_x, half_y = plane && s->chroma_y;
    int width = 2 * b->width >> half_x, height = 2 * b->height >> half_y; /* in 4 pixels */
    int num_cols = 2 * b->num_cols >> half_x, num_rows = 2 * b->num_rows >> half_y;
    int tx = b->tx, any_coded = 0;
    if (plane) tx = b->size < 3 ? 0 : smaller(tx, smaller(log2_of(width), log2_of(height)));
    uint8_t *above = s->above_nonzero[plane] + (2 * b->col >> half_x);
    uint8_t *left = t->left_nonzero[plane] + (2 * (b->row & 7) >> half_y);
    if (b->skips) {
        memset(above, 0, (size_t)width), memset(left, 0, (size_t)height);
        return 0;
    }
    Coder c = {s->probs.coefs[tx][plane > 0][b->is_inter], s->counts.coefs[tx][plane > 0][b->is_inter],
               s->pareto, LARGE_BITS + 12 - s->num_bits};
    int side = 1 << tx;
    for (int y = 0; y < num_rows; y += side)
        for (int x = 0; x < num_cols; x += side) {
            int mode = b->modes[b->size < 3 ? 2 * (y & 1) + (x & 1) : 0];
            const Step *steps = steps_of(s, tx, scan_of(s, b, plane, mode));
            int context = any(above + x, tx) + any(left + y, tx);
            int is_coded = skip_coefs(&t->r, &c, steps, 16 << 2 * tx, context);
            set_flags(above + x, is_coded, num_cols - x, tx);
            set_flags(left + y, is_coded, num_rows - y, tx);
            any_coded |= is_coded;
        }
    return any_coded;
}

static void skip_residual(Vp9 *s, Tile *t, Block *b) {
    int any_coded = 0;
    for (int plane = 0; plane < 3; plane++) any_coded |= skip_plane(s, t, b, plane);
    /* To later blocks it is as if this had been said. */
    if (b->is_inter && b->size >= 3 && !any_coded) b->skips = 1;
}

/* ---- blocks, partitions and tiles (6.4) ---- */

static void show_motion(Vp9 *s, const Block *b) {
    size_t width = (size_t)s->width, at = (size_t)b->row * width + (size_t)b->col;
    Motion *first = &s->motion[at];
    memcpy(first->mvs, b->mvs[3], sizeof first->mvs);
    first->refs[0] = (uint8_t)b->refs[0], first->refs[1] = (uint8_t)b->refs[1];
    first->kind = (uint8_t)b->kind;
    /* Copies of the first one, because compilers write a constant field by field. */
    for (int x = 1; x < b->num_cols; x++) memcpy(&first[x], first, sizeof *first);
    for (int y = 1; y < b->num_rows; y++)
        memcpy(first + (size_t)y * width, first, (size_t)b->num_cols * sizeof *first);
}

static void show_to_later_blocks(Vp9 *s, Tile *t, const Block *b) {
    Side *below = &s->above[b->col], *beside = &t->left[b->row & 7];
    *below = (Side){(uint8_t)b->skips, (uint8_t)b->tx, (uint8_t)b->filter, (uint8_t)b->is_predicted,
                    {(uint8_t)b->refs[0], (uint8_t)b->refs[1]}, {b->modes[2], b->modes[3]},
                    {{b->mvs[2][0], b->mvs[2][1]}, {b->mvs[3][0], b->mvs[3][1]}}};
    memcpy(beside, below, sizeof *below);
    beside->modes[0] = b->modes[1];
    beside->mvs[0][0] = b->mvs[1][0], beside->mvs[0][1] = b->mvs[1][1];
    for (int i = 1; i < b->num_cols; i++) memcpy(&below[i], below, sizeof *below);
    for (int i = 1; i < b->num_rows; i++) memcpy(&beside[i], beside, sizeof *beside);
    if (!s->header.is_intra) show_motion(s, b);
}

static int read_block(Vp9 *s, Tile *t, int row, int col, int size) {
    Block b = {.row = row, .col = col, .size = size};
    b.width = 1 << WIDTH_LOG2[size] >> 1, b.height = 1 << HEIGHT_LOG2[size] >> 1;
    b.width += !b.width, b.height += !b.height;
    b.num_cols = smaller(b.width, s->width - col), b.num_rows = smaller(b.height, s->height - row);
    if (row) b.above = &s->above[col];
    if (col > t->first_col) b.left = &t->left[row & 7];
    if (!read_modes(s, t, &b)) return BAD_BLOCK;
    skip_residual(s, t, &b);
    show_to_later_blocks(s, t, &b);
    return has_overrun(&t->r) ? OVERRUN : 0;
}

static int read_partition(Vp9 *s, Tile *t, int row, int col, int level, int half) {
    int has_rows = row + half < s->height, has_cols = col + half < s->width;
    int above = s->above_partition[col] >> level & 1, left = t->left_partition[row & 7] >> level & 1;
    int context = 4 * level + 2 * left + above, split = SPLIT_BOTH;
    const uint8_t *probs = s->header.is_intra ? KEY_PARTITION[context] : s->probs.partition[context];
    if (has_rows && has_cols)
        split = tree(&t->r, PARTITION_TREE, probs);
    else if (has_cols)
        split = get(&t->r, probs[1]) ? SPLIT_BOTH : SPLIT_ROWS;
    else if (has_rows)
        split = get(&t->r, probs[2]) ? SPLIT_BOTH : SPLIT_COLUMNS;
    s->counts.partition[context][split]++;
    return split;
}

/* Reads a square of (8 << level) pixels. */
static int read_square(Vp9 *s, Tile *t, int row, int col, int level) {
    if (row >= s->height || col >= s->width) return 0;
    int half = 1 << level >> 1, error = 0;
    int split = read_partition(s, t, row, col, level, half), size = 3 * level + 3 - split;
    if (level && split == SPLIT_BOTH) {
        for (int i = 0; i < 4 && !error; i++)
            error = read_square(s, t, row + (i >> 1) * half, col + (i & 1) * half, level - 1);
        return error;
    }
    error = read_block(s, t, row, col, size);
    if (!error && level && split == SPLIT_ROWS && row + half < s->height)
        error = read_block(s, t, row + half, col, size);
    if (!error && level && split == SPLIT_COLUMNS && col + half < s->width)
        error = read_block(s, t, row, col + half, size);
    memset(s->above_partition + col, 15 << WIDTH_LOG2[size] & 15, (size_t)1 << level);
    memset(t->left_partition + (row & 7), 15 << HEIGHT_LOG2[size] & 15, (size_t)1 << level);
    return error;
}

static int tile_offset(int i, int length, int log2) {
    int num_blocks = (length + 7) / 8;
    return smaller((int)((int64_t)i * num_blocks >> log2) * 8, length);
}

static int read_tile(Vp9 *s, Tile *t, int tile_row) {
    int end_row = tile_offset(tile_row + 1, s->height, s->header.rows_log2);
    for (int row = tile_offset(tile_row, s->height, s->header.rows_log2); row < end_row; row += 8) {
        memset(t->left_partition, 0, sizeof t->left_partition);
        memset(t->left_nonzero, 0, sizeof t->left_nonzero);
        for (int col = t->first_col; col < t->end_col; col += 8) {
            int error = read_square(s, t, row, col, 3);
            if (error) return error;
        }
    }
    return 0;
}

/* ---- frames (6.1) ---- */

/* How pieces of arithmetic code end: the number of bits after the last symbol, and what is set
 * there: 0 nothing, 1 bits that the decoder has compared, 2 others. */
typedef struct { int64_t fewest, most, rest, count; } Ends;

static void finish(Ends *ends, const Reader *r) {
    int64_t spare = num_spare(r), rest = r->value << 8 ? 2 : r->value != 0;
    for (const uint8_t *at = r->at; at < r->end && rest < 2; at++)
        if (*at) rest = 2;
    if (!ends->count || spare < ends->fewest) ends->fewest = spare;
    if (!ends->count || spare > ends->most) ends->most = spare;
    if (rest > ends->rest) ends->rest = rest;
    ends->count++;
}

static int read_tiles(Vp9 *s, const uint8_t *data, size_t size, Ends *ends) {
    const Header *h = &s->header;
    int num_rows = 1 << h->rows_log2, num_cols = 1 << h->columns_log2;
    size_t side = (size_t)aligned_width(s);
    memset(s->above_partition, 0, side);
    for (int i = 0; i < 3; i++) memset(s->above_nonzero[i], 0, 2 * side);
    for (int i = 0; i < num_rows * num_cols; i++) {
        size_t part = size;
        if (i < num_rows * num_cols - 1) {
            if (size < 4) return BAD_HEADER;
            part = (size_t)data[0] << 24 | (size_t)data[1] << 16 | (size_t)data[2] << 8 | data[3];
            data += 4, size -= 4;
        }
        if (part > size) return BAD_HEADER;
        Tile t = {.s = s};
        if (!start(&t.r, data, part)) return BAD_HEADER;
        t.first_col = tile_offset(i % num_cols, s->width, h->columns_log2);
        t.end_col = tile_offset(i % num_cols + 1, s->width, h->columns_log2);
        int error = read_tile(s, &t, i / num_cols);
        if (error) return error;
        finish(ends, &t.r);
        data += part, size -= part;
    }
    return 0;
}

/* Adapts the probabilities and stores them for later frames (6.1: refresh_probs). */
static void keep_probs(Vp9 *s, int was_key) {
    const Header *h = &s->header;
    Probs *old = &s->contexts[h->context];
    if (!h->is_parallel) {
        adapt_coefs(&s->probs, old, &s->counts, !h->is_intra && was_key ? 128 : 112);
        if (!h->is_intra) {
            adapt_refs(&s->probs, old, &s->counts);
            adapt_modes(&s->probs, old, &s->counts);
            if (h->selects_filter) adapt_filters(&s->probs, old, &s->counts);
            if (h->tx_mode == 4) adapt_tx(&s->probs, old, &s->counts);
            adapt_mv(&s->probs.mv, &old->mv, &s->counts, h->is_high);
        }
    }
    if (h->keeps_probs) *old = s->probs;
}

static void swap_pictures(Vp9 *s) {
    Motion *motion = s->motion;
    s->motion = s->old_motion, s->old_motion = motion;
    if (s->segments.enabled) {
        uint8_t *ids = s->segment_ids;
        s->segment_ids = s->old_segment_ids, s->old_segment_ids = ids;
    }
}

static void store(Vp9 *s) {
    const Header *h = &s->header;
    for (int i = 0; i < 8; i++)
        if (h->refreshes >> i & 1) s->ref_widths[i] = s->width_px, s->ref_heights[i] = s->height_px;
    swap_pictures(s);
    s->last_width_px = s->width_px, s->last_height_px = s->height_px;
    s->was_shown = h->is_shown, s->was_key = h->is_key, s->was_intra_only = h->is_intra && !h->is_key;
}

static int read_frame(Vp9 *s, const uint8_t *data, size_t size, Ends *ends) {
    Bits b = {data, 8 * size, 0};
    Header *h = &s->header;
    Reader r;
    if (bits(&b, 2) != 2) return BAD_HEADER;
    int profile = bits(&b, 1);
    profile |= bits(&b, 1) << 1;
    if (profile == 3 && bits(&b, 1)) return BAD_HEADER;
    if (bits(&b, 1)) /* shows a frame that has been decoded */
        return s->ref_widths[bits(&b, 3)] && b.at <= b.num_bits ? 0 : NO_KEY_FRAME;
    *h = (Header){.is_key = !bits(&b, 1)};
    if (s->is_lost && !h->is_key) return NO_KEY_FRAME;
    s->is_lost = 1; /* until the frame is found to be sound */
    s->profile = profile;
    int error = read_header(s, h, &b);
    if (error) return error;
    size_t at = (b.at + 7) / 8;
    if (h->num_header_bytes > size - at) return BAD_HEADER;
    h->uses_old_motion = !h->is_resilient && s->was_shown && !s->was_key && !s->was_intra_only &&
                         s->width_px == s->last_width_px && s->height_px == s->last_height_px;
    s->probs = s->contexts[h->context];
    memset(&s->counts, 0, sizeof s->counts);
    if (!start(&r, data + at, h->num_header_bytes)) return BAD_HEADER;
    read_compressed_header(s, h, &r);
    if (has_overrun(&r)) return OVERRUN;
    finish(ends, &r);
    error = read_tiles(s, data + at + h->num_header_bytes, size - at - h->num_header_bytes, ends);
    if (error) return error;
    keep_probs(s, s->was_key);
    store(s);
    s->is_lost = 0;
    return 0;
}

/* Parses a packet: a frame, or several ones with an index of their sizes at the end (Annex B).
 * Returns 0, or a negative number if it is damaged. */
int lafp_vp9_parse(Vp9 *s, const uint8_t *data, size_t size, Ends *ends) {
    *ends = (Ends){0, 0, 0, 0};
    int marker = size ? data[size - 1] : 0, error = 0;
    if ((marker & 0xE0) != 0xC0) return read_frame(s, data, size, ends);
    size_t num_frames = 1 + (marker & 7), num_bytes = 1 + (marker >> 3 & 3);
    size_t num_index_bytes = 2 + num_frames * num_bytes;
    if (size < num_index_bytes || data[size - num_index_bytes] != marker) return BAD_HEADER;
    size -= num_index_bytes;
    const uint8_t *index = data + size + 1;
    for (size_t i = 0; i < num_frames && !error; i++, index += num_bytes) {
        size_t part = 0;
        for (size_t k = 0; k < num_bytes; k++) part |= (size_t)index[k] << 8 * k;
        if (part > size) return BAD_HEADER;
        error = read_frame(s, data, part, ends);
        data += part, size -= part;
    }
    return error;
}
