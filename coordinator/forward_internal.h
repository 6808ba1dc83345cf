/* forward_internal.h - the state of a pass, and the parts that it is made of.
 * Only forward*.c include it.
 *
 * A part has buffers of its own, sized for the largest step when the pass is
 * made, and works on the rows that are still alive: `live` lists them, a row's
 * buffers are found by its number in the pass.  Each stage is one run of the
 * pool with a task a row, or a task a tile. */
#ifndef COORDINATOR_FORWARD_INTERNAL_H
#define COORDINATOR_FORWARD_INTERNAL_H

#include "coordinator/forward.h"
#include "coordinator/router.h"
#include "engine/act.h"
#include "engine/rope.h"

typedef struct {
    uint32_t item;
    uint32_t position;
    uint32_t index; /* within its item */
} row;

/* ---- rows of floats (forward_rows.c) ---- */

/* Rows of floats, and the same rows encoded as A8. */
typedef struct {
    size_t width;
    float *f32;                /* [max_rows][padded width] */
    uint8_t *a8;               /* [max_rows][a8 row] */
    const void **x[ACT_FORMS]; /* the live rows in either form */
} act_rows;

int act_rows_init(act_rows *a, size_t rows, size_t width);
void act_rows_fini(act_rows *a);
float *act_row_f32(const act_rows *a, uint32_t r);
void *act_row_a8(const act_rows *a, uint32_t r);
/* Encode row r from its floats. */
void act_rows_encode(const act_rows *a, uint32_t r);

size_t padded(size_t n); /* a row's room for a product's padding */
/* NULL if there is no memory. */
float *new_floats(size_t rows, size_t stride);

/* ---- parts ---- */

typedef struct {
    act_rows heads;   /* attention's output, n_heads * value_dim */
    float *q, *k, *v; /* [max_rows][padded] */
    size_t q_stride, k_stride, v_stride;
} attention_part;

typedef struct {
    act_rows q_low; /* what queries are made from, q_rank */
    float *q, *kv;  /* [max_rows][padded]; queries; what is cached */
    size_t q_stride, kv_stride;
    /* Of the rows of a piece, for each head: */
    float *absorbed; /* [row][head]: the query in the latent space | rotated */
    float *sums;     /* [row][head][rank]: what attention gives there */
    float *values;   /* [row][head][padded value_dim] */
    uint8_t *a8;     /* [row][head]: input of the next product, encoded */
    const void **x;  /* [head][row]: inputs and */
    float **y;       /* outputs of the next product */
} latent_part;

typedef struct {
    float *scores;    /* [padded max_rows][n_experts] */
    float *tile_in;   /* [padded max_rows][n_embd] */
    uint32_t *chosen; /* [max_rows][n_used], live rows in order */
    float *chosen_weights;
    router_scratch *routing; /* of each worker */
    act_rows scaled;         /* rows times their weights, if that is the rule */
    exchange_outputs outputs;
    bool *lost;    /* [max_rows] */
    float *beside; /* [max_rows][padded n_embd]: what is added to the experts'
                      sum, or NULL */
} moe_part;

struct forward {
    forward_config config;
    const model_config *model;
    rope *rope;
    uint32_t *moe_layers;
    uint32_t n_moe;

    forward_item *items;
    uint32_t n_items;
    row *rows; /* all rows of the pass, item after item */
    uint32_t n_rows;
    uint32_t *live; /* rows still alive */
    uint32_t n_live;
    uint32_t layer; /* that is being computed */

    float *residual; /* [max_rows][n_embd] */
    float *branch;   /* [max_rows][padded n_embd]: what a sub-layer gives */
    act_rows hidden; /* normed input of a sub-layer, n_embd */
    float *angles;   /* [max_rows][rope dims] */
    float **y[MATRIX_MUL_MAX]; /* output row pointers */
    ffn_scratch *dense;        /* of networks computed here, or NULL */

    attention_part attention;
    latent_part latent;
    moe_part moe;

    act_rows last; /* normed rows for the output matrix */
    float *logits; /* [FORWARD_LOGIT_ROWS][padded n_vocab] */
};

static inline const layer_weights *layer_of(const forward *f) {
    return &f->config.weights->layers[f->layer];
}
static inline float *residual_row(const forward *f, uint32_t r) {
    return f->residual + (size_t)r * f->model->n_embd;
}
static inline float *branch_row(const forward *f, uint32_t r) {
    return f->branch + r * padded(f->model->n_embd);
}

/* forward_rows.c: products.  The live rows of `a` are pointed at, then the
 * outputs of up to MATRIX_MUL_MAX matrices, then all are multiplied, in one run
 * of the pool for each form of rows. */
void point_at_live(forward *f, act_rows *a);
void point_outputs(forward *f, int which, float *base, size_t stride);
void multiply(forward *f, const act_rows *a, size_t n, const matrix *const *m);

/* forward_rows.c: a norm of the model's kind over n_embd values. */
void norm_row(const forward *f, const norm_weights *n, const float *x,
              float *out);
/* forward_rows.c: the end of a branch for row r: its bias, its norm (either may
 * be NULL, or a norm without weights), then it is added to the residual. */
void add_branch(const forward *f, const float *bias, const norm_weights *after,
                uint32_t r);

/* forward_attention.c: from the residual to `branch`; of latent attention the
 * begin and the end. */
int attention_part_init(forward *f);
void attention_part_fini(forward *f);
void forward_attention(forward *f);

/* forward_latent.c: from hidden rows to attention's heads, encoded. */
int latent_part_init(forward *f);
void latent_part_fini(forward *f);
void latent_attention(forward *f);

/* forward_ffn.c: ends attention's branch and norms for what follows; then a
 * network that is computed here, from hidden rows to rows of padded n_embd. */
int ffn_part_init(forward *f);
void forward_ffn_input(forward *f);
void forward_network(forward *f, const ffn_weights *w, float *out);

/* forward_moe.c: the router's choice and the experts, into `branch`. */
int moe_part_init(forward *f);
void moe_part_fini(forward *f);
int forward_moe(forward *f, uint32_t moe_index, uint64_t deadline_us);

#endif
