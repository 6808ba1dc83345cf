/* sequence.h - one request as the step thread keeps it. */
#ifndef COORDINATOR_SEQUENCE_H
#define COORDINATOR_SEQUENCE_H

#include "coordinator/step.h"

typedef struct {
    step_request r;    /* owns r.tokens, with room for max_new more */
    uint32_t n_tokens; /* prompt and generated so far */
    uint32_t generated;
    kv_seq kv;
    uint64_t started_us;              /* admission */
    uint64_t first_us;                /* when the prompt was through */
    uint32_t lost_layer, lost_expert; /* why it is parked ... */
    bool unanswered;                  /* ... although a live node holds that */
    bool failed; /* told so in the middle of a step, which goes on without it */
    uint32_t *routed_experts; /* of the current step, EVAL */
    float *routed_weights;
} sequence;

/* Takes r->tokens on success.  -ENOMEM. */
int sequence_new(sequence **out, const step_request *r);
void sequence_free(sequence *s, kv_cache *kv);

#endif
