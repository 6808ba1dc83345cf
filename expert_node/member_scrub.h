/* member_scrub.h - a unit whose weights in memory have changed is withdrawn and
 * loaded again; a part of member.c.  Loop thread only. */
#ifndef EXPERT_NODE_MEMBER_SCRUB_H
#define EXPERT_NODE_MEMBER_SCRUB_H

#include "expert_node/member_internal.h"

/* Take up what the worker found and dropped.  Before what it says of loads and
 * other drops: those came later. */
void member_take_damaged(member *m, uint64_t now_ms);

/* A new object: {"damaged", "units", "bytes", "passes"} of the re-reading. */
json_t *member_scrub_json(const member *m);

#endif
