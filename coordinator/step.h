/* step.h - the step thread: runs batch steps over the requests it was given.
 *
 * It owns the sequences, the scheduler, the KV cache, the forward pass and,
 * through the exchange, the data links.  The loop thread hands over whole
 * requests and takes finished events; both are bounded: requests by the
 * scheduler's limits, events by those below.  What the loop may call is marked
 * "any thread". */
#ifndef COORDINATOR_STEP_H
#define COORDINATOR_STEP_H

#include <stdbool.h>
#include <stdint.h>
#include "coordinator/forward.h"
#include "coordinator/scheduler.h"
#include "engine/sampler.h"
#include "engine/tokenizer.h"

/* Events that the loop has not done with: at one of these limits steps pause.
 */
#define STEP_MAX_EVENTS 8192
#define STEP_MAX_EVENT_BYTES ((size_t)16 << 20)
#define STEP_LOGITS_BYTES ((size_t)1 << 20) /* of one event, if a row fits */

typedef enum { REQUEST_GENERATE, REQUEST_EVAL } request_kind;

typedef struct {
    uint64_t id; /* unique */
    request_kind kind;
    uint32_t *tokens; /* malloc'ed; ownership passes on success */
    uint32_t n_tokens;
    uint32_t max_new; /* GENERATE: at least 1 */
    sampler_params sampling;
    bool ignore_end; /* go on after an end-of-text token */
    uint32_t chunk;
    uint32_t timeout_ms;
    bool routing; /* EVAL: the router's choices too */
} step_request;

typedef enum {
    EVENT_TOKEN,
    EVENT_LOGITS,
    EVENT_FINISHED,
    EVENT_FAILED
} event_kind;

typedef struct {
    uint32_t prompt_tokens, generated;
    uint64_t prompt_us, generate_us;
} step_timing;

typedef struct step_event {
    struct step_event *next;
    size_t bytes; /* of this allocation */
    uint64_t id;
    event_kind kind;
    uint32_t index, token;  /* TOKEN: from 0; its id */
    uint32_t first, n_rows; /* LOGITS */
    float *logits;          /* [n_rows][n_vocab], part of this allocation */
    uint32_t *experts;      /* [n_moe][n_rows][k] or NULL */
    float *weights;
    finish_reason reason; /* FINISHED */
    step_timing timing;   /* FINISHED */
    int code;             /* FAILED */
    char why[160];
} step_event;

typedef struct {
    scheduler_limits limits;
    forward *forward; /* borrowed, like the rest */
    exchange *experts;
    kv_cache *kv;
    const tokenizer *words; /* knows which tokens end a text */
    uint32_t n_vocab, n_used;
    void (*notify)(void *ctx); /* events wait; called by the step thread */
    void *notify_ctx;
    stopwatch *watch; /* NULL: none */
} step_config;

typedef struct step step;
int step_new(step **out, const step_config *c);
void step_free(step *s); /* after step_join() */

int step_start(step *s); /* the thread */
void step_stop(step *s); /* any thread: end after the current step */
void step_join(step *s);

/* Any thread.  ERR_OVERLOADED: max_running + max_queued requests are alive. The
 * answer to a submit is events: FAILED, or tokens and FINISHED. */
int step_submit(step *s, const step_request *r);
/* Both ERR_NOT_HERE for a request that has ended. */
int step_cancel(step *s,
                uint64_t id); /* no event follows but those under way */
int step_hold(step *s, uint64_t id, bool held);
/* A node came up: parked requests may be tried at once. */
void step_wake(step *s);

/* Any thread: all events so far, oldest first; step_event_free() each, then
 * step_events_done(), which lets steps that paused go on: what the events make
 * necessary (to hold a request) is asked for before that. */
step_event *step_events(step *s);
void step_events_done(step *s);
void step_event_free(step_event *e);

typedef struct {
    scheduler_counts counts;
    uint32_t batch_tokens;  /* most of a step */
    uint64_t steps, tokens; /* batch steps; tokens through the model */
    uint64_t done, failed, cancelled;
    forward_work work;         /* of these steps, */
    uint64_t stage_ns[STAGES]; /* and what took how long */
} step_stats;
/* As of the end of the latest step; any thread. */
void step_read_stats(step *s, step_stats *out);

#endif
