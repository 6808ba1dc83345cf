/* answers.h - the step thread's events as messages to clients. */
#ifndef COORDINATOR_ANSWERS_H
#define COORDINATOR_ANSWERS_H

#include "coordinator/clients.h"
#include "coordinator/server.h"

/* Set up a new request: counters, and, for a resume, the text stream as it
 * stood when the earlier stream ended. */
int answers_begin(server *s, request *r, const message *asked);

#endif
