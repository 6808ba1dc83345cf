/* session.c - see session.h. */
#include "client/session.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "client/signals.h"
#include "engine/err.h"
#include "engine/util.h"

#define SETTLE_MS 200 /* a lost connection is seen before the process's end */

void session_config_init(session_config *c) {
    *c = (session_config){.endpoint = NULL};
    local_rack_config_init(&c->rack);
}

size_t session_options(session_config *c, option *table) {
    const option rows[] = {
        {"endpoint", 0, OPTION_STRING, &c->endpoint, "tcp://HOST:PORT[,...]",
         "The coordinator to ask, or several: the first that answers is, and "
         "another takes over when it is lost. Without this and --model, the "
         "environment's ROSTER_ENDPOINT."},
        {"model", 0, OPTION_STRING, &c->rack.model, "FILE",
         "Serve this GGUF file for as long as the command runs."},
        {"cluster", 0, OPTION_STRING, &c->cluster, "NAME",
         "The cluster that the coordinator must belong to."},
        {"insecure", 0, OPTION_FLAG, &c->insecure, NULL,
         "Allow an endpoint beyond loopback; nothing is encrypted yet."},
        {"timeout", 0, OPTION_MS, &c->timeout_ms, "TIME",
         "Longest wait for the next token, such as 30s; 0: the coordinator's "
         "own."},
    };
    _Static_assert(ARRAY_LEN(rows) + LOCAL_RACK_OPTIONS == SESSION_OPTIONS,
                   "rows of the table");
    memcpy(table, rows, sizeof(rows));
    return ARRAY_LEN(rows) +
           local_rack_options(&c->rack, table + ARRAY_LEN(rows));
}

int session_check_endpoint(const char *given, char *why, size_t why_size) {
    const char *fallback = getenv("ROSTER_ENDPOINT");

    if (given != NULL || (fallback != NULL && fallback[0] != '\0')) return 0;
    return err_why(why, why_size, ERR_USAGE,
                   "no coordinator is named: give --endpoint, or set "
                   "ROSTER_ENDPOINT");
}

int session_check(const session_config *c, const options *o, char *why,
                  size_t why_size) {
    if (c->rack.model != NULL) {
        if (c->endpoint != NULL) {
            return err_why(why, why_size, ERR_USAGE,
                           "--endpoint and --model exclude each other");
        }
        return local_rack_check(&c->rack, why, why_size);
    }
    static const char *const for_racks[] = {
        "nodes", "replicas", "slices",           "experts",       "exact",
        "kv",    "threads",  "no-local-experts", "start-timeout", "verbose"};
    _Static_assert(ARRAY_LEN(for_racks) == LOCAL_RACK_OPTIONS, "all of them");
    for (size_t i = 0; i < ARRAY_LEN(for_racks); i++) {
        if (!options_given(o, for_racks[i])) continue;
        return err_why(why, why_size, ERR_USAGE,
                       "--%s is for a rack that --model starts", for_racks[i]);
    }
    return session_check_endpoint(c->endpoint, why, why_size);
}

/* ---- opening ---- */

static int set(roster_config *c, const char *key, const char *value, char *why,
               size_t why_size) {
    return value != NULL ? roster_config_set(c, key, value, why, why_size) : 0;
}

static int connect_client(session *s, const session_config *c, char *why,
                          size_t why_size) {
    roster_config *config;
    int rc = roster_config_create(&config);
    if (rc < 0) return err_why(why, why_size, rc, "%s", err_text(rc));

    char timeout[16], signals[16];
    snprintf(timeout, sizeof(timeout), "%u", c->timeout_ms);
    snprintf(signals, sizeof(signals), "%d", s->signals);
    const char *endpoint =
        s->rack != NULL ? local_rack_endpoint(s->rack) : c->endpoint;
    rc = set(config, "endpoint", endpoint, why, why_size);
    if (rc == 0) rc = set(config, "name", "roster", why, why_size);
    if (rc == 0) rc = set(config, "interrupt_fd", signals, why, why_size);
    if (rc == 0) rc = set(config, "cluster", c->cluster, why, why_size);
    if (rc == 0 && c->insecure)
        rc = set(config, "insecure", "true", why, why_size);
    if (rc == 0 && c->timeout_ms > 0)
        rc = set(config, "timeout_ms", timeout, why, why_size);
    /* The only coordinator of a rack of ours is what session_explain() is
     * about. */
    if (rc == 0 && s->rack != NULL)
        rc = set(config, "failover", "off", why, why_size);
    if (rc == 0) rc = roster_client_create(&s->client, config, why, why_size);
    roster_config_destroy(&config);
    return rc;
}

int session_open(session *s, const session_config *c, char *why,
                 size_t why_size) {
    *s = (session){.signals = signals_open()};
    if (s->signals < 0) {
        return err_why(why, why_size, s->signals, "cannot watch signals: %s",
                       err_text(s->signals));
    }
    if (c->rack.model != NULL) {
        local_rack_config rack = c->rack;
        rack.cluster = c->cluster;
        rack.timeout_ms = c->timeout_ms;
        int rc = local_rack_open(&s->rack, &rack, s->signals, why, why_size);
        if (rc == ERR_CANCELLED) rc = -EINTR;
        if (rc == -EINTR) return session_explain(s, rc, "", why, why_size);
        if (rc < 0) return rc;
    }
    char sentence[ROSTER_WHY_BYTES] = "";
    int rc = connect_client(s, c, sentence, sizeof(sentence));
    return rc < 0 ? session_explain(s, rc, sentence, why, why_size) : 0;
}

void session_close(session *s) {
    roster_client_destroy(&s->client);
    local_rack_close(s->rack);
    s->rack = NULL;
    if (s->signals > 0) close(s->signals);
    s->signals = 0;
}

/* ---- waiting ---- */

int session_turn(session *s, int extra_fd) {
    struct pollfd fds[3] = {
        {.fd = s->signals, .events = POLLIN},
        {.fd = roster_poll_fd(s->client), .events = POLLIN},
        {.fd = extra_fd, .events = POLLIN},
    };
    int n = poll(fds, ARRAY_LEN(fds), roster_poll_timeout(s->client));
    if (n < 0 && errno != EINTR) return -errno;
    if (n > 0 && fds[0].revents != 0) {
        s->signal = signals_take(s->signals);
        if (s->signal != 0) return -EINTR;
    }
    return roster_process(s->client, 0);
}

int session_explain(session *s, int rc, const char *sentence, char *why,
                    size_t why_size) {
    char how[2048] = "";

    if (rc == -EINTR) {
        if (s->signal == 0) s->signal = signals_take(s->signals);
        return err_why(why, why_size, rc, "interrupted by %s",
                       s->signal == SIGINT ? "Ctrl-C" : strsignal(s->signal));
    }
    if (s->rack != NULL) {
        struct pollfd fd = {
            .fd = child_fd(
                local_rack_child(s->rack, local_rack_n_children(s->rack) - 1)),
            .events = POLLIN,
        };
        /* Give a coordinator that is just dying the time to do so. */
        (void)poll(&fd, 1, SETTLE_MS);
        local_rack_explain(s->rack, how, sizeof(how));
    }
    return err_why(why, why_size, rc, "%s%s%s%s", sentence, how[0] ? " (" : "",
                   how, how[0] ? ")" : "");
}
