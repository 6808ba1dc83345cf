/* server_recover.c - see server_recover.h.
 *
 * It takes seconds; the client may be gone by then, so its address is kept
 * instead of itself. */
#include "coordinator/server_recover.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/conductor_recover.h"
#include "engine/err.h"

typedef struct {
    server *owner;
    frames from; /* for its address alone */
    uint64_t request_id, boot_id;
} wish;

static void send_report(server *s, client *to, const message *asked,
                        const json_t *report) {
    char *text = json_dumps(report, JSON_COMPACT);
    if (text == NULL) {
        server_send_error(s, to, asked, -ENOMEM, err_text(-ENOMEM));
        return;
    }
    message m = server_reply(s, asked, MESSAGE_REPORT);
    m.report.json = (message_text){text, strlen(text)};
    server_send_message(s, to, &m);
    free(text);
}

static void on_reported(void *ctx, int code, const char *why,
                        const json_t *report) {
    wish *w = ctx;
    server *s = w->owner;
    message asked = {.request_id = w->request_id, .boot_id = w->boot_id};
    client *to = s->closing ? NULL : clients_of(s->clients, &w->from);
    if (to != NULL && code < 0) {
        server_send_error(s, to, &asked, code, why);
    } else if (to != NULL) {
        send_report(s, to, &asked, report);
    }
    frames_fini(&w->from);
    free(w);
}

void server_on_recover(server *s, client *from, const frames *f,
                       const message *asked) {
    char why[400] = "";
    if (s->conductor == NULL) {
        server_send_error(s, from, asked, ERR_UNSUPPORTED,
                          "no etcd is configured: there is nothing to recover");
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
    int rc =
        conductor_recover(s->conductor, asked->recover.dry_run,
                          asked->recover.by, on_reported, w, why, sizeof(why));
    if (rc == 0) return;
    frames_fini(&w->from);
    free(w);
    server_send_error(s, from, asked, rc, why);
}
