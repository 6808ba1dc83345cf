/* exchange.h - sends a layer's activations to the experts and gathers the
 * outputs: the shell around the dispatch machine.
 *
 * It owns the data links to the nodes and belongs to the step thread; the loop
 * thread only posts racks.  A layer's outputs are borrowed from the replies,
 * not copied.
 *
 * Where the rack's experts are cut into slices, every (row, expert) pair of the
 * router becomes as many (row, unit) pairs, which dispatch knows nothing of.  A
 * layer is computed as the placement cuts it that is the newest when it
 * begins.
 *
 * A layer has a begin, which sends, and a finish, which waits: what is computed
 * here goes between the two.  Two layers can be under way at once, of two parts
 * of a batch step, each in a lane of its own. */
#ifndef COORDINATOR_EXCHANGE_H
#define COORDINATOR_EXCHANGE_H

#include <stdbool.h>
#include <stdint.h>
#include "coordinator/cross_check.h"
#include "coordinator/dispatch.h"
#include "coordinator/identity.h"
#include "coordinator/local_experts.h"
#include "coordinator/rack.h"
#include "coordinator/stopwatch.h"
#include "proto/link.h"

typedef struct {
    const identity *self;
    const model_config *model;
    local_experts *local; /* borrowed; never NULL (it knows the row forms) */
    /* .local: may `local` compute?  .max_pairs: with whole experts */
    dispatch_config dispatch;
    uint32_t max_rows;    /* of one layer */
    uint32_t check_every; /* as cross_check_new() has it; 0: never */
    link_config links;
    /* Opens the data link to a node; NULL: link_connect().  Tests give memory
     * links. */
    int (*connect)(void *ctx, struct link **out, const link_config *c,
                   const char *endpoint, char *why, size_t why_size);
    void *connect_ctx;
    stopwatch *watch; /* NULL: none */
} exchange_config;

#define EXCHANGE_WAIT_MS 100 /* a layer that waits longer is looked after */

typedef struct exchange exchange;
int exchange_new(exchange **out, const exchange_config *c);
void exchange_free(exchange *x);

/* Called again and again while a layer waits for nodes beyond EXCHANGE_WAIT_MS,
 * by exchange_finish(), which ends with ERR_CANCELLED on false: nobody wants
 * the rest of the step.  exchange_missing() works in there. */
typedef bool (*exchange_look)(void *ctx);
void exchange_on_wait(exchange *x, exchange_look look, void *ctx);

/* A node was seen to compute, by its progress; any thread. */
void exchange_node_works(exchange *x, uint32_t node);

/* Hand over a new rack (takes the reference); any thread. It is used from the
 * next look on, in the middle of a layer for nodes that went away.  Numbers of
 * nodes that are gone may be those of others later. */
void exchange_post(exchange *x, rack *r);

/* The epoch of the placement from which requests are sent: no request of an
 * earlier one will be made.  Any thread. */
uint64_t exchange_epoch(exchange *x);
/* placement_source() of that.  Read a moment apart they may be of two that
 * follow one another, which is no placement at all. */
uint64_t exchange_source(exchange *x);

typedef struct {
    uint32_t layer, n_rows, k;
    const void *const *rows; /* n_rows encoded rows, in the layer's form */
    const uint32_t *experts; /* [n_rows * k], the router's choices */
    uint64_t deadline_us;    /* of the most patient request; 0: none */
} exchange_layer;

/* What a layer gave: rows[(row * k + i) * slices + s] points at n_embd floats,
 * slice s of the expert's output: its slices are to be added as the tree of
 * ffn.h.  All valid until another layer begins, or exchange_idle(). */
typedef struct {
    uint32_t slices;
    const float *const *rows; /* NULL in rows that are lost */
} exchange_outputs;

#define EXCHANGE_LANES DISPATCH_LANES

/* Send what a layer needs; its rows and choices are borrowed until it ends.  A
 * negative code concerns the whole step: exchange_abandon() is due. */
int exchange_begin(exchange *x, uint32_t lane, const exchange_layer *l);
/* Wait for it, computing here what is to be.  lost[row] says which rows have a
 * pair that nobody could compute.  Returns how many rows were lost, or a
 * negative code that concerns the whole step: exchange_abandon() is due. */
int exchange_finish(exchange *x, uint32_t lane, exchange_outputs *out,
                    bool *lost);
/* In between, at least every EXCHANGE_TURN_US of computing: take in what has
 * come, send what may be sent now.  Cheap when it is too early for that. */
#define EXCHANGE_TURN_US 1000
void exchange_turn(exchange *x);
/* Nobody wants what is under way. */
void exchange_abandon(exchange *x);
/* How long nodes were waited for with nothing to do here, so far. */
uint64_t exchange_waited_us(const exchange *x);

/* All of a layer in one call; nothing is left under way. */
int exchange_run(exchange *x, const exchange_layer *l, exchange_outputs *out,
                 bool *lost);

/* Between steps: take in racks and late replies, so that nothing piles up. */
void exchange_idle(exchange *x);

/* Descriptors to poll for between steps, up to `capacity`; returns the number.
 */
size_t exchange_fds(const exchange *x, int *fds, size_t capacity);

/* Does a posted rack wait to be taken in?  Any thread. */
bool exchange_has_news(exchange *x);

/* Counters of the dispatch machine; a snapshot, any thread. */
void exchange_totals(exchange *x, dispatch_stats *out);
void exchange_node(exchange *x, uint32_t node, dispatch_node_stats *out);
/* What comparing the answers of replicas has shown: the next verdict, once; and
 * how often.  Any thread. */
bool exchange_verdict(exchange *x, cross_check_verdict *out);
void exchange_checks(exchange *x, cross_check_stats *out);
/* The first expert that the layer waits for, or, after it, that was given up
 * last: layer and number. */
void exchange_missing(exchange *x, uint32_t *layer, uint32_t *expert);
/* Is every slice of it held by a node that is up now? */
bool exchange_has_holder(const exchange *x, uint32_t layer, uint32_t expert);

#endif
