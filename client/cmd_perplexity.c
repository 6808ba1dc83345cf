/* cmd_perplexity.c - `roster perplexity`: how well a model predicts a text.
 *
 * The windows are evaluated one after the other, and their rows are scored as
 * they come: memory holds the text, its tokens and one message of rows. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "client/cli.h"
#include "client/commands.h"
#include "client/perplexity.h"
#include "client/session.h"
#include "engine/err.h"
#include "engine/gguf.h"
#include "engine/tokenizer.h"
#include "engine/util.h"

#define NAME "roster perplexity"
#define OWN_OPTIONS 3
/* Days of evaluation, on any machine: more is a mistake. */
#define TEXT_MAX_BYTES ((size_t)256 << 20)
#define READ_BYTES ((size_t)1 << 20)

typedef struct {
    session_config session;
    const char *path; /* of the text */
    uint32_t ctx, chunk;
} perplexity_config;

static int parse(perplexity_config *c, options **o, int argc, char **argv) {
    option table[OWN_OPTIONS + LOCAL_RACK_OPTIONS] = {
        {"ctx", 0, OPTION_U32, &c->ctx, "N",
         "Tokens of a window, whose second half is scored."},
        {"chunk", 0, OPTION_U32, &c->chunk, "C",
         "Feed C tokens at a time; 0: as the scheduler likes."},
        {"timeout", 0, OPTION_MS, &c->session.timeout_ms, "TIME",
         "Longest wait for the next rows."},
    };
    size_t n =
        OWN_OPTIONS + local_rack_options(&c->session.rack, table + OWN_OPTIONS);
    const option_set set = {
        .program = NAME,
        .usage = "MODEL FILE [options]",
        .about =
            "Measures how well the GGUF file MODEL predicts the text in FILE, "
            "in the way of llama-perplexity; less is better. It starts a rack "
            "for that, of a coordinator alone unless --nodes asks for more. "
            "The last line is `perplexity` and the figure.",
        .table = table,
        .count = n,
    };
    const char *const *args;
    size_t n_args;
    char why[CLI_WHY] = "";

    int status = cli_parse(o, &set, argc, argv, 2, 2, &args, &n_args);
    if (status != CLI_RUN) return status;
    c->session.rack.model = args[0];
    c->path = args[1];
    if (c->ctx < PERPLEXITY_CTX_LEAST)
        return cli_usage(NAME, "--ctx: expected at least %d",
                         PERPLEXITY_CTX_LEAST);
    if (local_rack_check(&c->session.rack, why, sizeof(why)) < 0)
        return cli_usage(NAME, "%s", why);
    return CLI_RUN;
}

/* ---- the text and its tokens ---- */

typedef struct {
    char *bytes;
    size_t n, room;
} text;

static int read_all(int fd, text *t) {
    while (t->n <= TEXT_MAX_BYTES) {
        if (t->room - t->n < READ_BYTES) {
            size_t room = size_max(2 * t->room, 2 * READ_BYTES);
            char *bytes = realloc(t->bytes, room);
            if (bytes == NULL) return -ENOMEM;
            t->bytes = bytes;
            t->room = room;
        }
        ssize_t n = read(fd, t->bytes + t->n, READ_BYTES);
        if (n == 0) return 0;
        if (n < 0 && errno != EINTR) return -errno;
        if (n > 0) t->n += (size_t)n;
    }
    return ERR_TOO_LARGE;
}

static int read_text(text *t, const char *path, char *why, size_t why_size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = fd >= 0 ? read_all(fd, t) : -errno;
    if (fd >= 0) close(fd);
    if (rc == ERR_TOO_LARGE)
        return err_why(why, why_size, rc, "%s has more than %zu bytes", path,
                       TEXT_MAX_BYTES);
    return rc < 0 ? err_why(why, why_size, rc, "cannot read %s: %s", path,
                            err_text(rc))
                  : 0;
}

typedef struct {
    uint32_t *tokens; /* the first is BOS, if texts begin with it */
    size_t n;
    bool has_bos;
} token_list;

/* The size is asked for first: room for the worst case would be several times
 * as much. */
static int encode(const tokenizer *t, const text *in, token_list *out,
                  char *why, size_t why_size) {
    size_t n = 0, bos = tokenizer_adds_bos(t) ? 1 : 0;

    int rc = tokenizer_encode(t, in->bytes, in->n, false, false, NULL, 0, &n);
    if (rc == 0 || rc == ERR_RANGE) {
        out->tokens = calloc(n + bos + 1, sizeof(*out->tokens));
        rc = out->tokens != NULL
                 ? tokenizer_encode(t, in->bytes, in->n, false, false,
                                    (int32_t *)out->tokens + bos, n, &n)
                 : -ENOMEM;
    }
    if (rc < 0)
        return err_why(why, why_size, rc, "cannot tokenize the text: %s",
                       err_text(rc));
    if (bos > 0) out->tokens[0] = (uint32_t)tokenizer_bos(t);
    out->has_bos = bos > 0;
    out->n = n + bos;
    return 0;
}

static int open_tokenizer(tokenizer **out, const char *path, char *why,
                          size_t why_size) {
    char what[CLI_WHY] = "";
    gguf *g;

    int rc = gguf_open(&g, path, why, why_size);
    if (rc < 0) return rc;
    rc = tokenizer_new(out, g, what, sizeof(what));
    gguf_close(g);
    return rc < 0 ? err_why(why, why_size, rc, "%s: %s", path,
                            what[0] != '\0' ? what : err_text(rc))
                  : 0;
}

static int load_tokens(const perplexity_config *c, token_list *out, char *why,
                       size_t why_size) {
    tokenizer *t = NULL;
    text in = {0};

    int rc = read_text(&in, c->path, why, why_size);
    if (rc == 0) rc = open_tokenizer(&t, c->session.rack.model, why, why_size);
    if (rc == 0) rc = encode(t, &in, out, why, why_size);
    free(in.bytes);
    tokenizer_free(t);
    if (rc < 0 || out->n >= perplexity_needs(c->ctx)) return rc;
    return err_why(why, why_size, ERR_RANGE,
                   "%s has %zu tokens; %zu are needed, two windows of %u",
                   c->path, out->n, perplexity_needs(c->ctx), c->ctx);
}

/* ---- measuring ---- */

typedef struct {
    const perplexity_config *config;
    session *session;
    const uint32_t *window; /* the tokens of the one that is evaluated */
    perplexity sums;
    bool terminal; /* progress is shown */
    int error;     /* ours, in take_rows(); told in `why` */
    char *why;
    size_t why_size;
} measurement;

static int take_rows(void *opaque, const roster_rows *rows) {
    measurement *m = opaque;
    uint32_t ctx = m->config->ctx;

    for (uint32_t i = 0; i < rows->n_rows; i++) {
        uint32_t j = rows->first + i;
        if (!perplexity_scores(ctx, j)) continue;
        const float *logits = rows->logits + (size_t)i * rows->n_vocab;
        m->error =
            perplexity_add(&m->sums, logits, rows->n_vocab, m->window[j + 1]);
        if (m->error < 0)
            return err_why(m->why, m->why_size, m->error,
                           "token %u cannot be scored: %u logits, or one that "
                           "is not a number",
                           m->window[j + 1], rows->n_vocab);
    }
    return 0;
}

static int evaluate(measurement *m, const uint32_t *fed) {
    const perplexity_config *c = m->config;
    roster_eval_request request;

    roster_eval_request_init(&request);
    request.tokens = fed;
    request.n_tokens = c->ctx;
    request.chunk = c->chunk;
    request.timeout_ms = c->session.timeout_ms;
    int rc = roster_eval(m->session->client, &request, take_rows, m, NULL);
    if (m->error < 0) return m->error;
    if (rc == 0) return 0;
    return session_explain(m->session, rc,
                           roster_client_error(m->session->client), m->why,
                           m->why_size);
}

static void show(const measurement *m, size_t done, size_t all) {
    if (!m->terminal) return;
    fprintf(stderr, "\r%zu of %zu windows, perplexity %.4f%s", done, all,
            perplexity_value(&m->sums), done == all ? "\n" : "");
}

static int measure(measurement *m, const token_list *list) {
    uint32_t ctx = m->config->ctx;
    size_t windows = list->n / ctx;
    uint32_t *fed = calloc(ctx, sizeof(*fed));
    int rc =
        fed != NULL ? 0 : err_why(m->why, m->why_size, -ENOMEM, "no memory");

    for (size_t i = 0; rc == 0 && i < windows; i++) {
        m->window = list->tokens + i * ctx;
        memcpy(fed, m->window, ctx * sizeof(*fed));
        if (list->has_bos) fed[0] = list->tokens[0];
        rc = evaluate(m, fed);
        if (rc == 0) show(m, i + 1, windows);
    }
    free(fed);
    return rc;
}

static int print(const measurement *m, size_t windows) {
    char lines[256];
    int n =
        snprintf(lines, sizeof(lines),
                 "%zu windows of %u tokens, %llu tokens scored, +/- %.4f\n"
                 "perplexity %.4f\n",
                 windows, m->config->ctx, (unsigned long long)m->sums.n_scored,
                 perplexity_error(&m->sums), perplexity_value(&m->sums));
    int rc = cli_write(lines, (size_t)n);
    return rc < 0 ? err_why(m->why, m->why_size, rc,
                            "cannot write to stdout: %s", err_text(rc))
                  : 0;
}

static int run(const perplexity_config *c, session *s, char *why,
               size_t why_size) {
    measurement m = {.config = c,
                     .session = s,
                     .terminal = isatty(STDERR_FILENO) != 0,
                     .why = why,
                     .why_size = why_size};
    token_list list = {0};

    int rc = load_tokens(c, &list, why, why_size);
    if (rc == 0) rc = session_open(s, &c->session, why, why_size);
    if (rc == 0) rc = measure(&m, &list);
    if (rc == 0) rc = print(&m, list.n / c->ctx);
    free(list.tokens);
    return rc;
}

int cmd_perplexity(int argc, char **argv) {
    char why[CLI_WHY] = "";
    options *o = NULL;
    perplexity_config c = {.ctx = 512};
    session_config_init(&c.session);
    c.session.timeout_ms = 60000;

    int status = parse(&c, &o, argc, argv);
    if (status == CLI_RUN) {
        session s = {0};
        int rc = run(&c, &s, why, sizeof(why));
        session_close(&s);
        status = rc < 0 ? cli_fail(NAME, "%s", why) : CLI_OK;
    }
    options_free(o);
    return status;
}
