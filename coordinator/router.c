/* router.c - see router.h. */
#include "coordinator/router.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"
#include "engine/vmath.h"

#define GLANCE 64                 /* items that are passed over at a time */
#define WEIGHT_SUM_MIN 6.1035e-5f /* the smallest normal half, as published */

int router_scratch_init(router_scratch *s, const routing_rule *rule,
                        uint32_t n_experts) {
    size_t n_groups = rule->n_groups > 0 ? rule->n_groups : 1;
    s->selection = malloc(n_experts * sizeof(*s->selection));
    s->group_scores = malloc(n_groups * sizeof(*s->group_scores));
    s->groups = malloc(n_groups * sizeof(*s->groups));
    if (s->selection != NULL && s->group_scores != NULL && s->groups != NULL) {
        return 0;
    }
    router_scratch_fini(s);
    return -ENOMEM;
}

void router_scratch_fini(router_scratch *s) {
    free(s->selection);
    free(s->group_scores);
    free(s->groups);
    *s = (router_scratch){0};
}

/* ---- the best of many ---- */

/* Does item a come before item b?  NaN comes after everything. */
static bool before(const float *s, uint32_t a, uint32_t b) {
    if (s[a] > s[b]) return true;
    if (s[a] < s[b]) return false;
    bool a_nan = isnan(s[a]), b_nan = isnan(s[b]);
    return a_nan == b_nan ? a < b : b_nan;
}

/* Let the item at `at` of a heap of n, whose root is the worst, sink to its
 * place. */
static void sink(const float *s, uint32_t *heap, uint32_t n, uint32_t at) {
    uint32_t item = heap[at];
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= n) break;
        if (child + 1 < n && before(s, heap[child], heap[child + 1])) child++;
        if (!before(s, item, heap[child])) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = item;
}

/* The k of n items with the largest s, best first.  Most blocks have nothing
 * above the worst that was kept, which one look at their maximum tells; what
 * equals it comes later and stays out. */
static void best_of(const float *s, uint32_t n, uint32_t k, uint32_t *best) {
    for (uint32_t i = 0; i < k; i++) {
        best[i] = i;
    }
    for (uint32_t i = k / 2; i > 0; i--) {
        sink(s, best, k, i - 1);
    }
    for (uint32_t i = k, end; i < n; i = end) {
        end = (uint32_t)size_min((size_t)i + GLANCE, n);
        if (vm_max(end - i, s + i) <= s[best[0]]) continue;
        for (uint32_t j = i; j < end; j++) {
            if (!before(s, j, best[0])) continue;
            best[0] = j;
            sink(s, best, k, 0);
        }
    }
    for (uint32_t left = k; left > 1; left--) { /* the worst goes to the end */
        uint32_t worst = best[0];
        best[0] = best[left - 1];
        best[left - 1] = worst;
        sink(s, best, left - 1, 0);
    }
}

/* ---- the steps ---- */

/* log(1 + exp z), with both tails: log1p(x) as x log(u) / (u - 1), u = 1 + x,
 * which loses nothing to the rounding of u. */
static double softplus(double z) {
    double x = vm_exp(-fabs(z)), u = 1.0 + x;
    double log1p_x = u == 1.0 ? x : x * (vm_log(u) / (u - 1.0));
    return (z > 0.0 ? z : 0.0) + log1p_x;
}

static void to_sigmoids(uint32_t n, float *z) {
    for (uint32_t e = 0; e < n; e++) {
        z[e] = vm_sigmoidf(z[e]);
    }
}

static void to_sqrt_softplus(uint32_t n, float *z) {
    for (uint32_t e = 0; e < n; e++) {
        z[e] = isnan(z[e]) ? z[e] : sqrtf((float)softplus((double)z[e]));
    }
}

static void to_scores(gating_func gating, uint32_t n, float *z) {
    switch (gating) {
    case GATING_SOFTMAX:
        vm_softmax(n, z);
        break;
    case GATING_SIGMOID:
        to_sigmoids(n, z);
        break;
    case GATING_CHOSEN_SOFTMAX:
        break;
    case GATING_SQRT_SOFTPLUS:
        to_sqrt_softplus(n, z);
        break;
    }
}

/* The sum of the two largest of n; the only one if there is one. */
static float group_score(const float *s, uint32_t n) {
    float first = -INFINITY, second = -INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        if (s[i] > first) {
            second = first;
            first = s[i];
        } else if (s[i] > second) {
            second = s[i];
        }
    }
    return n > 1 ? first + second : first;
}

static void leave_groups(const routing_rule *rule, uint32_t n_experts,
                         const router_scratch *scratch) {
    uint32_t n_groups = rule->n_groups, size = n_experts / n_groups;
    for (uint32_t g = 0; g < n_groups; g++) {
        scratch->group_scores[g] =
            group_score(scratch->selection + (size_t)g * size, size);
    }
    best_of(scratch->group_scores, n_groups, n_groups, scratch->groups);
    for (uint32_t i = rule->n_groups_used; i < n_groups; i++) {
        float *s = scratch->selection + (size_t)scratch->groups[i] * size;
        for (uint32_t e = 0; e < size; e++) {
            s[e] = -INFINITY;
        }
    }
}

static void weigh(const routing_rule *rule, const float *scores, uint32_t k,
                  const uint32_t *experts, float *weights) {
    for (uint32_t i = 0; i < k; i++) {
        weights[i] = scores[experts[i]];
    }
    if (rule->gating == GATING_CHOSEN_SOFTMAX) vm_softmax(k, weights);
    if (rule->renormalize) {
        float sum = 0.0f;
        for (uint32_t i = 0; i < k; i++) {
            sum += weights[i];
        }
        float divisor = sum > WEIGHT_SUM_MIN ? sum : WEIGHT_SUM_MIN;
        for (uint32_t i = 0; i < k; i++) {
            weights[i] /= divisor;
        }
    }
    if (rule->scale != 0.0f && rule->scale != 1.0f) {
        for (uint32_t i = 0; i < k; i++) {
            weights[i] *= rule->scale;
        }
    }
}

int router_choose(const router *r, const router_scratch *scratch, float *scores,
                  uint32_t *experts, float *weights) {
    const routing_rule *rule = r->rule;
    uint32_t n = r->n_experts;
    float *selection = scratch->selection;
    if (r->n_used == 0 || r->n_used > n) return ERR_RANGE;

    if (r->bias != NULL) vm_add(n, scores, r->bias);
    if (rule->by_logit) memcpy(selection, scores, n * sizeof(*scores));
    to_scores(rule->gating, n, scores);
    if (!rule->by_logit) memcpy(selection, scores, n * sizeof(*scores));
    if (r->selection_bias != NULL) vm_add(n, selection, r->selection_bias);
    if (rule->n_groups > 1) leave_groups(rule, n, scratch);

    best_of(selection, n, r->n_used, experts);
    weigh(rule, scores, r->n_used, experts, weights);
    return 0;
}
