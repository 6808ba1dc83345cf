/* orders.c - see orders.h. */
#include "expert_node/orders.h"

#include <errno.h>
#include <string.h>

void orders_init(orders *o) {
    memset(o, 0, sizeof(*o));
    pthread_mutex_init(&o->lock, NULL);
}

void orders_fini(orders *o) {
    pthread_mutex_destroy(&o->lock);
}

int orders_drop(orders *o, uint32_t layer, uint32_t unit) {
    int rc = -EAGAIN;
    pthread_mutex_lock(&o->lock);
    unsigned n = atomic_load(&o->n_drops);
    if (n < ORDERS_MAX_DROPS) {
        o->drops[n] = (drop_order){layer, unit};
        atomic_store(&o->n_drops, n + 1);
        rc = 0;
    }
    pthread_mutex_unlock(&o->lock);
    return rc;
}

size_t orders_take(orders *o, drop_order out[ORDERS_MAX_DROPS]) {
    pthread_mutex_lock(&o->lock);
    size_t n = atomic_load(&o->n_drops);
    memcpy(out, o->drops, n * sizeof(*out));
    atomic_store(&o->n_drops, 0);
    pthread_mutex_unlock(&o->lock);
    return n;
}

/* Its place in the list, which is locked; n_stale: it is not there. */
static unsigned find(const orders *o, uint64_t boot_id) {
    unsigned i = 0, n = atomic_load(&o->n_stale);
    while (i < n && o->stale[i] != boot_id)
        i++;
    return i;
}

int orders_set_stale(orders *o, uint64_t boot_id, bool stale) {
    int rc = 0;
    pthread_mutex_lock(&o->lock);
    unsigned n = atomic_load(&o->n_stale), at = find(o, boot_id);
    if (stale && at == n) {
        if (n < ORDERS_MAX_STALE) {
            o->stale[n] = boot_id;
            atomic_store(&o->n_stale, n + 1);
        } else {
            rc = -EAGAIN;
        }
    } else if (!stale && at < n) {
        o->stale[at] = o->stale[n - 1];
        atomic_store(&o->n_stale, n - 1);
    }
    pthread_mutex_unlock(&o->lock);
    return rc;
}

bool orders_is_stale(orders *o, uint64_t boot_id) {
    if (atomic_load_explicit(&o->n_stale, memory_order_relaxed) == 0) {
        return false;
    }
    pthread_mutex_lock(&o->lock);
    bool is = find(o, boot_id) < atomic_load(&o->n_stale);
    pthread_mutex_unlock(&o->lock);
    return is;
}
