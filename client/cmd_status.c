/* cmd_status.c - `roster status`: what a coordinator says of its rack. */
#include <stdio.h>
#include "client/cli.h"
#include "client/commands.h"
#include "client/rack_command.h"
#include "client/status_table.h"

#define NAME "roster status"

typedef struct {
    session_config session;
    bool raw, layers;
} status_config;

/* The coordinator's own text is what --json prints, not what we understand of
 * it. */
static int print(session *s, const status_config *c, char *why,
                 size_t why_size) {
    const char *json;
    int rc = roster_status(s->client, &json);
    if (rc < 0) {
        return session_explain(s, rc, roster_client_error(s->client), why,
                               why_size);
    }
    if (c->raw) {
        puts(json);
    } else {
        rc = status_table_print(stdout, json, c->layers, why, why_size);
    }
    return rc == 0 ? rack_flush(why, why_size) : rc;
}

static int show(const status_config *c, char *why, size_t why_size) {
    session s;
    int rc = session_open(&s, &c->session, why, why_size);
    if (rc == 0) rc = print(&s, c, why, why_size);
    session_close(&s);
    return rc;
}

int cmd_status(int argc, char **argv) {
    enum { OWN = 2 };
    status_config c = {.raw = false};
    session_config_init(&c.session);
    option table[OWN + RACK_OPTIONS] = {
        {"json", 0, OPTION_FLAG, &c.raw, NULL, "Print the state as JSON."},
        {"layers", 0, OPTION_FLAG, &c.layers, NULL,
         "Show the placement layer by layer, too: who holds which experts."},
    };
    size_t n = OWN + rack_options(&c.session, table + OWN);
    const option_set set = {
        .program = NAME,
        .usage = "[options]",
        .about = "Shows what a coordinator serves, what it is doing, and the "
                 "state of its rack: nodes, other coordinators, placement.",
        .table = table,
        .count = n,
    };
    options *o;
    const char *const *args;
    size_t n_args;
    char why[CLI_WHY] = "";

    int status = cli_parse(&o, &set, argc, argv, 0, 0, &args, &n_args);
    if (status != CLI_RUN) return status;
    if (session_check_endpoint(c.session.endpoint, why, sizeof(why)) < 0) {
        status = cli_usage(NAME, "%s", why);
    } else {
        int rc = show(&c, why, sizeof(why));
        status = rc < 0 ? cli_fail(NAME, "%s", why) : CLI_OK;
    }
    options_free(o);
    return status;
}
