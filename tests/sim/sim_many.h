/* sim_many.h - many seeds, by as many processes as there are CPUs. */
#ifndef TESTS_SIM_SIM_MANY_H
#define TESTS_SIM_SIM_MANY_H

#include "tests/sim/sim_base.h"

#define SIM_FAILURES_KEPT 100

typedef struct {
    uint64_t runs, failures, worst_faults; /* the fewest of a run */
    uint64_t simulated_us;
    uint64_t count[SIM_COUNTS], faults[SIM_FAULT_KINDS_MAX];
    struct {
        uint64_t seed;
        char why[256];
    } failed[SIM_FAILURES_KEPT]; /* ascending */
} sim_many_result;

/* Seeds from .. to.  With `complaint`, only failures that complain of it count,
 * and the first one ends it.  -errno if no process can be made,
 * or one died. */
int sim_many(uint64_t from, uint64_t to, sim_plant plant, const char *complaint,
             sim_many_result *out);
void sim_many_print(const sim_many_result *r);

#endif
