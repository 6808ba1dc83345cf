/* server_drain.c - an operator's wish that a node or a coordinator be emptied,
 * answered when it is recorded in etcd. */
#include "coordinator/server_wish.h"
#include "engine/err.h"
#include "engine/log.h"

static void on_recorded(void *ctx, int code, const char *why) {
    if (code < 0) {
        server_wish_refuse(ctx, code, why);
    } else {
        server_wish_done(ctx);
    }
}

void server_on_drain(server *s, client *from, const frames *f,
                     const message *asked) {
    if (s->conductor == NULL) {
        server_send_error(s, from, asked, ERR_NOT_LEADER,
                          "no etcd is configured: nodes of a fixed list cannot "
                          "be drained");
        return;
    }
    server_wish *w = server_wish_new(s, from, f, asked);
    if (w == NULL) return;
    log_info("%s of '%s' is asked for",
             asked->drain.undo ? "the end of the drain" : "a drain",
             asked->drain.name);
    char why[200] = "";
    int rc = conductor_drain(s->conductor, asked->drain.name, asked->drain.undo,
                             on_recorded, w, why, sizeof(why));
    if (rc < 0) server_wish_refuse(w, rc, why);
}
