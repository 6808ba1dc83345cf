/* shared_ring.h - one direction of a channel in memory that two processes
 * share: whole messages, in order, without a lock.
 *
 * The writer copies a message's parts into a record; the reader gets parts that
 * point into it (its own copies, if it holds half of the ring already), and the
 * record's room is free again when the last of them is closed, in whatever
 * order that happens.  Each end keeps its own place in
 * memory of its own and believes the other end's only after checking, so a peer
 * that writes nonsense ends the channel and nothing else.
 *
 * Each end belongs to one thread; parts may be closed by any. */
#ifndef PROTO_SHARED_RING_H
#define PROTO_SHARED_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include "proto/frames.h"

/* What a ring takes in shared memory, and how many records may be in it. */
#define SHARED_RING_BYTES ((size_t)64 << 20)
#define SHARED_RING_SLOTS 1024

/* The memory that both rings of a channel are in, mapped here: it stays until
 * its owner and every part that points into it have let go.  It has one writer
 * and one reader. */
typedef struct shared_map shared_map;
/* `memory` is what mmap() gave; on failure it is still the caller's. */
shared_map *shared_map_new(void *memory, size_t bytes);
void shared_map_release(shared_map *m); /* NULL is fine */

typedef struct shared_writer shared_writer;
typedef struct shared_reader shared_reader;

/* The ends of the ring at `at` in the map, SHARED_RING_BYTES long; its memory
 * is all zero when the first of them is made.  NULL: no memory.  They borrow
 * the map. */
shared_writer *shared_writer_new(shared_map *m, size_t at);
void shared_writer_free(shared_writer *w);
shared_reader *shared_reader_new(shared_map *m, size_t at);
void shared_reader_free(shared_reader *r);

/* Copy a message's parts.  -EAGAIN: there is no room now; ERR_TOO_LARGE: there
 * never will be.  *wake: the reader sleeps, or is about to. */
int shared_put(shared_writer *w, frames *f, bool *wake);

/* The next message into *f, which is empty.  -EAGAIN: none.  -ENOMEM: one was
 * dropped.  ERR_MALFORMED: the peer breaks the rules; nothing more can be
 * read. */
int shared_take(shared_reader *r, frames *f);

/* Ask to be woken by the next message.  Look again afterwards: one may have
 * come in between. */
void shared_wait(shared_reader *r);

#endif
