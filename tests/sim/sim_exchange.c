/* sim_exchange.c - a coordinator's exchange: batches go out and answers come
 * in, as in coordinator/exchange.c; with an account of its own of what every
 * node owes, which the machine's is held against.  Nodes go by their places. */
#include <assert.h>
#include <string.h>
#include "engine/err.h"
#include "tests/sim/sim.h"

#define NOTICE_US 1000 /* until a closed connection is noticed */

/* ---- our own account of what nodes owe us ---- */

static uint64_t owed_bytes(const sim_coord *c, uint32_t place) {
    uint64_t pairs = 0;
    for (uint32_t i = 0; i < c->n_asked; i++) {
        const sim_asked *a = &c->asked[i];
        if (a->place == place && !a->answered) pairs += a->n_pairs;
    }
    return pairs * SIM_ROW_BYTES;
}

/* Of that, what the node really has: the rest was lost on the way, or is under
 * way.  What it has for very long counts as lost. */
static uint64_t kept_bytes(const sim *s, uint32_t coord, uint32_t place) {
    uint64_t age_us = 2ull * SIM_PATIENCE_US, now_us = sim_mono_us(s, coord);
    const sim_coord *c = &s->coords[coord];
    const sim_link *link = &c->links[place];
    uint64_t pairs = 0;
    if (!link->up) return 0;
    for (uint32_t i = 0; i < c->n_asked; i++) {
        const sim_asked *a = &c->asked[i];
        if (a->place != place || a->answered) continue;
        if (a->sent_us + age_us <= now_us) continue;
        const sim_batch *b = s->nodes[link->node].batches;
        while (b != NULL &&
               (b->asked.request_id != a->id || b->asked.from != coord ||
                b->asked.connection != link->connection))
            b = b->next;
        if (b != NULL) pairs += a->n_pairs;
    }
    return pairs * SIM_ROW_BYTES;
}

static sim_asked *find_asked(sim_coord *c, uint32_t place, uint64_t id) {
    for (uint32_t i = 0; i < c->n_asked; i++) {
        sim_asked *a = &c->asked[i];
        if (a->place == place && a->id == id) return a;
    }
    return NULL;
}

void sim_exchange_forget(sim_coord *c, uint32_t place) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < c->n_asked; i++) {
        if (c->asked[i].place != place) c->asked[kept++] = c->asked[i];
    }
    c->n_asked = kept;
}

/* What was answered in an earlier layer, or was lost for good long ago. */
void sim_exchange_sweep(sim_coord *c, uint64_t now_us) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < c->n_asked; i++) {
        const sim_asked *a = &c->asked[i];
        bool over =
            a->answered && a->layer_number + DISPATCH_LANES < c->layer_number;
        bool lost = now_us > a->sent_us + 60000000;
        if (!over && !lost) c->asked[kept++] = *a;
    }
    c->n_asked = kept;
}

/* Credit: never more owed than agreed, and the machine's idea of it is never
 * more than what is really owed. */
void sim_exchange_check(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    for (uint32_t place = 0; place < s->n_nodes; place++) {
        dispatch_node_stats stats;
        dispatch_node(c->machine, place, &stats);
        uint64_t owed = owed_bytes(c, place);
        if (stats.outstanding_bytes > SIM_CREDIT * SIM_ROW_BYTES ||
            kept_bytes(s, coord, place) > SIM_CREDIT * SIM_ROW_BYTES) {
            sim_fail(s, "credit: place %u owes coordinator %u too much", place,
                     coord);
        }
        if (stats.outstanding_bytes > owed) {
            sim_fail(s,
                     "credit: coordinator %u waits for %llu bytes of place %u, "
                     "which owes %llu",
                     coord, (unsigned long long)stats.outstanding_bytes, place,
                     (unsigned long long)owed);
        }
    }
}

/* ---- what dispatch asks for ---- */

/* A row has SIM_USED experts of so many slices. */
static sim_row *row_of(const sim *s, sim_coord *c, uint32_t pair) {
    return &c->rows[c->lane->live[pair / (SIM_USED * s->slices)]];
}

static uint32_t choice_of(const sim *s, uint32_t pair) {
    return pair / s->slices % SIM_USED;
}

static uint32_t unit_of(const sim *s, sim_coord *c, uint32_t pair) {
    const sim_row *row = row_of(s, c, pair);
    return row->routing.experts[choice_of(s, pair)] * s->slices +
           pair % s->slices;
}

static void note_asked(sim *s, uint32_t coord, const dispatch_action *a) {
    sim_coord *c = &s->coords[coord];
    if (c->n_asked == SIM_ASKED) {
        sim_fail(s, "a coordinator asks without end");
        return;
    }
    sim_asked *asked = &c->asked[c->n_asked++];
    *asked = (sim_asked){.place = a->node,
                         .id = a->request_id,
                         .sent_us = sim_mono_us(s, coord),
                         .layer_number = c->lane->number,
                         .n_pairs = a->n_pairs};
    memcpy(asked->pairs, a->pairs, a->n_pairs * sizeof(*a->pairs));
}

void sim_exchange_send(sim *s, uint32_t coord, const dispatch_action *a) {
    sim_coord *c = &s->coords[coord];
    const sim_link *link = &c->links[a->node];
    uint32_t member = sim_node_member(link->node);
    const sim_member *peer = &s->members[member];

    assert(link->up);
    assert(a->n_pairs > 0 && a->n_pairs <= SIM_PIECE);
    bool closed = !peer->alive && s->clock.now_us > peer->died_us + NOTICE_US;
    if (closed || sim_chance(s, s->local ? 0 : 1)) {
        sim_trace(s, "%s: cannot send %llu to node %u", s->members[coord].name,
                  (unsigned long long)a->request_id, link->node);
        dispatch_send_failed(c->machine, sim_mono_us(s, coord), a->request_id);
        return;
    }
    sim_message m = {
        .kind = MESSAGE_BATCH,
        .from = coord,
        .to = member,
        .boot = s->members[coord].boot,
        .to_boot = link->boot,
        .connection = link->connection,
        .request_id = a->request_id,
        .layer = c->lane->layer,
        .n_pairs = a->n_pairs,
        .remaining_us = SIM_REQUEST_MS * 1000,
    };
    note_asked(s, coord, a);
    for (uint32_t i = 0; i < a->n_pairs; i++) {
        const sim_row *row = row_of(s, c, a->pairs[i]);
        m.units[i] = unit_of(s, c, a->pairs[i]);
        memcpy(m.rows[i], row->h, sizeof(row->h));
        if (i > 0 && m.units[i] < m.units[i - 1]) {
            sim_fail(s, "a piece is not in the order of its units");
        }
    }
    sim_send(s, &m);
}

static void store_output(sim *s, sim_coord *c, uint32_t pair, const float *y) {
    sim_row *row = row_of(s, c, pair);
    memcpy(c->lane->outputs[pair], y, SIM_WIDTH * sizeof(*y));
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
    c->here_lane = (uint32_t)(c->lane - c->lanes);
    c->here_fails = s->local_fails && sim_chance(s, 30);
    c->computing_here = true;
    sim_trace(s, "%s: computes %u pairs here", s->members[coord].name,
              a->n_pairs);
    sim_after(s, 200 + a->n_pairs * 2500ull / s->slices, EVENT_HERE, (int)coord,
              0);
}

void sim_exchange_end_here(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    sim_step_choose(c, c->here_lane);
    for (uint32_t i = 0; i < c->n_here && !c->here_fails; i++) {
        uint32_t pair = c->here[i];
        float y[SIM_WIDTH];
        sim_expert(c->lane->layer, unit_of(s, c, pair), s->slices,
                   row_of(s, c, pair)->h, y);
        store_output(s, c, pair, y);
    }
    c->computing_here = false;
    dispatch_local_done(c->machine, sim_mono_us(s, coord), c->here, c->n_here,
                        !c->here_fails);
}

/* ---- answers ---- */

static void add_output(sim_lane *lane, uint32_t pair, const float *y) {
    for (uint32_t j = 0; j < SIM_WIDTH; j++)
        lane->outputs[pair][j] += y[j];
}

/* Planted mistakes, each one a line that a shell could get wrong.  True: the
 * machine does not hear of the answer. */
static bool use_wrongly(sim *s, sim_coord *c, const sim_message *m,
                        const sim_asked *a) {
    sim_lane *lane = sim_step_lane(c, a->layer_number);
    bool earlier = lane == NULL;
    if (earlier) lane = c->lane;
    uint32_t n_pairs = lane->in_layer ? lane->n_live * SIM_USED * s->slices : 0;

    if (s->options.plant == PLANT_KEEP_CREDIT) return earlier;
    if (s->options.plant == PLANT_LATE_LAYER && earlier) {
        for (uint32_t i = 0; i < a->n_pairs; i++) {
            if (a->pairs[i] >= n_pairs) continue;
            memcpy(lane->outputs[a->pairs[i]], m->rows[i], sizeof(m->rows[i]));
            lane->pinned[a->pairs[i]] = true;
        }
    }
    if (s->options.plant == PLANT_DOUBLE_COUNT && a->answered && !earlier) {
        for (uint32_t i = 0; i < a->n_pairs; i++)
            add_output(lane, a->pairs[i], m->rows[i]);
    }
    return false;
}

static void on_rows(sim *s, uint32_t coord, uint32_t place,
                    const sim_message *m) {
    sim_coord *c = &s->coords[coord];
    uint32_t layer, n_expected, n = 0;
    const uint32_t *pairs = NULL;
    bool take[SIM_PAIRS];

    if (dispatch_expected(c->machine, place, m->request_id, &layer,
                          &n_expected) < 0) {
        return;
    }
    if (layer != m->layer || n_expected != m->n_pairs) {
        sim_fail(s, "request %llu was of layer %u and %u pairs, not %u and %u",
                 (unsigned long long)m->request_id, layer, n_expected, m->layer,
                 m->n_pairs);
        return;
    }
    uint32_t lane = dispatch_lane_of(c->machine, m->request_id);
    if (lane < DISPATCH_LANES) sim_step_choose(c, lane);
    int rc = dispatch_rows(c->machine, sim_mono_us(s, coord), place,
                           m->request_id, &pairs, &n, take);
    bool add = s->options.plant == PLANT_HEDGE_ADDED && c->lane->in_layer;
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        if (pairs[i] == DISPATCH_NO_PAIR) continue;
        if (!take[i] && add) add_output(c->lane, pairs[i], m->rows[i]);
        if (!take[i] || c->lane->pinned[pairs[i]]) continue;
        store_output(s, c, pairs[i], m->rows[i]);
    }
}

static int32_t place_of(const sim_coord *c, uint32_t node) {
    for (int32_t i = 0; i < SIM_NODES; i++) {
        if (c->links[i].up && c->links[i].node == node) return i;
    }
    return -1;
}

void sim_exchange_answer(sim *s, uint32_t coord, const sim_message *m) {
    sim_coord *c = &s->coords[coord];
    int32_t at = place_of(c, m->from - SIM_COORDS);
    if (at < 0) return;
    uint32_t place = (uint32_t)at;
    const sim_link *link = &c->links[place];
    if (m->connection != link->connection || m->boot != link->boot ||
        m->to_boot != s->members[coord].boot) {
        return; /* of an earlier process or connection */
    }
    sim_asked *a = find_asked(c, place, m->request_id);
    if (a != NULL && m->kind == MESSAGE_ROWS && use_wrongly(s, c, m, a)) {
        a->answered = true;
        return;
    }
    if (m->kind == MESSAGE_ROWS) {
        on_rows(s, coord, place, m);
    } else {
        dispatch_refused(c->machine, sim_mono_us(s, coord), place,
                         m->request_id, m->code);
    }
    if (a != NULL) a->answered = true;
}
