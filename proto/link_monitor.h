/* link_monitor.h - notices that the connection below a ZeroMQ socket broke.
 *
 * A killed peer's system closes its connections, and ZeroMQ knows it within
 * milliseconds, but tells only who monitors the socket.  The monitor belongs to
 * the link's thread, and adds no other: ZeroMQ's I/O thread writes an event,
 * and the monitor's descriptor becomes readable. */
#ifndef PROTO_LINK_MONITOR_H
#define PROTO_LINK_MONITOR_H

#include <stdbool.h>
#include <stdint.h>

typedef struct link_monitor link_monitor;

/* To be made before `sock` connects, and closed before it is closed. -errno:
 * the socket works without one. */
int link_monitor_open(link_monitor **out, void *zmq, void *sock);
void link_monitor_close(link_monitor *m); /* NULL is fine */

/* Readable when something happened.  ZeroMQ closes it when it likes, after
 * link_monitor_close(). */
int link_monitor_fd(const link_monitor *m);

/* Take in what happened; not more often than every moment, or, with `now`, in
 * any case.  It uses up the descriptor's readability, so whoever looked has to
 * ask link_monitor_broken() before it waits. */
void link_monitor_look(link_monitor *m, bool now);

/* Did a connection that had been made break, since link_monitor_told()? */
bool link_monitor_broken(const link_monitor *m);
void link_monitor_told(link_monitor *m);

/* Is there a connection, as far as was looked? */
bool link_monitor_connected(const link_monitor *m);

/* For how long there has been none: since the break was seen, or since
 * link_monitor_open().  0: there is one. */
uint64_t link_monitor_down_ms(const link_monitor *m);

#endif
