/* conductor_stranded.h - a coordinator that the nodes go on without; part of
 * conductor.c's object.  Loop thread only.
 *
 * Nodes wait a while for a coordinator to take up a newer placement, then they
 * refuse what it asks for.  One that cannot reach etcd stays in that state
 * while the rack goes on: what it has begun would wait for its deadline.
 * Somebody else wrote that placement, so there is another coordinator to turn
 * to. */
#ifndef COORDINATOR_CONDUCTOR_STRANDED_H
#define COORDINATOR_CONDUCTOR_STRANDED_H

#include "coordinator/conductor_internal.h"

/* Look from now on, every now and then.  c->stranded says how it is;
 * conductor_tell_refusal() is called when that changes, and on_stranded(). */
void conductor_stranded_begin(conductor *c);

#endif
