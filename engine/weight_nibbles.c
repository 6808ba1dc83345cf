/* weight_nibbles.c - reading, packing and opening 32 nibbles. */
#include "engine/weight_nibbles.h"

#include <string.h>

void weight_nibbles_read(const nibble_format *f, const uint8_t *bytes,
                         int8_t out[Q0_LEN]) {
    for (size_t i = 0; i < NIBBLES_BYTES; i++) {
        out[i] = f->values[bytes[i] & 15];
        out[i + NIBBLES_HIGH] = f->values[bytes[i] >> 4];
    }
}

void weight_nibbles_pack(const uint8_t *bytes, size_t r, uint8_t *values) {
    for (size_t c = 0; c < NIBBLES_CHUNKS; c++) {
        memcpy(values + c * Q0_CHUNK + r * 4, bytes + c * 4, 4);
    }
}

void weight_nibbles_open(const nibble_format *f, const uint8_t *values,
                         weight_block *out) {
    for (size_t r = 0; r < WEIGHT_GROUP; r++) {
        for (size_t i = 0; i < NIBBLES_BYTES; i++) {
            uint8_t byte = values[i / 4 * Q0_CHUNK + r * 4 + i % 4];
            out->values[i][r] = f->values[byte & 15];
            out->values[i + NIBBLES_HIGH][r] = f->values[byte >> 4];
        }
    }
}
