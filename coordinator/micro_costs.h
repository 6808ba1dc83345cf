/* micro_costs.h - whether a pass is computed as one micro-batch or as two in
 * turn: by what passes of about as many rows took.
 *
 * Of a pass in one, the time is what was computed here and what was waited for
 * the nodes, one after the other.  In two, each is hidden behind the other, but
 * for the longer one; and both grow, since weights are read twice: those here
 * for every row, those of experts as far as both halves use the same.  So long
 * prompts gain, and a small decoding batch loses unless it waits a lot.  The
 * prediction is replaced by what a pass in two then really takes.  A plain
 * table; durations go in. */
#ifndef COORDINATOR_MICRO_COSTS_H
#define COORDINATOR_MICRO_COSTS_H

#include <stdint.h>

#define MICRO_COSTS_SIZES 13 /* powers of two of rows, up to 4096 */

typedef struct {
    double here_us, away_us; /* of a row, in one; 0 and 0: not known */
    double both_us;          /* of a row, in two; 0: not known */
    uint32_t passes;         /* since all of it was learnt anew */
} micro_cost;

typedef struct {
    uint32_t n_experts, n_used; /* 0: a model without experts */
    micro_cost sizes[MICRO_COSTS_SIZES];
} micro_costs;

void micro_costs_init(micro_costs *c, uint32_t n_experts, uint32_t n_used);

/* 1 or 2. */
uint32_t micro_costs_choose(micro_costs *c, uint32_t n_rows);
/* What a pass took, and how much of it was waiting. */
void micro_costs_note(micro_costs *c, uint32_t n_rows, uint32_t n_batches,
                      uint64_t took_us, uint64_t waited_us);

/* The predicted time of a pass in two, if it takes so long in one. */
double micro_costs_predict(const micro_costs *c, uint32_t n_rows,
                           double here_us, double away_us);

#endif
