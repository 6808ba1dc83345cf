/* weights_latent.c - loads what latent attention of a layer needs.
 *
 * A head's two matrices are loaded one by one: attn_k_b takes its query into
 * the latent space, attn_v_b takes what attention gives there to its value.
 * Older files have both in one tensor attn_kv_b that maps the other way, from
 * the latent to keys and values: its value rows are attn_v_b as it is, its key
 * rows have to be transposed.  Blocks of a quantized row cannot be, so such key
 * rows become f32, which keeps their values; floats keep their format. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/weights_internal.h"
#include "engine/err.h"
#include "engine/util.h"

static int load_queries(loader *l, uint32_t layer, latent_weights *a) {
    const model_config *c = &l->w->config;
    uint64_t rank = c->latent.q_rank;
    uint64_t rows = (uint64_t)c->n_heads * model_latent_head_dim(c);
    if (rank == 0) {
        return load_matrix(l, layer, "attn_q", c->n_embd, rows, &a->q);
    }
    int rc = load_matrix(l, layer, "attn_q_a", c->n_embd, rank, &a->q_a);
    if (rc < 0) return rc;
    rc = load_vector(l, layer, "attn_q_a_norm", rank, 0, &a->q_a_norm);
    if (rc < 0) return rc;
    return load_matrix(l, layer, "attn_q_b", rank, rows, &a->q);
}

/* ---- a matrix for each head ---- */

static int new_heads(loader *l, latent_weights *a) {
    a->n_heads = l->w->config.n_heads;
    a->k_b = calloc(a->n_heads, sizeof(*a->k_b));
    a->v_b = calloc(a->n_heads, sizeof(*a->v_b));
    if (a->k_b != NULL && a->v_b != NULL) return 0;
    return err_why(l->why, l->why_size, -ENOMEM, "no memory for %u heads",
                   a->n_heads);
}

static int load_slabs(loader *l, uint32_t layer, const char *name,
                      uint64_t cols, uint64_t rows, matrix *out) {
    const gguf_tensor *t;
    uint32_t n = l->w->config.n_heads;
    int rc = model_tensor(l->w->g, layer, name, cols, rows, n, &t, l->why,
                          l->why_size);
    for (uint32_t h = 0; h < n && rc == 0; h++) {
        rc = matrix_load(&out[h], l->w->g, t, h, l->why, l->why_size);
        if (rc == 0) load_count(l, out[h].bytes);
    }
    return rc;
}

/* Stored rows of a float format, [rows][cols] to [cols][rows]. */
static void transpose(size_t rows, size_t cols, size_t element,
                      const uint8_t *in, uint8_t *out) {
    for (size_t r = 0; r < rows; r++) {
        for (size_t c = 0; c < cols; c++) {
            memcpy(out + (c * rows + r) * element,
                   in + (r * cols + c) * element, element);
        }
    }
}

/* Where the key rows of a head stand, and room to turn them in. */
typedef struct {
    const gguf_tensor *tensor;
    const weight_format *stored, *turned;
    size_t rows, cols, row_bytes;
    uint8_t *raw, *plain, *out; /* as stored, as floats, transposed */
} key_rows;

static void key_rows_fini(key_rows *k) {
    if (k->plain != k->raw) free(k->plain);
    free(k->raw);
    free(k->out);
}

static int key_rows_init(key_rows *k, const gguf_tensor *t,
                         const weight_format *stored, size_t rows,
                         size_t cols) {
    bool floats = stored->block_len == 1;
    *k = (key_rows){.tensor = t, .stored = stored, .rows = rows, .cols = cols};
    k->turned = floats ? stored : weight_format_find(WEIGHT_F32);
    k->row_bytes = cols / stored->block_len * stored->block_bytes;
    k->raw = malloc(rows * k->row_bytes);
    k->plain = floats ? k->raw : malloc(rows * cols * sizeof(float));
    k->out = malloc(rows * cols * k->turned->block_bytes);
    if (k->raw != NULL && k->plain != NULL && k->out != NULL) return 0;
    key_rows_fini(k);
    return -ENOMEM;
}

static int turn_keys(const key_rows *k, const gguf *g, uint64_t row0,
                     matrix *out) {
    int rc = gguf_read(g, k->tensor, row0 * k->row_bytes,
                       k->rows * k->row_bytes, k->raw);
    if (rc < 0) return rc;
    if (k->plain != k->raw) {
        for (size_t r = 0; r < k->rows; r++) {
            k->stored->dequantize(k->cols, k->raw + r * k->row_bytes,
                                  (float *)(void *)k->plain + r * k->cols);
        }
    }
    transpose(k->rows, k->cols, k->turned->block_bytes, k->plain, k->out);
    return matrix_pack(out, k->turned, k->cols, k->rows, k->out);
}

static int load_unsplit(loader *l, uint32_t layer, latent_weights *a) {
    const model_config *c = &l->w->config;
    const latent_rule *d = &c->latent;
    const uint64_t of_head = (uint64_t)d->nope_dim + d->value_dim;
    const gguf_tensor *t;
    int rc = model_tensor(l->w->g, layer, "attn_kv_b", d->rank,
                          c->n_heads * of_head, 0, &t, l->why, l->why_size);
    if (rc < 0) return rc;

    for (uint32_t h = 0; h < a->n_heads && rc == 0; h++) {
        rc = matrix_load_rows(&a->v_b[h], l->w->g, t, h * of_head + d->nope_dim,
                              d->value_dim, l->why, l->why_size);
        if (rc == 0) load_count(l, a->v_b[h].bytes);
    }
    if (rc < 0) return rc; /* from here on, format and shape are known to fit */

    key_rows keys;
    rc = key_rows_init(&keys, t, a->v_b[0].format, d->nope_dim, d->rank);
    if (rc < 0) {
        return err_why(l->why, l->why_size, rc, "tensor %s: no memory",
                       gguf_quote(t->name).text);
    }
    for (uint32_t h = 0; h < a->n_heads && rc == 0; h++) {
        rc = turn_keys(&keys, l->w->g, h * of_head, &a->k_b[h]);
        if (rc == 0) load_count(l, a->k_b[h].bytes);
    }
    key_rows_fini(&keys);
    if (rc == 0) return 0;
    return err_why(l->why, l->why_size, rc, "tensor %s: %s",
                   gguf_quote(t->name).text, err_text(rc));
}

int load_latent(loader *l, uint32_t layer, latent_weights *a) {
    const model_config *c = &l->w->config;
    const latent_rule *d = &c->latent;
    int rc = load_queries(l, layer, a);
    if (rc < 0) return rc;
    rc =
        load_matrix(l, layer, "attn_kv_a_mqa", c->n_embd, c->key_dim, &a->kv_a);
    if (rc < 0) return rc;
    rc = load_vector(l, layer, "attn_kv_a_norm", d->rank, 0, &a->kv_a_norm);
    if (rc == 0) rc = new_heads(l, a);
    if (rc < 0) return rc;

    if (d->unsplit) return load_unsplit(l, layer, a);
    rc = load_slabs(l, layer, "attn_k_b", d->nope_dim, d->rank, a->k_b);
    if (rc < 0) return rc;
    return load_slabs(l, layer, "attn_v_b", d->rank, d->value_dim, a->v_b);
}

void latent_weights_fini(latent_weights *a) {
    for (uint32_t h = 0; h < a->n_heads; h++) {
        if (a->k_b != NULL) matrix_fini(&a->k_b[h]);
        if (a->v_b != NULL) matrix_fini(&a->v_b[h]);
    }
    free(a->k_b);
    free(a->v_b);
    matrix_fini(&a->q);
    matrix_fini(&a->q_a);
    matrix_fini(&a->kv_a);
    aligned_release(a->q_a_norm);
    aligned_release(a->kv_a_norm);
}
