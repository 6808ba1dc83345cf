/* zmq_watch.h - lets a libuv loop wait on a link.
 *
 * The watch borrows the link, which must stay open until zmq_watch_close() was
 * called.  Everything happens on the loop's thread. */
#ifndef PROTO_ZMQ_WATCH_H
#define PROTO_ZMQ_WATCH_H

#include <stdint.h>
#include <uv.h>
#include "proto/link.h"

#define ZMQ_WATCH_BATCH 32 /* messages handed over in one turn of the loop */

typedef struct zmq_watch zmq_watch;

/* A message came.  *f is the watch's and is released after the call, unless the
 * callback moved it away (frames_move()) or sent it.  The watch may be closed
 * here. */
typedef void (*zmq_watch_cb)(void *ctx, frames *f);

/* Start watching.  -ENOMEM, or libuv's -errno (a descriptor that is watched
 * already). */
int zmq_watch_open(zmq_watch **out, uv_loop_t *loop, struct link *l,
                   zmq_watch_cb on_message, void *ctx);

/* Also say when the link's connection broke (link_recv()): `on_broken` is
 * called with the ctx of the watch, which may be closed in there. */
typedef void (*zmq_watch_broken_cb)(void *ctx);
void zmq_watch_on_broken(zmq_watch *w, zmq_watch_broken_cb on_broken);

/* No callback runs after this.  The memory is freed by the loop, in the close
 * callbacks; the link may be closed at once.  NULL is fine. */
void zmq_watch_close(zmq_watch *w);

/* To be called after sends on the link that did not happen in on_message: a
 * send can use up the wake-up of a message that came meanwhile. */
void zmq_watch_kick(zmq_watch *w);

/* Messages that the link refused and dropped so far (too many parts, too large
 * an address). */
uint64_t zmq_watch_dropped(const zmq_watch *w);

#endif
