/* exchange_layer.c - a layer: begin, do what the machine says, finish.
 *
 * Begin sends until the machine has nothing more to send; what it says then is
 * put down in the lane, for finish.  Replies are kept as they arrived until the
 * layer's sums are made, so a row is copied only into the request that carries
 * it.
 *
 * While one layer is waited for, the other one goes on as well: its answers are
 * taken in, and what is late or lost of it is asked again.  Only what is to be
 * computed here waits until its own layer is finished. */
#include "coordinator/exchange_internal.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"

/* Between two looks at the sockets: a process that stood still. */
#define STOOD_US 200000

exchange_lane *exchange_choose(exchange *x, exchange_lane *lane) {
    exchange_lane *former = x->lane;
    x->lane = lane;
    dispatch_choose(x->machine, (uint32_t)(lane - x->lanes));
    return former;
}

void exchange_drop_replies(exchange_lane *lane) {
    for (size_t i = 0; i < lane->n_replies; i++) {
        frames_fini(lane->replies[i]);
    }
    lane->n_replies = 0;
}

/* A layer that is finished has been summed when another begins, and nobody
 * looks at its outputs any more. */
void exchange_drop_spent(exchange *x) {
    for (uint32_t i = 0; i < EXCHANGE_LANES; i++) {
        if (!x->lanes[i].open) exchange_drop_replies(&x->lanes[i]);
    }
}

/* ---- computing here ---- */

static int local_outputs(exchange *x, const dispatch_action *a) {
    const exchange_lane *lane = x->lane;
    exchange_buffers *b = &x->lane->of;
    size_t width = round_up(x->config.model->n_embd, WEIGHT_GROUP);
    uint32_t layer = lane->layer->layer;
    if (local_experts_slices(x->config.local, layer) != lane->layer_slices)
        return ERR_RANGE; /* it could not be cut as the rack is */
    if (b->local_rows == NULL)
        b->local_rows = aligned_alloc_zero(b->pairs * width * sizeof(float));
    if (b->local_rows == NULL) return -ENOMEM;
    for (uint32_t i = 0; i < a->n_pairs; i++) {
        uint32_t pair = a->pairs[i];
        b->experts[i] = b->units[pair];
        b->local_x[i] = lane->layer->rows[pair / lane->k];
        /* a pair has its own place: several local runs share a layer */
        b->local_y[i] = b->local_rows + pair * width;
    }
    return local_experts_run(x->config.local, layer, a->n_pairs, b->experts,
                             b->local_x, b->local_y);
}

static void compute_here(exchange *x, const dispatch_action *a) {
    stage before = stopwatch_enter(x->config.watch, STAGE_EXPERTS);
    int rc = local_outputs(x, a);
    stopwatch_enter(x->config.watch, before);
    for (uint32_t i = 0; rc == 0 && i < a->n_pairs; i++) {
        x->lane->of.outputs[a->pairs[i]] = x->lane->of.local_y[i];
    }
    if (rc < 0) {
        log_warn("layer %u: cannot compute %u pairs here: %s",
                 x->lane->layer->layer, a->n_pairs, err_text(rc));
    }
    dispatch_local_done(x->machine, now_us(), a->pairs, a->n_pairs, rc == 0);
}

/* ---- what there is to do ---- */

/* Send all that may be sent now of the lane's layer. */
static void advance(exchange *x) {
    dispatch_action *a = &x->lane->next;
    if (a->kind == DISPATCH_LOCAL) return; /* that comes first */
    for (;;) {
        dispatch_next(x->machine, now_us(), a);
        if (a->kind != DISPATCH_SEND) return;
        exchange_send(x, a);
    }
}

static void advance_all(exchange *x) {
    exchange_lane *former = x->lane;
    for (uint32_t i = 0; i < EXCHANGE_LANES; i++) {
        if (!x->lanes[i].open || x->lanes[i].next.kind == DISPATCH_DONE)
            continue;
        exchange_choose(x, &x->lanes[i]);
        advance(x);
    }
    exchange_choose(x, former);
}

static void wait_for_news(exchange *x) {
    uint64_t wake_us = UINT64_MAX;
    for (uint32_t i = 0; i < EXCHANGE_LANES; i++) {
        const exchange_lane *lane = &x->lanes[i];
        if (!lane->open || lane->next.kind != DISPATCH_WAIT) continue;
        if (lane->next.wake_us < wake_us) wake_us = lane->next.wake_us;
    }
    uint64_t begun_us = now_us();
    stage before = stopwatch_enter(x->config.watch, STAGE_WAIT);
    exchange_wait(x, wake_us);
    stopwatch_enter(x->config.watch, before);
    x->waited_us += now_us() - begun_us;
    exchange_take_rack(x);
    advance_all(x);
}

void exchange_turn(exchange *x) {
    uint64_t now = now_us(), since_us = now - x->looked_us;
    bool open = false;
    for (uint32_t i = 0; i < EXCHANGE_LANES; i++)
        open = open || x->lanes[i].open;
    if (!open || since_us < EXCHANGE_TURN_US) return;
    stage before = stopwatch_enter(x->config.watch, STAGE_PACK);
    exchange_receive_all(x);
    if (since_us > STOOD_US) dispatch_paused(x->machine, now_us());
    exchange_take_rack(x);
    advance_all(x);
    stopwatch_enter(x->config.watch, before);
}

/* ---- begin ---- */

/* The router's (row, expert) pairs as (row, unit) pairs. */
static int list_units(exchange *x) {
    exchange_lane *lane = x->lane;
    const exchange_layer *l = lane->layer;
    uint32_t slices = placement_slices(lane->where, l->layer);
    if (slices == 0) return ERR_UNAVAILABLE; /* it has no experts there */
    uint64_t pairs = (uint64_t)l->n_rows * l->k;
    if (pairs > x->config.dispatch.max_pairs) return ERR_RANGE;

    lane->layer_slices = slices;
    lane->k = l->k * slices;
    for (uint32_t i = 0; i < pairs; i++) {
        for (uint32_t s = 0; s < slices; s++)
            lane->of.units[i * slices + s] = l->experts[i] * slices + s;
    }
    memset(lane->of.outputs, 0, pairs * slices * sizeof(lane->of.outputs[0]));
    return 0;
}

/* The machine gives the placement back. */
static void close_lane(exchange_lane *lane) {
    rack_unref(lane->during);
    lane->during = NULL;
    lane->where = NULL;
    lane->layer = NULL;
    lane->open = false;
}

static int begin_layer(exchange *x) {
    exchange_lane *lane = x->lane;
    int rc = list_units(x);
    if (rc < 0) return rc;
    lane->begun_us = now_us();
    rc = dispatch_begin(x->machine, lane->begun_us, lane->layer->layer,
                        lane->of.units, lane->layer->n_rows, lane->k,
                        lane->where);
    if (rc < 0) return rc;
    exchange_resume(x);
    lane->next.kind = DISPATCH_WAIT;
    advance(x);
    return 0;
}

int exchange_begin(exchange *x, uint32_t n, const exchange_layer *l) {
    exchange_lane *lane = &x->lanes[n];
    assert(n < EXCHANGE_LANES && !lane->open);
    exchange_choose(x, lane);
    exchange_drop_spent(x);
    exchange_take_rack(x);
    int rc = exchange_adopt_rack(x);
    if (rc < 0) return rc;
    lane->asked = *l;
    lane->layer = &lane->asked;
    lane->during = rack_ref(x->adopted);
    lane->where = rack_where(lane->during);
    lane->open = true;
    rc = begin_layer(x);
    if (rc < 0) close_lane(lane);
    return rc;
}

/* ---- finish ---- */

bool exchange_find_missing(const exchange *x, uint32_t *expert) {
    const exchange_lane *lane = x->lane;
    if (lane->layer == NULL) return false;
    uint32_t n = lane->layer->n_rows * lane->k;
    for (uint32_t i = 0; i < n; i++) {
        *expert = lane->of.units[i] / lane->layer_slices;
        if (lane->of.outputs[i] == NULL) return true;
    }
    return false;
}

static int list_lost(exchange *x, bool *lost) {
    const exchange_lane *lane = x->lane;
    int n_lost = 0;
    for (uint32_t row = 0; row < lane->layer->n_rows; row++) {
        lost[row] = false;
        for (uint32_t i = 0; i < lane->k; i++) {
            if (lane->of.outputs[row * lane->k + i] == NULL) lost[row] = true;
        }
        n_lost += lost[row];
    }
    exchange_missing(x, &x->lost_layer, &x->lost_expert);
    return n_lost;
}

/* Does nobody wait for the layer any more? */
static bool is_unwanted(const exchange *x) {
    uint64_t waited_us = now_us() - x->lane->begun_us;
    if (waited_us < EXCHANGE_WAIT_MS * 1000) return false;
    return x->look != NULL && !x->look(x->look_ctx);
}

int exchange_finish(exchange *x, uint32_t n, exchange_outputs *out,
                    bool *lost) {
    exchange_lane *lane = &x->lanes[n];
    assert(n < EXCHANGE_LANES && lane->open);
    exchange_choose(x, lane);
    while (lane->next.kind != DISPATCH_DONE) {
        if (lane->next.kind == DISPATCH_LOCAL) {
            compute_here(x, &lane->next);
            lane->next.kind = DISPATCH_WAIT;
            advance(x);
            continue;
        }
        wait_for_news(x);
        if (lane->next.kind == DISPATCH_WAIT && is_unwanted(x))
            return ERR_CANCELLED;
    }
    stopwatch_layer(x->config.watch);
    exchange_publish(x);
    int n_lost = list_lost(x, lost);
    if (n_lost > 0) exchange_keep(x);
    *out = (exchange_outputs){lane->layer_slices, lane->of.outputs};
    close_lane(lane);
    return n_lost;
}

/* An empty layer ends the one that is open.  Answers that still come are those
 * of an earlier layer. */
static void abandon_lane(exchange *x) {
    exchange_lane *lane = x->lane;
    dispatch_action a;
    exchange_keep(x);
    int rc = dispatch_begin(x->machine, now_us(), lane->layer->layer, NULL, 0,
                            lane->k, lane->where);
    assert(rc == 0);
    dispatch_next(x->machine, now_us(), &a);
    assert(a.kind == DISPATCH_DONE);
    close_lane(lane);
}

void exchange_abandon(exchange *x) {
    exchange_lane *former = x->lane;
    for (uint32_t i = 0; i < EXCHANGE_LANES; i++) {
        if (!x->lanes[i].open) continue;
        exchange_choose(x, &x->lanes[i]);
        abandon_lane(x);
    }
    exchange_choose(x, former);
    exchange_publish(x);
}

int exchange_run(exchange *x, const exchange_layer *l, exchange_outputs *out,
                 bool *lost) {
    int rc = exchange_begin(x, 0, l);
    if (rc == 0) rc = exchange_finish(x, 0, out, lost);
    if (rc < 0) exchange_abandon(x);
    return rc;
}
