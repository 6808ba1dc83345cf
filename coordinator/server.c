/* server.c - see server.h. */
#include "coordinator/server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/answers.h"
#include "coordinator/server_internal.h"
#include "coordinator/server_members.h"
#include "coordinator/server_rack.h"
#include "coordinator/server_recover.h"
#include "coordinator/status.h"
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"

#define ARENA_BYTES ((size_t)16 << 20)
#define FLUSH_MS 5        /* the first look whether a full client reads again */
#define FLUSH_MOST_MS 200 /* the later ones, doubling up to this */
#define PROBE_MS 1000     /* a silent request's client is looked after */
#define DEFAULT_NEW_TOKENS 512
#define LEAST_TIMEOUT_MS 100
#define MOST_TIMEOUT_MS (24u * 3600 * 1000)
#define EVAL_STEP_BYTES ((size_t)32 << 20) /* logits of one batch step */

/* ---- answers that are not events ---- */

/* The loop wakes up when a client reads again, among others (on_room); should
 * that be missed, a timer looks as well, ever more rarely. */
static void on_flush(uv_timer_t *timer) {
    server *s = timer->data;
    s->flush_ms = (uint32_t)size_min(2 * s->flush_ms, FLUSH_MOST_MS);
    uv_timer_start(timer, on_flush, s->flush_ms, 0);
}

static void on_room(uv_check_t *check) {
    server *s = check->data;
    bool moved, waits = clients_flush(s->clients, &moved);
    if (moved) s->flush_ms = FLUSH_MS;
    if (waits) return;
    uv_check_stop(check);
    uv_timer_stop(&s->flush);
}

void server_send(server *s, client *to, frames *f) {
    bool begins_to_wait = clients_send(s->clients, to, f);
    zmq_watch_kick(s->watch);
    if (!begins_to_wait) return;
    s->flush_ms = FLUSH_MS;
    uv_timer_start(&s->flush, on_flush, s->flush_ms, 0);
    uv_check_start(&s->room, on_room);
}

void server_send_message(server *s, client *to, const message *m) {
    frames f;
    frames_init(&f);
    int rc = frames_add(&f, 0) == NULL ? -ENOMEM : message_seal(&f, m);
    if (rc < 0) {
        log_error("cannot send a %s: %s", message_kind_name(m->kind),
                  err_text(rc));
        frames_fini(&f);
        return;
    }
    server_send(s, to, &f);
}

void server_send_error(server *s, client *to, const message *asked, int code,
                       const char *text) {
    frames f;
    frames_init(&f);
    message self = identity_message(s->config.self, MESSAGE_ERROR);
    if (message_error(&f, &self, asked, code, text) == 0) {
        server_send(s, to, &f);
    }
    frames_fini(&f);
}

message server_reply(const server *s, const message *asked, message_kind kind) {
    message m = identity_message(s->config.self, kind);
    m.to_boot_id = asked->boot_id;
    m.request_id = asked->request_id;
    return m;
}

static void on_hello(server *s, client *from, const message *asked) {
    message m = server_reply(s, asked, MESSAGE_WELCOME);
    m.welcome.role = ROLE_COORDINATOR;
    m.welcome.name = s->config.self->name;
    m.welcome.has_profile = true;
    m.welcome.profile = *s->config.profile;
    m.welcome.data_endpoint = "";
    m.welcome.cpu = cpu_name(cpu_current());
    m.welcome.model = s->config.weights->config.name;
    m.welcome.n_vocab = s->config.weights->config.n_vocab;
    m.welcome.n_context = s->config.max_context;
    server_send_message(s, from, &m);
}

static void on_status(server *s, client *from, const message *asked) {
    char *text = status_text(s);
    if (text == NULL) {
        server_send_error(s, from, asked, -ENOMEM, "out of memory");
        return;
    }
    message m = server_reply(s, asked, MESSAGE_STATUS);
    m.status.json = (message_text){text, strlen(text)};
    server_send_message(s, from, &m);
    free(text);
}

static void on_ping(server *s, client *from, const message *asked) {
    message m = server_reply(s, asked, MESSAGE_PONG);
    step_stats stats;
    step_read_stats(s->config.steps, &stats);
    m.pong.progress = stats.steps;
    m.pong.queued_jobs = stats.counts.queued;
    server_send_message(s, from, &m);
}

static void on_cancel(server *s, client *from, const message *asked) {
    request *r = clients_find_of(s->clients, from, asked->request_id);
    if (r == NULL) return; /* it ended while the message was under way */
    step_cancel(s->config.steps, r->id);
    clients_drop_request(s->clients, r);
    message m = server_reply(s, asked, MESSAGE_FINISHED);
    m.finished.reason = FINISH_CANCELLED;
    server_send_message(s, from, &m);
}

/* ---- new requests ---- */

/* The prompt: given ids, then the text's.  `*out` is malloc'ed. */
static int prompt_tokens(const server *s, const message *m, uint32_t **out,
                         uint32_t *n_out, char *why, size_t why_size) {
    const message_u32s *given = &m->generate.tokens;
    size_t n_text = m->generate.text.len, n = 0;
    size_t room = tokenizer_room(s->config.words, n_text);
    uint32_t *tokens = malloc((given->count + room) * sizeof(*tokens));
    if (tokens == NULL) return -ENOMEM;

    for (size_t i = 0; i < given->count; i++) {
        tokens[i] = given->items[i];
        if (tokens[i] < s->config.weights->config.n_vocab) continue;
        free(tokens);
        return err_why(why, why_size, ERR_RANGE,
                       "token %u is outside the vocabulary", given->items[i]);
    }
    bool special = m->generate.add_special && given->count == 0;
    int rc = 0;
    if (n_text > 0 || special) {
        rc = tokenizer_encode(s->config.words, m->generate.text.data, n_text,
                              special, m->generate.parse_special,
                              (int32_t *)tokens + given->count, room, &n);
    }
    if (rc == 0 && given->count + n == 0) {
        rc = err_why(why, why_size, ERR_RANGE, "the prompt is empty");
    }
    /* What was generated before may have filled it. */
    size_t most = s->config.max_context;
    if (m->generate.resumed_tokens > 0) most++;
    if (rc == 0 && given->count + n >= most) {
        rc = err_why(why, why_size, ERR_CONTEXT,
                     "the prompt has %zu tokens, the context %u",
                     given->count + n, s->config.max_context);
    }
    if (rc < 0) {
        free(tokens);
        return rc;
    }
    *out = tokens;
    *n_out = (uint32_t)(given->count + n);
    return 0;
}

static sampler_params resolve_sampling(const message_sampling *given) {
    sampler_params p = {
        .temperature = given->temperature,
        .top_k = given->top_k,
        .top_p = given->top_p != 0.0f ? given->top_p : 1.0f,
        .min_p = given->min_p,
        .seed = given->seed,
    };
    if (!given->has_seed) {
        random_bytes(&p.seed, sizeof(p.seed));
        p.seed >>= 1; /* so that it survives signed readers */
    }
    return p;
}

static uint32_t resolve_timeout(const server *s, uint32_t given) {
    if (given == 0) return s->config.timeout_ms;
    if (given < LEAST_TIMEOUT_MS) return LEAST_TIMEOUT_MS;
    return (uint32_t)size_min(given, MOST_TIMEOUT_MS);
}

static void send_accepted(server *s, client *to, const message *asked,
                          const step_request *q) {
    message m = server_reply(s, asked, MESSAGE_ACCEPTED);
    const sampler_params *p = &q->sampling;
    m.accepted.sampling = (message_sampling){
        .temperature = p->temperature,
        .top_p = p->top_p,
        .min_p = p->min_p,
        .top_k = p->top_k,
        .seed = p->seed,
        .has_seed = true,
    };
    m.accepted.max_tokens = q->max_new + asked->generate.resumed_tokens;
    m.accepted.timeout_ms = q->timeout_ms;
    m.accepted.prompt_tokens = (message_u32s){q->tokens, q->n_tokens};
    server_send_message(s, to, &m);
}

/* A pong to nothing: clients pass over it. */
static int build_probe(void *ctx, frames *f) {
    const server *s = ctx;
    message m = identity_message(s->config.self, MESSAGE_PONG);
    return frames_add(f, 0) == NULL ? -ENOMEM : message_seal(f, &m);
}

/* A client that leaves while its request waits or is fed a long prompt would
 * otherwise not be missed before its answer. */
static void on_probe(uv_timer_t *timer) {
    server *s = timer->data;
    clients_probe(s->clients, build_probe, s);
    zmq_watch_kick(s->watch);
    if (clients_n_requests(s->clients) == 0) uv_timer_stop(timer);
}

/* Register and hand over; q->tokens is taken or freed. */
static void start(server *s, client *from, const message *m, step_request *q) {
    request *r = clients_add_request(s->clients, from, q->id, m);
    int rc = r == NULL ? ERR_MALFORMED : answers_begin(s, r, m);
    if (rc < 0) {
        /* Before the error is sent: the client may be found gone by it. */
        if (r != NULL) clients_drop_request(s->clients, r);
        free(q->tokens);
        server_send_error(s, from, m, rc,
                          r == NULL ? "this request id is in use"
                                    : err_text(rc));
        return;
    }
    /* Before the request can be answered, and while the tokens are ours.  The
     * client may be found gone by it, and the request with it. */
    if (q->kind == REQUEST_GENERATE) send_accepted(s, from, m, q);
    if (clients_find(s->clients, q->id) == NULL) {
        free(q->tokens);
        return;
    }
    if (q->kind == REQUEST_GENERATE && q->max_new == 0) {
        free(q->tokens);
        answers_end(s, r, q->n_tokens);
        return;
    }
    rc = step_submit(s->config.steps, q);
    if (rc < 0) {
        free(q->tokens);
        clients_drop_request(s->clients, r);
        server_send_error(s, from, m, rc, err_text(rc));
        return;
    }
    if (clients_held(from)) step_hold(s->config.steps, q->id, true);
    if (!uv_is_active((uv_handle_t *)&s->probe)) {
        uv_timer_start(&s->probe, on_probe, PROBE_MS, PROBE_MS);
    }
}

/* How many tokens to add to the `n` there are.  0: a resume has all of its
 * tokens, only the word that it is finished was lost. */
static uint32_t new_tokens(const server *s, const message *m, uint32_t n) {
    uint32_t most = m->generate.max_tokens != 0 ? m->generate.max_tokens
                                                : DEFAULT_NEW_TOKENS;
    uint32_t had = m->generate.resumed_tokens;
    uint32_t room = n < s->config.max_context ? s->config.max_context - n : 0;
    return most > had ? (uint32_t)size_min(most - had, room) : 0;
}

static void on_generate(server *s, client *from, const message *m) {
    char why[200] = "";
    step_request q = {
        .id = ++s->last_id,
        .kind = REQUEST_GENERATE,
        .sampling = resolve_sampling(&m->generate.sampling),
        .ignore_end = m->generate.ignore_end,
        .timeout_ms = resolve_timeout(s, m->generate.timeout_ms),
    };
    int rc = sampler_check(&q.sampling, why, sizeof(why));
    if (rc == 0 && m->generate.resumed_tokens > m->generate.tokens.count) {
        rc = err_why(why, sizeof(why), ERR_RANGE,
                     "resumed_tokens %u exceeds the tokens given",
                     m->generate.resumed_tokens);
    }
    if (rc == 0 && m->generate.resumed_tokens > 0 && m->generate.text.len > 0) {
        rc = err_why(why, sizeof(why), ERR_RANGE,
                     "a resume has tokens only, no text after them");
    }
    if (rc == 0)
        rc = prompt_tokens(s, m, &q.tokens, &q.n_tokens, why, sizeof(why));
    if (rc < 0) {
        server_send_error(s, from, m, rc, why[0] != '\0' ? why : err_text(rc));
        return;
    }
    q.max_new = new_tokens(s, m, q.n_tokens);
    start(s, from, m, &q);
}

static int eval_tokens(const server *s, const message *m, step_request *q,
                       char *why, size_t why_size) {
    const message_u32s *given = &m->eval.tokens;
    if (given->count == 0 || given->count > s->config.max_context) {
        return err_why(why, why_size, ERR_CONTEXT,
                       "%zu tokens do not fit the context of %u", given->count,
                       s->config.max_context);
    }
    for (size_t i = 0; i < given->count; i++) {
        if (given->items[i] < s->config.weights->config.n_vocab) continue;
        return err_why(why, why_size, ERR_RANGE,
                       "token %u is outside the vocabulary", given->items[i]);
    }
    q->tokens = malloc(given->count * sizeof(*q->tokens));
    if (q->tokens == NULL) return -ENOMEM;
    memcpy(q->tokens, given->items, given->count * sizeof(*q->tokens));
    q->n_tokens = (uint32_t)given->count;
    return 0;
}

static void on_eval(server *s, client *from, const message *m) {
    char why[200] = "";
    /* A chunk's logits are in memory at once; bits do not depend on it. */
    size_t row_bytes = s->config.weights->config.n_vocab * sizeof(float);
    size_t most = size_max(EVAL_STEP_BYTES / row_bytes, 1);
    uint32_t chunk = m->eval.chunk != 0 ? m->eval.chunk : UINT32_MAX;
    step_request q = {
        .id = ++s->last_id,
        .kind = REQUEST_EVAL,
        .chunk = (uint32_t)size_min(chunk, most),
        .timeout_ms = resolve_timeout(s, m->eval.timeout_ms),
        .routing = m->eval.routing,
    };
    int rc = eval_tokens(s, m, &q, why, sizeof(why));
    if (rc < 0) {
        server_send_error(s, from, m, rc, why[0] != '\0' ? why : err_text(rc));
        return;
    }
    start(s, from, m, &q);
}

/* ---- what arrives ---- */

typedef void (*handler)(server *s, client *from, const message *m);
static const handler handlers[MESSAGE_KINDS] = {
    [MESSAGE_HELLO] = on_hello,
    [MESSAGE_PING] = on_ping,
    [MESSAGE_GENERATE] = on_generate,
    [MESSAGE_EVAL] = on_eval,
    [MESSAGE_CANCEL] = on_cancel,
    [MESSAGE_STATUS_REQUEST] = on_status,
    [MESSAGE_MEMBERS_REQUEST] = server_on_members,
};

static bool needs_service(message_kind kind) {
    return kind == MESSAGE_GENERATE || kind == MESSAGE_EVAL;
}

/* There is no room to remember this client, not even for its error. */
static void refuse_stranger(server *s, frames *f) {
    message m;
    message self = identity_message(s->config.self, MESSAGE_ERROR);
    (void)message_open(f, s->arena, &m, NULL, 0); /* for its request id */
    int rc = message_error(f, &self, &m, ERR_OVERLOADED,
                           "the coordinator has too many clients");
    if (rc == 0) rc = link_send(s->link, f);
    if (rc < 0) log_debug("too many clients: %s", err_text(rc));
}

static void on_message(void *ctx, frames *f) {
    server *s = ctx;
    client *from = clients_of(s->clients, f);
    if (from == NULL) {
        refuse_stranger(s, f);
        return;
    }
    message m;
    char why[200] = "";
    int rc = message_open(f, s->arena, &m, why, sizeof(why));
    if (rc < 0) {
        log_warn("a client's message: %s (%s)", why, err_text(rc));
        server_send_error(s, from, &m, rc, why);
        return;
    }
    if (m.cluster[0] != '\0' &&
        strcmp(m.cluster, s->config.self->cluster) != 0) {
        snprintf(why, sizeof(why), "this is cluster '%s', not '%s'",
                 s->config.self->cluster, m.cluster);
        server_send_error(s, from, &m, ERR_WRONG_CLUSTER, why);
        return;
    }
    if (m.to_boot_id != 0 && m.to_boot_id != s->config.self->boot_id) {
        server_send_error(s, from, &m, ERR_WRONG_BOOT,
                          err_text(ERR_WRONG_BOOT));
        return;
    }
    if (m.kind == MESSAGE_DRAIN) {
        server_on_drain(s, from, f, &m);
        return;
    }
    if (m.kind == MESSAGE_REBALANCE) {
        server_on_rebalance(s, from, f, &m);
        return;
    }
    if (m.kind == MESSAGE_RECOVER) {
        server_on_recover(s, from, f, &m);
        return;
    }
    if (handlers[m.kind] == NULL) {
        snprintf(why, sizeof(why), "a coordinator takes no %s",
                 message_kind_name(m.kind));
        server_send_error(s, from, &m, ERR_MALFORMED, why);
        return;
    }
    if (s->refusing && needs_service(m.kind)) {
        server_send_error(s, from, &m, ERR_CLOSED, "the coordinator is ending");
        return;
    }
    if (s->declined != 0 && needs_service(m.kind)) {
        server_send_error(s, from, &m, s->declined, s->declined_why);
        return;
    }
    handlers[m.kind](s, from, &m);
}

static void on_hold(void *ctx, const request *r, bool held) {
    server *s = ctx;
    step_hold(s->config.steps, r->id, held);
}

static void on_gone(void *ctx, const request *r) {
    server *s = ctx;
    step_cancel(s->config.steps, r->id);
}

/* ---- opening and closing ---- */

int server_open(server **out, const server_config *c, char *why,
                size_t why_size) {
    *out = NULL;
    server *s = calloc(1, sizeof(*s));
    if (s == NULL) return -ENOMEM;
    s->config = *c;
    s->started_ms = now_ms();
    s->reached_at = "";
    uv_check_init(c->loop, &s->room);
    uv_timer_init(c->loop, &s->flush);
    uv_timer_init(c->loop, &s->probe);
    s->room.data = s->flush.data = s->probe.data = s;
    *out = s; /* also on failure: its handles need closing */

    int rc = message_arena_new(&s->arena, ARENA_BYTES);
    if (rc < 0) return rc;
    rc = link_bind(&s->link, &c->links, c->listen, why, why_size);
    if (rc < 0) return rc;
    clients_config held = {s->link, on_hold, on_gone, s};
    rc = clients_new(&s->clients, &held);
    if (rc < 0) return rc;
    return zmq_watch_open(&s->watch, c->loop, s->link, on_message, s);
}

void server_close(server *s) {
    if (s == NULL || s->closing) return;
    s->closing = true;
    uv_close((uv_handle_t *)&s->room, NULL);
    uv_close((uv_handle_t *)&s->flush, NULL);
    uv_close((uv_handle_t *)&s->probe, NULL);
    zmq_watch_close(s->watch);
}

void server_free(server *s) {
    if (s == NULL) return;
    clients_free(s->clients);
    link_close(s->link);
    message_arena_free(s->arena);
    free(s);
}

void server_set_nodes(server *s, const nodes *n) {
    s->nodes = n;
}

void server_set_weights(server *s, const weight_server *w) {
    s->shared = w;
}

void server_set_conductor(server *s, conductor *c) {
    s->conductor = c;
}

void server_set_members(server *s, const char *reached_at,
                        const char *const *peers, size_t n_peers) {
    s->reached_at = reached_at;
    s->peers = peers;
    s->n_peers = n_peers;
}

const char *server_endpoint(const server *s) {
    return link_endpoint(s->link);
}

bool server_idle(const server *s) {
    return clients_n_requests(s->clients) == 0 && !clients_waiting(s->clients);
}

void server_refuse(server *s) {
    s->refusing = true;
}

void server_decline(server *s, int code, const char *text) {
    s->declined = code;
    snprintf(s->declined_why, sizeof(s->declined_why), "%s", text);
}

void server_give_up(server *s, request *r, int code, const char *why) {
    uint64_t id = r->id;
    step_cancel(s->config.steps, id);
    message asked = {.request_id = r->request_id, .boot_id = r->boot_id};
    server_send_error(s, r->owner, &asked, code, why);
    r = clients_find(s->clients, id); /* gone, if its client was */
    if (r != NULL) clients_drop_request(s->clients, r);
}

void server_cut_off(server *s, const char *why) {
    request *r;
    while ((r = clients_any_request(s->clients)) != NULL) {
        server_give_up(s, r, ERR_CLOSED, why);
    }
}
