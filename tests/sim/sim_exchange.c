/* sim_exchange.c - a coordinator's exchange: batches go out and answers come
 * in, as in coordinator/exchange.c; with an account of its own of what every
 * node owes, which the machine's is held against. */
#include "tests/sim/sim.h"

#include <assert.h>
#include <string.h>
#include "engine/err.h"

/* ---- our own account of what nodes owe us ---- */

static uint64_t owed_bytes(const sim_coord *c, uint32_t node, uint64_t since) {
    uint64_t pairs = 0;
    for (uint32_t i = 0; i < c->n_asked; i++) {
        const sim_asked *a = &c->asked[i];
        if (a->node == node && !a->answered && a->sent_us > since) {
            pairs += a->n_pairs;
        }
    }
    return pairs * SIM_ROW_BYTES;
}

static sim_asked *find_asked(sim_coord *c, uint32_t node, uint64_t id) {
    for (uint32_t i = 0; i < c->n_asked; i++) {
        sim_asked *a = &c->asked[i];
        if (a->node == node && a->id == id) return a;
    }
    return NULL;
}

void sim_exchange_forget(sim_coord *c, uint32_t node) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < c->n_asked; i++) {
        if (c->asked[i].node != node) c->asked[kept++] = c->asked[i];
    }
    c->n_asked = kept;
}

/* What was answered in an earlier layer, or was lost for good long ago. */
void sim_exchange_sweep(const sim *s, sim_coord *c) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < c->n_asked; i++) {
        const sim_asked *a = &c->asked[i];
        bool over = a->answered && a->layer_number + 1 < c->layer_number;
        bool lost = sim_now(s) > a->sent_us + 8ull * SIM_PATIENCE_US;
        if (!over && !lost) c->asked[kept++] = *a;
    }
    c->n_asked = kept;
}

/* Credit: never more owed than agreed, and the machine's idea of it is never
 * more than what is really owed. */
void sim_exchange_check(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    uint64_t age_us = 2ull * SIM_PATIENCE_US;
    uint64_t since = sim_now(s) > age_us ? sim_now(s) - age_us : 0;

    for (uint32_t node = 0; node < s->n_nodes; node++) {
        dispatch_node_stats stats;
        dispatch_node(c->machine, node, &stats);
        uint64_t owed = owed_bytes(c, node, 0);
        if (stats.outstanding_bytes > SIM_CREDIT * SIM_ROW_BYTES ||
            owed_bytes(c, node, since) > SIM_CREDIT * SIM_ROW_BYTES) {
            sim_fail(s, "credit: node %u owes coordinator %u too much", node,
                     coord);
        }
        if (stats.outstanding_bytes > owed) {
            sim_fail(s,
                     "credit: coordinator %u waits for %llu bytes of node %u, "
                     "which owes %llu",
                     coord, (unsigned long long)stats.outstanding_bytes, node,
                     (unsigned long long)owed);
        }
    }
}

/* ---- what dispatch asks for ---- */

/* A row has SIM_USED experts of so many slices. */
static sim_row *row_of(const sim *s, sim_coord *c, uint32_t pair) {
    return &c->rows[c->live[pair / (SIM_USED * s->slices)]];
}

static uint32_t choice_of(const sim *s, uint32_t pair) {
    return pair / s->slices % SIM_USED;
}

static uint32_t unit_of(const sim *s, sim_coord *c, uint32_t pair) {
    const sim_row *row = row_of(s, c, pair);
    return row->routing.experts[choice_of(s, pair)] * s->slices +
           pair % s->slices;
}

void sim_exchange_send(sim *s, uint32_t coord, const dispatch_action *a) {
    sim_coord *c = &s->coords[coord];
    uint32_t process = sim_node_process(a->node);
    const sim_process *peer = &s->processes[process];

    assert(c->links[a->node].up);
    assert(a->n_pairs > 0 && a->n_pairs <= SIM_PIECE);
    /* The connection to a dead process is noticed after a while. */
    bool closed = !peer->alive && sim_now(s) > peer->died_us + 1000;
    if (closed || sim_chance(s, s->local ? 0 : 1)) {
        sim_trace(s, "%u: cannot send %llu to node %u", coord,
                  (unsigned long long)a->request_id, a->node);
        dispatch_send_failed(c->machine, sim_now(s), a->request_id);
        return;
    }
    sim_message m = {
        .kind = SIM_BATCH_ASKED,
        .from = coord,
        .to = process,
        .boot_id = s->processes[coord].boot_id,
        .to_boot_id = c->links[a->node].boot_id,
        .connection = c->links[a->node].connection,
        .request_id = a->request_id,
        .layer = c->layer,
        .n_pairs = a->n_pairs,
        .remaining_us = SIM_TIMEOUT_MS * 1000,
    };
    if (c->n_asked == SIM_ASKED) {
        sim_fail(s, "coordinator %u asks without end", coord);
        return;
    }
    sim_asked *asked = &c->asked[c->n_asked++];
    *asked = (sim_asked){.node = a->node,
                         .id = a->request_id,
                         .sent_us = sim_now(s),
                         .layer_number = c->layer_number,
                         .n_pairs = a->n_pairs};
    for (uint32_t i = 0; i < a->n_pairs; i++) {
        uint32_t pair = a->pairs[i];
        const sim_row *row = row_of(s, c, pair);
        asked->pairs[i] = pair;
        m.units[i] = unit_of(s, c, pair);
        memcpy(m.rows[i], row->h, sizeof(row->h));
        if (i > 0 && m.units[i] < m.units[i - 1]) {
            sim_fail(s, "a piece is not in the order of its units");
        }
    }
    sim_send(s, &m);
}

static void store_output(sim *s, sim_coord *c, uint32_t pair, const float *y) {
    sim_row *row = row_of(s, c, pair);
    memcpy(c->outputs[pair], y, SIM_WIDTH * sizeof(*y));
    if (s->options.plant != PLANT_ARRIVAL_ORDER) return;
    for (uint32_t i = 0; i < SIM_WIDTH; i++) {
        row->arrived[i] += row->routing.weights[choice_of(s, pair)] * y[i];
    }
}

void sim_exchange_begin_here(sim *s, uint32_t coord, const dispatch_action *a) {
    sim_coord *c = &s->coords[coord];
    assert(a->n_pairs <= SIM_PAIRS);
    memcpy(c->here, a->pairs, a->n_pairs * sizeof(*a->pairs));
    c->n_here = a->n_pairs;
    c->here_fails = s->local_fails && sim_chance(s, 30);
    c->computing_here = true;
    sim_trace(s, "%u: computes %u pairs here", coord, a->n_pairs);
    sim_after(s, 50 + a->n_pairs * 100ull / s->slices, EVENT_LOCAL, (int)coord,
              0);
}

void sim_exchange_end_here(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    for (uint32_t i = 0; i < c->n_here && !c->here_fails; i++) {
        uint32_t pair = c->here[i];
        float y[SIM_WIDTH];
        sim_expert(c->layer, unit_of(s, c, pair), s->slices,
                   row_of(s, c, pair)->h, y);
        store_output(s, c, pair, y);
    }
    c->computing_here = false;
    dispatch_local_done(c->machine, sim_now(s), c->here, c->n_here,
                        !c->here_fails);
}

/* ---- answers ---- */

/* The planted mistakes, each one a line that a shell could get wrong. */
static bool use_wrongly(sim *s, sim_coord *c, const sim_message *m,
                        const sim_asked *a) {
    bool earlier = a->layer_number != c->layer_number;
    uint32_t n_pairs = c->in_layer ? c->n_live * SIM_USED * s->slices : 0;

    if (s->options.plant == PLANT_KEEP_CREDIT) return earlier;
    if (s->options.plant == PLANT_LATE_LAYER && earlier) {
        for (uint32_t i = 0; i < a->n_pairs; i++) {
            if (a->pairs[i] >= n_pairs) continue;
            memcpy(c->outputs[a->pairs[i]], m->rows[i], sizeof(m->rows[i]));
            c->pinned[a->pairs[i]] = true;
        }
    }
    if (s->options.plant == PLANT_DOUBLE_COUNT && a->answered && !earlier) {
        for (uint32_t i = 0; i < a->n_pairs && c->in_layer; i++) {
            for (uint32_t j = 0; j < SIM_WIDTH; j++) {
                c->outputs[a->pairs[i]][j] += m->rows[i][j];
            }
        }
    }
    return false;
}

static void on_rows(sim *s, sim_coord *c, uint32_t node, const sim_message *m) {
    uint32_t layer, n_expected, n = 0;
    const uint32_t *pairs = NULL;
    bool take[SIM_PAIRS];

    if (dispatch_expected(c->machine, node, m->request_id, &layer,
                          &n_expected) < 0) {
        return;
    }
    if (layer != m->layer || n_expected != m->n_pairs) {
        sim_fail(s, "request %llu was of layer %u and %u pairs, not %u and %u",
                 (unsigned long long)m->request_id, layer, n_expected, m->layer,
                 m->n_pairs);
        return;
    }
    int rc = dispatch_rows(c->machine, sim_now(s), node, m->request_id, &pairs,
                           &n, take);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        if (!take[i] || c->pinned[pairs[i]]) continue;
        store_output(s, c, pairs[i], m->rows[i]);
    }
}

void sim_exchange_answer(sim *s, uint32_t coord, const sim_message *m) {
    sim_coord *c = &s->coords[coord];
    uint32_t node = m->from - SIM_COORDINATORS;

    if (!c->links[node].up || m->connection != c->links[node].connection ||
        m->boot_id != c->links[node].boot_id ||
        m->to_boot_id != s->processes[coord].boot_id) {
        return; /* of an earlier process or connection */
    }
    sim_asked *a = find_asked(c, node, m->request_id);
    if (a != NULL && m->kind == SIM_ROWS && use_wrongly(s, c, m, a)) {
        a->answered = true;
        return;
    }
    if (m->kind == SIM_ROWS) {
        on_rows(s, c, node, m);
    } else {
        dispatch_refused(c->machine, sim_now(s), node, m->request_id, m->code);
    }
    if (a != NULL) a->answered = true;
}
