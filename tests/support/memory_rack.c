/* memory_rack.c - see memory_rack.h. */
#include "tests/support/memory_rack.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include "engine/blas.h"
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"
#include "expert_node/worker.h"

#define LINK_MESSAGES 256
#define KV_PAGES 256

typedef struct {
    memory_rack *rack;
    struct link *server;
    worker *worker;
    pthread_t thread;
    bool running;
    uint64_t boot_id;
} memory_node;

struct memory_rack {
    memory_model *model;
    identity self;
    memory_node nodes[MEMORY_RACK_NODES];
    uint32_t n_nodes, slices;
    uint64_t epoch;
    pool *threads;
    local_experts *local;
    kv_cache *kv;
    exchange *experts;
    forward *forward;
};

static void must(int rc, const char *what, const char *why) {
    if (rc >= 0) return;
    fprintf(stderr, "%s: %s %s\n", what, err_text(rc), why);
    exit(1);
}

static expert_store *load_units(memory_model *m, uint32_t slices) {
    char why[256] = "";
    const expert_store_config c = {
        .g = m->file, .model = &m->config, .slices = slices};
    expert_store *s;
    must(expert_store_new(&s, &c, why, sizeof(why)), "expert_store_new", why);
    for (uint32_t l = 0; l < m->config.n_layers; l++) {
        for (uint32_t u = 0; u < expert_store_units(s, l); u++)
            must(expert_store_load(s, l, u, why, sizeof(why)), "load", why);
    }
    return s;
}

memory_model *memory_model_open(const char *path) {
    char why[256] = "";
    memory_model *m = calloc(1, sizeof(*m));
    if (m == NULL) abort();
    must(blas_open(why, sizeof(why)), "blas", why);
    must(gguf_open(&m->file, path, why, sizeof(why)), path, why);
    must(model_read(&m->config, m->file, why, sizeof(why)), path, why);
    must(weights_load(&m->weights, m->file, &m->config, NULL, why, sizeof(why)),
         path, why);
    m->store = load_units(m, 1);
    return m;
}

expert_store *memory_model_store(memory_model *m, uint32_t slices) {
    if (slices <= 1) return m->store;
    expert_store **at = &m->sliced[__builtin_ctz(slices)];
    if (*at == NULL) *at = load_units(m, slices);
    return *at;
}

void memory_model_close(memory_model *m) {
    expert_store_free(m->store);
    for (size_t i = 0; i < ARRAY_LEN(m->sliced); i++)
        expert_store_free(m->sliced[i]);
    weights_free(m->weights);
    gguf_close(m->file);
    free(m);
}

static void *node_main(void *arg) {
    memory_node *n = arg;
    must(worker_run(n->worker), "worker_run", "");
    return NULL;
}

static void open_node(memory_rack *r, uint32_t i, uint32_t threads, bool exact,
                      bool silent) {
    memory_node *n = &r->nodes[i];
    uint32_t slices = r->slices;
    n->rack = r;
    n->boot_id = 1000 + i;
    worker_config c = {
        .store = memory_model_store(r->model, slices),
        .width = r->model->config.n_embd,
        .expert_dim = r->model->config.expert_dim,
        .cluster = "memory",
        .boot_id = n->boot_id,
        .exact = exact,
        .threads = threads,
        .max_reply_bytes = (uint64_t)1 << 30,
    };
    struct link *unused = NULL; /* a server is made with its first client */
    must(link_memory(&unused, &n->server, LINK_MESSAGES), "link_memory", "");
    link_close(unused);
    must(worker_new(&n->worker, &c, n->server), "worker_new", "");
    if (silent) return;
    if (pthread_create(&n->thread, NULL, node_main, n) != 0) abort();
    n->running = true;
}

/* Endpoints are the nodes' numbers. */
static int connect_memory(void *ctx, struct link **out, const link_config *c,
                          const char *to, char *why, size_t why_size) {
    memory_rack *r = ctx;
    (void)c;
    (void)why;
    (void)why_size;
    return link_memory(out, &r->nodes[atoi(to)].server, LINK_MESSAGES);
}

static void post(memory_rack *r, uint32_t slices, const holdings *const *held) {
    const model_config *m = &r->model->config;
    const expert_store *store = memory_model_store(r->model, slices);
    rack_node seen[MEMORY_RACK_NODES] = {{0}};
    for (uint32_t i = 0; i < r->n_nodes; i++) {
        if (held[i] == NULL) continue;
        seen[i].up = true;
        seen[i].boot_id = r->nodes[i].boot_id;
        snprintf(seen[i].endpoint, sizeof(seen[i].endpoint), "%u", i);
    }
    uint32_t cut[MODEL_MAX_LAYERS];
    for (uint32_t l = 0; l < m->n_layers; l++)
        cut[l] = expert_store_slices(store, l);
    const placement_shape shape = {.epoch = ++r->epoch,
                                   .n_layers = m->n_layers,
                                   .n_experts = m->n_experts,
                                   .slices = slices,
                                   .layer_slices = cut};
    placement *where;
    rack *snapshot;
    must(placement_new(&where, &shape, held, r->n_nodes), "placement_new", "");
    must(rack_new(&snapshot, where, seen, r->n_nodes), "rack_new", "");
    exchange_post(r->experts, snapshot);
}

void memory_rack_post(memory_rack *r, const holdings *const *held) {
    post(r, r->slices, held);
}

void memory_rack_post_alone(memory_rack *r, uint32_t slices) {
    const holdings *nobody[MEMORY_RACK_NODES] = {NULL};
    post(r, slices, nobody);
}

memory_rack *memory_rack_open(memory_model *m, const memory_rack_config *c) {
    char why[256] = "";
    memory_rack *r = calloc(1, sizeof(*r));
    if (r == NULL) abort();
    log_setup("test", LOG_ERROR);
    r->model = m;
    r->n_nodes = c->n_nodes;
    r->slices = c->n_nodes > 0 ? c->held[0].slices : 1;
    snprintf(r->self.cluster, sizeof(r->self.cluster), "memory");
    r->self.boot_id = 77;
    for (uint32_t i = 0; i < c->n_nodes; i++) {
        open_node(r, i, c->threads, c->exact, (c->silent >> i & 1) != 0);
    }
    must(pool_new(&r->threads, c->threads), "pool_new", "");

    const model_config *config = &m->weights->config;
    uint32_t max_pairs = c->max_rows * config->n_used;
    local_config local = {m->file,    config,    NULL,    r->threads,
                          UINT64_MAX, max_pairs, c->exact};
    must(local_experts_new(&r->local, &local, why, sizeof(why)), "local", why);
    kv_config kv = forward_kv(config, c->kv);
    kv.n_pages = KV_PAGES;
    must(kv_cache_new(&r->kv, &kv), "kv_cache_new", "");
    exchange_config x = {
        .self = &r->self,
        .model = config,
        .local = r->local,
        .dispatch = {.max_nodes = c->n_nodes,
                     .max_pairs = max_pairs,
                     .reply_row_bytes = config->n_embd * sizeof(float),
                     .piece_bytes = c->piece_bytes,
                     .credit_bytes = c->credit_bytes,
                     .hedge_min_us = 10000000, /* a slow machine is no fault */
                     .hedge_factor = 10,
                     .patience_us =
                         c->patience_us != 0 ? c->patience_us : 60000000,
                     .split_gain = c->split_gain,
                     .local = c->local},
        .max_rows = c->max_rows,
        .connect = connect_memory,
        .connect_ctx = r,
    };
    must(exchange_new(&r->experts, &x), "exchange_new", "");
    forward_config f = {.weights = m->weights,
                        .experts = r->experts,
                        .forms = r->local,
                        .threads = r->threads,
                        .kv = r->kv,
                        .max_rows = c->max_rows,
                        .max_items = c->max_rows,
                        .micro_batches = c->micro_batches,
                        .exact = c->exact};
    must(forward_new(&r->forward, &f), "forward_new", "");
    const holdings *list[MEMORY_RACK_NODES] = {0};
    for (uint32_t i = 0; i < c->n_nodes; i++) {
        list[i] = &c->held[i];
    }
    memory_rack_post(r, list);
    return r;
}

void memory_rack_close(memory_rack *r) {
    forward_free(r->forward);
    exchange_free(r->experts);
    local_experts_free(r->local);
    kv_cache_free(r->kv);
    pool_free(r->threads);
    for (uint32_t i = 0; i < r->n_nodes; i++) {
        worker_stop(r->nodes[i].worker);
        if (r->nodes[i].running) pthread_join(r->nodes[i].thread, NULL);
        worker_free(r->nodes[i].worker);
        link_close(r->nodes[i].server);
    }
    free(r);
}

forward *memory_rack_forward(memory_rack *r) {
    return r->forward;
}

exchange *memory_rack_exchange(memory_rack *r) {
    return r->experts;
}

kv_cache *memory_rack_kv(memory_rack *r) {
    return r->kv;
}
