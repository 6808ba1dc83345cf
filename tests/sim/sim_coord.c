/* sim_coord.c - a coordinator: the real membership, dispatch and scheduler,
 * with what stands between them done as in coordinator/nodes.c, exchange.c and
 * step.c, as events instead of threads. */
#include "tests/sim/sim.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"

static const dispatch_config dispatching = {
    .max_nodes = SIM_NODES,
    .max_pairs = SIM_BATCH * SIM_USED,
    .reply_row_bytes = SIM_ROW_BYTES,
    .piece_bytes = SIM_PIECE * SIM_ROW_BYTES,
    .credit_bytes = SIM_CREDIT * SIM_ROW_BYTES,
    .hedge_min_us = SIM_HEDGE_US,
    .hedge_factor = 4,
    .patience_us = SIM_PATIENCE_US,
};
static const membership_config greeting = {
    .hello_ms = 50,
    .ping_ms = 30,
    .silent_ms = 120,
    .stuck_ms = 200,
    .refused_ms = 500,
};
static const scheduler_limits scheduling = {
    .max_running = 4,
    .batch_tokens = SIM_BATCH,
    .page_tokens = SIM_PAGE,
    .n_pages = SIM_PAGES,
    .max_context = SIM_POSITIONS,
    .queue_timeout_ms = SIM_QUEUE_MS,
};

static uint64_t now_in_ms(const sim *s) {
    return sim_now(s) / 1000;
}

static void set_timer(sim *s, uint32_t coord, sim_event_kind kind,
                      uint64_t *timer, uint64_t us) {
    sim_after(s, us, kind, (int)coord, ++*timer);
}

/* ---- membership: the loop thread ---- */

static void send_control(sim *s, uint32_t coord, uint32_t node,
                         sim_message_kind kind) {
    const sim_message m = {
        .kind = kind,
        .from = coord,
        .to = sim_node_process(node),
        .boot_id = s->processes[coord].boot_id,
    };
    sim_send(s, &m);
}

static void run_loop(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    member_action a;

    membership_next(c->members, now_in_ms(s), &a);
    for (; a.kind != MEMBER_WAIT;
         membership_next(c->members, now_in_ms(s), &a)) {
        if (a.kind == MEMBER_HELLO) send_control(s, coord, a.node, SIM_HELLO);
        if (a.kind == MEMBER_PING) send_control(s, coord, a.node, SIM_PING);
        if (a.kind == MEMBER_UP || a.kind == MEMBER_GONE) {
            sim_trace(s, "%u: node %u %s: %s", coord, a.node,
                      a.kind == MEMBER_UP ? "up" : "gone", a.reason);
            sim_after(s, sim_below(s, 200), EVENT_RACK, (int)coord, 0);
        }
    }
    uint64_t at_us = a.wake_ms * 1000, now_us = sim_now(s);
    set_timer(s, coord, EVENT_LOOP, &c->loop_timer,
              at_us > now_us ? at_us - now_us : 0);
}

static void on_control(sim *s, uint32_t coord, const sim_message *m) {
    sim_coord *c = &s->coords[coord];
    uint32_t node = m->from - SIM_COORDINATORS;
    uint64_t now_ms = now_in_ms(s);

    if (m->kind == SIM_WELCOME) {
        membership_welcome(c->members, now_ms, node, m->boot_id);
    } else {
        membership_pong(c->members, now_ms, node, m->boot_id, m->progress,
                        m->queued_jobs);
    }
    run_loop(s, coord);
}

/* ---- racks: the step thread hears of nodes ---- */

static void link_down(sim *s, uint32_t coord, uint32_t node) {
    sim_coord *c = &s->coords[coord];
    if (!c->links[node].up) return;
    c->links[node].up = false;
    c->links[node].connection = 0;
    dispatch_node_down(c->machine, sim_now(s), node);
    sim_exchange_forget(c, node);
}

static void replace_placement(sim *s, sim_coord *c) {
    const holdings *held[SIM_NODES] = {NULL};
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        if (c->links[i].up) held[i] = &s->nodes[i].shown;
    }
    placement_unref(c->where);
    const placement_shape shape = {.epoch = ++c->epoch,
                                   .n_layers = SIM_LAYERS,
                                   .n_experts = SIM_EXPERTS,
                                   .slices = s->slices};
    if (placement_new(&c->where, &shape, held, s->n_nodes) < 0) abort();
}

static void take_rack(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        bool up = membership_state(c->members, i) == NODE_UP;
        uint64_t boot_id = membership_boot(c->members, i);
        if (up == c->links[i].up && (!up || boot_id == c->links[i].boot_id)) {
            continue;
        }
        link_down(s, coord, i);
        if (!up) continue;
        c->links[i].up = true;
        c->links[i].boot_id = boot_id;
        c->links[i].connection = ++c->connections;
        dispatch_node_up(c->machine, i);
        scheduler_wake(c->plan);
    }
    replace_placement(s, c);
}

/* ---- steps ---- */

static bool item_lost(const sim_coord *c, const sim_request *r) {
    for (uint32_t i = 0; i < c->n_rows; i++) {
        if (c->rows[i].request == r && c->rows[i].lost) return true;
    }
    return false;
}

static void begin_layer(sim *s, sim_coord *c) {
    uint32_t units[SIM_PAIRS], n_units = 0;
    c->n_live = 0;
    for (uint32_t i = 0; i < c->n_rows; i++) {
        sim_row *row = &c->rows[i];
        if (item_lost(c, row->request)) continue;
        sim_attend(row->request->kv[c->layer], row->position, row->x, row->h);
        sim_route(c->layer, row->h, &row->routing);
        memcpy(row->arrived, row->h, sizeof(row->h));
        for (uint32_t k = 0; k < SIM_USED * s->slices; k++) {
            units[n_units++] =
                row->routing.experts[k / s->slices] * s->slices + k % s->slices;
        }
        c->live[c->n_live++] = i;
    }
    c->layer_number++;
    memset(c->pinned, 0, sizeof(c->pinned));
    /* Stale values, so that a pair that nobody computed shows. */
    memset(c->outputs, 0x7f, sizeof(c->outputs));
    sim_exchange_sweep(s, c);
    c->during = placement_ref(c->where);
    uint32_t k = SIM_USED * s->slices;
    if (dispatch_reserve(c->machine, SIM_BATCH * k) < 0 ||
        dispatch_begin(c->machine, sim_now(s), c->layer, units, c->n_live, k,
                       c->during) < 0) {
        abort();
    }
    c->in_layer = true;
}

static void end_layer(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    for (uint32_t i = 0; i < c->n_live; i++) {
        sim_row *row = &c->rows[c->live[i]];
        row->lost = dispatch_row_lost(c->machine, i);
        if (row->lost) continue;
        if (s->options.plant == PLANT_ARRIVAL_ORDER) {
            memcpy(row->x, row->arrived, sizeof(row->x));
            sim_squash(row->x);
        } else {
            sim_combine(row->h, &row->routing, s->slices,
                        (const float(*)[SIM_WIDTH])c->outputs +
                            i * SIM_USED * s->slices,
                        s->options.plant == PLANT_SLICE_ORDER, row->x);
        }
    }
    placement_unref(c->during);
    c->during = NULL;
    c->in_layer = false;
    set_timer(s, coord, EVENT_STEP, &c->step_timer, 20 + sim_below(s, 40));
}

/* Do what dispatch says, until it has nothing to do. */
static void pump(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    dispatch_action a;

    for (uint32_t turns = 0; c->in_layer && !c->computing_here; turns++) {
        if (turns > 1000) {
            sim_fail(s, "dispatch never rests");
            return;
        }
        dispatch_next(c->machine, sim_now(s), &a);
        if (a.kind == DISPATCH_SEND) sim_exchange_send(s, coord, &a);
        if (a.kind == DISPATCH_LOCAL) sim_exchange_begin_here(s, coord, &a);
        if (a.kind == DISPATCH_DONE) end_layer(s, coord);
        if (a.kind != DISPATCH_WAIT) continue;
        if (a.wake_us <= sim_now(s)) sim_fail(s, "a wait for the past");
        if (a.wake_us == UINT64_MAX) sim_fail(s, "a wait without an end");
        set_timer(s, coord, EVENT_WAKE, &c->wake_timer, a.wake_us - sim_now(s));
        break;
    }
    sim_exchange_check(s, coord);
}

static void give_token(sim *s, sim_coord *c, sim_request *r,
                       const sim_row *last) {
    uint32_t token = sim_token(last->x);
    sim_trace(s, "request %llu: token %u", (unsigned long long)r->id, token);
    if (token != r->expected[r->n_tokens]) {
        sim_fail(s, "request %llu: token %u is %u, not %u",
                 (unsigned long long)r->id, r->n_tokens, token,
                 r->expected[r->n_tokens]);
    }
    r->tokens[r->n_tokens++] = token;
    if (r->n_tokens < r->n_prompt + r->n_new) return;
    scheduler_finish(c->plan, r->id);
    sim_outcome(s, r, 0);
}

static void end_step(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    uint32_t row = 0;
    for (uint32_t i = 0; i < c->n_items; i++) {
        const scheduler_item *item = &c->items[i];
        sim_request *r = c->rows[row].request;
        row += item->n_tokens;
        if (item_lost(c, r)) {
            scheduler_stall(c->plan, now_in_ms(s), r->id, ERR_UNAVAILABLE);
            continue;
        }
        scheduler_advance(c->plan, now_in_ms(s), r->id);
        r->moved_us = sim_now(s);
        if (item->last_of_prompt) give_token(s, c, r, &c->rows[row - 1]);
    }
    c->in_step = false;
    set_timer(s, coord, EVENT_STEP, &c->step_timer, 20);
}

static void begin_step(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    c->n_rows = 0;
    for (uint32_t i = 0; i < c->n_items; i++) {
        const scheduler_item *item = &c->items[i];
        sim_request *r = sim_find_request(s, item->id);
        if (r->outcomes > 0) sim_fail(s, "a request that ended is planned");
        for (uint32_t t = 0; t < item->n_tokens; t++) {
            assert(c->n_rows < SIM_BATCH);
            sim_row *row = &c->rows[c->n_rows++];
            *row = (sim_row){.request = r, .position = item->first + t};
            assert(row->position < r->n_tokens);
            sim_embed(r->tokens[row->position], row->position, row->x);
        }
    }
    c->in_step = true;
    c->layer = 0;
    begin_layer(s, c);
    pump(s, coord);
}

static void obey(sim *s, sim_coord *c, uint64_t command) {
    sim_request *r = sim_find_request(s, command / 4);
    switch (command % 4) {
    case COMMAND_SUBMIT: {
        const scheduler_request q = {
            .id = r->id,
            .n_prompt = r->n_prompt,
            .max_new = r->n_new,
            .chunk = (uint32_t)(r->id % 4),
            .timeout_ms = SIM_TIMEOUT_MS,
        };
        int rc = scheduler_submit(c->plan, now_in_ms(s), &q);
        r->submitted = rc == 0;
        r->moved_us = sim_now(s);
        if (rc < 0) sim_outcome(s, r, rc);
        break;
    }
    case COMMAND_CANCEL:
        if (scheduler_cancel(c->plan, r->id) == 0) {
            sim_outcome(s, r, ERR_CANCELLED);
        }
        break;
    case COMMAND_HOLD:
    case COMMAND_RELEASE:
        scheduler_hold(c->plan, r->id, command % 4 == COMMAND_HOLD);
        break;
    }
}

/* Between steps: commands, what ran out of time, the next plan. */
static void turn(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    uint64_t now_ms = now_in_ms(s), id;
    int code;

    for (uint32_t i = 0; i < c->n_commands; i++)
        obey(s, c, c->commands[i]);
    c->n_commands = 0;
    while (scheduler_expired(c->plan, now_ms, &id, &code)) {
        sim_outcome(s, sim_find_request(s, id), code);
    }
    c->n_items = scheduler_plan(c->plan, now_ms, c->items);
    if (c->n_items > 0) {
        begin_step(s, coord);
        return;
    }
    uint64_t next_ms = scheduler_next_ms(c->plan, now_ms);
    if (next_ms == UINT64_MAX) return;
    if (next_ms <= now_ms) next_ms = now_ms + 1;
    set_timer(s, coord, EVENT_STEP, &c->step_timer,
              next_ms * 1000 - sim_now(s));
}

static void go_on(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    if (!c->in_step) {
        turn(s, coord);
    } else if (++c->layer < SIM_LAYERS) {
        begin_layer(s, c);
        pump(s, coord);
    } else {
        end_step(s, coord);
    }
}

/* ---- events ---- */

void sim_coord_command(sim *s, uint32_t coord, uint64_t request,
                       sim_command what) {
    sim_coord *c = &s->coords[coord];
    assert(c->n_commands < SIM_COMMANDS);
    c->commands[c->n_commands++] = request * 4 + what;
    if (!c->in_step) set_timer(s, coord, EVENT_STEP, &c->step_timer, 0);
}

void sim_coord_message(sim *s, uint32_t coord, sim_message *m) {
    sim_coord *c = &s->coords[coord];
    if (m->kind == SIM_WELCOME || m->kind == SIM_PONG) {
        on_control(s, coord, m);
        free(m);
        return;
    }
    if (c->computing_here) {
        assert(c->n_inbox < SIM_INBOX);
        c->inbox[c->n_inbox++] = m;
        return;
    }
    sim_exchange_answer(s, coord, m);
    free(m);
    pump(s, coord);
}

static void after_here(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    sim_exchange_end_here(s, coord);
    for (uint32_t i = 0; i < c->n_inbox; i++) {
        sim_exchange_answer(s, coord, c->inbox[i]);
        free(c->inbox[i]);
    }
    c->n_inbox = 0;
    if (c->rack_waits) take_rack(s, coord);
    c->rack_waits = false;
    pump(s, coord);
}

void sim_coord_event(sim *s, uint32_t coord, const sim_event *e) {
    sim_coord *c = &s->coords[coord];
    switch (e->kind) {
    case EVENT_LOOP:
        if (e->number == c->loop_timer) run_loop(s, coord);
        break;
    case EVENT_RACK:
        if (c->computing_here) {
            c->rack_waits = true;
            break;
        }
        take_rack(s, coord);
        pump(s, coord);
        if (!c->in_step) set_timer(s, coord, EVENT_STEP, &c->step_timer, 0);
        break;
    case EVENT_STEP:
        if (e->number == c->step_timer) go_on(s, coord);
        break;
    case EVENT_WAKE:
        if (e->number == c->wake_timer) pump(s, coord);
        break;
    case EVENT_LOCAL:
        after_here(s, coord);
        break;
    default:
        assert(!"an event of nobody's");
    }
}

/* ---- life ---- */

void sim_coord_start(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    dispatch_config d = dispatching;
    membership_config m = greeting;
    scheduler_limits limits = scheduling;
    d.local = s->local;
    m.n_nodes = s->n_nodes;
    limits.max_queued = s->strict ? SIM_REQUESTS : 4;

    *c = (sim_coord){0};
    if (dispatch_new(&c->machine, &d) < 0) abort();
    if (membership_new(&c->members, &m) < 0) abort();
    if (scheduler_new(&c->plan, &limits) < 0) abort();
    replace_placement(s, c);
    set_timer(s, coord, EVENT_LOOP, &c->loop_timer, sim_below(s, 3000));
}

void sim_coord_stop(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    dispatch_stats stats;
    dispatch_totals(c->machine, &stats);
    s->result->hedges += stats.hedges;
    s->result->takeovers += stats.takeover_pairs;
    s->result->local += stats.local_pairs;
    s->result->refusals += stats.refusals;
    s->result->late_rows += stats.late_rows;
    s->result->lost_pairs += stats.lost_pairs;
    if (s->strict && stats.lost_pairs > 0) {
        sim_fail(s, "coordinator %u gave up %llu pairs", coord,
                 (unsigned long long)stats.lost_pairs);
    }

    for (uint32_t i = 0; i < c->n_inbox; i++)
        free(c->inbox[i]);
    dispatch_free(c->machine);
    membership_free(c->members);
    scheduler_free(c->plan);
    placement_unref(c->where);
    placement_unref(c->during);
    *c = (sim_coord){0};
}

bool sim_coord_uses(const sim *s, uint32_t coord, uint32_t node) {
    const sim_coord *c = &s->coords[coord];
    const placement *where = c->in_layer ? c->during : c->where;
    const holdings *shown = &s->nodes[node].shown;
    for (uint32_t layer = 0; layer < SIM_LAYERS; layer++) {
        for (uint32_t u = 0; u < SIM_EXPERTS * s->slices; u++) {
            uint32_t n;
            const uint16_t *holders = placement_nodes(where, layer, u, &n);
            if (holdings_has(shown, layer, u)) continue;
            for (uint32_t i = 0; i < n; i++) {
                if (holders[i] == node) return true;
            }
        }
    }
    return false;
}

void sim_coord_check_end(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    scheduler_counts n;
    scheduler_count(c->plan, &n);
    if (n.queued + n.running + n.parked > 0 || n.free_pages != SIM_PAGES) {
        sim_fail(s,
                 "coordinator %u: %u queued, %u running, %u parked, %u pages",
                 coord, n.queued, n.running, n.parked, n.free_pages);
    }
    if (c->in_step) sim_fail(s, "coordinator %u is in a step", coord);

    dispatch_action a;
    dispatch_next(c->machine, sim_now(s), &a);
    if (a.kind != DISPATCH_DONE) sim_fail(s, "dispatch is not done");
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        dispatch_node_stats stats;
        dispatch_node(c->machine, i, &stats);
        if (stats.outstanding_bytes != 0) {
            sim_fail(s,
                     "coordinator %u waits for %llu bytes of node %u for "
                     "ever",
                     coord, (unsigned long long)stats.outstanding_bytes, i);
        }
        if (!stats.up) sim_fail(s, "node %u did not come back", i);
    }
}
