/* Parses the coefficients of HEVC's transform blocks (ITU-T H.265, 7.3.8.11).
 *
 * Most of the time goes here. So a block has a reader of its own, which stays in registers.
 */

#include "hevc_state.h"

typedef struct {
    int log2_size, is_chroma, scan;
    int last, start;         /* the last sub-block, and the last coefficient in it */
    int has_one_context;     /* for all of sig_coeff_flag (transform_skip_context_enabled_flag) */
    int hides_signs;
    uint8_t *rice;           /* NULL without persistent_rice_adaptation_enabled_flag */
    int num, is_sign_hidden; /* of a sub-block: significant coefficients; a sign is not coded */
    int greater1;            /* greater1Ctx after the last sub-block */
} Residual;

/* ---- levels ---- */

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

/* StatCoeff (9.3.4.2.6). */
static void adapt_rice(uint8_t *rice, int level) {
    if (level >= 3 << (*rice / 4)) {
        if (*rice < 4 * MOST_BINS) ++*rice;
    } else if (2 * level < 1 << (*rice / 4) && *rice > 0) {
        --*rice;
    }
}

/* The levels of the sub-block's coefficients. Returns 0 if one is impossible. */
static inline int skip_levels(Cabac *c, Context *contexts, Residual *r, int context_set) {
    static const uint8_t NEXT_GREATER1[4][2] = {{0, 0}, {2, 0}, {3, 0}, {3, 0}};
    Context *greater1 = contexts + CTX_GREATER1 + 16 * r->is_chroma + 4 * context_set;
    int num_flags = r->num < 8 ? r->num : 8, first = -1, rice = r->rice ? *r->rice / 4 : 0;
    uint32_t open = ((1u << r->num) - 1) & ~0xFFu; /* those with more to come */
    r->greater1 = 1;
    for (int i = 0; i < num_flags; i++) {
        int flag = get(c, greater1 + r->greater1);
        open |= (uint32_t)flag << i;
        r->greater1 = NEXT_GREATER1[r->greater1][flag];
    }
    if (open & 0xFF) {
        first = __builtin_ctz(open);
        if (!get(c, contexts + CTX_GREATER2 + 4 * r->is_chroma + context_set)) open ^= 1u << first;
    }
    int num_signs = r->num - r->is_sign_hidden;
    consume(c, num_signs, peek(c, num_signs));
    for (uint8_t *adapts = r->rice; open; open &= open - 1) {
        int i = __builtin_ctz(open), level = remaining(c, rice);
        if (level < 0) return 0;
        if (adapts) adapt_rice(adapts, level), adapts = NULL;
        level += i >= 8 ? 1 : i == first ? 3 : 2;
        if (level > 3 << rice && rice < (r->rice ? MOST_BINS : 4)) rice++;
    }
    return 1;
}

/* ---- which coefficients are significant ---- */

static int last_prefix(Cabac *c, Context *contexts, const Residual *r) {
    int size = r->log2_size, shift = r->is_chroma ? size - 2 : (size + 1) >> 2, i = 0;
    contexts += r->is_chroma ? 15 : 3 * (size - 2) + ((size - 1) >> 2);
    while (i < 2 * size - 1 && get(c, contexts + (i >> shift))) i++;
    return i;
}

static int last_position(Cabac *c, int prefix) {
    if (prefix < 4) return prefix;
    int count = (prefix >> 1) - 1;
    return (int)((2u + (prefix & 1)) << count | bypass_bits(c, count));
}

static void read_last(const Hevc *s, Cabac *c, Context *contexts, Residual *r) {
    int x = last_prefix(c, contexts + CTX_LAST_X, r), y = last_prefix(c, contexts + CTX_LAST_Y, r);
    x = last_position(c, x), y = last_position(c, y);
    if (r->scan == VERTICAL_SCAN) {
        int old_x = x;
        x = y, y = old_x;
    }
    r->last = s->places[r->scan][r->log2_size - 2][(x >> 2) + 8 * (y >> 2)];
    r->start = s->places[r->scan][2][(x & 3) + 8 * (y & 3)];
}

/* Where the contexts of sig_coeff_flag begin, but for the one of the block's first coefficient. */
static int sig_offset(const Residual *r, int is_first) {
    if (r->has_one_context) return 42 + r->is_chroma;
    if (r->log2_size == 2) return 27 * r->is_chroma;
    if (r->is_chroma) return 27 + (r->log2_size == 3 ? 9 : 12);
    return (is_first ? 0 : 3) + (r->log2_size == 3 ? (r->scan == DIAGONAL_SCAN ? 9 : 15) : 21);
}

/* Returns a bit for each coefficient of sub-block `i` that is not zero. */
static inline uint32_t significant(const Hevc *s, Cabac *c, Context *contexts, Residual *r, int i,
                                   int neighbours) {
    static const uint8_t OF_ONE_CONTEXT[16];
    Context *sig = contexts + CTX_SIG_COEFF + sig_offset(r, i == 0);
    const uint8_t *numbers = s->sig_contexts[r->scan][r->log2_size == 2 ? 4 : neighbours];
    if (r->has_one_context) numbers = OF_ONE_CONTEXT;
    int is_last = i == r->last;
    uint32_t found = is_last ? 1u << r->start : 0;
    r->num = is_last;
    for (int n = is_last ? r->start - 1 : 15; n > 0; n--) {
        int flag = get(c, sig + numbers[n]);
        found |= (uint32_t)flag << n, r->num += flag;
    }
    if (is_last && r->start == 0) return found;
    /* A sub-block whose flag was coded has at least one. */
    int is_inferred = !is_last && i > 0 && !found;
    Context *zero = contexts + CTX_SIG_COEFF + 27 * r->is_chroma;
    if (i > 0 || r->has_one_context) zero = sig + numbers[0];
    int flag = is_inferred || get(c, zero);
    r->num += flag;
    return found | (uint32_t)flag;
}

/* ---- blocks ---- */

static int scan_of(const Hevc *s, int log2_size, int is_chroma, int mode) { /* 7.4.9.11 */
    int depends = log2_size == 2 || (log2_size == 3 && (!is_chroma || s->sps.chroma == 3));
    if (!s->unit.is_intra || !depends) return DIAGONAL_SCAN;
    if (mode >= 6 && mode <= 14) return VERTICAL_SCAN;
    return mode >= 22 && mode <= 30 ? HORIZONTAL_SCAN : DIAGONAL_SCAN;
}

/* Reads the flags before the coefficients. */
static Residual start_residual(Hevc *s, Cabac *c, int log2_size, int is_chroma, int mode) {
    const Sps *sps = &s->sps;
    const Unit *u = &s->unit;
    Context *contexts = s->now.contexts;
    Residual r = {.log2_size = log2_size, .is_chroma = is_chroma, .greater1 = 1};
    int is_skipped = 0, is_explicit = 0;
    if (s->pps.has_transform_skip && !u->is_bypass && log2_size <= s->pps.log2_max_skip)
        is_skipped = get(c, contexts + CTX_TRANSFORM_SKIP + is_chroma);
    int is_raw = is_skipped || u->is_bypass;
    if (!u->is_intra && sps->explicit_rdpcm && is_raw) {
        is_explicit = get(c, contexts + CTX_RDPCM + is_chroma);
        if (is_explicit) get(c, contexts + CTX_RDPCM + 2 + is_chroma);
    }
    int is_straight = mode == HORIZONTAL || mode == VERTICAL;
    int is_implicit = u->is_intra && sps->implicit_rdpcm && is_skipped && is_straight;
    r.scan = scan_of(s, log2_size, is_chroma, mode);
    r.has_one_context = sps->skip_context && is_raw;
    r.hides_signs = s->pps.hides_signs && !u->is_bypass && !is_implicit && !is_explicit;
    if (sps->has_rice) r.rice = &s->now.rice[2 * !is_chroma + is_raw];
    return r;
}

static void skip_residual(Hevc *s, int log2_size, int component, int mode) {
    Context *contexts = s->now.contexts;
    Cabac c = s->cabac;
    Residual r = start_residual(s, &c, log2_size, component > 0, mode);
    uint8_t coded[9] = {0}; /* sub-blocks, a bit each */
    read_last(s, &c, contexts, &r);
    for (int i = r.last; i >= 0; i--) {
        int at = s->scans[r.scan][log2_size - 2][i], x = at & 7, y = at >> 3;
        int neighbours = (coded[y] >> (x + 1) & 1) | (coded[y + 1] >> x & 1) << 1;
        Context *flag = contexts + CTX_CODED_SUB_BLOCK + 2 * r.is_chroma + (neighbours > 0);
        if (i < r.last && i > 0 && !get(&c, flag)) continue;
        coded[y] |= (uint8_t)(1 << x);
        uint32_t found = significant(s, &c, contexts, &r, i, neighbours);
        if (!found) continue;
        int distance = 31 - __builtin_clz(found) - __builtin_ctz(found);
        r.is_sign_hidden = r.hides_signs && distance > 3;
        int context_set = (i && !r.is_chroma ? 2 : 0) + (i < r.last && r.greater1 == 0);
        if (!skip_levels(&c, contexts, &r, context_set)) {
            s->is_bad = 1;
            break;
        }
    }
    s->cabac = c;
}
