/* step.c - see step.h.
 *
 * One turn: take wishes, expire what ran out of time, plan, compute, sample,
 * tell.  A step that could not be computed for a sequence changes nothing of
 * it: its tokens are fed again later, and give the same bits. */
#include "coordinator/step.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/mailbox.h"
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"

#define MAX_FDS (PLACEMENT_MAX_NODES + 1) /* of the exchange */
#define IDLE_MS 200                       /* look around at least that often */

struct step {
    step_config config;
    pthread_t thread;
    bool started;
    atomic_bool stopping;
    mailbox *mail;

    pthread_mutex_t lock; /* guards `stats` */
    step_stats stats;

    /* the thread's own */
    ticket *taken; /* [capacity] */
    scheduler *plan;
    sampler *sampler;
    sequence **sequences; /* [capacity], NULL: free */
    uint32_t capacity;
    scheduler_item *items; /* [max_running] */
    forward_item *passes;  /* [max_running] */
    sequence **planned;    /* [max_running] */
    uint32_t n_planned;    /* in the pass that is being computed */
    step_stats counted;    /* published after each turn */
    int fds[MAX_FDS];
    struct pollfd polls[MAX_FDS + 1];
};

static bool look(void *ctx);

int step_new(step **out, const step_config *c) {
    *out = NULL;
    step *s = calloc(1, sizeof(*s));
    if (s == NULL) return -ENOMEM;
    s->config = *c;
    s->capacity = c->limits.max_running + c->limits.max_queued;
    s->counted.batch_tokens = c->limits.batch_tokens;
    pthread_mutex_init(&s->lock, NULL);

    int rc = scheduler_new(&s->plan, &c->limits);
    if (rc == 0) rc = sampler_new(&s->sampler, c->n_vocab);
    if (rc == 0) rc = mailbox_new(&s->mail, s->capacity, c->kv);
    s->taken = calloc(s->capacity, sizeof(*s->taken));
    s->sequences = calloc(s->capacity, sizeof(*s->sequences));
    s->items = calloc(c->limits.max_running, sizeof(*s->items));
    s->passes = calloc(c->limits.max_running, sizeof(*s->passes));
    s->planned = calloc(c->limits.max_running, sizeof(*s->planned));
    bool made = s->taken != NULL && s->sequences != NULL && s->items != NULL &&
                s->passes != NULL && s->planned != NULL;
    if (rc == 0 && !made) rc = -ENOMEM;
    if (rc < 0) {
        step_free(s);
        return rc;
    }
    exchange_on_wait(c->experts, look, s);
    *out = s;
    return 0;
}

void step_free(step *s) {
    if (s == NULL) return;
    exchange_on_wait(s->config.experts, NULL, NULL);
    for (uint32_t i = 0; s->sequences != NULL && i < s->capacity; i++) {
        sequence_free(s->sequences[i], s->config.kv);
    }
    mailbox_free(s->mail);
    scheduler_free(s->plan);
    sampler_free(s->sampler);
    free(s->taken);
    free(s->sequences);
    free(s->items);
    free(s->passes);
    free(s->planned);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

/* ---- for the loop ---- */

int step_submit(step *s, const step_request *r) {
    return mailbox_submit(s->mail, r);
}

int step_cancel(step *s, uint64_t id) {
    return mailbox_cancel(s->mail, id);
}

int step_hold(step *s, uint64_t id, bool held) {
    return mailbox_hold(s->mail, id, held);
}

void step_wake(step *s) {
    mailbox_nodes_changed(s->mail);
}

step_event *step_events(step *s) {
    return mailbox_events(s->mail);
}

void step_events_done(step *s) {
    mailbox_events_done(s->mail);
}

void step_event_free(step_event *e) {
    free(e);
}

void step_read_stats(step *s, step_stats *out) {
    pthread_mutex_lock(&s->lock);
    *out = s->stats;
    pthread_mutex_unlock(&s->lock);
}

/* ---- sequences ---- */

static sequence **find_slot(step *s, uint64_t id) {
    for (uint32_t i = 0; i < s->capacity; i++) {
        if (s->sequences[i] != NULL && s->sequences[i]->r.id == id) {
            return &s->sequences[i];
        }
    }
    return NULL;
}

static sequence **free_slot(step *s) {
    for (uint32_t i = 0; i < s->capacity; i++) {
        if (s->sequences[i] == NULL) return &s->sequences[i];
    }
    return NULL;
}

static void drop(step *s, uint64_t id) {
    mailbox_drop(s->mail, id);
    sequence **slot = find_slot(s, id);
    if (slot == NULL) return;
    sequence_free(*slot, s->config.kv);
    *slot = NULL;
}

static step_event *new_event(uint64_t id, event_kind kind, size_t extra) {
    step_event *e = calloc(1, sizeof(*e) + extra);
    if (e == NULL) return NULL;
    e->bytes = sizeof(*e) + extra;
    e->id = id;
    e->kind = kind;
    return e;
}

/* Without memory for the event its client finds out by its own deadline; that
 * is logged, since nothing else can be said. */
static void tell_failed(step *s, uint64_t id, int code, const char *why) {
    step_event *e = new_event(id, EVENT_FAILED, 0);
    s->counted.failed++;
    if (e == NULL) {
        log_error("out of memory: request %llu failed without an answer",
                  (unsigned long long)id);
        return;
    }
    e->code = code;
    snprintf(e->why, sizeof(e->why), "%s", why);
    mailbox_tell(s->mail, e);
}

static void fail_sequence(step *s, uint64_t id, int code, const char *why) {
    scheduler_cancel(s->plan, id);
    drop(s, id);
    tell_failed(s, id, code, why);
}

static void submit(step *s, sequence *seq) {
    uint32_t n_new = seq->r.kind == REQUEST_GENERATE ? seq->r.max_new : 0;
    scheduler_request r = {seq->r.id, seq->r.n_tokens, n_new, seq->r.chunk,
                           seq->r.timeout_ms};
    int rc = scheduler_submit(s->plan, now_ms(), &r);
    sequence **slot = rc == 0 ? free_slot(s) : NULL;
    if (rc < 0) {
        mailbox_drop(s->mail, seq->r.id);
        tell_failed(s, seq->r.id, rc, err_text(rc));
        sequence_free(seq, s->config.kv);
        return;
    }
    assert(slot != NULL); /* the scheduler has the same capacity */
    *slot = seq;
}

static void obey(step *s, const ticket *t) {
    if (t->seq != NULL) submit(s, t->seq);
    if (t->cancelled) {
        if (scheduler_cancel(s->plan, t->id) == 0) s->counted.cancelled++;
        drop(s, t->id);
        return;
    }
    scheduler_hold(s->plan, t->id, t->held);
}

static void take_wishes(step *s) {
    bool nodes_changed;
    uint32_t n = mailbox_take(s->mail, s->taken, &nodes_changed);
    if (nodes_changed) scheduler_wake(s->plan);
    for (uint32_t i = 0; i < n; i++) {
        obey(s, &s->taken[i]);
    }
}

/* What a request waited for in vain, for its client. */
static void tell_missing(step *s, uint64_t id, uint32_t layer, uint32_t expert,
                         bool unanswered) {
    char why[160];
    snprintf(why, sizeof(why), "no live node %s layer %u expert %u",
             unanswered ? "answers in time for" : "holds", layer, expert);
    tell_failed(s, id, ERR_UNAVAILABLE, why);
}

static void expire(step *s) {
    uint64_t id;
    int code;
    while (scheduler_expired(s->plan, now_ms(), &id, &code)) {
        sequence **slot = find_slot(s, id);
        assert(slot != NULL);
        uint32_t layer = (*slot)->lost_layer, expert = (*slot)->lost_expert;
        bool unanswered = (*slot)->unanswered;
        drop(s, id);
        if (code == ERR_UNAVAILABLE || unanswered) {
            tell_missing(s, id, layer, expert, unanswered);
        } else {
            tell_failed(s, id, code, err_text(code));
        }
    }
}

/* ---- computing a plan ---- */

static int prepare_routing(step *s, sequence *seq, uint32_t n_rows) {
    if (!seq->r.routing) return 0;
    uint32_t n_moe;
    forward_moe_layers(s->config.forward, &n_moe);
    size_t n = (size_t)n_moe * n_rows * s->config.n_used;
    free(seq->routed_experts);
    free(seq->routed_weights);
    seq->routed_experts = calloc(n + 1, sizeof(uint32_t));
    seq->routed_weights = calloc(n + 1, sizeof(float));
    return seq->routed_experts == NULL || seq->routed_weights == NULL ? -ENOMEM
                                                                      : 0;
}

/* Pages for all of an admitted request: the scheduler counted them. */
static int prepare_item(step *s, const scheduler_item *item, uint32_t i) {
    sequence *seq = *find_slot(s, item->id);
    if (item->admitted) seq->started_us = now_us();
    s->planned[i] = seq;
    int rc = kv_reserve(s->config.kv, &seq->kv, item->first + item->n_tokens);
    if (rc == 0) rc = prepare_routing(s, seq, item->n_tokens);
    if (rc < 0) return rc;
    s->passes[i] = (forward_item){
        .tokens = seq->r.tokens + item->first,
        .n_rows = item->n_tokens,
        .first = item->first,
        .kv = &seq->kv,
        .routed_experts = seq->r.routing ? seq->routed_experts : NULL,
        .routed_weights = seq->r.routing ? seq->routed_weights : NULL,
    };
    return 0;
}

static void finish(step *s, sequence *seq, finish_reason reason) {
    uint64_t now = now_us();
    step_event *e = new_event(seq->r.id, EVENT_FINISHED, 0);
    if (e == NULL) {
        fail_sequence(s, seq->r.id, -ENOMEM, "out of memory");
        return;
    }
    e->reason = reason;
    e->timing = (step_timing){
        .prompt_tokens = seq->r.n_tokens,
        .generated = seq->generated,
        .prompt_us = seq->first_us - seq->started_us,
        .generate_us = now - seq->first_us,
    };
    s->counted.done++;
    scheduler_finish(s->plan, seq->r.id);
    drop(s, seq->r.id);
    mailbox_tell(s->mail, e);
}

/* A new token at the end of the sequence, from the logits of its last row. */
static void make_token(step *s, sequence *seq, const float *logits) {
    int32_t token =
        sampler_pick(s->sampler, &seq->r.sampling, seq->n_tokens, logits);
    bool end = tokenizer_is_end(s->config.words, token) && !seq->r.ignore_end;
    if (end) {
        finish(s, seq, FINISH_END);
        return;
    }
    step_event *e = new_event(seq->r.id, EVENT_TOKEN, 0);
    if (e == NULL) {
        fail_sequence(s, seq->r.id, -ENOMEM, "out of memory");
        return;
    }
    e->token = (uint32_t)token;
    e->index = seq->generated;
    seq->r.tokens[seq->n_tokens++] = (uint32_t)token;
    seq->generated++;
    mailbox_tell(s->mail, e);
    if (seq->generated == seq->r.max_new) finish(s, seq, FINISH_LENGTH);
}

/* Copy the part [from, from + n) of an item's rows out of [n_moe][rows][k]. */
static void copy_routing(step *s, const sequence *seq, uint32_t rows,
                         uint32_t from, step_event *e) {
    uint32_t n_moe;
    forward_moe_layers(s->config.forward, &n_moe);
    size_t k = s->config.n_used;
    for (uint32_t l = 0; l < n_moe; l++) {
        size_t source = ((size_t)l * rows + from) * k;
        size_t target = (size_t)l * e->n_rows * k;
        memcpy(e->experts + target, seq->routed_experts + source,
               e->n_rows * k * sizeof(uint32_t));
        memcpy(e->weights + target, seq->routed_weights + source,
               e->n_rows * k * sizeof(float));
    }
}

static step_event *new_logits(step *s, const sequence *seq, uint32_t n_rows) {
    uint32_t n_moe;
    forward_moe_layers(s->config.forward, &n_moe);
    size_t n_logits = (size_t)n_rows * s->config.n_vocab;
    size_t n_routed =
        seq->r.routing ? (size_t)n_moe * n_rows * s->config.n_used : 0;
    step_event *e =
        new_event(seq->r.id, EVENT_LOGITS,
                  n_logits * sizeof(float) +
                      n_routed * (sizeof(uint32_t) + sizeof(float)));
    if (e == NULL) return NULL;
    e->n_rows = n_rows;
    e->logits = (float *)(e + 1);
    if (n_routed == 0) return e;
    e->experts = (uint32_t *)(e->logits + n_logits);
    e->weights = (float *)(e->experts + n_routed);
    return e;
}

/* Rows [from, from + n) of an EVAL's item.  false: no memory. */
static bool tell_rows(step *s, const sequence *seq, const scheduler_item *item,
                      uint32_t from, uint32_t n, const float *const *logits) {
    step_event *e = new_logits(s, seq, n);
    if (e == NULL) return false;
    e->first = item->first + from;
    for (uint32_t i = 0; i < n; i++) {
        memcpy(e->logits + (size_t)i * s->config.n_vocab, logits[i],
               s->config.n_vocab * sizeof(float));
    }
    if (seq->r.routing) copy_routing(s, seq, item->n_tokens, from, e);
    mailbox_tell(s->mail, e);
    return true;
}

/* The logits of all rows of an EVAL's item: computed in blocks, told in events
 * of a bounded size. */
static void tell_logits(step *s, sequence *seq, const scheduler_item *item,
                        uint32_t first_row) {
    size_t row_bytes = s->config.n_vocab * sizeof(float);
    uint32_t most = (uint32_t)size_max(STEP_LOGITS_BYTES / row_bytes, 1);
    for (uint32_t from = 0; from < item->n_tokens; from += FORWARD_LOGIT_ROWS) {
        uint32_t left = item->n_tokens - from;
        uint32_t n = (uint32_t)size_min(left, FORWARD_LOGIT_ROWS);
        uint32_t rows[FORWARD_LOGIT_ROWS];
        const float *logits[FORWARD_LOGIT_ROWS];
        for (uint32_t i = 0; i < n; i++) {
            rows[i] = first_row + from + i;
        }
        forward_logits(s->config.forward, rows, n, logits);
        for (uint32_t i = 0; i < n; i += most) {
            uint32_t part = (uint32_t)size_min(n - i, most);
            if (tell_rows(s, seq, item, from + i, part, logits + i)) continue;
            fail_sequence(s, seq->r.id, -ENOMEM, "out of memory for logits");
            return;
        }
    }
    if (item->last_of_prompt) finish(s, seq, FINISH_DONE);
}

/* Sample the rows that end a prompt or decode, in blocks. */
static void tell_tokens(step *s, uint32_t n_items) {
    uint32_t row = 0, n = 0;
    uint32_t rows[FORWARD_LOGIT_ROWS];
    sequence *owners[FORWARD_LOGIT_ROWS];
    const float *logits[FORWARD_LOGIT_ROWS];
    for (uint32_t i = 0; i <= n_items; i++) {
        if (n == FORWARD_LOGIT_ROWS || (i == n_items && n > 0)) {
            forward_logits(s->config.forward, rows, n, logits);
            for (uint32_t j = 0; j < n; j++) {
                make_token(s, owners[j], logits[j]);
            }
            n = 0;
        }
        if (i == n_items) break;
        const scheduler_item *item = &s->items[i];
        row += item->n_tokens;
        if (s->passes[i].lost || !item->last_of_prompt ||
            s->planned[i] == NULL) {
            continue;
        }
        rows[n] = row - 1;
        owners[n++] = s->planned[i];
    }
}

/* Its request failed while the step went on. */
static void bury(step *s, uint32_t i) {
    uint64_t id = s->items[i].id;
    scheduler_cancel(s->plan, id);
    drop(s, id);
    s->planned[i] = NULL;
}

static void settle_item(step *s, uint32_t i) {
    sequence *seq = s->planned[i];
    if (s->passes[i].lost) {
        exchange_missing(s->config.experts, &seq->lost_layer,
                         &seq->lost_expert);
        seq->unanswered = exchange_has_holder(
            s->config.experts, seq->lost_layer, seq->lost_expert);
        scheduler_stall(s->plan, now_ms(), seq->r.id,
                        seq->unanswered ? ERR_DEADLINE : ERR_UNAVAILABLE);
    } else {
        seq->unanswered = false;
        scheduler_advance(s->plan, now_ms(), seq->r.id);
        if (s->items[i].last_of_prompt && seq->first_us == 0) {
            seq->first_us = now_us();
        }
    }
    if (seq->failed) bury(s, i);
}

/* The step was given up: what was planned is tried again, if there is a next
 * time. */
static void cancel_plan(step *s, uint32_t n_items) {
    for (uint32_t i = 0; i < n_items; i++) {
        scheduler_stall(s->plan, now_ms(), s->items[i].id, ERR_UNAVAILABLE);
        if (s->planned[i]->failed) bury(s, i);
    }
}

static void fail_plan(step *s, uint32_t n_items, int code) {
    log_error("a batch step failed: %s", err_text(code));
    for (uint32_t i = 0; i < n_items; i++) {
        uint64_t id = s->items[i].id;
        bool told = (*find_slot(s, id))->failed;
        scheduler_cancel(s->plan, id);
        drop(s, id);
        if (!told) tell_failed(s, id, code, err_text(code));
    }
}

static int run_pass(step *s, uint32_t n_items) {
    uint32_t patient_ms = 0;
    for (uint32_t i = 0; i < n_items; i++) {
        int rc = prepare_item(s, &s->items[i], i);
        if (rc < 0) return rc;
        if (s->planned[i]->r.timeout_ms > patient_ms) {
            patient_ms = s->planned[i]->r.timeout_ms;
        }
    }
    s->n_planned = n_items;
    int rc = forward_run(s->config.forward, s->passes, n_items,
                         now_us() + (uint64_t)patient_ms * 1000);
    s->n_planned = 0;
    return rc;
}

static void tell_results(step *s, uint32_t n_items) {
    uint32_t first_row = 0;
    for (uint32_t i = 0; i < n_items; i++) {
        sequence *seq = s->planned[i];
        uint32_t n = s->items[i].n_tokens;
        if (seq != NULL && seq->r.kind == REQUEST_EVAL) {
            if (!s->passes[i].lost) {
                tell_logits(s, seq, &s->items[i], first_row);
            }
            s->planned[i] = NULL; /* answered, perhaps finished and freed */
        }
        first_row += n;
    }
    tell_tokens(s, n_items);
}

static void run_plan(step *s, uint32_t n_items) {
    int rc = run_pass(s, n_items);
    stopwatch_enter(s->config.watch, STAGE_OTHER);
    if (rc == ERR_CANCELLED) {
        cancel_plan(s, n_items);
        return;
    }
    if (rc < 0) {
        fail_plan(s, n_items, rc);
        return;
    }
    s->counted.steps++;
    for (uint32_t i = 0; i < n_items; i++) {
        s->counted.tokens += s->items[i].n_tokens;
        settle_item(s, i);
    }
    tell_results(s, n_items);
}

/* ---- the thread ---- */

static void publish(step *s) {
    const stopwatch *w = s->config.watch;
    scheduler_count(s->plan, &s->counted.counts);
    forward_work_done(s->config.forward, &s->counted.work);
    if (w != NULL)
        memcpy(s->counted.stage_ns, w->ns, sizeof(s->counted.stage_ns));
    pthread_mutex_lock(&s->lock);
    s->stats = s->counted;
    pthread_mutex_unlock(&s->lock);
    if (mailbox_has_events(s->mail)) s->config.notify(s->config.notify_ctx);
}

/* In the middle of a step whose layer waits for nodes.  Whoever runs out of
 * time is told now: the others may be more patient, and the step goes on for
 * them. false: nobody is left who wants it. */
static bool look(void *ctx) {
    step *s = ctx;
    if (atomic_load(&s->stopping)) return false;
    expire(s); /* those that are not in the step */
    bool wanted = false;
    uint64_t now = now_ms();
    for (uint32_t i = 0; i < s->n_planned; i++) {
        sequence *seq = s->planned[i];
        if (!seq->failed && now >= s->items[i].expires_ms) {
            seq->failed = true;
            uint32_t layer, expert;
            exchange_missing(s->config.experts, &layer, &expert);
            bool held = exchange_has_holder(s->config.experts, layer, expert);
            tell_missing(s, seq->r.id, layer, expert, held);
        }
        wanted = wanted || !seq->failed;
    }
    publish(s);
    return wanted;
}

static void sleep_until_news(step *s) {
    uint64_t now = now_ms(), next = scheduler_next_ms(s->plan, now);
    uint64_t ms = next <= now ? 0 : next - now;
    if (mailbox_full(s->mail))
        ms = IDLE_MS; /* the loop wakes us when it took some */
    if (ms > IDLE_MS) ms = IDLE_MS;

    size_t n = exchange_fds(s->config.experts, s->fds, MAX_FDS);
    for (size_t i = 0; i < n; i++) {
        s->polls[i] = (struct pollfd){.fd = s->fds[i], .events = POLLIN};
    }
    s->polls[n] = (struct pollfd){.fd = mailbox_fd(s->mail), .events = POLLIN};
    poll(s->polls, n + 1, (int)ms);
}

static void *thread_main(void *arg) {
    step *s = arg;
    forward_lead(s->config.forward);
    stopwatch_start(s->config.watch);
    while (!atomic_load(&s->stopping)) {
        stopwatch_enter(s->config.watch, STAGE_OTHER);
        take_wishes(s);
        exchange_idle(s->config.experts);
        expire(s);
        uint32_t n = mailbox_full(s->mail)
                         ? 0
                         : scheduler_plan(s->plan, now_ms(), s->items);
        if (n > 0) run_plan(s, n);
        stopwatch_enter(s->config.watch, STAGE_OTHER); /* it adds up now */
        publish(s);
        if (n > 0) continue;
        stopwatch_enter(s->config.watch, STAGE_IDLE);
        sleep_until_news(s);
    }
    return NULL;
}

int step_start(step *s) {
    int rc = pthread_create(&s->thread, NULL, thread_main, s);
    s->started = rc == 0;
    return -rc;
}

void step_stop(step *s) {
    atomic_store(&s->stopping, true);
    mailbox_wake(s->mail);
}

void step_join(step *s) {
    if (s->started) pthread_join(s->thread, NULL);
    s->started = false;
}
