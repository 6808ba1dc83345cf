/* dispatch_internal.h - what the parts of dispatch share; nobody else includes
 * it.
 *
 *   dispatch.c        life, the next action, statistics
 *   dispatch_plan.c   which node computes which waiting pair
 *   dispatch_split.c  the pairs of one expert split between nodes
 *   dispatch_cut.c    pieces of a node's queue, put in flight
 *   dispatch_late.c   requests that are late, pairs out of patience
 *   dispatch_speed.c  what nodes have shown: speed, regularity, being slow
 *   dispatch_event.c  answers, refusals, nodes that come and go
 *   dispatch_resume.c what was given up, and comes back
 *   dispatch_table.c  the requests in flight, and the memory of refusals
 *
 * A pair is OPEN until it is answered or lost.  An open pair is `waiting` when
 * it has to be asked of somebody (for the first time or again), and it may be
 * asked of several holders at once; so waiting and being in flight do not
 * exclude each other.  Holders are numbered by their place in the placement's
 * list for the expert, which makes a set of them a word of bits. */
#ifndef COORDINATOR_DISPATCH_INTERNAL_H
#define COORDINATOR_DISPATCH_INTERNAL_H

#include "coordinator/dispatch.h"

/* Holders of one expert that are considered: the lowest ones. */
#define DISPATCH_HOLDERS 64
/* An overloaded node, or one whose link is full, rests from .. to. */
#define DISPATCH_REST_MIN_US 2000
#define DISPATCH_REST_MAX_US 50000
/* Up to here a rest is waited for, although the pairs could be computed here:
 * it is shorter than reading their weights from a file. */
#define DISPATCH_REST_SHORT_US 8000
/* A node that refused an expert is the last to be asked for it for so long. */
#define DISPATCH_REFUSED_US 1000000
#define DISPATCH_REFUSALS 1024 /* remembered; a power of two */
/* A suspect node gets one request on trial from .. to: a single lost message
 * must not retire a node that answers its pings. */
#define DISPATCH_TRIAL_MIN_US 500000
#define DISPATCH_TRIAL_MAX_US 8000000
/* The same for one whose connection broke: it may be a new process by now. */
#define DISPATCH_BROKEN_US 100000
/* A trial asks for no more than this. */
#define DISPATCH_TRIAL_PAIRS 16
/* A node is slow that has been so many times slower than the median of its
 * peers for so long; no longer so when it is less than half as bad. */
#define DISPATCH_SLOW_FACTOR 4
#define DISPATCH_SLOW_AFTER_US 1000000
#define DISPATCH_SLOW_LOOK_US 250000 /* between looks at one node */
#define DISPATCH_SLOW_PAIRS 8        /* for which speeds are compared */

/* Irregularity: how much longer than twice the expected time answers took, in
 * buckets of a quarter of an octave from this time on; the newest so many
 * samples count most, and one in so many may be above what is allowed for. */
#define DISPATCH_SLACK_US 64
#define DISPATCH_SLACK_BUCKETS 64
#define DISPATCH_SLACK_SAMPLES 1024
#define DISPATCH_SLACK_RARE 200
#define DISPATCH_SLACK_UNIT 8  /* weight of a sample, so that it can fade */
#define DISPATCH_SLACK_PRIOR 8 /* samples that hedge_start_us stands for */
/* Late again, when the budget of hedges was used up: after so many times the
 * deadline, and not before that. */
#define DISPATCH_SECOND 3
#define DISPATCH_SECOND_US 200000
#define DISPATCH_HEDGE_BURST 32 /* hedges that may be saved up */

/* A second holder reads an expert's weights once more, which costs about as
 * much as so many pairs; a run is split if both parts have as many. */
#define DISPATCH_READ_PAIRS 6
/* Predictions this close (a part of one) are no reason to prefer a node: then
 * the one that was given less lately is asked. */
#define DISPATCH_NEAR 10
#define DISPATCH_GIVEN_US 1000000 /* what was given halves in that time */

/* A late request no longer keeps its node from being asked for the same pairs
 * again after 1 / so much of the patience; then after twice that, and so on.  A
 * message that is lost without a broken connection is rare, and a node that
 * shows no sign of work may only be slow: it is not to be buried. */
#define DISPATCH_RESENDS 4
#define DISPATCH_TRIES_MOST 8 /* that double */
/* What was given up is no longer taken to be under way when it was sent so many
 * times the patience ago, and its node showed no sign of work since. */
#define DISPATCH_UNDER_WAY 8
/* So does one that is at work, counted from the last sign of it: well above the
 * time between pings, which are what brings such signs.  What is asked twice is
 * computed twice, by a node that has too much to do already. */
#define DISPATCH_WORKS 2
/* A request is forgotten, and its credit returned, after so many times the
 * patience: its deadline on the node has passed long before. */
#define DISPATCH_FORGET 2
/* So is one that was passed by so often: the node answered a request that was
 * sent later, then one that was sent after that answer, and so on.  Its queue
 * lets no batch wait behind more than JOB_PATIENCE (8) younger ones, so the
 * request or its answer was lost on the way; if not, one batch more than agreed
 * waits there. */
#define DISPATCH_ROUNDS 16
/* A node's speed before any node has answered, and for the deadline of one that
 * has not. */
#define DISPATCH_BASE_US 1000
#define DISPATCH_PAIR_NS 1000000
#define DISPATCH_PAIR_MAX_NS 1000000000
/* An estimate halves for each such time without a sample, so that a node that
 * was slow once is tried again ... */
#define DISPATCH_FADE_US 250000
/* ... sooner, by powers of two, while it rests on fewer samples than this: the
 * first one waited for the connection, and for memory never used before. */
#define DISPATCH_YOUNG 4

/* A request's id is a running number and, in its low bits, its slot. */
#define DISPATCH_SLOT_BITS 24

#define DISPATCH_NONE UINT32_MAX /* no pair, no slot, no node */

typedef enum { PAIR_OPEN, PAIR_ANSWERED, PAIR_LOST } dispatch_pair_state;

typedef struct {
    uint32_t expert;
    uint32_t next;     /* in its node's queue */
    uint32_t first;    /* node it was first asked of */
    uint64_t first_id; /* by this request ... */
    uint64_t first_us; /* ... then */
    uint64_t asked_us; /* it was asked last; 0: never */
    uint64_t asked;    /* holders whose answer may still come */
    uint64_t refused;  /* holders that will not compute it in this layer */
    dispatch_pair_state state;
    uint8_t tries;     /* it was asked so often, up to DISPATCH_TRIES_MOST */
    bool waiting;      /* to be asked (again) */
    bool trial;        /* this time on trial: not counted as asked */
    bool second;       /* to be asked again whatever the budget says */
    bool local;        /* handed out to be computed here */
    bool local_failed; /* that did not work */
    bool overdue;      /* out of patience: only computing it here is left */
} dispatch_pair;

typedef struct {
    uint64_t id; /* 0: a free slot */
    uint64_t layer_seq;
    uint64_t stamp; /* rises along the list of those in flight */
    uint64_t sent_us, late_us, second_us, again_us; /* points in time */
    uint64_t expected_us;                           /* it would take */
    uint32_t lane, node, layer, n_pairs;
    uint32_t ahead; /* pairs the node had to do, with these */
    uint64_t round; /* its node's, when it was sent */
    /* [piece_pairs]; meaningless once the layer is over.  DISPATCH_NONE: of
     * one that was taken up, what nobody asked for again. */
    uint32_t *pairs;
    uint32_t newer, older; /* slots in flight, by age; newer: free list */
    bool late;
    bool doubled; /* late, and its pairs are to be asked of others as well */
    bool again;   /* its pairs may be asked of the same node again */
    bool hedge;
    uint8_t tries; /* before it, of the pair that was asked most often */
    bool kept;     /* what it is for is remembered: it may be taken up */
    bool arrived;  /* its answer is here, and waits for its rows */
} dispatch_request;

/* What a pair of a request is for, whatever layer runs. */
typedef struct {
    uint64_t row_key; /* 0: nothing that will be asked for again */
    uint32_t expert;
} dispatch_work;

/* Consecutive pairs of d->lane->order, [begin, end), of which those that wait
 * are for one node: the whole of an expert's run, or a part. */
typedef struct {
    uint32_t begin, end, count, node;
    bool trial;
} dispatch_part;

typedef struct {
    bool up, suspect;
    node_trust trust;
    uint64_t slow_us;           /* marked as slow then; 0: it is not */
    uint64_t slow_since_us;     /* its speed was that of a slow node since */
    uint64_t slow_looked_us;    /* that was looked at last */
    uint64_t outstanding_bytes; /* of replies */
    uint32_t outstanding_pairs;
    uint64_t rounds; /* answers, each to a request sent after the one before */
    uint64_t rest_until_us;
    uint32_t rest_us;
    uint64_t works_us; /* when it was last seen to compute */
    uint64_t trial_at_us;
    uint32_t trial_us;
    /* speed: a request with `ahead` pairs takes base + ahead * pair */
    uint64_t base_us, pair_ns, sampled_us;
    uint32_t n_samples; /* up to DISPATCH_YOUNG; 0: the speed is a guess */
    uint32_t latency_us;
    uint16_t slack[DISPATCH_SLACK_BUCKETS];
    uint32_t slack_weight; /* sum of these */
    uint32_t slack_us;     /* what only rare samples are above */
    uint64_t given;        /* pairs, lately */
    uint64_t answered_pairs, serial;
} dispatch_peer;

/* What a layer has for one node. */
typedef struct {
    /* the plan's queue of pairs, in the order of their experts */
    uint32_t head, tail, planned;
    bool on_trial;
    /* requests of the layer `fresh_seq` that are in flight and not late */
    uint64_t fresh_seq;
    uint32_t n_fresh;
} dispatch_queue;

typedef struct {
    uint64_t until_us;
    uint32_t node, layer, expert;
} dispatch_refusal;

/* A layer that is being computed. */
typedef struct {
    uint64_t layer_seq;   /* of all begins */
    uint64_t first_stamp; /* of a request of it */
    uint32_t layer, n_rows, k, n_pairs;
    const placement *where; /* NULL: the layer is over */
    dispatch_pair *pairs;   /* [room] */
    uint32_t *order;        /* [room] by expert, then row */
    uint32_t *scratch;      /* [room] for sorting */
    uint32_t n_open, n_waiting;
    uint64_t progress_us; /* when it began, or a pair was answered */
    uint32_t lost_expert; /* DISPATCH_NONE: nothing lost */

    /* the plan: who is to compute the waiting pairs */
    bool replan;
    dispatch_queue *queues; /* [max_nodes] */
    dispatch_part *parts;   /* [room] of the plan in the making */
    uint32_t n_parts;
    uint32_t *busy; /* [max_nodes] nodes with a queue */
    uint32_t n_busy, turn;
    uint32_t *here;       /* [room] to be computed here */
    uint32_t n_here;      /* in that list: handed out ones, then planned ones */
    uint32_t n_here_out;  /* handed out and not done */
    uint32_t n_here_kept; /* handed out; the caller may still read them */
    bool blocked;         /* a node was passed over for want of credit */
    uint64_t rest_wake_us; /* a resting node could be asked then */

    /* no earlier than these does time alone change anything */
    uint64_t late_wake_us, give_up_us;
} dispatch_lane;

struct dispatch {
    dispatch_config config;
    uint32_t room; /* for pairs of one layer */
    uint32_t piece_pairs;

    dispatch_lane lanes[DISPATCH_LANES];
    dispatch_lane *lane; /* that is worked on */
    uint64_t last_seq, last_stamp;

    uint64_t paused_us;   /* this process had not run until then */
    dispatch_peer *peers; /* [max_nodes] */
    uint64_t usual_base_us, usual_pair_ns; /* of those that answer */
    uint32_t n_usual;                      /* answers, up to 8 */
    uint32_t n_seen;                       /* nodes above were never up */
    uint64_t given_us;                     /* peers' `given` was halved then */
    int64_t budget;                        /* of hedges, in percent of one */
    dispatch_request *requests;            /* [n_slots] */
    uint32_t *request_pairs;               /* [n_slots * piece_pairs] */
    dispatch_work *request_works;          /* the same, of those kept */
    uint32_t n_slots, free_slot, oldest, newest;
    uint64_t next_seq;
    dispatch_refusal refusals[DISPATCH_REFUSALS];
    dispatch_stats stats;
};

static inline uint64_t dispatch_min(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}
static inline uint64_t dispatch_max(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}
/* Times can be far in the future, never wrapped. */
static inline uint64_t dispatch_later(uint64_t us, uint64_t by_us) {
    return us > UINT64_MAX - by_us ? UINT64_MAX : us + by_us;
}

/* What the layer that is worked on has for a node. */
static inline dispatch_queue *dispatch_queue_of(const dispatch *d,
                                                const dispatch_peer *peer) {
    return &d->lane->queues[peer - d->peers];
}

/* NULL: nobody asks for that any more. */
static inline dispatch_pair *
dispatch_pair_of(const dispatch *d, const dispatch_request *r, uint32_t i) {
    uint32_t pair = r->pairs[i];
    return pair != DISPATCH_NONE ? &d->lane->pairs[pair] : NULL;
}

/* ---- dispatch.c ---- */
/* What a plan rests on has changed, for whatever layer. */
void dispatch_replan(dispatch *d);
/* What can become of a pair: */
void dispatch_wait_pair(dispatch *d, dispatch_pair *p); /* must be asked */
void dispatch_unwait_pair(dispatch *d, dispatch_pair *p);
void dispatch_lose_pair(dispatch *d, dispatch_pair *p);

/* ---- dispatch_plan.c ---- */
/* Fill order[] with the pairs by expert, then row. */
void dispatch_sort(dispatch *d);
/* Place every waiting pair anew: in a node's queue, here, or (nobody can ever
 * compute it) among the lost.  What cannot be asked now keeps waiting. */
void dispatch_plan(dispatch *d, uint64_t now_us);
/* The bit of a node among an expert's holders; 0 if it is none. */
uint64_t dispatch_holder(const dispatch *d, uint32_t expert, uint32_t node);
/* Can this holder, number `i` of the pair's, be given more such pairs now, as a
 * first choice? */
bool dispatch_is_good(const dispatch *d, uint64_t now_us,
                      const dispatch_pair *p, uint32_t i, uint32_t node,
                      uint32_t count);

/* ---- dispatch_split.c ---- */
/* Move parts of the plan, or cut them, where that makes the last node end
 * sooner. */
void dispatch_split(dispatch *d, uint64_t now_us);

/* ---- dispatch_cut.c ---- */
/* Take the next piece that fits its node's credit from the queues, and put it
 * in flight; false: none. */
bool dispatch_cut(dispatch *d, uint64_t now_us, dispatch_action *out);
/* When it is late, counted from now on; and when its pairs may be asked once
 * more, counted from when they were asked last. */
void dispatch_set_deadlines(dispatch *d, uint64_t now_us, uint64_t asked_us,
                            dispatch_request *r);
/* May a piece of this many pairs be sent now? */
bool dispatch_has_credit(const dispatch *d, const dispatch_peer *peer,
                         uint32_t count);

/* ---- dispatch_late.c ---- */
/* What time brings: late requests, pairs out of patience. */
void dispatch_check_late(dispatch *d, uint64_t now_us);
void dispatch_check_patience(dispatch *d, uint64_t now_us);
/* A call is sent: what it is adds to the budget of hedges, or is taken from it.
 */
void dispatch_count_call(dispatch *d, const dispatch_request *r, bool retry,
                         bool trial);

/* ---- dispatch_speed.c ---- */
/* When the node would be done with `more` pairs on top of what it has and is
 * planned to have. */
uint64_t dispatch_predict_us(const dispatch *d, const dispatch_peer *peer,
                             uint64_t now_us, uint32_t more);
/* What one pair more costs there. */
uint64_t dispatch_pair_ns(const dispatch *d, const dispatch_peer *peer,
                          uint64_t now_us);
/* What it should take for so many pairs, and when that is late. */
uint64_t dispatch_expect_us(const dispatch_peer *peer, uint32_t pairs);
uint64_t dispatch_late_us(const dispatch *d, const dispatch_peer *peer,
                          uint64_t expected_us);
/* An answer came. */
void dispatch_learn(dispatch *d, dispatch_peer *peer, uint64_t now_us,
                    const dispatch_request *r);
/* Nothing is known of it. */
void dispatch_forget_speed(const dispatch *d, dispatch_peer *peer);

/* ---- dispatch_table.c ---- */
/* Slots for pieces of `piece_pairs`; more than before, if not as many.  The
 * pair lists of requests in flight are lost, so no layer may be open. */
int dispatch_table_grow(dispatch *d, uint64_t n_slots, uint32_t piece_pairs);
/* A slot to fill, in flight from now on; NULL: the table is full. */
dispatch_request *dispatch_table_add(dispatch *d, uint32_t node,
                                     uint32_t n_pairs);
/* One in flight to `node`; DISPATCH_NONE: to any. */
dispatch_request *dispatch_table_find(const dispatch *d, uint32_t node,
                                      uint64_t request_id);
/* Its credit is returned, if it was not before.  The slot's pair list stays
 * readable until the next dispatch_table_add(). */
void dispatch_table_remove(dispatch *d, dispatch_request *r);
/* Its answer is here: the credit is returned, and what this shows to be lost is
 * forgotten. */
void dispatch_table_answered(dispatch *d, dispatch_request *r);
/* Forget what is too old; when that can happen next. */
uint64_t dispatch_table_expire(dispatch *d, uint64_t now_us);
/* Does it belong to a layer that is being computed? */
bool dispatch_table_open(const dispatch *d, const dispatch_request *r);
/* Does it belong to the layer that is worked on, or was last in its lane? */
bool dispatch_table_own(const dispatch *d, const dispatch_request *r);
/* Both. */
bool dispatch_table_current(const dispatch *d, const dispatch_request *r);
/* It belongs to this layer from now on, as if it had just been sent. */
void dispatch_table_renew(dispatch *d, dispatch_request *r);
/* Its answer is no longer counted on. */
void dispatch_table_late(dispatch *d, dispatch_request *r);
/* Requests of open layers whose answers are counted on: they will return
 * credit, or be late. */
uint32_t dispatch_table_fresh(const dispatch *d, uint32_t node);

void dispatch_refusal_add(dispatch *d, uint32_t node, uint32_t layer,
                          uint32_t expert, uint64_t until_us);
bool dispatch_refusal_holds(const dispatch *d, uint32_t node, uint32_t layer,
                            uint32_t expert, uint64_t now_us);
void dispatch_refusal_clear(dispatch *d, uint32_t node);

#endif
