/* census.c - see census.h. */
#include "engine/census.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/architecture.h"
#include "engine/err.h"
#include "engine/util.h"

#define EMBEDDING "token_embd.weight"
#define OUTPUT "output.weight"

/* ---- tensors by their names ---- */

#define NO_LAYER UINT64_MAX

/* N of "blk.N.rest"; NO_LAYER for another name. */
static uint64_t layer_of(gguf_string name) {
    uint64_t layer = 0;
    size_t at = 4;

    if (name.len < 6 || memcmp(name.data, "blk.", 4) != 0) return NO_LAYER;
    for (; at < name.len && name.data[at] >= '0' && name.data[at] <= '9';
         at++) {
        if (at >= 12) return NO_LAYER;
        layer = layer * 10 + (uint64_t)(name.data[at] - '0');
    }
    return at > 4 && at < name.len && name.data[at] == '.' ? layer : NO_LAYER;
}

/* "blk.N.ffn_up_exps.weight" and its like: stacked, an expert a slab. */
static bool is_experts(gguf_string name) {
    return layer_of(name) != NO_LAYER &&
           memmem(name.data, name.len, "_exps.", 6) != NULL;
}

static uint64_t n_params(const gguf_tensor *t) {
    uint64_t n = 1;
    for (size_t i = 0; i < GGUF_MAX_DIMS; i++)
        n *= t->dims[i]; /* gguf.h: checked when the file was opened */
    return n;
}

static void add(census_sum *s, const gguf_tensor *t) {
    s->params += n_params(t);
    s->bytes += t->bytes;
}

/* ---- keys ---- */

static int read_arch(census *c, const gguf *g, char *why, size_t why_size) {
    gguf_string name;
    int rc = gguf_get_string(g, "general.architecture", &name, why, why_size);
    if (rc == ERR_NOT_HERE)
        return err_why(why, why_size, ERR_FORMAT,
                       "general.architecture is missing");
    if (rc < 0) return rc;
    snprintf(c->arch, sizeof(c->arch), "%s", gguf_quote(name).text);
    return 0;
}

static int read_layers(census *c, const model_keys *k) {
    int rc = model_key_u32(k, "block_count", &c->n_layers);
    if (rc == 0)
        rc =
            model_check_u32(k, "block_count", c->n_layers, 1, MODEL_MAX_LAYERS);
    if (rc == 0)
        rc = model_key_u32_or(k, "nextn_predict_layers", &c->n_extra_layers, 0);
    if (rc == 0)
        rc = model_check_u32(k, "nextn_predict_layers", c->n_extra_layers, 0,
                             c->n_layers - 1);
    if (rc == 0) c->n_layers -= c->n_extra_layers;
    return rc;
}

static int read_experts(census *c, const model_keys *k) {
    int rc = model_key_u32_or(k, "expert_count", &c->n_experts, 0);
    if (rc == 0)
        rc = model_check_u32(k, "expert_count", c->n_experts, 0,
                             MODEL_MAX_EXPERTS);
    if (rc == 0 && c->n_experts > 0) {
        rc = model_key_u32(k, "expert_used_count", &c->n_used);
        if (rc == 0)
            rc = model_check_u32(k, "expert_used_count", c->n_used, 1,
                                 c->n_experts);
    }
    return rc;
}

/* ---- what is cached ---- */

/* KV heads of all layers together; a file may name them one by one. */
static int count_kv_heads(const census *c, const model_keys *k,
                          uint32_t n_heads, uint64_t *out) {
    uint32_t all, n_blocks = c->n_layers + c->n_extra_layers;
    char key[128];
    gguf_type type;
    uint64_t n;

    snprintf(key, sizeof(key), "%s.attention.head_count_kv", c->arch);
    if (gguf_get_array(k->g, key, &type, &n, NULL, 0) < 0) {
        int rc = model_key_u32_or(k, "attention.head_count_kv", &all, n_heads);
        *out = (uint64_t)all * c->n_layers;
        return rc;
    }
    int32_t *heads = calloc(n_blocks, sizeof(*heads));
    if (heads == NULL)
        return err_why(k->why, k->why_size, -ENOMEM, "no memory");
    int rc = gguf_array_i32(k->g, key, heads, n_blocks, k->why, k->why_size);
    *out = 0;
    for (uint32_t l = 0; rc == 0 && l < c->n_layers; l++)
        *out += heads[l] > 0 ? (uint32_t)heads[l] : 0;
    free(heads);
    return rc;
}

/* Latent attention caches one vector for all heads, and what RoPE turns. */
static int count_latent(census *c, const model_keys *k, uint32_t rank) {
    uint32_t turned;
    int rc = model_key_u32(k, "rope.dimension_count", &turned);
    c->n_cache_values = ((uint64_t)rank + turned) * c->n_layers;
    return rc;
}

/* 0 for what has no attention that we know. */
static int count_cache(census *c, const model_keys *k) {
    uint32_t rank, width, heads, key, value;
    uint64_t kv_heads = 0;

    int rc = model_key_u32_or(k, "attention.kv_lora_rank", &rank, 0);
    if (rc < 0 || rank > 0) return rc < 0 ? rc : count_latent(c, k, rank);

    rc = model_key_u32(k, "embedding_length", &width);
    if (rc == 0)
        rc = model_key_layers_or(k, "attention.head_count",
                                 c->n_layers + c->n_extra_layers, &heads, 0);
    if (rc < 0 || heads == 0) return rc;
    rc = count_kv_heads(c, k, heads, &kv_heads);
    if (rc == 0)
        rc = model_key_u32_or(k, "attention.key_length", &key, width / heads);
    if (rc == 0)
        rc = model_key_u32_or(k, "attention.value_length", &value,
                              width / heads);
    if (rc == 0)
        rc = model_check_u32(k, "attention.key_length", key, 0, MODEL_MAX_DIM);
    if (rc == 0)
        rc = model_check_u32(k, "attention.value_length", value, 0,
                             MODEL_MAX_DIM);
    if (rc == 0) c->n_cache_values = kv_heads * ((uint64_t)key + value);
    return rc;
}

/* ---- the tensor table ---- */

typedef struct {
    census *census;
    const gguf *g;
    /* Of the layer's experts, by layer. */
    census_sum layers[MODEL_MAX_LAYERS];
    uint64_t row_bytes; /* of the embeddings */
} counting;

static int count_tensor(counting *n, const gguf_tensor *t, char *why,
                        size_t why_size) {
    census *c = n->census;
    uint64_t layer = layer_of(t->name);

    add(&c->total, t);
    if (layer != NO_LAYER && layer >= c->n_layers) {
        add(&c->extra, t);
        return 0;
    }
    if (!is_experts(t->name)) {
        bool embedding = gguf_string_is(t->name, EMBEDDING);
        if (embedding) n->row_bytes = t->bytes / t->dims[1];
        if (embedding || gguf_string_is(t->name, OUTPUT)) add(&c->tables, t);
        add(&c->shared, t);
        return 0;
    }
    if (c->n_experts == 0 || n_params(t) % c->n_experts != 0 ||
        t->bytes % c->n_experts != 0)
        return err_why(why, why_size, ERR_FORMAT,
                       "tensor %s cannot be divided by %s.expert_count = %u",
                       gguf_quote(t->name).text, c->arch, c->n_experts);
    add(&n->layers[layer], t);
    return 0;
}

static void sum_experts(counting *n) {
    census *c = n->census;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        census_sum one = n->layers[l];
        if (one.params == 0) continue;
        c->experts.params += one.params;
        c->experts.bytes += one.bytes;
        one.params /= c->n_experts;
        one.bytes /= c->n_experts;
        if (c->n_moe_layers++ == 0) c->expert = one;
        if (one.params != c->expert.params || one.bytes != c->expert.bytes)
            c->experts_differ = true;
    }
}

static int count_all(counting *n, char *why, size_t why_size) {
    census *c = n->census;
    int rc = 0;

    if (gguf_n_tensors(n->g) == 0)
        return err_why(why, why_size, ERR_FORMAT, "the file has no tensors");
    for (size_t i = 0; rc == 0 && i < gguf_n_tensors(n->g); i++)
        rc = count_tensor(n, gguf_tensor_at(n->g, i), why, why_size);
    if (rc < 0) return rc;

    sum_experts(n);
    uint64_t skipped = 0; /* of the shared bytes */
    const gguf_tensor *embedding = gguf_find_tensor(n->g, EMBEDDING);
    if (embedding != NULL && gguf_find_tensor(n->g, OUTPUT) != NULL)
        skipped = embedding->bytes - n->row_bytes;
    c->active_params = c->shared.params;
    c->decode_bytes = c->shared.bytes - skipped;
    if (c->n_experts > 0) {
        c->active_params += c->experts.params / c->n_experts * c->n_used;
        c->decode_bytes += c->experts.bytes / c->n_experts * c->n_used;
    }
    return 0;
}

int census_take(census *c, const gguf *g, char *why, size_t why_size) {
    memset(c, 0, sizeof(*c));
    int rc = read_arch(c, g, why, why_size);
    if (rc < 0) return rc;

    model_keys keys = {
        .g = g, .arch = c->arch, .why = why, .why_size = why_size};
    rc = read_layers(c, &keys);
    if (rc == 0) rc = read_experts(c, &keys);
    if (rc == 0) rc = count_cache(c, &keys);
    if (rc < 0) return rc;

    counting *n = calloc(1, sizeof(*n));
    if (n == NULL) return err_why(why, why_size, -ENOMEM, "no memory");
    n->census = c;
    n->g = g;
    rc = count_all(n, why, why_size);
    free(n);
    return rc;
}

uint64_t census_node_bytes(const census *c, uint32_t n_nodes) {
    assert(n_nodes > 0);
    if (c->n_experts == 0) return 0;
    uint64_t most = (c->n_experts + n_nodes - 1) / n_nodes;
    return c->experts.bytes / c->n_experts * most;
}
