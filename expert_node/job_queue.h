/* job_queue.h - which batches a node computes next: a plain state machine.
 *
 * Batches from all coordinators wait here, bounded in number and in bytes of
 * reply.  One take() returns batches of one layer, merged so that an expert's
 * weights are read once; small batches (decoding) go before large ones
 * (prompts), and none waits behind more than JOB_PATIENCE younger ones.  What
 * has passed its deadline is dropped: its coordinator has asked elsewhere.
 * Events and the time go in, batches come out; no socket, no clock, no thread.
 */
#ifndef EXPERT_NODE_JOB_QUEUE_H
#define EXPERT_NODE_JOB_QUEUE_H

#include <stddef.h>
#include <stdint.h>

#define JOB_SMALL_PAIRS 64 /* up to here a batch counts as decoding */
#define JOB_PATIENCE 8     /* small merges that may overtake a large batch */

typedef struct {
    uint64_t peer;       /* which coordinator (boot id) */
    uint64_t request_id; /* unique for a peer */
    uint32_t layer;
    uint32_t n_pairs;
    uint64_t reply_bytes;
    uint64_t expires_us; /* 0: never */
    void *payload;       /* the caller's */
} job;

typedef struct {
    uint32_t max_jobs;
    uint64_t max_reply_bytes; /* waiting and computing */
    uint32_t max_merge_pairs; /* pairs in one take(); one job may exceed it */
    uint32_t max_peer_jobs;   /* waiting from one coordinator; 0: max_jobs */
} job_limits;

typedef struct job_queue job_queue;

/* ERR_RANGE for a limit of 0, -ENOMEM. */
int job_queue_new(job_queue **out, const job_limits *limits);
void job_queue_free(job_queue *q); /* payloads are the caller's */

/* 0: queued.  ERR_OVERLOADED: full, or too much of it is this peer's.
 * -EALREADY: the same (peer, request_id) is waiting already; the copy is the
 * caller's to drop. */
int job_queue_push(job_queue *q, const job *j);

/* Move up to `capacity` batches of one layer to `out`; 0 if none waits that is
 * in time.  Their reply bytes count against the limit until
 * job_queue_finish(). */
size_t job_queue_take(job_queue *q, uint64_t now_us, job *out, size_t capacity);
/* Hand out batches whose deadline has passed, so that they can be dropped; they
 * are finished with. */
size_t job_queue_expired(job_queue *q, uint64_t now_us, job *out,
                         size_t capacity);
void job_queue_finish(job_queue *q, const job *j);

/* Forget what a peer (a coordinator that restarted) has waiting: handed out and
 * finished with. */
size_t job_queue_forget(job_queue *q, uint64_t peer, job *out, size_t capacity);

uint32_t job_queue_waiting(const job_queue *q);
uint64_t job_queue_reply_bytes(const job_queue *q);

#endif
