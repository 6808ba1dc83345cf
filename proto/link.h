/* link.h - a message channel: over ZeroMQ, between two processes of one machine
 * in memory that they share, or within one process's memory.
 *
 * A link belongs to one thread.  Nothing blocks: a full link says -EAGAIN.  The
 * memory form has the same behaviour (bounded, whole messages, wake-up by file
 * descriptor), so tests and sanitizers run the real code over it. */
#ifndef PROTO_LINK_H
#define PROTO_LINK_H

#include <stdbool.h>
#include "proto/frames.h"

/* No typedef: <unistd.h> declares a function of this name. */
struct link;

typedef struct {
    void *zmq;               /* context, borrowed */
    uint64_t max_part_bytes; /* ZMQ_MAXMSGSIZE; a larger part drops the peer */
    int queue_messages;      /* high-water mark, each direction */
    bool insecure;           /* may leave the loopback interface */
    bool tell_broken;        /* of a connecting end: see link_recv() */
    bool local;              /* share memory with peers on this machine */
} link_config;

/* A DEALER connected to `endpoint` (ZMQ_IMMEDIATE, heartbeats), or a
 * ROUTER bound to it (ZMQ_ROUTER_MANDATORY).  "inproc://NAME" is possible too.
 * With `tell_broken`, a connecting end tries until there is a connection,
 * whatever became of the last one, as long as its owner sends or receives.
 * With `local` at both ends, peers on one machine and of one user have shared
 * memory for their messages; nothing else differs.
 * ERR_USAGE with a sentence for an endpoint that cannot be read, or that is not
 * loopback without `insecure`; -errno, also with a sentence, for one that
 * cannot be bound. */
int link_connect(struct link **out, const link_config *c, const char *endpoint,
                 char *why, size_t why_size);
int link_bind(struct link **out, const link_config *c, const char *endpoint,
              char *why, size_t why_size);

/* Both ends of a memory channel, each holding up to `queue_messages` in each
 * direction.  The server end sees the client's messages with `address` set, and
 * several clients may share one server: pass the server in *server (NULL makes
 * one).  The ends may be used by different threads.  Clients that are still
 * there when the server is closed see a broken connection, and then a peer that
 * never answers. */
int link_memory(struct link **client, struct link **server, int queue_messages);

/* Send all parts or none.  0: *f was taken and is empty.  -EAGAIN: full, or the
 * peer is not connected; -EHOSTUNREACH: a ROUTER's peer has gone; *f is
 * unchanged in both cases.  ROUTER: f->address says to whom.  A message with
 * payloads passes two failpoints: link.send.half after its header (`fail` cuts
 * the payloads off) and link.send.sent after its last part. */
int link_send(struct link *l, frames *f);

/* The next whole message into *f (which is empty).  -EAGAIN: none now.
 * ERR_MALFORMED: a message with too many or no parts was read and dropped;
 * -ENOMEM: one was dropped for lack of memory.  -ECONNRESET, once: the
 * connection broke, and what had arrived before was read; a connecting end of
 * ZeroMQ says so if its config asked for it, and goes on trying to connect. *f
 * is empty on failure. */
int link_recv(struct link *l, frames *f);

/* For poll(): readable when link_recv() might have something, or a full link
 * has room again.  Edge-like, as ZMQ_FD is: receive until -EAGAIN, and again
 * after sends. */
int link_fd(const struct link *l);

/* Where it is bound, with the port that was chosen for `*`, or connected to:
 * borrowed.  "memory" for the memory form. */
const char *link_endpoint(const struct link *l);

void link_close(struct link *l); /* NULL is fine; queued messages are dropped */

#endif
