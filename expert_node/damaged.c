/* damaged.c - see damaged.h. */
#include "expert_node/damaged.h"

#include "engine/log.h"

bool damaged_take(service *s, const char *next, scrub_find *out) {
    worker *w = service_worker(s);
    shard *held = service_shard(s);
    if (w == NULL || !worker_take_damaged(w, out)) return false;

    uint32_t slices = expert_store_slices(held->store, out->layer);
    if (slices == 0) slices = 1;
    log_error("layer %u, expert %u, slice %u of %u: its weights in memory are "
              "not what was loaded; it is dropped, and %s. If this comes "
              "again, have the machine's memory tested",
              out->layer, out->unit / slices, out->unit % slices, slices, next);
    holdings_remove(&held->held, out->layer, out->unit);
    return true;
}

json_t *damaged_json(const service *s) {
    const worker *w = service_worker(s);
    scrub_figures f = {0};
    if (w != NULL) worker_read_scrub(w, &f);
    return json_pack("{s:I, s:I, s:I, s:I}", "damaged", (json_int_t)f.damaged,
                     "units", (json_int_t)f.units, "bytes", (json_int_t)f.bytes,
                     "passes", (json_int_t)f.passes);
}
