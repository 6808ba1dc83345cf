/* eval.c - evaluations, whose rows go straight from the message to the caller.
 *
 * An evaluation is a pure function of its tokens: when its coordinator is lost,
 * another one begins anew, and the rows that the caller has are passed over. */
#include "client/lib/client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "client/lib/buffer.h"
#include "client/lib/stats.h"
#include "engine/err.h"
#include "engine/util.h"

enum { PART_LOGITS = 1, PART_EXPERTS, PART_WEIGHTS, PARTS };

typedef struct evaluation {
    call call; /* first: a call is cast back */
    roster_on_rows on_rows;
    void *opaque;
    roster_eval_request request; /* its tokens are in `tokens` */
    buffer tokens;
    uint32_t n_tokens;
    uint32_t n_come; /* rows, from this coordinator */
    uint32_t n_done; /* rows that the caller has */
    bool routing;
    void *rest; /* rows that were cut to size, see tail_of() */
    stats stats;
} evaluation;

static int out_of_turn(const message *m, char *why, size_t why_size) {
    return err_why(why, why_size, ERR_MALFORMED,
                   "the coordinator answered an evaluation with %s",
                   message_kind_name(m->kind));
}

static int check_logits(const evaluation *e, const message *m, const frames *f,
                        char *why, size_t why_size) {
    if (m->logits.first != e->n_come || m->logits.n_rows == 0 ||
        m->logits.n_rows > e->n_tokens - e->n_come) {
        return err_why(why, why_size, ERR_MALFORMED,
                       "the coordinator sent %u rows from %u where row %u of "
                       "%u was next",
                       m->logits.n_rows, m->logits.first, e->n_come,
                       e->n_tokens);
    }
    if (m->logits.n_vocab != e->call.client->peer.n_vocab) {
        return err_why(why, why_size, ERR_MALFORMED,
                       "the coordinator sent rows of %u logits, not %u",
                       m->logits.n_vocab, e->call.client->peer.n_vocab);
    }
    /* A dense model has no routing to send. */
    bool routed = e->routing && m->logits.moe_layers.count > 0;
    if (f->count != (routed ? PARTS : PART_LOGITS + 1)) {
        return err_why(why, why_size, ERR_MALFORMED,
                       "the coordinator sent %zu payloads of logits %s routing",
                       f->count - 1, e->routing ? "with" : "without");
    }
    return 0;
}

/* Keep the rows after the first `skip`: of the routing they lie apart, in each
 * layer, so that is copied. */
static int tail_of(evaluation *e, roster_rows *rows, uint32_t skip) {
    uint32_t n = rows->n_rows - skip;
    size_t run = (size_t)n * rows->k; /* of a layer, in and out */
    size_t all = (size_t)rows->n_rows * rows->k;

    rows->logits += (size_t)skip * rows->n_vocab;
    rows->first += skip;
    rows->n_rows = n;
    if (rows->n_moe_layers == 0) return 0;

    /* No larger than what came; ids and weights have the same size. */
    size_t one = rows->n_moe_layers * run * sizeof(float);
    free(e->rest);
    e->rest = malloc(2 * one + 1);
    if (e->rest == NULL) return -ENOMEM;
    uint32_t *experts = e->rest;
    float *weights = (float *)e->rest + rows->n_moe_layers * run;
    for (uint32_t l = 0; l < rows->n_moe_layers; l++) {
        size_t from = l * all + (size_t)skip * rows->k;
        memcpy(experts + l * run, rows->experts + from, run * sizeof(*experts));
        memcpy(weights + l * run, rows->weights + from, run * sizeof(*weights));
    }
    rows->experts = experts;
    rows->weights = weights;
    return 0;
}

static int on_logits(evaluation *e, const message *m, frames *f, char *why,
                     size_t why_size) {
    int rc = check_logits(e, m, f, why, why_size);
    if (rc < 0) return rc;

    roster_rows rows = {
        .first = m->logits.first,
        .n_rows = m->logits.n_rows,
        .n_vocab = m->logits.n_vocab,
        .logits = frames_data(f, PART_LOGITS), /* aligned: frames.h */
    };
    if (f->count == PARTS) {
        rows.n_moe_layers = (uint32_t)m->logits.moe_layers.count;
        rows.k = m->logits.k;
        rows.moe_layers = m->logits.moe_layers.items;
        rows.experts = frames_data(f, PART_EXPERTS);
        rows.weights = frames_data(f, PART_WEIGHTS);
    }
    e->n_come += rows.n_rows;
    if (e->n_come <= e->n_done) return 0; /* from before a move */
    if (rows.first < e->n_done) rc = tail_of(e, &rows, e->n_done - rows.first);
    if (rc < 0) return err_why(why, why_size, rc, "%s", err_text(rc));
    e->n_done += rows.n_rows;
    if (e->on_rows == NULL || e->call.cancelling) return 0;

    roster_client *c = e->call.client;
    c->callbacks++;
    int stop = e->on_rows(e->opaque, &rows);
    c->callbacks--;
    if (stop != 0) call_cancel(&e->call);
    return 0;
}

static int on_finished(evaluation *e, const message *m, char *why,
                       size_t why_size) {
    if (m->finished.reason == FINISH_CANCELLED) {
        call_end(&e->call, ERR_CANCELLED, "cancelled");
        return 0;
    }
    if (m->finished.reason != FINISH_DONE) return out_of_turn(m, why, why_size);
    if (e->n_come != e->n_tokens) {
        return err_why(why, why_size, ERR_MALFORMED,
                       "the coordinator ended after %u of %u rows", e->n_come,
                       e->n_tokens);
    }
    int rc = client_stats_take(&e->stats, m);
    if (rc < 0) return err_why(why, why_size, rc, "%s", err_text(rc));
    e->stats.figures.moves = e->call.moves;
    call_end(&e->call, 0, NULL);
    return 0;
}

static int on_eval_message(call *c, const message *m, frames *f, char *why,
                           size_t why_size) {
    evaluation *e = (evaluation *)c;

    switch (m->kind) {
    case MESSAGE_ACCEPTED:
        return 0; /* says nothing that we do not know */
    case MESSAGE_LOGITS:
        return on_logits(e, m, f, why, why_size);
    case MESSAGE_FINISHED:
        return on_finished(e, m, why, why_size);
    default:
        return out_of_turn(m, why, why_size);
    }
}

static void fill_message(const evaluation *e, message *m) {
    const roster_eval_request *r = &e->request;

    m->kind = MESSAGE_EVAL;
    m->eval.tokens.items = r->tokens;
    m->eval.tokens.count = r->n_tokens;
    m->eval.chunk = r->chunk;
    m->eval.routing = e->routing;
    m->eval.timeout_ms = r->timeout_ms;
}

static int eval_again(call *c, message *m, char *why, size_t why_size) {
    evaluation *e = (evaluation *)c;
    (void)why;
    (void)why_size;

    e->n_come = 0;
    fill_message(e, m);
    return 0;
}

static const call_kind eval_kind = {on_eval_message, NULL, eval_again};

void evaluation_free(evaluation *e) {
    if (e == NULL) return;
    client_buffer_fini(&e->tokens);
    free(e->rest);
    client_stats_fini(&e->stats);
    free(e);
}

static int check_eval(roster_client *c, const roster_eval_request *r) {
    if (r->tokens == NULL || r->n_tokens == 0)
        return client_fail(c, ERR_USAGE, "there are no tokens to evaluate");
    if (r->n_tokens > MESSAGE_TOKENS_MAX) {
        return client_fail(c, ERR_TOO_LARGE,
                           "%zu tokens to evaluate; at most %zu can be sent",
                           r->n_tokens, MESSAGE_TOKENS_MAX);
    }
    return 0;
}

int roster_eval(roster_client *client, const roster_eval_request *request,
                roster_on_rows on_rows, void *opaque, roster_stats *out) {
    int rc = client_ready(client, true);
    if (rc < 0) return rc;

    roster_eval_request r;
    rc = client_input_copy(&r, sizeof(r), request, client->why,
                           sizeof(client->why));
    if (rc == 0) rc = check_eval(client, &r);
    if (rc < 0) return rc;

    evaluation *e = calloc(1, sizeof(*e));
    if (e == NULL) return client_fail(client, -ENOMEM, "no memory");
    e->on_rows = on_rows;
    e->opaque = opaque;
    e->n_tokens = (uint32_t)r.n_tokens;
    e->routing = r.routing != 0;
    e->request = r;
    if (r.timeout_ms == 0) e->request.timeout_ms = client->config.timeout_ms;
    rc = client_buffer_add(&e->tokens, r.tokens, r.n_tokens * sizeof(uint32_t));
    e->request.tokens = (const uint32_t *)(const void *)e->tokens.data;
    evaluation_free(client->evaluation);
    client->evaluation = e;
    if (rc < 0) return client_fail(client, rc, "no memory");

    message m;
    client_header(client, &m, MESSAGE_EVAL, 0);
    fill_message(e, &m);
    rc = call_start(&e->call, &eval_kind, client, &m, e->request.timeout_ms);
    if (rc == 0) rc = call_wait(&e->call);
    if (rc == 0 && out != NULL) rc = client_stats_give(&e->stats, out);
    return rc;
}
