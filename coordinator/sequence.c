/* sequence.c - see sequence.h. */
#include "coordinator/sequence.h"

#include <errno.h>
#include <stdlib.h>

int sequence_new(sequence **out, const step_request *r) {
    *out = NULL;
    sequence *s = calloc(1, sizeof(*s));
    if (s == NULL) return -ENOMEM;
    size_t room = (size_t)r->n_tokens + r->max_new;
    uint32_t *tokens = realloc(r->tokens, room * sizeof(*tokens));
    if (tokens == NULL) {
        free(s);
        return -ENOMEM;
    }
    s->r = *r;
    s->r.tokens = tokens;
    s->n_tokens = r->n_tokens;
    *out = s;
    return 0;
}

void sequence_free(sequence *s, kv_cache *kv) {
    if (s == NULL) return;
    kv_release(kv, &s->kv);
    free(s->r.tokens);
    free(s->routed_experts);
    free(s->routed_weights);
    free(s);
}
