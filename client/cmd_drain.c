/* cmd_drain.c - `roster drain`: empties a node or a coordinator. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "client/cli.h"
#include "client/commands.h"
#include "client/rack_command.h"

#define NAME "roster drain"

typedef struct {
    session_config session;
    const char *name;
    bool undo, wait;
    uint32_t wait_ms;
} drain_config;

/* ---- is it empty? ---- */

/* What is left to leave, in words; "" once it is empty. */
static void what_is_left(void *ctx, const json_t *status, char *out,
                         size_t size) {
    const char *name = ctx;
    const json_t *node = rack_find(status, "nodes", name);
    const json_t *other = rack_find(status, "coordinators", name);
    out[0] = '\0';

    if (node != NULL) {
        uint64_t held = rack_number(node, "held");
        uint64_t assigned = rack_number(node, "assigned");
        if (held + assigned == 0) return;
        snprintf(out, size,
                 "%s holds %" PRIu64 " units, %" PRIu64 " of them "
                 "still assigned to it",
                 name, held, assigned);
    } else if (other != NULL) {
        const char *state = rack_text(other, "state");
        if (strcmp(state, "drained") == 0) return;
        snprintf(out, size, "%s is %s", name, state);
    }
}

/* ---- the command ---- */

static int run(const drain_config *c, char *why, size_t why_size) {
    session s;
    int rc = session_open(&s, &c->session, why, why_size);
    if (rc == 0) {
        rc = roster_drain(s.client, c->name, c->undo);
        if (rc < 0) {
            session_explain(&s, rc, roster_client_error(s.client), why,
                            why_size);
        }
    }
    if (rc == 0 && c->wait) {
        rc = rack_wait_until_done(&s, c->wait_ms, "not empty", what_is_left,
                                  (void *)c->name, why, why_size);
    }
    session_close(&s);
    return rc;
}

int cmd_drain(int argc, char **argv) {
    enum { OWN = 3 };
    drain_config c = {.wait_ms = 600000};
    session_config_init(&c.session);
    option table[OWN + RACK_OPTIONS] = {
        {"undo", 0, OPTION_FLAG, &c.undo, NULL, "Use it again."},
        {"wait", 0, OPTION_FLAG, &c.wait, NULL,
         "Return when it is empty, not when that is asked for."},
        {"wait-timeout", 0, OPTION_MS, &c.wait_ms, "TIME",
         "How long --wait waits; then it is a failure."},
    };
    size_t n = OWN + rack_options(&c.session, table + OWN);
    const option_set set = {
        .program = NAME,
        .usage = "NAME [options]",
        .about =
            "Empties an expert node, so that it can be stopped: what it "
            "holds moves to other nodes first. Or a coordinator: it takes "
            "no new requests, ends those it has and leads no more. NAME is "
            "what `roster status` shows.",
        .table = table,
        .count = n,
    };
    options *o;
    const char *const *args;
    size_t n_args;
    char why[CLI_WHY] = "";

    int status = cli_parse(&o, &set, argc, argv, 1, 1, &args, &n_args);
    if (status != CLI_RUN) return status;
    c.name = args[0];
    if (session_check_endpoint(c.session.endpoint, why, sizeof(why)) < 0) {
        status = cli_usage(NAME, "%s", why);
    } else if (c.undo && c.wait) {
        status = cli_usage(NAME, "--undo and --wait exclude each other");
    } else {
        int rc = run(&c, why, sizeof(why));
        status = rc < 0 ? cli_fail(NAME, "%s", why) : CLI_OK;
    }
    options_free(o);
    return status;
}
