/* forward_internal.h - the state of a pass, and the parts that it is made of.
 * Only forward*.c include it.
 *
 * The rows of a pass are computed as one micro-batch, or two in turn: while the
 * nodes have the experts of one, attention of the other is computed here.  What
 * `live`, `n_live` and `layer` say is of the micro-batch in hand.
 *
 * A part has buffers of its own, sized for the largest step when the pass is
 * made, and works on the rows that are still alive: `live` lists them, a row's
 * buffers are found by its number in the pass.  Each stage is one run of the
 * pool with a task a row, or a task a tile. */
#ifndef COORDINATOR_FORWARD_INTERNAL_H
#define COORDINATOR_FORWARD_INTERNAL_H

#include "coordinator/forward.h"
#include "coordinator/micro_costs.h"
#include "coordinator/router.h"
#include "engine/act.h"
#include "engine/attention.h"
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

/* Live rows of one sequence that attention takes at once; all but one that
 * stands alone end in the same block of keys. */
typedef struct {
    uint32_t first, n;
} row_tile;

/* How attention of some live rows is cut into tasks: every tile by every KV
 * head, by its query heads in parts of `heads`. */
typedef struct {
    uint32_t n_tiles, n_kv_heads, group;
    uint32_t heads, parts;
} attention_cut;

/* One of them. */
typedef struct {
    row_tile rows;
    uint32_t kv_head, head, n_heads; /* head: within the group */
} attention_task;

typedef struct {
    act_rows heads;   /* attention's output, n_heads * value_dim */
    float *q, *k, *v; /* [max_rows][padded] */
    size_t q_stride, k_stride, v_stride;
    row_tile *tiles; /* [max_rows] */
    attention_cut cut;
    bool whole_blocks; /* a task's part of `heads` is blocks of A8 */
    bool writes_late;  /* it writes the keys and values that it reads */
    attention_scratch **scratch; /* of each worker */
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
    float *scores;           /* [max_rows][padded n_experts] */
    router_scratch *routing; /* of each worker */
    act_rows scaled;         /* rows times their weights, if that is the rule */
    float *beside; /* [max_rows][padded n_embd]: what is added to the experts'
                      sum, or NULL */
} moe_part;

typedef struct {
    uint64_t shared_bytes;  /* that rows read together, but the output matrix */
    uint64_t *expert_bytes; /* [n_layers], of one */
    uint64_t *seen, mark;   /* [n_experts]: when it was chosen last */
    forward_work done;
} work_part;

/* Rows that go through the layers together. */
typedef struct {
    uint32_t *live; /* [max_rows] those still alive */
    uint32_t n_live;
    /* of the layer whose experts are being computed */
    bool away;        /* is there one? */
    uint32_t *chosen; /* [max_rows][n_used], live rows in order */
    float *chosen_weights;
    const void **rows; /* [max_rows] that the experts take */
    bool *lost;        /* [max_rows] */
    exchange_outputs outputs;
} micro_batch;

_Static_assert(EXCHANGE_LANES == FORWARD_MICRO_BATCHES, "one in each lane");

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
    bool any_lost; /* an item is */
    micro_batch batches[FORWARD_MICRO_BATCHES];
    micro_batch *batch; /* in hand, and of it: */
    uint32_t *live;     /* rows still alive */
    uint32_t n_live;
    uint32_t layer;     /* that is being computed, and */
    uint32_t moe_index; /* its number among those with experts */
    micro_costs costs;  /* what passes took */

    float *residual; /* [max_rows][n_embd] */
    float *branch;   /* [max_rows][padded n_embd]: what a sub-layer gives */
    act_rows hidden; /* normed input of a sub-layer, n_embd */
    float *angles;   /* [max_rows][rope dims] */
    float **y[MATRIX_MUL_MAX]; /* output row pointers */
    ffn_scratch *dense;        /* of networks computed here, or NULL */

    attention_part attention;
    latent_part latent;
    moe_part moe;
    work_part work;

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

/* forward_tiles.c: what both kinds of attention share.  The tiles of live rows
 * [first, first + n), and how their tasks are cut for the pool. */
int attention_tiles_init(forward *f);
void attention_tiles_fini(forward *f);
void attention_tiles_cut(forward *f, uint32_t first, uint32_t n,
                         uint32_t n_kv_heads, uint32_t group);
static inline uint32_t attention_tasks(const attention_cut *c) {
    return c->n_tiles * c->n_kv_heads * c->parts;
}
/* Task number `task`, the longest ones being the first. */
attention_task attention_task_of(const forward *f, uint32_t task);
/* The query of a task, but for its rows' q and out; `rows` has room for
 * ATTENTION_LANES. */
attention_query attention_task_query(const forward *f, const attention_task *t,
                                     attention_row *rows);

/* forward_latent.c: from hidden rows to attention's heads, encoded. */
int latent_part_init(forward *f);
void latent_part_fini(forward *f);
void latent_attention(forward *f);

/* forward_ffn.c: ends attention's branch and norms for what follows; then a
 * network that is computed here, from hidden rows to rows of padded n_embd. */
int ffn_part_init(forward *f);
void forward_ffn_input(forward *f);
void forward_network(forward *f, const ffn_weights *w, float *out);

int moe_part_init(forward *f);
void moe_part_fini(forward *f);
/* forward_moe.c: an item that lost a row is no longer computed. */
void drop_lost_rows(forward *f);
/* forward_moe.c: the router's choice, sent to the experts; in between, what is
 * computed beside them; then their sum, into `branch`. */
int forward_moe_begin(forward *f, uint64_t deadline_us);
int forward_moe_end(forward *f);

/* forward_work.c: what was read. */
int work_part_init(forward *f);
void work_part_fini(forward *f);
/* Rows that go through all layers together. */
void work_count_rows(forward *f);
/* The choices of such rows in a layer. */
void work_count_experts(forward *f, const uint32_t *chosen, size_t n);

#endif
