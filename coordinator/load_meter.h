/* load_meter.h - what one node says that it has computed: what of it is new,
 * and how fast the node is.
 *
 * A node tells counters that only grow, of each unit that it holds and in all.
 * What was added since its last word goes to the heat table; counters wrap at
 * 2^32.  A unit that is new counts from its first value on, and so does a node
 * whose process is new or whose experts are cut in another way.  A word that
 * cannot be true is not taken: nobody is to be placed by it.
 *
 * What is kept here fades as the heat does.  Plain, no clock; one thread. */
#ifndef COORDINATOR_LOAD_METER_H
#define COORDINATOR_LOAD_METER_H

#include <stddef.h>
#include <stdint.h>
#include "coordinator/heat.h"

#define LOAD_METER_MOST 1000000000.0 /* pairs a second; more is not true */
/* Speeds are for placements, which follow what lasts: they fade more slowly,
 * and mean nothing before so much was computed. */
#define LOAD_METER_SPEED_HALF_MS 30000
#define LOAD_METER_BUSY_MS 1000

typedef struct load_meter load_meter;
int load_meter_new(load_meter **out, uint32_t n_layers, uint32_t n_experts);
void load_meter_free(load_meter *m); /* NULL is fine */

/* Borrowed for the call. */
typedef struct {
    uint64_t boot_id;
    uint32_t slices;
    const uint8_t *held; /* bit layer * n_experts * slices + unit */
    size_t held_bytes;
    const void *counters; /* a u32 for each bit that is set; any alignment */
    uint64_t pairs, runs, weight_bytes, busy_us;
} load_word;

/* Add what is new to `h`, which has been decayed to `now_ms`.  ERR_RANGE: the
 * word has another shape than the model in `slices` slices; ERR_MALFORMED: it
 * counts more than can be; -ENOMEM.  Nothing was added then. */
int load_meter_take(load_meter *m, uint64_t now_ms, uint32_t slices,
                    const load_word *w, heat *h);

/* Nobody tells us what a pair costs beside the reading of the weights, so work
 * is counted in two ways that the truth lies between. */
#define LOAD_WAYS 2

typedef struct {
    double pairs_per_s;
    double busy;             /* share of the time in which it computed */
    double speed[LOAD_WAYS]; /* work in a us, either way; 0: unknown */
} load_figures;

/* Of late, up to the last word. */
void load_meter_look(const load_meter *m, load_figures *out);
/* How fast a node is beside a usual one (`usual`, the speed of either way): 1
 * as long as the two ways do not agree that it is faster or slower, else what
 * is nearer to 1.  0: unknown. */
double load_meter_speed(const load_figures *f, const double usual[LOAD_WAYS]);
/* Decayed pairs of one layer, up to the last word. */
double load_meter_layer(const load_meter *m, uint32_t layer);

#endif
