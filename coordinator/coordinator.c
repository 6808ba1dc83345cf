/* coordinator.c - see coordinator.h. */
#include "coordinator/coordinator.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>
#include "coordinator/server.h"
#include "engine/blas.h"
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"

#define MAX_CONTEXT_DEFAULT 8192
#define PART_MAX_BYTES MESSAGE_PART_MAX
#define LINK_MESSAGES 1024
#define CLIENT_MESSAGES 64 /* ZeroMQ's queue for a client; then its outbox */
#define DRAIN_LOOK_MS 20
#define CUT_OFF_MS 100 /* for the last words to those who are cut off */

/* Dispatch (DESIGN: flow control by credit in bytes; pieces near 1 MiB). */
#define CREDIT_BYTES ((uint64_t)16 << 20)
#define PIECE_BYTES ((uint64_t)1 << 20)
#define HEDGE_MIN_US 100000
#define HEDGE_FACTOR 6
#define PATIENCE_US 1000000

static const membership_config membership_timing = {
    .hello_ms = 100,
    .ping_ms = 200,
    .silent_ms = 1000,
    .stuck_ms = 5000,
    .refused_ms = 2000,
};

struct coordinator {
    config config;
    identity self;
    profile profile;

    gguf *file;
    model_config model;
    manifest *checks;
    tokenizer *words;
    weights *weights;
    pool *threads;
    local_experts *local;
    kv_cache *kv;
    exchange *experts;
    forward *forward;
    step *steps;

    void *zmq;
    uv_loop_t loop;
    bool loop_open;
    uv_async_t events;
    uv_signal_t on_term, on_int;
    uv_timer_t start_timer, drain_timer;
    server *server;
    nodes *nodes;
    bool ready, closing;
    uint64_t drain_until_ms; /* 0: not ending */
    bool was_idle, cut_off;
};

/* ---- the model ---- */

static int open_model(coordinator *c, char *why, size_t why_size) {
    int rc = gguf_open(&c->file, c->config.model, why, why_size);
    if (rc == 0) rc = model_read(&c->model, c->file, why, why_size);
    if (rc == 0) rc = manifest_open(&c->checks, c->file, true, why, why_size);
    if (rc == 0) rc = fingerprint_of(c->file, c->checks, &c->self.model);
    if (rc == 0) rc = tokenizer_new(&c->words, c->file, why, why_size);
    if (rc < 0) return rc;
    if ((uint32_t)tokenizer_n_vocab(c->words) > c->model.n_vocab) {
        return err_why(why, why_size, ERR_FORMAT,
                       "the tokenizer has %d tokens, the embedding %u rows",
                       tokenizer_n_vocab(c->words), c->model.n_vocab);
    }
    rc = weights_load(&c->weights, c->file, &c->model, why, why_size);
    if (rc < 0) return rc;
    why[0] = '\0'; /* what was looked for and may be missing is no reason */
    log_info("%s: %s, %u layers, width %u, %u experts of which %u are used, "
             "%.1f MB without experts",
             c->model.name, c->model.arch, c->model.n_layers, c->model.n_embd,
             c->model.n_experts, c->model.n_used,
             (double)c->weights->bytes / 1e6);
    return 0;
}

static uint32_t max_context(const coordinator *c) {
    if (c->config.context != 0) return c->config.context;
    uint32_t n = c->model.n_context;
    return n < MAX_CONTEXT_DEFAULT ? n : MAX_CONTEXT_DEFAULT;
}

static int open_kv(coordinator *c, char *why, size_t why_size) {
    const model_config *m = &c->model;
    kv_config k = {c->config.kv_type, m->n_layers,  m->n_kv_heads,
                   m->key_dim,        m->value_dim, 0};
    size_t page = kv_page_bytes(&k);
    if (page == 0) return ERR_RANGE;
    uint64_t one = (max_context(c) + KV_PAGE - 1) / KV_PAGE;
    uint64_t all = one * c->config.max_running;
    uint64_t fit = c->config.kv_memory / page;
    uint64_t n = fit < all ? fit : all;
    if (n < one) {
        return err_why(why, why_size, ERR_USAGE,
                       "--kv-memory: one context of %u tokens takes %.1f MB",
                       max_context(c), (double)(one * page) / 1e6);
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
    if (c->config.no_local_experts && c->model.n_experts > 0) {
        return err_why(why, why_size, ERR_USAGE,
                       "--no-local-experts without any --node: nobody would "
                       "compute the experts");
    }
    return local_experts_load_all(c->local, why, why_size);
}

/* ---- the step thread's parts ---- */

static link_config links(const coordinator *c) {
    return (link_config){
        .zmq = c->zmq,
        .max_part_bytes = PART_MAX_BYTES,
        .queue_messages = LINK_MESSAGES,
        .insecure = c->config.insecure,
    };
}

static int open_exchange(coordinator *c) {
    exchange_config x = {
        .self = &c->self,
        .model = &c->weights->config,
        .local = c->local,
        .dispatch =
            {
                .max_nodes = (uint32_t)c->config.nodes.count,
                .max_pairs = max_pairs(c),
                .reply_row_bytes = c->model.n_embd * sizeof(float),
                .piece_bytes = PIECE_BYTES,
                .credit_bytes = CREDIT_BYTES,
                .hedge_min_us = HEDGE_MIN_US,
                .hedge_factor = HEDGE_FACTOR,
                .patience_us = PATIENCE_US,
                .local = !c->config.no_local_experts,
            },
        .max_rows = c->config.batch_tokens,
        .links = links(c),
    };
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
        .exact = c->config.exact,
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
                .max_context = max_context(c),
                .queue_timeout_ms = 0, /* each request's own */
            },
        .forward = c->forward,
        .experts = c->experts,
        .kv = c->kv,
        .words = c->words,
        .n_vocab = c->model.n_vocab,
        .n_used = c->model.n_used,
        .notify = notify,
        .notify_ctx = c,
    };
    return step_new(&c->steps, &s);
}

/* ---- the loop's parts ---- */

static void on_events(uv_async_t *async) {
    coordinator *c = async->data;
    if (c->server != NULL) server_take_events(c->server);
}

static void close_handle(void *handle) {
    uv_handle_t *h = handle;
    if (h->type != UV_UNKNOWN_HANDLE) uv_close(h, NULL); /* else never made */
}

/* All but `events`, which the step thread uses until it is joined; the loop
 * does not wait for that one. */
static void end(coordinator *c) {
    if (c->closing) return;
    c->closing = true;
    server_close(c->server);
    nodes_close(c->nodes);
    close_handle(&c->on_term);
    close_handle(&c->on_int);
    close_handle(&c->start_timer);
    close_handle(&c->drain_timer);
}

static void on_drain(uv_timer_t *timer) {
    coordinator *c = timer->data;
    bool idle = server_idle(c->server);
    /* Idle twice: what was said last has left the process by now. */
    if (idle && c->was_idle) {
        end(c);
        return;
    }
    c->was_idle = idle;
    if (idle || now_ms() < c->drain_until_ms) return;
    if (c->cut_off) {
        end(c);
        return;
    }
    log_warn("requests are cut off by the end of the process");
    server_cut_off(c->server);
    c->cut_off = true;
    c->drain_until_ms = now_ms() + CUT_OFF_MS;
}

/* The first signal drains, a second one does not wait. */
static void on_signal(uv_signal_t *handle, int number) {
    coordinator *c = handle->data;
    log_info("signal %d: ending", number);
    if (c->drain_until_ms != 0) {
        end(c);
        return;
    }
    server_refuse(c->server);
    c->drain_until_ms = now_ms() + c->config.drain_timeout_ms;
    uv_timer_start(&c->drain_timer, on_drain, 0, DRAIN_LOOK_MS);
}

/* The line that scripts and `roster up` wait for. */
static void say_ready(coordinator *c) {
    if (c->ready || c->drain_until_ms != 0) return;
    c->ready = true;
    uv_timer_stop(&c->start_timer);
    if (c->config.no_local_experts && !nodes_all_covered(c->nodes)) {
        log_error("some experts are held by no live node; requests that need "
                  "them will wait and fail");
    }
    printf("ready %s\n", server_endpoint(c->server));
    fflush(stdout);
    log_info("serving at %s", server_endpoint(c->server));
}

static void on_settled(void *ctx) {
    say_ready(ctx);
}

static void on_start_timeout(uv_timer_t *timer) {
    coordinator *c = timer->data;
    if (c->drain_until_ms != 0) return;
    log_warn("not every listed node has answered; serving without them");
    say_ready(c);
}

static int open_loop(coordinator *c) {
    int rc = uv_loop_init(&c->loop);
    if (rc < 0) return rc;
    c->loop_open = true;
    rc = uv_async_init(&c->loop, &c->events, on_events);
    if (rc == 0) rc = uv_signal_init(&c->loop, &c->on_term);
    if (rc == 0) rc = uv_signal_init(&c->loop, &c->on_int);
    if (rc == 0) rc = uv_timer_init(&c->loop, &c->start_timer);
    if (rc == 0) rc = uv_timer_init(&c->loop, &c->drain_timer);
    if (rc < 0) return rc;
    uv_unref((uv_handle_t *)&c->events);
    c->events.data = c;
    c->on_term.data = c;
    c->on_int.data = c;
    c->start_timer.data = c;
    c->drain_timer.data = c;
    return 0;
}

static uint64_t expert_bytes_per_token(const coordinator *c) {
    uint64_t bytes = 0;
    for (uint32_t l = 0; l < c->model.n_layers; l++) {
        expert_tensors t;
        if (!model_is_moe(&c->model, l)) continue;
        if (model_experts(&c->model, c->file, l, &t, NULL, 0) < 0) continue;
        bytes += c->model.n_used * model_expert_bytes(&t, c->model.n_experts);
    }
    return bytes;
}

static int open_server(coordinator *c, char *why, size_t why_size) {
    server_config s = {
        .loop = &c->loop,
        .self = &c->self,
        .profile = &c->profile,
        .weights = c->weights,
        .words = c->words,
        .steps = c->steps,
        .experts = c->experts,
        .local = c->local,
        .local_allowed = !c->config.no_local_experts,
        .expert_bytes_per_token = expert_bytes_per_token(c),
        .max_context = max_context(c),
        .timeout_ms = c->config.timeout_ms,
        .links = links(c),
        .listen = c->config.listen,
    };
    s.links.queue_messages = CLIENT_MESSAGES;
    return server_open(&c->server, &s, why, why_size);
}

static int open_nodes(coordinator *c, char *why, size_t why_size) {
    nodes_config n = {
        .loop = &c->loop,
        .self = &c->self,
        .profile = &c->profile,
        .model = &c->model,
        .links = links(c),
        .endpoints = c->config.nodes.items,
        .n_nodes = (uint32_t)c->config.nodes.count,
        .experts = c->experts,
        .steps = c->steps,
        .timing = membership_timing,
        .on_settled = on_settled,
        .ctx = c,
    };
    int rc = nodes_open(&c->nodes, &n, why, why_size);
    if (rc == 0) server_set_nodes(c->server, c->nodes);
    return rc;
}

static int open_service(coordinator *c, char *why, size_t why_size) {
    int rc = open_loop(c);
    if (rc == 0) rc = open_server(c, why, why_size);
    if (rc < 0) return rc;
    rc = uv_signal_start(&c->on_term, on_signal, SIGTERM);
    if (rc == 0) rc = uv_signal_start(&c->on_int, on_signal, SIGINT);
    if (rc < 0) return rc;
    uv_timer_start(&c->start_timer, on_start_timeout,
                   c->config.start_timeout_ms, 0);
    rc = step_start(c->steps);
    if (rc == 0) rc = open_nodes(c, why, why_size);
    return rc;
}

/* ---- all of it ---- */

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
    /* two links to each node, one for the clients */
    if (c->zmq != NULL) {
        zmq_ctx_set(c->zmq, ZMQ_MAX_SOCKETS, 2 * (int)cfg->nodes.count + 16);
    }
    int rc = c->zmq == NULL ? -ENOMEM : blas_open(why, why_size);
    c->profile = profile_of_coordinator(cfg->exact, cfg->kv, blas_core());
    if (rc == 0) rc = pool_new(&c->threads, cfg->threads);
    if (rc == 0) rc = open_model(c, why, why_size);
    if (rc == 0) rc = open_kv(c, why, why_size);
    if (rc == 0) rc = open_local(c, why, why_size);
    if (rc == 0) rc = open_exchange(c);
    if (rc == 0) rc = open_forward(c);
    if (rc == 0) rc = open_steps(c);
    if (rc == 0) rc = open_service(c, why, why_size);
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
    if (c->loop_open) {
        end(c);
        close_handle(&c->events);
        uv_run(&c->loop, UV_RUN_DEFAULT);
        int rc = uv_loop_close(&c->loop);
        assert(rc == 0); /* every handle was closed */
    }
    server_free(c->server);
    nodes_free(c->nodes);
    step_free(c->steps);
    forward_free(c->forward);
    exchange_free(c->experts);
    kv_cache_free(c->kv);
    local_experts_free(c->local);
    pool_free(c->threads);
    weights_free(c->weights);
    tokenizer_free(c->words);
    manifest_close(c->checks);
    gguf_close(c->file);
    if (c->zmq != NULL) zmq_ctx_term(c->zmq);
    free(c);
}
