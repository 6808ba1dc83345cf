/* cmd_status.c - `roster status`: what a coordinator says of its rack. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "client/cli.h"
#include "client/commands.h"
#include "client/session.h"
#include "client/status_table.h"
#include "engine/err.h"
#include "engine/util.h"

#define NAME "roster status"

static int print(const char *json, bool raw, char *why, size_t why_size) {
    int rc = 0;

    if (raw) {
        puts(json);
    } else {
        rc = status_table_print(stdout, json, why, why_size);
    }
    if (rc == 0 && (fflush(stdout) != 0 || ferror(stdout))) {
        rc = errno != 0 ? -errno : -EIO;
        err_why(why, why_size, rc, "cannot write to stdout: %s", err_text(rc));
    }
    return rc;
}

static int show(const session_config *c, bool raw, char *why, size_t why_size) {
    session s;
    const char *json;

    int rc = session_open(&s, c, why, why_size);
    if (rc == 0) {
        rc = roster_status(s.client, &json);
        if (rc < 0) {
            session_explain(&s, rc, roster_client_error(s.client), why,
                            why_size);
        } else {
            rc = print(json, raw, why, why_size);
        }
    }
    session_close(&s);
    return rc;
}

int cmd_status(int argc, char **argv) {
    bool raw = false;
    session_config c;
    session_config_init(&c);
    const option table[] = {
        {"endpoint", 0, OPTION_STRING, &c.endpoint, "tcp://HOST:PORT",
         "The coordinator to ask; without this, the environment's "
         "ROSTER_ENDPOINT."},
        {"json", 0, OPTION_FLAG, &raw, NULL, "Print the state as JSON."},
        {"cluster", 0, OPTION_STRING, &c.cluster, "NAME",
         "The cluster that the coordinator must belong to."},
        {"insecure", 0, OPTION_FLAG, &c.insecure, NULL,
         "Allow an endpoint beyond loopback; nothing is encrypted yet."},
        {"timeout", 0, OPTION_MS, &c.timeout_ms, "TIME",
         "Longest wait for the answer; 0: 10s."},
    };
    const option_set set = {
        .program = NAME,
        .usage = "[options]",
        .about = "Shows what a coordinator serves, what it is doing, and the "
                 "state of its expert nodes.",
        .table = table,
        .count = ARRAY_LEN(table),
    };
    options *o;
    const char *const *args;
    size_t n_args;
    char why[CLI_WHY] = "";

    int status = cli_parse(&o, &set, argc, argv, 0, 0, &args, &n_args);
    if (status != CLI_RUN) return status;
    if (session_check_endpoint(c.endpoint, why, sizeof(why)) < 0) {
        status = cli_usage(NAME, "%s", why);
    } else {
        int rc = show(&c, raw, why, sizeof(why));
        status = rc < 0 ? cli_fail(NAME, "%s", why) : CLI_OK;
    }
    options_free(o);
    return status;
}
