/* link_shared.h - links between processes of one machine: messages in shared
 * memory, wake-ups over a unix socket.
 *
 * An end that binds tcp://HOST:PORT on loopback listens beside it under a name
 * made of the port; one that connects there tries that name first.  Nothing
 * listens (another machine, another user, a tunnel, an older version): the link
 * is one over TCP.  Included by link.c and tests alone. */
#ifndef PROTO_LINK_SHARED_H
#define PROTO_LINK_SHARED_H

#include "proto/link.h"

/* A connecting end for the endpoint, as link_connect() has it; a negative code
 * if nobody listens for such. */
int link_shared_connect(struct link **out, const link_config *c,
                        const char *endpoint);

/* Listen beside the bound link `over`, whose peers go on being served: on
 * success *out takes ownership of it.  A negative code if that is of no use or
 * not possible; then `over` is as it was. */
int link_shared_bind(struct link **out, struct link *over);

#endif
