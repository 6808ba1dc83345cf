/* answers.c - see answers.h. */
#include "coordinator/answers.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/server_internal.h"
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"

/* ---- counters around a request ---- */

static uint32_t n_places(const server *s) {
    return s->nodes != NULL ? nodes_count(s->nodes) : 0;
}

static int count_at_start(const server *s, request *r) {
    uint32_t n = n_places(s);
    r->at_start = calloc(n + 1, sizeof(*r->at_start));
    if (r->at_start == NULL) return -ENOMEM;
    r->n_at_start = n;
    for (uint32_t i = 0; i < n; i++) {
        pairs_count *c = &r->at_start[i];
        c->pairs = nodes_pairs(s->nodes, i, &c->serial);
    }
    dispatch_stats totals;
    exchange_totals(s->config.experts, &totals);
    r->local_at_start = totals.local_pairs;
    r->takeovers_at_start = totals.takeover_pairs;
    return 0;
}

/* What the node in place i has computed since the request began; all that it
 * ever has if it came later. */
static uint64_t pairs_since(const server *s, const request *r, uint32_t i) {
    uint64_t serial, pairs = nodes_pairs(s->nodes, i, &serial);
    if (i >= r->n_at_start || r->at_start[i].serial != serial) return pairs;
    return pairs - r->at_start[i].pairs;
}

/* Of the nodes that are there, and our own; shares[MESSAGE_SHARES_MAX]. */
static size_t list_shares(const server *s, const request *r,
                          message_share *shares) {
    size_t n = 0;
    for (uint32_t i = 0; i < n_places(s) && n + 1 < MESSAGE_SHARES_MAX; i++) {
        const char *name = nodes_name(s->nodes, i);
        if (name == NULL) continue;
        shares[n++] = (message_share){name, pairs_since(s, r, i)};
    }
    dispatch_stats totals;
    exchange_totals(s->config.experts, &totals);
    shares[n++] =
        (message_share){"local", totals.local_pairs - r->local_at_start};
    return n;
}

/* Feed the resumed tokens through the text stream again; what it gives beyond
 * the bytes that were delivered is still owed. */
static int replay(const server *s, request *r, const message *asked) {
    const message_u32s *given = &asked->generate.tokens;
    uint32_t n = asked->generate.resumed_tokens;
    uint64_t skip = asked->generate.delivered_bytes;
    for (size_t i = given->count - n; i < given->count; i++) {
        gguf_string piece =
            tokenizer_piece(s->config.words, (int32_t)given->items[i], false);
        char *text = malloc(piece.len + sizeof(r->text.held));
        if (text == NULL) return -ENOMEM;
        size_t bytes = utf8_stream_push(&r->text, piece.data, piece.len, text);
        size_t owed = bytes > skip ? bytes - (size_t)skip : 0;
        char *head = realloc(r->head, r->head_bytes + owed + 1);
        if (head == NULL) {
            free(text);
            return -ENOMEM;
        }
        memcpy(head + r->head_bytes, text + bytes - owed, owed);
        r->head = head;
        r->head_bytes += owed;
        skip -= size_min(bytes, (size_t)skip);
        free(text);
    }
    r->first_index = n;
    r->delivered_bytes = asked->generate.delivered_bytes;
    return 0;
}

int answers_begin(server *s, request *r, const message *asked) {
    int rc = count_at_start(s, r);
    if (rc < 0) return rc;
    if (asked->kind != MESSAGE_GENERATE) return 0;
    return replay(s, r, asked);
}

/* ---- events ---- */

static message answer(const server *s, const request *r, message_kind kind) {
    message m = identity_message(s->config.self, kind);
    m.to_boot_id = r->boot_id;
    m.request_id = r->request_id;
    return m;
}

/* An answer that cannot be made would leave a hole in what the client gets: it
 * is told instead that its request failed. */
static void give_up(server *s, request *r, const message *m, int code) {
    log_error("cannot make a %s for request %llu: %s",
              message_kind_name(m->kind), (unsigned long long)r->id,
              err_text(code));
    server_give_up(s, r, code, err_text(code));
}

/* Takes *f; the request may be gone after. */
static void send_sealed(server *s, request *r, frames *f, const message *m) {
    int rc = message_seal(f, m);
    if (rc == 0) {
        server_send(s, r->owner, f);
        return;
    }
    frames_fini(f);
    give_up(s, r, m, rc);
}

static void send_plain(server *s, request *r, const message *m) {
    frames f;
    frames_init(&f);
    if (frames_add(&f, 0) == NULL) {
        give_up(s, r, m, -ENOMEM);
        return;
    }
    send_sealed(s, r, &f, m);
}

static void on_token(server *s, request *r, const step_event *e) {
    gguf_string piece =
        tokenizer_piece(s->config.words, (int32_t)e->token, false);
    message m = answer(s, r, MESSAGE_TOKEN);
    size_t room = r->head_bytes + piece.len + sizeof(r->text.held);
    char *text = malloc(room);
    if (text == NULL) {
        give_up(s, r, &m, -ENOMEM);
        return;
    }
    size_t bytes = r->head_bytes;
    if (bytes > 0) memcpy(text, r->head, bytes);
    r->head_bytes = 0;
    bytes += utf8_stream_push(&r->text, piece.data, piece.len, text + bytes);
    r->delivered_bytes += bytes;
    s->tokens_generated++;

    m.token.index = r->first_index + e->index;
    m.token.id = e->token;
    m.token.text = (message_text){text, bytes};
    m.token.delivered_bytes = r->delivered_bytes;
    send_plain(s, r, &m);
    free(text);
}

/* A part of `bytes` bytes copied from `from`. */
static bool add_part(frames *f, const void *from, size_t bytes) {
    void *part = frames_add(f, bytes);
    if (part == NULL) return false;
    if (bytes > 0) memcpy(part, from, bytes);
    return true;
}

static void on_logits(server *s, request *r, const step_event *e,
                      const uint32_t *moe_layers, uint32_t n_moe) {
    const model_config *c = &s->config.weights->config;
    message m = answer(s, r, MESSAGE_LOGITS);
    m.logits.first = e->first;
    m.logits.n_rows = e->n_rows;
    m.logits.n_vocab = c->n_vocab;
    frames f;
    frames_init(&f);
    bool ok =
        frames_add(&f, 0) != NULL &&
        add_part(&f, e->logits, (size_t)e->n_rows * c->n_vocab * sizeof(float));
    if (ok && e->experts != NULL) {
        size_t n = (size_t)n_moe * e->n_rows * c->n_used;
        m.logits.moe_layers = (message_u32s){moe_layers, n_moe};
        m.logits.k = c->n_used;
        ok = add_part(&f, e->experts, n * sizeof(uint32_t)) &&
             add_part(&f, e->weights, n * sizeof(float));
    }
    if (!ok) {
        frames_fini(&f);
        give_up(s, r, &m, -ENOMEM);
        return;
    }
    send_sealed(s, r, &f, &m);
}

static void fill_stats(const server *s, const request *r, message *m,
                       message_share *shares) {
    const model_config *c = &s->config.weights->config;
    uint32_t n_moe = model_n_moe(c);
    m->finished.experts_per_token = n_moe * c->n_used;
    m->finished.experts_stored = n_moe * c->n_experts;
    m->finished.bytes_per_token =
        s->config.weights->bytes_per_token + s->config.expert_bytes_per_token;
    m->finished.bytes_resident =
        s->config.weights->bytes + local_experts_bytes(s->config.local);
    if (s->nodes != NULL) {
        m->finished.bytes_resident += nodes_resident_bytes(s->nodes);
    }
    m->finished.shares = shares;
    m->finished.n_shares = list_shares(s, r, shares);
    dispatch_stats totals;
    exchange_totals(s->config.experts, &totals);
    m->finished.takeovers = totals.takeover_pairs - r->takeovers_at_start;
}

static void on_finished(server *s, request *r, const step_event *e) {
    message m = answer(s, r, MESSAGE_FINISHED);
    m.finished.reason = e->reason;
    m.finished.prompt_tokens = e->timing.prompt_tokens;
    m.finished.generated_tokens = e->timing.generated;
    m.finished.prompt_us = e->timing.prompt_us;
    m.finished.generate_us = e->timing.generate_us;

    /* What is still owed, if no token came after a resume, and what never
     * became a character. */
    char *text = malloc(r->head_bytes + sizeof(r->text.held));
    if (text == NULL) {
        give_up(s, r, &m, -ENOMEM);
        return;
    }
    size_t bytes = r->head_bytes;
    if (bytes > 0) memcpy(text, r->head, bytes);
    bytes += utf8_stream_flush(&r->text, text + bytes);
    m.finished.text = (message_text){text, bytes};

    message_share shares[MESSAGE_SHARES_MAX];
    fill_stats(s, r, &m, shares);
    send_plain(s, r, &m);
    free(text);
}

void answers_end(server *s, request *r, uint32_t n_tokens) {
    uint64_t id = r->id;
    const step_event e = {
        .reason = FINISH_LENGTH,
        .timing = {.prompt_tokens = n_tokens},
    };
    on_finished(s, r, &e);
    r = clients_find(s->clients, id); /* gone, if its client was */
    if (r != NULL) clients_drop_request(s->clients, r);
}

/* That no live node holds an expert is for those to say who see the whole rack;
 * from anybody else the client goes on with another coordinator. */
static void on_failed(server *s, request *r, const step_event *e) {
    char unseen[128] = "", why[sizeof(e->why) + sizeof(unseen)];
    bool elsewhere = e->code == ERR_UNAVAILABLE && s->nodes != NULL &&
                     !nodes_see_all(s->nodes, unseen, sizeof(unseen));
    snprintf(why, sizeof(why), "%s%s%s", e->why, elsewhere ? "; " : "", unseen);
    log_warn("request %llu failed: %s", (unsigned long long)r->id, why);
    message m = answer(s, r, MESSAGE_ERROR);
    m.error.code = elsewhere ? ERR_CLOSED : e->code;
    m.error.text = why;
    send_plain(s, r, &m);
}

static void on_event(server *s, const step_event *e) {
    request *r = clients_find(s->clients, e->id);
    if (r == NULL) return; /* cancelled meanwhile */
    uint32_t moe[MODEL_MAX_LAYERS], n_moe = 0;
    switch (e->kind) {
    case EVENT_TOKEN:
        on_token(s, r, e);
        return;
    case EVENT_LOGITS:
        for (uint32_t l = 0; l < s->config.weights->config.n_layers; l++) {
            if (model_is_moe(&s->config.weights->config, l)) moe[n_moe++] = l;
        }
        on_logits(s, r, e, moe, n_moe);
        return;
    case EVENT_FINISHED:
        on_finished(s, r, e);
        break;
    case EVENT_FAILED:
        on_failed(s, r, e);
        break;
    }
    /* The last message may have found the client gone, and the request. */
    r = clients_find(s->clients, e->id);
    if (r != NULL) clients_drop_request(s->clients, r);
}

void server_take_events(server *s) {
    step_event *e = step_events(s->config.steps);
    while (e != NULL) {
        step_event *next = e->next;
        if (!s->closing) on_event(s, e);
        step_event_free(e);
        e = next;
    }
    step_events_done(s->config.steps);
}
