/* zmq_watch.c - see zmq_watch.h.
 *
 * ZMQ_FD is edge-triggered: one wake-up may stand for many messages, and a send
 * may use up the wake-up that a receive needed.  So the poll handle only wakes
 * the loop.  Reading is done by a prepare handle, which libuv runs just before
 * it would sleep: a message may wait for one turn, but is never forgotten.
 * An idle handle keeps the loop from sleeping while a full batch left messages
 * behind, or after a kick. */
#include "proto/zmq_watch.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include "engine/err.h"

struct zmq_watch {
    uv_poll_t poll;
    uv_prepare_t prepare;
    uv_idle_t again;
    struct link *link; /* borrowed */
    zmq_watch_cb on_message;
    zmq_watch_broken_cb on_broken; /* NULL: nobody wants to know */
    void *ctx;
    uint64_t dropped;
    unsigned open_handles;
};

static void on_wake(uv_poll_t *poll, int status, int events) {
    (void)poll;
    (void)status;
    (void)events;
}

static void on_again(uv_idle_t *again) {
    (void)again;
}

/* Hand over at most one batch, so that timers and peers get their turn too. */
static void on_prepare(uv_prepare_t *prepare) {
    zmq_watch *w = prepare->data;

    for (int i = 0; i < ZMQ_WATCH_BATCH; i++) {
        frames f;
        frames_init(&f);
        int rc = link_recv(w->link, &f);
        if (rc == ERR_MALFORMED || rc == -ENOMEM) {
            w->dropped++;
            continue;
        }
        if (rc == -ECONNRESET) {
            if (w->on_broken != NULL) w->on_broken(w->ctx);
            if (uv_is_closing((uv_handle_t *)prepare)) return;
            continue;
        }
        if (rc < 0) { /* none now, or the ZeroMQ context is gone */
            uv_idle_stop(&w->again);
            return;
        }
        w->on_message(w->ctx, &f);
        frames_fini(&f);
        if (uv_is_closing((uv_handle_t *)prepare)) return;
    }
    uv_idle_start(&w->again, on_again);
}

int zmq_watch_open(zmq_watch **out, uv_loop_t *loop, struct link *l,
                   zmq_watch_cb on_message, void *ctx) {
    *out = NULL;
    zmq_watch *w = calloc(1, sizeof(*w));
    if (w == NULL) return -ENOMEM;

    /* The only step that can fail, and it leaves no handle behind. */
    int rc = uv_poll_init(loop, &w->poll, link_fd(l));
    if (rc < 0) {
        free(w);
        return rc;
    }
    uv_prepare_init(loop, &w->prepare);
    uv_idle_init(loop, &w->again);
    w->poll.data = w->prepare.data = w->again.data = w;
    w->open_handles = 3;
    w->link = l;
    w->on_message = on_message;
    w->ctx = ctx;

    rc = uv_poll_start(&w->poll, UV_READABLE, on_wake);
    assert(rc == 0); /* fails only for a handle that is closing */
    uv_prepare_start(&w->prepare, on_prepare);
    *out = w;
    return 0;
}

void zmq_watch_on_broken(zmq_watch *w, zmq_watch_broken_cb on_broken) {
    w->on_broken = on_broken;
}

static void on_handle_closed(uv_handle_t *handle) {
    zmq_watch *w = handle->data;

    assert(w->open_handles > 0);
    if (--w->open_handles == 0) free(w);
}

void zmq_watch_close(zmq_watch *w) {
    if (w == NULL) return;
    uv_close((uv_handle_t *)&w->poll, on_handle_closed);
    uv_close((uv_handle_t *)&w->prepare, on_handle_closed);
    uv_close((uv_handle_t *)&w->again, on_handle_closed);
}

void zmq_watch_kick(zmq_watch *w) {
    if (w != NULL) uv_idle_start(&w->again, on_again);
}

uint64_t zmq_watch_dropped(const zmq_watch *w) {
    return w->dropped;
}
