/* Both headers of a VP9 frame. The numbers are sections of the specification. */

#include "vp9_state.h"

/* ---- header of plain bits (6.2, 7.2) ---- */

typedef struct {
    const uint8_t *data;
    size_t num_bits, at; /* beyond the end bits are zeros */
} Bits;

static int bits(Bits *b, int count) {
    int value = 0;
    while (count--) {
        int bit = b->at < b->num_bits ? b->data[b->at >> 3] >> (7 - (b->at & 7)) & 1 : 0;
        value = 2 * value + bit, b->at++;
    }
    return value;
}

static void skip_optional(Bits *b, int count, size_t num_bits) {
    while (count--)
        if (bits(b, 1)) b->at += num_bits;
}

static int read_colours(Vp9 *s, Bits *b) {
    s->num_bits = s->profile > 1 ? (bits(b, 1) ? 12 : 10) : 8;
    int is_rgb = bits(b, 3) == 7;
    if (!is_rgb) bits(b, 1);
    s->chroma_x = s->chroma_y = !is_rgb;
    if (!(s->profile & 1)) return is_rgb ? BAD_HEADER : 0;
    if (!is_rgb) s->chroma_x = bits(b, 1), s->chroma_y = bits(b, 1);
    if (s->chroma_x && s->chroma_y) return BAD_HEADER;
    return bits(b, 1) ? BAD_HEADER : 0;
}

static int read_size(Vp9 *s, Bits *b) {
    int width_px = bits(b, 16) + 1, height_px = bits(b, 16) + 1;
    skip_optional(b, 1, 32); /* the size at which it is shown */
    return resize(s, width_px, height_px);
}

static int read_references(Vp9 *s, Bits *b) {
    int refs[3], is_found = 0, width_px = 0, height_px = 0;
    for (int i = 0; i < 3; i++) {
        refs[i] = bits(b, 3);
        if (!s->ref_widths[refs[i]]) return NO_KEY_FRAME;
        s->sign_bias[1 + i] = bits(b, 1);
    }
    for (int i = 0; i < 3 && !is_found; i++)
        if ((is_found = bits(b, 1)))
            width_px = s->ref_widths[refs[i]], height_px = s->ref_heights[refs[i]];
    if (!is_found) return read_size(s, b);
    skip_optional(b, 1, 32);
    return resize(s, width_px, height_px);
}

/* Returns 0, or a negative number. */
static int read_kind(Vp9 *s, Header *h, Bits *b) {
    int is_intra_only, error;
    if (h->is_key) {
        if (bits(b, 24) != 0x498342 || (error = read_colours(s, b))) return BAD_HEADER;
        h->refreshes = 255, h->is_intra = 1;
        return read_size(s, b);
    }
    is_intra_only = h->is_shown ? 0 : bits(b, 1);
    h->is_intra = is_intra_only;
    h->resets = h->is_resilient ? 0 : bits(b, 2);
    if (is_intra_only) {
        if (bits(b, 24) != 0x498342) return BAD_HEADER;
        if (s->profile > 0) {
            if (read_colours(s, b)) return BAD_HEADER;
        } else {
            s->num_bits = 8, s->chroma_x = s->chroma_y = 1;
        }
        h->refreshes = bits(b, 8);
        return read_size(s, b);
    }
    h->refreshes = bits(b, 8);
    error = read_references(s, b);
    h->is_high = bits(b, 1);
    h->selects_filter = bits(b, 1);
    if (!h->selects_filter) bits(b, 2);
    return error;
}

/* Forgets what earlier frames have left (7.2: setup_past_independence). */
static void forget(Vp9 *s, Header *h) {
    size_t count = (size_t)s->width * s->height;
    memset(s->segment_ids, 0, count), memset(s->old_segment_ids, 0, count);
    memset(s->segments.has_ref, 0, 8), memset(s->segments.skips, 0, 8);
    memset(s->sign_bias, 0, sizeof s->sign_bias); /* as libvpx does */
    set_defaults(&s->probs);
    for (int i = 0; i < 4; i++)
        if (h->is_key || h->is_resilient || h->resets == 3 || (h->resets == 2 && h->context == i))
            s->contexts[i] = s->probs;
    h->context = 0;
}

static void read_segment_features(Segments *g, Bits *b) {
    bits(b, 1);
    for (int i = 0; i < 8; i++) {
        if (bits(b, 1)) bits(b, 9); /* quantizer */
        if (bits(b, 1)) bits(b, 7); /* loop filter */
        g->has_ref[i] = (uint8_t)bits(b, 1);
        g->ref[i] = (uint8_t)(g->has_ref[i] ? bits(b, 2) : 0);
        g->skips[i] = (uint8_t)bits(b, 1);
    }
}

static void read_segmentation(Segments *g, Bits *b) {
    g->has_map = 0;
    g->enabled = (uint8_t)bits(b, 1);
    if (!g->enabled) return;
    g->has_map = (uint8_t)bits(b, 1);
    if (g->has_map) {
        for (int i = 0; i < 7; i++) g->tree_probs[i] = (uint8_t)(bits(b, 1) ? bits(b, 8) : 255);
        g->is_temporal = (uint8_t)bits(b, 1);
        for (int i = 0; i < 3; i++)
            g->predicted_probs[i] = (uint8_t)(g->is_temporal && bits(b, 1) ? bits(b, 8) : 255);
    }
    if (bits(b, 1)) read_segment_features(g, b);
}

/* Limits of a tile's width are 4 and 64 blocks of 64 pixels (7.2). */
static void read_tile_counts(const Vp9 *s, Header *h, Bits *b) {
    int num_blocks = aligned_width(s) / 8;
    h->columns_log2 = 0;
    while (64 << h->columns_log2 < num_blocks) h->columns_log2++;
    while (num_blocks >> (h->columns_log2 + 1) >= 4 && bits(b, 1)) h->columns_log2++;
    h->rows_log2 = bits(b, 1);
    if (h->rows_log2) h->rows_log2 += bits(b, 1);
}

static void read_quantizer(Header *h, Bits *b) {
    int base = bits(b, 8), has_deltas = 0;
    for (int i = 0; i < 3; i++)
        if (bits(b, 1)) has_deltas |= bits(b, 5) & 30; /* the sign comes last */
    h->is_lossless = !base && !has_deltas;
}

static int read_header(Vp9 *s, Header *h, Bits *b) {
    h->is_shown = bits(b, 1), h->is_resilient = bits(b, 1);
    int error = read_kind(s, h, b);
    if (error) return error;
    h->keeps_probs = h->is_resilient ? 0 : bits(b, 1);
    h->is_parallel = h->is_resilient ? 1 : bits(b, 1);
    h->context = bits(b, 2);
    if (h->is_intra || h->is_resilient) forget(s, h);
    bits(b, 9); /* loop filter */
    if (bits(b, 1) && bits(b, 1)) skip_optional(b, 6, 7);
    read_quantizer(h, b);
    read_segmentation(&s->segments, b);
    read_tile_counts(s, h, b);
    h->num_header_bytes = (size_t)bits(b, 16);
    return !h->num_header_bytes || h->columns_log2 > 6 || b->at > b->num_bits ? BAD_HEADER : 0;
}

/* ---- compressed header (6.3) ---- */

/* Which reference frames can be combined (7.3): one on the one side in time, two on the other. */
static void set_compound_refs(Vp9 *s) {
    const int *bias = s->sign_bias;
    s->fixed_ref = bias[LAST_FRAME] == bias[GOLDEN_FRAME]   ? ALTREF_FRAME
                   : bias[LAST_FRAME] == bias[ALTREF_FRAME] ? GOLDEN_FRAME
                                                            : LAST_FRAME;
    s->variable_refs[0] = s->fixed_ref == LAST_FRAME ? GOLDEN_FRAME : LAST_FRAME;
    s->variable_refs[1] = s->fixed_ref == ALTREF_FRAME ? GOLDEN_FRAME : ALTREF_FRAME;
}

static void read_inter_probs(Vp9 *s, Header *h, Reader *r) {
    Probs *p = &s->probs;
    const int *bias = s->sign_bias;
    read_probs(r, p->inter_mode[0], sizeof p->inter_mode);
    if (h->selects_filter) read_probs(r, p->filter[0], sizeof p->filter);
    read_probs(r, p->is_inter, sizeof p->is_inter);
    h->compound = 0;
    if (bias[GOLDEN_FRAME] != bias[LAST_FRAME] || bias[ALTREF_FRAME] != bias[LAST_FRAME])
        h->compound = get(r, 128) ? 1 + get(r, 128) : 0;
    set_compound_refs(s);
    if (h->compound == 2) read_probs(r, p->is_compound, sizeof p->is_compound);
    if (h->compound != 1) read_probs(r, p->single_ref[0], sizeof p->single_ref);
    if (h->compound) read_probs(r, p->compound_ref, sizeof p->compound_ref);
    read_probs(r, p->y[0], sizeof p->y);
    read_probs(r, p->partition[0], sizeof p->partition);
    read_all_mv_probs(r, &p->mv, h->is_high);
}

static void read_compressed_header(Vp9 *s, Header *h, Reader *r) {
    h->tx_mode = h->is_lossless ? 0 : literal(r, 2);
    if (h->tx_mode == 3) h->tx_mode += get(r, 128);
    if (h->tx_mode == 4) read_tx_probs(r, &s->probs);
    read_coef_probs(r, &s->probs, h->tx_mode < 3 ? h->tx_mode : 3);
    read_probs(r, s->probs.skip, sizeof s->probs.skip);
    if (!h->is_intra) read_inter_probs(s, h, r);
}
