/* eval.c - evaluations, whose rows go straight from the message to the caller.
 */
#include "client/lib/client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "client/lib/stats.h"
#include "engine/err.h"

enum { PART_LOGITS = 1, PART_EXPERTS, PART_WEIGHTS, PARTS };

typedef struct evaluation {
    call call; /* first: a call is cast back */
    roster_on_rows on_rows;
    void *opaque;
    uint32_t n_tokens, n_done;
    bool routing;
    stats stats;
} evaluation;

static int out_of_turn(const message *m, char *why, size_t why_size) {
    return err_why(why, why_size, ERR_MALFORMED,
                   "the coordinator answered an evaluation with %s",
                   message_kind_name(m->kind));
}

static int check_logits(const evaluation *e, const message *m, const frames *f,
                        char *why, size_t why_size) {
    if (m->logits.first != e->n_done || m->logits.n_rows == 0 ||
        m->logits.n_rows > e->n_tokens - e->n_done) {
        return err_why(why, why_size, ERR_MALFORMED,
                       "the coordinator sent %u rows from %u where row %u of "
                       "%u was next",
                       m->logits.n_rows, m->logits.first, e->n_done,
                       e->n_tokens);
    }
    if (m->logits.n_vocab != e->call.client->n_vocab) {
        return err_why(why, why_size, ERR_MALFORMED,
                       "the coordinator sent rows of %u logits, not %u",
                       m->logits.n_vocab, e->call.client->n_vocab);
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
    if (e->n_done != e->n_tokens) {
        return err_why(why, why_size, ERR_MALFORMED,
                       "the coordinator ended after %u of %u rows", e->n_done,
                       e->n_tokens);
    }
    int rc = client_stats_take(&e->stats, m);
    if (rc < 0) return err_why(why, why_size, rc, "%s", err_text(rc));
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

static const call_kind eval_kind = {on_eval_message, NULL};

void evaluation_free(evaluation *e) {
    if (e == NULL) return;
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
    evaluation_free(client->evaluation);
    client->evaluation = e;

    message m;
    client_header(client, &m, MESSAGE_EVAL, 0);
    m.eval.tokens.items = r.tokens;
    m.eval.tokens.count = r.n_tokens;
    m.eval.chunk = r.chunk;
    m.eval.routing = e->routing;
    m.eval.timeout_ms =
        r.timeout_ms > 0 ? r.timeout_ms : client->config.timeout_ms;
    rc = call_start(&e->call, &eval_kind, client, &m, m.eval.timeout_ms);
    if (rc == 0) rc = call_wait(&e->call);
    if (rc == 0 && out != NULL) rc = client_stats_give(&e->stats, out);
    return rc;
}
