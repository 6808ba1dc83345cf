/* matrix.h - one packed weight matrix and its product with activation rows.
 *
 * A matrix of GGUF shape [cols, rows] maps a row of `cols` values to `rows`
 * values.  Packing copies from the file's layout into the kernels' (weight.h);
 * the file's bytes are not needed afterwards.  Immutable once packed. */
#ifndef ENGINE_MATRIX_H
#define ENGINE_MATRIX_H

#include <stdbool.h>
#include <stddef.h>
#include "engine/gguf.h"
#include "engine/pool.h"
#include "engine/weight.h"

typedef struct {
    const weight_format *format; /* NULL: there is no such matrix */
    size_t rows, cols;
    void *data; /* packed; owned, see matrix_fini() */
    size_t bytes;
} matrix;

/* Bytes that a packed matrix takes. */
size_t matrix_bytes(const weight_format *f, size_t rows, size_t cols);

/* The format of a tensor.  ERR_UNSUPPORTED, with a sentence, for one that we do
 * not compute with. */
int matrix_format(const gguf_tensor *t, const weight_format **out, char *why,
                  size_t why_size);

/* Where a matrix comes from: gives rows [row0, row0 + n) as stored, one after
 * the other.  0 or a negative code. */
typedef int (*matrix_rows)(void *ctx, size_t row0, size_t n, void *out);

/* Pack what `read` gives, in bounded pieces of whole row groups, ascending.
 * ERR_FORMAT for a shape that the format's blocks do not divide, -ENOMEM, or
 * what `read` says. */
int matrix_build(matrix *m, const weight_format *f, size_t rows, size_t cols,
                 matrix_rows read, void *ctx);

/* Read slab `index` of a tensor [cols, rows, n] (index 0 of a plain one) with
 * gguf_read() in bounded pieces and pack it.  ERR_UNSUPPORTED with the format's
 * name, ERR_FORMAT for a shape that the format's blocks do not divide. */
int matrix_load(matrix *m, const gguf *g, const gguf_tensor *t, size_t index,
                char *why, size_t why_size);

/* The same for rows [row0, row0 + rows), counted through all slabs.  ERR_RANGE
 * beyond the last. */
int matrix_load_rows(matrix *m, const gguf *g, const gguf_tensor *t,
                     size_t row0, size_t rows, char *why, size_t why_size);

/* Pack rows that are in memory as stored (tests, and weights from a peer). */
int matrix_pack(matrix *m, const weight_format *f, size_t rows, size_t cols,
                const void *stored);

/* Release the data; the struct is the caller's.  NULL and zeroed are fine. */
void matrix_fini(matrix *m);

/* The memory node that has a group of rows (topology.h). */
uint32_t matrix_home(const matrix *m, size_t group);

/* The activation form that this matrix multiplies: F32 when `exact` or for
 * float formats. */
act_form matrix_act(const matrix *m, bool exact);

/* y[t][r] for all rows r and n_x activation rows, spread over the pool. Each
 * y[t] needs matrix_padded_rows() floats (the padding is written). */
void matrix_mul(pool *p, const matrix *m, act_form form, const void *const *x,
                size_t n_x, float *const *y);

/* Several matrices over the same activation rows in one pool run, e.g. q, k, v.
 * y[i] is the array of output rows of matrix i. */
#define MATRIX_MUL_MAX 4
void matrix_mul_many(pool *p, size_t n, const matrix *const *m, act_form form,
                     const void *const *x, size_t n_x, float *const *const *y);

/* n matrices of one shape and format, as heads have them, with activation rows
 * of their own, in one run: y[i * n_x + t] = matrix i of x[i * n_x + t]. */
void matrix_mul_each(pool *p, size_t n, const matrix *m, act_form form,
                     const void *const *x, size_t n_x, float *const *y);

static inline size_t matrix_padded_rows(const matrix *m) {
    return (m->rows + WEIGHT_GROUP - 1) / WEIGHT_GROUP * WEIGHT_GROUP;
}

#endif
