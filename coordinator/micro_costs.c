/* micro_costs.c - see micro_costs.h. */
#include "coordinator/micro_costs.h"

#include <math.h>

/* To read a matrix once costs about as much as to multiply so many rows. */
#define READ_ROWS 6.0
#define GAIN 0.95        /* of the time, or it is not worth it */
#define NEW_SHARE 0.25   /* of a mean, for what was seen last */
#define FIRST_PASSES 2   /* as one: the first of all finds caches cold */
#define LEARN_PASSES 256 /* then nodes and links may be others */

void micro_costs_init(micro_costs *c, uint32_t n_experts, uint32_t n_used) {
    *c = (micro_costs){.n_experts = n_experts, .n_used = n_used};
}

static micro_cost *cost_of(micro_costs *c, uint32_t n_rows) {
    uint32_t size = 0;
    while (size + 1 < MICRO_COSTS_SIZES && n_rows >> (size + 1) != 0)
        size++;
    return &c->sizes[size];
}

/* What so many rows cost, in rows: every matrix is read once. */
static double dense_cost(double n_rows) {
    return READ_ROWS + n_rows;
}

/* The same of experts, of which that many are expected to be used. */
static double expert_cost(const micro_costs *c, double n_rows) {
    double share = (double)c->n_used / c->n_experts;
    double distinct = c->n_experts * (1.0 - pow(1.0 - share, n_rows));
    return READ_ROWS * distinct + n_rows * c->n_used;
}

double micro_costs_predict(const micro_costs *c, uint32_t n_rows,
                           double here_us, double away_us) {
    double half = n_rows / 2.0;
    here_us *= 2.0 * dense_cost(half) / dense_cost(n_rows);
    away_us *= 2.0 * expert_cost(c, half) / expert_cost(c, n_rows);
    return here_us > away_us ? here_us : away_us;
}

uint32_t micro_costs_choose(micro_costs *c, uint32_t n_rows) {
    if (n_rows < 2 || c->n_experts == 0) return 1;
    micro_cost *cost = cost_of(c, n_rows);
    if (++cost->passes > LEARN_PASSES) *cost = (micro_cost){.passes = 1};
    if (cost->passes <= FIRST_PASSES) return 1; /* to see */
    double one_us = (cost->here_us + cost->away_us) * n_rows;
    double two_us = cost->both_us * n_rows;
    if (two_us <= 0.0) {
        two_us = micro_costs_predict(c, n_rows, cost->here_us * n_rows,
                                     cost->away_us * n_rows);
    }
    return two_us < GAIN * one_us ? 2 : 1;
}

static void learn(double *mean, double us) {
    *mean = *mean <= 0.0 ? us : *mean + NEW_SHARE * (us - *mean);
}

void micro_costs_note(micro_costs *c, uint32_t n_rows, uint32_t n_batches,
                      uint64_t took_us, uint64_t waited_us) {
    micro_cost *cost = cost_of(c, n_rows);
    if (waited_us > took_us) waited_us = took_us;
    if (cost->passes <= FIRST_PASSES) cost->here_us = cost->away_us = 0.0;
    if (n_batches == 1) {
        learn(&cost->here_us, (double)(took_us - waited_us) / n_rows);
        learn(&cost->away_us, (double)waited_us / n_rows);
    } else {
        learn(&cost->both_us, (double)took_us / n_rows);
    }
}
