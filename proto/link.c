/* link.c - what all forms of link have in common.  The ZeroMQ form is in
 * link_zmq.c, the one between processes of one machine in link_shared.c, the
 * one within a process in link_memory.c. */
#include "proto/link.h"

#include <assert.h>
#include "engine/failpoint.h"
#include "proto/link_form.h"
#include "proto/link_shared.h"

int link_connect(struct link **out, const link_config *c, const char *where,
                 char *why, size_t why_size) {
    if (c->local && link_shared_connect(out, c, where) == 0) return 0;
    return link_zmq_connect(out, c, where, why, why_size);
}

int link_bind(struct link **out, const link_config *c, const char *where,
              char *why, size_t why_size) {
    int rc = link_zmq_bind(out, c, where, why, why_size);
    /* Whoever cannot share memory with us has TCP. */
    if (rc == 0 && c->local) (void)link_shared_bind(out, *out);
    return rc;
}

int link_send(struct link *l, frames *f) {
    assert(f->count > 0);
    bool payloads = f->count > 1;

    int rc = l->form->send(l, f);
    if (rc < 0) return rc;

    frames_fini(f);
    if (payloads) failpoint("link.send.sent");
    return 0;
}

int link_recv(struct link *l, frames *f) {
    assert(f->count == 0);
    return l->form->recv(l, f);
}

int link_fd(const struct link *l) {
    return l->fd;
}

const char *link_endpoint(const struct link *l) {
    return l->endpoint;
}

void link_close(struct link *l) {
    if (l != NULL) l->form->close(l);
}

void link_cut_payloads(frames *f) {
    while (f->count > 1)
        zmq_msg_close(&f->part[--f->count]);
    frames_add(f, 0);
}
