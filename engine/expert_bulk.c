/* expert_bulk.c - see expert_bulk.h.
 *
 * A task is one unit.  Before it reads its own unit it asks the system for
 * those that come AHEAD_BYTES later, so the disk is never idle while units are
 * packed; the kernel's own reading ahead follows one file position, not the
 * three tensors of a unit by several threads. */
#include "engine/expert_bulk.h"

#include <assert.h>
#include <stdatomic.h>
#include <unistd.h>
#include "engine/first_failure.h"
#include "engine/util.h"

#define AHEAD_BYTES ((uint64_t)32 << 20)

typedef struct {
    const expert_bulk *bulk;
    bool tight;          /* file and packed weights do not both fit */
    atomic_size_t ahead; /* units that were asked for */
    atomic_size_t loaded;
    first_failure failure;
} load;

/* Ask for the units up to some way beyond `at`. */
static void look_ahead(load *l, size_t at) {
    const expert_bulk *b = l->bulk;
    uint64_t unit = expert_store_unit_bytes(b->store, b->units[at].layer);
    size_t window = AHEAD_BYTES / size_max(unit, 1) + pool_threads(b->threads);
    size_t end = size_min(at + window, b->n_units);

    size_t next = atomic_load(&l->ahead);
    while (next < end) {
        if (!atomic_compare_exchange_weak(&l->ahead, &next, next + 1)) continue;
        const expert_unit *u = &b->units[next++];
        expert_store_hint(b->store, u->layer, u->unit, EXPERT_AHEAD);
    }
}

static void load_unit(void *ctx, uint32_t task, uint32_t worker) {
    load *l = ctx;
    const expert_bulk *b = l->bulk;
    const expert_unit *u = &b->units[task];
    if (first_failure_any(&l->failure)) return;

    char why[FIRST_FAILURE_WHY] = "";
    look_ahead(l, task);
    int rc = expert_store_load(b->store, u->layer, u->unit, why, sizeof(why));
    if (rc < 0) {
        first_failure_set(&l->failure, rc, why);
        return;
    }
    if (l->tight) expert_store_hint(b->store, u->layer, u->unit, EXPERT_BEHIND);
    size_t n = atomic_fetch_add(&l->loaded, 1) + 1;
    if (worker == 0 && b->progress != NULL) b->progress(b->ctx, n);
}

/* Would the units, stored and packed, take more than half of the memory each?
 */
static bool is_tight(const expert_bulk *b) {
    long pages = sysconf(_SC_PHYS_PAGES), bytes = sysconf(_SC_PAGESIZE);
    if (pages < 0 || bytes < 0) return true;
    uint64_t all = 0;
    for (size_t i = 0; i < b->n_units; i++)
        all += expert_store_unit_bytes(b->store, b->units[i].layer);
    return all > (uint64_t)pages * (uint64_t)bytes / 2;
}

int expert_bulk_load(const expert_bulk *b, char *why, size_t why_size) {
    assert(b->n_units <= UINT32_MAX);
    load l = {.bulk = b, .tight = is_tight(b)};
    first_failure_init(&l.failure);
    if (expert_store_reads_file(b->store)) {
        pool_run(b->threads, (uint32_t)b->n_units, load_unit, &l);
    } else {
        for (uint32_t i = 0; i < b->n_units; i++)
            load_unit(&l, i, 0);
    }
    return first_failure_fini(&l.failure, why, why_size);
}
