/* rack_command.c - see rack_command.h. */
#include "client/rack_command.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include "client/cli.h"
#include "discovery/records.h"
#include "engine/err.h"
#include "engine/util.h"

#define LOOK_MS 200

size_t rack_options(session_config *c, option *table) {
    const option rows[] = {
        {"endpoint", 0, OPTION_STRING, &c->endpoint, "tcp://HOST:PORT",
         "The coordinator to ask; without this, the environment's "
         "ROSTER_ENDPOINT."},
        {"cluster", 0, OPTION_STRING, &c->cluster, "NAME",
         "The cluster that the coordinator must belong to."},
        {"insecure", 0, OPTION_FLAG, &c->insecure, NULL,
         "Allow an endpoint beyond loopback; nothing is encrypted yet."},
        {"timeout", 0, OPTION_MS, &c->timeout_ms, "TIME",
         "Longest wait for an answer; 0: 10s."},
    };
    _Static_assert(ARRAY_LEN(rows) == RACK_OPTIONS, "rows of the table");
    memcpy(table, rows, sizeof(rows));
    return ARRAY_LEN(rows);
}

int rack_json(const char *text, const char *what, json_t **out, char *why,
              size_t why_size) {
    json_error_t error;

    *out = json_loads(text, 0, &error);
    if (json_is_object(*out)) return 0;
    bool parsed = *out != NULL;
    json_decref(*out);
    *out = NULL;
    return err_why(why, why_size, ERR_MALFORMED,
                   "the coordinator's %s is not a JSON object%s%s", what,
                   parsed ? "" : ": ", parsed ? "" : error.text);
}

int rack_status(session *s, json_t **out, char *why, size_t why_size) {
    const char *text;

    *out = NULL;
    int rc = roster_status(s->client, &text);
    if (rc < 0) {
        return session_explain(s, rc, roster_client_error(s->client), why,
                               why_size);
    }
    return rack_json(text, "status", out, why, why_size);
}

int rack_go_to_leader(session *s, const session_config *c, char *why,
                      size_t why_size) {
    char endpoint[RECORD_ENDPOINT] = "";
    json_t *status;
    int rc = rack_status(s, &status, why, why_size);
    if (rc < 0) return rc;
    const json_t *leader =
        rack_find(status, "coordinators", rack_text(status, "leader"));
    if (leader != NULL && !json_is_true(json_object_get(leader, "us")))
        snprintf(endpoint, sizeof(endpoint), "%s", rack_text(leader, "client"));
    json_decref(status);
    if (endpoint[0] == '\0') return 0;
    session_config to = *c;
    to.endpoint = endpoint;
    session_close(s);
    return session_open(s, &to, why, why_size);
}

const json_t *rack_find(const json_t *status, const char *list,
                        const char *name) {
    size_t i;
    json_t *entry;
    json_array_foreach(json_object_get(status, list), i, entry) {
        if (strcmp(rack_text(entry, "name"), name) == 0) return entry;
    }
    return NULL;
}

uint64_t rack_number(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    double n = json_number_value(value);
    if (json_is_integer(value) && n >= 0)
        return (uint64_t)json_integer_value(value);
    return n > 0 && n < 1e18 ? (uint64_t)n : 0;
}

double rack_real(const json_t *object, const char *key) {
    return json_number_value(json_object_get(object, key));
}

const char *rack_text(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text != NULL ? text : "";
}

int rack_wait(session *s, uint32_t ms) {
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (timer < 0) return -errno;
    const struct itimerspec when = {
        .it_value = {ms / 1000, (long)(ms % 1000) * 1000000 + 1}};
    int rc = timerfd_settime(timer, 0, &when, NULL) < 0 ? -errno : 0;

    uint64_t until = now_ms() + ms;
    while (rc >= 0 && now_ms() < until) {
        rc = session_turn(s, timer);
    }
    close(timer);
    return rc < 0 ? rc : 0;
}

static void show(const char *left, bool terminal) {
    if (terminal) fprintf(stderr, "\r\033[K%s", left);
}

int rack_wait_until_done(session *s, uint32_t wait_ms, const char *not_yet,
                         rack_left left, void *ctx, char *why,
                         size_t why_size) {
    bool terminal = isatty(STDERR_FILENO) != 0;
    uint64_t until = now_ms() + wait_ms;
    char text[256];

    for (;;) {
        json_t *status;
        int rc = rack_status(s, &status, why, why_size);
        if (rc < 0) {
            show("", terminal);
            return rc;
        }
        left(ctx, status, text, sizeof(text));
        json_decref(status);
        show(text, terminal);
        if (text[0] == '\0') return 0;
        if (now_ms() >= until) {
            show("", terminal);
            return err_why(why, why_size, ERR_DEADLINE, "%s within %u s: %s",
                           not_yet, wait_ms / 1000, text);
        }
        rc = rack_wait(s, LOOK_MS);
        if (rc < 0) {
            show("", terminal);
            return session_explain(s, rc, err_text(rc), why, why_size);
        }
    }
}

int rack_flush(char *why, size_t why_size) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return 0;
    int rc = errno != 0 ? -errno : -EIO;
    return err_why(why, why_size, rc, "cannot write to stdout: %s",
                   err_text(rc));
}
