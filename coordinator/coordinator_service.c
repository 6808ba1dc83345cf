/* coordinator_service.c - what runs on the coordinator's loop: clients, nodes,
 * the rack's etcd, weights for others, signals.
 *
 * The client port is bound first.  Requests that come before the experts are
 * held somewhere wait in the scheduler under their own deadlines; the `ready`
 * line comes when they need not: every listed node has answered, or (with etcd)
 * it was listed and every expert is held by a live node, or it took too long.
 */
#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "coordinator/coordinator_internal.h"
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"

#define CLIENT_MESSAGES 64 /* ZeroMQ's queue for a client; then its outbox */
#define DRAIN_LOOK_MS 20
#define CUT_OFF_MS 100 /* for the last words to those who are cut off */

static const membership_config membership_timing = {
    .hello_ms = 100,
    .ping_ms = 200,
    .silent_ms = 1000,
    .stuck_ms = 5000,
    .refused_ms = 2000,
    .crashes = 3,
    .crash_window_ms = 60000,
    .quarantine_ms = 30000,
    .quarantine_most_ms = 600000,
};

/* ---- the end ---- */

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
void coordinator_end(coordinator *c) {
    if (c->closing) return;
    c->closing = true;
    conductor_close(c->conductor);
    server_close(c->server);
    weight_server_close(c->shared);
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
        coordinator_end(c);
        return;
    }
    c->was_idle = idle;
    if (idle || now_ms() < c->drain_until_ms) return;
    if (c->cut_off) {
        coordinator_end(c);
        return;
    }
    log_warn("requests are cut off by the end of the process");
    server_cut_off(c->server, "the coordinator is ending");
    c->cut_off = true;
    c->drain_until_ms = now_ms() + CUT_OFF_MS;
}

/* The first signal drains, a second one does not wait. */
static void on_signal(uv_signal_t *handle, int number) {
    coordinator *c = handle->data;
    log_info("signal %d: ending", number);
    if (c->drain_until_ms != 0) {
        coordinator_end(c);
        return;
    }
    server_refuse(c->server);
    c->drain_until_ms = now_ms() + c->config.drain_timeout_ms;
    uv_timer_start(&c->drain_timer, on_drain, 0, DRAIN_LOOK_MS);
}

/* ---- the start ---- */

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
    if (c->declined) { /* and said so; if it becomes ours, time begins anew */
        c->waiting = false;
        return;
    }
    log_warn(coordinator_by_etcd(c)
                 ? "not every expert is held by a live node; serving so"
                 : "not every listed node has answered; serving without them");
    say_ready(c);
}

static void wait_for_nodes(coordinator *c) {
    if (c->waiting || c->ready) return;
    c->waiting = true;
    uv_timer_start(&c->start_timer, on_start_timeout,
                   c->config.start_timeout_ms, 0);
}

/* Something has changed: with etcd that may have been what was waited for. */
static void look_if_ready(void *ctx) {
    coordinator *c = ctx;
    if (c->ready || c->closing || c->declined || c->conductor == NULL) return;
    if (!conductor_listed(c->conductor)) return;
    wait_for_nodes(c);
    if (nodes_all_covered(c->nodes)) say_ready(c);
}

static bool is_idle(void *ctx) {
    const coordinator *c = ctx;
    return server_idle(c->server);
}

static void on_refuse(void *ctx, int code, const char *text) {
    coordinator *c = ctx;
    c->declined = code == ERR_WRONG_MODEL;
    server_decline(c->server, code, text);
}

static void on_stranded(void *ctx, const char *why) {
    coordinator *c = ctx;
    server_cut_off(c->server, why);
}

/* ---- opening ---- */

int coordinator_open_loop(coordinator *c) {
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
        .max_context = coordinator_max_context(c),
        .timeout_ms = c->config.timeout_ms,
        .links = coordinator_links(c),
        .listen = c->config.listen,
    };
    s.links.queue_messages = CLIENT_MESSAGES;
    return server_open(&c->server, &s, why, why_size);
}

/* On the address that clients use, unless another one is named. */
static int open_weight_server(coordinator *c, char *why, size_t why_size) {
    char listen[ENDPOINT_MAX + 32];
    endpoint e;
    const char *text = c->config.weights_listen;
    int rc = endpoint_parse(&e, text != NULL ? text : c->config.listen, why,
                            why_size);
    if (rc < 0) return rc;
    if (text == NULL) e.port = 0;
    endpoint_format(&e, listen, sizeof(listen));
    weight_server_config w = {
        .loop = &c->loop,
        .self = &c->self,
        .file = c->file,
        .checks = c->checks,
        .model = &c->model,
        .links = coordinator_links(c),
        .listen = listen,
    };
    rc = weight_server_open(&c->shared, &w, why, why_size);
    if (rc == 0) server_set_weights(c->server, c->shared);
    return rc;
}

static int open_nodes(coordinator *c, char *why, size_t why_size) {
    nodes_config n = {
        .loop = &c->loop,
        .self = &c->self,
        .profile = &c->profile,
        .model = &c->model,
        .links = coordinator_links(c),
        .endpoints = c->config.nodes.items,
        .n_nodes = (uint32_t)c->config.nodes.count,
        .registered = coordinator_by_etcd(c),
        .slices = c->cut.max_slices,
        .layer_slices = c->cut.slices,
        .experts = c->experts,
        .steps = c->steps,
        .timing = membership_timing,
        .on_settled = on_settled,
        .on_rack = look_if_ready,
        .ctx = c,
    };
    int rc = nodes_open(&c->nodes, &n, why, why_size);
    if (rc == 0) server_set_nodes(c->server, c->nodes);
    return rc;
}

/* How others reach what is bound here. */
static int advertised(const coordinator *c, const char *bound,
                      char out[ENDPOINT_MAX + 32], char *why, size_t why_size) {
    static const char *const any[] = {"*", "0.0.0.0", "::"};
    endpoint e;
    int rc = endpoint_parse(&e, bound, why, why_size);
    if (rc < 0) return rc;
    bool everywhere = false;
    for (size_t i = 0; i < ARRAY_LEN(any); i++)
        everywhere |= strcmp(e.host, any[i]) == 0;
    if (c->config.advertise != NULL) {
        snprintf(e.host, sizeof(e.host), "%s", c->config.advertise);
    } else if (everywhere && gethostname(e.host, sizeof(e.host) - 1) < 0) {
        return err_why(why, why_size, ERR_USAGE,
                       "the host has no name to be reached by; see "
                       "--advertise");
    }
    endpoint_format(&e, out, ENDPOINT_MAX + 32);
    return 0;
}

static int open_conductor(coordinator *c, char *why, size_t why_size) {
    int rc = advertised(c, weight_server_endpoint(c->shared), c->weights_at,
                        why, why_size);
    if (rc < 0) return rc;
    conductor_config f = {
        .loop = &c->loop,
        .self = &c->self,
        .profile = &c->profile,
        .model = &c->model,
        .file = c->file,
        .etcd = &c->config.etcd,
        .client = c->client_at,
        .weights = c->weights_at,
        .slices = c->config.slices,
        .min_replicas = c->config.min_replicas,
        .replace_after_ms = c->config.replace_after_ms,
        .no_balance = !c->config.balance,
        .balance_every_ms = c->config.balance_every_ms,
        .nodes = c->nodes,
        .is_idle = is_idle,
        .on_refuse = on_refuse,
        .on_stranded = c->config.no_local_experts ? on_stranded : NULL,
        .on_view = look_if_ready,
        .ctx = c,
    };
    rc = conductor_open(&c->conductor, &f, why, why_size);
    if (rc == 0) server_set_conductor(c->server, c->conductor);
    return rc;
}

/* What clients are told of us and of the other coordinators. */
static int tell_members(coordinator *c, char *why, size_t why_size) {
    int rc =
        advertised(c, server_endpoint(c->server), c->client_at, why, why_size);
    if (rc < 0) return rc;
    server_set_members(c->server, c->client_at, c->config.peers.items,
                       c->config.peers.count);
    return 0;
}

int coordinator_open_service(coordinator *c, char *why, size_t why_size) {
    int rc = open_server(c, why, why_size);
    if (rc == 0) rc = tell_members(c, why, why_size);
    if (rc == 0) rc = open_weight_server(c, why, why_size);
    if (rc < 0) return rc;
    rc = uv_signal_start(&c->on_term, on_signal, SIGTERM);
    if (rc == 0) rc = uv_signal_start(&c->on_int, on_signal, SIGINT);
    if (rc == 0) rc = step_start(c->steps);
    if (rc < 0) return rc;
    if (coordinator_by_etcd(c)) {
        rc = open_nodes(c, why, why_size);
        return rc < 0 ? rc : open_conductor(c, why, why_size);
    }
    wait_for_nodes(c);
    return open_nodes(c, why, why_size);
}

/* ---- closing ---- */

void coordinator_close_loop(coordinator *c) {
    if (!c->loop_open) return;
    coordinator_end(c);
    close_handle(&c->events);
    uv_run(&c->loop, UV_RUN_DEFAULT);
    int rc = uv_loop_close(&c->loop);
    assert(rc == 0); /* every handle was closed */
}
