/* registry_write.c - what a coordinator writes for its rack: placements,
 * drains, and etcd's upkeep; see registry.h.
 *
 * Every write carries compares, so that whatever became of an earlier one of
 * unknown outcome, at most one of the two is carried out. */
#include "discovery/registry_internal.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/failpoint.h"
#include "engine/util.h"

/* A caller's request under way. */
typedef struct {
    registry *registry;
    registry_done cb;
    void *ctx;
    bool false_is_fine; /* what was wanted is so already */
} caller;

static caller *caller_new(registry *r, registry_done cb, void *ctx) {
    caller *c = calloc(1, sizeof(*c));
    if (c == NULL) return NULL;
    c->registry = r;
    c->cb = cb;
    c->ctx = ctx;
    return c;
}

static void on_done(void *ctx, const etcd_answer *a) {
    caller *c = ctx;
    etcd_code code = a->code;
    if (code == ETCD_FALSE && c->false_is_fine) code = ETCD_OK;
    c->cb(c->ctx, code, a->why, a->revision);
    free(c);
}

static void on_committed(void *ctx, const etcd_answer *a, const etcd_kv *reads,
                         size_t n_reads) {
    caller *c = ctx;
    (void)reads;
    (void)n_reads;
    registry_note_space(c->registry, a);
    on_done(c, a);
}

static int commit(registry *r, const etcd_txn *txn, caller *c) {
    if (c == NULL) return -ENOMEM;
    int rc = etcd_commit(r->etcd, txn, on_committed, c);
    if (rc < 0) free(c);
    return rc;
}

/* Documents of a placement, until libetcd has copied them. */
typedef struct {
    char (*keys)[RECORD_KEY];
    uint8_t **values;
    etcd_op *ops;
    size_t n, room;
} write_set;

static void write_set_fini(write_set *w) {
    for (size_t i = 0; w->values != NULL && i < w->n; i++)
        free(w->values[i]);
    free(w->keys);
    free(w->values);
    free(w->ops);
}

static int write_set_init(write_set *w, size_t room) {
    w->room = room;
    w->keys = calloc(room, sizeof(*w->keys));
    w->values = calloc(room, sizeof(*w->values));
    w->ops = calloc(room, sizeof(*w->ops));
    if (w->keys != NULL && w->values != NULL && w->ops != NULL) return 0;
    return -ENOMEM;
}

/* The key for one more operation. */
static char *next_key(write_set *w) {
    assert(w->n < w->room);
    return w->keys[w->n];
}

/* Takes the value. */
static void add_put(write_set *w, uint8_t *value, size_t bytes) {
    const char *key = w->keys[w->n];
    w->values[w->n] = value;
    w->ops[w->n++] = (etcd_op){.kind = ETCD_PUT,
                               .key = key,
                               .key_len = strlen(key),
                               .value = value,
                               .value_len = bytes};
}

static void add_delete(write_set *w) {
    const char *key = w->keys[w->n];
    w->ops[w->n++] =
        (etcd_op){.kind = ETCD_DELETE, .key = key, .key_len = strlen(key)};
}

static int add_layer(write_set *w, const registry *r, uint32_t layer,
                     const layer_map *map) {
    record_key(r->cluster, RECORD_LAYER, NULL, layer, next_key(w));
    if (map == NULL) {
        add_delete(w);
        return 0;
    }
    uint8_t *value;
    size_t bytes;
    int rc = layer_map_pack(map, &value, &bytes);
    if (rc == 0) add_put(w, value, bytes);
    return rc;
}

static int add_head(write_set *w, const registry *r, const epoch_record *head) {
    record_key(r->cluster, RECORD_EPOCH, NULL, 0, next_key(w));
    if (head == NULL) {
        add_delete(w);
        return 0;
    }
    char *text = epoch_record_pack(head);
    if (text == NULL) return -ENOMEM;
    add_put(w, (uint8_t *)text, strlen(text));
    return 0;
}

static int add_audit(write_set *w, const registry *r, uint64_t incarnation,
                     const recovered_record *audit) {
    char digits[24];
    snprintf(digits, sizeof(digits), "%" PRIu64, incarnation);
    record_key(r->cluster, RECORD_RECOVERED, digits, 0, next_key(w));
    char *text = recovered_record_pack(audit);
    if (text == NULL) return -ENOMEM;
    add_put(w, (uint8_t *)text, strlen(text));
    return 0;
}

/* The layers, and the epoch last. */
static int write_set_fill(write_set *w, const registry *r,
                          const placement_write *p) {
    int rc = write_set_init(w, (size_t)p->n_layers + 2);
    for (uint32_t i = 0; i < p->n_layers && rc == 0; i++)
        rc = add_layer(w, r, p->layer_numbers[i], p->layers[i]);
    /* A head that is not there need not go. */
    if (rc == 0 && (p->head != NULL || p->expected_revision != 0))
        rc = add_head(w, r, p->head);
    if (rc == 0 && p->head != NULL && p->audit != NULL)
        rc = add_audit(w, r, p->head->incarnation, p->audit);
    return rc;
}

int registry_write_placement(registry *r, const placement_write *w,
                             registry_done cb, void *ctx) {
    /* Without a leader the key's create_revision is 0: that must not pass for a
     * term. */
    if (w->term <= 0) return ERR_NOT_LEADER;
    if (w->n_layers + (w->audit != NULL) >= ETCD_TXN_OPS_MAX) return -E2BIG;

    char epoch_key[RECORD_KEY];
    record_key(r->cluster, RECORD_EPOCH, NULL, 0, epoch_key);
    const own_key *leader = &r->own[SLOT_LEADER];
    /* The term, and that it is ours: in a store that was wiped or restored
     * since, another's key may have that revision. */
    const etcd_compare compares[] = {
        {.key = leader->key,
         .key_len = leader->key_len,
         .target = ETCD_CREATE_REVISION,
         .relation = ETCD_EQUAL,
         .number = w->term},
        {.key = leader->key,
         .key_len = leader->key_len,
         .target = ETCD_VALUE,
         .relation = ETCD_EQUAL,
         .value = leader->text,
         .value_len = strlen(leader->text)},
        {.key = epoch_key,
         .key_len = strlen(epoch_key),
         .target = ETCD_MOD_REVISION,
         .relation = ETCD_EQUAL,
         .number = w->expected_revision},
    };
    write_set set = {0};
    int rc = write_set_fill(&set, r, w);
    if (rc == 0) {
        const etcd_txn txn = {.compares = compares,
                              .n_compares = ARRAY_LEN(compares),
                              .then = set.ops,
                              .n_then = set.n};
        rc = failpoint("placement.write")
                 ? -EIO
                 : commit(r, &txn, caller_new(r, cb, ctx));
    }
    write_set_fini(&set);
    return rc;
}

int registry_drain(registry *r, const char *name, bool undo, registry_done cb,
                   void *ctx) {
    if (!record_is_name(name)) return ERR_USAGE;

    char key[RECORD_KEY];
    record_key(r->cluster, RECORD_DRAIN, name, 0, key);
    drain_record d = {0};
    strcpy(d.by, r->name);
    record_time(d.at);
    char *text = drain_record_pack(&d);
    caller *c = text != NULL ? caller_new(r, cb, ctx) : NULL;
    if (c == NULL) {
        free(text);
        return -ENOMEM;
    }
    c->false_is_fine = true;
    const etcd_compare absent = {.key = key,
                                 .key_len = strlen(key),
                                 .target = ETCD_CREATE_REVISION,
                                 .relation = undo ? ETCD_GREATER : ETCD_EQUAL,
                                 .number = 0};
    const etcd_op op = {.kind = undo ? ETCD_DELETE : ETCD_PUT,
                        .key = key,
                        .key_len = strlen(key),
                        .value = undo ? NULL : text,
                        .value_len = undo ? 0 : strlen(text)};
    const etcd_txn txn = {
        .compares = &absent, .n_compares = 1, .then = &op, .n_then = 1};
    int rc = commit(r, &txn, c);
    free(text);
    return rc;
}

int registry_compact(registry *r, int64_t revision, registry_done cb,
                     void *ctx) {
    caller *c = caller_new(r, cb, ctx);
    if (c == NULL) return -ENOMEM;
    int rc = etcd_compact(r->etcd, revision, on_done, c);
    if (rc < 0) free(c);
    return rc;
}
