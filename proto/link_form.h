/* link_form.h - what a form of link (ZeroMQ, shared memory, memory) provides to
 * link.c. Nobody else includes it. */
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

/* The ends over ZeroMQ, as link_connect() and link_bind() have them. */
int link_zmq_connect(struct link **out, const link_config *c,
                     const char *endpoint, char *why, size_t why_size);
int link_zmq_bind(struct link **out, const link_config *c, const char *endpoint,
                  char *why, size_t why_size);

/* What the failpoint link.send.half leaves of a message: its header and one
 * empty payload. */
void link_cut_payloads(frames *f);

#endif
