/* weight_k.c - packing and opening the head that Q4_K and Q5_K share. */
#include "engine/weight_k.h"

#include <string.h>

void weight_k_pack_head(const k_head *h, size_t r, uint8_t *head) {
    memcpy(head + r * sizeof(h->scale), &h->scale, sizeof(h->scale));
    memcpy(head + K_PACKED_MINS + r * sizeof(h->min), &h->min, sizeof(h->min));
    for (size_t j = 0; j < K_ACT_BLOCKS; j++) {
        k_sub sub = k_head_sub(h, j);
        uint8_t *at = head + K_PACKED_SUBS + j * K_PACKED_SUB + r;
        at[0] = sub.scale;
        at[K_PACKED_SUB_MINS] = sub.min;
    }
}

void weight_k_open_head(const uint8_t *head, size_t j, weight_block *out) {
    const uint8_t *subs = head + K_PACKED_SUBS + j * K_PACKED_SUB;

    for (size_t r = 0; r < WEIGHT_GROUP; r++) {
        uint16_t scale, min;
        memcpy(&scale, head + r * sizeof(scale), sizeof(scale));
        memcpy(&min, head + K_PACKED_MINS + r * sizeof(min), sizeof(min));
        out->scale[r] = f16_to_f32(scale);
        out->min[r] = f16_to_f32(min);
        out->sub_scale[0][r] = out->sub_scale[1][r] = subs[r];
        out->sub_min[r] = subs[K_PACKED_SUB_MINS + r];
    }
}
