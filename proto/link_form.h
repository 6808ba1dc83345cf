/* link_form.h - what a form of link (ZeroMQ, memory) provides to link.c.
 * Nobody else includes it. */
#ifndef PROTO_LINK_FORM_H
#define PROTO_LINK_FORM_H

#include "proto/endpoint.h"
#include "proto/link.h"

typedef struct {
    int (*send)(struct link *l, frames *f); /* takes *f or leaves it alone */
    int (*recv)(struct link *l, frames *f); /* *f is empty, also on failure */
    void (*close)(struct link *l);          /* and free */
} link_form;

/* The beginning of every form's own struct. */
struct link {
    const link_form *form;
    int fd;
    char endpoint[ENDPOINT_MAX + 32];
};

/* What the failpoint link.send.half leaves of a message: its header and one
 * empty payload. */
void link_cut_payloads(frames *f);

#endif
