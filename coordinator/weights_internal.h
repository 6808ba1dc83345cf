/* weights_internal.h - how the parts of a layer are loaded.  Only weights*.c
 * include it.
 *
 * A loader loads one layer, or what belongs to none, and counts it; several
 * work at once.  On failure what was loaded stays where it was put, for the
 * part's _fini(). */
#ifndef COORDINATOR_WEIGHTS_INTERNAL_H
#define COORDINATOR_WEIGHTS_INTERNAL_H

#include "coordinator/weights.h"

typedef struct {
    weights *w;
    uint64_t bytes, bytes_per_token; /* as in the weights; of this loader */
    char *why;
    size_t why_size;
} loader;

/* Bytes that were loaded and that every token reads. */
void load_count(loader *l, uint64_t bytes);
/* All values of a tensor as f32, in stored order. */
int load_floats(loader *l, const gguf_tensor *t, float **out);
/* "blk.<layer>.<name>.weight" as f32: [rows, n] (rows 0: one vector). */
int load_vector(loader *l, uint32_t layer, const char *name, uint64_t n,
                uint64_t rows, float **out);
/* "blk.<layer>.<name>.bias", [n]. */
int load_bias(loader *l, uint32_t layer, const char *name, uint64_t n,
              float **out);
/* Values [from, from + n) of a bias of `all`. */
int load_bias_part(loader *l, uint32_t layer, const char *name, uint64_t all,
                   uint64_t from, uint64_t n, float **out);
/* The norm's weights, and its bias if the model's norms have one. */
int load_norm(loader *l, uint32_t layer, const char *name, bool bias,
              norm_weights *out);
int load_matrix(loader *l, uint32_t layer, const char *name, uint64_t cols,
                uint64_t rows, matrix *out);
/* The same for rows that must not meet rounded activations: what the file has
 * quantized becomes f32. */
int load_float_matrix(loader *l, uint32_t layer, const char *name,
                      uint64_t cols, uint64_t rows, matrix *out);
/* Rows [row0, row0 + rows) of a tensor of `all` rows. */
int load_matrix_rows(loader *l, uint32_t layer, const char *name, uint64_t cols,
                     uint64_t all, uint64_t row0, uint64_t rows, matrix *out);
void norm_fini(norm_weights *n);

/* weights_attention.c */
int load_attention(loader *l, uint32_t layer, layer_weights *lw);
void attention_weights_fini(attention_weights *a);

/* weights_latent.c: all but the norm before it and the output. */
int load_latent(loader *l, uint32_t layer, latent_weights *a);
void latent_weights_fini(latent_weights *a);

/* weights_ffn.c */
int load_feed_forward(loader *l, uint32_t layer, layer_weights *lw);
void moe_weights_fini(moe_weights *m);

#endif
