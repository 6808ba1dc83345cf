/* coordinator.c - see coordinator.h. */
#include "coordinator/coordinator.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include "coordinator/coordinator_internal.h"
#include "engine/blas.h"
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"

#define MAX_CONTEXT_DEFAULT 8192
#define PART_MAX_BYTES MESSAGE_PART_MAX
#define LINK_MESSAGES 1024
#define SOCKETS_PER_LINK 3 /* its own, and both ends of its monitor */

/* Dispatch (DESIGN: flow control by credit in bytes; pieces near 1 MiB). */
#define CREDIT_BYTES ((uint64_t)16 << 20)
#define PIECE_BYTES ((uint64_t)1 << 20)
#define HEDGE_MIN_US 15000
#define HEDGE_FACTOR 4
#define HEDGE_START_US 100000
#define HEDGE_PERCENT 5
#define PATIENCE_US 1000000

/* ---- the model ---- */

/* With nobody to share an expert with, it is whole. */
static int open_cut(coordinator *c, char *why, size_t why_size) {
    bool alone = c->config.nodes.count == 0 && !coordinator_by_etcd(c);
    bool whole = alone || c->config.slices == 0; /* until it is known */
    return model_cut_init(&c->cut, c->file, &c->model,
                          whole ? 1 : c->config.slices, why, why_size);
}

static int open_model(coordinator *c, char *why, size_t why_size) {
    int rc = gguf_open(&c->file, c->config.model, why, why_size);
    if (rc == 0) rc = model_read(&c->model, c->file, why, why_size);
    if (rc == 0) {
        rc = model_check_context(&c->model, c->config.context, why, why_size);
    }
    if (rc == 0) {
        rc = manifest_open_with(&c->checks, c->file, true, c->threads, why,
                                why_size);
    }
    if (rc == 0) rc = fingerprint_of(c->file, c->checks, &c->self.model);
    if (rc == 0) rc = tokenizer_new(&c->words, c->file, why, why_size);
    if (rc < 0) return rc;
    if ((uint32_t)tokenizer_n_vocab(c->words) > c->model.n_vocab) {
        return err_why(why, why_size, ERR_FORMAT,
                       "the tokenizer has %d tokens, the embedding %u rows",
                       tokenizer_n_vocab(c->words), c->model.n_vocab);
    }
    rc = weights_load(&c->weights, c->file, &c->model, c->threads, why,
                      why_size);
    if (rc == 0) rc = open_cut(c, why, why_size);
    if (rc < 0) return rc;
    why[0] = '\0'; /* what was looked for and may be missing is no reason */
    log_info("%s: %s, %u layers, width %u, %u experts of which %u are used, "
             "%.1f MB without experts",
             c->model.name, c->model.arch, c->model.n_layers, c->model.n_embd,
             c->model.n_experts, c->model.n_used,
             (double)c->weights->bytes / 1e6);
    return 0;
}

uint32_t coordinator_max_context(const coordinator *c) {
    if (c->config.context != 0) return c->config.context;
    uint32_t n = c->model.n_context;
    return n < MAX_CONTEXT_DEFAULT ? n : MAX_CONTEXT_DEFAULT;
}

static int open_kv(coordinator *c, char *why, size_t why_size) {
    kv_config k = forward_kv(&c->model, c->config.kv_type);
    size_t page = kv_page_bytes(&k);
    if (page == 0) return ERR_RANGE;
    uint64_t one = (coordinator_max_context(c) + KV_PAGE - 1) / KV_PAGE;
    uint64_t all = one * c->config.max_running;
    uint64_t fit = c->config.kv_memory / page;
    uint64_t n = fit < all ? fit : all;
    if (n < one) {
        return err_why(why, why_size, ERR_USAGE,
                       "--kv-memory: one context of %u tokens takes %.1f MB",
                       coordinator_max_context(c), (double)(one * page) / 1e6);
    }
    k.n_pages = (uint32_t)n;
    return kv_cache_new(&c->kv, &k);
}

static uint32_t max_pairs(const coordinator *c) {
    uint32_t k = c->model.n_used > 0 ? c->model.n_used : 1;
    return c->config.batch_tokens * k;
}

static int open_local(coordinator *c, char *why, size_t why_size) {
    local_config l = {
        .g = c->file,
        .model = &c->weights->config,
        .checks = c->checks,
        .threads = c->threads,
        .budget_bytes = c->config.local_memory,
        .max_pairs = max_pairs(c),
        .exact = c->config.exact,
    };
    int rc = local_experts_new(&c->local, &l, why, why_size);
    if (rc < 0 || c->config.nodes.count > 0) return rc;
    if (coordinator_by_etcd(c)) return 0;
    if (c->config.no_local_experts && c->model.n_experts > 0) {
        return err_why(why, why_size, ERR_USAGE,
                       "--no-local-experts without --node or --etcd: nobody "
                       "would compute the experts");
    }
    return local_experts_load_all(c->local, why, why_size);
}

/* ---- the step thread's parts ---- */

link_config coordinator_links(const coordinator *c) {
    return (link_config){
        .zmq = c->zmq,
        .max_part_bytes = PART_MAX_BYTES,
        .queue_messages = LINK_MESSAGES,
        .tell_broken = true,
        .insecure = c->config.insecure,
    };
}

static uint32_t max_nodes(const coordinator *c) {
    if (coordinator_by_etcd(c)) return MEMBERSHIP_MAX_NODES;
    return (uint32_t)c->config.nodes.count;
}

static int open_exchange(coordinator *c) {
    exchange_config x = {
        .self = &c->self,
        .model = &c->weights->config,
        .local = c->local,
        .dispatch =
            {
                .max_nodes = max_nodes(c),
                .max_pairs = max_pairs(c),
                .reply_row_bytes = c->model.n_embd * sizeof(float),
                .piece_bytes = PIECE_BYTES,
                .credit_bytes = CREDIT_BYTES,
                .hedge_min_us = HEDGE_MIN_US,
                .hedge_factor = HEDGE_FACTOR,
                .hedge_start_us = HEDGE_START_US,
                .hedge_percent = HEDGE_PERCENT,
                .patience_us = PATIENCE_US,
                .local = !c->config.no_local_experts,
            },
        .max_rows = c->config.batch_tokens,
        .check_every = c->config.cross_check,
        .links = coordinator_links(c),
        .watch = &c->watch,
    };
    x.links.local = !c->config.no_shared_memory;
    return exchange_new(&c->experts, &x);
}

static int open_forward(coordinator *c) {
    forward_config f = {
        .weights = c->weights,
        .experts = c->experts,
        .forms = c->local,
        .threads = c->threads,
        .kv = c->kv,
        .max_rows = c->config.batch_tokens,
        .max_items = c->config.max_running,
        .micro_batches = c->config.micro_batches,
        .exact = c->config.exact,
        .watch = &c->watch,
    };
    return forward_new(&c->forward, &f);
}

/* Called by the step thread: the loop takes its events. */
static void notify(void *ctx) {
    coordinator *c = ctx;
    uv_async_send(&c->events);
}

static int open_steps(coordinator *c) {
    step_config s = {
        .limits =
            {
                .max_running = c->config.max_running,
                .max_queued = c->config.max_queued,
                .batch_tokens = c->config.batch_tokens,
                .page_tokens = KV_PAGE,
                .n_pages = kv_cache_config(c->kv)->n_pages,
                .max_context = coordinator_max_context(c),
                .queue_timeout_ms = 0, /* each request's own */
                .park_timeout_ms = c->config.park_timeout_ms,
            },
        .forward = c->forward,
        .experts = c->experts,
        .kv = c->kv,
        .words = c->words,
        .n_vocab = c->model.n_vocab,
        .n_used = c->model.n_used,
        .notify = notify,
        .notify_ctx = c,
        .watch = &c->watch,
    };
    return step_new(&c->steps, &s);
}

/* ---- all of it ---- */

/* Two links to each node and their descriptors, and the rest. */
static void make_room_for_links(coordinator *c) {
    int sockets = 2 * SOCKETS_PER_LINK * (int)max_nodes(c) + 16;
    if (c->zmq != NULL) zmq_ctx_set(c->zmq, ZMQ_MAX_SOCKETS, sockets);
    struct rlimit files;
    rlim_t wanted = (rlim_t)(3 * sockets + 256);
    if (getrlimit(RLIMIT_NOFILE, &files) < 0 || files.rlim_cur >= wanted) {
        return;
    }
    /* As much as we may: it is needed only when so many nodes come. */
    files.rlim_cur = wanted < files.rlim_max ? wanted : files.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &files) < 0) {
        log_debug("the limit of open files stays as it is");
    }
}

int coordinator_open(coordinator **out, const config *cfg, char *why,
                     size_t why_size) {
    *out = NULL;
    coordinator *c = calloc(1, sizeof(*c));
    if (c == NULL) return -ENOMEM;
    c->config = *cfg;
    snprintf(c->self.cluster, sizeof(c->self.cluster), "%s", cfg->cluster);
    snprintf(c->self.name, sizeof(c->self.name), "%s", cfg->name);
    c->self.boot_id = random_boot_id();

    c->zmq = zmq_ctx_new();
    make_room_for_links(c);
    int rc = c->zmq == NULL ? -ENOMEM : blas_open(why, why_size);
    c->profile = profile_of_coordinator(cfg->exact, cfg->kv, blas_core());
    if (rc == 0) rc = pool_new(&c->threads, cfg->threads);
    if (rc == 0 && cfg->pin > 0) pool_pin(c->threads, cfg->pin - 1);
    if (rc == 0) rc = open_model(c, why, why_size);
    if (rc == 0) rc = open_kv(c, why, why_size);
    if (rc == 0) rc = open_local(c, why, why_size);
    if (rc == 0) rc = open_exchange(c);
    if (rc == 0) rc = open_forward(c);
    if (rc == 0) rc = open_steps(c);
    if (rc == 0) rc = coordinator_open_loop(c);
    if (rc == 0) rc = coordinator_open_service(c, why, why_size);
    if (rc < 0) {
        if (why[0] == '\0') err_why(why, why_size, rc, "%s", err_text(rc));
        coordinator_close(c);
        return rc;
    }
    log_info("cpu %s, %u threads, profile %u %s kv %s blas %s",
             cpu_name(cpu_current()), pool_threads(c->threads),
             c->profile.version, c->profile.activation, c->profile.kv,
             c->profile.blas);
    *out = c;
    return 0;
}

int coordinator_run(coordinator *c) {
    return uv_run(&c->loop, UV_RUN_DEFAULT);
}

void coordinator_close(coordinator *c) {
    if (c == NULL) return;
    if (c->steps != NULL) {
        step_stop(c->steps);
        step_join(c->steps);
    }
    coordinator_close_loop(c);
    conductor_free(c->conductor);
    server_free(c->server);
    weight_server_free(c->shared);
    nodes_free(c->nodes);
    step_free(c->steps);
    forward_free(c->forward);
    exchange_free(c->experts);
    kv_cache_free(c->kv);
    local_experts_free(c->local);
    pool_free(c->threads);
    model_cut_fini(&c->cut);
    weights_free(c->weights);
    tokenizer_free(c->words);
    manifest_close(c->checks);
    gguf_close(c->file);
    if (c->zmq != NULL) zmq_ctx_term(c->zmq);
    free(c);
}
