/* bench_run.h - one repetition of one test of `roster bench`: prompts or
 * decoding, timed from where a client stands.
 *
 * A prompt test sends `streams` prompts at once, each to be followed by one
 * token, and lasts from the first request to the arrival of the last of these
 * tokens.  A decode test sends prompts of one token; it lasts from the moment
 * when every stream has its first token, which does not count, until each has
 * n_gen more.  Tokens are drawn from the whole vocabulary; the answers take the
 * likeliest token and do not end with a text's end. */
#ifndef CLIENT_BENCH_RUN_H
#define CLIENT_BENCH_RUN_H

#include <stddef.h>
#include <stdint.h>
#include "client/bench_work.h"
#include "client/session.h"

#define BENCH_MAX_STREAMS 256

typedef struct {
    uint32_t n_prompt, n_gen; /* one of them is 0 */
    uint32_t streams;         /* 1 to BENCH_MAX_STREAMS */
} bench_test;

/* Tokens that are counted in one repetition. */
uint64_t bench_tokens(const bench_test *t);

typedef struct {
    uint64_t us;
    /* Of the coordinator, in whole steps of that time; of one stream that
     * decodes, the step of its prompt of one token is among them. */
    bench_work work;
} bench_sample;

/* The same seed gives the same prompts.  0; -EINTR: a signal; else as the
 * request that failed, with a sentence. */
int bench_run(session *s, const bench_test *t, uint64_t seed, bench_sample *out,
              char *why, size_t why_size);

#endif
