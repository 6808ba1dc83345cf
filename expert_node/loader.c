/* loader.c - see loader.h.
 *
 * One ring: [first, next) wait, [taken, first) are done.  A job keeps its place
 * from push to take, so that nothing is allocated and results cannot be lost.
 */
#include "expert_node/loader.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "engine/util.h"

struct loader {
    pthread_t thread;
    void (*on_done)(void *ctx);
    void *ctx;

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t wake;
    loader_result ring[LOADER_MAX_JOBS];
    uint64_t taken, done, pushed; /* counted up; places modulo the ring */
    bool stopping;
};

static loader_result *place(loader *l, uint64_t number) {
    return &l->ring[number % LOADER_MAX_JOBS];
}

/* The next job's place, which is this thread's until it is done; NULL: stop. */
static loader_result *wait_for_job(loader *l) {
    loader_result *r = NULL;
    pthread_mutex_lock(&l->lock);
    while (!l->stopping && l->done == l->pushed)
        pthread_cond_wait(&l->wake, &l->lock);
    if (!l->stopping) r = place(l, l->done);
    pthread_mutex_unlock(&l->lock);
    return r;
}

static void *loader_main(void *arg) {
    loader *l = arg;
    thread_in_background("loader");
    for (;;) {
        loader_result *r = wait_for_job(l);
        if (r == NULL) return NULL;
        const loader_job *j = &r->job;
        r->rc = j->run(j->ctx, j->layer, j->unit, r->why, sizeof(r->why));

        pthread_mutex_lock(&l->lock);
        l->done++;
        pthread_mutex_unlock(&l->lock);
        l->on_done(l->ctx);
    }
}

int loader_start(loader **out, void (*on_done)(void *ctx), void *ctx) {
    *out = NULL;
    loader *l = calloc(1, sizeof(*l));
    if (l == NULL) return -ENOMEM;
    l->on_done = on_done;
    l->ctx = ctx;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->wake, NULL);
    int rc = pthread_create(&l->thread, NULL, loader_main, l);
    if (rc != 0) {
        pthread_cond_destroy(&l->wake);
        pthread_mutex_destroy(&l->lock);
        free(l);
        return -rc;
    }
    *out = l;
    return 0;
}

int loader_push(loader *l, const loader_job *j) {
    int rc = -EAGAIN;
    pthread_mutex_lock(&l->lock);
    if (l->pushed - l->taken < LOADER_MAX_JOBS) {
        *place(l, l->pushed++) = (loader_result){.job = *j};
        pthread_cond_signal(&l->wake);
        rc = 0;
    }
    pthread_mutex_unlock(&l->lock);
    return rc;
}

bool loader_take(loader *l, loader_result *out) {
    pthread_mutex_lock(&l->lock);
    bool any = l->taken < l->done;
    if (any) *out = *place(l, l->taken++);
    pthread_mutex_unlock(&l->lock);
    return any;
}

void loader_stop(loader *l) {
    if (l == NULL) return;
    pthread_mutex_lock(&l->lock);
    l->stopping = true;
    pthread_cond_signal(&l->wake);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    pthread_cond_destroy(&l->wake);
    pthread_mutex_destroy(&l->lock);
    free(l);
}
