/* server_rack.c - see server_rack.h.
 *
 * The leader machine answers when its thought is done. */
#include "coordinator/server_rack.h"

#include "coordinator/conductor_balance.h"
#include "coordinator/server_wish.h"
#include "engine/err.h"
#include "engine/log.h"

static void on_reported(void *ctx, int code, const char *text) {
    if (code < 0) {
        server_wish_refuse(ctx, code, text);
    } else {
        server_wish_report(ctx, text);
    }
}

void server_on_rebalance(server *s, client *from, const frames *f,
                         const message *asked) {
    if (s->conductor == NULL) {
        server_send_error(s, from, asked, ERR_NOT_LEADER,
                          "no etcd is configured: nodes of a fixed list hold "
                          "what they were told to");
        return;
    }
    server_wish *w = server_wish_new(s, from, f, asked);
    if (w == NULL) return;
    log_info("a rebalance is asked for%s",
             asked->rebalance.dry_run ? ", as a dry run" : "");
    char why[300] = "";
    int rc = conductor_rebalance(s->conductor, asked->rebalance.dry_run,
                                 on_reported, w, why, sizeof(why));
    if (rc < 0) server_wish_refuse(w, rc, why);
}
