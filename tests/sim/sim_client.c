/* sim_client.c - clients: they ask one coordinator, and go on with another one
 * when that dies, stands still or takes no more requests.  The new one is told
 * which tokens were there already, as libroster does. */
#include <string.h>
#include "engine/err.h"
#include "tests/sim/sim.h"

#define USERS 4
#define FIRST_US 3500000  /* by then the first placement is there */
#define LOOK_US 250000    /* between pings */
#define SILENT_US 1500000 /* a coordinator that says nothing is gone */
#define ALONE_US 6000000  /* without any coordinator */
#define TOPIC_US 8000000  /* until other experts are hot */
#define ATTEMPTS_MOST 100

/* Without progress nothing may go on longer than this: the wait for admission,
 * the request's own timeout, the step it is in, a process that stood still. */
#define HANG_US                                                                \
    ((SIM_QUEUE_MS + SIM_REQUEST_MS) * 1000ull +                               \
     4ull * SIM_LAYERS * SIM_PATIENCE_US + 12000000)

static uint64_t event_number(uint32_t request, sim_client_what what) {
    return (uint64_t)request * 8 + what;
}

static void later(sim *s, uint64_t us, uint32_t request, sim_client_what what) {
    sim_after(s, us, EVENT_CLIENT, -1, event_number(request, what));
}

/* ---- requests are made as the ones before them end ---- */

static void make_request(sim *s, uint32_t request) {
    sim_client *r = &s->clients[request];
    uint32_t topic = (uint32_t)(s->clock.now_us / TOPIC_US) % SIM_TOPICS;
    r->n_prompt = 1 + (uint32_t)sim_below(s, 8);
    bool long_one = sim_chance(s, 15);
    r->n_new = 1 + (uint32_t)sim_below(s, long_one ? 23 : 12);
    for (uint32_t t = 0; t < r->n_prompt; t++)
        r->expected[t] = (uint32_t)sim_below(s, 1000);
    if (!sim_chance(s, 15)) {
        r->expected[0] = r->expected[0] / SIM_TOPICS * SIM_TOPICS + topic;
    }
    sim_reference(&s->model, r->expected, r->n_prompt, r->n_new);
    memcpy(r->tokens, r->expected, r->n_prompt * sizeof(*r->tokens));
    r->coordinator = (uint32_t)sim_below(s, s->n_coords);
    sim_add(s, COUNT_REQUESTS, 1);
}

static void next_request(sim *s, uint64_t us) {
    bool over = s->faults_over || s->clock.now_us > SIM_TRAFFIC_US;
    if (over || s->n_clients == SIM_REQUESTS) return;
    later(s, us, s->n_clients++, CLIENT_BEGIN);
}

void sim_clients_make(sim *s) {
    for (uint32_t i = 0; i < USERS; i++)
        next_request(s, FIRST_US + sim_below(s, 1000000));
}

bool sim_clients_done(const sim *s) {
    for (uint32_t i = 0; i < s->n_clients; i++) {
        if (s->clients[i].outcomes == 0) return false;
    }
    return true;
}

void sim_clients_check(sim *s) {
    for (uint32_t i = 0; i < s->n_clients; i++) {
        const sim_client *r = &s->clients[i];
        if (!r->begun || r->outcomes > 0) continue;
        if (s->clock.now_us > r->moved_us + HANG_US) {
            sim_fail(s, "request %u hangs", i);
        }
    }
}

/* ---- ends ---- */

/* The ways in which a request may fail. */
static bool is_expected(int code) {
    return code == ERR_UNAVAILABLE || code == ERR_DEADLINE ||
           code == ERR_OVERLOADED || code == ERR_CLOSED;
}

static void end(sim *s, uint32_t request, int code) {
    sim_client *r = &s->clients[request];
    sim_trace(s, "request %u ends: %s", request,
              code == 0 ? "finished" : err_name(code));
    sim_note(s, request, r->n_got, (uint64_t)code);
    s->ended_us = s->clock.now_us;
    if (++r->outcomes > 1) sim_fail(s, "request %u ends twice", request);
    r->code = code;
    next_request(s, 50000 + sim_below(s, 800000));
    if (code == 0) {
        sim_add(s, COUNT_FINISHED, 1);
        if (r->n_got != r->n_new) {
            sim_fail(s, "request %u has %u of %u tokens", request, r->n_got,
                     r->n_new);
        }
    } else if (code == ERR_CANCELLED) {
        sim_add(s, COUNT_CANCELLED, 1);
    } else {
        sim_add(s, COUNT_FAILED, 1);
        if (code == ERR_UNAVAILABLE) sim_add(s, COUNT_UNAVAILABLE, 1);
        if (!is_expected(code)) {
            sim_fail(s, "request %u fails oddly: %s", request, err_name(code));
        }
        /* A client that does not take its output brings this on itself. */
        bool own_fault = r->held && code != ERR_CLOSED;
        if (s->strict && !own_fault) {
            sim_fail(s, "request %u fails: %s", request, err_name(code));
        }
    }
}

/* ---- asking ---- */

static uint64_t id_of(const sim *s, uint32_t request) {
    return (uint64_t)request * 256 + s->clients[request].attempt;
}

static void ask(sim *s, uint32_t request, sim_ask_kind kind) {
    sim_client *r = &s->clients[request];
    sim_asking *a = sim_memory(sizeof(*a));
    a->kind = kind;
    a->id = id_of(s, request);
    if (kind == ASK_GENERATE) {
        uint32_t has = s->options.plant == PLANT_RESUME_EMPTY ? 0 : r->n_got;
        a->n_tokens = r->n_prompt + has;
        a->n_new = r->n_new - r->n_got;
        a->first_index = r->n_got;
        memcpy(a->tokens, r->tokens, a->n_tokens * sizeof(*a->tokens));
    }
    sim_after(s, 100, EVENT_ASKED, (int)r->coordinator, 0)->data = a;
}

static void generate(sim *s, uint32_t request) {
    sim_client *r = &s->clients[request];
    r->boot = s->members[r->coordinator].boot;
    r->ended = false;
    r->moved_us = s->clock.now_us;
    ask(s, request, ASK_GENERATE);
    if (r->held) ask(s, request, ASK_HOLD);
}

static bool is_gone(const sim *s, const sim_client *r) {
    const sim_member *m = &s->members[r->coordinator];
    bool silent = m->frozen && s->clock.now_us > m->frozen_us + SILENT_US;
    return !m->alive || m->boot != r->boot || silent;
}

/* To the next one that can be reached. */
static void move(sim *s, uint32_t request) {
    sim_client *r = &s->clients[request];
    const sim_member *old = &s->members[r->coordinator];
    if (old->alive && old->boot == r->boot) ask(s, request, ASK_CANCEL);
    for (uint32_t i = 1; i <= s->n_coords; i++) {
        uint32_t next = (r->coordinator + i) % s->n_coords;
        const sim_member *m = &s->members[next];
        bool silent = m->frozen && s->clock.now_us > m->frozen_us + SILENT_US;
        if (!m->alive || silent || r->attempt == ATTEMPTS_MOST) continue;
        r->coordinator = next;
        r->attempt++;
        sim_add(s, COUNT_MOVED, 1);
        sim_trace(s, "request %u goes on with %s", request, m->name);
        generate(s, request);
        return;
    }
    r->boot = 0;
    if (r->attempt == ATTEMPTS_MOST ||
        s->clock.now_us > r->moved_us + ALONE_US) {
        end(s, request, ERR_CLOSED);
    }
}

static void look(sim *s, uint32_t request) {
    sim_client *r = &s->clients[request];
    if (is_gone(s, r)) move(s, request);
    if (r->outcomes == 0) later(s, LOOK_US, request, CLIENT_LOOK);
}

static void begin(sim *s, uint32_t request) {
    sim_client *r = &s->clients[request];
    make_request(s, request);
    r->begun = true;
    r->moved_us = s->clock.now_us;
    generate(s, request);
    later(s, LOOK_US, request, CLIENT_LOOK);
    if (sim_chance(s, 8)) {
        later(s, sim_below(s, 400000), request, CLIENT_CANCEL);
    }
    if (!sim_chance(s, 12)) return;
    uint64_t hold_us = sim_below(s, 300000);
    later(s, hold_us, request, CLIENT_HOLD);
    if (sim_chance(s, 80)) {
        later(s, hold_us + sim_below(s, 1500000), request, CLIENT_RELEASE);
    }
}

void sim_client_event(sim *s, uint64_t number) {
    uint32_t request = (uint32_t)(number / 8);
    sim_client *r = &s->clients[request];
    if (r->outcomes > 0) return;
    switch ((sim_client_what)(number % 8)) {
    case CLIENT_BEGIN:
        begin(s, request);
        break;
    case CLIENT_LOOK:
        look(s, request);
        break;
    case CLIENT_CANCEL:
        ask(s, request, ASK_CANCEL);
        end(s, request, ERR_CANCELLED);
        break;
    case CLIENT_HOLD:
        r->held = true;
        ask(s, request, ASK_HOLD);
        break;
    case CLIENT_RELEASE:
        r->held = false;
        ask(s, request, ASK_RELEASE);
        break;
    }
}

/* ---- being told ---- */

void sim_client_tell(sim *s, uint64_t id, bool ends, uint32_t index,
                     uint32_t token, int code) {
    sim_client *r = &s->clients[id / 256];
    sim_telling *t = sim_memory(sizeof(*t));
    *t = (sim_telling){id, ends, index, token, code};
    uint64_t at_us = s->clock.now_us + 50 + sim_below(s, 200);
    if (at_us <= r->told_us) at_us = r->told_us + 1;
    r->told_us = at_us;
    sim_after(s, at_us - s->clock.now_us, EVENT_TOLD, -1, 0)->data = t;
}

static void take_token(sim *s, uint32_t request, const sim_telling *t) {
    sim_client *r = &s->clients[request];
    if (t->index != r->n_got) {
        sim_fail(s, "request %u: token %u comes where %u is due", request,
                 t->index, r->n_got);
        return;
    }
    uint32_t at = r->n_prompt + r->n_got;
    if (t->token != r->expected[at]) {
        sim_fail(s, "request %u: token %u is %u, not %u", request, t->index,
                 t->token, r->expected[at]);
    }
    r->tokens[at] = t->token;
    r->n_got++;
    r->moved_us = s->clock.now_us;
    sim_add(s, COUNT_TOKENS, 1);
    sim_note(s, request, t->index, t->token);
}

void sim_client_told(sim *s, const sim_telling *t) {
    uint32_t request = (uint32_t)(t->id / 256);
    sim_client *r = &s->clients[request];
    bool old = t->id != id_of(s, request);
    if (s->options.plant == PLANT_OLD_STREAM && !t->end) old = false;
    if (r->outcomes > 0 || old) return;
    if (r->ended) {
        sim_fail(s, "request %u is told something after its end", request);
        return;
    }
    if (!t->end) {
        take_token(s, request, t);
        return;
    }
    r->ended = true;
    if (t->code == ERR_CLOSED) {
        r->boot = 0; /* the next look moves it */
    } else {
        end(s, request, t->code);
    }
}
