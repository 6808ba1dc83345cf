/* heat.h - how many tokens each unit computed lately: decayed counts.
 *
 * Nodes count the (row, unit) pairs that they compute; a coordinator hears the
 * counters about every second and adds what is new.  A count halves every
 * HEAT_HALF_MS, so that a hot set that moved is seen within seconds, and noise
 * of single batches is not.  Plain table, no clock; one thread. */
#ifndef COORDINATOR_HEAT_H
#define COORDINATOR_HEAT_H

#include <stdint.h>

#define HEAT_HALF_MS 5000

typedef struct heat heat;

/* units[layer]: experts times slices, 0 for a dense layer. */
int heat_new(heat **out, uint32_t n_layers, const uint32_t *units);
void heat_free(heat *h); /* NULL is fine */

/* Time passes: counts decay up to `now_ms`.  Before adds of that time. */
void heat_decay(heat *h, uint64_t now_ms);
void heat_add(heat *h, uint32_t layer, uint32_t unit, double pairs);

uint32_t heat_layers(const heat *h);
uint32_t heat_units(const heat *h, uint32_t layer);
/* [units] decayed counts; NULL for a dense layer.  Borrowed until the next
 * decay. */
const double *heat_layer(const heat *h, uint32_t layer);
/* Of one layer, and how many pairs its decayed count stands for: whether it
 * means anything yet. */
double heat_total(const heat *h, uint32_t layer);

#endif
