/* nodes_held.h - what the live nodes hold: by their own word, for a recovery,
 * when no placement says it any more; which placement they know; and what of
 * what they hold can be asked for.  Loop thread only. */
#ifndef COORDINATOR_NODES_HELD_H
#define COORDINATOR_NODES_HELD_H

#include "coordinator/nodes.h"
#include "coordinator/recovery.h"

/* The nodes that are up and have said what they hold, if only that it is
 * nothing, ascending by name; malloc'ed, the holdings are borrowed until the
 * loop goes on.  Also such as etcd does not list: after a wipe they have yet to
 * register again, and serve all the while.  -ENOMEM. */
int nodes_held(const nodes *n, recovery_node **out, uint32_t *count);

/* The newest placement (packed) that one of the nodes that are up says it
 * knows; 0: none does.  Also such as etcd does not list: after a wipe they are
 * the ones who know which incarnation is over. */
uint64_t nodes_told_epoch(const nodes *n);

/* What can be asked for now: the newest that the step thread was told.  NULL
 * before that; borrowed until the loop goes on. */
const placement *nodes_where(const nodes *n);

#endif
