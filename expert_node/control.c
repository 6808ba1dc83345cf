/* control.c - see control.h. */
#include "expert_node/control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/cpu.h"
#include "engine/err.h"
#include "engine/fingerprint.h"
#include "engine/log.h"
#include "engine/util.h"
#include "expert_node/refusals.h"

#define WHY_SIZE 512
#define KNOWN_PEERS 16
#define CONTROL_ARENA ((size_t)1 << 20) /* nothing large has a place here */

struct control {
    control_config config;
    const shard *shard;
    const worker *worker;
    message self; /* what every message of ours has in its header */
    message_arena *arena;
    refusals refusals;
    uint64_t held_version; /* without a keeper */
    uint64_t began_ms;
    uint64_t welcomed_ms;           /* when that was last logged */
    uint64_t welcomed[KNOWN_PEERS]; /* boot ids, the last ones */
    size_t n_welcomed;
};

int control_new(control **out, const control_config *c) {
    *out = NULL;
    control *made = calloc(1, sizeof(*made));
    if (made == NULL) return -ENOMEM;
    made->config = *c;
    made->began_ms = now_ms();
    made->held_version = 1;
    made->self = (message){.cluster = c->cluster, .boot_id = c->boot_id};
    refusals_init(&made->refusals);

    int rc = message_arena_new(&made->arena, CONTROL_ARENA);
    if (rc < 0) {
        free(made);
        return rc;
    }
    *out = made;
    return 0;
}

void control_free(control *c) {
    if (c == NULL) return;
    message_arena_free(c->arena);
    free(c);
}

void control_serve(control *c, const shard *s, const worker *w) {
    c->shard = s;
    c->worker = w;
    c->self.has_fingerprint = s != NULL;
    if (s == NULL) return;
    memcpy(c->self.fingerprint, s->print.bytes, sizeof(c->self.fingerprint));
}

void control_held_changed(control *c) {
    c->held_version++;
}

/* The epoch of our own placement; with a static list, which has none here, the
 * asker's. */
static uint64_t epoch_for(const control *c, const message *asked) {
    if (c->config.keeper == NULL) return asked->epoch;
    keeper_figures now;
    keeper_look(c->config.keeper, &now);
    return now.epoch;
}

static uint64_t holdings_version(const control *c) {
    return c->config.keeper != NULL ? keeper_version(c->config.keeper)
                                    : c->held_version;
}

static uint64_t resident_bytes(const control *c) {
    return c->shard != NULL ? expert_store_bytes(c->shard->store) : 0;
}

static worker_counts counts(const control *c) {
    worker_counts now = {0};
    if (c->worker != NULL) worker_read_counts(c->worker, &now);
    return now;
}

/* An answer's header. */
static message answer_to(const control *c, const message *asked,
                         message_kind kind) {
    message m = c->self;
    m.kind = kind;
    m.to_boot_id = asked->boot_id;
    m.request_id = asked->request_id;
    m.epoch = epoch_for(c, asked);
    return m;
}

/* Seal an answer that has its payloads, and put it in the place of the
 * question.  `answer` is empty afterwards. */
static int replace(frames *f, frames *answer, const message *m) {
    frames_copy_address(answer, f);
    int rc = message_seal(answer, m);
    if (rc < 0) {
        frames_fini(answer);
        return rc;
    }
    frames_fini(f);
    frames_move(f, answer);
    return 0;
}

/* Put an answer in the place of the question.  *f keeps its address. */
static int put_answer(frames *f, const message *m) {
    frames answer;
    frames_init(&answer);
    int rc = frames_add(&answer, 0) == NULL ? -ENOMEM : 0;
    return rc < 0 ? rc : replace(f, &answer, m);
}

/* ---- hello ---- */

static bool same_model(const control *c, const message *m) {
    return m->has_fingerprint && memcmp(m->fingerprint, c->self.fingerprint,
                                        MESSAGE_FINGERPRINT) == 0;
}

/* Only coordinators that want the same bits of the same model are welcome;
 * clients may look at what is here. */
static int check_hello(const control *c, const message *m, char *why) {
    if (c->shard == NULL) {
        return err_why(why, WHY_SIZE, ERR_NOT_HERE,
                       "this node is still learning its model");
    }
    if (m->hello.role == ROLE_CLIENT) return 0;
    if (m->hello.role != ROLE_COORDINATOR) {
        return err_why(why, WHY_SIZE, ERR_MALFORMED,
                       "a hello of role %d, which does not greet nodes",
                       (int)m->hello.role);
    }
    if (!m->has_fingerprint ||
        memcmp(m->fingerprint, c->self.fingerprint, MESSAGE_FINGERPRINT) != 0) {
        return err_why(why, WHY_SIZE, ERR_WRONG_MODEL,
                       "this node holds %s of another fingerprint",
                       c->shard->model.name);
    }
    if (!m->hello.has_profile) {
        return err_why(why, WHY_SIZE, ERR_WRONG_PROFILE,
                       "the hello has no numerics profile");
    }
    const profile ours = profile_of_node(c->config.exact);
    if (!profile_same_experts(&ours, &m->hello.profile, why, WHY_SIZE)) {
        return ERR_WRONG_PROFILE;
    }
    return c->config.keeper != NULL
               ? keeper_hello(c->config.keeper, now_ms(), m->boot_id)
               : 0;
}

/* Is this boot id among the last that were welcomed?  From now on it is. */
static bool known(control *c, uint64_t boot_id) {
    for (size_t i = 0; i < ARRAY_LEN(c->welcomed); i++) {
        if (c->welcomed[i] == boot_id) return true;
    }
    c->welcomed[c->n_welcomed++ % ARRAY_LEN(c->welcomed)] = boot_id;
    return false;
}

/* Newcomers, at most one a second, however many say hello; coordinators greet
 * again whenever the holdings change. */
static void log_welcome(control *c, const message *asked) {
    uint64_t now = now_ms();
    if (known(c, asked->boot_id)) return;
    if (c->welcomed_ms != 0 && now - c->welcomed_ms < 1000) return;
    c->welcomed_ms = now;
    log_info("welcomed %s '%s' (boot id %016llx)",
             asked->hello.role == ROLE_CLIENT ? "client" : "coordinator",
             asked->hello.name, (unsigned long long)asked->boot_id);
}

static int welcome(control *c, frames *f, const message *asked, char *why) {
    int rc = check_hello(c, asked, why);
    if (rc < 0) return rc;

    const control_config *config = &c->config;
    const shard *s = c->shard;
    message m = answer_to(c, asked, MESSAGE_WELCOME);
    m.welcome.role = ROLE_NODE;
    m.welcome.name = config->name;
    m.welcome.has_profile = true;
    m.welcome.profile = profile_of_node(config->exact);
    m.welcome.data_port = config->data_port;
    m.welcome.n_layers = s->held.n_layers;
    m.welcome.n_experts = s->held.n_experts;
    m.welcome.slices = s->held.slices;
    m.welcome.holdings = s->held.bits;
    m.welcome.holdings_bytes = holdings_bytes(&s->held);
    m.welcome.holdings_version = holdings_version(c);
    m.welcome.resident_bytes = resident_bytes(c);
    m.welcome.max_reply_bytes = config->max_reply_bytes;
    m.welcome.cpu = cpu_name(cpu_current());
    m.welcome.threads = config->threads;
    m.welcome.model = s->model.name;
    rc = put_answer(f, &m);
    if (rc == 0) log_welcome(c, asked);
    return rc;
}

/* ---- ping ---- */

/* By its pings a coordinator says which placement it has switched to.  Pings
 * of another model's coordinators mean nothing. */
static int note_ping(control *c, const message *m) {
    if (c->config.keeper == NULL || c->shard == NULL || !same_model(c, m)) {
        return 0;
    }
    return keeper_ping(c->config.keeper, now_ms(), m->boot_id, m->epoch,
                       m->ping.placement);
}

static int pong(control *c, frames *f, const message *asked, char *why) {
    int rc = note_ping(c, asked);
    if (rc == ERR_STALE) {
        return err_why(why, WHY_SIZE, rc,
                       "this node goes on without you: your placement is older "
                       "than what others have switched to");
    }
    if (rc < 0) return rc;
    const worker_counts now = counts(c);
    message m = answer_to(c, asked, MESSAGE_PONG);
    m.pong.progress = now.progress;
    m.pong.batches = now.batches;
    m.pong.pairs = now.pairs;
    m.pong.queued_jobs = now.jobs;
    m.pong.resident_bytes = resident_bytes(c);
    m.pong.holdings_version = holdings_version(c);
    return put_answer(f, &m);
}

/* ---- load ---- */

/* The counters of what is held, in the order of its bits. */
static void fill_counters(const shard *s, const tally *t, uint32_t *out) {
    uint32_t end = s->held.n_experts * s->held.slices;
    for (uint32_t l = 0; l < s->held.n_layers; l++) {
        uint32_t unit = holdings_next(&s->held, l, 0, end);
        for (; unit < end; unit = holdings_next(&s->held, l, unit + 1, end))
            *out++ = t != NULL ? tally_pairs(t, l, unit) : 0;
    }
}

/* What is held changes from one moment to the next, so the answer names the
 * units that it tells of. */
static int load(control *c, frames *f, const message *asked, char *why) {
    const shard *s = c->shard;
    if (s == NULL || !same_model(c, asked)) {
        return err_why(why, WHY_SIZE,
                       s == NULL ? ERR_NOT_HERE : ERR_WRONG_MODEL,
                       "this node computes nothing for you");
    }
    const tally *t = c->worker != NULL ? worker_tally(c->worker) : NULL;
    tally_totals totals = {0};
    if (t != NULL) tally_read(t, &totals);
    message m = answer_to(c, asked, MESSAGE_LOAD);
    m.load.holdings_version = holdings_version(c);
    m.load.pairs = totals.pairs;
    m.load.runs = totals.runs;
    m.load.weight_bytes = totals.weight_bytes;
    m.load.busy_us = totals.busy_us;
    m.load.holdings = s->held.bits;
    m.load.holdings_bytes = holdings_bytes(&s->held);
    m.load.slices = s->held.slices;

    frames answer;
    frames_init(&answer);
    size_t bytes = holdings_count(&s->held) * sizeof(uint32_t);
    bool room = frames_add(&answer, 0) != NULL;
    uint32_t *counters = room ? frames_add(&answer, bytes) : NULL;
    if (counters == NULL) {
        frames_fini(&answer);
        return -ENOMEM;
    }
    fill_counters(s, t, counters);
    return replace(f, &answer, &m);
}

/* ---- status ---- */

static json_int_t number(uint64_t n) {
    return n < INT64_MAX ? (json_int_t)n : INT64_MAX;
}

static json_t *profile_json(const control_config *config) {
    const profile p = profile_of_node(config->exact);
    return json_pack("{s:I, s:s, s:s}", "version", number(p.version),
                     "activation", p.activation, "rows", p.rows);
}

/* What does not change, or not often. */
static json_t *identity_json(const control *c) {
    const control_config *config = &c->config;
    const shard *s = c->shard;
    char hex[FINGERPRINT_HEX_SIZE] = "";
    if (s != NULL) fingerprint_hex(&s->print, hex);
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:s, s:I, s:o}",
                     "role", "node", "name", config->name, "cluster",
                     config->cluster, "version", ROSTER_VERSION, "model",
                     s != NULL ? s->model.name : "", "fingerprint", hex,
                     "uptime_ms", number(now_ms() - c->began_ms), "cpu",
                     cpu_name(cpu_current()), "threads",
                     number(config->threads), "profile", profile_json(config));
}

static json_t *counts_json(const control *c) {
    const worker_counts now = counts(c);
    const shard *s = c->shard;
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "slices",
        number(s != NULL ? s->held.slices : 1), "experts",
        number(s != NULL ? holdings_count(&s->held) : 0), "resident_bytes",
        number(resident_bytes(c)), "batches", number(now.batches), "pairs",
        number(now.pairs), "queued_jobs", number(now.jobs), "reply_bytes",
        number(now.reply_bytes), "refused", number(now.refused),
        "refused_control", number(refusals_total(&c->refusals)),
        "dropped_replies", number(now.dropped));
}

/* Add the members of `part`, which is given up. */
static int merge(json_t *into, json_t *part) {
    int rc = json_object_update(into, part);
    json_decref(part);
    return rc;
}

static json_t *status_json(const control *c) {
    json_t *all = identity_json(c);
    int rc = merge(all, counts_json(c));
    if (c->config.more_status != NULL) {
        rc |= merge(all, c->config.more_status(c->config.ctx));
    }
    if (rc == 0) return all;
    json_decref(all);
    return NULL;
}

static int status(control *c, frames *f, const message *asked, char *why) {
    (void)why;
    json_t *state = status_json(c);
    char *text = state != NULL ? json_dumps(state, JSON_COMPACT) : NULL;
    json_decref(state);
    if (text == NULL) return -ENOMEM;

    message m = answer_to(c, asked, MESSAGE_STATUS);
    m.status.json = (message_text){text, strlen(text)};
    int rc = put_answer(f, &m);
    free(text);
    return rc;
}

/* ---- all of them ---- */

static int check_header(const control *c, const message *m, char *why) {
    /* Clients need not name one; they may look, not order work. */
    bool works = m->kind == MESSAGE_HELLO && m->hello.role == ROLE_COORDINATOR;
    bool unnamed = m->cluster[0] == '\0' && !works;
    if (!unnamed && strcmp(m->cluster, c->config.cluster) != 0) {
        return err_why(why, WHY_SIZE, ERR_WRONG_CLUSTER,
                       "this is cluster '%s', not '%.64s'", c->config.cluster,
                       m->cluster);
    }
    /* A hello may come from somebody who knew our predecessor. */
    if (m->kind != MESSAGE_HELLO && m->to_boot_id != 0 &&
        m->to_boot_id != c->config.boot_id) {
        return ERR_WRONG_BOOT;
    }
    return 0;
}

static int answer(control *c, frames *f, const message *m, char *why) {
    int rc = check_header(c, m, why);
    if (rc < 0) return rc;
    switch (m->kind) {
    case MESSAGE_HELLO:
        return welcome(c, f, m, why);
    case MESSAGE_PING:
        return pong(c, f, m, why);
    case MESSAGE_LOAD_REQUEST:
        return load(c, f, m, why);
    case MESSAGE_STATUS_REQUEST:
        return status(c, f, m, why);
    default:
        return err_why(why, WHY_SIZE, ERR_MALFORMED,
                       "a %s has no place on the control endpoint of a node",
                       message_kind_name(m->kind));
    }
}

void control_answer(control *c, frames *f) {
    char why[WHY_SIZE] = "";
    message m;
    int rc = message_open(f, c->arena, &m, why, sizeof(why));
    if (rc == 0) rc = answer(c, f, &m, why);
    if (rc == 0) return;

    if (why[0] == '\0') err_why(why, sizeof(why), rc, "%s", err_text(rc));
    refusals_log(&c->refusals, now_us(), "a control message", f, rc, why);
    if (m.kind == MESSAGE_ERROR ||
        message_error(f, &c->self, &m, rc, why) < 0) {
        frames_fini(f); /* errors are not answered, or there is no memory */
    }
}

uint64_t control_refused(const control *c) {
    return refusals_total(&c->refusals);
}
