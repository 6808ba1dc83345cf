/* leader_history.c - see leader_history.h.
 *
 * Layers that did not change are shared between placements, so that comparing
 * two costs only what is different. */
#include "coordinator/leader_history.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"

/* A place of a placement that no peer has. */
#define NOBODY UINT32_MAX

void leader_history_fini(leader_history *h) {
    free(h->items);
    rack_placement_unref(h->seen);
    *h = (leader_history){0};
}

/* ---- numbers for places ---- */

typedef struct {
    uint32_t *peers; /* [n_nodes] */
} places;

static int number_places(places *p, leader_peers *peers,
                         const rack_placement *placement) {
    const epoch_record *head = rack_placement_head(placement);
    int rc = 0;
    p->peers = calloc((size_t)head->n_nodes + 1, sizeof(*p->peers));
    if (p->peers == NULL) return -ENOMEM;
    for (uint32_t i = 0; rc == 0 && i < head->n_nodes; i++) {
        p->peers[i] = NOBODY;
        if (head->nodes[i][0] == '\0') continue;
        rc = leader_peers_number(peers, head->nodes[i], &p->peers[i]);
    }
    return rc;
}

static bool has(const layer_map *m, const places *p, uint32_t unit,
                uint32_t peer) {
    uint32_t n;
    const uint16_t *holders = layer_map_holders(m, unit, &n);
    for (uint32_t i = 0; i < n; i++) {
        if (p->peers[holders[i]] == peer) return true;
    }
    return false;
}

/* ---- what is different ---- */

static int note(leader_history *h, uint64_t now_ms, uint32_t unit,
                uint32_t peer) {
    if (h->n == h->room) {
        uint32_t room = h->room > 0 ? 2 * h->room : 64;
        leader_change *items = realloc(h->items, room * sizeof(*items));
        if (items == NULL) return -ENOMEM;
        h->items = items;
        h->room = room;
    }
    h->items[h->n++] = (leader_change){now_ms, unit, peer};
    return 0;
}

/* What `a` has of a layer and `b` has not. */
static int note_missing(leader_history *h, uint64_t now_ms, uint32_t base,
                        const layer_map *a, const places *a_places,
                        const layer_map *b, const places *b_places) {
    for (uint32_t u = 0; u < a->n_units; u++) {
        uint32_t n;
        const uint16_t *holders = layer_map_holders(a, u, &n);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t peer = a_places->peers[holders[i]];
            if (has(b, b_places, u, peer)) continue;
            int rc = note(h, now_ms, base + u, peer);
            if (rc < 0) return rc;
        }
    }
    return 0;
}

static bool same_places(const rack_placement *a, const rack_placement *b) {
    const epoch_record *x = rack_placement_head(a);
    const epoch_record *y = rack_placement_head(b);
    uint32_t n = x->n_nodes < y->n_nodes ? x->n_nodes : y->n_nodes;
    return memcmp(x->nodes, y->nodes, n * sizeof(*x->nodes)) == 0;
}

static int note_changes(leader_history *h, uint64_t now_ms,
                        const rack_placement *now, const places *old_places,
                        const places *new_places) {
    uint32_t layers = rack_placement_head(now)->n_layers, base = 0;
    bool same = same_places(h->seen, now);
    for (uint32_t l = 0; l < layers; l++) {
        const layer_map *a = rack_placement_layer(h->seen, l);
        const layer_map *b = rack_placement_layer(now, l);
        uint32_t units = b != NULL ? b->n_units : a != NULL ? a->n_units : 0;
        bool compared = a != NULL && b != NULL && a->n_units == b->n_units &&
                        !(a == b && same);
        if (compared) {
            int rc =
                note_missing(h, now_ms, base, a, old_places, b, new_places);
            if (rc == 0) {
                rc =
                    note_missing(h, now_ms, base, b, new_places, a, old_places);
            }
            if (rc < 0) return rc;
        }
        base += units;
    }
    return 0;
}

/* ---- looking ---- */

static void forget(leader_history *h, uint64_t now_ms, uint64_t still_ms) {
    uint32_t old = 0;
    while (old < h->n && h->items[old].at_ms + still_ms <= now_ms)
        old++;
    if (old == 0) return;
    h->n -= old;
    memmove(h->items, h->items + old, h->n * sizeof(*h->items));
}

static bool is_comparable(const rack_placement *a, const rack_placement *b) {
    const epoch_record *x = rack_placement_head(a);
    const epoch_record *y = rack_placement_head(b);
    return memcmp(x->model, y->model, sizeof(x->model)) == 0 &&
           x->n_layers == y->n_layers && x->n_experts == y->n_experts &&
           x->slices == y->slices;
}

static int compare(leader_history *h, leader_peers *peers, uint64_t now_ms,
                   const rack_placement *now) {
    places old = {0}, new = {0};
    int rc = number_places(&old, peers, h->seen);
    if (rc == 0) rc = number_places(&new, peers, now);
    if (rc == 0) rc = note_changes(h, now_ms, now, &old, &new);
    free(old.peers);
    free(new.peers);
    return rc;
}

int leader_history_look(leader_history *h, leader_peers *peers, uint64_t now_ms,
                        uint64_t still_ms, const rack_placement *now) {
    forget(h, now_ms, still_ms);
    h->fresh = h->n;
    if (now == h->seen) return 0;
    int rc = 0;
    if (now != NULL && h->seen != NULL) {
        if (is_comparable(h->seen, now)) {
            rc = compare(h, peers, now_ms, now);
        } else {
            h->n = h->fresh = 0;
        }
    }
    if (rc < 0) return rc;
    rack_placement_unref(h->seen);
    h->seen = now != NULL ? rack_placement_ref(now) : NULL;
    return 0;
}
