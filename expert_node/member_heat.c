/* member_heat.c - see member_heat.h. */
#include "expert_node/member_heat.h"

#include <stdlib.h>
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"

#define SAVE_EVERY_MS 20000

void member_heat_open(member_heat *h, const heat_memory_config *c) {
    if (h->memory != NULL) return;
    int rc = heat_memory_open(&h->memory, c);
    if (rc == 0) return;
    log_warn("what is needed most will not be remembered: %s", err_text(rc));
}

void member_heat_close(member_heat *h) {
    heat_memory_close(h->memory);
    free(h->last);
    *h = (member_heat){0};
}

uint64_t member_heat_of(const member_heat *h, const shard *s, uint32_t layer,
                        uint32_t unit) {
    if (h->memory == NULL || s == NULL || s->store == NULL) return 0;
    uint32_t slices = expert_store_slices(s->store, layer);
    return slices > 0 ? heat_memory_of(h->memory, layer, unit / slices) : 0;
}

/* Counters of another store begin at 0. */
static bool follow_store(member_heat *h, const tally *t,
                         const expert_store *store) {
    if (h->counted == t && h->of == store) return true;
    uint64_t units = 0;
    for (uint32_t l = 0; l < expert_store_layers(store); l++)
        units += expert_store_units(store, l);
    free(h->last);
    h->last = calloc(units + 1, sizeof(*h->last));
    h->counted = h->last != NULL ? t : NULL;
    h->of = store;
    return h->last != NULL;
}

static void take_in(member_heat *h, const tally *t, const expert_store *store) {
    uint32_t *last = h->last;
    for (uint32_t l = 0; l < expert_store_layers(store); l++) {
        uint32_t units = expert_store_units(store, l);
        uint32_t slices = expert_store_slices(store, l);
        for (uint32_t u = 0; u < units; u++, last++) {
            uint32_t now = tally_pairs(t, l, u);
            heat_memory_add(h->memory, l, u / slices, now - *last);
            *last = now;
        }
    }
}

void member_heat_look(member_heat *h, const service *s, uint64_t now_ms) {
    const worker *w = service_worker(s);
    const shard *held = service_shard(s);
    if (h->memory == NULL || w == NULL || held == NULL) return;
    if (now_ms - h->looked_ms < SAVE_EVERY_MS) return;
    const tally *t = worker_tally(w);
    if (t == NULL || held->store == NULL) return;
    h->looked_ms = now_ms;
    if (!follow_store(h, t, held->store)) return;
    take_in(h, t, held->store);
    int rc = heat_memory_save(h->memory);
    if (rc < 0 && !h->said_failed)
        log_warn("what is needed most cannot be saved: %s", err_text(rc));
    h->said_failed = rc < 0;
}
