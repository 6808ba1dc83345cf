/* shuffle.h - the numerics contract from end to end, for any model: a token's
 * logits are the same bits whatever the rack, the placement, the replica, the
 * slices of an expert, the batch, the prompt's chunks, the threads and the CPU
 * level, and although the rack changes on the way.
 *
 * Every shuffle draws all of these from its seed, runs several sequences
 * through the real forward pass, exchange and node workers, and compares each
 * row with the logits of one process, one thread, one whole prompt at the
 * scalar level.  What goes wrong otherwise ends the test program. */
#ifndef TESTS_SUPPORT_SHUFFLE_H
#define TESTS_SUPPORT_SHUFFLE_H

#include "tests/support/memory_rack.h"

#define SHUFFLE_MAX_TOKENS 200
#define SHUFFLE_SEQUENCES 3

/* A model, its sequences and what they must give. */
typedef struct {
    memory_model *model;
    uint32_t n_tokens[SHUFFLE_SEQUENCES];
    uint32_t tokens[SHUFFLE_SEQUENCES][SHUFFLE_MAX_TOKENS];
    float *expected[SHUFFLE_SEQUENCES]; /* [n_tokens][n_vocab] */
    kv_type kv;
    bool exact;
    uint64_t splits; /* runs of one expert that went to two nodes, so far */
} shuffle_subject;

/* The first sequence has most_tokens, the others fewer; `kv` and `exact` are
 * the caller's and kept. */
void shuffle_open(shuffle_subject *s, const char *path, uint64_t seed,
                  uint32_t most_tokens);
void shuffle_close(shuffle_subject *s);
/* One process, one thread, whole prompts, scalar kernels. */
void shuffle_learn(shuffle_subject *s);
/* The number of rows that differ. */
int shuffle_run(shuffle_subject *s, uint64_t seed);

/* All of it: n shuffles of the model at `path`, no row may differ. */
void shuffle_model(const char *path, uint32_t most_tokens, uint32_t n,
                   kv_type kv, bool exact);

/* `usual`, or fewer for slow builds, or what ROSTER_SHUFFLES says. */
uint32_t shuffle_count(uint32_t usual);

#endif
