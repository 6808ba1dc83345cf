/* tokenizer_trie.c - a set of byte strings that is walked byte by byte: which
 * tokens begin at a place of a text?
 *
 * A node is a number, the steps between nodes are the entries of one hash
 * table, so a walk costs a look-up a byte however large the vocabulary is; the
 * first step, which most places of a text do not survive, is an array. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/tokenizer_internal.h"
#include "engine/util.h"

enum { FIRST_SLOTS = 256 };

void trie_fini(byte_trie *t) {
    free(t->steps);
    free(t->values);
    *t = (byte_trie){0};
}

/* The slot of a step, or the empty one where it belongs. */
static trie_link *find_link(const byte_trie *t, uint32_t node, uint8_t byte) {
    size_t at = (size_t)hash_pair(t->seed, node, byte) & (t->n_slots - 1);
    while (t->steps[at].child != 0 &&
           (t->steps[at].node != node || t->steps[at].byte != byte))
        at = (at + 1) & (t->n_slots - 1);
    return &t->steps[at];
}

static int double_links(byte_trie *t) {
    byte_trie old = *t;
    size_t n = old.n_slots > 0 ? old.n_slots * 2 : FIRST_SLOTS;

    t->steps = calloc(n, sizeof(*t->steps));
    if (t->steps == NULL) {
        t->steps = old.steps;
        return -ENOMEM;
    }
    t->n_slots = n;
    if (t->seed == 0) t->seed = random_boot_id();
    for (size_t i = 0; i < old.n_slots; i++) {
        const trie_link *l = &old.steps[i];
        if (l->child != 0) *find_link(t, l->node, l->byte) = *l;
    }
    free(old.steps);
    return 0;
}

/* A new node without a value; the first one is the root. */
static int add_node(byte_trie *t) {
    void *values = t->values;
    if (t->n >= UINT32_MAX) return ERR_TOO_LARGE;
    bool grown = grow_array(&values, &t->room, t->n + 1, sizeof(*t->values));
    t->values = values;
    if (!grown) return -ENOMEM;
    t->values[t->n++] = -1;
    return 0;
}

static int add_child(byte_trie *t, uint32_t node, uint8_t byte,
                     uint32_t *child) {
    if (t->n >= t->n_slots / 2) {
        int rc = double_links(t);
        if (rc < 0) return rc;
    }
    int rc = add_node(t);
    if (rc < 0) return rc;
    *child = (uint32_t)(t->n - 1);
    *find_link(t, node, byte) = (trie_link){node, *child, byte};
    if (node == 0) t->first[byte] = *child;
    return 0;
}

int trie_add(byte_trie *t, const char *bytes, size_t n, int32_t value) {
    uint32_t node = 0;
    int rc = t->n == 0 ? add_node(t) : 0;

    for (size_t i = 0; rc == 0 && i < n; i++) {
        uint8_t byte = (uint8_t)bytes[i];
        uint32_t child = trie_step(t, node, byte);
        if (child == 0) rc = add_child(t, node, byte, &child);
        node = child;
    }
    if (rc == 0 && t->values[node] < 0) t->values[node] = value;
    return rc;
}

uint32_t trie_step(const byte_trie *t, uint32_t node, uint8_t byte) {
    if (node == 0) return t->first[byte];
    return find_link(t, node, byte)->child;
}

int32_t trie_longest(const byte_trie *t, const char *bytes, size_t n) {
    uint32_t node = 0;
    int32_t found = -1;

    for (size_t i = 0; i < n; i++) {
        node = trie_step(t, node, (uint8_t)bytes[i]);
        if (node == 0) break;
        if (t->values[node] >= 0) found = t->values[node];
    }
    return found;
}
