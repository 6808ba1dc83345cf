/* etcd_watch.h - what closing an etcd does to its watches.  Within libetcd
 * only; watching itself is in etcd.h. */
#ifndef DISCOVERY_LIBETCD_ETCD_WATCH_H
#define DISCOVERY_LIBETCD_ETCD_WATCH_H

#include "discovery/libetcd/etcd.h"

/* No callback of a watch comes any more. */
void etcd_watch_silence(etcd *e);
/* Those that nobody closed are closed. */
void etcd_watch_end_all(etcd *e);

#endif
