/* cmd_up.c - `roster up`: a coordinator and expert nodes on this machine, until
 * a signal ends them.
 *
 * A lost node is only told: the rack goes on with replicas or the coordinator's
 * own copy.  Without the coordinator there is nothing left to serve. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "client/cli.h"
#include "client/commands.h"
#include "client/local_rack.h"
#include "client/signals.h"
#include "engine/err.h"
#include "engine/util.h"

#define NAME "roster up"
#define OWN_OPTIONS 4

static int parse(local_rack_config *c, options **o, int argc, char **argv) {
    option table[OWN_OPTIONS + LOCAL_RACK_OPTIONS] = {
        {"endpoint", 0, OPTION_STRING, &c->endpoint, "tcp://HOST:PORT",
         "Where the coordinator listens; without it any free port of "
         "loopback."},
        {"insecure", 0, OPTION_FLAG, &c->insecure, NULL,
         "Allow an endpoint beyond loopback; nothing is encrypted yet."},
        {"cluster", 0, OPTION_STRING, &c->cluster, "NAME",
         "The cluster's name."},
        {"timeout", 0, OPTION_MS, &c->timeout_ms, "TIME",
         "Longest wait of a request for its next token, such as 30s; 0: the "
         "coordinator's own."},
    };
    size_t n = OWN_OPTIONS + local_rack_options(c, table + OWN_OPTIONS);
    const option_set set = {
        .program = NAME,
        .usage = "MODEL [options]",
        .about =
            "Serves the GGUF file MODEL from this machine: starts a "
            "coordinator and expert nodes on loopback, prints `ready ENDPOINT` "
            "when they can be asked, and serves until SIGTERM or SIGINT. "
            "Nothing that it started is left behind.",
        .table = table,
        .count = n,
    };
    const char *const *args;
    size_t n_args;
    char why[CLI_WHY] = "";

    int status = cli_parse(o, &set, argc, argv, 1, 1, &args, &n_args);
    if (status != CLI_RUN) return status;
    c->model = args[0];
    if (local_rack_check(c, why, sizeof(why)) < 0)
        return cli_usage(NAME, "%s", why);
    return CLI_RUN;
}

/* Wait for something to end: 0 for a signal, else the sentence that tells of
 * the coordinator's end is in `how`. */
static int serve(local_rack *r, int signals, char *how, size_t how_size) {
    size_t n = local_rack_n_children(r);
    struct pollfd *fds = calloc(n + 1, sizeof(*fds));
    if (fds == NULL) return err_why(how, how_size, -ENOMEM, "no memory");

    for (size_t i = 0; i < n; i++)
        fds[i].fd = child_fd(local_rack_child(r, i));
    fds[n].fd = signals;
    for (size_t i = 0; i <= n; i++)
        fds[i].events = POLLIN;

    int rc = -EAGAIN;
    while (rc == -EAGAIN) {
        if (poll(fds, n + 1, -1) < 0) continue; /* interrupted */
        if (fds[n].revents != 0 && signals_take(signals) != 0) rc = 0;
        for (size_t i = 0; i < n && rc == -EAGAIN; i++) {
            if (fds[i].revents == 0) continue;
            (void)child_ended(local_rack_child(r, i), how, how_size);
            fds[i].fd = -1;
            if (i + 1 == n) {
                rc = ERR_CLOSED;
            } else {
                fprintf(stderr, "%s: %s; going on without it\n", NAME, how);
            }
        }
    }
    free(fds);
    return rc;
}

static int announce(const local_rack *r) {
    char line[512];
    int n = snprintf(line, sizeof(line), "ready %s\n", local_rack_endpoint(r));
    return cli_write(line, (size_t)n);
}

int cmd_up(int argc, char **argv) {
    char why[CLI_WHY] = "";
    options *o = NULL;
    local_rack_config c;
    local_rack_config_init(&c);
    c.nodes = 2;

    int status = parse(&c, &o, argc, argv);
    if (status != CLI_RUN) {
        options_free(o);
        return status;
    }
    int signals = signals_open();
    local_rack *rack = NULL;
    int rc = signals < 0
                 ? err_why(why, sizeof(why), signals, "cannot watch signals")
                 : local_rack_open(&rack, &c, signals, why, sizeof(why));
    if (rc == 0) {
        rc = announce(rack);
        if (rc < 0)
            err_why(why, sizeof(why), rc, "cannot write to stdout: %s",
                    err_text(rc));
    }
    if (rc == 0) rc = serve(rack, signals, why, sizeof(why));
    local_rack_close(rack);
    if (signals >= 0) close(signals);
    options_free(o);
    return rc < 0 ? cli_fail(NAME, "%s", why) : CLI_OK;
}
