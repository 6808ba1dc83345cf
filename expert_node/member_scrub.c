/* member_scrub.c - see member_scrub.h. */
#include "expert_node/member_scrub.h"

#include "engine/log.h"

static void withdraw(member *m, const scrub_find *f, uint64_t now_ms) {
    shard *s = service_shard(m->config.service);
    uint32_t slices = expert_store_slices(s->store, f->layer);
    if (slices == 0) slices = 1;
    log_error("layer %u, expert %u, slice %u of %u: its weights in memory are "
              "not what was loaded; dropped, and loaded again. If this comes "
              "again, have the machine's memory tested",
              f->layer, f->unit / slices, f->unit % slices, slices);
    holdings_remove(&s->held, f->layer, f->unit);
    keeper_lost(m->keeper, now_ms, f->layer, f->unit);
}

void member_take_damaged(member *m, uint64_t now_ms) {
    worker *w = service_worker(m->config.service);
    scrub_find f;
    while (w != NULL && worker_take_damaged(w, &f))
        withdraw(m, &f, now_ms);
}

json_t *member_scrub_json(const member *m) {
    const worker *w = service_worker(m->config.service);
    scrub_figures f = {0};
    if (w != NULL) worker_read_scrub(w, &f);
    return json_pack("{s:I, s:I, s:I, s:I}", "damaged", (json_int_t)f.damaged,
                     "units", (json_int_t)f.units, "bytes", (json_int_t)f.bytes,
                     "passes", (json_int_t)f.passes);
}
