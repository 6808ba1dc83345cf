/* weight_fives.c - packing and opening 32 values of 5 bits. */
#include "engine/weight_fives.h"

#include <string.h>
#include "engine/util.h"

/* Where the top bits of the chunks keep the last three. */
static const struct {
    uint8_t chunk, shift; /* where the piece is */
    uint8_t bits;
    uint8_t of, at; /* the chunk it belongs to, and its place in a value */
} pieces[] = {
    {0, 5, 3, 5, 0}, {1, 6, 2, 5, 3}, {2, 5, 3, 6, 0}, {3, 6, 2, 6, 3},
    {4, 5, 3, 7, 0}, {1, 5, 1, 7, 3}, {3, 5, 1, 7, 4},
};

/* Four bits, a byte each. */
static const uint8_t spread[16][4] = {
    {0, 0, 0, 0}, {1, 0, 0, 0}, {0, 1, 0, 0}, {1, 1, 0, 0},
    {0, 0, 1, 0}, {1, 0, 1, 0}, {0, 1, 1, 0}, {1, 1, 1, 0},
    {0, 0, 0, 1}, {1, 0, 0, 1}, {0, 1, 0, 1}, {1, 1, 0, 1},
    {0, 0, 1, 1}, {1, 0, 1, 1}, {0, 1, 1, 1}, {1, 1, 1, 1},
};

void weight_fives_read(const fives_stored *s, int8_t zero,
                       int8_t out[FIVES_LEN]) {
    const unsigned half = FIVES_LEN / 2;
    for (unsigned i = 0; i < FIVES_LEN; i += 4) {
        const uint8_t *fifths = spread[s->fifth[i / 8] >> (i % 8) & 15];
        weight_four low = weight_load_four(s->nibbles + i % half);
        weight_four four = weight_four_bits(low, i / half * 4, 4) |
                           weight_load_four(fifths) << 4;
        memcpy(out + i, &four, sizeof(four));
    }
    for (size_t i = 0; i < FIVES_LEN; i++) {
        out[i] = (int8_t)(out[i] - zero);
    }
}

void weight_fives_pack(const int8_t values[FIVES_LEN], size_t r,
                       uint8_t *chunks) {
    weight_four v[FIVES_OPENED];
    for (size_t c = 0; c < FIVES_OPENED; c++) {
        v[c] = weight_load_four(values + c * 4);
    }
    for (size_t i = 0; i < ARRAY_LEN(pieces); i++) {
        weight_four bits =
            weight_four_bits(v[pieces[i].of], pieces[i].at, pieces[i].bits);
        v[pieces[i].chunk] |= bits << pieces[i].shift;
    }
    for (size_t c = 0; c < FIVES_CHUNKS; c++) {
        memcpy(chunks + c * FIVES_CHUNK + r * 4, &v[c], sizeof(v[c]));
    }
}

/* Row r's 32 values. */
static void open_row(const uint8_t *chunks, size_t r, int8_t out[FIVES_LEN]) {
    weight_four in[FIVES_CHUNKS], v[FIVES_OPENED] = {0};
    for (size_t c = 0; c < FIVES_CHUNKS; c++) {
        in[c] = weight_load_four(chunks + c * FIVES_CHUNK + r * 4);
        v[c] = weight_four_bits(in[c], 0, 5);
    }
    for (size_t i = 0; i < ARRAY_LEN(pieces); i++) {
        weight_four bits = weight_four_bits(in[pieces[i].chunk],
                                            pieces[i].shift, pieces[i].bits);
        v[pieces[i].of] |= bits << pieces[i].at;
    }
    memcpy(out, v, FIVES_LEN);
}

void weight_fives_open(const uint8_t *chunks, int8_t zero, weight_block *out) {
    for (size_t r = 0; r < WEIGHT_GROUP; r++) {
        int8_t values[FIVES_LEN];
        open_row(chunks, r, values);
        for (size_t i = 0; i < FIVES_LEN; i++) {
            out->values[i][r] = (int8_t)(values[i] - zero);
        }
    }
}
