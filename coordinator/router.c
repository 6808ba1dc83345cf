/* router.c - see router.h. */
#include "coordinator/router.h"

#include <math.h>
#include "engine/err.h"
#include "engine/vmath.h"

#define WEIGHT_SUM_MIN 6.1035e-5f /* the smallest normal half, as published */

/* Is a better than b?  NaN is worse than anything. */
static bool better(float a, uint32_t a_expert, float b, uint32_t b_expert) {
    if (isnan(a)) return isnan(b) && a_expert < b_expert;
    if (isnan(b) || a > b) return true;
    return a == b && a_expert < b_expert;
}

/* Insertion into a short sorted list: k is small, and most experts fail the
 * first comparison. */
static void top_k(const float *p, uint32_t n, uint32_t k, uint32_t *experts) {
    uint32_t found = 0;
    for (uint32_t e = 0; e < n; e++) {
        if (found == k && !better(p[e], e, p[experts[k - 1]], experts[k - 1])) {
            continue;
        }
        uint32_t at = found < k ? found++ : k - 1;
        while (at > 0 && better(p[e], e, p[experts[at - 1]], experts[at - 1])) {
            experts[at] = experts[at - 1];
            at--;
        }
        experts[at] = e;
    }
}

int router_choose(const routing_rule *rule, uint32_t n_experts, uint32_t k,
                  float *scores, uint32_t *experts, float *weights) {
    if (k == 0 || k > n_experts) return ERR_RANGE;

    if (rule->gating == GATING_SOFTMAX) {
        vm_softmax(n_experts, scores);
    } else {
        for (uint32_t e = 0; e < n_experts; e++) {
            scores[e] = vm_sigmoidf(scores[e]);
        }
    }
    top_k(scores, n_experts, k, experts);

    float sum = 0.0f;
    for (uint32_t i = 0; i < k; i++) {
        weights[i] = scores[experts[i]];
        sum += weights[i];
    }
    if (rule->renormalize) {
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
    return 0;
}
