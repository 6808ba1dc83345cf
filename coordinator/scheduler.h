/* scheduler.h - the life of requests and the batch steps they share: a plain
 * state machine.
 *
 *   queued -> running (prompt, then decode) -> finished
 *               |  ^
 *               v  | (a needed expert has no holder: tried again)
 *              parked
 *
 * A request is admitted when its whole KV cache fits, so that a running one
 * never runs out.  A step takes one token of every decoding sequence, then
 * chunks of prompts, under a token budget: half of what is left is shared by
 * all prompts, so that a short one is not stuck behind long ones, the rest goes
 * in order of arrival.  A request that makes no progress for its timeout,
 * queued or running, expires with the code of what it waited for.  Events and
 * the time go in, plans come out. */
#ifndef COORDINATOR_SCHEDULER_H
#define COORDINATOR_SCHEDULER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint32_t max_running;  /* sequences in batch steps */
    uint32_t max_queued;   /* waiting beyond those: then ERR_OVERLOADED */
    uint32_t batch_tokens; /* of one step; at least max_running */
    uint32_t page_tokens;  /* positions in a KV page */
    uint32_t n_pages;      /* of the KV cache */
    uint32_t max_context;  /* positions of one sequence */
    uint32_t
        queue_timeout_ms; /* longest wait for admission; 0: the request's */
    /* Longest time that a request is parked with ERR_UNAVAILABLE; then it
     * expires; 0: its own timeout alone counts. */
    uint32_t park_timeout_ms;
} scheduler_limits;

typedef struct {
    uint64_t id;         /* the caller's, unique among the living */
    uint32_t n_prompt;   /* at least 1 */
    uint32_t max_new;    /* tokens to generate at most; 0: prompt only */
    uint32_t chunk;      /* tokens fed at a time; 0: as fits */
    uint32_t timeout_ms; /* without progress; 0: none */
} scheduler_request;

typedef struct scheduler scheduler;
int scheduler_new(scheduler **out, const scheduler_limits *limits);
void scheduler_free(scheduler *s);

/* ERR_OVERLOADED: the queue is full.  ERR_CONTEXT: it can never fit. */
int scheduler_submit(scheduler *s, uint64_t now_ms, const scheduler_request *r);
/* It is forgotten at once, whatever its state. ERR_NOT_HERE: no such request.
 */
int scheduler_cancel(scheduler *s, uint64_t id);

typedef struct {
    uint64_t id;
    uint32_t first; /* position of the first token */
    uint32_t n_tokens;
    bool last_of_prompt; /* after these the prompt is complete, or decoding */
    bool admitted;       /* first time that it appears in a plan */
    uint64_t expires_ms; /* unless it makes progress; UINT64_MAX: never */
} scheduler_item;

/* The next batch step: up to max_running items; 0 if nothing can run now.  A
 * plan must be answered with one of the four calls below for each item before
 * the next plan. */
uint32_t scheduler_plan(scheduler *s, uint64_t now_ms, scheduler_item *items);

/* The item's tokens are in the cache.  If it was the last of the prompt or
 * decoding, one new token was made of it. */
void scheduler_advance(scheduler *s, uint64_t now_ms, uint64_t id);
/* The item could not be computed: try again later; `code` is why. */
void scheduler_stall(scheduler *s, uint64_t now_ms, uint64_t id, int code);
/* The request is complete. */
void scheduler_finish(scheduler *s, uint64_t id);

/* Hold a request back (its client does not take its output), or let it go on.
 * Being held does not stop its clock. */
void scheduler_hold(scheduler *s, uint64_t id, bool held);

/* Parked requests may be tried at once: a node came up. */
void scheduler_wake(scheduler *s);

/* A request that ran out of time: it is forgotten, *code is why.  false: none.
 */
bool scheduler_expired(scheduler *s, uint64_t now_ms, uint64_t *id, int *code);

/* When plan() or expired() may have something new without an event;
 * UINT64_MAX: never. */
uint64_t scheduler_next_ms(const scheduler *s, uint64_t now_ms);

typedef struct {
    uint32_t queued, running, parked, free_pages;
} scheduler_counts;
void scheduler_count(const scheduler *s, scheduler_counts *out);

#endif
