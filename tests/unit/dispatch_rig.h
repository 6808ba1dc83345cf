/* dispatch_rig.h - a dispatch and a placement to play with, for the two tests
 * of dispatch.  A row is 100 bytes, a piece 4 rows, the credit 10 rows. */
#ifndef TESTS_UNIT_DISPATCH_RIG_H
#define TESTS_UNIT_DISPATCH_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "coordinator/dispatch.h"
#include "engine/err.h"

#define RIG_NODES 4
#define RIG_PAIRS 64
#define RIG_LAYERS 2
#define RIG_EXPERTS 300
#define RIG_ROW 100
#define RIG_PIECE 4
#define RIG_CREDIT 10
#define RIG_HEDGE_US 10000
#define RIG_PATIENCE_US 400000

typedef struct {
    dispatch *d;
    placement *where;
    uint64_t now;
    dispatch_action a; /* the last one */
    bool take[RIG_PAIRS];
} rig;

static inline dispatch_config rig_config(void) {
    return (dispatch_config){
        .max_nodes = RIG_NODES,
        .max_pairs = RIG_PAIRS,
        .reply_row_bytes = RIG_ROW,
        .piece_bytes = RIG_PIECE * RIG_ROW,
        .credit_bytes = RIG_CREDIT * RIG_ROW,
        .hedge_min_us = RIG_HEDGE_US,
        .hedge_factor = 1,
        .patience_us = RIG_PATIENCE_US,
    };
}

/* `held` says what each node holds ("*:0-3"), NULL after the last; all are up.
 */
static inline rig rig_open(const dispatch_config *c, const char *const *held) {
    rig r = {.now = 1000000};
    holdings sets[RIG_NODES];
    const holdings *nodes[RIG_NODES] = {NULL};
    uint32_t n = 0;

    for (; n < RIG_NODES && held[n] != NULL; n++) {
        assert_int_equal(holdings_init(&sets[n], RIG_LAYERS, RIG_EXPERTS), 0);
        assert_int_equal(holdings_add_spec(&sets[n], held[n], NULL, 0), 0);
        nodes[n] = &sets[n];
    }
    const placement_shape shape = {
        .epoch = 1, .n_layers = RIG_LAYERS, .n_experts = RIG_EXPERTS};
    assert_int_equal(placement_new(&r.where, &shape, nodes, n), 0);
    assert_int_equal(dispatch_new(&r.d, c), 0);
    for (uint32_t i = 0; i < n; i++) {
        dispatch_node_up(r.d, i);
        holdings_fini(&sets[i]);
    }
    return r;
}

static inline rig rig_of(const char *const *held) {
    dispatch_config c = rig_config();
    return rig_open(&c, held);
}
/* With the coordinator's own file to fall back on. */
static inline rig rig_local(const char *const *held) {
    dispatch_config c = rig_config();
    c.local = true;
    return rig_open(&c, held);
}
#define HELD(...)                                                              \
    (const char *const[]) {                                                    \
        __VA_ARGS__, NULL                                                      \
    }

static inline void rig_close(rig *r) {
    dispatch_free(r->d);
    placement_unref(r->where);
}

/* Rows of one pair each. */
static inline void rig_begin(rig *r, const uint32_t *experts, uint32_t n) {
    assert_int_equal(dispatch_begin(r->d, r->now, 0, experts, n, 1, r->where),
                     0);
}
static inline void rig_begin_same(rig *r, uint32_t expert, uint32_t n) {
    uint32_t experts[RIG_PAIRS];
    for (uint32_t i = 0; i < n; i++)
        experts[i] = expert;
    rig_begin(r, experts, n);
}

static inline dispatch_kind rig_next(rig *r) {
    dispatch_next(r->d, r->now, &r->a);
    return r->a.kind;
}

/* The next action must be a SEND of so many pairs to this node. */
static inline uint64_t rig_send(rig *r, uint32_t node, uint32_t n_pairs) {
    assert_int_equal(rig_next(r), DISPATCH_SEND);
    assert_int_equal(r->a.node, node);
    assert_int_equal(r->a.n_pairs, n_pairs);
    return r->a.request_id;
}
static inline void rig_expect(rig *r, dispatch_kind kind) {
    assert_int_equal(rig_next(r), kind);
}
/* Waits until its wake-up, which there must be. */
static inline void rig_sleep(rig *r) {
    assert_int_equal(rig_next(r), DISPATCH_WAIT);
    assert_true(r->a.wake_us > r->now && r->a.wake_us != UINT64_MAX);
    r->now = r->a.wake_us;
}
/* Waits until time alone brings an action, whose kind is returned. */
static inline dispatch_kind rig_pass_time(rig *r) {
    while (rig_next(r) == DISPATCH_WAIT) {
        assert_true(r->a.wake_us > r->now && r->a.wake_us != UINT64_MAX);
        r->now = r->a.wake_us;
    }
    return r->a.kind;
}

/* The rows of a request arrive; returns how many of them are wanted. */
static inline uint32_t rig_rows(rig *r, uint32_t node, uint64_t id) {
    const uint32_t *pairs;
    uint32_t n, wanted = 0;
    if (dispatch_rows(r->d, r->now, node, id, &pairs, &n, r->take) < 0) {
        assert_int_equal(n, 0);
        return 0;
    }
    for (uint32_t i = 0; i < n; i++)
        wanted += r->take[i];
    return wanted;
}

static inline dispatch_node_stats rig_node(const rig *r, uint32_t node) {
    dispatch_node_stats s;
    dispatch_node(r->d, node, &s);
    return s;
}
static inline dispatch_stats rig_totals(const rig *r) {
    dispatch_stats s;
    dispatch_totals(r->d, &s);
    return s;
}

#endif
