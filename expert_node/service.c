/* service.c - see service.h. */
#include "expert_node/service.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"

struct service {
    service_config config;
    shard *shard;
    worker *worker;
    tally *tally; /* of all workers, one after the other */
    pthread_t thread;
    bool has_thread;
    atomic_bool ended; /* the thread has nothing more to do */
    int worker_rc;     /* written before `ended` */
};

int service_new(service **out, const service_config *c) {
    service *s = calloc(1, sizeof(*s));
    *out = s;
    if (s == NULL) return -ENOMEM;
    s->config = *c;
    int rc = tally_new(&s->tally);
    if (rc == 0) return 0;
    free(s);
    *out = NULL;
    return rc;
}

static void join(service *s) {
    if (!s->has_thread) return;
    pthread_join(s->thread, NULL);
    s->has_thread = false;
}

void service_free(service *s) {
    if (s == NULL) return;
    assert(!s->has_thread || atomic_load(&s->ended));
    join(s);
    worker_free(s->worker);
    tally_free(s->tally);
    shard_close(s->shard);
    free(s);
}

void service_adopt(service *s, shard *held) {
    assert(s->shard == NULL);
    s->shard = held;
}

shard *service_shard(const service *s) {
    return s->shard;
}

worker *service_worker(const service *s) {
    return s->worker;
}

/* ---- the worker ---- */

static void *worker_thread(void *arg) {
    service *s = arg;
    pthread_setname_np(pthread_self(), "worker");
    s->worker_rc = worker_run(s->worker);
    atomic_store(&s->ended, true);
    s->config.on_news(s->config.ctx);
    return NULL;
}

static int make_worker(service *s) {
    const node_config *c = s->config.config;
    const shard *held = s->shard;
    worker_config w = {
        .store = held->store,
        .width = held->model.n_embd,
        .expert_dim = held->model.expert_dim,
        .cluster = c->cluster,
        .boot_id = s->config.boot_id,
        .exact = c->exact,
        .threads = c->threads,
        .pin = c->pin,
        .max_reply_bytes = c->max_queue,
        .tally = s->tally,
        .scrub_ms = (uint64_t)((double)c->scrub_hours * 3600e3),
        .on_dropped = s->config.on_news,
        .ctx = s->config.ctx,
    };
    memcpy(w.fingerprint, held->print.bytes, sizeof(w.fingerprint));
    int rc = tally_cut(s->tally, held->store, held->model.n_layers);
    if (rc < 0) return rc;
    return worker_new(&s->worker, &w, s->config.data);
}

int service_start(service *s, char *why, size_t why_size) {
    assert(s->shard != NULL && s->worker == NULL);
    int rc = make_worker(s);
    if (rc == 0) {
        atomic_store(&s->ended, false);
        s->worker_rc = 0;
        rc = -pthread_create(&s->thread, NULL, worker_thread, s);
        s->has_thread = rc == 0;
    }
    if (rc == 0) return 0;
    worker_free(s->worker);
    s->worker = NULL;
    return err_why(why, why_size, rc, "cannot start computing: %s",
                   err_text(rc));
}

int service_cut(service *s, uint32_t slices, char *why, size_t why_size) {
    if (s->has_thread) worker_stop(s->worker);
    join(s);
    worker_free(s->worker);
    s->worker = NULL;
    int rc = shard_cut(s->shard, slices, why, why_size);
    return rc < 0 ? rc : service_start(s, why, why_size);
}

void service_stop(service *s) {
    if (s->has_thread) worker_stop(s->worker);
}

bool service_ended(service *s, int *rc) {
    bool over = !s->has_thread || atomic_load(&s->ended);
    *rc = over ? s->worker_rc : 0;
    return over;
}
