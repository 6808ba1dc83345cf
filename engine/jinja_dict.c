/* jinja_dict.c - dicts: entries in the order of insertion, and above a handful
 * of them a table of their places by hash. */
#include <math.h>
#include <string.h>
#include <xxhash.h>
#include "engine/err.h"
#include "engine/jinja_run.h"
#include "engine/util.h"

#define FEW 8 /* entries that are found by looking at each */

int value_dict(run *r, size_t capacity, value *out) {
    dict *d = run_alloc(r, 1, sizeof(*d));
    if (d == NULL) return run_full(r);
    d->capacity = capacity;
    if (capacity > 0) {
        d->entries = run_alloc(r, capacity, sizeof(*d->entries));
        if (d->entries == NULL) return run_full(r);
    }
    *out = (value){.type = VALUE_DICT, .as.dict = d};
    return 0;
}

/* Numbers that are equal hash alike, whatever their type. */
static uint64_t hash_number(value v) {
    double real = value_real(v);
    int64_t integer = 0;
    if (v.type != VALUE_FLOAT)
        integer = value_integer(v);
    else if (real >= -0x1p63 && real < 0x1p63 && real == floor(real))
        integer = (int64_t)real;
    else
        return XXH3_64bits(&real, sizeof(real));
    return XXH3_64bits(&integer, sizeof(integer));
}

/* `hash` holds a seed.  Tuples hash their items. */
static int hash_of(run *r, value v, uint64_t *hash) {
    int rc = run_enter(r);
    if (rc < 0) return rc;
    switch ((value_type)v.type) {
    case VALUE_NONE:
    case VALUE_RANGE:
    case VALUE_UNDEFINED:
        *hash = *hash * 31 + v.type;
        break;
    case VALUE_BOOL:
    case VALUE_INT:
    case VALUE_FLOAT:
        *hash = *hash * 31 + hash_number(v);
        break;
    case VALUE_TEXT:
        *hash = *hash * 31 + XXH3_64bits(v.as.text, v.len);
        rc = run_steps(r, v.len / 64);
        break;
    case VALUE_TUPLE:
        for (size_t i = 0; rc == 0 && i < v.as.seq->n; i++)
            rc = hash_of(r, v.as.seq->items[i], hash);
        break;
    default:
        rc = run_raise(r, "unhashable type: '%s'", value_type_name(v));
        break;
    }
    run_leave(r);
    return rc;
}

static int look(run *r, const dict *d, value key, uint64_t hash,
                dict_entry **out) {
    bool equal = false;
    *out = NULL;
    for (size_t i = 0; d->slots == NULL && i < d->n; i++) {
        if (d->entries[i].hash != hash) continue;
        int rc = value_equal(r, d->entries[i].key, key, &equal);
        if (rc < 0) return rc;
        *out = &d->entries[i];
        if (equal) return 0;
    }
    size_t at = d->slots != NULL ? hash & (d->n_slots - 1) : 0;
    for (; d->slots != NULL && d->slots[at] != 0;
         at = (at + 1) & (d->n_slots - 1)) {
        *out = &d->entries[d->slots[at] - 1];
        int rc = run_steps(r, 1);
        if (rc == 0 && (*out)->hash == hash)
            rc = value_equal(r, (*out)->key, key, &equal);
        if (rc < 0 || equal) return rc;
    }
    *out = NULL;
    return 0;
}

static void place(dict *d, size_t index) {
    size_t at = d->entries[index].hash & (d->n_slots - 1);
    while (d->slots[at] != 0)
        at = (at + 1) & (d->n_slots - 1);
    d->slots[at] = (uint32_t)index + 1;
}

static int grow(run *r, dict *d) {
    size_t capacity = d->capacity * 2 + 4;
    dict_entry *grown = run_alloc(r, capacity, sizeof(*grown));
    if (grown == NULL) return run_full(r);
    if (d->n > 0) memcpy(grown, d->entries, d->n * sizeof(*grown));
    d->entries = grown;
    d->capacity = capacity;
    return 0;
}

/* Twice as many slots as entries, or more. */
static int index_again(run *r, dict *d) {
    size_t n_slots = size_max(d->n_slots, FEW);
    while (n_slots < 2 * (d->n + 1))
        n_slots *= 2;
    if (n_slots == d->n_slots) return 0;
    d->slots = run_alloc(r, n_slots * 2, sizeof(*d->slots));
    if (d->slots == NULL) return run_full(r);
    d->n_slots = n_slots * 2;
    for (size_t i = 0; i < d->n; i++)
        place(d, i);
    return run_steps(r, d->n);
}

int dict_set(run *r, dict *d, value key, value item) {
    dict_entry *found;
    uint64_t hash = 0;
    int rc = hash_of(r, key, &hash);
    if (rc == 0) rc = look(r, d, key, hash, &found);
    if (rc < 0) return rc;
    if (found != NULL) {
        found->item = item;
        return 0;
    }
    if (d->n == d->capacity) rc = grow(r, d);
    if (rc == 0 && d->n >= FEW) rc = index_again(r, d);
    if (rc < 0) return rc;
    d->entries[d->n] = (dict_entry){.key = key, .item = item, .hash = hash};
    d->n++;
    if (d->slots != NULL) place(d, d->n - 1);
    return 0;
}

int dict_remove(run *r, dict *d, value key) {
    dict_entry *found;
    uint64_t hash = 0;
    int rc = hash_of(r, key, &hash);
    if (rc == 0) rc = look(r, d, key, hash, &found);
    if (rc < 0 || found == NULL) return rc;
    size_t at = (size_t)(found - d->entries);
    d->n--;
    memmove(found, found + 1, (d->n - at) * sizeof(*found));
    if (d->slots == NULL) return 0;
    memset(d->slots, 0, d->n_slots * sizeof(*d->slots));
    for (size_t i = 0; i < d->n; i++)
        place(d, i);
    return run_steps(r, d->n + d->n_slots / 16);
}

int dict_find(run *r, const dict *d, value key, const value **out) {
    dict_entry *found = NULL;
    uint64_t hash = 0;
    *out = NULL;
    int rc = hash_of(r, key, &hash);
    if (rc == 0) rc = look(r, d, key, hash, &found);
    if (rc == 0 && found != NULL) *out = &found->item;
    return rc;
}

const value *dict_get(const dict *d, const char *key, size_t len) {
    uint64_t hash = XXH3_64bits(key, len);
    size_t at = d->slots != NULL ? hash & (d->n_slots - 1) : 0;
    for (size_t i = 0; i < d->n; i++) {
        const dict_entry *e = &d->entries[i];
        if (d->slots != NULL) {
            if (d->slots[at] == 0) return NULL;
            e = &d->entries[d->slots[at] - 1];
            at = (at + 1) & (d->n_slots - 1);
        }
        if (e->hash == hash && e->key.type == VALUE_TEXT && e->key.len == len &&
            memcmp(e->key.as.text, key, len) == 0)
            return &e->item;
    }
    return NULL;
}
