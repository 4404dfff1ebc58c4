/* The probabilities of VP9: how they begin, are changed by a header, and adapt to what a frame was
 * coded with. The numbers are sections of the specification.
 */

#include <stdlib.h>
#include <string.h>

#include "vp9_tables.h"
#include "vpx_reader.h"

/* Returns whether the data can be decoded: the first bit must be 0 (9.2.1). */
static int start(Reader *r, const uint8_t *data, size_t size) {
    begin(r, data, size);
    return size && !get(r, 128);
}

static int has_overrun(const Reader *r) { return r->num_beyond && num_spare(r) < 8; }

/* ---- probabilities (10) and how often each leaf of a tree was met (9.3) ---- */

/* Only bytes, in the order of DEFAULT_MV. */
typedef struct {
    uint8_t sign, classes[10], class0, bits[10], class0_fractions[2][3], fractions[3];
    uint8_t class0_high, high;
} MvPartProbs;

typedef struct {
    uint8_t joints[3];
    MvPartProbs parts[2];
} MvProbs;

typedef struct {
    uint8_t coefs[4][2][2][33][3];
    uint8_t partition[16][3], y[4][9], uv[10][9], inter_mode[7][3], filter[4][2], is_inter[4];
    uint8_t is_compound[5], compound_ref[5], single_ref[5][2], skip[3], tx[3][2][3];
    MvProbs mv;
} Probs;

typedef struct {
    uint32_t sign[2], classes[11], class0[2], bits[10][2], class0_fractions[2][4], fractions[4];
    uint32_t class0_high[2], high[2];
} MvPartCounts;

typedef struct {
    uint32_t coefs[4][2][2][33][5]; /* zeros, ones, larger values, ends; looks for an end */
    uint32_t partition[16][4], y[4][10], uv[10][10], inter_mode[7][4], filter[4][3], is_inter[4][2];
    uint32_t is_compound[5][2], compound_ref[5][2], single_ref[5][2][2], skip[3][2], tx[3][2][4];
    uint32_t joints[4];
    MvPartCounts parts[2];
} Counts;

static void set_defaults(Probs *p) {
    memcpy(p->coefs, DEFAULT_COEFS, sizeof p->coefs);
    memcpy(p->partition, DEFAULT_PARTITION, sizeof p->partition);
    memcpy(p->y, DEFAULT_Y, sizeof p->y);
    memcpy(p->uv, DEFAULT_UV, sizeof p->uv);
    memcpy(p->inter_mode, DEFAULT_INTER_MODE, sizeof p->inter_mode);
    memcpy(p->filter, DEFAULT_FILTER, sizeof p->filter);
    memcpy(p->is_inter, DEFAULT_IS_INTER, sizeof p->is_inter);
    memcpy(p->is_compound, DEFAULT_IS_COMPOUND, sizeof p->is_compound);
    memcpy(p->compound_ref, DEFAULT_COMPOUND_REF, sizeof p->compound_ref);
    memcpy(p->single_ref, DEFAULT_SINGLE_REF, sizeof p->single_ref);
    memcpy(p->skip, DEFAULT_SKIP, sizeof p->skip);
    memcpy(p->tx, DEFAULT_TX, sizeof p->tx);
    memcpy(&p->mv, DEFAULT_MV, sizeof p->mv);
}

/* ---- changes by the compressed header (6.3) ---- */

static int read_delta(Reader *r) {
    if (!get(r, 128)) return literal(r, 4);
    if (!get(r, 128)) return 16 + literal(r, 4);
    if (!get(r, 128)) return 32 + literal(r, 5);
    int x = literal(r, 7);
    return 64 + (x < 65 ? x : 2 * x - 65 + get(r, 128));
}

/* Large steps come first: a delta below 20 is one of 13 (6.3). */
static int unfolded(int delta) {
    if (delta < 20) return 7 + 13 * delta;
    if (delta > 253) return 253;
    return delta - 19 + (delta - 14) / 12;
}

static int recentred(int x, int centre) {
    if (x > 2 * centre) return x;
    return x & 1 ? centre - (x + 1) / 2 : centre + x / 2;
}

static void read_prob(Reader *r, uint8_t *p) {
    if (!get(r, 252)) return;
    int x = unfolded(read_delta(r)), old = *p - 1;
    *p = (uint8_t)(2 * old <= 255 ? 1 + recentred(x, old) : 255 - recentred(x, 254 - old));
}

static void read_probs(Reader *r, uint8_t *probs, size_t count) {
    for (size_t i = 0; i < count; i++) read_prob(r, &probs[i]);
}

static void read_mv_probs(Reader *r, uint8_t *probs, int count) {
    for (int i = 0; i < count; i++)
        if (get(r, 252)) probs[i] = (uint8_t)(2 * literal(r, 7) + 1);
}

static void read_all_mv_probs(Reader *r, MvProbs *p, int is_high) {
    read_mv_probs(r, p->joints, 3);
    for (int i = 0; i < 2; i++) {
        read_mv_probs(r, &p->parts[i].sign, 1);
        read_mv_probs(r, p->parts[i].classes, 10);
        read_mv_probs(r, &p->parts[i].class0, 1);
        read_mv_probs(r, p->parts[i].bits, 10);
    }
    for (int i = 0; i < 2; i++) {
        for (int j = 0; j < 2; j++) read_mv_probs(r, p->parts[i].class0_fractions[j], 3);
        read_mv_probs(r, p->parts[i].fractions, 3);
    }
    for (int i = 0; is_high && i < 2; i++) {
        read_mv_probs(r, &p->parts[i].class0_high, 1);
        read_mv_probs(r, &p->parts[i].high, 1);
    }
}

static void read_tx_probs(Reader *r, Probs *p) {
    for (int largest = 1; largest < 4; largest++)
        for (int context = 0; context < 2; context++)
            read_probs(r, p->tx[largest - 1][context], (size_t)largest);
}

static void read_coef_probs(Reader *r, Probs *p, int largest) {
    for (int tx = 0; tx <= largest; tx++)
        if (get(r, 128)) read_probs(r, p->coefs[tx][0][0][0], sizeof p->coefs[tx]);
}

/* ---- adaptation to a frame (8.4) ---- */

static uint8_t merged(uint8_t old, uint32_t zeros, uint32_t ones, uint32_t limit, uint32_t most) {
    uint32_t total = zeros + ones;
    if (!total) return old;
    uint32_t prob = (uint32_t)(((uint64_t)zeros * 256 + total / 2) / total);
    prob = prob < 1 ? 1 : prob > 255 ? 255 : prob;
    uint32_t weight = most * (total < limit ? total : limit) / limit;
    return (uint8_t)((old * (256 - weight) + prob * weight + 128) >> 8);
}

static void adapt(uint8_t *now, const uint8_t *old, const uint32_t counts[2]) {
    *now = merged(*old, counts[0], counts[1], 20, 128);
}

/* Returns how often the node at i was met. */
static uint32_t adapt_node(uint8_t *now, const uint8_t *old, const int8_t *nodes, const uint32_t *counts,
                           int i) {
    uint32_t both[2];
    for (int k = 0; k < 2; k++) {
        int next = nodes[i + k];
        both[k] = next > 0 ? adapt_node(now, old, nodes, counts, next) : counts[-next];
    }
    adapt(&now[i >> 1], &old[i >> 1], both);
    return both[0] + both[1];
}

static void adapt_tree(uint8_t *now, const uint8_t *old, const int8_t *nodes, const uint32_t *counts) {
    adapt_node(now, old, nodes, counts, 0);
}

static void adapt_coefs(Probs *now, const Probs *old, const Counts *c, uint32_t most) {
    uint8_t(*to)[3] = now->coefs[0][0][0];
    const uint8_t(*from)[3] = old->coefs[0][0][0];
    const uint32_t(*n)[5] = c->coefs[0][0][0];
    for (size_t i = 0; i < sizeof now->coefs / 3; i++) {
        to[i][0] = merged(from[i][0], n[i][3], n[i][4] - n[i][3], 24, most);
        to[i][1] = merged(from[i][1], n[i][0], n[i][1] + n[i][2], 24, most);
        to[i][2] = merged(from[i][2], n[i][1], n[i][2], 24, most);
    }
}

static void adapt_tx(Probs *now, const Probs *old, const Counts *c) {
    for (int largest = 1; largest < 4; largest++)
        for (int context = 0; context < 2; context++)
            for (int i = 0; i < largest; i++) {
                const uint32_t *n = c->tx[largest - 1][context];
                uint32_t both[2] = {n[i], 0};
                for (int k = i + 1; k <= largest; k++) both[1] += n[k];
                adapt(&now->tx[largest - 1][context][i], &old->tx[largest - 1][context][i], both);
            }
}

static void adapt_mv(MvProbs *now, const MvProbs *old, const Counts *c, int is_high) {
    adapt_tree(now->joints, old->joints, FOUR_TREE, c->joints);
    for (int i = 0; i < 2; i++) {
        MvPartProbs *to = &now->parts[i];
        const MvPartProbs *from = &old->parts[i];
        const MvPartCounts *n = &c->parts[i];
        adapt(&to->sign, &from->sign, n->sign);
        adapt_tree(to->classes, from->classes, MV_CLASS_TREE, n->classes);
        adapt(&to->class0, &from->class0, n->class0);
        for (int k = 0; k < 10; k++) adapt(&to->bits[k], &from->bits[k], n->bits[k]);
        for (int k = 0; k < 2; k++)
            adapt_tree(to->class0_fractions[k], from->class0_fractions[k], FOUR_TREE,
                       n->class0_fractions[k]);
        adapt_tree(to->fractions, from->fractions, FOUR_TREE, n->fractions);
        if (!is_high) continue;
        adapt(&to->class0_high, &from->class0_high, n->class0_high);
        adapt(&to->high, &from->high, n->high);
    }
}

static void adapt_refs(Probs *now, const Probs *old, const Counts *c) {
    for (int i = 0; i < 4; i++) adapt(&now->is_inter[i], &old->is_inter[i], c->is_inter[i]);
    for (int i = 0; i < 5; i++) {
        adapt(&now->is_compound[i], &old->is_compound[i], c->is_compound[i]);
        adapt(&now->compound_ref[i], &old->compound_ref[i], c->compound_ref[i]);
        for (int k = 0; k < 2; k++)
            adapt(&now->single_ref[i][k], &old->single_ref[i][k], c->single_ref[i][k]);
    }
}

static void adapt_modes(Probs *now, const Probs *old, const Counts *c) {
    for (int i = 0; i < 7; i++)
        adapt_tree(now->inter_mode[i], old->inter_mode[i], INTER_TREE, c->inter_mode[i]);
    for (int i = 0; i < 4; i++) adapt_tree(now->y[i], old->y[i], INTRA_TREE, c->y[i]);
    for (int i = 0; i < 10; i++) adapt_tree(now->uv[i], old->uv[i], INTRA_TREE, c->uv[i]);
    for (int i = 0; i < 16; i++)
        adapt_tree(now->partition[i], old->partition[i], PARTITION_TREE, c->partition[i]);
    for (int i = 0; i < 3; i++) adapt(&now->skip[i], &old->skip[i], c->skip[i]);
}

static void adapt_filters(Probs *now, const Probs *old, const Counts *c) {
    for (int i = 0; i < 4; i++) adapt_tree(now->filter[i], old->filter[i], THREE_TREE, c->filter[i]);
}
