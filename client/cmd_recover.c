/* cmd_recover.c - `roster recover`: puts right what is wrong with a rack's
 * etcd.
 *
 * Only the leader can; it is looked for.  What would be done is shown first and
 * needs a yes. */
#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "client/cli.h"
#include "client/commands.h"
#include "client/rack_command.h"
#include "engine/err.h"
#include "engine/util.h"

#define NAME "roster recover"
#define TRIES 20 /* while nobody leads, or somebody else does now */
#define PAUSE_MS 500

typedef struct {
    session_config session;
    bool dry_run, yes, raw;
    char by[256];
} recover_config;

/* user@host, as it stands in the record afterwards. */
static void who_asks(char *out, size_t size) {
    char host[128] = "";
    const struct passwd *user = getpwuid(geteuid());
    if (gethostname(host, sizeof(host) - 1) < 0) host[0] = '\0';
    snprintf(out, size, "%.64s@%.60s",
             user != NULL ? user->pw_name : "somebody",
             host[0] != '\0' ? host : "somewhere");
    make_printable(out);
}

/* ---- asking ---- */

static int ask(session *s, const recover_config *c, bool dry_run, json_t **out,
               char *why, size_t why_size) {
    const char *text;
    *out = NULL;
    int rc = roster_recover(s->client, dry_run, c->by, &text);
    if (rc < 0) {
        return session_explain(s, rc, roster_client_error(s->client), why,
                               why_size);
    }
    return rack_json(text, "report", out, why, why_size);
}

/* Leaders change while etcd comes back. */
static int ask_leader(session *s, const recover_config *c, bool dry_run,
                      json_t **out, char *why, size_t why_size) {
    int rc = 0;
    for (int i = 0; i < TRIES; i++) {
        if (i > 0) rc = rack_wait(s, PAUSE_MS);
        if (rc < 0) return session_explain(s, rc, err_text(rc), why, why_size);
        rc = rack_go_to_leader(s, &c->session, why, why_size);
        if (rc == 0) rc = ask(s, c, dry_run, out, why, why_size);
        if (rc != ERR_NOT_LEADER) return rc;
    }
    return rc;
}

/* ---- showing ---- */

static bool has_work(const json_t *report) {
    const json_t *space = json_object_get(report, "space");
    return rack_number(report, "transactions") > 0 ||
           rack_number(space, "alarms") > 0;
}

static void show(FILE *out, const json_t *report) {
    size_t i;
    json_t *step;
    json_array_foreach(json_object_get(report, "steps"), i, step) {
        char line[512];
        const char *text = json_string_value(step);
        snprintf(line, sizeof(line), "%s", text != NULL ? text : "");
        make_printable(line);
        fprintf(out, "%s\n", line);
    }
}

static int print(const recover_config *c, const json_t *report, char *why,
                 size_t why_size) {
    if (c->raw) {
        json_dumpf(report, stdout, JSON_COMPACT);
        fputc('\n', stdout);
    } else {
        show(stdout, report);
    }
    return rack_flush(why, why_size);
}

/* ERR_CANCELLED: no. */
static int confirm(const json_t *plan, char *why, size_t why_size) {
    char answer[16] = "";
    if (!isatty(STDIN_FILENO) || !isatty(STDERR_FILENO)) {
        return err_why(why, why_size, ERR_USAGE,
                       "this writes a new incarnation of the rack's "
                       "placement: say --yes, or look first with --dry-run");
    }
    show(stderr, plan);
    fprintf(stderr, "Go on? [y/N] ");
    if (fgets(answer, sizeof(answer), stdin) != NULL &&
        (answer[0] == 'y' || answer[0] == 'Y')) {
        return 0;
    }
    return err_why(why, why_size, ERR_CANCELLED, "nothing was changed");
}

/* ---- the command ---- */

static int recover(session *s, const recover_config *c, char *why,
                   size_t why_size) {
    json_t *plan, *report;
    int rc = ask_leader(s, c, true, &plan, why, why_size);
    if (rc < 0) return rc;
    if (c->dry_run || !has_work(plan)) {
        rc = print(c, plan, why, why_size);
        json_decref(plan);
        return rc;
    }
    if (!c->yes) rc = confirm(plan, why, why_size);
    json_decref(plan);
    if (rc == 0) rc = ask_leader(s, c, false, &report, why, why_size);
    if (rc < 0) return rc;
    rc = print(c, report, why, why_size);
    json_decref(report);
    return rc;
}

static int run(const recover_config *c, char *why, size_t why_size) {
    session s;
    int rc = session_open(&s, &c->session, why, why_size);
    if (rc == 0) rc = recover(&s, c, why, why_size);
    session_close(&s);
    return rc;
}

int cmd_recover(int argc, char **argv) {
    enum { OWN = 3 };
    recover_config c = {.dry_run = false};
    session_config_init(&c.session);
    option table[OWN + RACK_OPTIONS] = {
        {"dry-run", 0, OPTION_FLAG, &c.dry_run, NULL,
         "Only say what is wrong and what would be done."},
        {"yes", 'y', OPTION_FLAG, &c.yes, NULL, "Do not ask whether to go on."},
        {"json", 0, OPTION_FLAG, &c.raw, NULL, "Print the report as JSON."},
    };
    size_t n = OWN + rack_options(&c.session, table + OWN);
    const option_set set = {
        .program = NAME,
        .usage = "[options]",
        .about =
            "Puts the rack's etcd right after it was wiped, restored from an "
            "older snapshot, or ran out of space. What the rack works with is "
            "written into it as a new incarnation, so that the leader may "
            "change placements again; nothing that runs is interrupted. An "
            "etcd without space is compacted and defragmented.",
        .table = table,
        .count = n,
    };
    options *o;
    const char *const *args;
    size_t n_args;
    char why[CLI_WHY] = "";

    int status = cli_parse(&o, &set, argc, argv, 0, 0, &args, &n_args);
    if (status != CLI_RUN) return status;
    who_asks(c.by, sizeof(c.by));
    if (session_check_endpoint(c.session.endpoint, why, sizeof(why)) < 0) {
        status = cli_usage(NAME, "%s", why);
    } else {
        int rc = run(&c, why, sizeof(why));
        if (rc == 0) {
            status = CLI_OK;
        } else if (rc == ERR_USAGE) {
            status = cli_usage(NAME, "%s", why);
        } else {
            status = cli_fail(NAME, "%s", why);
        }
    }
    options_free(o);
    return status;
}
