/* What the parser of VP9 keeps of a frame and of those before it, and tables that follow from others.
 * The numbers are sections of the specification.
 */

#include "vp9_probs.h"

enum { BAD_HEADER = -1, OUT_OF_MEMORY = -2, NO_KEY_FRAME = -3, OVERRUN = -4, TOO_LARGE = -5 };
enum { BAD_BLOCK = -6, NO_FILTER = 3, MAX_VECTOR = 1 << 14 };

/* ---- state ---- */

typedef struct { int16_t row, col; } Mv;

/* A square of 8x8 pixels, as later blocks and the next frame see it. */
typedef struct {
    Mv mvs[2];
    uint8_t refs[2]; /* 0: none */
    uint8_t kind;    /* what it counts in MODE_CONTEXTS */
} Motion;

/* What a block shows to those below it or to the right of it, for each 8 pixels of its side. */
typedef struct {
    uint8_t skips, tx, filter, is_predicted, refs[2];
    uint8_t modes[2]; /* of its 4x4 blocks at that side */
    Mv mvs[2][2];
} Side;

/* A coefficient: its place, those of the neighbours that tell its context, and its band. */
typedef struct { uint16_t at, near[2], band; } Step;

typedef struct {
    uint8_t enabled, has_map, is_temporal, tree_probs[7], predicted_probs[3];
    uint8_t has_ref[8], ref[8], skips[8];
} Segments;

typedef struct {
    int is_key, is_intra, is_shown, is_resilient, resets, refreshes;
    int keeps_probs, is_parallel, context; /* with which probabilities it begins, and what they become */
    int compound; /* whether blocks have two references: 0 no, 1 always, 2 some */
    int is_high, selects_filter, is_lossless, tx_mode, uses_old_motion;
    int columns_log2, rows_log2; /* of the tiles */
    size_t num_header_bytes;
} Header;

typedef struct {
    int64_t max_pixels;
    int is_lost; /* whether frames are missing for the next one */
    int width_px, height_px, width, height; /* the latter in 8 pixels */
    int chroma_x, chroma_y;                 /* whether chroma has half as many columns and rows */
    int profile, num_bits;
    int ref_widths[8], ref_heights[8]; /* 0: no frame */
    /* Of the frame before: */
    int last_width_px, last_height_px, was_shown, was_key, was_intra_only;
    int sign_bias[4], fixed_ref, variable_refs[2];
    Segments segments;
    Header header;
    Probs probs, contexts[4];
    Counts counts;
    Motion *motion, *old_motion;
    uint8_t *segment_ids, *old_segment_ids;
    Side *above;
    uint8_t *above_partition, *above_nonzero[3]; /* [aligned width] */
    uint8_t pareto[256][8];
    Step small[3][16], middle[3][64], large[3][256], huge[1024]; /* by transform and scan */
} Vp9;

typedef struct {
    Vp9 *s;
    Reader r;
    int first_col, end_col;
    Side left[8];
    uint8_t left_partition[8], left_nonzero[3][16];
} Tile;

typedef struct {
    int row, col, size;        /* an index of WIDTH_LOG2 */
    int width, height;         /* in 8 pixels */
    int num_cols, num_rows;    /* those within the picture */
    const Side *above, *left;  /* NULL outside of the picture or tile */
    int segment, is_predicted, skips, tx, is_inter, filter, refs[2], kind;
    uint8_t modes[4];
    Mv mvs[4][2];
} Block;

/* ---- tables that follow from others ---- */

enum { BOTH_SCAN, ROW_SCAN, COL_SCAN };

/* Neighbours of a coefficient lie above and to the left; those of a scan of rows or columns in one
 * of these directions only (9.3). */
static void fill_steps(Step *steps, const uint16_t *scan, int side, int direction) {
    for (int i = 0; i < side * side; i++) {
        int at = scan[i], row = at / side, col = at % side;
        int up = row ? at - side : at - 1, left = col ? at - 1 : up;
        if (!row) up = left;
        int band = side == 4 ? BANDS_4X4[i] : i < 21 ? BANDS[i] : 27;
        Step step = {(uint16_t)at, {0, 0}, (uint16_t)band};
        if (at) {
            step.near[0] = (uint16_t)(direction == ROW_SCAN ? left : up);
            step.near[1] = (uint16_t)(direction == COL_SCAN ? up : left);
        }
        steps[i] = step;
    }
}

static void fill_tables(Vp9 *s) {
    static const uint16_t *const SMALL[] = {DEFAULT_SCAN_4X4, ROW_SCAN_4X4, COL_SCAN_4X4};
    static const uint16_t *const MIDDLE[] = {DEFAULT_SCAN_8X8, ROW_SCAN_8X8, COL_SCAN_8X8};
    static const uint16_t *const LARGE[] = {DEFAULT_SCAN_16X16, ROW_SCAN_16X16, COL_SCAN_16X16};
    for (int i = 0; i < 3; i++) {
        fill_steps(s->small[i], SMALL[i], 4, i);
        fill_steps(s->middle[i], MIDDLE[i], 8, i);
        fill_steps(s->large[i], LARGE[i], 16, i);
    }
    fill_steps(s->huge, DEFAULT_SCAN_32X32, 32, BOTH_SCAN);
    /* Only every other probability is listed, from 1 on (9.3). */
    for (int p = 1; p < 256; p++)
        for (int i = 0; i < 8; i++) {
            int low = PARETO[(p - 1) / 2][i];
            s->pareto[p][i] = (uint8_t)(p & 1 ? low : (low + PARETO[p / 2][i]) >> 1);
        }
}

Vp9 *lafp_vp9_new(int64_t max_pixels) {
    Vp9 *s = calloc(1, sizeof(Vp9));
    if (!s) return NULL;
    s->max_pixels = max_pixels;
    fill_tables(s);
    for (int i = 0; i < 4; i++) set_defaults(&s->contexts[i]);
    return s;
}

static void free_pictures(Vp9 *s) {
    free(s->motion), free(s->old_motion), free(s->segment_ids), free(s->old_segment_ids);
    free(s->above), free(s->above_partition);
    s->motion = s->old_motion = NULL, s->segment_ids = s->old_segment_ids = NULL;
    s->above = NULL, s->above_partition = NULL;
    s->width_px = s->height_px = 0;
    for (int i = 0; i < 3; i++) free(s->above_nonzero[i]), s->above_nonzero[i] = NULL;
}

void lafp_vp9_free(Vp9 *s) {
    if (!s) return;
    free_pictures(s);
    free(s);
}

static int aligned_width(const Vp9 *s) { return (s->width + 7) & ~7; }

static int resize(Vp9 *s, int width_px, int height_px) {
    if ((int64_t)width_px * height_px > s->max_pixels) return TOO_LARGE;
    if (s->width_px == width_px && s->height_px == height_px) return 0;
    free_pictures(s);
    s->width = (width_px + 7) / 8, s->height = (height_px + 7) / 8;
    size_t count = (size_t)s->width * s->height, side = (size_t)aligned_width(s);
    s->motion = calloc(count, sizeof(Motion)), s->old_motion = calloc(count, sizeof(Motion));
    s->segment_ids = calloc(count, 1), s->old_segment_ids = calloc(count, 1);
    s->above = calloc(side, sizeof(Side)), s->above_partition = calloc(side, 1);
    int is_whole = s->motion && s->old_motion && s->segment_ids && s->old_segment_ids;
    is_whole = is_whole && s->above && s->above_partition;
    for (int i = 0; i < 3; i++) is_whole = (s->above_nonzero[i] = calloc(side, 2)) && is_whole;
    if (!is_whole) {
        free_pictures(s);
        return OUT_OF_MEMORY;
    }
    s->width_px = width_px, s->height_px = height_px;
    return 0;
}
