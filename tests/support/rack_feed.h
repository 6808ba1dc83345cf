/* rack_feed.h - puts records into a rack_view as etcd would list them.
 *
 * Each call is a revision of its own; rack_feed_settle() ends a group of them.
 * Whatever goes wrong fails the cmocka test. */
#ifndef TESTS_SUPPORT_RACK_FEED_H
#define TESTS_SUPPORT_RACK_FEED_H

#include "discovery/rack_view.h"

typedef struct {
    rack_view *view;
    int64_t revision;
} rack_feed;

void rack_feed_open(rack_feed *f);
void rack_feed_close(rack_feed *f);

void rack_feed_node(rack_feed *f, const char *name, uint64_t boot,
                    const char *control);
void rack_feed_node_gone(rack_feed *f, const char *name);
/* All that the view's placement assigns to the node is there, it says. */
void rack_feed_ready(rack_feed *f, const char *name, uint64_t boot);
void rack_feed_coordinator(rack_feed *f, const char *name, uint64_t boot);
void rack_feed_drain(rack_feed *f, const char *name);
void rack_feed_drain_gone(rack_feed *f, const char *name);
/* The leader key; its term is the revision. */
void rack_feed_leader(rack_feed *f, const char *name, uint64_t boot);

/* A placement on these nodes ("": a free place): unit u of layer l is held by
 * the nodes whose bits are set in on(l, u).  Layers below first_moe are dense;
 * layer l is cut into slices[l]. */
typedef struct {
    uint64_t epoch;
    uint64_t incarnation;  /* 0: 1 */
    uint32_t min_replicas; /* 0: 1 */
    uint8_t model[RECORD_MODEL];
    uint32_t n_layers, n_experts, max_slices;
    const uint32_t *slices;
    const char *const *nodes;
    uint32_t n_nodes; /* up to 32 */
    uint32_t (*on)(uint32_t layer, uint32_t unit);
} rack_feed_plan;
void rack_feed_placement(rack_feed *f, const rack_feed_plan *p);

/* What a leader writes in one transaction. */
void rack_feed_step(rack_feed *f, const epoch_record *head,
                    const uint32_t *numbers, const layer_map *const *layers,
                    uint32_t n_layers);

void rack_feed_settle(rack_feed *f);

#endif
