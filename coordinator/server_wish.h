/* server_wish.h - what an operator asked for and is not done at once.
 *
 * It takes from milliseconds to seconds; the client may be gone by then, so its
 * address is kept instead of itself.  Loop thread only. */
#ifndef COORDINATOR_SERVER_WISH_H
#define COORDINATOR_SERVER_WISH_H

#include "coordinator/server_internal.h"

typedef struct server_wish server_wish;

/* NULL without memory, which the client has been told. */
server_wish *server_wish_new(server *s, client *from, const frames *f,
                             const message *asked);

/* Answered, and freed; nothing is sent to a client that is gone.  `why` may be
 * "". */
void server_wish_refuse(server_wish *w, int code, const char *why);
void server_wish_done(server_wish *w);
void server_wish_report(server_wish *w, const char *json);

#endif
