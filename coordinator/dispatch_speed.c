/* dispatch_speed.c - what nodes have shown: how fast they are, how regular, and
 * whether one is far slower than the others.
 *
 * Speed: a request with n pairs ahead of its end takes base + n * pair.  The
 * two are fitted to the answers; an estimate fades while it is not renewed, so
 * that a node that was slow once is tried again.
 *
 * Regularity: where processes share CPUs, an answer may come much later than
 * expected, for a reason that has nothing to do with what was asked for.  So
 * what a deadline allows is twofold: a multiple of the expected time, and twice
 * what only rare answers took beyond twice the expected time.  That is read off
 * a histogram of the latest answers.  It starts with a few samples that stand
 * for hedge_start_us and fade as real ones come.
 *
 * Slowness: a node whose speed has been a small part of its peers' median for a
 * while is marked, until it answers a trial nearly as fast as they would. */
#include "coordinator/dispatch_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- predictions ---- */

/* How often an estimate has halved by then. */
static uint32_t faded(const dispatch_peer *peer, uint64_t us) {
    uint64_t age_us = us > peer->sampled_us ? us - peer->sampled_us : 0;
    uint64_t each_us = DISPATCH_FADE_US >> (DISPATCH_YOUNG - peer->n_samples);
    return (uint32_t)dispatch_min(age_us / each_us, 32);
}

/* A node that has not answered yet is expected to be faster than the usual for
 * one piece, so that it is measured soon, and slow beyond: it is not given all
 * there is on a guess. */
static uint64_t guessed_us(const dispatch *d, uint64_t pairs) {
    if (pairs > d->piece_pairs) {
        return DISPATCH_BASE_US + pairs * DISPATCH_PAIR_NS / 1000;
    }
    return (d->usual_base_us + pairs * d->usual_pair_ns / 1000) / 2;
}

/* Never so little that the number of pairs no longer matters. */
uint64_t dispatch_pair_ns(const dispatch *d, const dispatch_peer *peer,
                          uint64_t now_us) {
    if (peer->n_samples == 0) return dispatch_max(d->usual_pair_ns, 1000);
    return dispatch_max(peer->pair_ns >> faded(peer, now_us), 1000);
}

uint64_t dispatch_predict_us(const dispatch *d, const dispatch_peer *peer,
                             uint64_t now_us, uint32_t more) {
    uint64_t pairs = (uint64_t)peer->outstanding_pairs +
                     dispatch_queue_of(d, peer)->planned + more;
    if (peer->n_samples == 0) return guessed_us(d, pairs);
    return (peer->base_us >> faded(peer, now_us)) +
           pairs * dispatch_pair_ns(d, peer, now_us) / 1000;
}

/* By what it showed, without any fading: a slow node must not be called late,
 * nor a dead one be waited for without end. */
uint64_t dispatch_expect_us(const dispatch_peer *peer, uint32_t pairs) {
    bool known = peer->n_samples > 0;
    uint64_t base_us = known ? peer->base_us : DISPATCH_BASE_US;
    uint64_t pair_ns = known ? peer->pair_ns : DISPATCH_PAIR_NS;
    return base_us + pairs * pair_ns / 1000;
}

uint64_t dispatch_late_us(const dispatch *d, const dispatch_peer *peer,
                          uint64_t expected_us) {
    uint64_t us = expected_us * d->config.hedge_factor + 2ull * peer->slack_us;
    us = dispatch_min(us, d->config.patience_us / 2);
    return dispatch_max(us, d->config.hedge_min_us);
}

/* ---- regularity ---- */

static uint32_t bucket_of(uint64_t us) {
    if (us < DISPATCH_SLACK_US) return 0;
    uint64_t times = us * 4 / DISPATCH_SLACK_US; /* at least 4 */
    uint32_t octave = 63 - (uint32_t)__builtin_clzll(times);
    uint32_t quarter = (uint32_t)(times >> (octave - 2)) & 3;
    uint32_t bucket = 1 + (octave - 2) * 4 + quarter;
    return (uint32_t)dispatch_min(bucket, DISPATCH_SLACK_BUCKETS - 1);
}

/* What samples of this bucket are below. */
static uint32_t bucket_end_us(uint32_t bucket) {
    uint64_t quarter = DISPATCH_SLACK_US * (4ull + bucket % 4) / 4;
    return (uint32_t)(quarter << bucket / 4);
}

static void find_slack(dispatch_peer *peer) {
    uint32_t rare = peer->slack_weight / DISPATCH_SLACK_RARE, above = 0;
    uint32_t bucket = DISPATCH_SLACK_BUCKETS - 1;
    while (bucket > 0) {
        above += peer->slack[bucket];
        if (above > rare) break;
        bucket--;
    }
    peer->slack_us = bucket > 0 ? bucket_end_us(bucket) : 0;
}

static void fade_slack(dispatch_peer *peer) {
    peer->slack_weight = 0;
    for (uint32_t i = 0; i < DISPATCH_SLACK_BUCKETS; i++) {
        peer->slack[i] /= 2;
        peer->slack_weight += peer->slack[i];
    }
}

static void learn_slack(dispatch_peer *peer, uint64_t took_us,
                        uint64_t expected_us) {
    uint64_t over_us =
        took_us > 2 * expected_us ? took_us - 2 * expected_us : 0;
    if (peer->slack_weight >= DISPATCH_SLACK_SAMPLES * DISPATCH_SLACK_UNIT) {
        fade_slack(peer);
    }
    peer->slack[bucket_of(over_us)] += DISPATCH_SLACK_UNIT;
    peer->slack_weight += DISPATCH_SLACK_UNIT;
    find_slack(peer);
}

void dispatch_forget_speed(const dispatch *d, dispatch_peer *peer) {
    peer->n_samples = 0;
    peer->latency_us = 0;
    peer->slow_us = peer->slow_since_us = 0;
    memset(peer->slack, 0, sizeof(peer->slack));
    peer->slack_weight = 0;
    if (d->config.hedge_start_us > 0) {
        uint32_t bucket = bucket_of(d->config.hedge_start_us / 2);
        peer->slack_weight = DISPATCH_SLACK_PRIOR * DISPATCH_SLACK_UNIT;
        peer->slack[bucket] = (uint16_t)peer->slack_weight;
    }
    find_slack(peer);
}

/* ---- speed ---- */

static uint64_t expected_us(const dispatch_peer *peer,
                            const dispatch_request *r) {
    return peer->base_us + r->ahead * peer->pair_ns / 1000;
}

/* Make the estimate what this sample says, both terms in proportion. */
static void fit_estimate(dispatch_peer *peer, const dispatch_request *r,
                         uint64_t took_us) {
    uint64_t us = dispatch_max(expected_us(peer, r), 1);
    peer->base_us = peer->base_us * took_us / us;
    peer->pair_ns = peer->pair_ns * took_us / us;
}

/* The first sample is all that is known of a node.  The next few are believed
 * where they are better: it may have had to connect, and to touch its memory
 * for the first time. */
static void begin_estimate(const dispatch *d, dispatch_peer *peer,
                           const dispatch_request *r, uint64_t took_us) {
    if (peer->n_samples == 0) {
        peer->base_us = d->usual_base_us;
        peer->pair_ns = d->usual_pair_ns;
        fit_estimate(peer, r, took_us);
    } else if (took_us < expected_us(peer, r)) {
        fit_estimate(peer, r, took_us);
    }
}

/* It was asked by an estimate that had faded.  What faded is gone as far as
 * this sample agrees: the rest would keep the node from being asked again until
 * it has faded once more, again and again. */
static void fade_estimate(dispatch_peer *peer, const dispatch_request *r,
                          uint64_t took_us) {
    for (uint32_t left = faded(peer, r->sent_us);
         left > 0 && expected_us(peer, r) / 2 >= took_us; left--) {
        if (expected_us(peer, r) == 0) return;
        peer->base_us /= 2;
        peer->pair_ns /= 2;
    }
}

/* What new nodes are expected to be like. */
static void learn_usual(dispatch *d, const dispatch_peer *peer) {
    if (d->n_usual < 8) d->n_usual++;
    uint64_t n = d->n_usual;
    d->usual_base_us = ((n - 1) * d->usual_base_us + peer->base_us) / n;
    d->usual_pair_ns = ((n - 1) * d->usual_pair_ns + peer->pair_ns) / n;
}

/* Share the error of the prediction between the two terms that made it. */
static void learn_speed(dispatch *d, dispatch_peer *peer, uint64_t now_us,
                        const dispatch_request *r, uint64_t took_us) {
    if (peer->n_samples < DISPATCH_YOUNG) {
        begin_estimate(d, peer, r, took_us);
    } else {
        fade_estimate(peer, r, took_us);
    }
    int64_t error_us = (int64_t)took_us - (int64_t)expected_us(peer, r);
    int64_t base_us = (int64_t)peer->base_us + error_us / 8;
    int64_t pair_ns =
        (int64_t)peer->pair_ns + error_us * 1000 / 8 / (int64_t)r->ahead;
    peer->base_us = base_us > 0 ? (uint64_t)base_us : 0;
    peer->pair_ns = pair_ns > 0 ? (uint64_t)pair_ns : 0;
    peer->pair_ns = dispatch_min(peer->pair_ns, DISPATCH_PAIR_MAX_NS);
    peer->sampled_us = now_us;
    if (peer->n_samples < DISPATCH_YOUNG) peer->n_samples++;
    learn_usual(d, peer);

    int64_t latency_us = peer->latency_us;
    if (latency_us == 0) latency_us = (int64_t)took_us;
    latency_us += ((int64_t)took_us - latency_us) / 8;
    peer->latency_us = (uint32_t)dispatch_min((uint64_t)latency_us, UINT32_MAX);
}

/* ---- slowness ---- */

static uint64_t cost_ns(const dispatch_peer *peer, uint64_t pairs) {
    return peer->base_us * 1000 + pairs * peer->pair_ns;
}

static int compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Of the other nodes that answer, and are not slow themselves; 0: there are
 * none.  Of an even number the greater one in the middle. */
static uint64_t median_cost_ns(const dispatch *d, const dispatch_peer *of,
                               uint64_t pairs) {
    uint64_t costs[PLACEMENT_MAX_NODES];
    uint32_t n = 0;
    for (uint32_t i = 0; i < d->n_seen; i++) {
        const dispatch_peer *peer = &d->peers[i];
        if (peer == of || !peer->up || peer->suspect || peer->slow_us != 0 ||
            peer->n_samples < DISPATCH_YOUNG) {
            continue;
        }
        costs[n++] = cost_ns(peer, pairs);
    }
    if (n == 0) return 0;
    qsort(costs, n, sizeof(costs[0]), compare);
    return costs[n / 2];
}

static void mark_slow(dispatch *d, dispatch_peer *peer, uint64_t now_us) {
    peer->slow_us = now_us;
    peer->trial_us = DISPATCH_TRIAL_MIN_US;
    peer->trial_at_us = now_us + peer->trial_us;
    dispatch_replan(d);
}

/* It is measured anew, by the answer that shows it. */
static void recover(dispatch *d, dispatch_peer *peer) {
    peer->slow_us = peer->slow_since_us = 0;
    peer->n_samples = 0;
    dispatch_replan(d);
}

/* The answers of a node that is slow for a reason of its own fade and come
 * rarely, so it is judged by its latest one. */
static void check_recovery(dispatch *d, dispatch_peer *peer,
                           const dispatch_request *r, uint64_t took_us) {
    uint64_t usual_ns = median_cost_ns(d, peer, r->ahead);
    if (usual_ns == 0 || took_us * 1000 <= usual_ns * DISPATCH_SLOW_FACTOR / 2)
        recover(d, peer);
}

static void check_slowness(dispatch *d, dispatch_peer *peer, uint64_t now_us) {
    if (peer->n_samples < DISPATCH_YOUNG) return;
    if (now_us - peer->slow_looked_us < DISPATCH_SLOW_LOOK_US) return;
    peer->slow_looked_us = now_us;
    uint64_t usual_ns = median_cost_ns(d, peer, DISPATCH_SLOW_PAIRS);
    bool slow = usual_ns > 0 && cost_ns(peer, DISPATCH_SLOW_PAIRS) >
                                    usual_ns * DISPATCH_SLOW_FACTOR;
    if (!slow) {
        peer->slow_since_us = 0;
    } else if (peer->slow_since_us == 0) {
        peer->slow_since_us = now_us;
    } else if (now_us - peer->slow_since_us >= DISPATCH_SLOW_AFTER_US) {
        mark_slow(d, peer, now_us);
    }
}

/* For its speed, an answer counts at most as its deadline, so that one hang
 * does not make a node look slow for long. */
void dispatch_learn(dispatch *d, dispatch_peer *peer, uint64_t now_us,
                    const dispatch_request *r) {
    uint64_t took_us = now_us - r->sent_us;
    uint64_t counted_us = dispatch_min(took_us, r->late_us - r->sent_us);
    if (peer->n_samples > 0) learn_slack(peer, took_us, r->expected_us);
    if (peer->slow_us != 0) check_recovery(d, peer, r, took_us);
    learn_speed(d, peer, now_us, r, counted_us);
    if (peer->slow_us == 0) check_slowness(d, peer, now_us);
}
