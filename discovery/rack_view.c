/* rack_view.c - see rack_view.h.
 *
 * Records stand in arrays sorted by name, because readers walk them and because
 * a rack has at most hundreds.  The placement's pieces are parsed as they come
 * and joined when a revision is whole: a writer changes layers and epoch in one
 * transaction, and between two of its events they need not fit each other.
 *
 * What is looked at in etcd (head, layers) and what was accepted of it are kept
 * apart: the accepted placement outlives a listing that lacks it. */
#include "discovery/rack_view.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "discovery/holdings.h"
#include "discovery/rack_placement.h"
#include "engine/err.h"

/* Of each kind of record; a rack has far fewer.  Beyond it lies a mistake, or
 * malice, that must not eat our memory. */
#define RECORDS_MOST ((size_t)2 * RECORD_NODES_MAX)

/* Records of one kind, ascending by name, which each begins with. */
typedef struct {
    uint8_t *items;
    size_t n, room, item_bytes;
} table;

_Static_assert(offsetof(node_record, name) == 0, "a table finds by name");
_Static_assert(offsetof(coordinator_record, name) == 0, "likewise");
_Static_assert(offsetof(ready_record, name) == 0, "likewise");
_Static_assert(offsetof(drain_record, name) == 0, "likewise");

/* A key of etcd's: not there, not readable, or parsed. */
typedef enum { ABSENT, DAMAGED, PRESENT } presence;

struct rack_view {
    table nodes, coordinators, readies, drains;
    leader_record leader;
    bool has_leader;

    epoch_record head;
    presence head_state;
    int64_t head_revision;
    shared_layer *layers[HOLDINGS_MAX_LAYERS];
    bool damaged[HOLDINGS_MAX_LAYERS];
    bool unsettled; /* head or layers changed since settle() */

    rack_placement *accepted;
    bool rolled_back;
    uint64_t passed_over;
};

/* ---- tables ---- */

static const char *name_at(const table *t, size_t i) {
    return (const char *)(t->items + i * t->item_bytes);
}

/* Where `name` is, or would be put. */
static size_t table_seek(const table *t, const char *name, bool *found) {
    size_t low = 0, high = t->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (strcmp(name_at(t, middle), name) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    *found = low < t->n && strcmp(name_at(t, low), name) == 0;
    return low;
}

static const void *table_find(const table *t, const char *name) {
    bool found;
    size_t at = table_seek(t, name, &found);
    return found ? name_at(t, at) : NULL;
}

static int table_grow(table *t) {
    if (t->n < t->room) return 0;
    size_t room = t->room == 0 ? 8 : 2 * t->room;
    uint8_t *items = realloc(t->items, room * t->item_bytes);
    if (items == NULL) return -ENOMEM;
    t->items = items;
    t->room = room;
    return 0;
}

/* Insert, or take the place of the one with that name. */
static int table_put(table *t, const void *item, char *why, size_t why_size) {
    bool found;
    size_t at = table_seek(t, item, &found);
    if (!found) {
        if (t->n == RECORDS_MOST) {
            return err_why(why, why_size, ERR_TOO_LARGE,
                           "more than %zu records of one kind", t->n);
        }
        if (table_grow(t) < 0) {
            return err_why(why, why_size, -ENOMEM, "out of memory");
        }
        memmove(t->items + (at + 1) * t->item_bytes,
                t->items + at * t->item_bytes, (t->n - at) * t->item_bytes);
        t->n++;
    }
    memcpy(t->items + at * t->item_bytes, item, t->item_bytes);
    return 0;
}

static void table_remove(table *t, const char *name) {
    bool found;
    size_t at = table_seek(t, name, &found);
    if (!found) return;
    t->n--;
    memmove(t->items + at * t->item_bytes, t->items + (at + 1) * t->item_bytes,
            (t->n - at) * t->item_bytes);
}

/* ---- making ---- */

int rack_view_new(rack_view **out) {
    *out = calloc(1, sizeof(**out));
    if (*out == NULL) return -ENOMEM;
    (*out)->nodes.item_bytes = sizeof(node_record);
    (*out)->coordinators.item_bytes = sizeof(coordinator_record);
    (*out)->readies.item_bytes = sizeof(ready_record);
    (*out)->drains.item_bytes = sizeof(drain_record);
    return 0;
}

static void forget_head(rack_view *v) {
    epoch_record_fini(&v->head);
    v->head_state = ABSENT;
    v->head_revision = 0;
    v->unsettled = true;
}

static void forget_layer(rack_view *v, uint32_t layer) {
    shared_layer_unref(v->layers[layer]);
    v->layers[layer] = NULL;
    v->damaged[layer] = false;
    v->unsettled = true;
}

void rack_view_clear(rack_view *v) {
    v->nodes.n = v->coordinators.n = v->readies.n = v->drains.n = 0;
    v->has_leader = false;
    forget_head(v);
    for (uint32_t i = 0; i < HOLDINGS_MAX_LAYERS; i++)
        forget_layer(v, i);
}

void rack_view_free(rack_view *v) {
    if (v == NULL) return;
    rack_view_clear(v);
    rack_placement_unref(v->accepted);
    free(v->nodes.items);
    free(v->coordinators.items);
    free(v->readies.items);
    free(v->drains.items);
    free(v);
}

/* ---- feeding ---- */

/* One key as it was fed. */
typedef struct {
    const char *name;
    const void *value;
    size_t bytes;
    int64_t create_revision, mod_revision;
    char *why;
    size_t why_size;
} fed;

static int put_node(rack_view *v, const fed *f) {
    node_record r;
    int rc = node_record_unpack(&r, f->value, f->bytes, f->why, f->why_size);
    if (rc < 0) return rc;
    strcpy(r.name, f->name);
    r.create_revision = f->create_revision;
    r.mod_revision = f->mod_revision;
    return table_put(&v->nodes, &r, f->why, f->why_size);
}

static int put_coordinator(rack_view *v, const fed *f) {
    coordinator_record r;
    int rc =
        coordinator_record_unpack(&r, f->value, f->bytes, f->why, f->why_size);
    if (rc < 0) return rc;
    strcpy(r.name, f->name);
    r.create_revision = f->create_revision;
    r.mod_revision = f->mod_revision;
    return table_put(&v->coordinators, &r, f->why, f->why_size);
}

static int put_ready(rack_view *v, const fed *f) {
    ready_record r;
    int rc = ready_record_unpack(&r, f->value, f->bytes, f->why, f->why_size);
    if (rc < 0) return rc;
    strcpy(r.name, f->name);
    r.mod_revision = f->mod_revision;
    return table_put(&v->readies, &r, f->why, f->why_size);
}

static int put_drain(rack_view *v, const fed *f) {
    drain_record r;
    int rc = drain_record_unpack(&r, f->value, f->bytes, f->why, f->why_size);
    if (rc < 0) return rc;
    strcpy(r.name, f->name);
    r.mod_revision = f->mod_revision;
    return table_put(&v->drains, &r, f->why, f->why_size);
}

static int put_leader(rack_view *v, const fed *f) {
    leader_record r;
    int rc = leader_record_unpack(&r, f->value, f->bytes, f->why, f->why_size);
    if (rc < 0) return rc;
    r.create_revision = f->create_revision;
    v->leader = r;
    v->has_leader = true;
    return 0;
}

static int put_head(rack_view *v, const fed *f) {
    epoch_record r;
    int rc = epoch_record_unpack(&r, f->value, f->bytes, f->why, f->why_size);
    forget_head(v);
    v->head_revision = f->mod_revision;
    v->head_state = rc < 0 ? DAMAGED : PRESENT;
    if (rc < 0) return rc;
    v->head = r;
    v->head.mod_revision = f->mod_revision;
    return 0;
}

static int put_layer(rack_view *v, uint32_t layer, const fed *f) {
    shared_layer *made;
    int rc =
        shared_layer_unpack(&made, f->value, f->bytes, f->why, f->why_size);
    forget_layer(v, layer);
    v->layers[layer] = made;
    v->damaged[layer] = rc < 0;
    return rc;
}

/* Also for what is put anew and cannot be read: the old one is not true any
 * more. */
static void forget(rack_view *v, record_kind kind, const char *name,
                   uint32_t layer) {
    switch (kind) {
    case RECORD_NODE:
        table_remove(&v->nodes, name);
        break;
    case RECORD_COORDINATOR:
        table_remove(&v->coordinators, name);
        break;
    case RECORD_READY:
        table_remove(&v->readies, name);
        break;
    case RECORD_DRAIN:
        table_remove(&v->drains, name);
        break;
    case RECORD_LEADER:
        v->has_leader = false;
        break;
    case RECORD_EPOCH:
        forget_head(v);
        break;
    case RECORD_LAYER:
        forget_layer(v, layer);
        break;
    case RECORD_RECOVERED: /* history, for operators */
    case RECORD_KINDS:
        break;
    }
}

static int put(rack_view *v, record_kind kind, uint32_t layer, const fed *f) {
    switch (kind) {
    case RECORD_NODE:
        return put_node(v, f);
    case RECORD_COORDINATOR:
        return put_coordinator(v, f);
    case RECORD_READY:
        return put_ready(v, f);
    case RECORD_DRAIN:
        return put_drain(v, f);
    case RECORD_LEADER:
        return put_leader(v, f);
    case RECORD_EPOCH:
        return put_head(v, f);
    case RECORD_LAYER:
        return put_layer(v, layer, f);
    case RECORD_RECOVERED:
    case RECORD_KINDS:
        break;
    }
    return 0;
}

int rack_view_put(rack_view *v, const void *key, size_t key_len,
                  const void *value, size_t value_len, int64_t create_revision,
                  int64_t mod_revision, char *why, size_t why_size) {
    char name[RECORD_NAME];
    uint32_t layer;
    record_kind kind = record_parse_key(key, key_len, name, &layer);

    fed f = {.name = name,
             .value = value,
             .bytes = value_len,
             .create_revision = create_revision,
             .mod_revision = mod_revision,
             .why = why,
             .why_size = why_size};
    int rc = put(v, kind, layer, &f);
    if (rc == 0) return 0;

    /* That the head and a layer are damaged is remembered by put_*(). */
    if (kind != RECORD_EPOCH && kind != RECORD_LAYER) {
        forget(v, kind, name, layer);
    }
    if (rc != -ENOMEM) v->passed_over++;
    return rc;
}

void rack_view_delete(rack_view *v, const void *key, size_t key_len) {
    char name[RECORD_NAME];
    uint32_t layer;
    record_kind kind = record_parse_key(key, key_len, name, &layer);
    forget(v, kind, name, layer);
}

/* ---- placements ---- */

/* The layers as they stand, with the head as it stands. */
static int join(const rack_view *v, rack_placement **out, char *why,
                size_t why_size) {
    *out = NULL;
    if (v->head_state == DAMAGED) {
        return err_why(why, why_size, ERR_FORMAT,
                       "the placement's epoch cannot be read");
    }
    for (uint32_t i = 0; i < v->head.n_layers; i++) {
        if (!v->damaged[i]) continue;
        return err_why(why, why_size, ERR_FORMAT,
                       "the placement of layer %u cannot be read", i);
    }
    return rack_placement_new(out, &v->head, v->layers, why, why_size);
}

/* A number that was accepted before must stand for what it stood for: the same
 * number over other contents is a restored etcd in which another leader has
 * gone on. */
static void compare(rack_view *v, rack_placement *found) {
    uint64_t known = rack_placement_epoch(v->accepted);
    uint64_t epoch = rack_placement_epoch(found);
    v->rolled_back =
        epoch < known ||
        (epoch == known && !rack_placement_same(v->accepted, found));
}

/* Within an incarnation a rack works with one model: another one's placement is
 * a mistake, which must not end what is being served. */
static int check_rack(const rack_view *v, const rack_placement *found,
                      char *why, size_t why_size) {
    if (v->accepted == NULL) return 0;
    const epoch_record *known = rack_placement_head(v->accepted);
    const epoch_record *head = rack_placement_head(found);
    if (head->incarnation != known->incarnation) return 0;
    if (memcmp(head->model, known->model, sizeof(head->model)) == 0 &&
        head->n_layers == known->n_layers &&
        head->n_experts == known->n_experts) {
        return 0;
    }
    return err_why(why, why_size, ERR_WRONG_MODEL,
                   "it is for another model or shape than the one in force");
}

/* `found` is what is accepted already, as it was written then. */
static bool is_accepted(const rack_view *v, const rack_placement *found) {
    return v->accepted != NULL &&
           rack_placement_epoch(found) == rack_placement_epoch(v->accepted) &&
           rack_placement_head(found)->mod_revision ==
               rack_placement_head(v->accepted)->mod_revision;
}

int rack_view_settle(rack_view *v, char *why, size_t why_size) {
    if (!v->unsettled) return 0;
    if (v->head_state == ABSENT) {
        v->rolled_back = v->accepted != NULL;
        v->unsettled = false;
        return 0;
    }
    rack_placement *found;
    int rc = join(v, &found, why, why_size);
    v->unsettled = rc == -ENOMEM; /* worth another try */
    if (rc < 0) return rc;

    if (v->accepted != NULL &&
        rack_placement_epoch(found) <= rack_placement_epoch(v->accepted)) {
        compare(v, found);
    } else {
        rc = check_rack(v, found, why, why_size);
        if (rc == 0) v->rolled_back = false;
    }
    if (rc < 0 || v->rolled_back || is_accepted(v, found)) {
        rack_placement_unref(found);
        return rc;
    }
    /* Also the one that is known, if it was written anew: its successor is
     * written over the revision that it has now. */
    rack_placement_unref(v->accepted);
    v->accepted = found;
    return 0;
}

/* ---- reading ---- */

const node_record *rack_view_nodes(const rack_view *v, size_t *n) {
    *n = v->nodes.n;
    return (const node_record *)(const void *)v->nodes.items;
}

const node_record *rack_view_node(const rack_view *v, const char *name) {
    return table_find(&v->nodes, name);
}

const coordinator_record *rack_view_coordinators(const rack_view *v,
                                                 size_t *n) {
    *n = v->coordinators.n;
    return (const coordinator_record *)(const void *)v->coordinators.items;
}

const leader_record *rack_view_leader(const rack_view *v) {
    return v->has_leader ? &v->leader : NULL;
}

const ready_record *rack_view_ready(const rack_view *v, const char *name) {
    return table_find(&v->readies, name);
}

uint64_t rack_view_ready_epoch(const rack_view *v, const char *name) {
    const rack_placement *p = v->accepted;
    const node_record *node = rack_view_node(v, name);
    const ready_record *ready = rack_view_ready(v, name);
    if (p == NULL || node == NULL || ready == NULL || ready->boot != node->boot)
        return 0;

    uint64_t epoch = epoch_pack(ready->incarnation, ready->epoch);
    if (epoch < rack_placement_epoch(p)) return epoch;
    if (epoch > rack_placement_epoch(p)) return 0;
    int32_t place = rack_placement_node(p, name);
    if (place < 0) return epoch; /* nothing is assigned to it */
    return ready->digest == rack_placement_digest(p, place) ? epoch : 0;
}

const drain_record *rack_view_drain(const rack_view *v, const char *name) {
    return table_find(&v->drains, name);
}

const drain_record *rack_view_drains(const rack_view *v, size_t *n) {
    *n = v->drains.n;
    return (const drain_record *)(const void *)v->drains.items;
}

int64_t rack_view_epoch_revision(const rack_view *v) {
    return v->head_revision;
}

uint64_t rack_view_head_epoch(const rack_view *v) {
    if (v->head_state != PRESENT) return 0;
    return epoch_pack(v->head.incarnation, v->head.epoch);
}

bool rack_view_rolled_back(const rack_view *v) {
    return v->rolled_back;
}

uint64_t rack_view_passed_over(const rack_view *v) {
    return v->passed_over;
}

const rack_placement *rack_view_placement(const rack_view *v) {
    return v->accepted;
}
