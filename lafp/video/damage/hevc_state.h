/* What the parser of HEVC knows of a file and of the current picture (ITU-T H.265). */

#include <stdlib.h>

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
    int num_pictures;     /* whole ones of the current packet */
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
                int at = s->scans[kind][2][i], context = sig_context(neighbours, at & 7, at >> 3);
                s->sig_contexts[kind][neighbours][i] = (uint8_t)context;
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
    int64_t extra = 256; /* sides may be rounded up and cropped, and FFmpeg is as lenient */
    if (sps->width > extra && (sps->width - extra) * (sps->height - extra) > s->max_pixels)
        return BAD_SET;
    int mask = (1 << sps->log2_ctb) - 1;
    int width = (sps->width + mask) >> sps->log2_ctb, height = (sps->height + mask) >> sps->log2_ctb;
    if (!tile_bounds(s->pps.column_sizes, s->pps.num_columns, s->pps.is_uniform, width, columns) ||
        !tile_bounds(s->pps.row_sizes, s->pps.num_rows, s->pps.is_uniform, height, rows))
        return BAD_SET;
    size_t count = (size_t)width * (size_t)height;
    free_maps(s);
    s->to_raster = malloc(count * 4), s->to_tile_order = malloc(count * 4);
    s->slice_of = malloc(count * 4), s->tile_of = malloc(count * 2);
    s->above = calloc((size_t)(sps->width + 7) / 8, 1);
    if (!s->to_raster || !s->to_tile_order || !s->slice_of || !s->tile_of || !s->above)
        return OUT_OF_MEMORY;
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
