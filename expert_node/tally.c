/* tally.c - see tally.h.
 *
 * One thread writes, so that a counter is raised by a load and a store: no
 * locked instruction between two kernels. */
#include "expert_node/tally.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

typedef struct {
    _Atomic uint32_t *pairs; /* [n_units]; NULL for a dense layer */
    uint32_t n_units;
} layer_tally;

struct tally {
    layer_tally *layers; /* [n_layers] */
    uint32_t n_layers;
    _Atomic uint64_t pairs, runs, weight_bytes, busy_us;
};

int tally_new(tally **out) {
    *out = calloc(1, sizeof(**out));
    return *out != NULL ? 0 : -ENOMEM;
}

static void drop_layers(tally *t) {
    for (uint32_t l = 0; l < t->n_layers; l++)
        free(t->layers[l].pairs);
    free(t->layers);
    t->layers = NULL;
    t->n_layers = 0;
}

void tally_free(tally *t) {
    if (t == NULL) return;
    drop_layers(t);
    free(t);
}

int tally_cut(tally *t, const expert_store *s, uint32_t n_layers) {
    drop_layers(t);
    t->layers = calloc(n_layers + 1, sizeof(*t->layers));
    if (t->layers == NULL) return -ENOMEM;
    t->n_layers = n_layers;
    for (uint32_t l = 0; l < n_layers; l++) {
        layer_tally *each = &t->layers[l];
        each->n_units = expert_store_units(s, l);
        if (each->n_units == 0) continue;
        each->pairs = calloc(each->n_units, sizeof(*each->pairs));
        if (each->pairs != NULL) continue;
        drop_layers(t);
        return -ENOMEM;
    }
    return 0;
}

/* NULL: the store has no such unit. */
static _Atomic uint32_t *counter_of(const tally *t, uint32_t layer,
                                    uint32_t unit) {
    if (layer >= t->n_layers || unit >= t->layers[layer].n_units) return NULL;
    return &t->layers[layer].pairs[unit];
}

/* ---- counting ---- */

static void raise(_Atomic uint64_t *counter, uint64_t by) {
    uint64_t was = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, was + by, memory_order_relaxed);
}

void tally_add_run(tally *t, uint32_t layer, uint32_t unit, uint32_t pairs,
                   uint64_t weight_bytes) {
    _Atomic uint32_t *counter = counter_of(t, layer, unit);
    if (counter != NULL) {
        uint32_t was = atomic_load_explicit(counter, memory_order_relaxed);
        atomic_store_explicit(counter, was + pairs, memory_order_relaxed);
    }
    raise(&t->pairs, pairs);
    raise(&t->runs, 1);
    raise(&t->weight_bytes, weight_bytes);
}

void tally_add_busy(tally *t, uint64_t us) {
    raise(&t->busy_us, us);
}

/* ---- reading ---- */

static uint64_t read_counter(const _Atomic uint64_t *counter) {
    return atomic_load_explicit(counter, memory_order_relaxed);
}

void tally_read(const tally *t, tally_totals *out) {
    *out = (tally_totals){.pairs = read_counter(&t->pairs),
                          .runs = read_counter(&t->runs),
                          .weight_bytes = read_counter(&t->weight_bytes),
                          .busy_us = read_counter(&t->busy_us)};
}

uint32_t tally_pairs(const tally *t, uint32_t layer, uint32_t unit) {
    const _Atomic uint32_t *counter = counter_of(t, layer, unit);
    return counter != NULL ? atomic_load_explicit(counter, memory_order_relaxed)
                           : 0;
}
