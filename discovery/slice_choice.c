/* slice_choice.c - see slice_choice.h.
 *
 * The slices of an expert lie on as many nodes, so the nodes form groups that
 * have the same experts, and a token's experts fall into groups by chance.  The
 * layer takes as long as the fullest group: its expected number of experts is
 * that of k balls thrown into bins. */
#include "discovery/slice_choice.h"

#include <string.h>

#define USUAL_NODE_BYTES_US 20000.0 /* two channels of memory */
#define USUAL_LINK_BYTES_US 1200.0  /* 10 Gbit/s */
#define USUAL_CALL_US 25.0
#define GAIN 0.9 /* of the time: what twice as many slices must bring */
#define MOST_BALLS 64

/* The chance that of k balls thrown into bins none gets more than `most`: by
 * exponential generating functions, k! / bins^k times the coefficient of x^k in
 * (sum of x^j / j! for j <= most) ^ bins, both scaled bin by bin. */
static double chance_at_most(uint32_t k, uint32_t bins, uint32_t most) {
    /* ways[i]: the chance that the bins so far got i of the balls, times the
     * chance that each of them got no more than `most`. */
    double ways[MOST_BALLS + 1] = {1.0};
    for (uint32_t bin = 0; bin < bins; bin++) {
        double p = 1.0 / (bins - bin); /* of a ball that is left, this bin */
        double next[MOST_BALLS + 1] = {0.0};
        for (uint32_t i = 0; i <= k; i++) {
            uint32_t left = k - i;
            double draw = ways[i]; /* times C(left, j) p^j (1 - p)^(left - j) */
            for (uint32_t n = 0; n < left; n++)
                draw *= 1.0 - p;
            for (uint32_t j = 0; j <= left && j <= most; j++) {
                if (p < 1.0) {
                    next[i + j] += draw;
                    draw *= p / (1.0 - p) * (left - j) / (j + 1.0);
                } else if (j == left) {
                    next[i + j] += ways[i];
                }
            }
        }
        memcpy(ways, next, sizeof(ways));
    }
    return ways[k];
}

static double expected_fullest(uint32_t k, uint32_t bins) {
    double sum = 0.0;
    for (uint32_t most = 0; most < k; most++)
        sum += 1.0 - chance_at_most(k, bins, most);
    return sum;
}

/* Nodes that have something to do, of k experts in groups. */
static double expected_nodes(uint32_t k, uint32_t groups, uint32_t slices) {
    double empty = 1.0;
    for (uint32_t i = 0; i < k; i++)
        empty *= 1.0 - 1.0 / groups;
    return groups * (1.0 - empty) * slices;
}

static double given_or(double given, double usual) {
    return given > 0.0 ? given : usual;
}

double slice_choice_us(const slice_question *q, uint32_t slices) {
    uint32_t k = q->n_used < MOST_BALLS ? q->n_used : MOST_BALLS;
    uint32_t groups = q->n_nodes / slices > 0 ? q->n_nodes / slices : 1;
    uint32_t wide = slices < q->n_nodes ? slices : q->n_nodes;
    double bytes = (double)q->expert_bytes / wide * expected_fullest(k, groups);
    return bytes / given_or(q->node_bytes_us, USUAL_NODE_BYTES_US) +
           (double)k * slices * (double)q->row_bytes /
               given_or(q->link_bytes_us, USUAL_LINK_BYTES_US) +
           expected_nodes(k, groups, wide) *
               given_or(q->call_us, USUAL_CALL_US);
}

uint32_t slice_choice(const slice_question *q) {
    uint32_t best = 1;
    if (q->n_nodes < 2 || q->n_used == 0) return best;
    double best_us = slice_choice_us(q, best);
    for (uint32_t s = 2; s <= q->most && s <= SLICE_CHOICE_MOST; s *= 2) {
        if (s > q->n_nodes) break; /* a node would only have two of one */
        double us = slice_choice_us(q, s);
        if (us > GAIN * best_us) continue;
        best = s;
        best_us = us;
    }
    return best;
}
