/* server.c - see server.h.
 *
 * A signal stops the worker and, with etcd, deregisters; when both are done the
 * loop ends.  So the loop goes on answering while the last batch is computed.
 * A second signal finds no handler any more and ends the process. */
#include "expert_node/server.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>
#include <zmq.h>
#include "engine/cpu.h"
#include "engine/err.h"
#include "engine/log.h"
#include "engine/pool.h"
#include "engine/util.h"
#include "expert_node/control.h"
#include "expert_node/damaged.h"
#include "expert_node/member.h"
#include "expert_node/reload.h"
#include "expert_node/service.h"
#include "proto/zmq_watch.h"

#define CONTROL_PART_MAX ((size_t)1 << 20) /* of a message that comes in */
#define WHY_SIZE 512
#define QUEUE_MESSAGES 256 /* in ZeroMQ's hands, per peer and direction */

struct server {
    const node_config *config;
    uint64_t boot_id;

    void *zmq;
    struct link *control_link, *data_link;
    service *service;
    control *control;
    member *member; /* NULL: a static list */
    reload *reload; /* of a static list whose model is a file; or NULL */

    uv_loop_t loop;
    bool has_loop;
    uv_signal_t on_term, on_int;
    uv_async_t news; /* from the worker's and the loader's threads */
    zmq_watch *watch;

    bool stopping, member_gone;
    int rc; /* of why it had to stop */
    char why[WHY_SIZE];
};

/* ---- sockets ---- */

static int bind_links(server *v, char *why, size_t why_size) {
    const node_config *c = v->config;
    link_config l = {
        .zmq = v->zmq,
        .max_part_bytes = CONTROL_PART_MAX,
        .queue_messages = QUEUE_MESSAGES,
        .insecure = c->insecure,
    };
    char text[ENDPOINT_MAX + 16];
    endpoint_format(&c->control, text, sizeof(text));
    int rc = link_bind(&v->control_link, &l, text, why, why_size);
    if (rc < 0) return rc;

    endpoint data = c->control;
    if (c->data_port != 0) {
        data.port = (uint16_t)c->data_port;
    } else if (data.port != 0) {
        data.port++;
    }
    l.max_part_bytes = MESSAGE_PART_MAX;
    l.local = true;
    endpoint_format(&data, text, sizeof(text));
    return link_bind(&v->data_link, &l, text, why, why_size);
}

static int data_port(const server *v, uint16_t *port, char *why,
                     size_t why_size) {
    endpoint e;
    int rc = endpoint_parse(&e, link_endpoint(v->data_link), why, why_size);
    if (rc == 0) *port = e.port;
    return rc;
}

/* ---- stopping ---- */

static void end_if_done(server *v) {
    int rc;
    if (!v->stopping || !service_ended(v->service, &rc)) return;
    if (v->member == NULL || v->member_gone) uv_stop(&v->loop);
}

static void on_member_gone(void *ctx) {
    server *v = ctx;
    v->member_gone = true;
    end_if_done(v);
}

/* From now on a signal has its default meaning again. */
static void stop(server *v) {
    if (v->stopping) return;
    v->stopping = true;
    uv_signal_stop(&v->on_term);
    uv_signal_stop(&v->on_int);
    service_stop(v->service);
    if (v->member != NULL) member_close(v->member, on_member_gone, v);
    if (v->reload != NULL) reload_close(v->reload);
    end_if_done(v);
}

static void on_signal(uv_signal_t *handle, int number) {
    server *v = handle->data;
    if (v->member != NULL && member_reading(v->member)) {
        /* Nothing is served yet, and reading the model can take minutes. */
        signal(number, SIG_DFL);
        raise(number);
    }
    log_info("%s: finishing the work in hand", strsignal(number));
    stop(v);
}

static void on_failed(void *ctx, int rc, const char *why) {
    server *v = ctx;
    v->rc = err_why(v->why, sizeof(v->why), rc, "%s",
                    why[0] != '\0' ? why : err_text(rc));
    stop(v);
}

/* ---- the loop ---- */

/* On other threads. */
static void on_thread_news(void *ctx) {
    server *v = ctx;
    uv_async_send(&v->news);
}

/* On a static list.  Until a unit is back, others, or the coordinator, have to
 * compute it. */
static void take_damaged(server *v) {
    const char *next = v->reload != NULL ? "loaded again from the file"
                                         : "not held before a restart, since "
                                           "this node has no file of the model";
    scrub_find f;
    while (damaged_take(v->service, next, &f)) {
        control_held_changed(v->control);
        int rc = v->reload != NULL ? reload_add(v->reload, f.layer, f.unit) : 0;
        if (rc < 0) log_error("it cannot be loaded again: %s", err_text(rc));
    }
}

static void on_back(void *ctx) {
    server *v = ctx;
    control_held_changed(v->control);
}

static void on_news(uv_async_t *handle) {
    server *v = handle->data;
    int rc;
    if (v->member != NULL) {
        member_step(v->member);
    } else {
        take_damaged(v);
    }
    if (service_worker(v->service) != NULL && service_ended(v->service, &rc) &&
        !v->stopping) {
        v->rc = err_why(v->why, sizeof(v->why), rc, "the data link failed: %s",
                        err_text(rc));
        stop(v);
    }
    end_if_done(v);
}

/* Another store or worker. */
static void on_served(void *ctx) {
    server *v = ctx;
    const shard *s = service_shard(v->service);
    bool cut = s != NULL && s->store != NULL;
    control_serve(v->control, cut ? s : NULL, service_worker(v->service));
}

static void on_control(void *ctx, frames *f) {
    server *v = ctx;
    control_answer(v->control, f);
    if (f->count > 0 && link_send(v->control_link, f) < 0) {
        log_debug("an answer on the control endpoint was not taken");
    }
    if (v->member != NULL) member_step(v->member);
}

static int open_loop(server *v, char *why, size_t why_size) {
    int rc = uv_loop_init(&v->loop);
    if (rc < 0) goto fail;
    v->has_loop = true;
    v->on_term.data = v->on_int.data = v->news.data = v;
    rc = uv_async_init(&v->loop, &v->news, on_news);
    if (rc < 0) goto fail;
    rc = uv_signal_init(&v->loop, &v->on_term);
    if (rc < 0) goto fail;
    rc = uv_signal_init(&v->loop, &v->on_int);
    if (rc < 0) goto fail;
    rc = uv_signal_start(&v->on_term, on_signal, SIGTERM);
    if (rc < 0) goto fail;
    rc = uv_signal_start(&v->on_int, on_signal, SIGINT);
    if (rc < 0) goto fail;
    rc = zmq_watch_open(&v->watch, &v->loop, v->control_link, on_control, v);
    if (rc < 0) goto fail;
    return 0;

fail:
    return err_why(why, why_size, rc, "cannot make the event loop: %s",
                   err_text(rc));
}

static void close_handle(uv_handle_t *handle, void *ctx) {
    (void)ctx;
    if (!uv_is_closing(handle)) uv_close(handle, NULL);
}

/* What could still send news has ended. */
static void close_loop(server *v) {
    if (!v->has_loop) return;
    zmq_watch_close(v->watch);
    uv_walk(&v->loop, close_handle, NULL);
    uv_run(&v->loop, UV_RUN_DEFAULT);
    int rc = uv_loop_close(&v->loop);
    assert(rc == 0);
    (void)rc;
    v->has_loop = false;
}

/* ---- what serves ---- */

static int make_service(server *v, shard *held, char *why, size_t why_size) {
    const service_config s = {
        .config = v->config,
        .boot_id = v->boot_id,
        .data = v->data_link,
        .on_news = on_thread_news,
        .ctx = v,
    };
    int rc = service_new(&v->service, &s);
    if (rc < 0) {
        shard_close(held);
        return err_why(why, why_size, rc, "%s", err_text(rc));
    }
    if (held != NULL) service_adopt(v->service, held);
    return 0;
}

static int make_member(server *v, char *why, size_t why_size) {
    if (!etcd_options_given(&v->config->etcd)) return 0;
    const member_config m = {
        .loop = &v->loop,
        .config = v->config,
        .boot_id = v->boot_id,
        .control_endpoint = link_endpoint(v->control_link),
        .service = v->service,
        .zmq = v->zmq,
        .on_news = on_thread_news,
        .on_served = on_served,
        .on_failed = on_failed,
        .ctx = v,
    };
    return member_open(&v->member, &m, why, why_size);
}

static int make_reload(server *v, shard *held, char *why, size_t why_size) {
    if (held == NULL || v->config->model == NULL) return 0;
    const reload_config c = {.loop = &v->loop,
                             .held = held,
                             .path = v->config->model,
                             .on_back = on_back,
                             .ctx = v};
    int rc = reload_new(&v->reload, &c);
    return rc < 0 ? err_why(why, why_size, rc, "%s", err_text(rc)) : 0;
}

static json_t *static_status(const server *v) {
    uint64_t lost = v->reload != NULL ? reload_waiting(v->reload) : 0;
    return json_pack("{s:o, s:I}", "scrub", damaged_json(v->service), "lost",
                     (json_int_t)lost);
}

static json_t *more_status(void *ctx) {
    server *v = ctx;
    return v->member != NULL ? member_status(v->member) : static_status(v);
}

static int make_control(server *v, char *why, size_t why_size) {
    const node_config *c = v->config;
    control_config k = {
        .name = c->name,
        .cluster = c->cluster,
        .boot_id = v->boot_id,
        .exact = c->exact,
        .max_reply_bytes = worker_peer_bytes(c->max_queue),
        .threads = c->threads != 0 ? c->threads : pool_cpus(),
        .keeper = v->member != NULL ? member_keeper(v->member) : NULL,
        .more_status = more_status,
        .ctx = v,
    };
    int rc = data_port(v, &k.data_port, why, why_size);
    if (rc < 0) return rc;
    rc = control_new(&v->control, &k);
    return rc < 0 ? err_why(why, why_size, rc, "%s", err_text(rc)) : 0;
}

/* ---- opening, running, closing ---- */

static int open_parts(server *v, shard *held, char *why, size_t why_size) {
    v->zmq = zmq_ctx_new();
    if (v->zmq == NULL) {
        shard_close(held);
        return err_why(why, why_size, -errno, "cannot start ZeroMQ: %s",
                       zmq_strerror(errno));
    }
    int rc = bind_links(v, why, why_size);
    if (rc < 0) {
        shard_close(held);
        return rc;
    }
    rc = make_service(v, held, why, why_size);
    if (rc == 0) rc = open_loop(v, why, why_size);
    if (rc == 0) rc = make_member(v, why, why_size);
    if (rc == 0) rc = make_reload(v, held, why, why_size);
    if (rc == 0) rc = make_control(v, why, why_size);
    return rc;
}

int server_open(server **out, const node_config *c, shard *held, char *why,
                size_t why_size) {
    *out = NULL;
    server *v = calloc(1, sizeof(*v));
    if (v == NULL) {
        shard_close(held);
        return err_why(why, why_size, -ENOMEM, "out of memory");
    }
    v->config = c;
    v->boot_id = random_boot_id();
    int rc = open_parts(v, held, why, why_size);
    if (rc < 0) {
        server_close(v);
        return rc;
    }
    log_info("node '%s', cluster '%s': %s kernels, %u threads, batches on %s",
             c->name, c->cluster, cpu_name(cpu_current()),
             c->threads != 0 ? c->threads : pool_cpus(),
             link_endpoint(v->data_link));
    *out = v;
    return 0;
}

/* A static list's worker starts at once; otherwise the rack says when. */
static int begin(server *v, char *why, size_t why_size) {
    if (v->member != NULL) return 0;
    int rc = service_start(v->service, why, why_size);
    if (rc == 0) on_served(v);
    return rc;
}

int server_run(server *v, char *why, size_t why_size) {
    int rc = begin(v, why, why_size);
    if (rc < 0) return rc;
    printf("ready %s\n", link_endpoint(v->control_link));
    if (fflush(stdout) != 0) log_warn("cannot say that it is ready on stdout");
    uv_run(&v->loop, UV_RUN_DEFAULT);
    if (v->rc < 0) return err_why(why, why_size, v->rc, "%s", v->why);
    log_info("stopped");
    return 0;
}

void server_close(server *v) {
    if (v == NULL) return;
    bool runs = v->member != NULL || v->reload != NULL;
    if (runs && !v->stopping) { /* it never ran */
        stop(v);
        uv_run(&v->loop, UV_RUN_DEFAULT);
    }
    member_free(v->member);
    service_free(v->service);
    close_loop(v);
    reload_free(v->reload); /* its handles were the loop's until now */
    control_free(v->control);
    link_close(v->control_link);
    link_close(v->data_link);
    if (v->zmq != NULL) zmq_ctx_term(v->zmq);
    free(v);
}
