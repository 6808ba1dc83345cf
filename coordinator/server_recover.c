/* server_recover.c - see server_recover.h. */
#include "coordinator/server_recover.h"

#include <errno.h>
#include <stdlib.h>
#include "coordinator/conductor_recover.h"
#include "coordinator/server_wish.h"
#include "engine/err.h"

static void on_reported(void *ctx, int code, const char *why,
                        const json_t *report) {
    char *text = code == 0 ? json_dumps(report, JSON_COMPACT) : NULL;
    if (code == 0 && text == NULL) code = -ENOMEM;
    if (code < 0) {
        server_wish_refuse(ctx, code, why);
    } else {
        server_wish_report(ctx, text);
    }
    free(text);
}

void server_on_recover(server *s, client *from, const frames *f,
                       const message *asked) {
    if (s->conductor == NULL) {
        server_send_error(s, from, asked, ERR_UNSUPPORTED,
                          "no etcd is configured: there is nothing to recover");
        return;
    }
    server_wish *w = server_wish_new(s, from, f, asked);
    if (w == NULL) return;
    char why[400] = "";
    int rc =
        conductor_recover(s->conductor, asked->recover.dry_run,
                          asked->recover.by, on_reported, w, why, sizeof(why));
    if (rc < 0) server_wish_refuse(w, rc, why);
}
