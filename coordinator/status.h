/* status.h - what `roster status` shows, as JSON (docs/protocol.md). */
#ifndef COORDINATOR_STATUS_H
#define COORDINATOR_STATUS_H

#include "coordinator/server.h"

/* malloc'ed text; NULL without memory. */
char *status_text(const server *s);

#endif
