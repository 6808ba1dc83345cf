/* answers.h - the step thread's events as messages to clients. */
#ifndef COORDINATOR_ANSWERS_H
#define COORDINATOR_ANSWERS_H

#include "coordinator/clients.h"
#include "coordinator/server.h"

/* Set up a new request: counters, and, for a resume, the text stream as it
 * stood when the earlier stream ended. */
int answers_begin(server *s, request *r, const message *asked);

/* End a resume that has all of its tokens already: only the word that it is
 * finished was lost.  Forgets the request. */
void answers_end(server *s, request *r, uint32_t n_tokens);

#endif
