/* outbox.c - see outbox.h. */
#include "expert_node/outbox.h"

#include <errno.h>
#include <stdlib.h>

typedef struct {
    frames message;
    uint64_t expires_us;
} letter;

/* Letters stand in the order in which they came. */
struct outbox {
    letter letters[OUTBOX_MAX];
    size_t count;
    uint64_t dropped;
};

int outbox_new(outbox **out) {
    *out = calloc(1, sizeof(**out));
    return *out == NULL ? -ENOMEM : 0;
}

void outbox_free(outbox *o) {
    if (o == NULL) return;
    for (size_t i = 0; i < o->count; i++)
        frames_fini(&o->letters[i].message);
    free(o);
}

static void drop(outbox *o, frames *f) {
    frames_fini(f);
    o->dropped++;
}

/* Close the gaps left by letters that are empty now. */
static void sweep(outbox *o) {
    size_t kept = 0;
    for (size_t i = 0; i < o->count; i++) {
        letter *from = &o->letters[i], *to = &o->letters[kept];
        if (from->message.count == 0) continue;
        if (from != to) {
            frames_init(&to->message);
            frames_move(&to->message, &from->message);
            to->expires_us = from->expires_us;
        }
        kept++;
    }
    o->count = kept;
}

void outbox_send(outbox *o, struct link *l, frames *f, uint64_t expires_us) {
    int rc = link_send(l, f);
    if (rc == 0) return;
    if (rc != -EAGAIN) {
        drop(o, f); /* the peer has gone */
        return;
    }
    if (o->count == OUTBOX_MAX) {
        drop(o, &o->letters[0].message);
        sweep(o);
    }
    letter *last = &o->letters[o->count++];
    frames_init(&last->message);
    frames_move(&last->message, f);
    last->expires_us = expires_us;
}

void outbox_flush(outbox *o, struct link *l, uint64_t now_us) {
    if (o->count == 0) return;

    for (size_t i = 0; i < o->count; i++) {
        letter *waiting = &o->letters[i];
        if (waiting->expires_us != 0 && now_us >= waiting->expires_us) {
            drop(o, &waiting->message);
            continue;
        }
        int rc = link_send(l, &waiting->message);
        if (rc < 0 && rc != -EAGAIN) drop(o, &waiting->message);
    }
    sweep(o);
}

void outbox_forget(outbox *o, const frames *address) {
    for (size_t i = 0; i < o->count; i++) {
        frames *message = &o->letters[i].message;
        if (frames_has_address(message, address->address,
                               address->address_bytes)) {
            drop(o, message);
        }
    }
    sweep(o);
}

size_t outbox_waiting(const outbox *o) {
    return o->count;
}

uint64_t outbox_dropped(const outbox *o) {
    return o->dropped;
}
