/* job_queue.c - see job_queue.h.
 *
 * Waiting jobs stand in one array in the order of arrival; with a few hundred
 * at most, walking it costs less than keeping anything cleverer in order.
 *
 * Every take() has a leader, which fixes the layer:
 *   - the oldest job, once JOB_PATIENCE takes led by younger ones passed it by;
 *   - else the oldest small job;
 *   - else the oldest job.
 * A small leader takes along small jobs only: a decoding token must not wait
 * until somebody's prompt is computed.  A large leader takes along whatever
 * fits, small ones first. */
#include "expert_node/job_queue.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"

typedef struct {
    job job;
    uint32_t passed; /* takes led by a younger job since it came */
    bool leaving;    /* handed out; swept before the call returns */
} place;

struct job_queue {
    job_limits limits;
    place *places; /* max_jobs of them */
    uint32_t count;
    uint64_t reply_bytes; /* waiting and computing */
};

int job_queue_new(job_queue **out, const job_limits *limits) {
    *out = NULL;
    if (limits->max_jobs == 0 || limits->max_reply_bytes == 0) return ERR_RANGE;

    job_queue *q = calloc(1, sizeof(*q));
    if (q == NULL) return -ENOMEM;
    q->limits = *limits;
    if (q->limits.max_peer_jobs == 0) {
        q->limits.max_peer_jobs = limits->max_jobs;
    }
    q->places = calloc(limits->max_jobs, sizeof(*q->places));
    if (q->places == NULL) {
        free(q);
        return -ENOMEM;
    }
    *out = q;
    return 0;
}

void job_queue_free(job_queue *q) {
    if (q == NULL) return;
    free(q->places);
    free(q);
}

int job_queue_push(job_queue *q, const job *j) {
    uint32_t of_peer = 0;
    for (uint32_t i = 0; i < q->count; i++) {
        const job *other = &q->places[i].job;
        if (other->peer != j->peer) continue;
        if (other->request_id == j->request_id) return -EALREADY;
        of_peer++;
    }
    if (q->count == q->limits.max_jobs || of_peer >= q->limits.max_peer_jobs ||
        q->reply_bytes > q->limits.max_reply_bytes ||
        j->reply_bytes > q->limits.max_reply_bytes - q->reply_bytes) {
        return ERR_OVERLOADED;
    }
    q->places[q->count++] = (place){.job = *j};
    q->reply_bytes += j->reply_bytes;
    return 0;
}

static bool in_time(const place *p, uint64_t now_us) {
    return p->job.expires_us == 0 || now_us < p->job.expires_us;
}

static bool small(const place *p) {
    return p->job.n_pairs <= JOB_SMALL_PAIRS;
}

/* The index of the job that leads the next take; q->count if there is none. */
static uint32_t find_leader(const job_queue *q, uint64_t now_us) {
    uint32_t oldest = q->count, oldest_small = q->count;
    for (uint32_t i = 0; i < q->count; i++) {
        const place *p = &q->places[i];
        if (!in_time(p, now_us)) continue;
        if (oldest == q->count) oldest = i;
        if (!small(p)) continue;
        oldest_small = i;
        break;
    }
    if (oldest == q->count || oldest_small == q->count) return oldest;
    return q->places[oldest].passed >= JOB_PATIENCE ? oldest : oldest_small;
}

/* Close the gaps that handed-out jobs left, in order. */
static void sweep(job_queue *q) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < q->count; i++) {
        if (q->places[i].leaving) continue;
        if (kept != i) q->places[kept] = q->places[i];
        kept++;
    }
    q->count = kept;
}

static void hand_out(place *p, job *out, size_t *n) {
    p->leaving = true;
    out[(*n)++] = p->job;
}

size_t job_queue_take(job_queue *q, uint64_t now_us, job *out,
                      size_t capacity) {
    uint32_t leader = find_leader(q, now_us);
    if (leader == q->count || capacity == 0) return 0;

    size_t n = 0;
    const bool led_by_small = small(&q->places[leader]);
    const uint32_t layer = q->places[leader].job.layer;
    uint64_t pairs = q->places[leader].job.n_pairs;
    hand_out(&q->places[leader], out, &n);

    /* Small ones of the layer in the first pass, large ones in the second. */
    for (int pass = 0; pass < (led_by_small ? 1 : 2); pass++) {
        for (uint32_t i = 0; i < q->count && n < capacity; i++) {
            place *p = &q->places[i];
            if (p->leaving || p->job.layer != layer) continue;
            if (small(p) != (pass == 0) || !in_time(p, now_us)) continue;
            if (pairs + p->job.n_pairs > q->limits.max_merge_pairs) continue;
            pairs += p->job.n_pairs;
            hand_out(p, out, &n);
        }
    }
    for (uint32_t i = 0; i < leader; i++) {
        if (!q->places[i].leaving) q->places[i].passed++;
    }
    sweep(q);
    return n;
}

size_t job_queue_expired(job_queue *q, uint64_t now_us, job *out,
                         size_t capacity) {
    size_t n = 0;
    for (uint32_t i = 0; i < q->count && n < capacity; i++) {
        if (in_time(&q->places[i], now_us)) continue;
        hand_out(&q->places[i], out, &n);
        job_queue_finish(q, &out[n - 1]);
    }
    if (n > 0) sweep(q);
    return n;
}

void job_queue_finish(job_queue *q, const job *j) {
    assert(q->reply_bytes >= j->reply_bytes);
    q->reply_bytes -= j->reply_bytes;
}

size_t job_queue_forget(job_queue *q, uint64_t peer, job *out,
                        size_t capacity) {
    size_t n = 0;
    for (uint32_t i = 0; i < q->count && n < capacity; i++) {
        if (q->places[i].job.peer != peer) continue;
        hand_out(&q->places[i], out, &n);
        job_queue_finish(q, &out[n - 1]);
    }
    if (n > 0) sweep(q);
    return n;
}

uint32_t job_queue_waiting(const job_queue *q) {
    return q->count;
}

uint64_t job_queue_reply_bytes(const job_queue *q) {
    return q->reply_bytes;
}
