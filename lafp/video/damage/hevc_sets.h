/* Reads HEVC's parameter sets (ITU-T H.265; the numbers are its clauses).
 *
 * Only what the parsing of slices depends on is kept. Values out of the standard's range count as
 * damage, so what is kept can be used without further checks.
 */

#include <stdint.h>
#include <string.h>

/* What a unit or a packet shows. Positive numbers are signs of damage. */
enum {
    SOUND,
    UNPARSED = -1,      /* it uses tools that are not parsed */
    OUT_OF_MEMORY = -2,
    BAD_UNIT = 1,       /* units do not fill their packet, or one has an impossible header */
    BAD_SET,            /* a parameter set */
    BAD_HEADER,         /* the header of a slice */
    BAD_ORDER,          /* slices do not follow each other, or do not cover the picture */
    BAD_CODE,           /* an impossible code */
    BAD_END,            /* a slice or a part of it does not end with its data */
};

enum { MAX_SPS = 16, MAX_PPS = 64, MAX_SHORT_SETS = 64, MAX_PICTURES = 16, MAX_TILES = 64 };

/* ---- bits (7.2, 9.2) ---- */

typedef struct {
    const uint8_t *data;
    size_t size_bits, at; /* beyond the data bits are zeros, and `at` tells */
} Bits;

static int bit(Bits *b) {
    int value = b->at < b->size_bits ? b->data[b->at >> 3] >> (7 - (b->at & 7)) & 1 : 0;
    b->at++;
    return value;
}

static uint32_t bits(Bits *b, int count) {
    uint32_t value = 0;
    while (count-- > 0) value = value << 1 | (uint32_t)bit(b);
    return value;
}

static void skip(Bits *b, uint64_t count) { b->at += count; }

static int is_overrun(const Bits *b) { return b->at > b->size_bits; }

/* ue(v); the largest number for a code that is longer than any. */
static uint32_t ue(Bits *b) {
    int num_zeros = 0;
    while (num_zeros < 32 && !bit(b)) num_zeros++;
    return num_zeros < 32 ? (1u << num_zeros) - 1 + bits(b, num_zeros) : UINT32_MAX;
}

static int64_t se(Bits *b) {
    int64_t code = ue(b);
    return code & 1 ? (code + 1) / 2 : -(code / 2);
}

/* Reads ue(v) of at most `most`. Larger values are set to it and noted. */
static int ue_below(Bits *b, uint32_t most, int *is_bad) {
    uint32_t value = ue(b);
    *is_bad |= value > most;
    return (int)(value > most ? most : value);
}

static int se_within(Bits *b, int least, int most, int *is_bad) {
    int64_t value = se(b);
    int is_out = value < least || value > most;
    *is_bad |= is_out;
    return is_out ? 0 : (int)value;
}

static int bits_for(uint32_t count) { return count > 1 ? 32 - __builtin_clz(count - 1) : 0; }

/* ---- parameter sets (7.3.2) ---- */

typedef struct {
    int num_pictures, num_negative; /* pictures before the current one come first */
    int32_t deltas[MAX_PICTURES];
    uint8_t is_used[MAX_PICTURES];
} ShortSet; /* of reference pictures (7.3.7) */

typedef struct {
    int is_known, is_parsed;
    int chroma, has_planes, depth, chroma_depth, width, height;
    int poc_bits, log2_min_cb, log2_ctb, log2_min_tb, log2_max_tb, depth_inter, depth_intra;
    int has_amp, has_sao, has_pcm, pcm_bits, pcm_chroma_bits, log2_min_pcm, log2_max_pcm;
    int num_short_sets, has_long, num_long, has_mvp;
    uint8_t long_is_used[32];
    int skip_context, implicit_rdpcm, explicit_rdpcm, has_rice, high_offsets;
    ShortSet short_sets[MAX_SHORT_SETS];
} Sps;

typedef struct {
    int is_known, is_parsed, sps;
    int has_dependent, has_output_flag, num_extra_bits, hides_signs, has_cabac_init;
    int num_refs[2], init_qp, has_transform_skip, has_qp_delta, qp_delta_depth, has_slice_chroma_qp;
    int weighs_p, weighs_b, has_bypass, has_tiles, has_rows;
    int num_columns, num_rows, is_uniform;
    int column_sizes[MAX_TILES], row_sizes[MAX_TILES];
    int filters_across, has_deblocking, has_override, is_unfiltered, changes_lists, has_extension;
    int log2_max_skip, has_cross_component, has_chroma_qp, chroma_qp_depth, num_chroma_qp;
} Pps;

/* profile_tier_level (7.3.3). Returns the profile. */
static int read_profile(Bits *b, int num_sub_layers) {
    uint32_t profile = bits(b, 8) & 31;
    skip(b, 88);
    int has_profile[8] = {0}, has_level[8] = {0};
    for (int i = 1; i < num_sub_layers; i++) has_profile[i] = bit(b), has_level[i] = bit(b);
    if (num_sub_layers > 1) skip(b, 2 * (uint64_t)(9 - num_sub_layers));
    for (int i = 1; i < num_sub_layers; i++)
        skip(b, (has_profile[i] ? 88 : 0) + (has_level[i] ? 8 : 0));
    return (int)profile;
}

static void skip_scaling_lists(Bits *b) { /* 7.3.4 */
    for (int size = 0; size < 4; size++)
        for (int matrix = 0; matrix < 6; matrix += size == 3 ? 3 : 1) {
            if (!bit(b)) {
                ue(b);
                continue;
            }
            for (int i = size > 1 ? -1 : 0; i < (size ? 64 : 16); i++) se(b);
        }
}

/* Predicts a set of pictures from another one (7.4.8). */
static void predict_short_set(Bits *b, const ShortSet *other, ShortSet *set, int *is_bad) {
    int is_negative = bit(b), size = ue_below(b, 32767, is_bad) + 1;
    int delta = is_negative ? -size : size;
    int count = other->num_pictures, is_used[MAX_PICTURES + 1], is_kept[MAX_PICTURES + 1];
    int32_t deltas[MAX_PICTURES + 1];
    for (int i = 0; i <= count; i++) {
        is_used[i] = bit(b);
        is_kept[i] = is_used[i] || bit(b);
        deltas[i] = delta + (i < count ? other->deltas[i] : 0);
    }
    set->num_pictures = 0;
    for (int sign = -1; sign <= 1; sign += 2) {
        /* Those on the wanted side, the nearest first: all of the other side from its far end, the
         * other picture itself, and all of the same side. */
        int num_same = sign < 0 ? other->num_negative : count - other->num_negative;
        int same = sign < 0 ? 0 : other->num_negative, across = count - num_same;
        for (int j = 0; j <= count; j++) {
            int i = j < across ? (sign < 0 ? count - 1 - j : across - 1 - j)
                    : j == across ? count
                                  : same + j - across - 1;
            if ((int64_t)deltas[i] * sign <= 0 || !is_kept[i]) continue;
            if (set->num_pictures == MAX_PICTURES) {
                *is_bad = 1;
                return;
            }
            set->deltas[set->num_pictures] = deltas[i];
            set->is_used[set->num_pictures++] = (uint8_t)is_used[i];
        }
        if (sign < 0) set->num_negative = set->num_pictures;
    }
    for (int i = 0; i < set->num_pictures; i++)
        *is_bad |= set->deltas[i] < -(1 << 20) || set->deltas[i] > 1 << 20;
}

/* st_ref_pic_set (7.3.7); `index` is the number of the set, or that of sets in a slice's header. */
static void read_short_set(Bits *b, const Sps *sps, ShortSet *set, int index, int in_slice,
                           int *is_bad) {
    memset(set, 0, sizeof *set);
    if (index && bit(b)) {
        int distance = in_slice ? 1 + ue_below(b, (uint32_t)index - 1, is_bad) : 1;
        ShortSet other = sps->short_sets[index - distance]; /* a copy: it may be the set itself */
        predict_short_set(b, &other, set, is_bad);
        return;
    }
    int num_negative = ue_below(b, MAX_PICTURES, is_bad);
    int num_positive = ue_below(b, (uint32_t)(MAX_PICTURES - num_negative), is_bad);
    set->num_negative = num_negative, set->num_pictures = num_negative + num_positive;
    int32_t delta = 0;
    for (int i = 0; i < set->num_pictures; i++) {
        if (i == num_negative) delta = 0;
        int step = 1 + ue_below(b, 32767, is_bad);
        delta += i < num_negative ? -step : step;
        set->deltas[i] = delta, set->is_used[i] = (uint8_t)bit(b);
    }
}

static void skip_sub_layer_hrd(Bits *b, int num_cpb, int has_sub_pictures) { /* E.2.3 */
    for (int i = 0; i < num_cpb; i++) {
        ue(b), ue(b);
        if (has_sub_pictures) ue(b), ue(b);
        bit(b);
    }
}

static void skip_hrd(Bits *b, int num_sub_layers, int *is_bad) { /* E.2.2 */
    int has_nal = bit(b), has_vcl = bit(b), has_sub_pictures = 0;
    if (has_nal || has_vcl) {
        has_sub_pictures = bit(b);
        if (has_sub_pictures) skip(b, 19);
        skip(b, 8);
        if (has_sub_pictures) skip(b, 4);
        skip(b, 15);
    }
    for (int i = 0; i < num_sub_layers; i++) {
        int is_fixed = bit(b), is_fixed_within = is_fixed || bit(b), is_low_delay = 0, num_cpb = 1;
        if (is_fixed_within)
            ue(b);
        else
            is_low_delay = bit(b);
        if (!is_low_delay) num_cpb += ue_below(b, 31, is_bad);
        if (has_nal) skip_sub_layer_hrd(b, num_cpb, has_sub_pictures);
        if (has_vcl) skip_sub_layer_hrd(b, num_cpb, has_sub_pictures);
    }
}

static void skip_vui(Bits *b, int num_sub_layers, int *is_bad) { /* E.2.1 */
    if (bit(b) && bits(b, 8) == 255) skip(b, 32);
    if (bit(b)) bit(b);
    if (bit(b)) {
        skip(b, 4);
        if (bit(b)) skip(b, 24);
    }
    if (bit(b)) ue(b), ue(b);
    skip(b, 3);
    if (bit(b)) ue(b), ue(b), ue(b), ue(b);
    if (bit(b)) {
        skip(b, 64);
        if (bit(b)) ue(b);
        if (bit(b)) skip_hrd(b, num_sub_layers, is_bad);
    }
    if (bit(b)) {
        skip(b, 3);
        ue(b), ue(b), ue(b), ue(b), ue(b);
    }
}

/* sps_range_extension and the flags before it (7.3.2.2). Sets is_parsed. */
static void read_sps_extensions(Bits *b, Sps *s) {
    int has_range = bit(b);
    skip(b, 2); /* layers and depth: they concern units of other layers */
    int has_screen = bit(b);
    skip(b, 4);
    if (has_range) {
        bit(b); /* transform_skip_rotation_enabled_flag */
        s->skip_context = bit(b);
        s->implicit_rdpcm = bit(b), s->explicit_rdpcm = bit(b);
        int has_precision = bit(b); /* extended_precision_processing_flag */
        bit(b);
        s->high_offsets = bit(b);
        s->has_rice = bit(b);
        int is_aligned = bit(b); /* cabac_bypass_alignment_enabled_flag */
        if (has_precision || is_aligned) s->is_parsed = 0;
    }
    if (has_screen) s->is_parsed = 0;
}

static void read_sps_sizes(Bits *b, Sps *s, int *is_bad) {
    s->log2_min_cb = 3 + ue_below(b, 3, is_bad);
    s->log2_ctb = s->log2_min_cb + ue_below(b, 3, is_bad);
    s->log2_min_tb = 2 + ue_below(b, 3, is_bad);
    s->log2_max_tb = s->log2_min_tb + ue_below(b, 3, is_bad);
    int most = s->log2_ctb - s->log2_min_tb;
    *is_bad |= s->log2_ctb < 4 || s->log2_ctb > 6 || s->log2_min_tb >= s->log2_min_cb;
    *is_bad |= s->log2_max_tb > 5 || s->log2_max_tb > s->log2_ctb;
    if (*is_bad) return;
    s->depth_inter = ue_below(b, (uint32_t)most, is_bad);
    s->depth_intra = ue_below(b, (uint32_t)most, is_bad);
    int mask = (1 << s->log2_min_cb) - 1;
    *is_bad |= (s->width & mask) || (s->height & mask) || !s->width || !s->height;
}

static void read_sps_references(Bits *b, Sps *s, int *is_bad) {
    s->num_short_sets = ue_below(b, MAX_SHORT_SETS, is_bad);
    for (int i = 0; i < s->num_short_sets && !*is_bad; i++)
        read_short_set(b, s, &s->short_sets[i], i, 0, is_bad);
    s->has_long = bit(b);
    s->num_long = s->has_long ? ue_below(b, 32, is_bad) : 0;
    for (int i = 0; i < s->num_long; i++) {
        skip(b, (uint64_t)s->poc_bits);
        s->long_is_used[i] = (uint8_t)bit(b);
    }
    s->has_mvp = bit(b);
}

/* seq_parameter_set_rbsp (7.3.2.2). Returns the set's number, or -1. */
static int read_sps(Bits *b, Sps *s) {
    int is_bad = 0;
    memset(s, 0, sizeof *s);
    skip(b, 4);
    int num_sub_layers = 1 + (int)bits(b, 3);
    bit(b);
    if (num_sub_layers > 7) return -1;
    int profile = read_profile(b, num_sub_layers);
    int id = ue_below(b, MAX_SPS - 1, &is_bad);
    s->chroma = ue_below(b, 3, &is_bad);
    s->has_planes = s->chroma == 3 && bit(b);
    if (s->has_planes) s->chroma = 0; /* ChromaArrayType */
    s->width = ue_below(b, 1 << 16, &is_bad), s->height = ue_below(b, 1 << 16, &is_bad);
    if (bit(b)) ue(b), ue(b), ue(b), ue(b);
    s->depth = 8 + ue_below(b, 8, &is_bad), s->chroma_depth = 8 + ue_below(b, 8, &is_bad);
    s->poc_bits = 4 + ue_below(b, 12, &is_bad);
    for (int i = bit(b) ? 0 : num_sub_layers - 1; i < num_sub_layers; i++) ue(b), ue(b), ue(b);
    if (!is_bad) read_sps_sizes(b, s, &is_bad);
    if (is_bad) return -1;
    if (bit(b) && bit(b)) skip_scaling_lists(b);
    s->has_amp = bit(b), s->has_sao = bit(b), s->has_pcm = bit(b);
    if (s->has_pcm) {
        s->pcm_bits = 1 + (int)bits(b, 4), s->pcm_chroma_bits = 1 + (int)bits(b, 4);
        s->log2_min_pcm = 3 + ue_below(b, 2, &is_bad);
        s->log2_max_pcm = s->log2_min_pcm + ue_below(b, 2, &is_bad);
        is_bad |= s->log2_max_pcm > 5;
        bit(b);
    }
    read_sps_references(b, s, &is_bad);
    bit(b);
    if (is_bad || is_overrun(b)) return -1;
    s->is_known = 1;
    s->is_parsed = !s->has_planes; /* which are three pictures in one */
    /* Profiles up to 3 have no extensions. Encoders of these write rates and colours that break the
     * syntax, which would hide where the extensions begin. */
    if (profile >= 1 && profile <= 3) return id;
    if (bit(b)) skip_vui(b, num_sub_layers, &is_bad);
    if (bit(b)) read_sps_extensions(b, s);
    return id;
}

static void read_tiles(Bits *b, Pps *p, int *is_bad) {
    p->num_columns = 1 + ue_below(b, MAX_TILES - 1, is_bad);
    p->num_rows = 1 + ue_below(b, MAX_TILES - 1, is_bad);
    p->is_uniform = bit(b);
    if (!p->is_uniform) {
        for (int i = 0; i < p->num_columns - 1; i++)
            p->column_sizes[i] = 1 + ue_below(b, 1 << 16, is_bad);
        for (int i = 0; i < p->num_rows - 1; i++) p->row_sizes[i] = 1 + ue_below(b, 1 << 16, is_bad);
    }
    bit(b);
}

static void read_pps_extensions(Bits *b, Pps *p, int *is_bad) {
    int has_range = bit(b);
    skip(b, 2);
    int has_screen = bit(b);
    skip(b, 4);
    if (has_screen) p->is_parsed = 0;
    if (!has_range) return;
    if (p->has_transform_skip) p->log2_max_skip = 2 + ue_below(b, 3, is_bad);
    p->has_cross_component = bit(b);
    p->has_chroma_qp = bit(b);
    if (p->has_chroma_qp) {
        p->chroma_qp_depth = ue_below(b, 3, is_bad);
        p->num_chroma_qp = 1 + ue_below(b, 5, is_bad);
    }
}

/* pic_parameter_set_rbsp (7.3.2.3). Returns the set's number, or -1. */
static int read_pps(Bits *b, Pps *p) {
    int is_bad = 0;
    memset(p, 0, sizeof *p);
    int id = ue_below(b, MAX_PPS - 1, &is_bad);
    p->sps = ue_below(b, MAX_SPS - 1, &is_bad);
    p->has_dependent = bit(b), p->has_output_flag = bit(b), p->num_extra_bits = (int)bits(b, 3);
    p->hides_signs = bit(b), p->has_cabac_init = bit(b);
    for (int i = 0; i < 2; i++) p->num_refs[i] = 1 + ue_below(b, 14, &is_bad);
    p->init_qp = 26 + se_within(b, -26 - 48, 25, &is_bad);
    bit(b); /* constrained_intra_pred_flag */
    p->has_transform_skip = bit(b);
    p->log2_max_skip = 2;
    p->has_qp_delta = bit(b);
    if (p->has_qp_delta) p->qp_delta_depth = ue_below(b, 3, &is_bad);
    se_within(b, -12, 12, &is_bad), se_within(b, -12, 12, &is_bad);
    p->has_slice_chroma_qp = bit(b);
    p->weighs_p = bit(b), p->weighs_b = bit(b);
    p->has_bypass = bit(b);
    p->has_tiles = bit(b), p->has_rows = bit(b);
    p->num_columns = p->num_rows = p->is_uniform = 1;
    if (p->has_tiles) read_tiles(b, p, &is_bad);
    p->filters_across = bit(b);
    p->has_deblocking = bit(b);
    if (p->has_deblocking) {
        p->has_override = bit(b), p->is_unfiltered = bit(b);
        if (!p->is_unfiltered) se_within(b, -6, 6, &is_bad), se_within(b, -6, 6, &is_bad);
    }
    if (bit(b)) skip_scaling_lists(b);
    p->changes_lists = bit(b);
    ue(b); /* log2_parallel_merge_level_minus2 */
    p->has_extension = bit(b);
    p->is_known = p->is_parsed = 1;
    if (bit(b)) read_pps_extensions(b, p, &is_bad);
    return is_bad || is_overrun(b) ? -1 : id;
}
