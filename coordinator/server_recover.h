/* server_recover.h - an operator's word that etcd is to be put right (Recover),
 * answered with a Report when that is done.  Loop thread only. */
#ifndef COORDINATOR_SERVER_RECOVER_H
#define COORDINATOR_SERVER_RECOVER_H

#include "coordinator/server_internal.h"

void server_on_recover(server *s, client *from, const frames *f,
                       const message *asked);

#endif
