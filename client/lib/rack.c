/* rack.c - what is asked of a rack as a whole: its state, that a part of it be
 * emptied, and that it be balanced. */
#include "client/lib/client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"

static int out_of_turn(const char *asked, const message *m, char *why,
                       size_t why_size) {
    return err_why(why, why_size, ERR_MALFORMED,
                   "the coordinator answered a %s with %s", asked,
                   message_kind_name(m->kind));
}

/* ---- status ---- */

typedef struct {
    call call; /* first: a call is cast back */
    char *json;
} status_call;

static int on_status_message(call *c, const message *m, frames *f, char *why,
                             size_t why_size) {
    status_call *s = (status_call *)c;
    (void)f;

    if (m->kind != MESSAGE_STATUS)
        return out_of_turn("status request", m, why, why_size);
    s->json = strndup(m->status.json.data, m->status.json.len);
    if (s->json == NULL) return err_why(why, why_size, -ENOMEM, "no memory");
    call_end(c, 0, NULL);
    return 0;
}

static const call_kind status_kind = {.on_message = on_status_message};

int roster_status(roster_client *client, const char **json) {
    *json = NULL;
    int rc = client_ready(client, true);
    if (rc < 0) return rc;

    status_call s = {.json = NULL};
    message m;
    client_header(client, &m, MESSAGE_STATUS_REQUEST, 0);
    rc = call_start(&s.call, &status_kind, client, &m,
                    client->config.timeout_ms);
    if (rc == 0) rc = call_wait(&s.call);
    if (rc < 0) {
        free(s.json);
        return rc;
    }
    free(client->status);
    client->status = s.json;
    *json = s.json;
    return 0;
}

/* ---- draining ---- */

static int on_drain_message(call *c, const message *m, frames *f, char *why,
                            size_t why_size) {
    (void)f;
    if (m->kind != MESSAGE_DONE) return out_of_turn("drain", m, why, why_size);
    call_end(c, 0, NULL);
    return 0;
}

static const call_kind drain_kind = {.on_message = on_drain_message};

int roster_drain(roster_client *client, const char *name, int undo) {
    int rc = client_ready(client, true);
    if (rc < 0) return rc;
    if (name == NULL || !message_is_name(name)) {
        return client_fail(client, ERR_USAGE,
                           "a name has 1 to %d printable characters",
                           MESSAGE_NAME_MAX);
    }
    call c = {.id = 0};
    message m;
    client_header(client, &m, MESSAGE_DRAIN, 0);
    m.drain.name = name;
    m.drain.undo = undo != 0;
    rc = call_start(&c, &drain_kind, client, &m, client->config.timeout_ms);
    return rc < 0 ? rc : call_wait(&c);
}

/* ---- balancing ---- */

/* The leader may have to wait for nodes that load. */
#define REBALANCE_LEAST_MS 35000

static int on_rebalance_message(call *c, const message *m, frames *f, char *why,
                                size_t why_size) {
    status_call *s = (status_call *)c;
    (void)f;
    if (m->kind != MESSAGE_REPORT)
        return out_of_turn("rebalance", m, why, why_size);
    s->json = strndup(m->report.json.data, m->report.json.len);
    if (s->json == NULL) return err_why(why, why_size, -ENOMEM, "no memory");
    call_end(c, 0, NULL);
    return 0;
}

static const call_kind rebalance_kind = {.on_message = on_rebalance_message};

int roster_rebalance(roster_client *client, int dry_run, const char **json) {
    *json = NULL;
    int rc = client_ready(client, true);
    if (rc < 0) return rc;

    status_call s = {.json = NULL};
    message m;
    client_header(client, &m, MESSAGE_REBALANCE, 0);
    m.rebalance.dry_run = dry_run != 0;
    uint32_t timeout_ms = client->config.timeout_ms;
    if (timeout_ms < REBALANCE_LEAST_MS) timeout_ms = REBALANCE_LEAST_MS;
    rc = call_start(&s.call, &rebalance_kind, client, &m, timeout_ms);
    if (rc == 0) rc = call_wait(&s.call);
    if (rc < 0) {
        free(s.json);
        return rc;
    }
    free(client->status);
    client->status = s.json;
    *json = s.json;
    return 0;
}
