/* nodes_quarantine.h - nodes that are not relied on where others can be: they
 * keep crashing, or their bits are not those of others.  Loop thread only; the
 * machine behind it is membership.h's, the comparison cross_check.h's. */
#ifndef COORDINATOR_NODES_QUARANTINE_H
#define COORDINATOR_NODES_QUARANTINE_H

#include "coordinator/nodes_internal.h"

/* What the step thread found out by comparing answers: log it, keep it for
 * status, condemn who is wrong. */
void nodes_take_verdicts(nodes *n);

/* The machine says that a node is trusted in another way now. */
void nodes_trust_changed(nodes *n, const node *p, const char *reason);

/* Into a node's status object: "quarantine" (NULL, or {"reason", "left_s"}, the
 * latter -1 until it is restarted), and "slow_s" (0: it is not).  -ENOMEM. */
int nodes_add_trust(const nodes *n, const node *p, json_t *into);

/* The member "cross_check" of the status object.  -ENOMEM. */
int nodes_add_checks(const nodes *n, json_t *into);

#endif
