/* refusals.h - counts refusals and logs them, but never in a flood.
 *
 * A peer can make a node refuse thousands of messages a second.  Every refusal
 * is counted and answered; of each code a few lines a period are logged, and
 * the next period says how many were left out.  Belongs to one thread; the
 * total may be read by any. */
#ifndef EXPERT_NODE_REFUSALS_H
#define EXPERT_NODE_REFUSALS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "proto/frames.h"

#define REFUSALS_CODES 32
#define REFUSALS_LINES 3 /* of one code in one period */
#define REFUSALS_PERIOD_US (10 * 1000000u)

typedef struct {
    struct {
        int code;
        uint64_t since_us;
        uint32_t in_period;
    } codes[REFUSALS_CODES];
    uint32_t n_codes;
    atomic_uint_fast64_t total;
} refusals;

void refusals_init(refusals *r);

/* Note one refusal; true if it may be logged.  *left_out is then the number of
 * its kind that were not, since the last line. */
bool refusals_note(refusals *r, uint64_t now_us, int code, uint32_t *left_out);

/* Note and log: "refused a batch of <address>: <why> (ERR_X)". */
void refusals_log(refusals *r, uint64_t now_us, const char *what,
                  const frames *from, int code, const char *why);

uint64_t refusals_total(const refusals *r);

#endif
