/* cmd_top.c - `roster top`: what a rack does now, live.
 *
 * A coordinator's status is asked for again and again; rates are the
 * differences of its counters.  On a terminal each picture takes the place of
 * the last one; elsewhere they follow one another. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "client/cli.h"
#include "client/commands.h"
#include "client/rack_command.h"
#include "engine/err.h"
#include "engine/util.h"

#define NAME "roster top"
#define NAME_WIDTH 20

typedef struct {
    session_config session;
    uint32_t interval_ms, count; /* count 0: until it is interrupted */
    bool json;
} top_config;

/* Two looks and the time between them. */
typedef struct {
    const json_t *now, *before; /* before: NULL at first */
    double seconds;
} looks;

/* ---- rates ---- */

/* Per second; a counter that went back belongs to a process that was started
 * again: it counts from zero. */
static double rate(const json_t *now, const json_t *before, const char *key,
                   double seconds) {
    uint64_t a = rack_number(before, key), b = rack_number(now, key);
    if (before == NULL || seconds <= 0) return 0;
    return (double)(b >= a ? b - a : b) / seconds;
}

/* The pairs that all nodes compute in a second. */
static double pairs_of_all(const looks *l) {
    double sum = 0;
    size_t i;
    json_t *node;
    json_array_foreach(json_object_get(l->now, "nodes"), i, node) {
        sum +=
            rate(node, rack_find(l->before, "nodes", rack_text(node, "name")),
                 "pairs", l->seconds);
    }
    return sum;
}

/* ---- showing ---- */

static void print_name(const char *name) {
    char text[NAME_WIDTH + 1];
    snprintf(text, sizeof(text), "%s", name);
    make_printable(text);
    printf("%-*s", NAME_WIDTH, text);
}

static void print_head(const looks *l) {
    const json_t *requests = json_object_get(l->now, "requests");
    const json_t *placement = json_object_get(l->now, "placement");
    char model[64];

    snprintf(model, sizeof(model), "%s", rack_text(l->now, "model"));
    make_printable(model);
    printf("%s  %.0f tokens/s, %.0f of them generated  %" PRIu64
           " requests active, %" PRIu64 " queued\n",
           model, rate(l->now, l->before, "tokens", l->seconds),
           rate(l->now, l->before, "tokens_generated", l->seconds),
           rack_number(requests, "active"), rack_number(requests, "queued"));
    const json_t *epoch = json_object_get(l->now, "epoch");
    printf("epoch ");
    if (json_is_string(epoch)) {
        printf("%.40s", json_string_value(epoch));
    } else {
        printf("%" PRIu64, rack_number(l->now, "epoch"));
    }
    printf("  %" PRIu64 " holders on the move, %" PRIu64
           " units without a holder\n\n",
           rack_number(placement, "moving"),
           rack_number(placement, "unplaced"));
}

static void print_node(const looks *l, const json_t *node, double all_pairs) {
    const json_t *before =
        rack_find(l->before, "nodes", rack_text(node, "name"));
    double pairs = rate(node, before, "pairs", l->seconds);
    char bytes[32], state[12];

    cli_format_bytes(rack_number(node, "resident_bytes"), bytes, sizeof(bytes));
    snprintf(state, sizeof(state), "%s", rack_text(node, "state"));
    make_printable(state);
    print_name(rack_text(node, "name"));
    printf(" %-10s %7" PRIu64 " %10s %9.0f %9.0f %6.1f%% %6" PRIu64 "\n", state,
           rack_number(node, "held"), bytes,
           rate(node, before, "batches", l->seconds), pairs,
           all_pairs > 0 ? 100 * pairs / all_pairs : 0,
           rack_number(node, "queued"));
}

static void print_picture(const looks *l) {
    size_t i;
    json_t *node;
    double all_pairs = pairs_of_all(l);

    print_head(l);
    printf("%-*s %-10s %7s %10s %9s %9s %7s %6s\n", NAME_WIDTH, "NODE", "STATE",
           "UNITS", "RESIDENT", "BATCHES/s", "PAIRS/s", "SHARE", "QUEUE");
    json_array_foreach(json_object_get(l->now, "nodes"), i, node) {
        print_node(l, node, all_pairs);
    }
}

/* One object a line. */
static int print_json(const looks *l) {
    json_t *nodes = json_array();
    size_t i;
    json_t *node;
    json_array_foreach(json_object_get(l->now, "nodes"), i, node) {
        const json_t *before =
            rack_find(l->before, "nodes", rack_text(node, "name"));
        json_array_append_new(
            nodes,
            json_pack(
                "{s:s, s:s, s:I, s:I, s:f, s:f}", "name",
                rack_text(node, "name"), "state", rack_text(node, "state"),
                "held", (json_int_t)rack_number(node, "held"), "resident_bytes",
                (json_int_t)rack_number(node, "resident_bytes"),
                "batches_per_s", rate(node, before, "batches", l->seconds),
                "pairs_per_s", rate(node, before, "pairs", l->seconds)));
    }
    json_t *root = json_pack(
        "{s:f, s:f, s:f, s:o}", "seconds", l->seconds, "tokens_per_s",
        rate(l->now, l->before, "tokens", l->seconds), "generated_per_s",
        rate(l->now, l->before, "tokens_generated", l->seconds), "nodes",
        nodes);
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
        print_picture(l);
        if (!terminal) putchar('\n');
    }
    if (rc == 0 && (fflush(stdout) != 0 || ferror(stdout))) return -EIO;
    return rc;
}

/* Rates need two looks: the first picture comes after one interval. */
static int watch(session *s, const top_config *c, char *why, size_t why_size) {
    bool terminal = !c->json && isatty(STDOUT_FILENO) != 0;
    json_t *before = NULL;
    uint64_t before_us = 0;
    int rc = 0;

    for (uint32_t n = 0;; n++) {
        json_t *now;
        rc = rack_status(s, &now, why, why_size);
        if (rc < 0) break;
        uint64_t at_us = now_us();
        const looks l = {now, before, (double)(at_us - before_us) / 1e6};
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

/* A signal is how it is meant to end. */
static int run(const top_config *c, char *why, size_t why_size) {
    session s;
    int rc = session_open(&s, &c->session, why, why_size);
    if (rc == 0) rc = watch(&s, c, why, why_size);
    if (rc == -EINTR && c->count == 0) rc = 0;
    session_close(&s);
    return rc;
}

int cmd_top(int argc, char **argv) {
    enum { OWN = 3 };
    top_config c = {.interval_ms = 1000};
    session_config_init(&c.session);
    option table[OWN + RACK_OPTIONS] = {
        {"interval", 0, OPTION_MS, &c.interval_ms, "TIME",
         "Time between two pictures."},
        {"count", 'n', OPTION_U32, &c.count, "N",
         "End after N pictures; 0: when interrupted."},
        {"json", 0, OPTION_FLAG, &c.json, NULL, "One JSON object a picture."},
    };
    size_t n = OWN + rack_options(&c.session, table + OWN);
    const option_set set = {
        .program = NAME,
        .usage = "[options]",
        .about = "Shows what each expert node of a rack computes now, until "
                 "Ctrl-C.",
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
