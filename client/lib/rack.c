/* rack.c - what is asked of a rack as a whole: its state, that a part of it be
 * emptied, that it be balanced, that its etcd be put right. */
#include "client/lib/client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"

/* The leader may have to wait for nodes that load. */
#define REBALANCE_LEAST_MS 35000
/* etcd rewrites its files for it: that takes seconds for each member. */
#define RECOVER_LEAST_MS 120000

static int out_of_turn(const char *asked, const message *m, char *why,
                       size_t why_size) {
    return err_why(why, why_size, ERR_MALFORMED,
                   "the coordinator answered a %s with %s", asked,
                   message_kind_name(m->kind));
}

static int check_name(roster_client *client, const char *name) {
    if (name != NULL && message_is_name(name)) return 0;
    return client_fail(client, ERR_USAGE,
                       "a name has 1 to %d printable characters",
                       MESSAGE_NAME_MAX);
}

/* ---- questions that are answered with JSON ---- */

typedef struct {
    call call; /* first: a call is cast back */
    const char *asked;
    message_kind answer; /* STATUS or REPORT */
    char *json;
} json_call;

static int on_json(call *c, const message *m, frames *f, char *why,
                   size_t why_size) {
    json_call *j = (json_call *)c;
    (void)f;

    if (m->kind != j->answer) return out_of_turn(j->asked, m, why, why_size);
    const message_text *text =
        m->kind == MESSAGE_STATUS ? &m->status.json : &m->report.json;
    j->json = strndup(text->data, text->len);
    if (j->json == NULL) return err_why(why, why_size, -ENOMEM, "no memory");
    call_end(c, 0, NULL);
    return 0;
}

static const call_kind json_kind = {.on_message = on_json};

/* Ask with *m and wait for the answer, for `least_ms` at least. */
static int ask_json(roster_client *client, message *m, const char *asked,
                    message_kind answer, uint32_t least_ms, const char **json) {
    json_call j = {.asked = asked, .answer = answer};
    uint32_t timeout_ms = client->config.timeout_ms;

    if (timeout_ms < least_ms) timeout_ms = least_ms;
    int rc = call_start(&j.call, &json_kind, client, m, timeout_ms);
    if (rc == 0) rc = call_wait(&j.call);
    if (rc < 0) {
        free(j.json);
        return rc;
    }
    free(client->status);
    client->status = j.json;
    *json = j.json;
    return 0;
}

int roster_status(roster_client *client, const char **json) {
    *json = NULL;
    int rc = client_ready(client, true);
    if (rc < 0) return rc;

    message m;
    client_header(client, &m, MESSAGE_STATUS_REQUEST, 0);
    return ask_json(client, &m, "status request", MESSAGE_STATUS, 0, json);
}

int roster_rebalance(roster_client *client, int dry_run, const char **json) {
    *json = NULL;
    int rc = client_ready(client, true);
    if (rc < 0) return rc;

    message m;
    client_header(client, &m, MESSAGE_REBALANCE, 0);
    m.rebalance.dry_run = dry_run != 0;
    return ask_json(client, &m, "rebalance", MESSAGE_REPORT, REBALANCE_LEAST_MS,
                    json);
}

int roster_recover(roster_client *client, int dry_run, const char *by,
                   const char **json) {
    *json = NULL;
    int rc = client_ready(client, true);
    if (rc == 0) rc = check_name(client, by);
    if (rc < 0) return rc;

    message m;
    client_header(client, &m, MESSAGE_RECOVER, 0);
    m.recover.dry_run = dry_run != 0;
    m.recover.by = by;
    return ask_json(client, &m, "recovery", MESSAGE_REPORT, RECOVER_LEAST_MS,
                    json);
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
    if (rc == 0) rc = check_name(client, name);
    if (rc < 0) return rc;

    call c = {.id = 0};
    message m;
    client_header(client, &m, MESSAGE_DRAIN, 0);
    m.drain.name = name;
    m.drain.undo = undo != 0;
    rc = call_start(&c, &drain_kind, client, &m, client->config.timeout_ms);
    return rc < 0 ? rc : call_wait(&c);
}
