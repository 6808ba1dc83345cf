/* balancer_trim.c - spare copies that nobody needs any more.
 *
 * A unit's copies beyond min_replicas go when it is cold and its layer has it
 * easy without them.  Both limits are well away from where the search would
 * make a copy, so that none comes and goes. */
#include "discovery/balancer_internal.h"

/* A cold copy goes only if its layer stays below this. */
#define TRIM_TO 1.035
#define COLD 1.1 /* times the mean load of a unit of the layer */
#define TRIM_NOISE 0.05

/* Would the layer's other nodes have it easy without this copy? */
static bool can_spare(const balance_work *w, uint32_t unit, uint32_t node) {
    uint32_t layer = w->layer_of[unit];
    const double *time = w->time + (size_t)layer * w->n_nodes;
    const uint16_t *holders = w->holders + (size_t)unit * w->stride;
    double speed = balance_speed(w, unit);
    double more =
        balance_cost(w->load[unit], speed - w->in->nodes[node].speed) -
        balance_cost(w->load[unit], speed);
    double most = TRIM_TO * balance_mean(w, layer);

    if (balance_is_pinned(w, unit, node)) return false;
    if (!balance_zones_fit(w, unit, node, BALANCE_NONE)) return false;
    for (uint32_t i = 0; i < w->n[unit]; i++) {
        if (holders[i] != node && time[holders[i]] + more > most) return false;
    }
    return true;
}

static void trim(balance_work *w, uint32_t unit) {
    while (w->n[unit] > w->replicas) {
        const uint16_t *holders = w->holders + (size_t)unit * w->stride;
        const double *time = w->time + (size_t)w->layer_of[unit] * w->n_nodes;
        uint32_t worst = BALANCE_NONE;
        for (uint32_t i = 0; i < w->n[unit]; i++) {
            uint32_t node = holders[i];
            if (!can_spare(w, unit, node)) continue;
            if (worst == BALANCE_NONE || time[node] > time[worst]) {
                worst = node;
            }
        }
        if (worst == BALANCE_NONE) return;
        balance_drop(w, unit, worst);
    }
}

void balance_trim_cold(balance_work *w) {
    /* Who knows what is cold? */
    if (w->in->load == NULL || w->in->noise > TRIM_NOISE) return;
    for (uint32_t i = w->n_units; i-- > 0;) {
        uint32_t unit = w->order[i], layer = w->layer_of[unit];
        uint32_t units = w->base[layer + 1] - w->base[layer];
        if (w->n[unit] <= w->replicas || w->total[layer] <= 0) continue;
        if (w->load[unit] * units <= COLD * w->total[layer]) trim(w, unit);
    }
}
