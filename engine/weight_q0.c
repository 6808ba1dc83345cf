/* weight_q0.c - packing and opening the scales of Q8_0 and Q4_0. */
#include "engine/weight_q0.h"

#include <string.h>

void weight_q0_pack_scale(uint16_t scale, size_t r, uint8_t *scales) {
    memcpy(scales + r * sizeof(scale), &scale, sizeof(scale));
}

void weight_q0_open_scales(const q0_block *block, weight_block *out) {
    for (size_t r = 0; r < WEIGHT_GROUP; r++) {
        uint16_t scale;
        memcpy(&scale, block->scales + r * sizeof(scale), sizeof(scale));
        out->scale[r] = f16_to_f32(scale);
        out->sub_scale[0][r] = out->sub_scale[1][r] = 1;
    }
}
