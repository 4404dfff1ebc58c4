/* Parses HEVC pictures without decoding them, to find out where their data ends.
 *
 * HEVC (ITU-T H.265; clause numbers are its) codes a slice as arithmetic code, in one piece or in
 * several: a piece for each tile or for each row. An undamaged slice says that it ends exactly
 * where its data ends, a piece where the next one begins, and the slices cover the picture. Damaged
 * data decodes to garbage of another length. Pictures need not be decoded for this, because in HEVC
 * no code depends on a pixel or on a motion vector.
 *
 * Input is hostile: a reader gives zeros beyond the end of its data, and all indices come from
 * values that the code bounds itself.
 */

#include <stdlib.h>
#include <string.h>

#include "hevc_cabac.h"
#include "hevc_headers.h"

enum { PLANAR, DC, HORIZONTAL = 10, VERTICAL = 26, LAST_MODE = 34 };
enum { DIAGONAL_SCAN, HORIZONTAL_SCAN, VERTICAL_SCAN };
enum { MAX_CTB_8 = 8, MAX_CTB_4 = 16 }; /* sides of the largest tree block in units of 8 and 4 */

typedef struct {
    Context contexts[NUM_CONTEXTS];
    uint8_t rice[4]; /* StatCoeff */
} Adaptive; /* what the arithmetic decoder has learnt */

typedef struct {
    int log2_size, is_intra, is_bypass, is_split; /* into four parts with their own intra modes */
    int splits_inter, max_depth;
    int modes[4], chroma_modes[4], is_derived[4]; /* from the mode of luma */
} Unit; /* a coding unit */

typedef struct {
    int64_t max_pixels;
    int num_length_bytes; /* before each unit; 0 if units have start codes */
    Sps all_sps[MAX_SPS];
    Pps all_pps[MAX_PPS];

    /* The current picture. */
    Sps sps;
    Pps pps;
    Slice slice;
    int unit_type, laid_out; /* laid_out: the number of the parameter set that the maps fit, or -1 */
    int width, num_ctbs, next; /* in tree blocks; `next` in the order of tiles, -1 between pictures */
    int32_t slice_address;
    int32_t *to_raster, *to_tile_order, *slice_of;
    uint16_t *tile_of;

    /* The current slice. */
    uint8_t *data; /* without emulation prevention */
    size_t size, capacity;
    Cabac cabac;
    Adaptive now, after_two, after_slice; /* after the first two tree blocks of a row; after a slice */

    /* The current tree block and those around it: depth, and 4 if skipped, for each 8 pixels. */
    uint8_t *above, left[MAX_CTB_8];
    uint8_t modes_above[MAX_CTB_4], modes_left[MAX_CTB_4];
    Unit unit;
    int has_qp_delta, has_chroma_qp, is_bad;

    /* Tables. */
    uint32_t inverses[256];
    uint8_t scans[3][4][64];      /* [kind][log2 of the side]: x + 8 * y */
    uint8_t places[3][4][64];     /* the inverse */
    uint8_t sig_contexts[3][5][16]; /* in the order of the scan, by the neighbours; 4: of 4x4 */
} Hevc;

/* ---- tables (6.5.3 to 6.5.5, 9.3.4.2.5) ---- */

static void fill_scan(uint8_t *scan, int kind, int log2_side) {
    int side = 1 << log2_side, x = 0, y = 0;
    for (int i = 0; i < side * side; i++) {
        if (kind == DIAGONAL_SCAN) {
            while (y < 0 || x >= side) { /* the next diagonal, from its lower left end */
                y = x + y + 1, x = 0;
                if (y >= side) x = y - side + 1, y = side - 1;
            }
            scan[i] = (uint8_t)(x + 8 * y);
            x++, y--;
        } else {
            int major = i >> log2_side, minor = i & (side - 1);
            scan[i] = (uint8_t)(kind == HORIZONTAL_SCAN ? minor + 8 * major : major + 8 * minor);
        }
    }
}

static int sig_context(int neighbours, int x, int y) {
    switch (neighbours) {
    case 0: return x + y == 0 ? 2 : x + y < 3;
    case 1: return y == 0 ? 2 : y == 1;
    case 2: return x == 0 ? 2 : x == 1;
    case 3: return 2;
    default: return SIG_CONTEXTS_4X4[x + 4 * y];
    }
}

static void fill_tables(Hevc *s) {
    fill_inverses(s->inverses);
    for (int kind = 0; kind < 3; kind++) {
        for (int log2_side = 0; log2_side < 4; log2_side++) {
            fill_scan(s->scans[kind][log2_side], kind, log2_side);
            for (int i = 0; i < 1 << 2 * log2_side; i++)
                s->places[kind][log2_side][s->scans[kind][log2_side][i]] = (uint8_t)i;
        }
        for (int neighbours = 0; neighbours < 5; neighbours++)
            for (int i = 0; i < 16; i++) {
                int at = s->scans[kind][2][i];
                s->sig_contexts[kind][neighbours][i] = (uint8_t)sig_context(neighbours, at & 7, at >> 3);
            }
    }
}

/* ---- state ---- */

Hevc *lafp_hevc_new(int64_t max_pixels) {
    Hevc *s = calloc(1, sizeof(Hevc));
    if (!s) return NULL;
    s->max_pixels = max_pixels, s->next = s->laid_out = -1;
    fill_tables(s);
    return s;
}

static void free_maps(Hevc *s) {
    free(s->to_raster), free(s->to_tile_order), free(s->slice_of), free(s->tile_of), free(s->above);
    s->to_raster = s->to_tile_order = s->slice_of = NULL, s->tile_of = NULL, s->above = NULL;
}

void lafp_hevc_free(Hevc *s) {
    if (!s) return;
    free_maps(s);
    free(s->data), free(s);
}

/* Where the tiles begin, in tree blocks (6.5.1). Returns 0 if they do not fit. */
static int tile_bounds(const int *sizes, int count, int is_uniform, int side, int *bounds) {
    bounds[0] = 0;
    for (int i = 0; i < count - 1; i++) {
        bounds[i + 1] = is_uniform ? (i + 1) * side / count : bounds[i] + sizes[i];
        if (bounds[i + 1] <= bounds[i] || bounds[i + 1] >= side) return 0;
    }
    bounds[count] = side;
    return 1;
}

static int lay_out(Hevc *s) {
    const Sps *sps = &s->sps;
    int columns[MAX_TILES + 1], rows[MAX_TILES + 1], at = 0, tile = 0;
    int64_t extra = 64; /* sides may be rounded up, and pictures cropped */
    if ((sps->width - extra) * (sps->height - extra) > s->max_pixels && sps->width > extra) return BAD_SET;
    int mask = (1 << sps->log2_ctb) - 1;
    int width = (sps->width + mask) >> sps->log2_ctb, height = (sps->height + mask) >> sps->log2_ctb;
    if (!tile_bounds(s->pps.column_sizes, s->pps.num_columns, s->pps.is_uniform, width, columns) ||
        !tile_bounds(s->pps.row_sizes, s->pps.num_rows, s->pps.is_uniform, height, rows))
        return BAD_SET;
    size_t count = (size_t)width * (size_t)height;
    free_maps(s);
    s->to_raster = malloc(count * 4), s->to_tile_order = malloc(count * 4), s->slice_of = malloc(count * 4);
    s->tile_of = malloc(count * 2), s->above = calloc((size_t)(sps->width + 7) / 8, 1);
    if (!s->to_raster || !s->to_tile_order || !s->slice_of || !s->tile_of || !s->above) return OUT_OF_MEMORY;
    s->width = width, s->num_ctbs = (int)count;
    for (int j = 0; j < s->pps.num_rows; j++)
        for (int i = 0; i < s->pps.num_columns; i++, tile++)
            for (int y = rows[j]; y < rows[j + 1]; y++)
                for (int x = columns[i]; x < columns[i + 1]; x++, at++) {
                    int raster = y * width + x;
                    s->to_raster[at] = raster, s->to_tile_order[raster] = at;
                    s->tile_of[raster] = (uint16_t)tile;
                }
    return SOUND;
}

/* Begins a picture with a picture parameter set that is known. */
static int start_picture(Hevc *s, int pps) {
    if (s->laid_out != pps) {
        s->laid_out = -1;
        s->pps = s->all_pps[pps], s->sps = s->all_sps[s->pps.sps];
        int error = lay_out(s);
        if (error) return error;
        s->laid_out = pps;
    }
    memset(s->slice_of, 0xFF, (size_t)s->num_ctbs * 4);
    s->next = 0;
    return SOUND;
}

/* ---- what adapts (9.3.2.2) ---- */

static void reset(Hevc *s) {
    const uint8_t *values = INIT_VALUES[s->slice.init_type];
    int qp = s->slice.qp < 0 ? 0 : s->slice.qp;
    for (int i = 0; i < NUM_CONTEXTS; i++) {
        int slope = 5 * (values[i] >> 4) - 45, offset = 8 * (values[i] & 15) - 16;
        int state = ((slope * qp) >> 4) + offset;
        state = state < 1 ? 1 : state > 126 ? 126 : state;
        s->now.contexts[i] = (Context)(state > 63 ? 2 * (state - 64) + 1 : 2 * (63 - state));
    }
    memset(s->now.rice, 0, 4);
}

/* ---- residual (7.3.8.11) ---- */

static int last_prefix(Cabac *c, Context *contexts, int log2_size, int is_chroma) {
    int shift = is_chroma ? log2_size - 2 : (log2_size + 1) >> 2, most = 2 * log2_size - 1, i = 0;
    contexts += is_chroma ? 15 : 3 * (log2_size - 2) + ((log2_size - 1) >> 2);
    while (i < most && get(c, contexts + (i >> shift))) i++;
    return i;
}

static int last_position(Cabac *c, int prefix) {
    if (prefix < 4) return prefix;
    int count = (prefix >> 1) - 1;
    return (int)((2u + (prefix & 1)) << count | bypass_bits(c, count));
}

static inline int leading_ones(uint32_t bins) { return __builtin_clz(~(bins << (32 - MOST_BINS))); }

/* coeff_abs_level_remaining (9.3.3.11). Returns a negative number for an impossible one. */
static inline int remaining(Cabac *c, int rice) {
    uint32_t bins = peek(c, MOST_BINS);
    int prefix = leading_ones(bins);
    int suffix = (prefix > 3 ? prefix - 3 : 0) + rice, size = prefix + 1 + suffix;
    uint32_t base = prefix > 3 ? (1u << (prefix - 3)) + 2 : (uint32_t)prefix;
    if (size <= MOST_BINS) {
        bins >>= MOST_BINS - size;
        consume(c, size, bins);
        return (int)((base << rice) + (bins & ((1u << suffix) - 1)));
    }
    int num_known = prefix < MOST_BINS ? prefix + 1 : prefix;
    consume(c, num_known, bins >> (MOST_BINS - num_known));
    if (prefix == MOST_BINS)
        while (prefix < 20 && bypass(c)) prefix++;
    suffix = (prefix > 3 ? prefix - 3 : 0) + rice;
    if (suffix > MOST_BINS) return -1; /* a level of more than 16 bits */
    base = prefix > 3 ? (1u << (prefix - 3)) + 2 : (uint32_t)prefix;
    return (int)((base << rice) + bypass_bits(c, suffix));
}

/* StatCoeff (9.3.4.2.6 of persistent_rice_adaptation_enabled_flag). */
static void adapt_rice(uint8_t *rice, int level) {
    if (level >= 3 << (*rice / 4)) {
        if (*rice < 4 * MOST_BINS) ++*rice;
    } else if (2 * level < 1 << (*rice / 4) && *rice > 0) {
        --*rice;
    }
}

typedef struct {
    int num, is_hidden;   /* significant coefficients; whether a sign is not coded */
    int context_set, is_chroma;
    uint8_t *rice;        /* NULL without persistent_rice_adaptation_enabled_flag */
} Levels;

/* The levels of a sub-block. Returns greater1Ctx after its last flag, or a negative number. */
static inline int skip_levels(Cabac *c, Context *contexts, const Levels *l) {
    static const uint8_t NEXT_GREATER1[4][2] = {{0, 0}, {2, 0}, {3, 0}, {3, 0}};
    Context *greater1 = contexts + CTX_GREATER1 + 16 * l->is_chroma + 4 * l->context_set;
    int num_flags = l->num < 8 ? l->num : 8, context = 1, first = -1, rice = l->rice ? *l->rice / 4 : 0;
    uint32_t open = ((1u << l->num) - 1) & ~0xFFu; /* those with more to come */
    for (int i = 0; i < num_flags; i++) {
        int flag = get(c, greater1 + context);
        open |= (uint32_t)flag << i;
        context = NEXT_GREATER1[context][flag];
    }
    if (open & 0xFF) {
        first = __builtin_ctz(open);
        if (!get(c, contexts + CTX_GREATER2 + 4 * l->is_chroma + l->context_set)) open ^= 1u << first;
    }
    int num_signs = l->num - l->is_hidden;
    consume(c, num_signs, peek(c, num_signs));
    for (uint8_t *adapts = l->rice; open; open &= open - 1) {
        int i = __builtin_ctz(open), level = remaining(c, rice);
        if (level < 0) return level;
        if (adapts) adapt_rice(adapts, level), adapts = NULL;
        level += i >= 8 ? 1 : i == first ? 3 : 2;
        if (level > 3 << rice && (l->rice ? rice < MOST_BINS : rice < 4)) rice++;
    }
    return context;
}

static int scan_of(const Hevc *s, int log2_size, int is_chroma, int mode) { /* 7.4.9.11 */
    int depends = log2_size == 2 || (log2_size == 3 && (!is_chroma || s->sps.chroma == 3));
    if (!s->unit.is_intra || !depends) return DIAGONAL_SCAN;
    return mode >= 6 && mode <= 14 ? VERTICAL_SCAN : mode >= 22 && mode <= 30 ? HORIZONTAL_SCAN : DIAGONAL_SCAN;
}

/* Contexts of sig_coeff_flag but for the one of the first coefficient: where they begin. */
static int sig_offset(int log2_size, int is_chroma, int scan, int is_first) {
    if (log2_size == 2) return 27 * is_chroma;
    if (is_chroma) return 27 + (log2_size == 3 ? 9 : 12);
    return (is_first ? 0 : 3) + (log2_size == 3 ? (scan == DIAGONAL_SCAN ? 9 : 15) : 21);
}

static void skip_residual(Hevc *s, int log2_size, int component, int mode) {
    static const uint8_t OF_ONE_CONTEXT[16];
    const Sps *sps = &s->sps;
    const Unit *u = &s->unit;
    Context *contexts = s->now.contexts;
    Cabac c = s->cabac; /* a copy of our own stays in registers */
    int is_chroma = component > 0, is_skipped = 0, is_explicit = 0;
    if (s->pps.has_transform_skip && !u->is_bypass && log2_size <= s->pps.log2_max_skip)
        is_skipped = get(&c, contexts + CTX_TRANSFORM_SKIP + is_chroma);
    int is_raw = is_skipped || u->is_bypass;
    if (!u->is_intra && sps->explicit_rdpcm && is_raw) {
        is_explicit = get(&c, contexts + CTX_RDPCM + is_chroma);
        if (is_explicit) get(&c, contexts + CTX_RDPCM + 2 + is_chroma);
    }
    int x = last_prefix(&c, contexts + CTX_LAST_X, log2_size, is_chroma);
    int y = last_prefix(&c, contexts + CTX_LAST_Y, log2_size, is_chroma);
    x = last_position(&c, x), y = last_position(&c, y);
    int scan = scan_of(s, log2_size, is_chroma, mode);
    if (scan == VERTICAL_SCAN) {
        int old_x = x;
        x = y, y = old_x;
    }
    const uint8_t *blocks = s->scans[scan][log2_size - 2];
    int last = s->places[scan][log2_size - 2][(x >> 2) + 8 * (y >> 2)];
    int start_at = s->places[scan][2][(x & 3) + 8 * (y & 3)];

    int has_one_context = sps->skip_context && is_raw;
    int is_implicit = u->is_intra && sps->implicit_rdpcm && is_skipped && (mode == HORIZONTAL || mode == VERTICAL);
    int hides = s->pps.hides_signs && !u->is_bypass && !is_implicit && !is_explicit;
    Levels l = {.is_chroma = is_chroma};
    if (sps->has_rice) l.rice = &s->now.rice[2 * !is_chroma + is_raw];
    uint8_t coded[9] = {0}; /* sub-blocks, a bit each */
    int greater1 = 1;
    for (int i = last; i >= 0; i--) {
        int block_x = blocks[i] & 7, block_y = blocks[i] >> 3;
        int neighbours = (coded[block_y] >> (block_x + 1) & 1) | (coded[block_y + 1] >> block_x & 1) << 1;
        int is_known = i == last || i == 0;
        if (!is_known && !get(&c, contexts + CTX_CODED_SUB_BLOCK + 2 * is_chroma + (neighbours > 0))) continue;
        coded[block_y] |= (uint8_t)(1 << block_x);

        Context *sig = contexts + CTX_SIG_COEFF + sig_offset(log2_size, is_chroma, scan, i == 0);
        const uint8_t *numbers = s->sig_contexts[scan][log2_size == 2 ? 4 : neighbours];
        if (has_one_context) sig = contexts + CTX_SIG_COEFF + 42 + is_chroma, numbers = OF_ONE_CONTEXT;
        uint32_t found = i == last ? 1u << start_at : 0;
        l.num = i == last;
        for (int n = i == last ? start_at - 1 : 15; n > 0; n--) {
            int flag = get(&c, sig + numbers[n]);
            found |= (uint32_t)flag << n, l.num += flag;
        }
        if (i < last || start_at > 0) {
            Context *zero = i || has_one_context ? sig + numbers[0] : contexts + CTX_SIG_COEFF + 27 * is_chroma;
            int flag = (!is_known && !found) || get(&c, zero);
            found |= (uint32_t)flag, l.num += flag;
        }
        if (!found) continue;
        l.is_hidden = hides && 31 - __builtin_clz(found) - __builtin_ctz(found) > 3;
        l.context_set = (i && !is_chroma ? 2 : 0) + (i < last && greater1 == 0);
        greater1 = skip_levels(&c, contexts, &l);
        if (greater1 < 0) {
            s->is_bad = 1;
            break;
        }
    }
    s->cabac = c;
}

/* ---- transform tree (7.3.8.8 to 7.3.8.10, 7.3.8.12, 7.3.8.14) ---- */

/* An Exponential Golomb code of order k without contexts (9.3.3.3), of at most 16 bits. */
static int exp_golomb(Hevc *s, int k) {
    uint32_t bins = peek(&s->cabac, MOST_BINS);
    int prefix = leading_ones(bins);
    if (prefix + k > MOST_BINS - 1) {
        s->is_bad = 1;
        return 0;
    }
    consume(&s->cabac, prefix + 1, bins >> (MOST_BINS - prefix - 1));
    return (int)((((1u << prefix) - 1) << k) + bypass_bits(&s->cabac, prefix + k));
}

static int bin(Hevc *s, int context) { return get(&s->cabac, s->now.contexts + context); }

static void read_qp_delta(Hevc *s) {
    int size = 0, half = 3 * (s->sps.depth - 8);
    while (size < 5 && bin(s, CTX_QP_DELTA + (size > 0))) size++;
    if (size == 5) size += exp_golomb(s, 0);
    int is_negative = size && bypass(&s->cabac);
    s->is_bad |= size > (is_negative ? 26 : 25) + half;
    s->has_qp_delta = 1;
}

static void read_chroma_qp(Hevc *s) {
    if (bin(s, CTX_CHROMA_QP))
        for (int i = 0; i < s->pps.num_chroma_qp - 1 && bin(s, CTX_CHROMA_QP + 1);) i++;
    s->has_chroma_qp = 1;
}

static void skip_chroma(Hevc *s, int log2_size, int part, int has_luma, const int *coded) {
    const Unit *u = &s->unit;
    if (s->sps.chroma != 3) part = 0;
    int is_crossed = s->pps.has_cross_component && has_luma && (!u->is_intra || u->is_derived[part]);
    for (int component = 1; component <= 2; component++) {
        if (is_crossed) {
            int i = 0, at = CTX_RES_SCALE + 4 * (component - 1);
            while (i < 4 && bin(s, at + i)) i++;
            if (i) bin(s, CTX_RES_SIGN + component - 1);
        }
        for (int i = 0; i < 2; i++)
            if (coded[component - 1] >> i & 1) skip_residual(s, log2_size, component, u->chroma_modes[part]);
    }
}

static void skip_transform_unit(Hevc *s, int log2_size, int block, int part, int has_luma, const int *coded) {
    int has_chroma = coded[0] || coded[1];
    if (!has_luma && !has_chroma) return;
    if (s->pps.has_qp_delta && !s->has_qp_delta) read_qp_delta(s);
    if (s->slice.has_chroma_qp && has_chroma && !s->unit.is_bypass && !s->has_chroma_qp) read_chroma_qp(s);
    if (has_luma) skip_residual(s, log2_size, 0, s->unit.modes[part]);
    if (!s->sps.chroma) return;
    if (log2_size > 2 || s->sps.chroma == 3)
        skip_chroma(s, log2_size - (s->sps.chroma != 3), part, has_luma, coded);
    else if (block == 3) /* four blocks of luma share one of chroma */
        skip_chroma(s, 2, part, 0, coded);
}

/* `coded` says for Cb and Cr which of their (at 4:2:2 two) blocks above in the tree have residuals. */
static void skip_transform_tree(Hevc *s, int log2_size, int depth, int block, int part, const int *coded) {
    const Sps *sps = &s->sps;
    const Unit *u = &s->unit;
    int is_split = log2_size > sps->log2_max_tb || (depth == 0 && (u->is_split || u->splits_inter));
    if (log2_size <= sps->log2_max_tb && log2_size > sps->log2_min_tb && depth < u->max_depth &&
        !(u->is_split && depth == 0))
        is_split = bin(s, CTX_SPLIT_TRANSFORM + 5 - log2_size);
    int own[2] = {coded[0], coded[1]};
    if (sps->chroma && (log2_size > 2 || sps->chroma == 3)) {
        int are_two = sps->chroma == 2 && (!is_split || log2_size == 3);
        for (int i = 0; i < 2; i++) {
            if (depth && !coded[i]) continue;
            own[i] = bin(s, CTX_CBF_CHROMA + depth);
            if (are_two) own[i] |= bin(s, CTX_CBF_CHROMA + depth) << 1;
        }
    }
    if (u->is_split && depth == 1) part = block;
    if (is_split) {
        for (int i = 0; i < 4; i++) skip_transform_tree(s, log2_size - 1, depth + 1, i, part, own);
        return;
    }
    int has_luma = 1;
    if (u->is_intra || depth || own[0] || own[1]) has_luma = bin(s, CTX_CBF_LUMA + !depth);
    skip_transform_unit(s, log2_size, block, part, has_luma, own);
}

/* ---- prediction (7.3.8.5, 7.3.8.6, 7.3.8.9, 8.4.2, 8.4.3) ---- */

static void skip_merge_index(Hevc *s) {
    if (s->slice.num_merge > 1 && bin(s, CTX_MERGE_IDX))
        for (int i = 2; i < s->slice.num_merge && bypass(&s->cabac);) i++;
}

static void skip_reference(Hevc *s, int list) {
    int most = s->slice.num_refs[list] - 1, i = 0;
    while (i < most && (i < 2 ? bin(s, CTX_REF_IDX + i) : bypass(&s->cabac))) i++;
}

static void skip_mvd(Hevc *s) {
    int is_large[2], is_larger[2];
    for (int i = 0; i < 2; i++) is_large[i] = bin(s, CTX_MVD);
    for (int i = 0; i < 2; i++) is_larger[i] = is_large[i] && bin(s, CTX_MVD + 1);
    for (int i = 0; i < 2; i++) {
        if (is_larger[i]) exp_golomb(s, 1);
        if (is_large[i]) bypass(&s->cabac);
    }
}

/* Returns whether the motion is merged. */
static int skip_prediction(Hevc *s, int depth, int is_small) {
    int uses[2] = {1, 0};
    if (bin(s, CTX_MERGE)) {
        skip_merge_index(s);
        return 1;
    }
    if (s->slice.type == B_SLICE) {
        uses[1] = !is_small && bin(s, CTX_INTER_PRED + depth);
        if (!uses[1]) uses[1] = bin(s, CTX_INTER_PRED + 4), uses[0] = !uses[1];
    }
    for (int list = 0; list < 2; list++) {
        if (!uses[list]) continue;
        skip_reference(s, list);
        if (!(list && uses[0] && s->slice.zero_mvd_l1)) skip_mvd(s);
        bin(s, CTX_MVP);
    }
    return 0;
}

static void set_modes(Hevc *s, int x, int y, int log2_size, int mode) {
    memset(s->modes_above + (x >> 2 & 15), mode, (size_t)1 << (log2_size - 2));
    memset(s->modes_left + (y >> 2 & 15), mode, (size_t)1 << (log2_size - 2));
}

static int mode_of(int left, int above, int is_candidate, int value) {
    int modes[3] = {left, above, VERTICAL};
    if (left != above) {
        modes[2] = left != PLANAR && above != PLANAR ? PLANAR : left != DC && above != DC ? DC : VERTICAL;
    } else if (left < 2) {
        modes[0] = PLANAR, modes[1] = DC;
    } else {
        modes[1] = 2 + ((left + 29) & 31), modes[2] = 2 + ((left - 1) & 31);
    }
    if (is_candidate) return modes[value];
    for (int i = 0; i < 3; i++) /* the candidates in their order are left out */
        for (int j = i + 1; j < 3; j++)
            if (modes[j] < modes[i]) {
                int larger = modes[i];
                modes[i] = modes[j], modes[j] = larger;
            }
    for (int i = 0; i < 3; i++) value += value >= modes[i];
    return value;
}

static void read_chroma_mode(Hevc *s, int part) {
    static const uint8_t MODES[4] = {PLANAR, VERTICAL, HORIZONTAL, DC};
    Unit *u = &s->unit;
    int mode = u->modes[part];
    u->is_derived[part] = !bin(s, CTX_CHROMA_MODE);
    if (!u->is_derived[part]) {
        int other = MODES[bypass_bits(&s->cabac, 2)];
        mode = other == mode ? LAST_MODE : other;
    }
    u->chroma_modes[part] = s->sps.chroma == 2 ? MODE_422[mode] : mode;
}

static void read_intra(Hevc *s, int x, int y) {
    Unit *u = &s->unit;
    int num_parts = u->is_split ? 4 : 1, log2_part = u->log2_size - u->is_split, is_candidate[4];
    for (int i = 0; i < num_parts; i++) is_candidate[i] = bin(s, CTX_MPM);
    for (int i = 0; i < num_parts; i++) {
        int part_x = x + ((i & 1) << log2_part), part_y = y + ((i >> 1) << log2_part), value;
        if (is_candidate[i])
            value = bypass(&s->cabac) ? 1 + bypass(&s->cabac) : 0;
        else
            value = (int)bypass_bits(&s->cabac, 5);
        int left = s->modes_left[part_y >> 2 & 15], above = s->modes_above[part_x >> 2 & 15];
        u->modes[i] = mode_of(left, above, is_candidate[i], value);
        set_modes(s, part_x, part_y, log2_part, u->modes[i]);
    }
    if (s->sps.chroma)
        for (int i = 0; i < (s->sps.chroma == 3 ? num_parts : 1); i++) read_chroma_mode(s, i);
}

/* ---- coding units (7.3.8.5, 7.3.8.7) ---- */

enum { WHOLE, TWO_PARTS, FOUR_PARTS };

static int read_parts(Hevc *s) { /* 9.3.3.7 */
    int log2_size = s->unit.log2_size, is_smallest = log2_size == s->sps.log2_min_cb;
    if (s->unit.is_intra) return !is_smallest || bin(s, CTX_PART_MODE) ? WHOLE : FOUR_PARTS;
    if (bin(s, CTX_PART_MODE)) return WHOLE;
    int are_rows = bin(s, CTX_PART_MODE + 1);
    if (is_smallest) return are_rows || log2_size == 3 || bin(s, CTX_PART_MODE + 2) ? TWO_PARTS : FOUR_PARTS;
    if (s->sps.has_amp && !bin(s, CTX_PART_MODE + 3)) bypass(&s->cabac);
    return TWO_PARTS;
}

static void skip_pcm(Hevc *s, int log2_size) {
    const Sps *sps = &s->sps;
    int64_t num_pixels = (int64_t)1 << 2 * log2_size, num_bits = num_pixels * sps->pcm_bits;
    if (sps->chroma) num_bits += 2 * (num_pixels >> (sps->chroma == 1 ? 2 : sps->chroma == 2)) * sps->pcm_chroma_bits;
    size_t at = next_byte(&s->cabac), num_bytes = (size_t)(num_bits + 7) >> 3;
    if (!at || num_bytes > s->size - at)
        s->is_bad = 1;
    else
        start(&s->cabac, at + num_bytes);
}

/* Parts with their prediction. Returns whether a residual may follow that a flag announces. */
static int skip_inter(Hevc *s, int x, int y, int depth) {
    Unit *u = &s->unit;
    int parts = read_parts(s), num_parts = parts == WHOLE ? 1 : parts == TWO_PARTS ? 2 : 4, is_merged = 0;
    set_modes(s, x, y, u->log2_size, DC);
    for (int i = 0; i < num_parts; i++)
        is_merged = skip_prediction(s, depth, parts != WHOLE && u->log2_size == 3);
    u->splits_inter = parts != WHOLE && !s->sps.depth_inter;
    u->max_depth = s->sps.depth_inter;
    return !(is_merged && parts == WHOLE);
}

static void skip_unit(Hevc *s, int x, int y, int log2_size, int depth) {
    static const int NOT_CODED[2];
    const Sps *sps = &s->sps;
    Unit *u = &s->unit;
    uint8_t *above = s->above + (x >> 3), *left = s->left + (y >> 3 & 7);
    u->log2_size = log2_size, u->is_split = u->splits_inter = 0;
    u->is_bypass = s->pps.has_bypass && bin(s, CTX_BYPASS);
    int is_inter_slice = s->slice.type != I_SLICE;
    int is_skipped = is_inter_slice && bin(s, CTX_SKIP + (*above >> 2) + (*left >> 2));
    memset(above, depth + 4 * is_skipped, (size_t)1 << (log2_size - 3));
    memset(left, depth + 4 * is_skipped, (size_t)1 << (log2_size - 3));
    if (is_skipped) {
        set_modes(s, x, y, log2_size, DC);
        skip_merge_index(s);
        return;
    }
    u->is_intra = !is_inter_slice || bin(s, CTX_PRED_MODE);
    if (!u->is_intra) {
        if (skip_inter(s, x, y, depth) && !bin(s, CTX_ROOT_CBF)) return;
    } else {
        u->is_split = read_parts(s) != WHOLE;
        int may_be_pcm = sps->has_pcm && !u->is_split;
        if (may_be_pcm && log2_size >= sps->log2_min_pcm && log2_size <= sps->log2_max_pcm &&
            terminates(&s->cabac)) {
            set_modes(s, x, y, log2_size, DC);
            skip_pcm(s, log2_size);
            return;
        }
        read_intra(s, x, y);
        u->max_depth = sps->depth_intra + u->is_split;
    }
    skip_transform_tree(s, log2_size, 0, 0, 0, NOT_CODED);
}

static void skip_quadtree(Hevc *s, int x, int y, int log2_size, int depth) { /* 7.3.8.4 */
    const Sps *sps = &s->sps;
    int side = 1 << log2_size, is_split = log2_size > sps->log2_min_cb;
    if (is_split && x + side <= sps->width && y + side <= sps->height) {
        int deeper_left = (s->left[y >> 3 & 7] & 3) > depth, deeper_above = (s->above[x >> 3] & 3) > depth;
        is_split = bin(s, CTX_SPLIT_CU + deeper_left + deeper_above);
    }
    if (log2_size >= sps->log2_ctb - s->pps.qp_delta_depth) s->has_qp_delta = 0;
    if (log2_size >= sps->log2_ctb - s->pps.chroma_qp_depth) s->has_chroma_qp = 0;
    if (!is_split) {
        skip_unit(s, x, y, log2_size, depth);
        return;
    }
    side >>= 1;
    for (int i = 0; i < 4 && !s->is_bad; i++) {
        int part_x = x + (i & 1) * side, part_y = y + (i >> 1) * side;
        if (part_x < sps->width && part_y < sps->height) skip_quadtree(s, part_x, part_y, log2_size - 1, depth + 1);
    }
}

/* ---- tree blocks and slices (7.3.8.1 to 7.3.8.3) ---- */

static void skip_sao_of(Hevc *s, int component, int *type) {
    Cabac *c = &s->cabac;
    int depth = component ? s->sps.chroma_depth : s->sps.depth, num_signs = 0;
    int most = (1 << ((depth < 10 ? depth : 10) - 5)) - 1;
    if (component < 2) *type = bin(s, CTX_SAO_TYPE) ? 1 + bypass(c) : 0;
    if (!*type) return;
    for (int i = 0; i < 4; i++) {
        int value = 0;
        while (value < most && bypass(c)) value++;
        num_signs += value > 0;
    }
    if (*type == 1)
        bypass_bits(c, num_signs), bypass_bits(c, 5);
    else if (component < 2)
        bypass_bits(c, 2);
}

static void skip_sao(Hevc *s, int has_left, int has_above) {
    const int *has = s->slice.has_sao;
    int type = 0;
    if (!has[0] && !has[1]) return;
    if ((has_left && bin(s, CTX_SAO_MERGE)) || (has_above && bin(s, CTX_SAO_MERGE))) return;
    for (int i = 0; i < (s->sps.chroma ? 3 : 1); i++)
        if (has[i > 0]) skip_sao_of(s, i, &type);
}

static int are_together(const Hevc *s, int a, int b) {
    return s->slice_of[a] == s->slice_of[b] && s->tile_of[a] == s->tile_of[b];
}

static void skip_ctb(Hevc *s, int at) {
    int log2_ctb = s->sps.log2_ctb, x = at % s->width, y = at / s->width;
    int has_left = x > 0 && are_together(s, at, at - 1);
    int has_above = y > 0 && are_together(s, at, at - s->width);
    int num_8 = 1 << (log2_ctb - 3), x_8 = x * num_8, most = (s->sps.width + 7) / 8 - x_8;
    if (!has_left) memset(s->left, 0, sizeof s->left), memset(s->modes_left, DC, sizeof s->modes_left);
    if (!has_above) memset(s->above + x_8, 0, (size_t)(num_8 < most ? num_8 : most));
    /* Modes are not predicted from the row of tree blocks above (8.4.2). */
    memset(s->modes_above, DC, sizeof s->modes_above);
    skip_sao(s, has_left, has_above);
    skip_quadtree(s, x << log2_ctb, y << log2_ctb, log2_ctb, 0);
}

static int is_first_of_row(const Hevc *s, int at) {
    return at % s->width == 0 || s->tile_of[at] != s->tile_of[at - 1];
}

/* What the arithmetic decoder knows where it begins (9.3.1). */
static void start_adaptive(Hevc *s, int at, int is_first_of_tile) {
    if (is_first_of_tile) {
        reset(s);
    } else if (s->pps.has_rows && is_first_of_row(s, at)) {
        int above = at - s->width + 1;
        if (at >= s->width && above % s->width && are_together(s, at, above))
            s->now = s->after_two;
        else
            reset(s);
    } else if (s->slice.is_dependent) {
        s->now = s->after_slice;
    } else {
        reset(s);
    }
}

/* Goes to the next piece of a slice. The header tells where it begins (entry points), but decoders
 * can do without, so some encoders (Kvazaar) count more pieces than there are. */
static int next_piece(Hevc *s) {
    size_t at = terminates(&s->cabac) ? next_byte(&s->cabac) : 0;
    if (!at) return BAD_END;
    start(&s->cabac, at);
    return SOUND;
}

/* Behind a slice there may be only zeros: cabac_zero_words, and zeros before a start code. */
static int ends(const Hevc *s) {
    size_t at = next_byte(&s->cabac);
    while (at && at < s->size && !s->data[at]) at++;
    return at == s->size;
}

static int skip_slice_data(Hevc *s) {
    int is_first = 1, in_order = s->next;
    s->cabac.data = s->data, s->cabac.size = s->size, s->cabac.inverses = s->inverses;
    start(&s->cabac, s->slice.data_at);
    s->is_bad = 0;
    for (;; is_first = 0) {
        int at = s->to_raster[in_order];
        s->slice_of[at] = s->slice_address;
        int is_first_of_tile = !in_order || s->tile_of[at] != s->tile_of[s->to_raster[in_order - 1]];
        int is_piece = is_first_of_tile || (s->pps.has_rows && is_first_of_row(s, at));
        if (is_piece && !is_first) {
            int error = next_piece(s);
            if (error) return error;
        }
        if (is_piece || is_first) start_adaptive(s, at, is_first_of_tile);
        skip_ctb(s, at);
        if (s->is_bad) return BAD_CODE;
        if (has_overrun(&s->cabac)) return BAD_END;
        if (s->pps.has_rows && !is_first_of_row(s, at) && is_first_of_row(s, at - 1)) s->after_two = s->now;
        in_order++;
        if (terminates(&s->cabac)) break; /* end_of_slice_segment_flag */
        if (in_order == s->num_ctbs) return BAD_END;
    }
    s->after_slice = s->now;
    s->next = in_order;
    return ends(s) ? SOUND : BAD_END;
}

/* ---- units (7.3.1, B.2) ---- */

static int reserve(Hevc *s, size_t size) {
    if (size <= s->capacity) return 1;
    free(s->data);
    s->data = malloc(size + size / 2 + PADDING);
    s->capacity = s->data ? size + size / 2 : 0;
    return s->data != NULL;
}

/* Copies a unit without the threes that keep start codes out of it (7.3.1.1). */
static int unpack(Hevc *s, const uint8_t *data, size_t size) {
    const uint8_t *end = data + size;
    s->size = 0;
    if (!reserve(s, size)) return OUT_OF_MEMORY;
    while (data < end) {
        const uint8_t *zeros = data;
        while ((zeros = memchr(zeros, 0, (size_t)(end - zeros))) && end - zeros >= 3 &&
               (zeros[1] || zeros[2] != 3))
            zeros++;
        int is_escaped = zeros && end - zeros >= 3;
        const uint8_t *stop = is_escaped ? zeros + 2 : end;
        memcpy(s->data + s->size, data, (size_t)(stop - data));
        s->size += (size_t)(stop - data);
        data = stop + is_escaped;
    }
    memset(s->data + s->size, 0, PADDING);
    return SOUND;
}

static int take_sps(Hevc *s, Bits *b) {
    Sps sps;
    int id = read_sps(b, &sps);
    if (id < 0) return BAD_SET;
    s->all_sps[id] = sps, s->laid_out = -1;
    return SOUND;
}

static int take_pps(Hevc *s, Bits *b) {
    Pps pps;
    int id = read_pps(b, &pps);
    if (id < 0) return BAD_SET;
    s->all_pps[id] = pps, s->laid_out = -1;
    return SOUND;
}

static int take_slice(Hevc *s, Bits *b, int type) {
    Slice *h = &s->slice;
    uint32_t poc = h->poc;
    int is_first = bit(b);
    if (type >= BLA_W_LP) bit(b); /* no_output_of_prior_pics_flag */
    uint32_t pps = ue(b);
    if (pps >= MAX_PPS || !s->all_pps[pps].is_known || !s->all_sps[s->all_pps[pps].sps].is_known) return BAD_HEADER;
    if (!s->all_pps[pps].is_parsed || !s->all_sps[s->all_pps[pps].sps].is_parsed) return UNPARSED;
    if (is_first != (s->next < 0)) return BAD_ORDER;
    if (is_first) {
        int error = start_picture(s, (int)pps);
        if (error) return error;
        s->unit_type = type, h->pps = (int)pps;
    } else if ((int)pps != h->pps || type != s->unit_type) {
        return BAD_ORDER;
    }
    h->is_first = is_first;
    int error = read_slice(b, type, &s->sps, &s->pps, (uint32_t)s->num_ctbs, h);
    if (error) return error;
    if (s->to_tile_order[h->address] != s->next || (!is_first && h->poc != poc)) return BAD_ORDER;
    if (!h->is_dependent) s->slice_address = (int32_t)h->address;
    return skip_slice_data(s);
}

static int take_unit(Hevc *s, const uint8_t *data, size_t size, int *num_pictures) {
    if (!size) return SOUND;
    if (size < 2 || data[0] & 0x80 || !(data[1] & 7)) return BAD_UNIT;
    int type = data[0] >> 1, layer = (data[0] & 1) << 5 | data[1] >> 3;
    int is_slice = type <= RASL_R || (type >= BLA_W_LP && type <= LAST_IRAP);
    if (layer || !(is_slice || type == UNIT_SPS || type == UNIT_PPS)) return SOUND;
    int error = unpack(s, data, size);
    if (error) return error;
    Bits b = {s->data, 8 * s->size, 16};
    if (type == UNIT_SPS) return take_sps(s, &b);
    if (type == UNIT_PPS) return take_pps(s, &b);
    error = take_slice(s, &b, type);
    if (!error && s->next == s->num_ctbs) s->next = -1, ++*num_pictures;
    return error;
}

/* Units with their size before them, as in MP4 and Matroska (ISO/IEC 14496-15). */
static int take_sized_units(Hevc *s, const uint8_t *data, size_t size, int num_length_bytes, int *num_pictures) {
    size_t at = 0;
    int error = SOUND;
    while (!error && size - at > (size_t)num_length_bytes) {
        size_t length = 0;
        for (int i = 0; i < num_length_bytes; i++) length = length << 8 | data[at++];
        if (length > size - at) return BAD_UNIT;
        error = take_unit(s, data + at, length, num_pictures);
        at += length;
    }
    return error;
}

/* The next start code, or the end (B.2). */
static size_t next_start_code(const uint8_t *data, size_t size, size_t at) {
    for (; at + 3 <= size; at++) {
        const uint8_t *zero = memchr(data + at, 0, size - at - 2);
        if (!zero) return size;
        at = (size_t)(zero - data);
        if (!data[at + 1] && data[at + 2] == 1) return at;
    }
    return size;
}

/* Units with start codes between them, as in transport streams. */
static int take_marked_units(Hevc *s, const uint8_t *data, size_t size, int *num_pictures) {
    int error = SOUND;
    size_t at = next_start_code(data, size, 0);
    while (!error && at < size) {
        size_t end = next_start_code(data, size, at + 3), start_at = at + 3, stop = end;
        while (stop > start_at && !data[stop - 1]) stop--; /* zeros that belong to no unit */
        error = take_unit(s, data + start_at, stop - start_at, num_pictures);
        at = end;
    }
    return error;
}

/* Reads the parameter sets of a file (`hvcC`, or units with start codes). Returns SOUND, a sign of
 * damage or another reason (a negative number) not to parse the file. */
int lafp_hevc_read_sets(Hevc *s, const uint8_t *data, size_t size) {
    int num_pictures = 0, error = SOUND;
    s->next = -1, s->num_length_bytes = 0;
    if (size < 23 || data[0] != 1) {
        error = take_marked_units(s, data, size, &num_pictures);
    } else {
        size_t at = 23;
        s->num_length_bytes = 1 + (data[21] & 3);
        for (int i = 0; i < data[22] && !error && size - at >= 3; i++) {
            int count = data[at + 1] << 8 | data[at + 2];
            at += 3;
            for (; count > 0 && !error && size - at >= 2; count--) {
                size_t length = (size_t)(data[at] << 8 | data[at + 1]);
                at += 2;
                if (length > size - at) return BAD_UNIT;
                error = take_unit(s, data + at, length, &num_pictures);
                at += length;
            }
        }
    }
    for (int i = 0; i < MAX_PPS && !error; i++) {
        const Pps *pps = &s->all_pps[i];
        if (pps->is_known && !(pps->is_parsed && s->all_sps[pps->sps].is_parsed)) error = UNPARSED;
    }
    return error;
}

/* Parses a packet: pictures and all that comes with them. Returns SOUND, a sign of damage, or a
 * negative number if it is not known. */
int lafp_hevc_parse(Hevc *s, const uint8_t *data, size_t size) {
    int num_pictures = 0, error;
    s->next = -1;
    error = s->num_length_bytes ? take_sized_units(s, data, size, s->num_length_bytes, &num_pictures)
                                : take_marked_units(s, data, size, &num_pictures);
    if (!error && (s->next >= 0 || !num_pictures)) error = BAD_ORDER;
    return error;
}
