/* worker.h - the thread that receives batches, computes them and answers.
 *
 * It owns the data link and leads the compute pool: a batch meets no other
 * thread between socket and kernel.  What it decides by (the job queue) is a
 * plain state machine; here are the link, the clock and the arithmetic.
 *
 * Nothing a peer does can stop it from serving the others: sends never wait,
 * what a coordinator may have outstanding is bounded, and everything that is
 * refused is answered with a typed error. */
#ifndef EXPERT_NODE_WORKER_H
#define EXPERT_NODE_WORKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/expert_store.h"
#include "expert_node/orders.h"
#include "expert_node/scrub.h"
#include "expert_node/tally.h"
#include "proto/link.h"
#include "proto/message.h"

#define WORKER_MAX_JOBS 512 /* waiting, of all coordinators */

typedef struct worker worker;

typedef struct {
    expert_store *store; /* others may load into it; only the worker drops */
    uint32_t width, expert_dim;
    const char *cluster;
    uint8_t fingerprint[MESSAGE_FINGERPRINT];
    uint64_t boot_id;
    bool exact;
    uint32_t threads;         /* 0: one per CPU */
    uint32_t pin;             /* the first one's CPU, from 1; 0: not pinned */
    uint64_t max_reply_bytes; /* waiting, computing or not yet sent */
    tally *tally;             /* counts what is computed; NULL: nobody does */
    uint64_t scrub_ms; /* all that is resident is re-read in that; 0: never */
    /* After units were dropped; on the worker's thread.  May be NULL. */
    void (*on_dropped)(void *ctx);
    void *ctx;
} worker_config;

/* Reply bytes that one coordinator may have outstanding, out of all. */
uint64_t worker_peer_bytes(uint64_t max_reply_bytes);

/* `c`'s pointers and the link (a server's end) are borrowed until
 * worker_free(); the link is used by worker_run()'s thread alone. */
int worker_new(worker **out, const worker_config *c, struct link *data);
void worker_free(worker *w);

/* The thread's body: serves until worker_stop().  0, or the link's error. */
int worker_run(worker *w);

/* Finish what is being computed, refuse what waits, return.  Any thread. */
void worker_stop(worker *w);

/* Forget a unit: between two merges, so that whatever is being computed keeps
 * it; what waits for it is refused.  Orders are carried out in the order given.
 * Any thread.  -EAGAIN: ORDERS_MAX_DROPS wait already. */
int worker_drop(worker *w, uint32_t layer, uint32_t unit);

/* The next unit that was dropped because its weights in memory have changed;
 * false: none.  One thread. */
bool worker_take_damaged(worker *w, scrub_find *out);
/* Of the re-reading; any thread. */
void worker_read_scrub(const worker *w, scrub_figures *out);

/* Refuse the batches of the coordinator with this boot id with ERR_STALE, or
 * take them again.  Any thread.  -EAGAIN: too many are refused. */
int worker_set_stale(worker *w, uint64_t boot_id, bool stale);

typedef struct {
    uint64_t progress; /* of the compute pool */
    uint64_t batches;  /* answered with rows */
    uint64_t pairs;    /* computed */
    uint64_t refused;
    uint64_t dropped;     /* replies that nobody took */
    uint64_t reply_bytes; /* waiting, computing or not yet sent */
    uint64_t drops;       /* orders to drop that were carried out */
    uint32_t jobs;        /* waiting and computing */
} worker_counts;

void worker_read_counts(const worker *w, worker_counts *out); /* any thread */
uint32_t worker_threads(const worker *w);
const tally *worker_tally(const worker *w); /* NULL: nothing is counted */

#endif
