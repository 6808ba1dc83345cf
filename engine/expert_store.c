/* expert_store.c - see expert_store.h.
 *
 * An expert's matrices are three byte ranges of the file.  One that is small is
 * read once, checked and packed from memory.  A large one is checked segment by
 * segment first and then read again, which the page cache answers: so a load
 * needs a bounded piece of memory besides the packed weights, however large the
 * expert is. */
#include "engine/expert_store.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include "engine/err.h"
#include "engine/util.h"

#define STAGING_BYTES ((size_t)4 << 20)

typedef struct {
    expert_tensors tensors; /* of the borrowed file */
    ffn_weights **experts;  /* NULL: not loaded.  NULL for a dense layer */
    uint64_t expert_bytes;  /* packed */
    act_form form;
} layer_index;

struct expert_store {
    const gguf *file;
    const manifest *checks;
    uint32_t n_layers, n_experts;
    uint64_t bytes;
    uint32_t count;
    layer_index layers[];
};

static int packed_bytes(const gguf_tensor *t, uint64_t *bytes, char *why,
                        size_t why_size) {
    const weight_format *f;
    int rc = matrix_format(t, &f, why, why_size);
    if (rc < 0) return rc;
    *bytes += matrix_bytes(f, t->dims[1], t->dims[0]);
    return 0;
}

static int index_layer(expert_store *s, uint32_t layer, const model_config *c,
                       char *why, size_t why_size) {
    layer_index *l = &s->layers[layer];
    expert_tensors *t = &l->tensors;
    int rc = model_experts(c, s->file, layer, t, why, why_size);
    if (rc < 0) return rc;
    rc = packed_bytes(t->gate, &l->expert_bytes, why, why_size);
    if (rc < 0) return rc;
    rc = packed_bytes(t->up, &l->expert_bytes, why, why_size);
    if (rc < 0) return rc;
    rc = packed_bytes(t->down, &l->expert_bytes, why, why_size);
    if (rc < 0) return rc;

    /* Where gate and up want different forms, F32 travels. */
    act_form gate = weight_format_find(t->gate->type)->act;
    l->form = gate == weight_format_find(t->up->type)->act ? gate : ACT_F32;

    l->experts = calloc(c->n_experts, sizeof(ffn_weights *));
    if (l->experts == NULL) {
        return err_why(why, why_size, -ENOMEM, "no memory for %u experts",
                       c->n_experts);
    }
    return 0;
}

int expert_store_new(expert_store **out, const gguf *g, const model_config *c,
                     const manifest *checks, char *why, size_t why_size) {
    *out = NULL;
    expert_store *s =
        calloc(1, sizeof(*s) + c->n_layers * sizeof(s->layers[0]));
    if (s == NULL) {
        return err_why(why, why_size, -ENOMEM, "no memory for %u layers",
                       c->n_layers);
    }
    s->file = g;
    s->checks = checks;
    s->n_layers = c->n_layers;
    s->n_experts = c->n_experts;
    for (uint32_t layer = 0; layer < c->n_layers; layer++) {
        if (!model_is_moe(c, layer)) continue;
        int rc = index_layer(s, layer, c, why, why_size);
        if (rc < 0) {
            expert_store_free(s);
            return rc;
        }
    }
    *out = s;
    return 0;
}

void expert_store_free(expert_store *s) {
    if (s == NULL) return;
    for (uint32_t layer = 0; layer < s->n_layers; layer++) {
        if (s->layers[layer].experts == NULL) continue;
        for (uint32_t expert = 0; expert < s->n_experts; expert++)
            expert_store_drop(s, layer, expert);
        free(s->layers[layer].experts);
    }
    free(s);
}

/* The place of an expert; NULL if the model has no such expert. */
static ffn_weights **find_place(const expert_store *s, uint32_t layer,
                                uint32_t expert) {
    if (layer >= s->n_layers || expert >= s->n_experts) return NULL;
    if (s->layers[layer].experts == NULL) return NULL;
    return &s->layers[layer].experts[expert];
}

/* One expert's part of one stacked tensor. */
typedef struct {
    const gguf_tensor *tensor;
    size_t index; /* of the tensor in the file */
    uint32_t expert;
    size_t bytes;
} slab;

static slab find_slab(const expert_store *s, const gguf_tensor *t,
                      uint32_t expert) {
    return (slab){t, (size_t)(t - gguf_tensor_at(s->file, 0)), expert,
                  (size_t)(t->bytes / s->n_experts)};
}

static int read_piece(const expert_store *s, const slab *part, size_t offset,
                      size_t bytes, void *out) {
    return gguf_read(s->file, part->tensor, part->expert * part->bytes + offset,
                     bytes, out);
}

/* Read all of it, check it and pack it from memory. */
static int load_small(const expert_store *s, const slab *part, matrix *out) {
    void *stored = malloc(part->bytes);
    if (stored == NULL) return -ENOMEM;

    int rc = read_piece(s, part, 0, part->bytes, stored);
    if (rc == 0) {
        rc = manifest_check(s->checks, part->index, part->expert, stored,
                            part->bytes);
    }
    if (rc == 0) {
        const gguf_tensor *t = part->tensor;
        rc = matrix_pack(out, weight_format_find(t->type), t->dims[1],
                         t->dims[0], stored);
    }
    free(stored);
    return rc;
}

/* Check segment by segment, keeping nothing. */
static int check_large(const expert_store *s, const slab *part) {
    uint32_t n = manifest_segments(s->checks, part->index);
    if (n == 0 || part->bytes % n != 0) return ERR_RANGE;
    size_t bytes = part->bytes / n;
    void *stored = malloc(bytes);
    if (stored == NULL) return -ENOMEM;

    int rc = 0;
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        rc = read_piece(s, part, i * bytes, bytes, stored);
        if (rc < 0) break;
        rc = manifest_check_segment(s->checks, part->index, part->expert, i,
                                    stored, bytes);
    }
    free(stored);
    return rc;
}

static int load_matrix(const expert_store *s, const gguf_tensor *t,
                       uint32_t expert, matrix *out, char *why,
                       size_t why_size) {
    const slab part = find_slab(s, t, expert);
    int rc;
    if (s->checks != NULL && part.bytes <= STAGING_BYTES) {
        rc = load_small(s, &part, out);
    } else {
        rc = s->checks != NULL ? check_large(s, &part) : 0;
        if (rc == 0) return matrix_load(out, s->file, t, expert, why, why_size);
    }
    if (rc == 0) return 0;
    return err_why(why, why_size, rc, "tensor %s, expert %u: %s",
                   gguf_quote(t->name).text, expert, err_text(rc));
}

int expert_store_load(expert_store *s, uint32_t layer, uint32_t expert,
                      char *why, size_t why_size) {
    ffn_weights **place = find_place(s, layer, expert);
    if (place == NULL) {
        return err_why(why, why_size, ERR_RANGE,
                       "the model has no expert %u in layer %u", expert, layer);
    }
    if (*place != NULL) return 0;

    ffn_weights *w = calloc(1, sizeof(*w));
    if (w == NULL) {
        return err_why(why, why_size, -ENOMEM,
                       "no memory for expert %u of layer %u", expert, layer);
    }
    const expert_tensors *t = &s->layers[layer].tensors;
    int rc = load_matrix(s, t->gate, expert, &w->gate, why, why_size);
    if (rc < 0) goto fail;
    rc = load_matrix(s, t->up, expert, &w->up, why, why_size);
    if (rc < 0) goto fail;
    rc = load_matrix(s, t->down, expert, &w->down, why, why_size);
    if (rc < 0) goto fail;

    *place = w;
    s->bytes += w->gate.bytes + w->up.bytes + w->down.bytes;
    s->count++;
    return 0;

fail:
    ffn_fini(w);
    free(w);
    return rc;
}

void expert_store_drop(expert_store *s, uint32_t layer, uint32_t expert) {
    ffn_weights **place = find_place(s, layer, expert);
    if (place == NULL || *place == NULL) return;

    ffn_weights *w = *place;
    uint64_t bytes = w->gate.bytes + w->up.bytes + w->down.bytes;
    assert(s->bytes >= bytes && s->count > 0);
    s->bytes -= bytes;
    s->count--;
    ffn_fini(w);
    free(w);
    *place = NULL;
}

const ffn_weights *expert_store_get(const expert_store *s, uint32_t layer,
                                    uint32_t expert) {
    ffn_weights **place = find_place(s, layer, expert);
    return place != NULL ? *place : NULL;
}

uint64_t expert_store_bytes(const expert_store *s) {
    return s->bytes;
}

uint32_t expert_store_count(const expert_store *s) {
    return s->count;
}

uint64_t expert_store_expert_bytes(const expert_store *s, uint32_t layer) {
    return layer < s->n_layers ? s->layers[layer].expert_bytes : 0;
}

act_form expert_store_form(const expert_store *s, uint32_t layer, bool exact) {
    if (exact || layer >= s->n_layers) return ACT_F32;
    return s->layers[layer].form;
}
