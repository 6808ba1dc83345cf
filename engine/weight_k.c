/* weight_k.c - packing and opening the head that Q4_K and Q5_K share. */
#include "engine/weight_k.h"

void weight_k_pack_head(const k_head *h, size_t r, k_packed_head *out) {
    out->scales[r] = h->scale;
    out->mins[r] = h->min;
    for (size_t j = 0; j < K_ACT_BLOCKS; j++) {
        k_sub sub = k_head_sub(h, j);
        out->subs[j].scales[r] = sub.scale;
        out->subs[j].mins[r] = sub.min;
    }
}

void weight_k_open_head(const k_packed_head *head, size_t j,
                        weight_block *out) {
    for (size_t r = 0; r < WEIGHT_GROUP; r++) {
        out->scale[r] = f16_to_f32(head->scales[r]);
        out->min[r] = f16_to_f32(head->mins[r]);
        for (size_t half = 0; half < 2; half++) {
            out->sub_scale[half][r] = head->subs[j].scales[r];
            out->sub_min[half][r] = head->subs[j].mins[r];
        }
    }
}
