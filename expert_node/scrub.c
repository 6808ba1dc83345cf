/* scrub.c - see scrub.h.
 *
 * Where it is: a unit, one of its pieces of memory, an offset.  A unit that was
 * dropped meanwhile is passed over; one that was dropped and loaded again lies
 * elsewhere, most likely, and is begun anew.  (At the same address it has the
 * same bytes: packing is a function of the file.)
 *
 * Pieces are spread evenly over the time of a pass.  Time in which the thread
 * had no turn for it is not made up for. */
#include "expert_node/scrub.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <xxhash.h>
#include "engine/failpoint.h"
#include "engine/util.h"

#define LEAST_INTERVAL_US 100 /* leaves the thread to its work, mostly */
#define IDLE_US 1000000       /* with nothing resident */

struct scrub {
    expert_store *store;
    uint64_t pass_us; /* 0: off */
    uint64_t due_us;

    uint32_t layer, unit;
    const ffn_weights *weights; /* of the unit being read; NULL: none is */
    size_t piece;               /* of its ffn_pieces() */
    size_t at;                  /* in the piece */
    uint64_t seed;              /* the sum of the pieces before */
    XXH3_state_t *state;
    bool planted; /* a test's flipped bit: one is enough */

    scrub_find found[SCRUB_FOUND_MAX];
    atomic_uint_fast64_t n_found, n_taken; /* places modulo the ring */
    atomic_uint_fast64_t units, bytes, passes;
};

int scrub_new(scrub **out, expert_store *store, uint64_t pass_ms) {
    *out = NULL;
    scrub *s = calloc(1, sizeof(*s));
    if (s == NULL) return -ENOMEM;
    s->state = XXH3_createState();
    if (s->state == NULL) {
        free(s);
        return -ENOMEM;
    }
    s->store = store;
    s->pass_us = pass_ms * 1000;
    *out = s;
    return 0;
}

void scrub_free(scrub *s) {
    if (s == NULL) return;
    XXH3_freeState(s->state);
    free(s);
}

uint64_t scrub_due_us(const scrub *s) {
    return s->pass_us == 0 ? UINT64_MAX : s->due_us;
}

/* ---- from unit to unit ---- */

/* One step further; at the end of all, from the beginning. */
static void step(scrub *s) {
    s->weights = NULL;
    if (++s->unit < expert_store_units(s->store, s->layer)) return;
    s->unit = 0;
    do {
        s->layer++;
    } while (s->layer < expert_store_layers(s->store) &&
             expert_store_units(s->store, s->layer) == 0);
    if (s->layer < expert_store_layers(s->store)) return;
    s->layer = 0;
    atomic_fetch_add_explicit(&s->passes, 1, memory_order_relaxed);
}

/* A place where a test damages a resident unit, once. */
static void plant(scrub *s, const ffn_weights *w) {
    if (s->planted || !failpoint("scrub.flip")) return;
    s->planted = true;
    ((uint8_t *)w->down.data)[w->down.bytes / 2] ^= 1;
}

static void begin_unit(scrub *s, const ffn_weights *w) {
    plant(s, w);
    s->weights = w;
    s->piece = 0;
    s->at = 0;
    s->seed = 0;
    XXH3_64bits_reset_withSeed(s->state, 0);
}

/* The next loaded unit to read from; false: there is none in a whole round. */
static bool find_unit(scrub *s) {
    uint64_t round = 0;
    for (uint32_t l = 0; l < expert_store_layers(s->store); l++)
        round += size_max(expert_store_units(s->store, l), 1);
    for (uint64_t i = 0; i <= round; i++) {
        const ffn_weights *w = expert_store_get(s->store, s->layer, s->unit);
        if (w != NULL && w != s->weights) begin_unit(s, w);
        if (w != NULL) return true;
        step(s);
    }
    return false;
}

/* ---- reading ---- */

static bool report(scrub *s) {
    uint64_t n = atomic_load_explicit(&s->n_found, memory_order_relaxed);
    s->found[n % SCRUB_FOUND_MAX] = (scrub_find){s->layer, s->unit};
    expert_store_drop(s->store, s->layer, s->unit);
    atomic_store_explicit(&s->n_found, n + 1, memory_order_release);
    return true;
}

/* The unit has been read.  True: it is not what it was. */
static bool end_unit(scrub *s) {
    uint64_t sum = expert_store_sum(s->store, s->layer, s->unit);
    bool damaged = s->seed != sum;
    atomic_fetch_add_explicit(&s->units, 1, memory_order_relaxed);
    if (damaged) report(s);
    step(s);
    return damaged;
}

/* Up to SCRUB_PIECE bytes.  True: that ended a unit, which is damaged. */
static bool read_some(scrub *s) {
    ffn_piece pieces[FFN_PIECES_MAX];
    size_t n_pieces = ffn_pieces(s->weights, pieces);
    const ffn_piece *p = &pieces[s->piece];
    size_t n = size_min(p->bytes - s->at, SCRUB_PIECE);

    XXH3_64bits_update(s->state, (const uint8_t *)p->data + s->at, n);
    atomic_fetch_add_explicit(&s->bytes, n, memory_order_relaxed);
    s->at += n;
    if (s->at < p->bytes) return false;
    s->seed = XXH3_64bits_digest(s->state);
    s->at = 0;
    if (++s->piece == n_pieces) return end_unit(s);
    XXH3_64bits_reset_withSeed(s->state, s->seed);
    return false;
}

/* All units have as many pieces as the one in hand. */
static uint64_t interval_us(const scrub *s) {
    ffn_piece of_unit[FFN_PIECES_MAX];
    uint64_t bytes = expert_store_bytes(s->store);
    uint64_t pieces = bytes / SCRUB_PIECE + ffn_pieces(s->weights, of_unit) *
                                                expert_store_count(s->store);
    if (pieces == 0) return IDLE_US;
    return size_max(s->pass_us / pieces, LEAST_INTERVAL_US);
}

static bool is_full(const scrub *s) {
    return atomic_load_explicit(&s->n_found, memory_order_relaxed) -
               atomic_load_explicit(&s->n_taken, memory_order_acquire) ==
           SCRUB_FOUND_MAX;
}

bool scrub_turn(scrub *s, uint64_t now_us) {
    if (s->pass_us == 0 || now_us < s->due_us) return false;
    if (is_full(s) || !find_unit(s)) {
        s->due_us = now_us + IDLE_US;
        return false;
    }
    s->due_us = now_us + interval_us(s);
    return read_some(s);
}

/* ---- for others ---- */

bool scrub_take(scrub *s, scrub_find *out) {
    uint64_t n = atomic_load_explicit(&s->n_taken, memory_order_relaxed);
    if (atomic_load_explicit(&s->n_found, memory_order_acquire) == n)
        return false;
    *out = s->found[n % SCRUB_FOUND_MAX];
    atomic_store_explicit(&s->n_taken, n + 1, memory_order_release);
    return true;
}

void scrub_look(const scrub *s, scrub_figures *out) {
    *out = (scrub_figures){
        .units = atomic_load_explicit(&s->units, memory_order_relaxed),
        .bytes = atomic_load_explicit(&s->bytes, memory_order_relaxed),
        .passes = atomic_load_explicit(&s->passes, memory_order_relaxed),
        .damaged = atomic_load_explicit(&s->n_found, memory_order_relaxed)};
}
