/* server.c - see server.h.
 *
 * A signal stops the worker; the worker's end stops the loop.  So the loop goes
 * on answering while the last batch is computed.  A second signal finds no
 * handler any more and ends the process. */
#include "expert_node/server.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>
#include <zmq.h>
#include "engine/cpu.h"
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"
#include "expert_node/control.h"
#include "expert_node/worker.h"
#include "proto/zmq_watch.h"

#define CONTROL_PART_MAX ((size_t)1 << 20) /* of a message that comes in */
#define QUEUE_MESSAGES 256 /* in ZeroMQ's hands, per peer and direction */
#define WHY_SIZE 512

struct server {
    const node_config *config;
    const shard *shard;
    uint64_t boot_id;

    void *zmq;
    struct link *control_link, *data_link;
    worker *worker;
    control *control;

    uv_loop_t loop;
    bool has_loop;
    uv_signal_t on_term, on_int;
    uv_async_t ended; /* sent by the worker's thread when it returns */
    zmq_watch *watch;

    pthread_t thread;
    bool has_thread;
    int worker_rc; /* valid once the thread is joined */
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

/* ---- what serves ---- */

static int make_worker(server *v, char *why, size_t why_size) {
    const node_config *c = v->config;
    const shard *s = v->shard;
    worker_config w = {
        .store = s->store,
        .width = s->model.n_embd,
        .expert_dim = s->model.expert_dim,
        .cluster = c->cluster,
        .boot_id = v->boot_id,
        .exact = c->exact,
        .threads = c->threads,
        .max_reply_bytes = c->max_queue,
    };
    memcpy(w.fingerprint, s->print.bytes, sizeof(w.fingerprint));
    int rc = worker_new(&v->worker, &w, v->data_link);
    if (rc < 0) {
        return err_why(why, why_size, rc, "cannot start computing: %s",
                       err_text(rc));
    }

    control_config k = {
        .name = c->name,
        .cluster = c->cluster,
        .model = s->model.name,
        .boot_id = v->boot_id,
        .exact = c->exact,
        .held = &s->held,
        .resident_bytes = expert_store_bytes(s->store),
        .max_reply_bytes = worker_peer_bytes(&w),
        .worker = v->worker,
    };
    memcpy(k.fingerprint, s->print.bytes, sizeof(k.fingerprint));
    rc = data_port(v, &k.data_port, why, why_size);
    if (rc < 0) return rc;
    rc = control_new(&v->control, &k);
    if (rc < 0) return err_why(why, why_size, rc, "%s", err_text(rc));
    return 0;
}

/* ---- the loop ---- */

static void on_control(void *ctx, frames *f) {
    server *v = ctx;
    control_answer(v->control, f);
    if (f->count == 0) return;
    if (link_send(v->control_link, f) < 0) {
        log_debug("an answer on the control endpoint was not taken");
    }
}

/* From now on a signal has its default meaning again. */
static void on_signal(uv_signal_t *handle, int number) {
    server *v = handle->data;
    log_info("%s: finishing the work in hand", strsignal(number));
    uv_signal_stop(&v->on_term);
    uv_signal_stop(&v->on_int);
    worker_stop(v->worker);
}

static void on_ended(uv_async_t *handle) {
    uv_stop(handle->loop);
}

static int open_loop(server *v, char *why, size_t why_size) {
    int rc = uv_loop_init(&v->loop);
    if (rc < 0) goto fail;
    v->has_loop = true;
    v->on_term.data = v->on_int.data = v;
    rc = uv_async_init(&v->loop, &v->ended, on_ended);
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

/* ---- opening, running, closing ---- */

int server_open(server **out, const node_config *c, const shard *s, char *why,
                size_t why_size) {
    *out = NULL;
    server *v = calloc(1, sizeof(*v));
    if (v == NULL) return err_why(why, why_size, -ENOMEM, "out of memory");
    v->config = c;
    v->shard = s;
    v->boot_id = random_boot_id();

    int rc;
    v->zmq = zmq_ctx_new();
    if (v->zmq == NULL) {
        rc = err_why(why, why_size, -errno, "cannot start ZeroMQ: %s",
                     zmq_strerror(errno));
        goto fail;
    }
    rc = bind_links(v, why, why_size);
    if (rc < 0) goto fail;
    rc = make_worker(v, why, why_size);
    if (rc < 0) goto fail;
    rc = open_loop(v, why, why_size);
    if (rc < 0) goto fail;

    log_info("node '%s', cluster '%s': %s kernels, %u threads, batches on %s",
             c->name, c->cluster, cpu_name(cpu_current()),
             worker_threads(v->worker), link_endpoint(v->data_link));
    *out = v;
    return 0;

fail:
    server_close(v);
    return rc;
}

static void *worker_thread(void *arg) {
    server *v = arg;
    pthread_setname_np(pthread_self(), "worker");
    v->worker_rc = worker_run(v->worker);
    uv_async_send(&v->ended);
    return NULL;
}

int server_run(server *v) {
    int rc = pthread_create(&v->thread, NULL, worker_thread, v);
    if (rc != 0) {
        log_error("cannot start the worker: %s", strerror(rc));
        return -rc;
    }
    v->has_thread = true;

    printf("ready %s\n", link_endpoint(v->control_link));
    if (fflush(stdout) != 0) log_warn("cannot say that it is ready on stdout");
    uv_run(&v->loop, UV_RUN_DEFAULT);

    pthread_join(v->thread, NULL);
    v->has_thread = false;
    if (v->worker_rc == 0) log_info("stopped");
    return v->worker_rc;
}

void server_close(server *v) {
    if (v == NULL) return;
    assert(!v->has_thread);
    close_loop(v);
    link_close(v->control_link);
    link_close(v->data_link);
    control_free(v->control);
    worker_free(v->worker);
    if (v->zmq != NULL) zmq_ctx_term(v->zmq);
    free(v);
}
