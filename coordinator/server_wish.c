/* server_wish.c - see server_wish.h. */
#include "coordinator/server_wish.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"

struct server_wish {
    server *owner;
    frames from; /* for its address alone */
    uint64_t request_id, boot_id;
};

server_wish *server_wish_new(server *s, client *from, const frames *f,
                             const message *asked) {
    server_wish *w = calloc(1, sizeof(*w));
    if (w == NULL) {
        server_send_error(s, from, asked, -ENOMEM, err_text(-ENOMEM));
        return NULL;
    }
    w->owner = s;
    w->request_id = asked->request_id;
    w->boot_id = asked->boot_id;
    frames_init(&w->from);
    frames_copy_address(&w->from, f);
    return w;
}

static void end(server_wish *w) {
    frames_fini(&w->from);
    free(w);
}

/* What the answer refers to. */
static message asked_by(const server_wish *w) {
    return (message){.request_id = w->request_id, .boot_id = w->boot_id};
}

/* NULL: nobody waits for an answer any more. */
static client *find_client(const server_wish *w) {
    const server *s = w->owner;
    return s->closing ? NULL : clients_of(s->clients, &w->from);
}

void server_wish_refuse(server_wish *w, int code, const char *why) {
    const message asked = asked_by(w);
    client *to = find_client(w);
    if (to != NULL) {
        server_send_error(w->owner, to, &asked, code,
                          why[0] != '\0' ? why : err_text(code));
    }
    end(w);
}

void server_wish_done(server_wish *w) {
    const message asked = asked_by(w);
    client *to = find_client(w);
    if (to != NULL) {
        message m = server_reply(w->owner, &asked, MESSAGE_DONE);
        server_send_message(w->owner, to, &m);
    }
    end(w);
}

void server_wish_report(server_wish *w, const char *json) {
    const message asked = asked_by(w);
    client *to = find_client(w);
    if (to != NULL) {
        message m = server_reply(w->owner, &asked, MESSAGE_REPORT);
        m.report.json = (message_text){json, strlen(json)};
        server_send_message(w->owner, to, &m);
    }
    end(w);
}
