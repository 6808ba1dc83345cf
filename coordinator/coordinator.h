/* coordinator.h - the whole process: opens the parts in order, runs the loop,
 * closes them in reverse.  One per process; the caller's thread is the loop
 * thread. */
#ifndef COORDINATOR_COORDINATOR_H
#define COORDINATOR_COORDINATOR_H

#include <stddef.h>
#include "coordinator/config.h"

typedef struct coordinator coordinator;

/* Load the model and start serving; `why` names what failed. */
int coordinator_open(coordinator **out, const config *c, char *why,
                     size_t why_size);

/* Until SIGTERM or SIGINT, once requests are drained (or drain-timeout). */
int coordinator_run(coordinator *c);
void coordinator_close(coordinator *c); /* NULL and half-built are fine */

#endif
