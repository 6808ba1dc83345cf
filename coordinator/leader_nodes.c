/* leader_nodes.c - see leader_nodes.h.
 *
 * The list is made anew from the records each time, and takes over from the one
 * before it only what the records cannot tell: since when a node is away, and
 * what it offered before and where it is. */
#include "coordinator/leader_nodes.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

void leader_nodes_fini(leader_nodes *l) {
    free(l->items);
    free(l->given);
    *l = (leader_nodes){0};
}

/* ---- reading ---- */

static int compare_names(const void *a, const void *b) {
    const leader_node *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static leader_node *find(const leader_nodes *l, const char *name) {
    if (l->n == 0) return NULL;
    leader_node key;
    snprintf(key.name, sizeof(key.name), "%s", name);
    return bsearch(&key, l->items, l->n, sizeof(key), compare_names);
}

static bool is_usable(const node_record *r, const planner_model *model,
                      const record_profile *profile) {
    if (r->has_model && memcmp(r->model, model->model, RECORD_MODEL) != 0) {
        return false;
    }
    return r->profile.version == profile->version &&
           strcmp(r->profile.activation, profile->activation) == 0 &&
           strcmp(r->profile.rows, profile->rows) == 0;
}

static void add_registered(leader_nodes *l, const rack_view *view,
                           const planner_model *model,
                           const record_profile *profile) {
    size_t n;
    const node_record *records = rack_view_nodes(view, &n);
    for (size_t i = 0; i < n; i++) {
        const node_record *r = &records[i];
        leader_node *node = &l->items[l->n++];
        *node =
            (leader_node){.memory_bytes = r->memory_bytes,
                          .ready_epoch = rack_view_ready_epoch(view, r->name),
                          .registered = true,
                          .usable = is_usable(r, model, profile),
                          .draining = rack_view_drain(view, r->name) != NULL};
        snprintf(node->name, sizeof(node->name), "%s", r->name);
        snprintf(node->zone, sizeof(node->zone), "%s", r->zone);
    }
}

static void add_away(leader_nodes *l, uint64_t now_ms, const rack_view *view,
                     const leader_nodes *before) {
    const rack_placement *p = rack_view_placement(view);
    if (p == NULL) return;
    const epoch_record *head = rack_placement_head(p);
    for (uint32_t i = 0; i < head->n_nodes; i++) {
        const char *name = head->nodes[i];
        if (name[0] == '\0' || rack_view_node(view, name) != NULL) continue;
        const leader_node *old = find(before, name);
        leader_node *node = &l->items[l->n++];
        *node = (leader_node){.away_ms = now_ms,
                              .draining = rack_view_drain(view, name) != NULL};
        if (old != NULL) {
            node->memory_bytes = old->memory_bytes;
            memcpy(node->zone, old->zone, sizeof(node->zone));
            if (!old->registered) node->away_ms = old->away_ms;
        }
        snprintf(node->name, sizeof(node->name), "%s", name);
    }
}

/* A zone's number is that of its first node. */
static void number_zones(leader_nodes *l) {
    for (uint32_t i = 0; i < l->n; i++) {
        uint32_t first = 0;
        while (strcmp(l->items[first].zone, l->items[i].zone) != 0)
            first++;
        l->items[i].zone_number = first;
    }
}

int leader_nodes_read(leader_nodes *l, uint64_t now_ms, const rack_view *view,
                      const planner_model *model,
                      const record_profile *profile) {
    const rack_placement *p = rack_view_placement(view);
    size_t most;
    (void)rack_view_nodes(view, &most);
    if (p != NULL) most += rack_placement_head(p)->n_nodes;

    leader_nodes fresh = {0};
    fresh.items = calloc(most + 1, sizeof(*fresh.items));
    fresh.given = calloc(most + 1, sizeof(*fresh.given));
    if (fresh.items == NULL || fresh.given == NULL) {
        leader_nodes_fini(&fresh);
        return -ENOMEM;
    }
    add_registered(&fresh, view, model, profile);
    add_away(&fresh, now_ms, view, l);
    qsort(fresh.items, fresh.n, sizeof(*fresh.items), compare_names);
    number_zones(&fresh);
    leader_nodes_fini(l);
    *l = fresh;
    return 0;
}

/* ---- giving ---- */

static uint64_t gone_at(const leader_node *n, uint64_t since_ms,
                        uint32_t patience_ms) {
    return (n->away_ms > since_ms ? n->away_ms : since_ms) + patience_ms;
}

planner_node *leader_nodes_give(leader_nodes *l, uint64_t now_ms,
                                uint64_t since_ms, uint32_t patience_ms) {
    for (uint32_t i = 0; i < l->n; i++) {
        const leader_node *n = &l->items[i];
        l->given[i] = (planner_node){
            .name = n->name,
            .memory_bytes = n->memory_bytes,
            .live = n->registered && n->usable,
            .missing =
                !n->registered && now_ms < gone_at(n, since_ms, patience_ms),
            .draining = n->draining,
            .ready_epoch = n->ready_epoch,
            .zone = n->zone_number};
    }
    return l->given;
}

uint64_t leader_nodes_deadline(const leader_nodes *l, uint64_t now_ms,
                               uint64_t since_ms, uint32_t patience_ms) {
    uint64_t first = UINT64_MAX;
    for (uint32_t i = 0; i < l->n; i++) {
        if (l->items[i].registered) continue;
        uint64_t at = gone_at(&l->items[i], since_ms, patience_ms);
        if (at > now_ms && at < first) first = at;
    }
    return first;
}

uint64_t leader_nodes_usable(const leader_nodes *l) {
    uint64_t digest = 0;
    for (uint32_t i = 0; i < l->n; i++) {
        const leader_node *n = &l->items[i];
        if (!n->registered || !n->usable) continue;
        digest = XXH3_64bits_withSeed(n->name, strlen(n->name), digest + 1);
    }
    return digest;
}

/* ---- what processes say that they know ---- */

static uint64_t larger(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* Of a registered node's present life; NULL: it has said nothing. */
static const ready_record *said_by(const rack_view *view,
                                   const node_record *node) {
    const ready_record *r = rack_view_ready(view, node->name);
    return r != NULL && r->boot == node->boot ? r : NULL;
}

uint64_t leader_nodes_epoch(const rack_view *view) {
    size_t n;
    const node_record *nodes = rack_view_nodes(view, &n);
    uint64_t most = 0;
    for (size_t i = 0; i < n; i++) {
        const ready_record *r = said_by(view, &nodes[i]);
        if (r != NULL)
            most = larger(most, epoch_pack(r->incarnation, r->epoch));
    }
    const coordinator_record *c = rack_view_coordinators(view, &n);
    for (size_t i = 0; i < n; i++)
        most = larger(most, epoch_pack(c[i].incarnation, c[i].epoch));
    return most;
}

bool leader_nodes_at_odds(const rack_view *view) {
    const rack_placement *p = rack_view_placement(view);
    if (p == NULL) return false;
    uint64_t epoch = rack_placement_epoch(p), sum = rack_placement_sum(p);
    size_t n;
    const node_record *nodes = rack_view_nodes(view, &n);
    for (size_t i = 0; i < n; i++) {
        const ready_record *r = said_by(view, &nodes[i]);
        if (r == NULL || epoch_pack(r->incarnation, r->epoch) != epoch)
            continue;
        int32_t place = rack_placement_node(p, nodes[i].name);
        if (r->digest != rack_placement_digest(p, place)) return true;
    }
    const coordinator_record *c = rack_view_coordinators(view, &n);
    for (size_t i = 0; i < n; i++) {
        if (epoch_pack(c[i].incarnation, c[i].epoch) != epoch) continue;
        if (c[i].placement != 0 && c[i].placement != sum) return true;
    }
    return false;
}
