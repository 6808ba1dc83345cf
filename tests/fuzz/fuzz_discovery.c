/* fuzz_discovery.c - libFuzzer over what a rack reads from etcd.
 *
 * The first byte selects: a document of each kind, a layer map (as it is, or
 * with the checksum that it needs), a key, or a whole view that is fed keys and
 * values.  Values are bytes of the input, or good documents in which the input
 * replaces bytes, so that what lies behind the first check is reached too. What
 * could be read must be written and read again. */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "discovery/rack_view.h"
#include "engine/util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds) {
    if (!holds) abort();
}

/* ---- good documents, damaged ---- */

static const record_profile profile = {
    .version = 1, .activation = "a8", .rows = "f32"};

static char *good_epoch(void) {
    char nodes[3][RECORD_NAME] = {"a", "", "b"};
    epoch_record r = {.incarnation = 1,
                      .epoch = 5,
                      .n_layers = 2,
                      .n_experts = 2,
                      .slices = 2,
                      .min_replicas = 1,
                      .nodes = nodes,
                      .n_nodes = 3,
                      .writer = "a"};
    return epoch_record_pack(&r);
}

static char *good_document(record_kind kind) {
    node_record node = {.boot = 1,
                        .control = "tcp://h:1",
                        .zone = "z",
                        .has_model = true,
                        .protocol = 1,
                        .profile = profile};
    coordinator_record coordinator = {.boot = 1,
                                      .client = "tcp://[::1]:1",
                                      .protocol = 1,
                                      .profile = profile};
    leader_record leader = {.boot = 1, .name = "a"};
    ready_record ready = {.boot = 1, .incarnation = 1, .epoch = 5};
    drain_record drain = {.by = "a", .at = "2026-01-01T00:00:00Z"};
    switch (kind) {
    case RECORD_NODE:
        return node_record_pack(&node);
    case RECORD_COORDINATOR:
        return coordinator_record_pack(&coordinator);
    case RECORD_LEADER:
        return leader_record_pack(&leader);
    case RECORD_READY:
        return ready_record_pack(&ready);
    case RECORD_DRAIN:
        return drain_record_pack(&drain);
    default:
        return good_epoch();
    }
}

/* [place, 2 bytes][byte]... into the text. */
static char *damaged(record_kind kind, const uint8_t *data, size_t size) {
    char *text = good_document(kind);
    require(text != NULL);
    size_t len = strlen(text);
    for (; size >= 3; data += 3, size -= 3) {
        text[(data[0] | (size_t)data[1] << 8) % len] = (char)data[2];
    }
    return text;
}

/* ---- documents ---- */

#define ROUND_TRIP(type)                                                       \
    static void try_##type(const uint8_t *data, size_t size) {                 \
        type##_record r, again;                                                \
        char why[200] = "";                                                    \
        int rc = type##_record_unpack(&r, data, size, why, sizeof(why));       \
        require(rc == 0 || why[0] != '\0');                                    \
        if (rc < 0) return;                                                    \
        char *text = type##_record_pack(&r);                                   \
        require(text != NULL);                                                 \
        require(type##_record_unpack(&again, text, strlen(text), NULL, 0) ==   \
                0);                                                            \
        free(text);                                                            \
    }
ROUND_TRIP(node)
ROUND_TRIP(coordinator)
ROUND_TRIP(leader)
ROUND_TRIP(ready)
ROUND_TRIP(drain)

static void try_epoch(const uint8_t *data, size_t size) {
    epoch_record r, again;
    char why[200] = "";
    int rc = epoch_record_unpack(&r, data, size, why, sizeof(why));
    require(rc == 0 || why[0] != '\0');
    if (rc < 0) return;
    char *text = epoch_record_pack(&r);
    require(text != NULL);
    require(epoch_record_unpack(&again, text, strlen(text), NULL, 0) == 0);
    require(r.n_nodes == again.n_nodes && r.epoch == again.epoch);
    free(text);
    epoch_record_fini(&r);
    epoch_record_fini(&again);
}

/* ---- layer maps ---- */

static void try_map(const uint8_t *data, size_t size) {
    layer_map m, again;
    char why[200] = "";
    int rc = layer_map_unpack(&m, data, size, 100, why, sizeof(why));
    require(rc == 0 || why[0] != '\0');
    if (rc < 0) return;
    uint8_t *packed;
    size_t bytes;
    require(layer_map_pack(&m, &packed, &bytes) == 0);
    require(layer_map_unpack(&again, packed, bytes, 100, NULL, 0) == 0);
    require(layer_map_equal(&m, &again));
    free(packed);
    layer_map_fini(&m);
    layer_map_fini(&again);
}

/* malloc'ed: the bytes and their checksum. */
static uint8_t *with_sum(const uint8_t *data, size_t size) {
    uint8_t *all = malloc(size + 8);
    require(all != NULL);
    if (size > 0) memcpy(all, data, size);
    uint64_t sum = XXH3_64bits(data, size);
    for (size_t i = 0; i < 8; i++)
        all[size + i] = (uint8_t)(sum >> 8 * i);
    return all;
}

static void try_summed_map(const uint8_t *data, size_t size) {
    uint8_t *all = with_sum(data, size);
    try_map(all, size + 8);
    free(all);
}

/* ---- views ---- */

/* What was accepted answers every question that can be asked of it. */
static void look_at(const rack_view *v) {
    const rack_placement *p = rack_view_placement(v);
    size_t n;
    const node_record *nodes = rack_view_nodes(v, &n);
    for (size_t i = 0; i < n; i++) {
        require(rack_view_node(v, nodes[i].name) == &nodes[i]);
    }
    if (p == NULL) return;
    const epoch_record *head = rack_placement_head(p);
    for (uint32_t i = 0; i < head->n_nodes; i++) {
        if (head->nodes[i][0] == '\0') continue;
        require(rack_placement_node(p, head->nodes[i]) == (int32_t)i);
    }
    for (uint32_t i = 0; i < head->n_layers; i++) {
        const layer_map *m = rack_placement_layer(p, i);
        if (m == NULL || m->n_units == 0) continue;
        uint32_t unit = m->n_units - 1, holders;
        const uint16_t *held = layer_map_holders(m, unit, &holders);
        if (holders == 0) continue;
        require(rack_placement_assigns(p, held[0], i, unit));
        require(rack_placement_units(p, held[0]) > 0);
    }
}

static record_kind kind_of(const char *key) {
    char name[RECORD_NAME];
    uint32_t layer;
    return record_parse_key(key, strlen(key), name, &layer);
}

/* [what][size, 2 bytes] */
#define STEP_BYTES 3
#define STEP_DAMAGES 120 /* a good document, from here on */
#define STEP_DELETES 240

/* A layer's value gets its checksum.  malloc'ed. */
static uint8_t *value_of(const char *key, bool damages, const uint8_t *data,
                         size_t size, size_t *bytes) {
    record_kind kind = kind_of(key);
    if (damages && kind != RECORD_LAYER) {
        char *text = damaged(kind, data, size);
        *bytes = strlen(text);
        return (uint8_t *)text;
    }
    *bytes = kind == RECORD_LAYER ? size + 8 : size;
    return with_sum(data, size);
}

static void feed(rack_view *v, unsigned what, const uint8_t *data, size_t size,
                 int64_t revision) {
    static const char *const keys[] = {"nodes/a",           "nodes/b",
                                       "coordinators/a",    "leader",
                                       "placement/epoch",   "placement/layer/0",
                                       "placement/layer/1", "ready/a",
                                       "drain/a",           "other"};
    const char *key = keys[what % ARRAY_LEN(keys)];
    char why[200] = "";
    if (what >= STEP_DELETES) {
        rack_view_delete(v, key, strlen(key));
    } else {
        size_t bytes;
        uint8_t *value =
            value_of(key, what >= STEP_DAMAGES, data, size, &bytes);
        int rc = rack_view_put(v, key, strlen(key), value, bytes, revision,
                               revision, why, sizeof(why));
        require((rc == 0) == (why[0] == '\0'));
        free(value);
    }
    if (what % 2 == 0) rack_view_settle(v, why, sizeof(why));
}

static void try_view(const uint8_t *data, size_t size) {
    rack_view *v;
    require(rack_view_new(&v) == 0);
    for (int64_t revision = 2; size >= STEP_BYTES; revision++) {
        unsigned what = data[0];
        size_t bytes = data[1] | (size_t)data[2] << 8;
        data += STEP_BYTES;
        size -= STEP_BYTES;
        if (bytes > size) bytes = size;
        feed(v, what, data, bytes, revision);
        data += bytes;
        size -= bytes;
    }
    rack_view_settle(v, NULL, 0);
    look_at(v);
    rack_view_clear(v);
    rack_view_settle(v, NULL, 0);
    rack_view_free(v);
}

static void try_key(const uint8_t *data, size_t size) {
    char name[RECORD_NAME], key[RECORD_KEY];
    uint32_t layer;
    record_kind kind = record_parse_key(data, size, name, &layer);
    if (kind == RECORD_KINDS) return;
    size_t prefix = record_prefix("c", key);
    record_key("c", kind, name, layer, key);
    require(strlen(key + prefix) == size);
    require(memcmp(key + prefix, data, size) == 0);
}

static void try_one(record_kind kind, const uint8_t *data, size_t size) {
    static void (*const tries[])(const uint8_t *, size_t) = {
        [RECORD_NODE] = try_node,     [RECORD_COORDINATOR] = try_coordinator,
        [RECORD_LEADER] = try_leader, [RECORD_EPOCH] = try_epoch,
        [RECORD_LAYER] = try_map,     [RECORD_READY] = try_ready,
        [RECORD_DRAIN] = try_drain};
    tries[kind](data, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1) return 0;
    unsigned what = data[0] % (2 * RECORD_KINDS + 3);
    data++;
    size--;
    if (what < RECORD_KINDS) {
        try_one((record_kind)what, data, size);
    } else if (what < 2 * RECORD_KINDS) {
        record_kind kind = (record_kind)(what - RECORD_KINDS);
        if (kind == RECORD_LAYER) kind = RECORD_EPOCH;
        char *text = damaged(kind, data, size);
        try_one(kind, (uint8_t *)text, strlen(text));
        free(text);
    } else if (what == 2 * RECORD_KINDS) {
        try_summed_map(data, size);
    } else if (what == 2 * RECORD_KINDS + 1) {
        try_view(data, size);
    } else {
        try_key(data, size);
    }
    return 0;
}
