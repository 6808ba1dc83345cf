/* attention_panel.h - a block's keys or values as what products read.
 *
 * Part of attention_rows.h.  A panel is a matrix of floats or f16 whose rows a
 * product walks: it is the page itself, or a copy as floats where many lanes
 * share it, where elements have scales, or where a row ends within a vector.
 * Rows of a copy are padded to whole vectors. */
#ifndef ENGINE_ATTENTION_PANEL_H
#define ENGINE_ATTENTION_PANEL_H

#include <stdbool.h>
#include "engine/attention_internal.h"
#include "engine/util.h"
#include "engine/vec16.h"

typedef struct {
    kv_type type; /* KV_F32 or KV_F16 */
    const void *data;
    size_t stride; /* of its rows, in elements */
} panel;

/* So few lanes convert f16 as fast as they would read a copy. */
#define DIRECT_LANES ((size_t)8)

/* Elements in a page: rows of `cols`. */
typedef struct {
    kv_type type;
    const void *data;
    const float *scales;
    size_t stride;
    size_t scale_stride; /* from one row of scales to the next */
    /* A scale per column and KV_SCALE_DIMS rows, columns being whole vectors;
     * else per row and so many columns. */
    bool column_scales;
} elements;

V16_INLINE v16 load_lanes(kv_type type, const void *from, size_t at) {
    if (type == KV_F16) return v16_load_f16((const uint16_t *)from + at);
    return v16_load((const float *)from + at);
}

/* The scale that columns of row r from `col` on share. */
V16_INLINE v16 scale_lanes(const elements *e, size_t r, size_t col) {
    return v16_set(e->scales[r * e->scale_stride + col / KV_SCALE_DIMS]);
}

V16_INLINE v16 unpack_lanes(kv_type type, const elements *e, size_t r,
                            size_t col) {
    const size_t at = r * e->stride + col;
    if (type != KV_Q8_0) return load_lanes(type, e->data, at);
    v16 q = v16_load_i8((const int8_t *)e->data + at);
    return v16_mul(scale_lanes(e, r, col), q);
}

/* The last columns of a row, fewer than a vector; the other lanes are 0. */
V16_INLINE v16 unpack_lanes_n(kv_type type, const elements *e, size_t r,
                              size_t col, size_t n) {
    const size_t at = r * e->stride + col;
    if (type == KV_F32) return v16_load_n((const float *)e->data + at, n);
    if (type == KV_F16) {
        return v16_load_f16_n((const uint16_t *)e->data + at, n);
    }
    int8_t last[V16_LANES] = {0};
    memcpy(last, (const int8_t *)e->data + at, n);
    return v16_mul(scale_lanes(e, r, col), v16_load_i8(last));
}

V16_INLINE void unpack_rows(kv_type type, const elements *e, size_t rows,
                            size_t cols, float *out) {
    const size_t stride = round_up(cols, V16_LANES);
    for (size_t r = 0; r < rows; r++, out += stride) {
        size_t col = 0;
        for (; col + V16_LANES <= cols; col += V16_LANES) {
            v16_store(out + col, unpack_lanes(type, e, r, col));
        }
        if (col == cols) continue;
        v16_store(out + col, unpack_lanes_n(type, e, r, col, cols - col));
    }
}

static void unpack_f32(const elements *e, size_t rows, size_t cols,
                       float *out) {
    unpack_rows(KV_F32, e, rows, cols, out);
}

static void unpack_f16(const elements *e, size_t rows, size_t cols,
                       float *out) {
    unpack_rows(KV_F16, e, rows, cols, out);
}

V16_INLINE v16 scaled_lanes(v16 scale, const int8_t *from) {
    return v16_mul(scale, v16_load_i8(from));
}

/* Transposed keys: 16 columns' scales serve so many rows. */
static void unpack_q8_0_keys(const elements *e, size_t rows, size_t cols,
                             float *out) {
    const int8_t *data = e->data;
    for (size_t r0 = 0; r0 < rows; r0 += KV_SCALE_DIMS) {
        const float *scales = e->scales + r0 / KV_SCALE_DIMS * e->scale_stride;
        const size_t end = size_min(r0 + KV_SCALE_DIMS, rows);
        for (size_t col = 0; col < cols; col += V16_LANES) {
            const v16 scale = v16_load(scales + col);
            for (size_t r = r0; r < end; r++) {
                v16_store(out + r * cols + col,
                          scaled_lanes(scale, data + r * e->stride + col));
            }
        }
    }
}

static void unpack_q8_0(const elements *e, size_t rows, size_t cols,
                        float *out) {
    if (e->column_scales) {
        unpack_q8_0_keys(e, rows, cols, out);
    } else {
        unpack_rows(KV_Q8_0, e, rows, cols, out);
    }
}

/* The first columns of the first rows: in place if a product of so many lanes
 * can read them there, or copied to `room`. */
static panel panel_of(const elements *e, size_t lanes, size_t rows, size_t cols,
                      float *room) {
    static void (*const unpack[KV_TYPES])(const elements *, size_t, size_t,
                                          float *) = {
        [KV_F32] = unpack_f32, [KV_F16] = unpack_f16, [KV_Q8_0] = unpack_q8_0};
    bool whole = cols % V16_LANES == 0;
    if (whole &&
        (e->type == KV_F32 || (e->type == KV_F16 && lanes <= DIRECT_LANES))) {
        return (panel){e->type, e->data, e->stride};
    }
    unpack[e->type](e, rows, cols, room);
    return (panel){KV_F32, room, round_up(cols, V16_LANES)};
}

#endif
