/* server_members.h - which coordinators serve this rack, as clients are told:
 * where a client goes on when one of them dies. */
#ifndef COORDINATOR_SERVER_MEMBERS_H
#define COORDINATOR_SERVER_MEMBERS_H

#include "coordinator/server.h"
#include "proto/message.h"

struct client;

/* Answer a MembersRequest: this coordinator, those that etcd lists and those
 * named by --peer. */
void server_on_members(server *s, struct client *from, const message *asked);

#endif
