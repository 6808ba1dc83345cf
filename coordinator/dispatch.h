/* dispatch.h - who computes which (row, expert) pair of a layer, and what
 * happens when an answer does not come: a plain state machine.
 *
 * For each layer of a batch step the caller begins with the router's choices,
 * then alternates: take the next action, feed in what happened.  Pairs are
 * grouped by expert and node; a replica is chosen by least predicted finish
 * time, and many pairs of one expert are split among replicas when that is
 * faster; one request's reply stays under piece_bytes and a node's outstanding
 * replies under credit_bytes.  When a request is late (a deadline from what its
 * node has shown), its pairs go to another replica or, failing that, to the
 * coordinator's own file; the first answer for a pair wins, later ones are
 * dropped.  A pair that nobody can compute is given up, and its row with it:
 * the others go on.
 *
 * What is asked twice is computed twice: such hedges have a budget, a share of
 * all calls.  What a node certainly lost (its connection broke, it went down,
 * it refused) is a retry, and is not limited; nor is what stays late for much
 * longer.  A node that was late, or is far slower than its peers, is asked for
 * nothing that others hold, but for a copy of a request now and then, on trial,
 * which nobody waits for.
 *
 * An expert, in here, is what the placement calls a unit: where experts are cut
 * into slices, a slice of one, and k counts the slices of all that a row uses.
 *
 * Two layers may be in flight, of two halves of a batch step: each has a lane.
 * The nodes, their credit and what is in flight to them are common to both.
 *
 * Which answer wins changes no bit: experts are pure functions.  Events and the
 * time go in, actions come out; no socket, no clock, no thread, and the same
 * events give the same actions. */
#ifndef COORDINATOR_DISPATCH_H
#define COORDINATOR_DISPATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "coordinator/placement.h"

typedef struct {
    uint32_t max_nodes;
    uint32_t max_pairs; /* of one begin: rows * k; see dispatch_reserve() */
    uint64_t reply_row_bytes;
    uint64_t piece_bytes;  /* most reply bytes of one request */
    uint64_t credit_bytes; /* most outstanding reply bytes of one node */
    uint32_t hedge_min_us; /* a request is never late before that */
    uint32_t
        hedge_factor; /* late after this many times the expected time ... */
    uint32_t hedge_start_us; /* ... and what is allowed for irregularity: this
                                much at first, then by what the node shows */
    uint32_t hedge_percent;  /* of all calls may be hedges; 0: no limit */
    uint32_t patience_us;    /* a pair without an alternative waits this long
                                for a node that shows no sign of work */
    uint32_t split_gain; /* work moves to another node if that brings a part in
                            so many of the time; 0: the usual */
    bool local;          /* the caller can compute experts itself */
} dispatch_config;

typedef struct dispatch dispatch;

int dispatch_new(dispatch **out, const dispatch_config *config);
void dispatch_free(dispatch *d);

/* Make room for more pairs in one begin.  Between layers only, of all lanes;
 * what is in flight stays so.  ERR_RANGE, -ENOMEM: the room is what it was. */
int dispatch_reserve(dispatch *d, uint32_t max_pairs);

#define DISPATCH_LANES 2

/* What follows concerns the layer in this lane; the first one, until then.
 * Answers, refusals and nodes find the lanes that they concern themselves. */
void dispatch_choose(dispatch *d, uint32_t lane);
/* The lane of a request in flight, of a layer that is not over;
 * DISPATCH_LANES: there is none. */
uint32_t dispatch_lane_of(const dispatch *d, uint64_t request_id);

/* Start a layer; one that is not done is left as it is.  experts[row * k + i]:
 * the i-th choice of a row; all valid.  `where` is borrowed until
 * DISPATCH_DONE. Pair p stands for row p / k.  ERR_RANGE above max_pairs. */
int dispatch_begin(dispatch *d, uint64_t now_us, uint32_t layer,
                   const uint32_t *experts, uint32_t n_rows, uint32_t k,
                   const placement *where);

/* Rows that are given up are asked for again, in the same layer, a little
 * later.  What nodes still owe of them is waited for then, not asked once more.
 * Rows are told apart by keys, which equal rows have in common and no others;
 * 0: a row that is not kept, or was not.
 *
 * Before the next begin: does anybody still owe something of this layer?  Then
 * keep what it is for. */
bool dispatch_owes(const dispatch *d);
void dispatch_keep(dispatch *d, const uint64_t *row_keys); /* [n_rows] */
/* Right after begin: if there is something of this layer, take it up. */
bool dispatch_has_kept(const dispatch *d, uint32_t layer);
void dispatch_resume(dispatch *d, uint64_t now_us, const uint64_t *row_keys);
/* An answer is there.  Is it of no use now, and may be when its rows come back?
 * Then keep it: handed to dispatch_rows() after dispatch_resume(), it is used.
 * Its node owes it no more. */
bool dispatch_hold(dispatch *d, uint64_t now_us, uint32_t node,
                   uint64_t request_id);
/* Is that still so? */
bool dispatch_is_kept(const dispatch *d, uint64_t request_id);

#define DISPATCH_NO_PAIR UINT32_MAX

typedef enum {
    DISPATCH_SEND,  /* send these pairs to `node` as `request_id` */
    DISPATCH_LOCAL, /* compute these pairs here, then dispatch_local_done() */
    DISPATCH_WAIT,  /* nothing to do before an event or wake_us */
    DISPATCH_DONE   /* every pair is computed or given up */
} dispatch_kind;

typedef struct {
    dispatch_kind kind;
    uint32_t node;
    uint64_t request_id;   /* unique for the life of the dispatch */
    const uint32_t *pairs; /* grouped by expert, ascending; until next call */
    uint32_t n_pairs;
    bool takeover;    /* the pairs were asked of somebody else before */
    uint64_t wake_us; /* WAIT; UINT64_MAX: only an event */
} dispatch_action;

/* The next thing to do; call until WAIT or DONE. */
void dispatch_next(dispatch *d, uint64_t now_us, dispatch_action *out);

/* A SEND could not be sent (-EAGAIN and the like): the pairs are placed anew,
 * with this node as the last choice for a while. */
void dispatch_send_failed(dispatch *d, uint64_t now_us, uint64_t request_id);

/* Rows came back.  The request's pairs in its order are in *pairs, *n of them;
 * take[i] (room for max_pairs) says whether row i is wanted: false if the pair
 * was answered before, or is DISPATCH_NO_PAIR: not asked for any more.  *pairs
 * is valid until the next dispatch_next().
 * ERR_NOT_HERE for a request that is not in flight to this node (doubled or
 * forged) or belongs to an earlier layer, whose credit is returned: nothing is
 * wanted. */
int dispatch_rows(dispatch *d, uint64_t now_us, uint32_t node,
                  uint64_t request_id, const uint32_t **pairs, uint32_t *n,
                  bool *take);

/* What a request in flight to this node asked for, before its rows are looked
 * at (to check a reply's size); also for one of an earlier layer, which must
 * still be handed to dispatch_rows().  ERR_NOT_HERE: not in flight. */
int dispatch_expected(const dispatch *d, uint32_t node, uint64_t request_id,
                      uint32_t *layer, uint32_t *n_pairs);

/* A typed refusal.  The pairs go elsewhere; ERR_OVERLOADED and ERR_DEADLINE
 * only rest the node, other codes make it the last choice for these experts for
 * a while. */
void dispatch_refused(dispatch *d, uint64_t now_us, uint32_t node,
                      uint64_t request_id, int code);

/* The pairs of the LOCAL action, which stay valid until all are done; at once
 * or in parts.  Until then there is no other LOCAL and no DONE. */
void dispatch_local_done(dispatch *d, uint64_t now_us, const uint32_t *pairs,
                         uint32_t n_pairs, bool ok);

/* The node's compute pool moves while work waits there: what it owes takes long
 * but is coming.  Nothing is given up, or asked of it again, for that long. */
void dispatch_node_works(dispatch *d, uint64_t now_us, uint32_t node);

/* This process did not run for a while: that nobody was heard of says nothing.
 */
void dispatch_paused(dispatch *d, uint64_t now_us);

/* Its connection broke: what was in flight to it is lost.  It may live: until
 * it has answered something, others are preferred. */
void dispatch_node_broken(dispatch *d, uint64_t now_us, uint32_t node);

/* How far it is to be relied on; fully, at first. */
void dispatch_node_trust(dispatch *d, uint32_t node, node_trust trust);

/* Membership: a node can be used (again), with nothing in flight to it; or it
 * cannot, and what was in flight to it is lost. */
void dispatch_node_up(dispatch *d, uint32_t node);
void dispatch_node_down(dispatch *d, uint64_t now_us, uint32_t node);
/* Another node takes this one's number, which is down: nothing is known of it,
 * and its pairs are counted anew.  `serial` is the caller's, to tell them
 * apart. */
void dispatch_node_replaced(dispatch *d, uint32_t node, uint64_t serial);

/* After DONE: was a pair of this row given up? */
bool dispatch_row_lost(const dispatch *d, uint32_t row);
/* The first expert of this layer that was given up, for the error text. */
bool dispatch_lost_expert(const dispatch *d, uint32_t *expert);

typedef struct {
    uint64_t serial; /* of dispatch_node_replaced(); 0 at first */
    uint64_t pairs;  /* answered and used */
    uint64_t outstanding_bytes;
    uint32_t latency_us; /* smoothed, of a request */
    uint32_t late_us;    /* a request of one pair would be late after that */
    bool up, suspect;
    uint64_t slow_us; /* since when it counts as slow; 0: it does not */
} dispatch_node_stats;
void dispatch_node(const dispatch *d, uint32_t node, dispatch_node_stats *out);

typedef struct {
    uint64_t local_pairs;    /* computed here */
    uint64_t takeover_pairs; /* answered by another than the first asked */
    uint64_t takeover_local; /* of these, computed here */
    uint64_t late_rows;      /* answers that came after another's */
    uint64_t refusals, lost_pairs;
    uint64_t calls;      /* requests sent, those below included */
    uint64_t hedges;     /* for what somebody else was asked and may answer */
    uint64_t hedge_wins; /* that brought the first answer */
    uint64_t retries;    /* for what was lost, or is late for much too long */
    uint64_t trials;     /* copies for nodes that were late or slow */
    uint64_t resumed_pairs; /* given up, asked for again, and under way still */
    uint64_t splits;        /* runs of one expert that were cut for two nodes */
    uint64_t broken;        /* connections that broke */
} dispatch_stats;
void dispatch_totals(const dispatch *d, dispatch_stats *out);

#endif
