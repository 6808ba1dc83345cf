/* weight_q0.c - reading, packing and opening blocks of small heads. */
#include "engine/weight_q0.h"

#include <assert.h>
#include <string.h>

#define MAX_BLOCK 136 /* bytes of the largest stored block, IQ4_XS's */

static bool has_min(const q0_stored *s) {
    return s->layout->head == Q0_F16_MIN;
}

void weight_q0_dequantize(const q0_stored *s, size_t n, const void *stored,
                          float *out) {
    const size_t len = q0_head_cols(s->layout->head);
    assert(n % len == 0);

    for (size_t at = 0; at < n; at += Q0_LEN, out += Q0_LEN) {
        q0_part part;
        const uint8_t *block =
            (const uint8_t *)stored + at / len * s->block_bytes;
        s->read(block, at % len / Q0_LEN, &part);
        for (size_t i = 0; i < Q0_LEN; i++) {
            out[i] = part.scale * (float)part.values[i];
            if (has_min(s)) out[i] -= part.min;
        }
    }
}

/* A row that is none is packed as a block of zero bytes: its weights are zero
 * in every format. */
void weight_q0_pack(const q0_stored *s, size_t cols,
                    const void *const rows[WEIGHT_GROUP], void *out) {
    static const uint8_t none[MAX_BLOCK];
    const size_t len = q0_head_cols(s->layout->head);
    const size_t head_bytes = q0_head_bytes(s->layout->head);
    uint8_t *head = out;
    uint8_t *values = (uint8_t *)out + q0_values_offset(s->layout, cols);
    assert(s->block_bytes <= MAX_BLOCK);
    memset(out, 0, q0_values_offset(s->layout, cols));

    for (size_t b = 0; b < cols / len; b++) {
        for (size_t r = 0; r < WEIGHT_GROUP; r++) {
            const uint8_t *row = rows[r];
            s->pack(row != NULL ? row + b * s->block_bytes : none, r, head,
                    values);
        }
        head += head_bytes;
        values += len / Q0_LEN * s->layout->chunks * Q0_CHUNK;
    }
}

void weight_q0_pack_f16(uint16_t value, size_t r, uint8_t *item) {
    memcpy(item + r * sizeof(value), &value, sizeof(value));
}

/* Row r of an item of f16. */
static float open_f16(const uint8_t *item, size_t r) {
    uint16_t half;
    memcpy(&half, item + r * sizeof(half), sizeof(half));
    return f16_to_f32(half);
}

void weight_q0_open_head(const q0_layout *l, const uint8_t *group, size_t col,
                         weight_block *out) {
    const uint8_t *head = q0_head_at(l, group, col);
    const uint8_t *second = head + Q0_SECOND;
    const uint8_t *subs = second + q0_sub(col) * WEIGHT_GROUP;

    for (size_t r = 0; r < WEIGHT_GROUP; r++) {
        int sub = l->head == Q0_F16_SUBS ? (int8_t)subs[r] : 1;
        out->scale[r] =
            l->head == Q0_E8M0 ? weight_e8m0_half(head[r]) : open_f16(head, r);
        out->min[r] = l->head == Q0_F16_MIN ? open_f16(second, r) : 0.0f;
        for (size_t half = 0; half < 2; half++) {
            out->sub_scale[half][r] = sub;
            out->sub_min[half][r] = 1;
        }
    }
}

/* 2^-128 and 2^-127 are denormal: one and two quarters of the smallest normal
 * number, 2^-126.  There is no infinity and no NaN among the scales. */
float weight_e8m0_half(uint8_t e) {
    uint32_t bits = e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof(scale));
    return scale;
}
