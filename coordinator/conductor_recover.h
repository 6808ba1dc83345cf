/* conductor_recover.h - `roster recover`: what is wrong with the rack's etcd is
 * put right, on an operator's word.
 *
 * An etcd out of space is compacted, defragmented and its alarm disarmed.  One
 * that was wiped, restored from an older snapshot or holds a placement that
 * cannot be used gets the placement that the rack works with, as the first
 * epoch of a new incarnation (recovery.h).  Only the leader writes, fenced as
 * all its writes are, and only while nothing can be written otherwise.  Loop
 * thread only. */
#ifndef COORDINATOR_CONDUCTOR_RECOVER_H
#define COORDINATOR_CONDUCTOR_RECOVER_H

#include <jansson.h>
#include "coordinator/conductor.h"

/* 0 and a report (borrowed), or a code and a sentence. */
typedef void (*conductor_recovered)(void *ctx, int code, const char *why,
                                    const json_t *report);

/* Begin; `done` comes later, once.  `by` is who asks, for the record (copied);
 * a dry run only reports.  ERR_NOT_LEADER while etcd is away, ERR_OVERLOADED if
 * one is under way, -ENOMEM: with a sentence, and `done` does not come. */
int conductor_recover(conductor *c, bool dry_run, const char *by,
                      conductor_recovered done, void *ctx, char *why,
                      size_t why_size);

/* The conductor closes: what is under way ends with ERR_CLOSED. */
void conductor_recover_end(conductor *c);

#endif
