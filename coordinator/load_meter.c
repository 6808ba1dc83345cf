/* load_meter.c - see load_meter.h.
 *
 * Speed.  A run reads a unit's weights once and multiplies some rows by them.
 * Work is counted as the bytes read, plus a share of a unit's bytes for each
 * pair: so a node that has the hot experts, which does more pairs a second and
 * reads fewer bytes, is not taken for a fast or slow one.  How large that share
 * is depends on the processor, its memory, the threads and the unit's size: one
 * thread of a fast memory needs a full reading's time for a pair, many threads
 * a small part of it.  So both ends are tried, and a node counts as faster or
 * slower than others only if it is so at either end.
 *
 * A delta that was counted over a while is worth less than one of this moment:
 * it is faded as if it had come evenly (fade()), so that a node that was heard
 * of late does not look hot. */
#include "coordinator/load_meter.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"

/* Of the time that reading a unit takes, what a pair adds. */
static const double pair_costs[LOAD_WAYS] = {1.0 / 16, 1.0};
/* An answer that was held up is followed by the next at once. */
#define SLACK_MS 1000

/* Decayed. */
typedef struct {
    double pairs, runs, weight_bytes, busy_us, ms;
} load_sums;

struct load_meter {
    uint32_t n_layers, n_experts;
    /* The last word; boot_id 0: there is none. */
    uint64_t boot_id, at_ms;
    uint32_t slices;
    uint8_t *held;
    size_t held_bytes;
    uint32_t *counters;
    uint64_t pairs, runs, weight_bytes, busy_us;

    load_sums sums, lasting; /* faded as the heat; for speeds */
    double *layers;          /* [n_layers], decayed pairs */
};

int load_meter_new(load_meter **out, uint32_t n_layers, uint32_t n_experts) {
    *out = NULL;
    load_meter *m = calloc(1, sizeof(*m));
    if (m == NULL) return -ENOMEM;
    m->n_layers = n_layers;
    m->n_experts = n_experts;
    m->layers = calloc(n_layers + 1, sizeof(*m->layers));
    if (m->layers == NULL) {
        load_meter_free(m);
        return -ENOMEM;
    }
    *out = m;
    return 0;
}

void load_meter_free(load_meter *m) {
    if (m == NULL) return;
    free(m->held);
    free(m->counters);
    free(m->layers);
    free(m);
}

/* ---- keeping a word ---- */

static size_t count_bits(const uint8_t *bits, size_t bytes) {
    size_t n = 0;
    for (size_t i = 0; i < bytes; i++)
        n += (size_t)__builtin_popcount(bits[i]);
    return n;
}

/* What is kept of a word, made before anything is counted: a word counts as a
 * whole or not at all. */
typedef struct {
    uint8_t *held;
    uint32_t *counters;
} copies;

static int copy_word(copies *c, const load_word *w) {
    size_t n = count_bits(w->held, w->held_bytes);
    c->held = malloc(w->held_bytes + 1);
    c->counters = malloc((n + 1) * sizeof(*c->counters));
    if (c->held == NULL || c->counters == NULL) {
        free(c->held);
        free(c->counters);
        return -ENOMEM;
    }
    if (w->held_bytes > 0) memcpy(c->held, w->held, w->held_bytes);
    if (n > 0) memcpy(c->counters, w->counters, n * sizeof(*c->counters));
    return 0;
}

static void keep(load_meter *m, uint64_t now_ms, const load_word *w,
                 const copies *c) {
    free(m->held);
    free(m->counters);
    m->held = c->held;
    m->held_bytes = w->held_bytes;
    m->counters = c->counters;
    m->boot_id = w->boot_id;
    m->at_ms = now_ms;
    m->slices = w->slices;
    m->pairs = w->pairs;
    m->runs = w->runs;
    m->weight_bytes = w->weight_bytes;
    m->busy_us = w->busy_us;
}

/* A node that begins anew has no past. */
static void forget(load_meter *m) {
    m->sums = m->lasting = (load_sums){0};
    memset(m->layers, 0, m->n_layers * sizeof(*m->layers));
}

/* Does the word go on from the last one? */
static bool goes_on(const load_meter *m, const load_word *w) {
    return m->boot_id != 0 && m->boot_id == w->boot_id &&
           m->slices == w->slices && m->held_bytes == w->held_bytes &&
           w->pairs >= m->pairs && w->runs >= m->runs &&
           w->weight_bytes >= m->weight_bytes && w->busy_us >= m->busy_us;
}

/* ---- what is new ---- */

typedef struct {
    heat *heat; /* NULL: only the sum is asked for */
    double fade;
} sink;

static void add(load_meter *m, const sink *to, size_t index, uint32_t pairs) {
    size_t of_layer = (size_t)m->n_experts * m->slices;
    uint32_t layer = (uint32_t)(index / of_layer);
    uint32_t unit = (uint32_t)(index % of_layer);
    /* A layer may be cut less often than the bits have room for. */
    if (layer >= heat_layers(to->heat)) return;
    if (unit >= heat_units(to->heat, layer)) return;
    heat_add(to->heat, layer, unit, pairs * to->fade);
    m->layers[layer] += pairs * to->fade;
}

/* Over the units that are in this word and were in the last. */
static uint64_t walk(load_meter *m, const load_word *w, const sink *to) {
    const uint8_t *next = w->counters;
    const uint32_t *last = m->counters;
    uint64_t sum = 0;
    for (size_t i = 0; i < m->held_bytes; i++) {
        unsigned either = w->held[i] | m->held[i];
        for (unsigned b = 0; either >> b != 0; b++) {
            bool is = (w->held[i] >> b & 1) != 0;
            bool was = (m->held[i] >> b & 1) != 0;
            uint32_t now = 0, before = 0;
            if (is) {
                memcpy(&now, next, sizeof(now));
                next += sizeof(now);
            }
            if (was) before = *last++;
            if (!is || !was || now == before) continue;
            sum += now - before;
            if (to->heat != NULL) add(m, to, 8 * i + b, now - before);
        }
    }
    return sum;
}

/* What counts that came evenly over so long are worth at its end. */
static double fade(uint64_t ms, double half_ms) {
    double halves = (double)ms / half_ms;
    return halves > 0 ? (1 - exp2(-halves)) / (halves * M_LN2) : 1;
}

static void add_sums(load_sums *s, const load_sums *delta, double half_ms) {
    uint64_t ms = (uint64_t)delta->ms;
    double keeps = exp2(-delta->ms / half_ms), counts = fade(ms, half_ms);
    s->pairs = s->pairs * keeps + delta->pairs * counts;
    s->runs = s->runs * keeps + delta->runs * counts;
    s->weight_bytes = s->weight_bytes * keeps + delta->weight_bytes * counts;
    s->busy_us = s->busy_us * keeps + delta->busy_us * counts;
    s->ms = s->ms * keeps + delta->ms * counts;
}

static void add_word(load_meter *m, const load_word *w, uint64_t ms, heat *h) {
    const load_sums delta = {
        .pairs = (double)(w->pairs - m->pairs),
        .runs = (double)(w->runs - m->runs),
        .weight_bytes = (double)(w->weight_bytes - m->weight_bytes),
        .busy_us = (double)(w->busy_us - m->busy_us),
        .ms = (double)ms,
    };
    add_sums(&m->sums, &delta, HEAT_HALF_MS);
    add_sums(&m->lasting, &delta, LOAD_METER_SPEED_HALF_MS);
    double keeps = exp2(-(double)ms / HEAT_HALF_MS);
    for (uint32_t l = 0; l < m->n_layers; l++)
        m->layers[l] *= keeps;
    (void)walk(m, w, &(sink){h, fade(ms, HEAT_HALF_MS)});
}

/* Can so much have been computed since the last word? */
static bool is_possible(load_meter *m, const load_word *w, uint64_t ms) {
    double most = LOAD_METER_MOST / 1000 * (double)(ms + SLACK_MS);
    return (double)(w->pairs - m->pairs) <= most &&
           (double)walk(m, w, &(sink){NULL, 0}) <= most;
}

int load_meter_take(load_meter *m, uint64_t now_ms, uint32_t slices,
                    const load_word *w, heat *h) {
    copies c;
    size_t bits = (size_t)m->n_layers * m->n_experts * slices;
    if (w->slices != slices || w->held_bytes != (bits + 7) / 8) {
        return ERR_RANGE;
    }
    int rc = copy_word(&c, w);
    if (rc < 0) return rc;

    uint64_t ms = now_ms > m->at_ms ? now_ms - m->at_ms : 0;
    bool on = goes_on(m, w), possible = on && is_possible(m, w, ms);
    if (possible) {
        add_word(m, w, ms, h);
    } else {
        forget(m);
    }
    keep(m, now_ms, w, &c);
    return on && !possible ? ERR_MALFORMED : 0;
}

/* ---- figures ---- */

/* The mean unit of what was run stands for the pairs' units. */
static double work_of(const load_sums *s, double pair_cost) {
    if (s->runs <= 0) return 0;
    return s->weight_bytes * (1 + pair_cost * s->pairs / s->runs);
}

void load_meter_look(const load_meter *m, load_figures *out) {
    const load_sums *s = &m->sums;
    *out = (load_figures){0};
    if (s->ms <= 0) return;
    out->pairs_per_s = 1000 * s->pairs / s->ms;
    out->busy = fmin(s->busy_us / 1000 / s->ms, 1);
    s = &m->lasting;
    if (s->busy_us < 1000.0 * LOAD_METER_BUSY_MS) return;
    for (int i = 0; i < LOAD_WAYS; i++)
        out->speed[i] = work_of(s, pair_costs[i]) / s->busy_us;
}

double load_meter_speed(const load_figures *f, const double usual[LOAD_WAYS]) {
    double least = HUGE_VAL, most = 0;
    for (int i = 0; i < LOAD_WAYS; i++) {
        if (f->speed[i] <= 0 || usual[i] <= 0) return 0;
        double speed = f->speed[i] / usual[i];
        least = fmin(least, speed);
        most = fmax(most, speed);
    }
    if (least > 1) return least;
    return most < 1 ? most : 1;
}

double load_meter_layer(const load_meter *m, uint32_t layer) {
    return layer < m->n_layers ? m->layers[layer] : 0;
}
