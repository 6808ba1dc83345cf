/* scheduler.c - see scheduler.h.
 *
 * Requests stand in one array in order of arrival; a step walks it.  With at
 * most a few thousand requests that is cheaper than any clever list, and it
 * keeps the rules readable: who is first in the array is first. */
#include "coordinator/scheduler.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/util.h"

#define PARK_FIRST_MS 20 /* a stalled request is tried again after this, */
#define PARK_MOST_MS 500 /* doubling up to this */

typedef enum { STATE_QUEUED, STATE_RUNNING, STATE_PARKED } request_state;

typedef struct {
    scheduler_request r;
    request_state state;
    bool held;           /* its client does not take its output */
    bool planned;        /* in the plan that is being computed */
    bool seen;           /* was in a plan before */
    uint32_t done;       /* tokens in the cache */
    uint32_t made;       /* tokens generated */
    uint32_t step;       /* tokens of the current plan */
    uint32_t pages;      /* reserved while running */
    uint64_t since_ms;   /* last progress, or arrival */
    uint64_t retry_ms;   /* parked until then */
    uint64_t stalled_ms; /* first for the present reason */
    uint32_t park_ms;
    int stall_code;
} entry;

struct scheduler {
    scheduler_limits limits;
    entry *entries; /* in order of arrival */
    uint32_t n, capacity;
    uint32_t free_pages;
    uint32_t n_running; /* running or parked: they hold pages */
};

int scheduler_new(scheduler **out, const scheduler_limits *limits) {
    *out = NULL;
    if (limits->max_running == 0 || limits->batch_tokens == 0 ||
        limits->page_tokens == 0 || limits->max_context == 0 ||
        limits->batch_tokens < limits->max_running) {
        return ERR_RANGE;
    }
    scheduler *s = calloc(1, sizeof(*s));
    if (s == NULL) return -ENOMEM;
    s->limits = *limits;
    s->capacity = limits->max_running + limits->max_queued;
    s->free_pages = limits->n_pages;
    s->entries = calloc(s->capacity, sizeof(*s->entries));
    if (s->entries == NULL) {
        free(s);
        return -ENOMEM;
    }
    *out = s;
    return 0;
}

void scheduler_free(scheduler *s) {
    if (s == NULL) return;
    free(s->entries);
    free(s);
}

static entry *find(scheduler *s, uint64_t id) {
    for (uint32_t i = 0; i < s->n; i++) {
        if (s->entries[i].r.id == id) return &s->entries[i];
    }
    return NULL;
}

static void forget(scheduler *s, entry *e) {
    if (e->state != STATE_QUEUED) {
        s->free_pages += e->pages;
        s->n_running--;
    }
    size_t after = (size_t)(s->entries + s->n - e) - 1;
    memmove(e, e + 1, after * sizeof(*e));
    s->n--;
}

static uint32_t pages_for(const scheduler *s, const scheduler_request *r) {
    uint64_t positions = (uint64_t)r->n_prompt + r->max_new;
    return (uint32_t)((positions + s->limits.page_tokens - 1) /
                      s->limits.page_tokens);
}

int scheduler_submit(scheduler *s, uint64_t now_ms,
                     const scheduler_request *r) {
    assert(find(s, r->id) == NULL);
    if (r->n_prompt == 0) return ERR_RANGE;
    uint64_t positions = (uint64_t)r->n_prompt + r->max_new;
    if (positions > s->limits.max_context ||
        pages_for(s, r) > s->limits.n_pages) {
        return ERR_CONTEXT;
    }
    uint32_t waiting = s->n - s->n_running;
    uint32_t room = s->limits.max_running - s->n_running;
    if (waiting >= s->limits.max_queued + room) return ERR_OVERLOADED;
    if (s->n == s->capacity) return ERR_OVERLOADED;

    s->entries[s->n++] = (entry){
        .r = *r,
        .state = STATE_QUEUED,
        .pages = pages_for(s, r),
        .since_ms = now_ms,
    };
    return 0;
}

int scheduler_cancel(scheduler *s, uint64_t id) {
    entry *e = find(s, id);
    if (e == NULL) return ERR_NOT_HERE;
    forget(s, e);
    return 0;
}

/* In order of arrival; a large request at the head is not overtaken, so that it
 * cannot starve.  Admission is no progress: the client still waits. */
static void admit(scheduler *s) {
    for (uint32_t i = 0; i < s->n; i++) {
        entry *e = &s->entries[i];
        if (e->state != STATE_QUEUED) continue;
        if (s->n_running == s->limits.max_running) return;
        if (e->pages > s->free_pages) return;
        e->state = STATE_RUNNING;
        s->free_pages -= e->pages;
        s->n_running++;
    }
}

static bool decoding(const entry *e) {
    return e->done >= e->r.n_prompt;
}

static uint64_t expires_ms(const scheduler *s, const entry *e) {
    uint32_t timeout = e->r.timeout_ms, queue = s->limits.queue_timeout_ms;
    bool sooner = queue != 0 && (timeout == 0 || queue < timeout);
    if (e->state == STATE_QUEUED && sooner) timeout = queue;
    return timeout == 0 ? UINT64_MAX : e->since_ms + timeout;
}

/* A parked one that is tried again is not judged before that ends: a holder may
 * be back. */
static uint64_t gives_up_ms(const scheduler *s, const entry *e) {
    uint64_t at = expires_ms(s, e);
    if (e->state != STATE_PARKED || e->stall_code != ERR_UNAVAILABLE ||
        s->limits.park_timeout_ms == 0) {
        return at;
    }
    uint64_t parked = e->stalled_ms + s->limits.park_timeout_ms;
    return parked < at ? parked : at;
}

/* The next e->step tokens. */
static void plan_item(const scheduler *s, entry *e, scheduler_item *item) {
    e->planned = true;
    *item = (scheduler_item){
        .id = e->r.id,
        .first = e->done,
        .n_tokens = e->step,
        .last_of_prompt = decoding(e) || e->done + e->step == e->r.n_prompt,
        .admitted = !e->seen,
        .expires_ms = expires_ms(s, e),
    };
    e->seen = true;
}

static bool runnable(const entry *e) {
    return e->state == STATE_RUNNING && !e->held;
}

/* What a prompt would take.  A chunk that exceeds its part of the step is cut:
 * its size is the caller's wish, and no bit depends on it. */
static uint32_t wanted_tokens(const entry *e) {
    uint32_t left = e->r.n_prompt - e->done;
    return e->r.chunk != 0 && e->r.chunk < left ? e->r.chunk : left;
}

/* Set every prompt's step, `budget` tokens in all.  The budget of a step is at
 * least max_running, so everybody gets at least one. */
static void share_budget(scheduler *s, uint32_t budget) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        const entry *e = &s->entries[i];
        if (runnable(e) && !decoding(e)) n++;
    }
    if (n == 0) return;
    uint32_t share = budget / 2 / n > 0 ? budget / 2 / n : 1;
    for (uint32_t i = 0; i < s->n; i++) {
        entry *e = &s->entries[i];
        if (!runnable(e) || decoding(e)) continue;
        e->step = (uint32_t)size_min(size_min(wanted_tokens(e), share), budget);
        budget -= e->step;
    }
    for (uint32_t i = 0; i < s->n; i++) {
        entry *e = &s->entries[i];
        if (!runnable(e) || decoding(e)) continue;
        uint32_t more = (uint32_t)size_min(wanted_tokens(e) - e->step, budget);
        e->step += more;
        budget -= more;
    }
}

static void unpark(scheduler *s, uint64_t now_ms) {
    for (uint32_t i = 0; i < s->n; i++) {
        entry *e = &s->entries[i];
        assert(!e->planned);
        if (e->state == STATE_PARKED && now_ms >= e->retry_ms) {
            e->state = STATE_RUNNING;
        }
    }
}

uint32_t scheduler_plan(scheduler *s, uint64_t now_ms, scheduler_item *items) {
    admit(s);
    unpark(s, now_ms);

    uint32_t n = 0, budget = s->limits.batch_tokens;
    for (uint32_t i = 0; i < s->n; i++) {
        entry *e = &s->entries[i];
        if (!runnable(e) || !decoding(e)) continue;
        e->step = 1;
        plan_item(s, e, &items[n++]);
        budget--;
    }
    share_budget(s, budget);
    for (uint32_t i = 0; i < s->n; i++) {
        entry *e = &s->entries[i];
        if (!runnable(e) || decoding(e)) continue;
        assert(e->step > 0);
        plan_item(s, e, &items[n++]);
    }
    return n;
}

static entry *take_planned(scheduler *s, uint64_t id) {
    entry *e = find(s, id);
    assert(e != NULL && e->planned);
    e->planned = false;
    return e;
}

void scheduler_advance(scheduler *s, uint64_t now_ms, uint64_t id) {
    entry *e = take_planned(s, id);
    e->done += e->step;
    if (decoding(e)) e->made++;
    e->since_ms = now_ms;
    e->park_ms = 0;
    e->stall_code = 0;
}

void scheduler_stall(scheduler *s, uint64_t now_ms, uint64_t id, int code) {
    entry *e = take_planned(s, id);
    e->state = STATE_PARKED;
    if (e->stall_code != ERR_UNAVAILABLE) e->stalled_ms = now_ms;
    e->stall_code = code;
    e->park_ms = e->park_ms == 0 ? PARK_FIRST_MS : 2 * e->park_ms;
    if (e->park_ms > PARK_MOST_MS) e->park_ms = PARK_MOST_MS;
    e->retry_ms = now_ms + e->park_ms;
}

void scheduler_finish(scheduler *s, uint64_t id) {
    entry *e = find(s, id);
    assert(e != NULL);
    forget(s, e);
}

void scheduler_hold(scheduler *s, uint64_t id, bool held) {
    entry *e = find(s, id);
    if (e != NULL) e->held = held;
}

void scheduler_wake(scheduler *s) {
    for (uint32_t i = 0; i < s->n; i++) {
        s->entries[i].retry_ms = 0;
    }
}

static int expiry_code(const entry *e) {
    if (e->state == STATE_QUEUED) return ERR_OVERLOADED;
    return e->stall_code != 0 ? e->stall_code : ERR_DEADLINE;
}

bool scheduler_expired(scheduler *s, uint64_t now_ms, uint64_t *id, int *code) {
    for (uint32_t i = 0; i < s->n; i++) {
        entry *e = &s->entries[i];
        if (e->planned || now_ms < gives_up_ms(s, e)) continue;
        *id = e->r.id;
        *code = expiry_code(e);
        forget(s, e);
        return true;
    }
    return false;
}

uint64_t scheduler_next_ms(const scheduler *s, uint64_t now_ms) {
    uint64_t next = UINT64_MAX;
    for (uint32_t i = 0; i < s->n; i++) {
        const entry *e = &s->entries[i];
        uint64_t at = gives_up_ms(s, e);
        if (at < next) next = at;
        if (e->held) continue;
        if (e->state == STATE_RUNNING) return now_ms;
        if (e->state == STATE_PARKED && e->retry_ms < next) next = e->retry_ms;
    }
    return next;
}

void scheduler_count(const scheduler *s, scheduler_counts *out) {
    *out = (scheduler_counts){.free_pages = s->free_pages};
    for (uint32_t i = 0; i < s->n; i++) {
        const entry *e = &s->entries[i];
        if (e->state == STATE_QUEUED) out->queued++;
        if (e->state == STATE_RUNNING) out->running++;
        if (e->state == STATE_PARKED) out->parked++;
    }
}
