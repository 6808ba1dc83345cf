/* cmd_eval.c - `roster eval`: logits of a fixed token list, for tests and
 * comparisons.  Logits are written as they come, so memory does not grow with
 * the list; both files are put in place only when everything has come. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "client/cli.h"
#include "client/commands.h"
#include "client/output.h"
#include "client/routing.h"
#include "client/session.h"
#include "engine/err.h"
#include "engine/util.h"

#define NAME "roster eval"
#define OWN_OPTIONS 5

typedef struct {
    session_config session;
    const char *tokens_arg, *logits_path, *routing_path;
    uint32_t chunk;
    uint32_t *tokens;
    size_t n_tokens;
} eval_config;

static int check(eval_config *c, char *why, size_t why_size) {
    if (c->tokens_arg == NULL)
        return err_why(why, why_size, ERR_USAGE, "--tokens is missing");
    if (c->logits_path == NULL)
        return err_why(why, why_size, ERR_USAGE, "--logits is missing");
    return local_rack_check(&c->session.rack, why, why_size);
}

static int parse(eval_config *c, options **o, int argc, char **argv) {
    option table[OWN_OPTIONS + LOCAL_RACK_OPTIONS] = {
        {"tokens", 0, OPTION_STRING, &c->tokens_arg, "IDS|@FILE",
         "The token ids, separated by commas, or a file that holds them. "
         "Exactly these are fed; nothing is added."},
        {"logits", 0, OPTION_STRING, &c->logits_path, "FILE",
         "Where the logits go: raw little-endian f32 [n_tokens, vocab]."},
        {"routing", 0, OPTION_STRING, &c->routing_path, "FILE",
         "Where the chosen experts and their weights go, as JSON."},
        {"chunk", 0, OPTION_U32, &c->chunk, "C",
         "Feed C tokens at a time; 0: as the scheduler likes."},
        {"timeout", 0, OPTION_MS, &c->session.timeout_ms, "TIME",
         "Longest wait for the next rows."},
    };
    size_t n =
        OWN_OPTIONS + local_rack_options(&c->session.rack, table + OWN_OPTIONS);
    const option_set set = {
        .program = NAME,
        .usage = "MODEL --tokens IDS --logits FILE [options]",
        .about =
            "Evaluates a list of tokens with the GGUF file MODEL and writes "
            "the logits of every position. It starts a rack for that, of a "
            "coordinator alone unless --nodes asks for more. An output file "
            "is complete or absent.",
        .table = table,
        .count = n,
    };
    const char *const *args;
    size_t n_args;
    char why[CLI_WHY] = "";

    int status = cli_parse(o, &set, argc, argv, 1, 1, &args, &n_args);
    if (status != CLI_RUN) return status;
    c->session.rack.model = args[0];
    if (check(c, why, sizeof(why)) < 0) return cli_usage(NAME, "%s", why);
    int rc = cli_parse_ids_arg(c->tokens_arg, &c->tokens, &c->n_tokens, why,
                               sizeof(why));
    if (rc == ERR_USAGE) return cli_usage(NAME, "--tokens: %s", why);
    if (rc < 0) return cli_fail(NAME, "--tokens: %s", why);
    if (c->n_tokens == 0) return cli_usage(NAME, "--tokens: the list is empty");
    return CLI_RUN;
}

/* ---- rows ---- */

typedef struct {
    const eval_config *config;
    session *session;
    output logits, routing_file;
    routing routing;
    int error; /* ours, in take_rows(); told in `why` */
    char *why;
    size_t why_size;
} evaluation;

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "logits are written as they lie in memory");

static int take_rows(void *opaque, const roster_rows *rows) {
    evaluation *e = opaque;

    size_t n = (size_t)rows->n_rows * rows->n_vocab;
    if (fwrite(rows->logits, sizeof(float), n, e->logits.file) != n) {
        e->error = errno != 0 ? -errno : -EIO;
        return err_why(e->why, e->why_size, e->error, "cannot write %s: %s",
                       e->config->logits_path, err_text(e->error));
    }
    if (e->config->routing_path == NULL) return 0;
    e->error = routing_add(&e->routing, e->config->n_tokens, rows, e->why,
                           e->why_size);
    return e->error;
}

static int evaluate(evaluation *e) {
    const eval_config *c = e->config;
    roster_eval_request request;

    roster_eval_request_init(&request);
    request.tokens = c->tokens;
    request.n_tokens = c->n_tokens;
    request.chunk = c->chunk;
    request.routing = c->routing_path != NULL;
    request.timeout_ms = c->session.timeout_ms;
    int rc = roster_eval(e->session->client, &request, take_rows, e, NULL);
    if (e->error < 0) return e->error;
    if (rc == 0) return 0;
    return session_explain(e->session, rc,
                           roster_client_error(e->session->client), e->why,
                           e->why_size);
}

static int write_files(evaluation *e) {
    int rc = 0;

    if (e->config->routing_path != NULL) {
        rc = routing_write(&e->routing, e->routing_file.file, e->why,
                           e->why_size);
        if (rc == 0) rc = output_commit(&e->routing_file, e->why, e->why_size);
    }
    if (rc == 0) rc = output_commit(&e->logits, e->why, e->why_size);
    return rc;
}

static int run(const eval_config *c, session *s, char *why, size_t why_size) {
    evaluation e = {
        .config = c, .session = s, .why = why, .why_size = why_size};

    int rc = output_open(&e.logits, c->logits_path, why, why_size);
    if (rc == 0 && c->routing_path != NULL)
        rc = output_open(&e.routing_file, c->routing_path, why, why_size);
    if (rc == 0) rc = session_open(s, &c->session, why, why_size);
    if (rc == 0) rc = evaluate(&e);
    if (rc == 0) rc = write_files(&e);
    output_discard(&e.logits);
    output_discard(&e.routing_file);
    routing_fini(&e.routing);
    return rc;
}

int cmd_eval(int argc, char **argv) {
    char why[CLI_WHY] = "";
    options *o = NULL;
    eval_config c = {.tokens_arg = NULL};
    session_config_init(&c.session);
    c.session.timeout_ms = 60000;
    c.session.rack.kv = "f32";

    int status = parse(&c, &o, argc, argv);
    if (status == CLI_RUN) {
        session s = {0};
        int rc = run(&c, &s, why, sizeof(why));
        session_close(&s);
        status = rc < 0 ? cli_fail(NAME, "%s", why) : CLI_OK;
    }
    free(c.tokens);
    options_free(o);
    return status;
}
