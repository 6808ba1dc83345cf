/* server_rack.h - an operator's wish that the rack be balanced now (Rebalance),
 * answered with a Report.  Loop thread only. */
#ifndef COORDINATOR_SERVER_RACK_H
#define COORDINATOR_SERVER_RACK_H

#include "coordinator/server_internal.h"

void server_on_rebalance(server *s, client *from, const frames *f,
                         const message *asked);

#endif
