/* outbox.h - replies whose coordinator does not take them just now.
 *
 * Sending never waits: what the link does not take stays here and is tried
 * again.  Bounded: when it is full the oldest reply is dropped, since its
 * coordinator has long asked elsewhere; so is a reply whose deadline has passed
 * or whose peer has gone. */
#ifndef EXPERT_NODE_OUTBOX_H
#define EXPERT_NODE_OUTBOX_H

#include <stddef.h>
#include <stdint.h>
#include "proto/link.h"

#define OUTBOX_MAX 512

typedef struct outbox outbox;

int outbox_new(outbox **out); /* -ENOMEM */
void outbox_free(outbox *o);

/* Send a sealed message, or keep it for later.  *f is empty afterwards.
 * `expires_us` 0: never. */
void outbox_send(outbox *o, struct link *l, frames *f, uint64_t expires_us);

/* Try what waits once more. */
void outbox_flush(outbox *o, struct link *l, uint64_t now_us);

/* Drop what waits for a peer whose process was replaced. */
void outbox_forget(outbox *o, const frames *address);

size_t outbox_waiting(const outbox *o);
uint64_t outbox_dropped(const outbox *o); /* since it was made */

#endif
