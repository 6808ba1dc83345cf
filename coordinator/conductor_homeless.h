/* conductor_homeless.h - the conductor's look at units that nobody can be asked
 * for; part of conductor.c's object.  Loop thread only. */
#ifndef COORDINATOR_CONDUCTOR_HOMELESS_H
#define COORDINATOR_CONDUCTOR_HOMELESS_H

#include "coordinator/conductor_internal.h"

/* Look from now on, every second; say in the log when there are some, and when
 * there are none any more.  -ENOMEM. */
int conductor_homeless_begin(conductor *c);

/* For the status object, as of now; null before etcd was listed. */
json_t *conductor_homeless_json(conductor *c);

#endif
