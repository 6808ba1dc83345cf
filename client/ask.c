/* ask.c - see ask.h. */
#include "client/ask.h"

#include <errno.h>
#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "client/cli.h"
#include "client/figures.h"
#include "engine/err.h"
#include "engine/util.h"

/* ---- options ---- */

void ask_config_init(ask_config *c) {
    *c = (ask_config){
        .max_tokens = 256,
        .temperature = 0.8f,
        .top_k = 40,
        .top_p = 0.95f,
        .min_p = 0.05f,
        .add_special = true,
    };
    session_config_init(&c->session);
}

size_t ask_options(ask_config *c, option *table) {
    const option rows[] = {
        {"max-tokens", 'n', OPTION_U32, &c->max_tokens, "N",
         "Most tokens of an answer; 0: the coordinator's default."},
        {"temp", 0, OPTION_F32, &c->temperature, "T",
         "Temperature of sampling; 0 always takes the likeliest token."},
        {"top-k", 0, OPTION_U32, &c->top_k, "K",
         "Sample among the K likeliest tokens; 0: off."},
        {"top-p", 0, OPTION_F32, &c->top_p, "P",
         "Sample among the likeliest tokens that sum up to P; 1: off."},
        {"min-p", 0, OPTION_F32, &c->min_p, "P",
         "Drop tokens less likely than P times the likeliest; 0: off."},
        {"seed", 0, OPTION_STRING, &c->seed_text, "S",
         "Seed of sampling; the same seed and request give the same text. "
         "Without it a new one is drawn (--stats shows it)."},
        {"ignore-end", 0, OPTION_FLAG, &c->ignore_end, NULL,
         "Go on after an end-of-text token."},
        {"parse-special", 0, OPTION_FLAG, &c->parse_special, NULL,
         "Read control tokens that are written out in the prompt."},
        {"echo", 0, OPTION_FLAG, &c->echo, NULL,
         "Print the prompt before the text that continues it."},
        {"stats", 0, OPTION_FLAG, &c->stats, NULL,
         "Print figures to stderr: speed, experts run, bytes read, each "
         "node's share."},
    };
    _Static_assert(ARRAY_LEN(rows) + SESSION_OPTIONS == ASK_OPTIONS,
                   "rows of the table");
    memcpy(table, rows, sizeof(rows));
    return ARRAY_LEN(rows) +
           session_options(&c->session, table + ARRAY_LEN(rows));
}

/* The seed has no default to show in --help, hence a text. */
static int read_seed(ask_config *c, char *why, size_t why_size) {
    const char *text = c->seed_text;
    char *end = NULL;

    if (text == NULL) return 0;
    errno = 0;
    c->seed = strtoull(text, &end, 10);
    c->has_seed = true;
    if (text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0)
        return 0;
    return err_why(why, why_size, ERR_USAGE,
                   "--seed: '%s' is not a whole number below 2^64", text);
}

static bool is_share(float p) {
    return p >= 0 && p <= 1; /* false for what is no number */
}

int ask_check(ask_config *c, const options *o, char *why, size_t why_size) {
    int rc = read_seed(c, why, why_size);
    if (rc < 0) return rc;
    if (!(c->temperature >= 0 && c->temperature <= FLT_MAX)) {
        return err_why(why, why_size, ERR_USAGE, "--temp %g is not 0 or above",
                       (double)c->temperature);
    }
    if (!is_share(c->top_p) || !is_share(c->min_p)) {
        return err_why(why, why_size, ERR_USAGE,
                       "--top-p %g and --min-p %g must be from 0 to 1",
                       (double)c->top_p, (double)c->min_p);
    }
    return session_check(&c->session, o, why, why_size);
}

/* ---- history ---- */

void ask_history_fini(ask_history *h) {
    free(h->tokens);
    free(h->answer);
    *h = (ask_history){0};
}

/* What the model has seen and said is what comes before the next turn. */
static int remember(ask_history *h, const roster_generation *g) {
    size_t n_prompt, n_said;
    const uint32_t *prompt = roster_generation_prompt(g, &n_prompt);
    const uint32_t *said = roster_generation_tokens(g, &n_said);

    size_t count = n_prompt + n_said; /* both were received: no overflow */
    if (n_prompt == 0) return 0;
    uint32_t *tokens = malloc(count * sizeof(*tokens));
    if (tokens == NULL) return -ENOMEM;
    memcpy(tokens, prompt, n_prompt * sizeof(*tokens));
    if (n_said > 0) memcpy(tokens + n_prompt, said, n_said * sizeof(*tokens));
    free(h->tokens);
    h->tokens = tokens;
    h->count = count;
    return 0;
}

/* ---- asking ---- */

typedef struct {
    int write_error;      /* of stdout; ends the generation */
    char last;            /* character written */
    ask_history *history; /* whose answer grows */
} screen;

static int show(screen *sc, const char *text, size_t bytes) {
    if (bytes == 0) return 0;
    sc->last = text[bytes - 1];
    sc->write_error = cli_write(text, bytes);
    return sc->write_error;
}

static int keep(ask_history *h, const char *text, size_t bytes) {
    if (bytes == 0) return 0;
    char *grown = realloc(h->answer, h->answer_bytes + bytes);
    if (grown == NULL) return -ENOMEM;
    memcpy(grown + h->answer_bytes, text, bytes);
    h->answer = grown;
    h->answer_bytes += bytes;
    return 0;
}

static int on_token(void *opaque, roster_generation *g,
                    const roster_token *token) {
    screen *sc = opaque;
    (void)g;
    if (keep(sc->history, token->text, token->text_bytes) < 0) return -ENOMEM;
    return show(sc, token->text, token->text_bytes);
}

static void fill_request(roster_request *r, const ask_config *c,
                         const ask_history *h, const char *text,
                         size_t text_bytes) {
    roster_request_init(r);
    r->text = text;
    r->text_bytes = text_bytes;
    r->tokens = h->tokens;
    r->n_tokens = h->count;
    r->add_special = c->add_special;
    r->parse_special = c->parse_special;
    r->ignore_end = c->ignore_end;
    r->max_tokens = c->max_tokens;
    r->timeout_ms = c->session.timeout_ms;
    r->temperature = c->temperature;
    r->top_k = c->top_k;
    r->top_p = c->top_p;
    r->min_p = c->min_p;
    r->has_seed = c->has_seed;
    r->seed = c->seed;
}

/* Until it has ended: every generation has a deadline, and a cancelled one
 * ends soon. */
static int follow(session *s, roster_generation *g) {
    bool interrupted = false;

    while (roster_generation_result(g) == -EINPROGRESS) {
        int rc = session_turn(s, -1);
        if (rc == -EINTR) {
            interrupted = true;
            roster_cancel(g);
        } else if (rc < 0 && roster_generation_result(g) == -EINPROGRESS) {
            return rc;
        }
    }
    int rc = roster_generation_result(g);
    return rc == 0 && interrupted ? -EINTR : rc;
}

/* Put the outcome into a sentence. */
static int explain(session *s, int rc, const screen *sc,
                   const roster_generation *g, char *why, size_t why_size) {
    if (sc->write_error < 0) {
        return err_why(why, why_size, sc->write_error,
                       "cannot write to stdout: %s", err_text(sc->write_error));
    }
    if (rc == 0) return 0;
    const char *error = roster_generation_error(g);
    return session_explain(s, rc, error[0] ? error : err_text(rc), why,
                           why_size);
}

int ask(session *s, const ask_config *c, ask_history *h, const char *text,
        size_t text_bytes, char *why, size_t why_size) {
    screen sc = {.last = '\n', .history = h};
    roster_request request;
    roster_generation *g;

    h->answer_bytes = 0;
    fill_request(&request, c, h, text, text_bytes);
    int rc = roster_submit(s->client, &request, on_token, NULL, &sc, &g);
    if (rc < 0) {
        return session_explain(s, rc, roster_client_error(s->client), why,
                               why_size);
    }
    if (c->echo && show(&sc, text, text_bytes) < 0) roster_cancel(g);
    rc = follow(s, g);
    if (sc.last != '\n' && isatty(STDOUT_FILENO)) (void)cli_write("\n", 1);
    rc = explain(s, rc, &sc, g, why, why_size);
    if (remember(h, g) < 0 && rc == 0)
        rc = err_why(why, why_size, -ENOMEM, "no memory for the history");
    roster_stats figures;
    roster_stats_init(&figures);
    if (c->stats && roster_generation_stats(g, &figures) == 0)
        figures_print(stderr, &figures, g);
    roster_generation_destroy(&g);
    return rc;
}
