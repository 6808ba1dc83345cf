/* exchange_resume.c - answers that come too late for their layer, and in time
 * for the next attempt.
 *
 * A sequence whose experts were given up is fed again a little later, with the
 * same rows.  What nodes owe of it is remembered by the machine
 * (dispatch_resume.c), which tells rows apart by their numbers among those that
 * are kept (kept_rows.h).  Here are the answers that come while the sequence is
 * parked: they wait, few and not for long, until their layer runs again. */
#include "coordinator/exchange_internal.h"

#include "engine/act.h"
#include "engine/util.h"

#define KEPT_US 2000000 /* longer than a sequence is parked */

static size_t row_bytes(const exchange *x) {
    act_form form = local_experts_form(x->config.local, x->lane->layer->layer);
    return act_row_bytes(form, x->config.model->n_embd);
}

static bool lacks_output(const exchange *x, uint32_t row) {
    for (uint32_t i = 0; i < x->lane->k; i++) {
        if (x->lane->of.outputs[row * x->lane->k + i] == NULL) return true;
    }
    return false;
}

void exchange_keep(exchange *x) {
    if (!dispatch_owes(x->machine)) return;
    const exchange_layer *l = x->lane->layer;
    size_t bytes = row_bytes(x);
    for (uint32_t i = 0; i < l->n_rows; i++) {
        x->row_keys[i] = lacks_output(x, i)
                             ? kept_rows_add(x->kept_rows, l->rows[i], bytes,
                                             x->lane->layer_slices)
                             : 0;
    }
    dispatch_keep(x->machine, x->row_keys);
}

static void take_up(exchange *x) {
    const exchange_layer *l = x->lane->layer;
    size_t bytes = row_bytes(x);
    for (uint32_t i = 0; i < l->n_rows; i++) {
        x->row_keys[i] = kept_rows_find(x->kept_rows, l->rows[i], bytes,
                                        x->lane->layer_slices);
    }
    dispatch_resume(x->machine, now_us(), x->row_keys);
}

bool exchange_hold(exchange *x, uint32_t node, uint64_t request_id, frames *f) {
    if (x->n_held == EXCHANGE_HELD) return false;
    if (!dispatch_hold(x->machine, now_us(), node, request_id)) return false;
    exchange_held *h = &x->held[x->n_held++];
    *h = (exchange_held){.node = node, .request_id = request_id};
    h->until_us = now_us() + KEPT_US;
    frames_init(&h->reply);
    frames_move(&h->reply, f);
    return true;
}

void exchange_resume(exchange *x) {
    if (dispatch_has_kept(x->machine, x->lane->layer->layer)) take_up(x);
    exchange_release(x);
}

static void move_held(exchange_held *to, exchange_held *from) {
    if (to == from) return;
    to->node = from->node;
    to->request_id = from->request_id;
    to->until_us = from->until_us;
    frames_init(&to->reply);
    frames_move(&to->reply, &from->reply);
}

void exchange_release(exchange *x) {
    uint64_t now = now_us();
    size_t n = x->n_held;
    x->n_held = 0;
    for (size_t i = 0; i < n; i++) {
        exchange_held *h = &x->held[i];
        if (now < h->until_us && dispatch_is_kept(x->machine, h->request_id)) {
            move_held(&x->held[x->n_held++], h);
            continue;
        }
        exchange_use_rows(x, h->node, h->request_id, &h->reply);
        frames_fini(&h->reply);
    }
}
