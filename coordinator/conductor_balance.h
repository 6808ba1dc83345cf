/* conductor_balance.h - the conductor's part in keeping a rack even: measured
 * speeds into the leader machine, its long thoughts to another thread, an
 * operator's question to an answer, and what there is to report.
 *
 * Part of conductor.c's object.  Loop thread only. */
#ifndef COORDINATOR_CONDUCTOR_BALANCE_H
#define COORDINATOR_CONDUCTOR_BALANCE_H

#include "coordinator/conductor.h"
#include "coordinator/leader.h"

/* An answer that takes longer is not waited for. */
#define REBALANCE_WAIT_MS 30000

/* ---- conductor.h's users ---- */

/* Ask for a better placement now, or (dry_run) only what one would be.  A
 * negative code with a sentence: ERR_NOT_LEADER (which names who leads),
 * ERR_OVERLOADED while another one is being answered, -ENOMEM; then `done` is
 * not called.  Else it is, later, with a code and a sentence, or 0 and the
 * report as JSON, borrowed for the call. */
typedef void (*conductor_reported)(void *ctx, int code, const char *text);
int conductor_rebalance(conductor *c, bool dry_run, conductor_reported done,
                        void *ctx, char *why, size_t why_size);

/* ---- conductor.c ---- */

typedef struct {
    uint64_t fed_ms;           /* speeds were told the machine */
    leader_job *thought;       /* done, and not yet given back */
    uint64_t started, reached; /* targets that were logged */
    uint64_t moving_since_ms;  /* 0: nothing moves */
    /* An operator's question; NULL: there is none. */
    conductor_reported asked;
    void *asked_ctx;
    uint64_t asked_until_ms;
} conductor_balance;

/* Run a job of the machine's elsewhere; takes it.  The conductor is called when
 * it is done (conductor_think_again()). */
void conductor_think(conductor *c, leader_job *j);
/* After each look of the machine, before it is asked what to do: what it has
 * thought of, and how fast the nodes are. */
void conductor_balance_feed(conductor *c);
/* After that: log what was begun and reached, answer who asked. */
void conductor_balance_tell(conductor *c);
/* When whoever asked is to have an answer; UINT64_MAX: nobody waits. */
uint64_t conductor_balance_deadline(const conductor *c);
/* When the conductor closes: whoever asked gets no answer. */
void conductor_balance_end(conductor *c);
/* Members of "balance" in the status object, beside what the nodes say. */
int conductor_balance_status(conductor *c, json_t *into);

#endif
