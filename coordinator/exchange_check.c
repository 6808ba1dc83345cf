/* exchange_check.c - answers that are compared with a second holder's: the
 * shell around cross_check.h.
 *
 * The second request goes out between steps, to a node that owes us nothing at
 * that moment, and is no business of dispatch: no step waits for it, and an
 * answer that does not come is not missed.  Only if two nodes differ and nobody
 * else holds the unit is it computed here, which takes a moment and is rare. */
#include "coordinator/exchange_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/act.h"
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"

#define REMAINING_MS 1000 /* on the node; well within what we wait */

/* ---- samples ---- */

static cross_check_party party_of(const exchange *x, uint32_t node) {
    return (cross_check_party){.node = node, .boot_id = x->peers[node].boot_id};
}

/* Who else holds the unit, and answers in time. */
static uint32_t list_others(const exchange *x, uint32_t unit, uint32_t node,
                            cross_check_party *others) {
    uint32_t n, count = 0;
    const uint16_t *holders =
        placement_nodes(x->lane->where, x->lane->layer->layer, unit, &n);
    for (uint32_t i = 0; i < n && count < CROSS_CHECK_OTHERS; i++) {
        if (holders[i] == node || !x->peers[holders[i]].up) continue;
        dispatch_node_stats s;
        dispatch_node(x->machine, holders[i], &s);
        if (!s.suspect) others[count++] = party_of(x, holders[i]);
    }
    return count;
}

/* One unit's rows, each time of another group of the request. */
void exchange_check_sample(exchange *x, uint32_t node, const uint32_t *pairs,
                           uint32_t n, const float *rows) {
    uint64_t now = now_us();
    if (n == 0 || x->lane->layer == NULL) return;
    if (!cross_check_due(x->checks, now, x->peers[node].boot_id)) return;

    const exchange_layer *l = x->lane->layer;
    const uint32_t *units = x->lane->of.units;
    uint32_t first = (uint32_t)(now % n), count = 0;
    while (first > 0 && units[pairs[first - 1]] == units[pairs[first]])
        first--;
    cross_check_party others[CROSS_CHECK_OTHERS];
    const void *in[CROSS_CHECK_ROWS];
    const float *out[CROSS_CHECK_ROWS];
    size_t width = x->config.model->n_embd;
    for (uint32_t i = first; i < n && count < CROSS_CHECK_ROWS; i++) {
        if (units[pairs[i]] != units[pairs[first]]) break;
        in[count] = l->rows[pairs[i] / x->lane->k];
        out[count++] = rows + i * width;
    }
    act_form form = local_experts_form(x->config.local, l->layer);
    cross_check_sample s = {
        .layer = l->layer,
        .slices = x->lane->layer_slices,
        .unit = units[pairs[first]],
        .n_rows = count,
        .in_bytes = act_row_bytes(form, x->config.model->n_embd),
        .in = in,
        .out = out,
        .from = party_of(x, node),
        .others = others,
        .here = x->config.dispatch.local,
    };
    s.n_others = list_others(x, s.unit, node, others);
    cross_check_begin(x->checks, now, &s);
}

/* ---- asking ---- */

static int build(exchange *x, const cross_check_action *a, frames *f) {
    uint32_t rows[CROSS_CHECK_ROWS], counts[1] = {a->n_rows};
    for (uint32_t i = 0; i < a->n_rows; i++)
        rows[i] = i;
    message m = identity_message(x->config.self, MESSAGE_BATCH);
    m.to_boot_id = a->whom.boot_id;
    m.epoch = atomic_load_explicit(&x->epoch, memory_order_relaxed);
    m.request_id = a->request_id;
    m.remaining_ms = REMAINING_MS;
    m.batch.layer = a->layer;
    m.batch.form = local_experts_form(x->config.local, a->layer);
    m.batch.width = x->config.model->n_embd;
    m.batch.slices = a->slices;
    m.batch.experts = (message_u32s){&a->unit, 1};
    m.batch.counts = (message_u32s){counts, 1};
    m.batch.rows = (message_u32s){rows, a->n_rows};
    m.batch.n_rows = a->n_rows;
    void *header = frames_add(f, 0);
    void *payload = frames_add(f, a->n_rows * a->in_bytes);
    if (header == NULL || payload == NULL) return -ENOMEM;
    memcpy(payload, a->in, a->n_rows * a->in_bytes);
    return message_seal(f, &m);
}

static int ask(exchange *x, const cross_check_action *a) {
    const exchange_peer *p = &x->peers[a->whom.node];
    dispatch_node_stats s;
    dispatch_node(x->machine, a->whom.node, &s);
    if (!p->up || p->boot_id != a->whom.boot_id) return ERR_NOT_HERE;
    if (s.suspect || s.outstanding_bytes > 0) return ERR_OVERLOADED;
    frames f;
    frames_init(&f);
    int rc = build(x, a, &f);
    if (rc == 0) rc = link_send(p->data, &f);
    frames_fini(&f);
    return rc;
}

static void compute(exchange *x, const cross_check_action *a) {
    size_t width = round_up(x->config.model->n_embd, WEIGHT_GROUP);
    size_t packed = x->config.model->n_embd;
    uint32_t units[CROSS_CHECK_ROWS];
    const void *in[CROSS_CHECK_ROWS];
    float *out[CROSS_CHECK_ROWS];
    int rc = ERR_RANGE;
    float *y = aligned_alloc_zero(CROSS_CHECK_ROWS * width * sizeof(*y));
    for (uint32_t i = 0; i < a->n_rows; i++) {
        units[i] = a->unit;
        in[i] = (const uint8_t *)a->in + i * a->in_bytes;
        out[i] = y != NULL ? y + i * width : NULL;
    }
    if (y != NULL &&
        local_experts_slices(x->config.local, a->layer) == a->slices) {
        rc = local_experts_run(x->config.local, a->layer, a->n_rows, units, in,
                               out);
    }
    for (uint32_t i = 1; i < a->n_rows && rc == 0 && packed < width; i++)
        memmove(y + i * packed, out[i], packed * sizeof(*y));
    if (rc < 0) log_warn("a comparison cannot be decided: %s", err_text(rc));
    cross_check_rows(x->checks, now_us(), a->request_id, rc < 0 ? NULL : y);
    aligned_release(y);
}

void exchange_check_turn(exchange *x) {
    cross_check_action a;
    cross_check_next(x->checks, now_us(), &a);
    if (a.kind == CROSS_CHECK_NOTHING) return;
    if (a.whom.here) {
        compute(x, &a);
    } else if (ask(x, &a) < 0) {
        cross_check_rows(x->checks, now_us(), a.request_id, NULL);
    }
}

/* ---- answers ---- */

void exchange_check_answer(exchange *x, uint32_t node, const message *m,
                           frames *f) {
    uint32_t layer, n_rows;
    if (!cross_check_expects(x->checks, node, m->request_id, &layer, &n_rows)) {
        return; /* late or forged */
    }
    bool rows = m->kind == MESSAGE_ROWS && m->rows.layer == layer &&
                m->rows.n_pairs == n_rows && m->rows.form == ACT_F32 &&
                m->rows.width == x->config.model->n_embd;
    cross_check_rows(x->checks, now_us(), m->request_id,
                     rows ? frames_data(f, 1) : NULL);
}
