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

#include "hevc_residual.h"

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
            if (coded[component - 1] >> i & 1)
                skip_residual(s, log2_size, component, u->chroma_modes[part]);
    }
}

static void skip_transform_unit(Hevc *s, int log2_size, int block, int part, int has_luma,
                                const int *coded) {
    int has_chroma = coded[0] || coded[1];
    if (!has_luma && !has_chroma) return;
    if (s->pps.has_qp_delta && !s->has_qp_delta) read_qp_delta(s);
    int may_have_chroma_qp = s->slice.has_chroma_qp && has_chroma && !s->unit.is_bypass;
    if (may_have_chroma_qp && !s->has_chroma_qp) read_chroma_qp(s);
    if (has_luma) skip_residual(s, log2_size, 0, s->unit.modes[part]);
    if (!s->sps.chroma) return;
    if (log2_size > 2 || s->sps.chroma == 3)
        skip_chroma(s, log2_size - (s->sps.chroma != 3), part, has_luma, coded);
    else if (block == 3) /* four blocks of luma share one of chroma */
        skip_chroma(s, 2, part, 0, coded);
}

/* `coded` says for Cb and Cr which of their (at 4:2:2 two) blocks above in the tree have residuals. */
static void skip_transform_tree(Hevc *s, int log2_size, int depth, int block, int part,
                                const int *coded) {
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
        modes[2] = left != PLANAR && above != PLANAR ? PLANAR
                   : left != DC && above != DC       ? DC
                                                     : VERTICAL;
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

enum { WHOLE, TWO_PARTS, FOUR_PARTS }; /* logarithms */

static int read_parts(Hevc *s) { /* 9.3.3.7 */
    int log2_size = s->unit.log2_size, is_smallest = log2_size == s->sps.log2_min_cb;
    if (s->unit.is_intra) return !is_smallest || bin(s, CTX_PART_MODE) ? WHOLE : FOUR_PARTS;
    if (bin(s, CTX_PART_MODE)) return WHOLE;
    int are_rows = bin(s, CTX_PART_MODE + 1);
    if (is_smallest)
        return are_rows || log2_size == 3 || bin(s, CTX_PART_MODE + 2) ? TWO_PARTS : FOUR_PARTS;
    if (s->sps.has_amp && !bin(s, CTX_PART_MODE + 3)) bypass(&s->cabac);
    return TWO_PARTS;
}

static void skip_pcm(Hevc *s, int log2_size) {
    const Sps *sps = &s->sps;
    static const int NUM_CHROMA[4] = {0, 2, 4, 8}; /* samples for four of luma */
    int num_luma = 1 << 2 * log2_size, num_chroma = num_luma / 4 * NUM_CHROMA[sps->chroma];
    int num_bits = num_luma * sps->pcm_bits + num_chroma * sps->pcm_chroma_bits;
    size_t at = next_byte(&s->cabac), num_bytes = (size_t)(num_bits + 7) >> 3;
    if (!at || num_bytes > s->size - at)
        s->is_bad = 1;
    else
        start(&s->cabac, at + num_bytes);
}

/* Parts with their prediction. Returns whether a residual may follow that a flag announces. */
static int skip_inter(Hevc *s, int x, int y, int depth) {
    Unit *u = &s->unit;
    int parts = read_parts(s), is_merged = 0;
    set_modes(s, x, y, u->log2_size, DC);
    for (int i = 0; i < 1 << parts; i++)
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
        int left = s->left[y >> 3 & 7] & 3, above = s->above[x >> 3] & 3;
        is_split = bin(s, CTX_SPLIT_CU + (left > depth) + (above > depth));
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
        if (part_x < sps->width && part_y < sps->height)
            skip_quadtree(s, part_x, part_y, log2_size - 1, depth + 1);
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
        if (s->pps.has_rows && !is_first_of_row(s, at) && is_first_of_row(s, at - 1))
            s->after_two = s->now;
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
    if (pps >= MAX_PPS || !s->all_pps[pps].is_known) return BAD_HEADER;
    const Sps *sps = &s->all_sps[s->all_pps[pps].sps];
    if (!sps->is_known) return BAD_HEADER;
    if (!s->all_pps[pps].is_parsed || !sps->is_parsed) return UNPARSED;
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

static int take_unit(Hevc *s, const uint8_t *data, size_t size) {
    if (!size) return SOUND;
    if (size < 2 || data[0] & 0x80 || !(data[1] & 7)) return BAD_UNIT;
    int type = data[0] >> 1, layer = (data[0] & 1) << 5 | data[1] >> 3;
    int is_slice = type <= RASL_R || (type >= BLA_W_LP && type <= CRA);
    if (layer || !(is_slice || type == UNIT_SPS || type == UNIT_PPS)) return SOUND;
    int error = unpack(s, data, size);
    if (error) return error;
    Bits b = {s->data, 8 * s->size, 16};
    if (type == UNIT_SPS) return take_sps(s, &b);
    if (type == UNIT_PPS) return take_pps(s, &b);
    error = take_slice(s, &b, type);
    if (!error && s->next == s->num_ctbs) s->next = -1, s->num_pictures++;
    return error;
}

/* Units with their size before them, as in MP4 and Matroska (ISO/IEC 14496-15). */
static int take_sized_units(Hevc *s, const uint8_t *data, size_t size) {
    size_t at = 0;
    int error = SOUND;
    while (!error && size - at > (size_t)s->num_length_bytes) {
        size_t length = 0;
        for (int i = 0; i < s->num_length_bytes; i++) length = length << 8 | data[at++];
        if (length > size - at) return BAD_UNIT;
        error = take_unit(s, data + at, length);
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
static int take_marked_units(Hevc *s, const uint8_t *data, size_t size) {
    int error = SOUND;
    size_t at = next_start_code(data, size, 0);
    while (!error && at < size) {
        size_t end = next_start_code(data, size, at + 3), start_at = at + 3, stop = end;
        while (stop > start_at && !data[stop - 1]) stop--; /* zeros that belong to no unit */
        error = take_unit(s, data + start_at, stop - start_at);
        at = end;
    }
    return error;
}

/* A decoder configuration record (ISO/IEC 14496-15). */
static int take_hvcc(Hevc *s, const uint8_t *data, size_t size) {
    size_t at = 23;
    s->num_length_bytes = 1 + (data[21] & 3);
    for (int i = 0; i < data[22] && size - at >= 3; i++) {
        int count = data[at + 1] << 8 | data[at + 2];
        at += 3;
        for (; count > 0 && size - at >= 2; count--) {
            size_t length = (size_t)(data[at] << 8 | data[at + 1]);
            at += 2;
            if (length > size - at) return BAD_UNIT;
            int error = take_unit(s, data + at, length);
            if (error) return error;
            at += length;
        }
    }
    return SOUND;
}

/* Reads the parameter sets of a file: `hvcC`, or units with start codes. Returns SOUND, a sign of
 * damage, or UNPARSED. */
int lafp_hevc_read_sets(Hevc *s, const uint8_t *data, size_t size) {
    s->next = -1, s->num_length_bytes = 0;
    int is_hvcc = size >= 23 && data[0] == 1;
    int error = is_hvcc ? take_hvcc(s, data, size) : take_marked_units(s, data, size);
    for (int i = 0; i < MAX_PPS && !error; i++) {
        const Pps *pps = &s->all_pps[i];
        if (pps->is_known && !(pps->is_parsed && s->all_sps[pps->sps].is_parsed)) error = UNPARSED;
    }
    return error;
}

/* Parses a packet: pictures and all that comes with them. Returns SOUND, a sign of damage, or a
 * negative number if it is not known. */
int lafp_hevc_parse(Hevc *s, const uint8_t *data, size_t size) {
    int error;
    s->next = -1, s->num_pictures = 0;
    error = s->num_length_bytes ? take_sized_units(s, data, size)
                                : take_marked_units(s, data, size);
    if (!error && (s->next >= 0 || !s->num_pictures)) error = BAD_ORDER;
    return error;
}
