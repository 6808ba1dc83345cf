/* router.h - from a row's router scores to its experts and their weights.
 *
 * The steps, as data (routing_rule, engine/model.h):
 *   p = softmax(z) or sigmoid(z);  chosen = the k largest p, best first, a tie
 *   going to the lower expert;  w = p of the chosen;  if renormalize
 *   w /= max(sum w, 6.1035e-5);  if scale is neither 0 nor 1, w *= scale. */
#ifndef COORDINATOR_ROUTER_H
#define COORDINATOR_ROUTER_H

#include <stdint.h>
#include "engine/model.h"

/* scores [n_experts] are overwritten.  ERR_RANGE if k is 0 or above n_experts.
 * A NaN score is never chosen before a number. */
int router_choose(const routing_rule *rule, uint32_t n_experts, uint32_t k,
                  float *scores, uint32_t *experts, float *weights);

#endif
