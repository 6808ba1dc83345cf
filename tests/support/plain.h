/* plain.h - products and networks as plain loops over stored weights.
 *
 * Written from the numerics contract (engine/weight.h, act.h, ffn.h) and apart
 * from the code under test: nothing is packed, cut or spread.  Slow and meant
 * to be. */
#ifndef TESTS_SUPPORT_PLAIN_H
#define TESTS_SUPPORT_PLAIN_H

#include <stddef.h>
#include <stdint.h>
#include "engine/act.h"
#include "engine/ffn.h"
#include "engine/weight.h"

/* ---- random data, the same for a seed on every machine ---- */
uint32_t plain_random(uint64_t *seed);
/* Uniform in [-1, 1). */
float plain_random_float(uint64_t *seed);

typedef enum {
    PLAIN_USUAL,   /* what a model has */
    PLAIN_EXTREME, /* largest values of either sign, -128, huge scales */
    PLAIN_TINY,    /* denormals, and scales that are */
    PLAIN_KINDS
} plain_kind;

/* n stored weights of a format we compute with. */
void plain_weights(uint64_t *seed, plain_kind kind, uint32_t type, size_t n,
                   void *out);
/* One encoded activation row; A8 rows have values of all sizes up to 127. */
void plain_row(uint64_t *seed, plain_kind kind, act_form form, size_t n,
               void *out);

/* ---- the contract ---- */

/* Bytes of a stored row. */
size_t plain_stored_bytes(uint32_t type, size_t cols);

/* One stored row times one encoded row over columns [col0, col1). */
float plain_dot(uint32_t type, act_form form, size_t cols, size_t col0,
                size_t col1, const void *stored, const void *x);

typedef struct {
    uint32_t type;
    size_t rows, cols;
    const void *stored;
} plain_matrix;

/* What a network has beside its matrices; zeroed: SwiGLU without biases. */
typedef struct {
    ffn_activation activation;
    const float *gate_bias, *up_bias; /* NULL: none */
} plain_join;

/* down * join(gate * x, up * x) for one row, with `segments` in the down
 * product; y has down.rows values. */
void plain_ffn(const plain_matrix *gate, const plain_matrix *up,
               const plain_matrix *down, const plain_join *how, size_t segments,
               int exact, act_form x_form, const void *x, float *y);

#endif
