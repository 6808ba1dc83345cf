/* server_rack.c - see server_rack.h.
 *
 * The leader machine answers when its thought is done; the client may be gone
 * by then, so its address is kept instead of itself. */
#include "coordinator/server_rack.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/conductor_balance.h"
#include "engine/err.h"
#include "engine/log.h"

typedef struct {
    server *owner;
    frames from; /* for its address alone */
    uint64_t request_id, boot_id;
} wish;

static void wish_free(wish *w) {
    frames_fini(&w->from);
    free(w);
}

static void on_reported(void *ctx, int code, const char *text) {
    wish *w = ctx;
    server *s = w->owner;
    message asked = {.request_id = w->request_id, .boot_id = w->boot_id};
    client *to = s->closing ? NULL : clients_of(s->clients, &w->from);
    if (to != NULL && code < 0) {
        server_send_error(s, to, &asked, code,
                          text[0] != '\0' ? text : err_text(code));
    } else if (to != NULL) {
        message m = server_reply(s, &asked, MESSAGE_REPORT);
        m.report.json = (message_text){text, strlen(text)};
        server_send_message(s, to, &m);
    }
    wish_free(w);
}

void server_on_rebalance(server *s, client *from, const frames *f,
                         const message *asked) {
    char why[300] = "";
    if (s->conductor == NULL) {
        server_send_error(s, from, asked, ERR_NOT_LEADER,
                          "no etcd is configured: nodes of a fixed list hold "
                          "what they were told to");
        return;
    }
    wish *w = calloc(1, sizeof(*w));
    if (w == NULL) {
        server_send_error(s, from, asked, -ENOMEM, err_text(-ENOMEM));
        return;
    }
    w->owner = s;
    w->request_id = asked->request_id;
    w->boot_id = asked->boot_id;
    frames_init(&w->from);
    frames_copy_address(&w->from, f);
    log_info("a rebalance is asked for%s",
             asked->rebalance.dry_run ? ", as a dry run" : "");
    int rc = conductor_rebalance(s->conductor, asked->rebalance.dry_run,
                                 on_reported, w, why, sizeof(why));
    if (rc == 0) return;
    wish_free(w);
    server_send_error(s, from, asked, rc, why[0] != '\0' ? why : err_text(rc));
}
