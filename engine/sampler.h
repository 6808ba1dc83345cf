/* sampler.h - chooses the next token from logits.
 *
 * The random number is drawn from a counter-based generator (Philox4x32-10,
 * Salmon et al. 2011) keyed by (seed, choice) at counter `position`, so that
 * sampling has no state: a resumed or moved sequence draws the same numbers.
 * Order of filters: top-k, softmax at temperature, top-p, min-p (relative to
 * the most likely), renormalize, draw; ties go to the lower id. */
#ifndef ENGINE_SAMPLER_H
#define ENGINE_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    float temperature; /* 0: greedy */
    uint32_t top_k;    /* 0: off */
    float top_p;       /* 1: off */
    float min_p;       /* 0: off */
    uint64_t seed;
    uint32_t choice; /* which of several completions of one prompt */
} sampler_params;

/* ERR_RANGE with a sentence that names the parameter. */
int sampler_check(const sampler_params *p, char *why, size_t why_size);

typedef struct sampler sampler; /* scratch for one vocabulary size */
int sampler_new(sampler **out, size_t n_vocab);
void sampler_free(sampler *s);

/* The token for the sequence position that is being filled.  Logits are not
 * changed.  NaN logits are never chosen unless all are NaN (then token 0). */
int32_t sampler_pick(sampler *s, const sampler_params *p, uint64_t position,
                     const float *logits);

/* A float in [0, 1) with 24 bits: the generator itself, for tests. */
float sampler_uniform(uint64_t seed, uint32_t choice, uint64_t position);

#endif
