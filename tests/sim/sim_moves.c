/* sim_moves.c - no move may be undone soon: as long as a rack has the same
 * nodes and the same leader, a holder that came beside others does not go, and
 * one that went does not come back, within SIM_STILL_US.
 *
 * What a node is given that is not registered (it died, and the leader that
 * gave it has not seen that yet) has not come to be there, and is given to
 * others when its time of absence is up.
 *
 * A store that was restored has the placement of its snapshot: what was written
 * since is neither there nor undone. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tests/sim/sim.h"

#define CALM_US 5000000 /* until a leader has heard, and has acted on it */

void sim_moves_restart(sim *s) {
    memset(s->came_us, 0, sizeof(s->came_us));
    memset(s->went_us, 0, sizeof(s->went_us));
    s->rack_changed_us = s->clock.now_us;
}

static bool is_registered(const sim *s, uint32_t node) {
    char key[40];
    snprintf(key, sizeof(key), "nodes/%s",
             s->members[sim_node_member(node)].name);
    return sim_etcd_find(&s->etcd, key) != NULL;
}

static void check(sim *s, uint32_t node, uint32_t layer, uint32_t unit,
                  uint64_t other_us) {
    if (other_us == 0 || s->clock.now_us > other_us + SIM_STILL_US) return;
    sim_fail(s, "the move of unit %u of layer %u at node %u is undone", unit,
             layer, node);
}

/* What a layer's map gives to each node, by the head's names. */
static void read_layer(const sim *s, const epoch_record *head,
                       const layer_map *map, uint64_t out[SIM_NODES]) {
    memset(out, 0, SIM_NODES * sizeof(*out));
    for (uint32_t u = 0; u < map->n_units; u++) {
        uint32_t n;
        const uint16_t *holders = layer_map_holders(map, u, &n);
        for (uint32_t i = 0; i < n; i++) {
            int32_t node = sim_node_named(s, head->nodes[holders[i]]);
            if (node >= 0) out[node] |= 1ull << u;
        }
    }
}

static void reread_layer(sim *s, const epoch_record *head, uint32_t layer) {
    layer_map map = {0};
    uint64_t now[SIM_NODES];
    char key[32];
    snprintf(key, sizeof(key), "placement/layer/%u", layer);
    const sim_kv *kv = sim_etcd_find(&s->etcd, key);
    if (kv == NULL) return;
    if (layer_map_unpack(&map, kv->value, kv->bytes, head->n_nodes, NULL, 0) <
        0) {
        abort(); /* it was read when it was written */
    }
    read_layer(s, head, &map, now);
    layer_map_fini(&map);
    for (uint32_t i = 0; i < s->n_nodes; i++)
        s->placed[i].of[layer] = now[i];
}

void sim_moves_reread(sim *s) {
    const sim_kv *kv = sim_etcd_find(&s->etcd, "placement/epoch");
    epoch_record head;
    sim_moves_restart(s);
    memset(s->placed, 0, sizeof(s->placed));
    if (kv == NULL) return;
    if (epoch_record_unpack(&head, kv->value, kv->bytes, NULL, 0) < 0) abort();
    for (uint32_t l = 0; l < SIM_LAYERS; l++)
        reread_layer(s, &head, l);
    epoch_record_fini(&head);
}

void sim_moves_look(sim *s, const epoch_record *head, uint32_t layer,
                    const void *packed, size_t bytes) {
    layer_map map = {0};
    uint64_t now[SIM_NODES];
    if (layer_map_unpack(&map, packed, bytes, head->n_nodes, NULL, 0) < 0) {
        sim_fail(s, "a layer that cannot be read is written");
        return;
    }
    read_layer(s, head, &map, now);
    layer_map_fini(&map);
    bool calm = s->clock.now_us > s->rack_changed_us + CALM_US;
    uint64_t before = 0; /* held by anybody: the first to come is no move */
    for (uint32_t i = 0; i < s->n_nodes; i++)
        before |= s->placed[i].of[layer];
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        uint64_t changed = now[i] ^ s->placed[i].of[layer];
        s->placed[i].of[layer] = now[i];
        for (; changed != 0; changed &= changed - 1) {
            uint32_t unit = (uint32_t)__builtin_ctzll(changed);
            bool came = now[i] >> unit & 1;
            sim_trace(s, "  unit %u of layer %u %s node %u", unit, layer,
                      came ? "comes to" : "goes from", i);
            uint64_t *came_us = &s->came_us[i][layer][unit];
            uint64_t *went_us = &s->went_us[i][layer][unit];
            check(s, i, layer, unit, came ? *went_us : *came_us);
            bool move =
                calm &&
                (!came || ((before >> unit & 1) != 0 && is_registered(s, i)));
            if (move) *(came ? came_us : went_us) = s->clock.now_us;
        }
    }
}
