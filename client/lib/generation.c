/* generation.c - a request to generate: what was asked, what has come of it.
 *
 * A generation lives on two lists.  In flight it is one of the client's calls;
 * as long as the user holds it, it is one of the client's generations.  One
 * that is destroyed inside a callback may still be in use further up the stack:
 * it waits on the client's list of dead ones until the turn is over. */
#include "client/lib/client.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "client/lib/buffer.h"
#include "client/lib/stats.h"
#include "engine/err.h"
#include "engine/util.h"

struct roster_generation {
    call call; /* first: a call is cast back */
    roster_generation *next;
    roster_on_token on_token;
    roster_on_end on_end;
    void *opaque;
    bool awaited; /* by roster_generate(), which must find it afterwards */

    /* What was asked, until it is accepted; the texts are in text_asked and
     * tokens_asked. */
    roster_request request;
    buffer text_asked, tokens_asked;

    buffer text, ids, prompt;
    buffer so_far; /* prompt and ids, as the last resume sent them */
    message_sampling sampling; /* resolved, with the seed */
    uint32_t max_tokens;       /* resolved */
    bool accepted, resumed;    /* resumed: the next ACCEPTED answers that */
    roster_finish finish;
    stats stats;
};

_Static_assert((int)ROSTER_FINISH_END == (int)FINISH_END, "finish reasons");
_Static_assert((int)ROSTER_FINISH_LENGTH == (int)FINISH_LENGTH, "finish");
_Static_assert((int)ROSTER_FINISH_CANCELLED == (int)FINISH_CANCELLED, "finish");
_Static_assert((int)ROSTER_FINISH_DONE == (int)FINISH_DONE, "finish reasons");

static void free_generation(roster_generation *g) {
    client_buffer_fini(&g->text_asked);
    client_buffer_fini(&g->tokens_asked);
    client_buffer_fini(&g->text);
    client_buffer_fini(&g->ids);
    client_buffer_fini(&g->prompt);
    client_buffer_fini(&g->so_far);
    client_stats_fini(&g->stats);
    free(g);
}

static uint32_t n_ids(const roster_generation *g) {
    return (uint32_t)(g->ids.bytes / sizeof(uint32_t));
}

/* ---- messages ---- */

static int out_of_turn(const message *m, char *why, size_t why_size) {
    return err_why(why, why_size, ERR_MALFORMED,
                   "the coordinator sent %s out of turn",
                   message_kind_name(m->kind));
}

/* Another coordinator goes on: it must have understood the same request. */
static int on_resumed(roster_generation *g, const message *m, char *why,
                      size_t why_size) {
    g->resumed = false;
    if (m->accepted.sampling.seed == g->sampling.seed &&
        m->accepted.max_tokens == g->max_tokens &&
        m->accepted.prompt_tokens.count ==
            (g->prompt.bytes + g->ids.bytes) / sizeof(uint32_t))
        return 0;
    return err_why(why, why_size, ERR_MALFORMED,
                   "%s took the request over as another one",
                   g->call.client->endpoint);
}

static int on_accepted(roster_generation *g, const message *m, char *why,
                       size_t why_size) {
    const message_u32s *prompt = &m->accepted.prompt_tokens;

    if (g->resumed) return on_resumed(g, m, why, why_size);
    if (g->accepted) return out_of_turn(m, why, why_size);
    int rc = client_buffer_add(&g->prompt, prompt->items,
                               prompt->count * sizeof(*prompt->items));
    if (rc < 0) return err_why(why, why_size, rc, "%s", err_text(rc));
    g->accepted = true;
    g->sampling = m->accepted.sampling;
    g->max_tokens = m->accepted.max_tokens;
    client_buffer_fini(&g->text_asked);
    client_buffer_fini(&g->tokens_asked);
    if (m->accepted.timeout_ms > 0) g->call.timeout_ms = m->accepted.timeout_ms;
    return 0;
}

/* Append, and show it to the user unless they asked to stop. */
static int deliver(roster_generation *g, const roster_token *t, char *why,
                   size_t why_size) {
    if (g->call.cancelling) return 0;

    int rc = client_buffer_add(&g->text, t->text, t->text_bytes);
    if (rc == 0 && t->id != ROSTER_NO_TOKEN)
        rc = client_buffer_add(&g->ids, &t->id, sizeof(t->id));
    if (rc < 0) return err_why(why, why_size, rc, "%s", err_text(rc));
    if (g->on_token == NULL) return 0;

    roster_client *c = g->call.client;
    c->callbacks++;
    int stop = g->on_token(g->opaque, g, t);
    c->callbacks--;
    if (stop != 0) call_cancel(&g->call);
    return 0;
}

static int on_token(roster_generation *g, const message *m, char *why,
                    size_t why_size) {
    if (g->call.cancelling) return 0;
    if (!g->accepted || g->resumed) return out_of_turn(m, why, why_size);
    if (m->token.index != n_ids(g)) {
        return err_why(why, why_size, ERR_MALFORMED,
                       "the coordinator sent token %u where %u was next",
                       m->token.index, n_ids(g));
    }
    if (g->max_tokens > 0 && m->token.index >= g->max_tokens) {
        return err_why(why, why_size, ERR_MALFORMED,
                       "the coordinator sent more than the %u tokens that it "
                       "had agreed to",
                       g->max_tokens);
    }
    if (m->token.id >= g->call.client->peer.n_vocab) {
        return err_why(why, why_size, ERR_MALFORMED,
                       "the coordinator sent token id %u of a vocabulary of %u",
                       m->token.id, g->call.client->peer.n_vocab);
    }
    const roster_token t = {
        .index = m->token.index,
        .id = m->token.id,
        .text = m->token.text.data,
        .text_bytes = m->token.text.len,
    };
    return deliver(g, &t, why, why_size);
}

static int on_finished(roster_generation *g, const message *m, char *why,
                       size_t why_size) {
    finish_reason reason = m->finished.reason;
    if (reason != FINISH_END && reason != FINISH_LENGTH &&
        reason != FINISH_CANCELLED) {
        return out_of_turn(m, why, why_size);
    }
    int rc = client_stats_take(&g->stats, m);
    if (rc < 0) return err_why(why, why_size, rc, "%s", err_text(rc));
    g->stats.figures.moves = g->call.moves;

    if (m->finished.text.len > 0) {
        const roster_token rest = {
            .index = n_ids(g),
            .id = ROSTER_NO_TOKEN,
            .text = m->finished.text.data,
            .text_bytes = m->finished.text.len,
        };
        rc = deliver(g, &rest, why, why_size);
        if (rc < 0) return rc;
    }
    g->finish = (roster_finish)reason;
    call_end(&g->call, 0, NULL);
    return 0;
}

static int on_message(call *c, const message *m, frames *f, char *why,
                      size_t why_size) {
    roster_generation *g = (roster_generation *)c;
    (void)f;

    switch (m->kind) {
    case MESSAGE_ACCEPTED:
        return on_accepted(g, m, why, why_size);
    case MESSAGE_TOKEN:
        return on_token(g, m, why, why_size);
    case MESSAGE_FINISHED:
        return on_finished(g, m, why, why_size);
    default:
        return out_of_turn(m, why, why_size);
    }
}

/* A cancel that we asked for is an orderly end, whichever way it is told. */
static void on_end(call *c) {
    roster_generation *g = (roster_generation *)c;

    if (c->cancelling && c->result == ERR_CANCELLED) {
        c->result = 0;
        c->why[0] = '\0';
        g->finish = ROSTER_FINISH_CANCELLED;
    }
    if (g->on_end == NULL) return;
    c->client->callbacks++;
    g->on_end(g->opaque, g);
    c->client->callbacks--;
}

/* ---- asking ---- */

static int check_request(roster_client *c, const roster_request *r) {
    if ((r->text_bytes > 0 && r->text == NULL) ||
        (r->n_tokens > 0 && r->tokens == NULL)) {
        return client_fail(c, ERR_USAGE, "the prompt has a length but no data");
    }
    if (r->text_bytes == 0 && r->n_tokens == 0 && !r->add_special)
        return client_fail(c, ERR_USAGE, "the prompt is empty");
    if (r->text_bytes > MESSAGE_TEXT_MAX) {
        return client_fail(c, ERR_TOO_LARGE,
                           "the prompt has %zu bytes; at most %zu can be sent",
                           r->text_bytes, MESSAGE_TEXT_MAX);
    }
    if (r->n_tokens > MESSAGE_TOKENS_MAX) {
        return client_fail(c, ERR_TOO_LARGE,
                           "the prompt has %zu tokens; at most %zu can be sent",
                           r->n_tokens, MESSAGE_TOKENS_MAX);
    }
    if (!isfinite(r->temperature) || r->temperature < 0) {
        return client_fail(c, ERR_RANGE, "temperature %g is not 0 or above",
                           (double)r->temperature);
    }
    if (!(r->top_p >= 0 && r->top_p <= 1) ||
        !(r->min_p >= 0 && r->min_p <= 1)) {
        return client_fail(c, ERR_RANGE,
                           "top_p %g and min_p %g must be from 0 to 1",
                           (double)r->top_p, (double)r->min_p);
    }
    return 0;
}

static void fill_message(const roster_request *r, message *m) {
    m->kind = MESSAGE_GENERATE;
    m->generate.text.data = r->text != NULL ? r->text : "";
    m->generate.text.len = r->text_bytes;
    m->generate.tokens.items = r->tokens;
    m->generate.tokens.count = r->n_tokens;
    m->generate.add_special = r->add_special != 0;
    m->generate.parse_special = r->parse_special != 0;
    m->generate.ignore_end = r->ignore_end != 0;
    m->generate.max_tokens = r->max_tokens;
    m->generate.timeout_ms = r->timeout_ms;
    m->generate.sampling.temperature = r->temperature;
    m->generate.sampling.top_k = r->top_k;
    m->generate.sampling.top_p = r->top_p > 0 ? r->top_p : 1;
    m->generate.sampling.min_p = r->min_p;
    m->generate.sampling.has_seed = r->has_seed != 0;
    m->generate.sampling.seed = r->seed;
}

/* The tokens so far, and what was resolved of the request: the same tokens
 * follow, by whichever coordinator of equal profile. */
static int fill_resume(roster_generation *g, message *m) {
    g->so_far.bytes = 0;
    int rc = client_buffer_add(&g->so_far, g->prompt.data, g->prompt.bytes);
    if (rc == 0) rc = client_buffer_add(&g->so_far, g->ids.data, g->ids.bytes);
    if (rc < 0) return rc;

    m->kind = MESSAGE_GENERATE;
    m->generate.text.data = "";
    m->generate.tokens.items = (const uint32_t *)(const void *)g->so_far.data;
    m->generate.tokens.count = g->so_far.bytes / sizeof(uint32_t);
    m->generate.resumed_tokens = n_ids(g);
    m->generate.delivered_bytes = g->text.bytes;
    m->generate.ignore_end = g->request.ignore_end != 0;
    m->generate.max_tokens = g->max_tokens;
    m->generate.timeout_ms = g->call.timeout_ms;
    m->generate.sampling = g->sampling;
    m->generate.sampling.has_seed = true;
    g->resumed = true;
    return 0;
}

static int ask_again(call *c, message *m, char *why, size_t why_size) {
    roster_generation *g = (roster_generation *)c;

    if (!g->accepted) {
        fill_message(&g->request, m);
        return 0;
    }
    int rc = fill_resume(g, m);
    return rc < 0 ? err_why(why, why_size, rc, "%s", err_text(rc)) : 0;
}

static const call_kind generation_kind = {on_message, on_end, ask_again};

/* Keep what another coordinator may have to be asked for. */
static int keep_request(roster_generation *g, const roster_request *r,
                        uint32_t timeout_ms) {
    int rc = client_buffer_add(&g->text_asked, r->text, r->text_bytes);
    if (rc == 0) {
        rc = client_buffer_add(&g->tokens_asked, r->tokens,
                               r->n_tokens * sizeof(*r->tokens));
    }
    g->request = *r;
    g->request.text = g->text_asked.data;
    g->request.tokens = (const uint32_t *)(const void *)g->tokens_asked.data;
    g->request.timeout_ms = timeout_ms;
    return rc;
}

int roster_submit(roster_client *client, const roster_request *request,
                  roster_on_token on_token_cb, roster_on_end on_end_cb,
                  void *opaque, roster_generation **out) {
    if (out != NULL) *out = NULL;
    int rc = client_ready(client, false);
    if (rc < 0) return rc;
    if (out == NULL)
        return client_fail(client, ERR_USAGE, "roster_submit() without out");

    roster_request r;
    rc = client_input_copy(&r, sizeof(r), request, client->why,
                           sizeof(client->why));
    if (rc == 0) rc = check_request(client, &r);
    if (rc < 0) return rc;

    roster_generation *g = calloc(1, sizeof(*g));
    if (g == NULL) return client_fail(client, -ENOMEM, "no memory");
    g->on_token = on_token_cb;
    g->on_end = on_end_cb;
    g->opaque = opaque;
    uint32_t timeout_ms =
        r.timeout_ms > 0 ? r.timeout_ms : client->config.timeout_ms;
    rc = keep_request(g, &r, timeout_ms);
    if (rc < 0) client_fail(client, rc, "no memory");
    if (rc == 0) {
        message m;
        client_header(client, &m, MESSAGE_GENERATE, 0);
        fill_message(&g->request, &m);
        rc = call_start(&g->call, &generation_kind, client, &m, timeout_ms);
    }
    if (rc < 0) {
        free_generation(g);
        return rc;
    }
    g->next = client->generations;
    client->generations = g;
    *out = g;
    return 0;
}

int roster_generate(roster_client *client, const roster_request *request,
                    roster_on_token on_token_cb, void *opaque,
                    roster_generation **out) {
    if (out != NULL) *out = NULL;
    int rc = client_ready(client, true);
    if (rc < 0) return rc;

    roster_generation *g;
    rc = roster_submit(client, request, on_token_cb, NULL, opaque, &g);
    if (rc < 0) return rc;
    g->awaited = true;
    rc = call_wait(&g->call);
    g->awaited = false;
    if (out != NULL) {
        *out = g;
    } else {
        roster_generation_destroy(&g);
    }
    return rc;
}

int roster_cancel(roster_generation *generation) {
    if (generation == NULL) return ERR_USAGE;
    call_cancel(&generation->call);
    return 0;
}

/* ---- the end ---- */

static void free_list(roster_generation **list) {
    while (*list != NULL) {
        roster_generation *g = *list;
        *list = g->next;
        free_generation(g);
    }
}

void generations_reap(roster_client *c) {
    if (c->callbacks == 0) free_list(&c->dead);
}

void generations_free_all(roster_client *c) {
    free_list(&c->dead);
    free_list(&c->generations);
}

void roster_generation_destroy(roster_generation **generation) {
    if (generation == NULL || *generation == NULL) return;
    roster_generation *g = *generation;
    roster_client *c = g->call.client;

    *generation = NULL;
    call_cancel(&g->call);
    if (g->awaited) return;
    call_drop(&g->call);
    g->on_token = NULL;
    g->on_end = NULL;

    roster_generation **at = &c->generations;
    while (*at != NULL && *at != g)
        at = &(*at)->next;
    if (*at == NULL) return; /* destroyed before */
    *at = g->next;
    g->next = c->dead;
    c->dead = g;
    generations_reap(c);
}

/* ---- reading ---- */

int roster_generation_result(const roster_generation *generation) {
    return generation->call.result;
}

const char *roster_generation_error(const roster_generation *generation) {
    return generation->call.why;
}

roster_finish roster_generation_finish(const roster_generation *generation) {
    return generation->finish;
}

const char *roster_generation_text(const roster_generation *generation,
                                   size_t *bytes) {
    const buffer *b = &generation->text;
    if (bytes != NULL) *bytes = b->bytes;
    return b->data != NULL ? b->data : "";
}

static const uint32_t *ids_of(const buffer *b, size_t *count) {
    if (count != NULL) *count = b->bytes / sizeof(uint32_t);
    return (const uint32_t *)(const void *)b->data;
}

const uint32_t *roster_generation_tokens(const roster_generation *generation,
                                         size_t *count) {
    return ids_of(&generation->ids, count);
}

const uint32_t *roster_generation_prompt(const roster_generation *generation,
                                         size_t *count) {
    return ids_of(&generation->prompt, count);
}

uint32_t roster_generation_moves(const roster_generation *generation) {
    return generation->call.moves;
}

uint64_t roster_generation_seed(const roster_generation *generation) {
    return generation->sampling.seed;
}

int roster_generation_stats(const roster_generation *generation,
                            roster_stats *out) {
    return client_stats_give(&generation->stats, out);
}
