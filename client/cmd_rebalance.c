/* cmd_rebalance.c - `roster rebalance`: has experts placed by their load now,
 * or shows what that would move.
 *
 * Only the leader can; it is looked for. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "client/cli.h"
#include "client/commands.h"
#include "client/rack_command.h"
#include "engine/err.h"
#include "engine/util.h"

#define NAME "roster rebalance"
#define TRIES 10 /* while nobody leads, or somebody else does now */
#define PAUSE_MS 500

typedef struct {
    session_config session;
    bool dry_run, raw, wait;
    uint32_t wait_ms;
} rebalance_config;

/* ---- asking ---- */

static int ask(session *s, const rebalance_config *c, json_t **out, char *why,
               size_t why_size) {
    const char *text;
    *out = NULL;
    int rc = roster_rebalance(s->client, c->dry_run, &text);
    if (rc < 0) {
        return session_explain(s, rc, roster_client_error(s->client), why,
                               why_size);
    }
    return rack_json(text, "report", out, why, why_size);
}

/* A rack without etcd will never have a leader. */
static bool may_have_leader(session *s) {
    char ignored[CLI_WHY];
    json_t *status;
    if (rack_status(s, &status, ignored, sizeof(ignored)) < 0) return false;
    bool registered = json_is_object(json_object_get(status, "etcd"));
    json_decref(status);
    return registered;
}

static int ask_leader(session *s, const rebalance_config *c, json_t **out,
                      char *why, size_t why_size) {
    int rc = 0;
    for (int i = 0; i < TRIES; i++) {
        if (i > 0) rc = rack_wait(s, PAUSE_MS);
        if (rc < 0) return session_explain(s, rc, err_text(rc), why, why_size);
        rc = rack_go_to_leader(s, &c->session, why, why_size);
        if (rc == 0) rc = ask(s, c, out, why, why_size);
        if (rc != ERR_NOT_LEADER || !may_have_leader(s)) return rc;
    }
    return rc;
}

/* ---- showing ---- */

static void print_figures(const char *label, const json_t *figures) {
    printf("%-8s imbalance %.2f; the worst layer is %" PRIu64 " with %.2f\n",
           label, rack_real(figures, "imbalance"),
           rack_number(figures, "worst_layer"), rack_real(figures, "worst"));
}

static void print_move(const json_t *m, bool sliced) {
    const char *to = rack_text(m, "to"), *from = rack_text(m, "from");
    char name[64];
    snprintf(name, sizeof(name), "%s", to[0] != '\0' ? to : from);
    make_printable(name);
    printf("         layer %" PRIu64 " expert %" PRIu64,
           rack_number(m, "layer"), rack_number(m, "expert"));
    if (sliced) printf(" slice %" PRIu64, rack_number(m, "slice"));
    printf(" %s %s\n", to[0] != '\0' ? "to" : "from", name);
}

static bool has_slices(const json_t *moves) {
    size_t i;
    json_t *m;
    json_array_foreach(moves, i, m) {
        if (rack_number(m, "slice") > 0) return true;
    }
    return false;
}

static void print_text(const json_t *r) {
    const json_t *moves = json_object_get(r, "moves");
    uint64_t added = rack_number(r, "added");
    uint64_t removed = rack_number(r, "removed");
    char bytes[32];
    size_t i;
    json_t *m;

    print_figures("now", json_object_get(r, "before"));
    print_figures("after", json_object_get(r, "after"));
    cli_format_bytes(rack_number(r, "bytes"), bytes, sizeof(bytes));
    printf("moves    %" PRIu64 " units to load (%s), %" PRIu64
           " to give up%s\n",
           added, bytes, removed,
           json_is_true(json_object_get(r, "pays")) || added + removed == 0
               ? ""
               : "; more than it is worth by the usual measure");
    bool sliced = has_slices(moves);
    json_array_foreach(moves, i, m) {
        print_move(m, sliced);
    }
    if (json_array_size(moves) < added + removed) {
        printf("         and %" PRIu64 " more\n",
               added + removed - json_array_size(moves));
    }
    if (json_is_true(json_object_get(r, "started"))) puts("started");
}

static int print(const rebalance_config *c, const json_t *report, char *why,
                 size_t why_size) {
    if (c->raw) {
        json_dumpf(report, stdout, JSON_COMPACT);
        putchar('\n');
    } else {
        print_text(report);
    }
    return rack_flush(why, why_size);
}

/* ---- waiting ---- */

/* What is left to move, in words; "" once nothing is. */
static void what_is_left(void *ctx, const json_t *status, char *out,
                         size_t size) {
    (void)ctx;
    const json_t *balance = json_object_get(status, "balance");
    const json_t *moves = json_object_get(balance, "moves");
    char bytes[32];
    out[0] = '\0';
    if (!json_is_true(json_object_get(moves, "moving"))) return;
    cli_format_bytes(rack_number(moves, "bytes_left"), bytes, sizeof(bytes));
    snprintf(
        out, size, "%" PRIu64 " units to load (%s), %" PRIu64 " to give up",
        rack_number(moves, "to_load"), bytes, rack_number(moves, "to_drop"));
}

/* ---- the command ---- */

static int run(const rebalance_config *c, char *why, size_t why_size) {
    session s;
    json_t *report = NULL;
    int rc = session_open(&s, &c->session, why, why_size);
    if (rc == 0) rc = ask_leader(&s, c, &report, why, why_size);
    if (rc == 0) rc = print(c, report, why, why_size);
    bool started = json_is_true(json_object_get(report, "started"));
    if (rc == 0 && c->wait && started) {
        rc = rack_wait_until_done(&s, c->wait_ms, "not done", what_is_left,
                                  NULL, why, why_size);
    }
    json_decref(report);
    session_close(&s);
    return rc;
}

int cmd_rebalance(int argc, char **argv) {
    enum { OWN = 4 };
    rebalance_config c = {.wait_ms = 600000};
    session_config_init(&c.session);
    option table[OWN + RACK_OPTIONS] = {
        {"dry-run", 0, OPTION_FLAG, &c.dry_run, NULL,
         "Show what would move; change nothing."},
        {"json", 0, OPTION_FLAG, &c.raw, NULL, "Print the report as JSON."},
        {"wait", 0, OPTION_FLAG, &c.wait, NULL,
         "Return when all has moved, not when that has begun."},
        {"wait-timeout", 0, OPTION_MS, &c.wait_ms, "TIME",
         "How long --wait waits; then it is a failure."},
    };
    size_t n = OWN + rack_options(&c.session, table + OWN);
    const option_set set = {
        .program = NAME,
        .usage = "[options]",
        .about = "Has the experts of a rack placed by their load: hot ones "
                 "get more holders, and nodes get even shares of the work. "
                 "The leader does so by itself when it is worth the moves; "
                 "this does it now, for whatever it gains.",
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
    } else if (c.dry_run && c.wait) {
        status = cli_usage(NAME, "--dry-run and --wait exclude each other");
    } else {
        int rc = run(&c, why, sizeof(why));
        status = rc < 0 ? cli_fail(NAME, "%s", why) : CLI_OK;
    }
    options_free(o);
    return status;
}
