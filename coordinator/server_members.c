/* server_members.c - see server_members.h.
 *
 * Everybody who might take over is listed, also who serves another model or
 * profile: a client compares these itself when it greets, and its user is told
 * then why somebody was of no use. */
#include "coordinator/server_members.h"

#include <string.h>
#include "coordinator/server_internal.h"
#include "engine/err.h"

typedef struct {
    message_member items[MESSAGE_MEMBERS_MAX];
    size_t count;
} listing;

/* Endpoints travel as names do; a longer one cannot be told. */
static void add(listing *l, const message_member *m) {
    if (m->endpoint[0] == '\0' || strlen(m->endpoint) > MESSAGE_NAME_MAX)
        return;
    for (size_t i = 0; i < l->count; i++) {
        if (strcmp(l->items[i].endpoint, m->endpoint) == 0) return;
    }
    if (l->count < MESSAGE_MEMBERS_MAX) l->items[l->count++] = *m;
}

static void add_registered(const server *s, listing *l) {
    const rack_view *view =
        s->conductor != NULL ? conductor_view(s->conductor) : NULL;
    if (view == NULL) return;

    size_t n;
    const coordinator_record *r = rack_view_coordinators(view, &n);
    for (size_t i = 0; i < n; i++) {
        /* A web address that is too long is left out, not its coordinator. */
        bool http = strlen(r[i].http) <= MESSAGE_NAME_MAX;
        const message_member m = {
            .name = r[i].name,
            .endpoint = r[i].client,
            .http = http ? r[i].http : "",
            .leaving =
                r[i].drained != 0 || rack_view_drain(view, r[i].name) != NULL,
        };
        add(l, &m);
    }
}

void server_on_members(server *s, struct client *from, const message *asked) {
    listing l = {.count = 0};
    /* Ourselves first: what we know of that is newer than etcd's word. */
    const message_member us = {
        .name = s->config.self->name,
        .endpoint = s->reached_at,
        .http = "",
        .leaving = s->refusing || s->declined != 0,
    };
    add(&l, &us);
    add_registered(s, &l);
    for (size_t i = 0; i < s->n_peers; i++) {
        const message_member peer = {
            .name = "", .endpoint = s->peers[i], .http = ""};
        add(&l, &peer);
    }
    message m = server_reply(s, asked, MESSAGE_MEMBERS);
    m.members.items = l.items;
    m.members.count = l.count;
    server_send_message(s, from, &m);
}
