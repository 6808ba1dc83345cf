/* recover.c - asking that what is wrong with a rack's etcd be put right. */
#include "client/lib/client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"

/* etcd rewrites its files for it: that takes seconds for each member. */
#define LEAST_MS 120000

typedef struct {
    call call; /* first: a call is cast back */
    char *json;
} recover_call;

static int on_report(call *c, const message *m, frames *f, char *why,
                     size_t why_size) {
    recover_call *r = (recover_call *)c;
    (void)f;
    if (m->kind != MESSAGE_REPORT) {
        return err_why(why, why_size, ERR_MALFORMED,
                       "the coordinator answered a recovery with %s",
                       message_kind_name(m->kind));
    }
    r->json = strndup(m->report.json.data, m->report.json.len);
    if (r->json == NULL) return err_why(why, why_size, -ENOMEM, "no memory");
    call_end(c, 0, NULL);
    return 0;
}

static const call_kind recover_kind = {.on_message = on_report};

int roster_recover(roster_client *client, int dry_run, const char *by,
                   const char **json) {
    *json = NULL;
    int rc = client_ready(client, true);
    if (rc < 0) return rc;
    if (by == NULL || !message_is_name(by)) {
        return client_fail(client, ERR_USAGE,
                           "a name has 1 to %d printable characters",
                           MESSAGE_NAME_MAX);
    }
    recover_call r = {.json = NULL};
    message m;
    client_header(client, &m, MESSAGE_RECOVER, 0);
    m.recover.dry_run = dry_run != 0;
    m.recover.by = by;
    uint32_t timeout_ms = client->config.timeout_ms;
    if (timeout_ms < LEAST_MS) timeout_ms = LEAST_MS;
    rc = call_start(&r.call, &recover_kind, client, &m, timeout_ms);
    if (rc == 0) rc = call_wait(&r.call);
    if (rc < 0) {
        free(r.json);
        return rc;
    }
    free(client->status);
    client->status = r.json;
    *json = r.json;
    return 0;
}
