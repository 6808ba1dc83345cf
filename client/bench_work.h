/* bench_work.h - what a coordinator says that it has done: steps, tokens,
 * weights read, and the stages that its time went to
 * (coordinator/stopwatch.h). */
#ifndef CLIENT_BENCH_WORK_H
#define CLIENT_BENCH_WORK_H

#include <stddef.h>
#include <stdint.h>
#include "client/session.h"

#define BENCH_STAGES 16

typedef struct {
    char name[16];
    uint64_t ns;
} bench_stage;

/* Counters that only grow; zeroed is nothing. */
typedef struct {
    uint64_t steps, tokens, weight_bytes;
    uint64_t experts; /* read, one that rows of a step share once */
    bench_stage stages[BENCH_STAGES];
    size_t n_stages;       /* without the time between steps */
    uint64_t n_requests;   /* that run or wait now */
    uint64_t batch_tokens; /* most of a step */
    uint64_t slices;       /* that an expert is cut into */
} bench_work;

/* As of the end of the coordinator's latest step.  As the request for its
 * status; ERR_UNSUPPORTED if that does not tell. */
int bench_work_read(session *s, bench_work *out, char *why, size_t why_size);

/* Add what was done between two looks. */
void bench_work_add(bench_work *sum, const bench_work *from,
                    const bench_work *to);

/* Of one step; 0 without any. */
double bench_step_bytes(const bench_work *w);
double bench_step_experts(const bench_work *w);
/* Of one stage, or all of them; 0 without tokens. */
double bench_ms_per_token(const bench_work *w, uint64_t ns);
uint64_t bench_work_ns(const bench_work *w);

#endif
