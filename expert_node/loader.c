/* loader.c - see loader.h.
 *
 * One ring: [begun, pushed) wait, [done, begun) are in hand or wait for an
 * earlier one, [taken, done) are done.  A job keeps its place from push to
 * take, so that nothing is allocated and results cannot be lost. */
#include "expert_node/loader.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "engine/util.h"

typedef struct {
    loader_result result;
    bool finished;
} entry;

struct loader {
    pthread_t threads[LOADER_MAX_THREADS];
    uint32_t n_threads; /* that run */
    void (*on_done)(void *ctx);
    void *ctx;

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t wake;
    entry ring[LOADER_MAX_JOBS];
    /* Counted up; places modulo the ring. */
    uint64_t taken, done, begun, pushed;
    bool stopping;
};

static entry *place(loader *l, uint64_t number) {
    return &l->ring[number % LOADER_MAX_JOBS];
}

/* The next job's place, which is this thread's until it is done; NULL: stop. */
static entry *wait_for_job(loader *l) {
    entry *e = NULL;
    pthread_mutex_lock(&l->lock);
    while (!l->stopping && l->begun == l->pushed)
        pthread_cond_wait(&l->wake, &l->lock);
    if (!l->stopping) e = place(l, l->begun++);
    pthread_mutex_unlock(&l->lock);
    return e;
}

/* Results are taken in order: up to the first that is not there yet. */
static void finish(loader *l, entry *e) {
    pthread_mutex_lock(&l->lock);
    e->finished = true;
    while (l->done < l->begun && place(l, l->done)->finished)
        l->done++;
    pthread_mutex_unlock(&l->lock);
    l->on_done(l->ctx);
}

static void *loader_main(void *arg) {
    loader *l = arg;
    thread_in_background("loader");
    for (;;) {
        entry *e = wait_for_job(l);
        if (e == NULL) return NULL;
        loader_result *r = &e->result;
        const loader_job *j = &r->job;
        r->rc = j->run(j->ctx, j->layer, j->unit, r->why, sizeof(r->why));
        finish(l, e);
    }
}

int loader_start(loader **out, uint32_t n_threads, void (*on_done)(void *ctx),
                 void *ctx) {
    assert(n_threads > 0 && n_threads <= LOADER_MAX_THREADS);
    *out = NULL;
    loader *l = calloc(1, sizeof(*l));
    if (l == NULL) return -ENOMEM;
    l->on_done = on_done;
    l->ctx = ctx;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->wake, NULL);
    for (uint32_t i = 0; i < n_threads; i++) {
        int rc = pthread_create(&l->threads[i], NULL, loader_main, l);
        if (rc != 0) {
            loader_stop(l);
            return -rc;
        }
        l->n_threads++;
    }
    *out = l;
    return 0;
}

int loader_push(loader *l, const loader_job *j) {
    int rc = -EAGAIN;
    pthread_mutex_lock(&l->lock);
    if (l->pushed - l->taken < LOADER_MAX_JOBS) {
        *place(l, l->pushed++) = (entry){.result.job = *j};
        pthread_cond_signal(&l->wake);
        rc = 0;
    }
    pthread_mutex_unlock(&l->lock);
    return rc;
}

bool loader_take(loader *l, loader_result *out) {
    pthread_mutex_lock(&l->lock);
    bool any = l->taken < l->done;
    if (any) *out = place(l, l->taken++)->result;
    pthread_mutex_unlock(&l->lock);
    return any;
}

void loader_stop(loader *l) {
    if (l == NULL) return;
    pthread_mutex_lock(&l->lock);
    l->stopping = true;
    pthread_cond_broadcast(&l->wake);
    pthread_mutex_unlock(&l->lock);
    for (uint32_t i = 0; i < l->n_threads; i++)
        pthread_join(l->threads[i], NULL);
    pthread_cond_destroy(&l->wake);
    pthread_mutex_destroy(&l->lock);
    free(l);
}
