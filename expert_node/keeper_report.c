/* keeper_report.c - what a keeper has to say: to etcd, to coordinators, to
 * whoever looks; see keeper.h. */
#include "expert_node/keeper_internal.h"

#define PROGRESS_MS 2000 /* between two reports of what still waits */

bool keeper_next_report(keeper *k, uint64_t now_ms, keeper_action *out) {
    if (!k->fits || k->self < 0) return false;
    const uint32_t waiting = keeper_waiting(k);
    if (waiting == 0 && k->complete_epoch != k->epoch) {
        k->complete_epoch = k->epoch;
        k->complete_digest = rack_placement_digest(k->placement, k->self);
    } else {
        if (k->complete_epoch == 0 || waiting == k->said_waiting) return false;
        if (waiting > 0 && now_ms - k->said_ms < PROGRESS_MS) {
            keeper_wake_by(out, k->said_ms + PROGRESS_MS);
            return false;
        }
    }
    k->said_waiting = waiting;
    k->said_ms = now_ms;
    out->kind = KEEPER_REPORT;
    out->epoch = k->complete_epoch;
    out->digest = k->complete_digest;
    out->units = k->n_resident;
    out->waiting = waiting;
    return true;
}

void keeper_raise_version(keeper *k, uint64_t now_ms, keeper_action *out) {
    if (!k->changed) return;
    if (now_ms - k->version_ms < k->config.version_ms) {
        keeper_wake_by(out, k->version_ms + k->config.version_ms);
        return;
    }
    k->version++;
    k->version_ms = now_ms;
    k->changed = false;
}

void keeper_look(const keeper *k, keeper_figures *out) {
    const work_lists *l = &k->lists;
    *out = (keeper_figures){
        .epoch = k->placement != NULL ? k->epoch : 0,
        .slices = k->slices,
        .assigned = k->n_assigned,
        .resident = k->n_resident,
        .loading = k->n_loading,
        .unloading = k->n_unloading,
        .leaving = k->n_resident - k->n_wanted_resident,
        .waiting = keeper_waiting(k),
        .peers = (uint32_t)k->peers.count,
        .stale = keeper_peers_stale(&k->peers),
        .no_room = k->no_room,
    };
    for (size_t i = 0; i < l->n_failed; i++)
        out->failed += keeper_at(k, l->failed[i])->tries > 0;
}

bool keeper_holds(const keeper *k, uint32_t layer, uint32_t number) {
    const unit *u = keeper_find(k, layer, number);
    return u != NULL && u->state == RESIDENT;
}

uint64_t keeper_version(const keeper *k) {
    return k->version;
}
