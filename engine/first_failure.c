/* first_failure.c - see first_failure.h. */
#include "engine/first_failure.h"

#include <assert.h>
#include <stdio.h>

void first_failure_init(first_failure *f) {
    pthread_mutex_init(&f->lock, NULL);
    atomic_init(&f->rc, 0);
    f->why[0] = '\0';
}

void first_failure_set(first_failure *f, int rc, const char *why) {
    assert(rc < 0);
    pthread_mutex_lock(&f->lock);
    if (atomic_load(&f->rc) == 0) {
        snprintf(f->why, sizeof(f->why), "%s", why);
        atomic_store(&f->rc, rc);
    }
    pthread_mutex_unlock(&f->lock);
}

int first_failure_fini(first_failure *f, char *why, size_t why_size) {
    int rc = atomic_load(&f->rc);
    if (rc < 0 && why_size > 0) snprintf(why, why_size, "%s", f->why);
    pthread_mutex_destroy(&f->lock);
    return rc;
}
