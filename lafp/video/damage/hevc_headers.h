/* Reads HEVC's slice headers (ITU-T H.265, 7.3.6; the numbers are its clauses). */

#include "hevc_sets.h"

/* Types of units (table 7-1). */
enum { RASL_R = 9, BLA_W_LP = 16, IDR_W_RADL = 19, IDR_N_LP = 20, CRA = 21 };
enum { UNIT_SPS = 33, UNIT_PPS = 34 };
enum { B_SLICE, P_SLICE, I_SLICE };

typedef struct {
    int is_first, is_dependent, pps, type;
    uint32_t address, poc;
    int has_sao[2], num_refs[2], zero_mvd_l1, init_type, num_merge, qp, has_chroma_qp;
    size_t data_at; /* bytes from the unit's beginning */
} Slice;

static void skip_weight(Bits *b, int most, int *is_bad) {
    se_within(b, -128, 127, is_bad);
    se_within(b, -most, most - 1, is_bad);
}

static void skip_weights(Bits *b, const Sps *sps, const Slice *h, int *is_bad) { /* 7.3.6.3 */
    int offset = sps->high_offsets ? 1 << (sps->depth - 1) : 128;
    int chroma_offset = sps->high_offsets ? 1 << (sps->chroma_depth + 1) : 512;
    ue_below(b, 7, is_bad);
    if (sps->chroma) se_within(b, -7, 7, is_bad);
    for (int list = 0; list < (h->type == B_SLICE ? 2 : 1); list++) {
        uint32_t has_luma = bits(b, h->num_refs[list]);
        uint32_t has_chroma = sps->chroma ? bits(b, h->num_refs[list]) : 0;
        for (int i = h->num_refs[list] - 1; i >= 0; i--) {
            if (has_luma >> i & 1) skip_weight(b, offset, is_bad);
            for (int j = 0; j < 2; j++)
                if (has_chroma >> i & 1) skip_weight(b, chroma_offset, is_bad);
        }
    }
}

/* Reads which pictures a slice refers to. Returns how many (NumPicTotalCurr). */
static int read_references(Bits *b, const Sps *sps, int *is_bad) {
    ShortSet own;
    const ShortSet *set = &own;
    int count = 0;
    if (!bit(b))
        read_short_set(b, sps, &own, sps->num_short_sets, 1, is_bad);
    else if (!sps->num_short_sets)
        *is_bad = 1;
    else {
        uint32_t index = bits(b, bits_for((uint32_t)sps->num_short_sets));
        *is_bad |= index >= (uint32_t)sps->num_short_sets;
        set = &sps->short_sets[*is_bad ? 0 : index];
    }
    if (*is_bad) return 0;
    for (int i = 0; i < set->num_pictures; i++) count += set->is_used[i];
    if (!sps->has_long) return count;
    int num_of_sps = sps->num_long ? ue_below(b, (uint32_t)sps->num_long, is_bad) : 0;
    int num_long = num_of_sps + ue_below(b, 32, is_bad);
    for (int i = 0; i < num_long; i++) {
        if (i < num_of_sps) {
            uint32_t index = bits(b, bits_for((uint32_t)sps->num_long));
            *is_bad |= index >= (uint32_t)sps->num_long;
            count += sps->long_is_used[index & 31];
        } else {
            skip(b, (uint64_t)sps->poc_bits);
            count += bit(b);
        }
        if (bit(b)) ue(b);
    }
    return count;
}

static void read_prediction(Bits *b, const Sps *sps, const Pps *pps, Slice *h, int num_total,
                            int has_mvp, int *is_bad) {
    int is_b = h->type == B_SLICE, has_own = bit(b);
    for (int i = 0; i <= is_b; i++)
        h->num_refs[i] = has_own ? 1 + ue_below(b, 14, is_bad) : pps->num_refs[i];
    *is_bad |= !num_total;
    if (pps->changes_lists && num_total > 1)
        for (int i = 0; i <= is_b; i++)
            if (bit(b)) skip(b, (uint64_t)(h->num_refs[i] * bits_for((uint32_t)num_total)));
    if (is_b) h->zero_mvd_l1 = bit(b);
    int swaps = pps->has_cabac_init && bit(b);
    h->init_type = is_b != swaps ? 2 : 1;
    if (has_mvp) {
        int list = is_b && !bit(b);
        if (h->num_refs[list] > 1) ue_below(b, (uint32_t)h->num_refs[list] - 1, is_bad);
    }
    if (is_b ? pps->weighs_b : pps->weighs_p) skip_weights(b, sps, h, is_bad);
    h->num_merge = 5 - ue_below(b, 4, is_bad);
}

static void read_filters(Bits *b, const Pps *pps, const Slice *h, int *is_bad) {
    int is_unfiltered = pps->is_unfiltered;
    if (pps->has_deblocking && pps->has_override && bit(b)) {
        is_unfiltered = bit(b);
        if (!is_unfiltered) se_within(b, -6, 6, is_bad), se_within(b, -6, 6, is_bad);
    }
    if (pps->filters_across && (h->has_sao[0] || h->has_sao[1] || !is_unfiltered)) bit(b);
}

/* What an independent slice segment says, and dependent ones take over. */
static void read_independent(Bits *b, int unit, const Sps *sps, const Pps *pps, Slice *h,
                             int *is_bad) {
    int num_total = 0, has_mvp = 0;
    skip(b, (uint64_t)pps->num_extra_bits);
    h->type = ue_below(b, 2, is_bad);
    *is_bad |= unit >= BLA_W_LP && h->type != I_SLICE;
    if (pps->has_output_flag) bit(b);
    if (sps->has_planes) skip(b, 2);
    if (unit != IDR_W_RADL && unit != IDR_N_LP) {
        h->poc = bits(b, sps->poc_bits);
        num_total = read_references(b, sps, is_bad);
        has_mvp = sps->has_mvp && bit(b);
    }
    if (*is_bad) return;
    if (sps->has_sao) {
        h->has_sao[0] = bit(b);
        if (sps->chroma) h->has_sao[1] = bit(b);
    }
    if (h->type != I_SLICE) read_prediction(b, sps, pps, h, num_total, has_mvp, is_bad);
    h->qp = pps->init_qp + se_within(b, -128, 128, is_bad);
    *is_bad |= h->qp > 51 || h->qp < -6 * (sps->depth - 8);
    if (pps->has_slice_chroma_qp) se_within(b, -12, 12, is_bad), se_within(b, -12, 12, is_bad);
    if (pps->has_chroma_qp) h->has_chroma_qp = bit(b);
    read_filters(b, pps, h, is_bad);
}

/* slice_segment_header (7.3.6.1), after its parameter sets are known. `h` comes with what the last
 * independent slice segment said. */
static int read_slice(Bits *b, int unit, const Sps *sps, const Pps *pps, uint32_t num_ctbs, Slice *h) {
    int is_bad = 0;
    h->address = 0, h->is_dependent = 0;
    if (!h->is_first) {
        h->is_dependent = pps->has_dependent && bit(b);
        h->address = bits(b, bits_for(num_ctbs));
        if (!h->address || h->address >= num_ctbs) return BAD_HEADER;
    }
    if (!h->is_dependent) {
        Slice fresh = {.is_first = h->is_first, .pps = h->pps, .address = h->address};
        *h = fresh;
        read_independent(b, unit, sps, pps, h, &is_bad);
    }
    if (!is_bad && (pps->has_tiles || pps->has_rows)) { /* entry points */
        uint64_t num_entries = (uint64_t)ue_below(b, num_ctbs, &is_bad);
        if (num_entries) skip(b, num_entries * (uint64_t)(1 + ue_below(b, 31, &is_bad)));
    }
    if (pps->has_extension) skip(b, 8 * (uint64_t)ue_below(b, 256, &is_bad));
    if (is_bad || !bit(b)) return BAD_HEADER;
    while (b->at & 7) /* byte_alignment (7.3.2.13) */
        if (bit(b)) return BAD_HEADER;
    h->data_at = b->at >> 3;
    return is_overrun(b) ? BAD_HEADER : SOUND;
}
