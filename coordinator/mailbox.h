/* mailbox.h - what the loop and the step thread leave for each other: wishes of
 * requests one way, events the other.
 *
 * A wish is not a message in a queue but a change of its request's ticket: to
 * be taken, held, let go on, cancelled.  There are as many tickets as requests
 * may be alive, so a wish is never refused, and cannot be lost.  Events are
 * counted until the loop has done with them. */
#ifndef COORDINATOR_MAILBOX_H
#define COORDINATOR_MAILBOX_H

#include "coordinator/sequence.h"

/* From its submit until the step thread drops the request. */
typedef struct {
    uint64_t id;
    sequence *seq; /* until the step thread has taken it */
    bool held, cancelled;
    bool news; /* the step thread has not seen it like this */
} ticket;

typedef struct mailbox mailbox;
int mailbox_new(mailbox **out, uint32_t capacity, kv_cache *kv);
void mailbox_free(mailbox *m); /* NULL is fine */

/* ---- any thread; see step.h ---- */
int mailbox_submit(mailbox *m, const step_request *r);
int mailbox_cancel(mailbox *m, uint64_t id);
int mailbox_hold(mailbox *m, uint64_t id, bool held);
void mailbox_nodes_changed(mailbox *m);
void mailbox_wake(mailbox *m);
step_event *mailbox_events(mailbox *m);
void mailbox_events_done(mailbox *m);

/* ---- the step thread ---- */

/* Readable when there may be something to take, or room again for events. */
int mailbox_fd(const mailbox *m);

/* Copies of the tickets with news, in order of arrival, into `out`, which has
 * room for `capacity`; a ticket's sequence passes to the caller. *nodes_changed
 * says whether mailbox_nodes_changed() was called. */
uint32_t mailbox_take(mailbox *m, ticket *out, bool *nodes_changed);

/* The request has ended: nobody can wish anything of it any more. */
void mailbox_drop(mailbox *m, uint64_t id);

void mailbox_tell(mailbox *m, step_event *e); /* takes it */
bool mailbox_full(mailbox *m);                /* no room for events */
bool mailbox_has_events(mailbox *m);          /* the loop should look */

#endif
