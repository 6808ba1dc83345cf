/* exchange_message.c - batches that go out, answers that come in.
 *
 * An activation row is copied once, into the request that carries it; an
 * answer is kept as it arrived, and its rows are pointed at. */
#include "coordinator/exchange_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "engine/act.h"
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"

#define RECEIVE_MAX 256 /* messages of one node before others get a turn */
#define REFUSED_LINES 5 /* logged in a period, of all nodes */
#define REFUSED_PERIOD_US (10 * 1000000u)

/* ---- sending ---- */

/* Pairs are grouped by unit; write the groups and each row's place among the
 * rows that this request carries.  Returns the number of distinct rows. */
static uint32_t list_pairs(exchange *x, const dispatch_action *a, message *m) {
    const exchange_buffers *b = &x->lane->of;
    uint32_t n_groups = 0, n_rows = 0;
    for (uint32_t i = 0; i < a->n_pairs; i++) {
        uint32_t pair = a->pairs[i], row = pair / x->lane->k;
        uint32_t unit = b->units[pair];
        if (n_groups == 0 || b->experts[n_groups - 1] != unit) {
            b->experts[n_groups] = unit;
            b->counts[n_groups++] = 0;
        }
        b->counts[n_groups - 1]++;
        if (x->row_slot[row] == 0) x->row_slot[row] = ++n_rows;
        b->rows[i] = x->row_slot[row] - 1;
    }
    m->batch.experts = (message_u32s){b->experts, n_groups};
    m->batch.counts = (message_u32s){b->counts, n_groups};
    m->batch.rows = (message_u32s){b->rows, a->n_pairs};
    m->batch.n_rows = n_rows;
    return n_rows;
}

static int build_batch(exchange *x, const dispatch_action *a, frames *f) {
    const exchange_layer *l = x->lane->layer;
    message m = identity_message(x->config.self, MESSAGE_BATCH);
    m.to_boot_id = x->peers[a->node].boot_id;
    m.epoch = placement_epoch(x->lane->where);
    m.request_id = a->request_id;
    uint64_t now = now_us();
    if (l->deadline_us > now) {
        m.remaining_ms = (uint32_t)((l->deadline_us - now) / 1000 + 1);
    }
    act_form form = local_experts_form(x->config.local, l->layer);
    m.batch.layer = l->layer;
    m.batch.form = form;
    m.batch.width = x->config.model->n_embd;
    m.batch.slices = x->lane->layer_slices;

    uint32_t n_rows = list_pairs(x, a, &m);
    size_t row_bytes = act_row_bytes(form, x->config.model->n_embd);
    void *header = frames_add(f, 0);
    uint8_t *payload = frames_add(f, n_rows * row_bytes);
    int rc = header == NULL || payload == NULL ? -ENOMEM : 0;
    for (uint32_t i = 0; i < a->n_pairs; i++) {
        uint32_t row = a->pairs[i] / x->lane->k;
        if (x->row_slot[row] == 0) continue; /* already there */
        if (rc == 0) {
            memcpy(payload + (x->row_slot[row] - 1) * row_bytes, l->rows[row],
                   row_bytes);
        }
        x->row_slot[row] = 0;
    }
    return rc < 0 ? rc : message_seal(f, &m);
}

void exchange_send(exchange *x, const dispatch_action *a) {
    frames f;
    frames_init(&f);
    int rc = build_batch(x, a, &f);
    stopwatch_sent(x->config.watch, a->request_id);
    if (rc == 0) rc = link_send(x->peers[a->node].data, &f);
    if (rc < 0) {
        log_debug("node %u: cannot send: %s", a->node, err_text(rc));
        dispatch_send_failed(x->machine, now_us(), a->request_id);
    }
    frames_fini(&f);
}

/* ---- receiving ---- */

/* A box to keep one more reply in: made before the machine is told, so that an
 * answer is never lost half-way. */
static int reserve_reply(exchange_lane *lane) {
    if (lane->n_replies < lane->n_boxes) return 0;
    if (lane->n_boxes == lane->replies_capacity) {
        size_t capacity =
            lane->replies_capacity == 0 ? 64 : 2 * lane->replies_capacity;
        frames **grown = realloc(lane->replies, capacity * sizeof(*grown));
        if (grown == NULL) return -ENOMEM;
        lane->replies = grown;
        lane->replies_capacity = capacity;
    }
    frames *box = malloc(sizeof(*box));
    if (box == NULL) return -ENOMEM;
    frames_init(box);
    lane->replies[lane->n_boxes++] = box;
    return 0;
}

/* Is this reply the answer to what was asked? */
static int check_rows(exchange *x, uint32_t node, const message *m) {
    uint32_t layer, n_pairs;
    int rc =
        dispatch_expected(x->machine, node, m->request_id, &layer, &n_pairs);
    if (rc < 0) return rc;
    if (m->rows.layer != layer || m->rows.n_pairs != n_pairs ||
        m->rows.width != x->config.model->n_embd || m->rows.form != ACT_F32) {
        return ERR_MALFORMED;
    }
    return 0;
}

static void refuse_rows(exchange *x, uint32_t node, uint64_t request_id,
                        int rc) {
    log_warn("node %u: cannot use its reply to request %llu: %s", node,
             (unsigned long long)request_id, err_text(rc));
    dispatch_refused(x->machine, now_us(), node, request_id, rc);
}

static void on_rows(exchange *x, uint32_t node, const message *m, frames *f) {
    int rc = check_rows(x, node, m);
    if (rc == ERR_NOT_HERE) return; /* late or doubled: nothing is wanted */
    if (rc < 0) {
        refuse_rows(x, node, m->request_id, rc);
        return;
    }
    if (exchange_hold(x, node, m->request_id, f)) return;
    exchange_use_rows(x, node, m->request_id, f);
}

/* Rows for the layer in x->lane, if it asked for them. */
static void use_rows(exchange *x, uint32_t node, uint64_t request_id,
                     frames *f) {
    exchange_lane *lane = x->lane;
    size_t width = x->config.model->n_embd;
    const uint32_t *pairs;
    uint32_t n;
    int rc = dispatch_rows(x->machine, now_us(), node, request_id, &pairs, &n,
                           lane->of.take);
    bool wanted = false, whole = true;
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        wanted = wanted || lane->of.take[i];
        whole = whole && pairs[i] != DISPATCH_NO_PAIR;
    }
    if (!wanted) return;

    frames *kept = lane->replies[lane->n_replies++];
    frames_move(kept, f);
    const float *rows = frames_data(kept, 1);
    for (uint32_t i = 0; i < n; i++) {
        if (lane->of.take[i]) lane->of.outputs[pairs[i]] = rows + i * width;
    }
    if (whole) exchange_check_sample(x, node, pairs, n, rows);
}

void exchange_use_rows(exchange *x, uint32_t node, uint64_t request_id,
                       frames *f) {
    uint32_t n = dispatch_lane_of(x->machine, request_id);
    exchange_lane *lane = n < EXCHANGE_LANES ? &x->lanes[n] : x->lane;
    exchange_lane *former = exchange_choose(x, lane);
    int rc = reserve_reply(lane);
    if (rc < 0) {
        refuse_rows(x, node, request_id, rc);
    } else {
        use_rows(x, node, request_id, f);
    }
    exchange_choose(x, former);
}

static void log_refusal(exchange *x, uint32_t node, const message *m) {
    uint64_t now = now_us();
    if (now - x->refused_since_us >= REFUSED_PERIOD_US) {
        if (x->refused_lines > REFUSED_LINES) {
            log_warn("%u more refusals", x->refused_lines - REFUSED_LINES);
        }
        x->refused_since_us = now;
        x->refused_lines = 0;
    }
    if (++x->refused_lines > REFUSED_LINES) return;
    log_warn("node %u refuses request %llu: %s", node,
             (unsigned long long)m->request_id, m->error.text);
}

static void on_message(exchange *x, uint32_t node, frames *f) {
    message m;
    char why[160] = "";
    int rc = message_open(f, x->arena, &m, why, sizeof(why));
    if (rc < 0) {
        /* A damaged answer is as good as a refusal: ask somebody else. */
        log_warn("node %u: bad message: %s (%s)", node, why, err_text(rc));
        if (m.request_id != 0) {
            dispatch_refused(x->machine, now_us(), node, m.request_id, rc);
        }
        return;
    }
    const identity *self = x->config.self;
    bool ours = m.boot_id == x->peers[node].boot_id &&
                (m.to_boot_id == 0 || m.to_boot_id == self->boot_id);
    if (!ours) return; /* of an earlier process, theirs or ours */

    if ((m.request_id & CROSS_CHECK_ID) != 0) {
        exchange_check_answer(x, node, &m, f);
        return;
    }
    if (m.kind == MESSAGE_ROWS) {
        stopwatch_answered(x->config.watch, m.request_id,
                           (uint64_t)m.rows.queue_us + m.rows.compute_us);
        on_rows(x, node, &m, f);
    } else if (m.kind == MESSAGE_ERROR) {
        log_refusal(x, node, &m);
        dispatch_refused(x->machine, now_us(), node, m.request_id,
                         m.error.code);
    } else {
        log_warn("node %u: unexpected message %s", node,
                 message_kind_name(m.kind));
    }
}

/* What is done with an answer is no waiting. */
static void take_message(exchange *x, uint32_t node, frames *f) {
    stage before = stopwatch_enter(x->config.watch, STAGE_PACK);
    on_message(x, node, f);
    stopwatch_enter(x->config.watch, before);
}

bool exchange_receive(exchange *x, uint32_t node) {
    bool any = false;
    for (int i = 0; i < RECEIVE_MAX && x->peers[node].up; i++) {
        frames f;
        frames_init(&f);
        int rc = link_recv(x->peers[node].data, &f);
        if (rc == 0) take_message(x, node, &f);
        frames_fini(&f);
        if (rc == -ECONNRESET) {
            log_debug("node %u: the connection broke", node);
            dispatch_node_broken(x->machine, now_us(), node);
            return true;
        }
        if (rc < 0 && rc != ERR_MALFORMED && rc != -ENOMEM) break;
        any = true;
    }
    return any;
}
