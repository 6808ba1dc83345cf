/* router.h - from a row's router logits to its experts and their weights.
 *
 * The steps, as data (routing_rule, engine/model.h); z is the logits:
 *   1  z += bias, if the layer has one
 *   2  p = softmax(z), sigmoid(z), z itself or sqrt(softplus(z))
 *   3  s = p, or z where the rule says by_logit; s += selection bias, if any
 *   4  with groups of neighbouring experts: a group's score is the sum of its
 *      two largest s (the single one of a group of one); the best n_groups_used
 *      stay, the other groups' s become -inf
 *   5  chosen = the k largest s, best first;  w = p of the chosen
 *   6  if p is z itself: w = softmax(w)
 *   7  if renormalize: w /= max(sum w, 6.1035e-5), summed best first
 *   8  if scale is neither 0 nor 1: w *= scale
 * Whether w multiplies an expert's output or its input (scale_input) is for who
 * runs the experts.  A tie goes to the lower expert or group, and what is not a
 * number comes after every number.
 *
 * k may be anything up to all of many thousands: the choice is a heap. */
#ifndef COORDINATOR_ROUTER_H
#define COORDINATOR_ROUTER_H

#include <stddef.h>
#include <stdint.h>
#include "engine/model.h"

/* How a layer routes; all borrowed. */
typedef struct {
    const routing_rule *rule;
    uint32_t n_experts, n_used;
    const float *bias;           /* [n_experts] or NULL */
    const float *selection_bias; /* [n_experts] or NULL */
} router;

/* Room for what lies between the steps, for one call at a time. */
typedef struct {
    float *selection;    /* [n_experts] */
    float *group_scores; /* [n_groups] */
    uint32_t *groups;    /* [n_groups] */
} router_scratch;

int router_scratch_init(router_scratch *s, const routing_rule *rule,
                        uint32_t n_experts);
void router_scratch_fini(router_scratch *s);

/* scores [n_experts], the logits, are overwritten; experts and weights are
 * [n_used].  ERR_RANGE if n_used is 0 or above n_experts.  Whatever the logits
 * are, the experts chosen exist and differ. */
int router_choose(const router *r, const router_scratch *scratch, float *scores,
                  uint32_t *experts, float *weights);

#endif
