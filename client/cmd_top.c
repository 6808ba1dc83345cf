/* cmd_top.c - `roster top`: what a rack does now, live.
 *
 * A coordinator's status is asked for again and again; rates are the
 * differences of its counters.  On a terminal each picture takes the place of
 * the last one; elsewhere they follow one another. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "client/cli.h"
#include "client/commands.h"
#include "client/rack_command.h"
#include "client/top_picture.h"
#include "engine/err.h"
#include "engine/util.h"

#define NAME "roster top"
#define UNSAID UINT32_MAX /* --count was not given: see run() */

typedef struct {
    session_config session;
    uint32_t interval_ms, count; /* count 0: until it is interrupted */
    bool json;
} top_config;

/* ---- JSON ---- */

static json_t *node_json(const looks *l, const json_t *node) {
    const json_t *before =
        rack_find(l->before, "nodes", rack_text(node, "name"));
    json_t *o = json_pack(
        "{s:s, s:s, s:I, s:I, s:f, s:f}", "name", rack_text(node, "name"),
        "state", rack_text(node, "state"), "held",
        (json_int_t)rack_number(node, "held"), "resident_bytes",
        (json_int_t)rack_number(node, "resident_bytes"), "batches_per_s",
        looks_rate(l, node, before, "batches"), "pairs_per_s",
        looks_rate(l, node, before, "pairs"));
    static const char *const as_told[] = {"busy", "speed", "moves"};
    for (size_t i = 0; i < ARRAY_LEN(as_told); i++) {
        json_t *value = json_object_get(node, as_told[i]);
        if (value != NULL) json_object_set(o, as_told[i], value);
    }
    return o;
}

/* One object a line. */
static int print_json(const looks *l) {
    json_t *nodes = json_array();
    size_t i;
    json_t *node;
    json_array_foreach(json_object_get(l->now, "nodes"), i, node) {
        json_array_append_new(nodes, node_json(l, node));
    }
    json_t *root = json_pack(
        "{s:f, s:f, s:f, s:O?, s:o}", "seconds", l->seconds, "tokens_per_s",
        looks_rate(l, l->now, l->before, "tokens"), "generated_per_s",
        looks_rate(l, l->now, l->before, "tokens_generated"), "balance",
        json_object_get(l->now, "balance"), "nodes", nodes);
    char *text = root != NULL ? json_dumps(root, JSON_COMPACT) : NULL;
    if (text != NULL) puts(text);
    free(text);
    json_decref(root);
    return text != NULL ? 0 : -ENOMEM;
}

/* ---- the command ---- */

static int show(const top_config *c, const looks *l, bool terminal) {
    int rc = 0;
    if (c->json) {
        rc = print_json(l);
    } else {
        if (terminal) fputs("\033[H\033[2J", stdout);
        top_picture_print(l);
        if (!terminal) putchar('\n');
    }
    if (rc == 0 && (fflush(stdout) != 0 || ferror(stdout))) return -EIO;
    return rc;
}

/* For a bar of progress: what is left is compared with the most that was. */
static uint64_t most_to_load(const json_t *status, uint64_t most) {
    const json_t *m =
        json_object_get(json_object_get(status, "balance"), "moves");
    uint64_t left = rack_number(m, "to_load");
    if (!json_is_true(json_object_get(m, "moving"))) return 0;
    return left > most ? left : most;
}

/* Rates need two looks: the first picture comes after one interval. */
static int watch(session *s, const top_config *c, bool terminal, char *why,
                 size_t why_size) {
    uint64_t most = 0;
    json_t *before = NULL;
    uint64_t before_us = 0;
    int rc = 0;

    for (uint32_t n = 0;; n++) {
        json_t *now;
        rc = rack_status(s, &now, why, why_size);
        if (rc < 0) break;
        uint64_t at_us = now_us();
        most = most_to_load(now, most);
        const looks l = {now, before, (double)(at_us - before_us) / 1e6, most};
        if (before != NULL) rc = show(c, &l, terminal);
        json_decref(before);
        before = now;
        before_us = at_us;
        if (rc < 0) {
            err_why(why, why_size, rc, "stdout: %s", err_text(rc));
            break;
        }
        if (c->count > 0 && n == c->count) break;
        rc = rack_wait(s, c->interval_ms);
        if (rc < 0) {
            session_explain(s, rc, roster_client_error(s->client), why,
                            why_size);
            break;
        }
    }
    json_decref(before);
    return rc;
}

/* Pictures go on where they replace each other, and objects where a program
 * reads them; else one is what was asked for.  A signal is how it is meant to
 * end. */
static int run(const top_config *given, char *why, size_t why_size) {
    session s;
    top_config c = *given;
    bool terminal = !c.json && isatty(STDOUT_FILENO) != 0;
    if (c.count == UNSAID) c.count = terminal || c.json ? 0 : 1;
    int rc = session_open(&s, &c.session, why, why_size);
    if (rc == 0) rc = watch(&s, &c, terminal, why, why_size);
    if (rc == -EINTR && c.count == 0) rc = 0;
    session_close(&s);
    return rc;
}

int cmd_top(int argc, char **argv) {
    enum { OWN = 3 };
    top_config c = {.interval_ms = 1000, .count = UNSAID};
    session_config_init(&c.session);
    option table[OWN + RACK_OPTIONS] = {
        {"interval", 0, OPTION_MS, &c.interval_ms, "TIME",
         "Time between two pictures."},
        {"count", 'n', OPTION_U32, &c.count, "N",
         "End after N pictures; 0: when interrupted, which is what happens on "
         "a terminal and with --json. Elsewhere one is shown."},
        {"json", 0, OPTION_FLAG, &c.json, NULL, "One JSON object a picture."},
    };
    size_t n = OWN + rack_options(&c.session, table + OWN);
    const option_set set = {
        .program = NAME,
        .usage = "[options]",
        .about = "Shows what each expert node of a rack computes now, how "
                 "evenly, and what moves, until Ctrl-C.",
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
    } else if (c.interval_ms < 100) {
        status = cli_usage(NAME, "--interval: 100 ms is the least");
    } else {
        int rc = run(&c, why, sizeof(why));
        status = rc < 0 ? cli_fail(NAME, "%s", why) : CLI_OK;
    }
    options_free(o);
    return status;
}
