/* link.c - what all forms of link have in common.  The ZeroMQ form is in
 * link_zmq.c, the memory form in link_memory.c. */
#include "proto/link.h"

#include <assert.h>
#include "engine/failpoint.h"
#include "proto/link_form.h"

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
