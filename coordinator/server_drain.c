/* server_drain.c - an operator's wish that a node or a coordinator be emptied.
 *
 * It is recorded in etcd, which takes a while; the client may be gone by then,
 * so its address is kept instead of itself. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/server_internal.h"
#include "engine/err.h"
#include "engine/log.h"

typedef struct {
    server *owner;
    frames from; /* for its address alone */
    uint64_t request_id, boot_id;
} wish;

static void answer(server *s, client *to, const message *asked, int code,
                   const char *why) {
    if (code < 0) {
        server_send_error(s, to, asked, code,
                          why[0] != '\0' ? why : err_text(code));
        return;
    }
    message m = server_reply(s, asked, MESSAGE_DONE);
    server_send_message(s, to, &m);
}

static void on_recorded(void *ctx, int code, const char *why) {
    wish *w = ctx;
    server *s = w->owner;
    message asked = {.request_id = w->request_id, .boot_id = w->boot_id};
    client *to = s->closing ? NULL : clients_of(s->clients, &w->from);
    if (to != NULL) answer(s, to, &asked, code, why);
    free(w);
}

void server_on_drain(server *s, client *from, const frames *f,
                     const message *asked) {
    if (s->conductor == NULL) {
        answer(s, from, asked, ERR_NOT_LEADER,
               "no etcd is configured: nodes of a fixed list cannot be "
               "drained");
        return;
    }
    wish *w = calloc(1, sizeof(*w));
    if (w == NULL) {
        answer(s, from, asked, -ENOMEM, "");
        return;
    }
    w->owner = s;
    w->request_id = asked->request_id;
    w->boot_id = asked->boot_id;
    frames_init(&w->from);
    frames_copy_address(&w->from, f);
    log_info("%s of '%s' is asked for",
             asked->drain.undo ? "the end of the drain" : "a drain",
             asked->drain.name);
    char why[200] = "";
    int rc = conductor_drain(s->conductor, asked->drain.name, asked->drain.undo,
                             on_recorded, w, why, sizeof(why));
    if (rc == 0) return;
    free(w);
    answer(s, from, asked, rc, why);
}
