/* orders.h - what the loop tells the worker's thread: units to drop, and
 * coordinators whose batches are to be refused because their placement is too
 * old.  Bounded; a look that finds nothing costs one load. */
#ifndef EXPERT_NODE_ORDERS_H
#define EXPERT_NODE_ORDERS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ORDERS_MAX_DROPS 64
#define ORDERS_MAX_STALE 256

typedef struct {
    uint32_t layer, unit;
} drop_order;

typedef struct {
    pthread_mutex_t lock; /* guards the two lists */
    drop_order drops[ORDERS_MAX_DROPS];
    uint64_t stale[ORDERS_MAX_STALE]; /* boot ids */
    atomic_uint n_drops, n_stale;     /* written under the lock */
} orders;

void orders_init(orders *o);
void orders_fini(orders *o);

/* The loop's side.  -EAGAIN: full. */
int orders_drop(orders *o, uint32_t layer, uint32_t unit);
/* -EAGAIN: more than ORDERS_MAX_STALE. */
int orders_set_stale(orders *o, uint64_t boot_id, bool stale);

/* The worker's side. */
static inline bool orders_waiting(const orders *o) {
    return atomic_load_explicit(&o->n_drops, memory_order_acquire) > 0;
}
size_t orders_take(orders *o, drop_order out[ORDERS_MAX_DROPS]);
bool orders_is_stale(orders *o, uint64_t boot_id);

#endif
