/* ffn.h - the feed-forward network: one expert, a shared expert, a dense layer.
 *
 *   y = down * join(gate * x + gate_bias, up * x + up_bias)
 *
 * A bias is added to the finished sum of its product, then the two are joined:
 * how is the network's activation (vmath.h has the formulas).
 *
 * The down product is cut into C = 2^m equal segments of the hidden width, the
 * largest C <= 8 whose segment is a multiple of 32 and of the down format's
 * block (1 if there is none); each segment sums from zero, and the segments'
 * sums are added as a binary tree: ((s0+s1)+(s2+s3))+((s4+s5)+(s6+s7)).
 * A slice of an expert is a subtree of it, so slicing changes no bit. */
#ifndef ENGINE_FFN_H
#define ENGINE_FFN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/matrix.h"

/* How gate and up are joined. */
typedef enum {
    FFN_SWIGLU,         /* vm_silu_mul() */
    FFN_GELU,           /* vm_gelu_mul() */
    FFN_SWIGLU_CLAMPED, /* vm_swiglu_clamped() */
    FFN_ACTIVATIONS
} ffn_activation;

typedef struct {
    matrix gate; /* [model_dim, ffn_dim] */
    matrix up;   /* [model_dim, ffn_dim] */
    matrix down; /* [ffn_dim, model_dim] */
    /* [ffn_dim] each, from aligned_alloc_zero(), owned; NULL: none */
    float *gate_bias, *up_bias;
    ffn_activation activation;
    /* Segments of the down product, a power of two; 0 means ffn_segments() of
     * this width.  A slice has its share of the whole network's. */
    size_t segments;
} ffn_weights;

/* C of the contract for a hidden width and down format. */
size_t ffn_segments(const weight_format *down, size_t ffn_dim);

/* Release matrices and biases. */
void ffn_fini(ffn_weights *w);

/* The memory of a network as it lies, in a fixed order: gate, up, down, then
 * the biases that there are.  Returns how many pieces that is. */
#define FFN_PIECES_MAX 5
typedef struct {
    const void *data;
    size_t bytes;
} ffn_piece;
size_t ffn_pieces(const ffn_weights *w, ffn_piece out[FFN_PIECES_MAX]);

/* One network applied to some activation rows. */
typedef struct {
    const ffn_weights *weights;
    size_t n_rows;
    const void *const *x; /* n_rows encoded rows, in `x_form` of the run */
    float *const *y;      /* n_rows outputs of padded(model_dim) floats */
} ffn_job;

/* Scratch for runs of up to `max_rows` (row, network) pairs in total and
 * `max_jobs` jobs of hidden width up to `max_ffn_dim` and output width
 * `model_dim`.  One run at a time. */
typedef struct ffn_scratch ffn_scratch;
int ffn_scratch_new(ffn_scratch **out, size_t max_rows, size_t max_jobs,
                    size_t max_ffn_dim, size_t model_dim);
void ffn_scratch_free(ffn_scratch *s);

/* Run all jobs, spread over the pool in two phases (gate and up; down), each
 * expert's weights read once for all its rows.  `x_form` is the form of x; the
 * hidden rows take the form matrix_act(down, exact).  ERR_RANGE above the
 * scratch's sizes.  y's bits depend only on weights and the row. */
int ffn_run(pool *p, ffn_scratch *s, const ffn_job *jobs, size_t n_jobs,
            act_form x_form, bool exact);

#endif
