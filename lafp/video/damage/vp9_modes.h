/* What a block of VP9 holds but for its coefficients: its segment, modes and motion vectors, and the
 * contexts in which they are coded. The numbers are sections of the specification.
 */

#include "vp9_headers.h"

/* ---- segments, and modes within a picture (6.4) ---- */

static int read_segment(Vp9 *s, Tile *t, Block *b) {
    const Segments *g = &s->segments;
    if (!g->enabled) return 0;
    size_t first = (size_t)b->row * s->width + b->col;
    int predicted = 7;
    for (int y = 0; y < b->num_rows; y++)
        for (int x = 0; x < b->num_cols; x++) {
            int id = s->old_segment_ids[first + (size_t)y * s->width + x];
            if (id < predicted) predicted = id;
        }
    if (!g->has_map) {
        for (int y = 0; y < b->num_rows; y++) {
            size_t at = first + (size_t)y * s->width;
            memcpy(s->segment_ids + at, s->old_segment_ids + at, (size_t)b->num_cols);
        }
        return s->header.is_intra ? 0 : predicted;
    }
    if (!s->header.is_intra && g->is_temporal) {
        int context = (b->above && b->above->is_predicted) + (b->left && b->left->is_predicted);
        b->is_predicted = get(&t->r, g->predicted_probs[context]);
    }
    int id = b->is_predicted ? predicted : tree(&t->r, SEGMENT_TREE, g->tree_probs);
    for (int y = 0; y < b->num_rows; y++)
        memset(s->segment_ids + first + (size_t)y * s->width, id, (size_t)b->num_cols);
    return id;
}

static int read_skips(Vp9 *s, Tile *t, const Block *b) {
    if (s->segments.enabled && s->segments.skips[b->segment]) return 1;
    int context = (b->above && b->above->skips) + (b->left && b->left->skips);
    int skips = get(&t->r, s->probs.skip[context]);
    s->counts.skip[context][skips]++;
    return skips;
}

static int read_tx(Vp9 *s, Tile *t, const Block *b, int may_choose) {
    int largest = LARGEST_TRANSFORM[b->size], mode = s->header.tx_mode;
    if (!may_choose || mode < 4 || b->size < 3) return mode < largest ? mode : largest;
    int above = b->above && !b->above->skips ? b->above->tx : largest;
    int left = b->left && !b->left->skips ? b->left->tx : largest;
    if (!b->left) left = above;
    if (!b->above) above = left;
    int context = above + left > largest, tx = 0;
    const uint8_t *probs = s->probs.tx[largest - 1][context];
    while (tx < largest && get(&t->r, probs[tx])) tx++;
    s->counts.tx[largest - 1][context][tx]++;
    return tx;
}

/* 4x4 blocks of which one mode or vector holds, across and down. */
static int step_across(const Block *b) { return b->size < 3 && !WIDTH_LOG2[b->size] ? 1 : 2; }
static int step_down(const Block *b) { return b->size < 3 && !HEIGHT_LOG2[b->size] ? 1 : 2; }

/* Says whether the 4x4 block k belongs to the part that begins at i. */
static int is_in_part(const Block *b, int i, int k) {
    int down = (k >> 1) - (i >> 1), across = (k & 1) - (i & 1);
    return down >= 0 && down < step_down(b) && across >= 0 && across < step_across(b);
}

static void set_mode(Block *b, int i, int mode) {
    for (int k = i; k < 4; k++)
        if (is_in_part(b, i, k)) b->modes[k] = (uint8_t)mode;
}

static void read_key_modes(Tile *t, Block *b) {
    int across = step_across(b), down = step_down(b);
    for (int y = 0; y < 2; y += down)
        for (int x = 0; x < 2; x += across) {
            int i = 2 * y + x;
            int above = y ? b->modes[i - 2] : b->above ? b->above->modes[x] : DC_PRED;
            int left = x ? b->modes[i - 1] : b->left ? b->left->modes[y] : DC_PRED;
            set_mode(b, i, tree(&t->r, INTRA_TREE, KEY_Y[10 * above + left]));
        }
    tree(&t->r, INTRA_TREE, KEY_UV[b->modes[3]]);
}

static void read_intra_modes(Vp9 *s, Tile *t, Block *b) {
    int across = step_across(b), down = step_down(b), group = LARGEST_TRANSFORM[b->size];
    for (int y = 0; y < 2; y += down)
        for (int x = 0; x < 2; x += across) {
            int mode = tree(&t->r, INTRA_TREE, s->probs.y[group]);
            s->counts.y[group][mode]++;
            set_mode(b, 2 * y + x, mode);
        }
    int uv = tree(&t->r, INTRA_TREE, s->probs.uv[b->modes[3]]);
    s->counts.uv[b->modes[3]][uv]++;
}

/* ---- contexts of reference frames (9.3) ---- */

static int is_inter(const Side *side) { return side->refs[0] > 0; }
static int is_compound(const Side *side) { return side->refs[1] > 0; }
static int uses(const Side *side, int ref) { return side->refs[0] == ref || side->refs[1] == ref; }

static int is_inter_context(const Block *b) {
    if (b->above && b->left) {
        int num_intra = !is_inter(b->above) + !is_inter(b->left);
        return num_intra == 2 ? 3 : num_intra;
    }
    const Side *edge = b->above ? b->above : b->left;
    return edge ? 2 * !is_inter(edge) : 0;
}

static int is_compound_context(const Vp9 *s, const Block *b) {
    const Side *edge = b->above ? b->above : b->left;
    if (!edge) return 1;
    if (!b->above || !b->left) return is_compound(edge) ? 3 : edge->refs[0] == s->fixed_ref;
    if (is_compound(b->above) && is_compound(b->left)) return 4;
    int above = b->above->refs[0] == s->fixed_ref, left = b->left->refs[0] == s->fixed_ref;
    if (is_compound(b->left)) return 2 + (above || !is_inter(b->above));
    if (is_compound(b->above)) return 2 + (left || !is_inter(b->left));
    return above ^ left;
}

/* The variable reference of a compound block, the only one of another block. */
static int variable_ref(const Vp9 *s, const Side *side) {
    return side->refs[is_compound(side) && !s->sign_bias[s->fixed_ref]];
}

static int compound_ref_of_two(const Vp9 *s, const Side *above, const Side *left) {
    int a = variable_ref(s, above), l = variable_ref(s, left), last = s->variable_refs[1];
    int is_a = is_compound(above), is_l = is_compound(left);
    if (a == l && a == last) return 0;
    if (is_a && is_l) return a == l ? 4 : 2;
    if (!is_a && !is_l) {
        int first = s->variable_refs[0], fixed = s->fixed_ref;
        if ((a == fixed && l == first) || (l == fixed && a == first)) return 4;
        return a == l ? 3 : 1;
    }
    int compound = is_a ? a : l, single = is_a ? l : a;
    if (compound == last && single != last) return 1;
    return single == last && compound != last ? 2 : 4;
}

static int compound_ref_context(const Vp9 *s, const Block *b) {
    const Side *edge = b->above && is_inter(b->above) ? b->above : b->left;
    if (b->above && b->left) {
        if (is_inter(b->above) && is_inter(b->left)) return compound_ref_of_two(s, b->above, b->left);
        if (!is_inter(edge)) return 2;
        return 1 + 2 * (variable_ref(s, edge) != s->variable_refs[1]);
    }
    edge = b->above ? b->above : b->left;
    if (!edge || !is_inter(edge)) return 2;
    return (is_compound(edge) ? 4 : 3) * (variable_ref(s, edge) != s->variable_refs[1]);
}

/* Whether a single reference is the last frame. */
static int first_ref_context(const Block *b) {
    const Side *a = b->above, *l = b->left;
    if (a && l && is_inter(a) && is_inter(l)) {
        if (!is_compound(a) && !is_compound(l))
            return 2 * (a->refs[0] == LAST_FRAME) + 2 * (l->refs[0] == LAST_FRAME);
        if (is_compound(a) && is_compound(l)) return 1 + (uses(a, LAST_FRAME) || uses(l, LAST_FRAME));
        const Side *compound = is_compound(a) ? a : l, *single = is_compound(a) ? l : a;
        return 3 * (single->refs[0] == LAST_FRAME) + uses(compound, LAST_FRAME);
    }
    const Side *edge = a && (is_inter(a) || !l) ? a : l;
    if (!edge || !is_inter(edge)) return 2;
    return is_compound(edge) ? 1 + uses(edge, LAST_FRAME) : 4 * (edge->refs[0] == LAST_FRAME);
}

static int second_ref_of_two(const Side *a, const Side *l) {
    if (is_compound(a) && is_compound(l)) {
        int are_equal = a->refs[0] == l->refs[0] && a->refs[1] == l->refs[1];
        return are_equal ? 3 * uses(a, GOLDEN_FRAME) : 2;
    }
    if (is_compound(a) || is_compound(l)) {
        const Side *compound = is_compound(a) ? a : l;
        int single = (is_compound(a) ? l : a)->refs[0], golden = uses(compound, GOLDEN_FRAME);
        return single == GOLDEN_FRAME ? 3 + golden : single == ALTREF_FRAME ? golden : 1 + 2 * golden;
    }
    int above = a->refs[0], left = l->refs[0];
    if (above == LAST_FRAME && left == LAST_FRAME) return 3;
    if (above == LAST_FRAME) return 4 * (left == GOLDEN_FRAME);
    if (left == LAST_FRAME) return 4 * (above == GOLDEN_FRAME);
    return 2 * (above == GOLDEN_FRAME) + 2 * (left == GOLDEN_FRAME);
}

/* Whether a single reference that is not the last frame is the altref frame. */
static int second_ref_context(const Block *b) {
    const Side *a = b->above, *l = b->left;
    if (a && l) {
        if (is_inter(a) && is_inter(l)) return second_ref_of_two(a, l);
        const Side *edge = is_inter(a) ? a : l;
        if (!is_inter(edge)) return 2;
        if (is_compound(edge)) return 1 + 2 * uses(edge, GOLDEN_FRAME);
        return edge->refs[0] == LAST_FRAME ? 3 : 4 * (edge->refs[0] == GOLDEN_FRAME);
    }
    const Side *edge = a ? a : l;
    if (!edge || !is_inter(edge)) return 2;
    if (is_compound(edge)) return 3 * uses(edge, GOLDEN_FRAME);
    return edge->refs[0] == LAST_FRAME ? 2 : 4 * (edge->refs[0] == GOLDEN_FRAME);
}

/* ---- reference frames and filters of a block (6.4) ---- */

static int read_is_inter(Vp9 *s, Tile *t, const Block *b) {
    const Segments *g = &s->segments;
    if (g->enabled && g->has_ref[b->segment]) return g->ref[b->segment] > 0;
    int context = is_inter_context(b), bit = get(&t->r, s->probs.is_inter[context]);
    s->counts.is_inter[context][bit]++;
    return bit;
}

static int read_is_compound(Vp9 *s, Tile *t, const Block *b) {
    if (s->header.compound < 2) return s->header.compound;
    int context = is_compound_context(s, b), bit = get(&t->r, s->probs.is_compound[context]);
    s->counts.is_compound[context][bit]++;
    return bit;
}

static int read_single_ref(Vp9 *s, Tile *t, const Block *b) {
    int context = first_ref_context(b), bit = get(&t->r, s->probs.single_ref[context][0]);
    s->counts.single_ref[context][0][bit]++;
    if (!bit) return LAST_FRAME;
    context = second_ref_context(b), bit = get(&t->r, s->probs.single_ref[context][1]);
    s->counts.single_ref[context][1][bit]++;
    return bit ? ALTREF_FRAME : GOLDEN_FRAME;
}

static void read_refs(Vp9 *s, Tile *t, Block *b) {
    const Segments *g = &s->segments;
    b->refs[1] = 0;
    if (g->enabled && g->has_ref[b->segment]) {
        b->refs[0] = g->ref[b->segment];
    } else if (read_is_compound(s, t, b)) {
        int context = compound_ref_context(s, b), bit = get(&t->r, s->probs.compound_ref[context]);
        s->counts.compound_ref[context][bit]++;
        int place = s->sign_bias[s->fixed_ref];
        b->refs[place] = s->fixed_ref, b->refs[!place] = s->variable_refs[bit];
    } else {
        b->refs[0] = read_single_ref(s, t, b);
    }
}

static int read_filter(Vp9 *s, Tile *t, const Block *b) {
    if (!s->header.selects_filter) return 0;
    int above = b->above ? b->above->filter : NO_FILTER, left = b->left ? b->left->filter : NO_FILTER;
    int context = left == NO_FILTER ? above : above == NO_FILTER || above == left ? left : NO_FILTER;
    int filter = tree(&t->r, THREE_TREE, s->probs.filter[context]);
    s->counts.filter[context][filter]++;
    return filter;
}

/* ---- motion vectors (6.4, 6.5) ---- */

static int are_equal(Mv a, Mv b) { return a.row == b.row && a.col == b.col; }
static int clamped(int x, int low, int high) { return x < low ? low : x > high ? high : x; }

/* A list of different vectors; no more than `wanted` are looked for. */
typedef struct { Mv mvs[2]; int count, wanted; } Candidates;

/* Returns whether there are enough. */
static int add(Candidates *c, Mv mv) {
    if (c->count && are_equal(mv, c->mvs[0])) return 0;
    c->mvs[c->count++] = mv;
    return c->count == c->wanted;
}

/* Returns a square of the picture and tile, or NULL (6.5: is_inside). */
static const Motion *neighbour(const Tile *t, const Block *b, int i) {
    int row = b->row + CANDIDATES[b->size][i][0], col = b->col + CANDIDATES[b->size][i][1];
    if (row < 0 || row >= t->s->height || col < t->first_col || col >= t->end_col) return NULL;
    return &t->s->motion[(size_t)row * t->s->width + col];
}

static Mv scaled(const Vp9 *s, const Motion *m, int list, int ref) {
    Mv mv = m->mvs[list];
    if (s->sign_bias[m->refs[list]] == s->sign_bias[ref]) return mv;
    return (Mv){(int16_t)-mv.row, (int16_t)-mv.col};
}

/* Adds vectors to other references than the block's. Only unscaled ones are compared, as in libvpx. */
static int add_others(const Vp9 *s, Candidates *c, const Motion *m, int ref) {
    if (m->refs[0] && m->refs[0] != ref && add(c, scaled(s, m, 0, ref))) return 1;
    int is_other = m->refs[1] && m->refs[1] != ref && !are_equal(m->mvs[0], m->mvs[1]);
    return is_other && add(c, scaled(s, m, 1, ref));
}

/* Looks for vectors to a reference. `part` is a 4x4 block, or -1. */
static void search(const Tile *t, const Block *b, Candidates *c, int ref, int part) {
    const Vp9 *s = t->s;
    const Motion *m, *old = NULL;
    if (s->header.uses_old_motion) old = &s->old_motion[(size_t)b->row * s->width + b->col];
    for (int i = 0; i < 8; i++) {
        if (!(m = neighbour(t, b, i))) continue;
        int list = m->refs[0] == ref ? 0 : m->refs[1] == ref ? 1 : -1;
        if (list < 0) continue;
        Mv mv = m->mvs[list];
        if (part >= 0 && i < 2) mv = i ? b->left->mvs[part >> 1][list] : b->above->mvs[part & 1][list];
        if (add(c, mv)) return;
    }
    if (old && (old->refs[0] == ref || old->refs[1] == ref))
        if (add(c, old->mvs[old->refs[0] != ref])) return;
    for (int i = 0; i < 8; i++)
        if ((m = neighbour(t, b, i)) && add_others(s, c, m, ref)) return;
    if (old) add_others(s, c, old, ref);
}

/* Vectors may point 16 pixels beyond the picture. Units are eighths of a pixel. */
static Mv clamped_mv(const Vp9 *s, const Block *b, Mv mv) {
    int up = -64 * b->row - 128, down = 64 * (s->height - b->height - b->row) + 128;
    int left = -64 * b->col - 128, right = 64 * (s->width - b->width - b->col) + 128;
    return (Mv){(int16_t)clamped(mv.row, up, down), (int16_t)clamped(mv.col, left, right)};
}

static Candidates find_mvs(const Tile *t, const Block *b, int ref, int part, int wanted) {
    Candidates c = {{{0, 0}, {0, 0}}, 0, wanted};
    search(t, b, &c, ref, part);
    for (int i = 0; i < wanted; i++) c.mvs[i] = clamped_mv(t->s, b, c.mvs[i]);
    return c;
}

static int is_short(Mv mv) { return abs(mv.row) < 64 && abs(mv.col) < 64; }

static Mv rounded(const Vp9 *s, Mv mv) {
    if (s->header.is_high && is_short(mv)) return mv;
    if (mv.row & 1) mv.row = (int16_t)(mv.row + (mv.row > 0 ? -1 : 1));
    if (mv.col & 1) mv.col = (int16_t)(mv.col + (mv.col > 0 ? -1 : 1));
    return mv;
}

/* The nearest vector, or the next one (6.5: append_sub8x8_mvs). */
static Mv sub_mv(const Tile *t, const Block *b, int mode, int part, int list) {
    int is_near = mode == NEAR_MV;
    if (!part) return find_mvs(t, b, b->refs[list], part, 1 + is_near).mvs[is_near];
    Mv nearest = b->mvs[part == 3 ? 2 : 0][list];
    if (!is_near) return nearest;
    Candidates c = find_mvs(t, b, b->refs[list], part, 2);
    Mv others[4] = {b->mvs[1][list], b->mvs[0][list], c.mvs[0], c.mvs[1]};
    for (int i = part == 3 ? 0 : 2; i < 4; i++)
        if (!are_equal(others[i], nearest)) return others[i];
    return (Mv){0, 0};
}

static int read_mv_part(Vp9 *s, Reader *r, int part, int is_high) {
    const MvPartProbs *p = &s->probs.mv.parts[part];
    MvPartCounts *n = &s->counts.parts[part];
    int sign = get(r, p->sign), class = tree(r, MV_CLASS_TREE, p->classes);
    int whole = 0, fraction, high = 1;
    n->sign[sign]++, n->classes[class]++;
    if (!class) {
        n->class0[whole = get(r, p->class0)]++;
        n->class0_fractions[whole][fraction = tree(r, FOUR_TREE, p->class0_fractions[whole])]++;
        if (is_high) high = get(r, p->class0_high);
        n->class0_high[high]++; /* even if it is not coded, as in libvpx */
    } else {
        for (int i = 0; i < class; i++) {
            int bit = get(r, p->bits[i]);
            n->bits[i][bit]++, whole |= bit << i;
        }
        n->fractions[fraction = tree(r, FOUR_TREE, p->fractions)]++;
        if (is_high) high = get(r, p->high);
        n->high[high]++;
    }
    int size = (class ? 2 << (class + 2) : 0) + (whole << 3 | fraction << 1 | high) + 1;
    return sign ? -size : size;
}

/* Returns whether the vector is legal. */
static int read_mv(Vp9 *s, Reader *r, Mv base, Mv *mv) {
    int is_high = s->header.is_high && is_short(base);
    int joint = tree(r, FOUR_TREE, s->probs.mv.joints);
    s->counts.joints[joint]++;
    int row = base.row + (joint & 2 ? read_mv_part(s, r, 0, is_high) : 0);
    int col = base.col + (joint & 1 ? read_mv_part(s, r, 1, is_high) : 0);
    *mv = (Mv){(int16_t)row, (int16_t)col};
    return abs(row) < MAX_VECTOR && abs(col) < MAX_VECTOR;
}

static int read_inter_mode(Vp9 *s, Tile *t, int context) {
    int mode = tree(&t->r, INTER_TREE, s->probs.inter_mode[context]);
    s->counts.inter_mode[context][mode]++;
    return mode;
}

static int mode_context(const Tile *t, const Block *b) {
    int sum = 0;
    for (int i = 0; i < 2; i++) {
        const Motion *m = neighbour(t, b, i);
        if (m) sum += m->kind;
    }
    return MODE_CONTEXTS[sum];
}

/* What a mode counts in MODE_CONTEXTS. */
static int kind_of(int mode) { return mode == ZERO_MV ? 3 : mode == NEW_MV; }

static int read_sub_mvs(Vp9 *s, Tile *t, Block *b, int context) {
    int across = step_across(b), down = step_down(b), mode = ZERO_MV;
    for (int y = 0; y < 2; y += down)
        for (int x = 0; x < 2; x += across) {
            int part = 2 * y + x;
            mode = read_inter_mode(s, t, context);
            for (int list = 0; list < 2 && (!list || b->refs[1]); list++) {
                Mv mv = {0, 0};
                if (mode == NEW_MV) {
                    Mv base = rounded(s, find_mvs(t, b, b->refs[list], -1, 1).mvs[0]);
                    if (!read_mv(s, &t->r, base, &mv)) return 0;
                } else if (mode != ZERO_MV) {
                    mv = sub_mv(t, b, mode, part, list);
                }
                for (int k = part; k < 4; k++)
                    if (is_in_part(b, part, k)) b->mvs[k][list] = mv;
            }
        }
    b->kind = kind_of(mode);
    return 1;
}

static int read_mvs(Vp9 *s, Tile *t, Block *b, int mode) {
    b->kind = kind_of(mode);
    if (mode == ZERO_MV) return 1;
    for (int list = 0; list < 2 && (!list || b->refs[1]); list++) {
        Candidates c = find_mvs(t, b, b->refs[list], -1, mode == NEAR_MV ? 2 : 1);
        Mv mv = rounded(s, c.mvs[mode == NEAR_MV]);
        if (mode == NEW_MV && !read_mv(s, &t->r, mv, &mv)) return 0;
        for (int k = 0; k < 4; k++) b->mvs[k][list] = mv;
    }
    return 1;
}

/* Returns whether the block is legal. */
static int read_inter(Vp9 *s, Tile *t, Block *b) {
    read_refs(s, t, b);
    int context = mode_context(t, b), mode = ZERO_MV;
    int is_still = s->segments.enabled && s->segments.skips[b->segment];
    if (is_still && b->size < 3) return 0;
    if (!is_still && b->size >= 3) mode = read_inter_mode(s, t, context);
    b->filter = read_filter(s, t, b);
    return b->size < 3 ? read_sub_mvs(s, t, b, context) : read_mvs(s, t, b, mode);
}

static int read_modes(Vp9 *s, Tile *t, Block *b) {
    b->segment = read_segment(s, t, b);
    b->skips = read_skips(s, t, b);
    if (s->header.is_intra) {
        b->tx = read_tx(s, t, b, 1);
        read_key_modes(t, b);
        return 1;
    }
    b->is_inter = read_is_inter(s, t, b);
    b->tx = read_tx(s, t, b, !b->skips || !b->is_inter);
    if (b->is_inter) return read_inter(s, t, b);
    b->kind = 9, b->filter = NO_FILTER;
    read_intra_modes(s, t, b);
    return 1;
}
