/* sim_step.c - a coordinator's step thread: the real scheduler and dispatch,
 * with what step.c and forward.c do between them. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "engine/err.h"
#include "tests/sim/sim.h"

static const dispatch_config dispatching = {
    .max_nodes = SIM_NODES,
    .max_pairs = SIM_BATCH * SIM_USED,
    .reply_row_bytes = SIM_ROW_BYTES,
    .piece_bytes = SIM_PIECE * SIM_ROW_BYTES,
    .credit_bytes = SIM_CREDIT * SIM_ROW_BYTES,
    .hedge_min_us = 20000,
    .hedge_factor = 4,
    .hedge_start_us = 40000,
    .hedge_percent = 5,
    .patience_us = SIM_PATIENCE_US,
};
static const scheduler_limits scheduling = {
    .max_running = 5,
    .batch_tokens = SIM_BATCH,
    .page_tokens = SIM_PAGE,
    .n_pages = SIM_PAGES,
    .max_context = SIM_POSITIONS,
    .queue_timeout_ms = SIM_QUEUE_MS,
    .park_timeout_ms = 4000,
};

static void set_timer(sim *s, uint32_t coord, sim_event_kind kind,
                      uint64_t *timer, uint64_t us) {
    sim_after(s, us, kind, (int)coord, ++*timer);
}

static void next_step(sim *s, uint32_t coord, uint64_t us) {
    set_timer(s, coord, EVENT_STEP, &s->coords[coord].step_timer, us);
}

/* ---- racks ---- */

static void link_down(sim *s, uint32_t coord, uint32_t place) {
    sim_coord *c = &s->coords[coord];
    if (!c->links[place].up) return;
    c->links[place].up = false;
    dispatch_node_down(c->machine, sim_mono_us(s, coord), place);
    sim_exchange_forget(c, place);
}

static void link_up(sim_coord *c, uint32_t place) {
    sim_link *l = &c->links[place];
    if (l->serial != c->now.at[place].serial) {
        dispatch_node_replaced(c->machine, place, c->now.at[place].serial);
    }
    *l = (sim_link){.up = true,
                    .node = c->now.at[place].node,
                    .connection = ++c->connections,
                    .boot = c->now.at[place].boot,
                    .serial = c->now.at[place].serial};
    dispatch_node_up(c->machine, place);
    scheduler_wake(c->plan);
}

void sim_step_choose(sim_coord *c, uint32_t lane) {
    c->lane = &c->lanes[lane];
    dispatch_choose(c->machine, lane);
}

sim_lane *sim_step_lane(sim_coord *c, uint32_t layer_number) {
    for (uint32_t i = 0; i < DISPATCH_LANES; i++) {
        sim_lane *lane = &c->lanes[i];
        if (lane->in_layer && lane->number == layer_number) return lane;
    }
    return NULL;
}

static bool in_layer(const sim_coord *c) {
    bool in = false;
    for (uint32_t i = 0; i < DISPATCH_LANES; i++)
        in = in || c->lanes[i].in_layer;
    return in;
}

/* Between layers: from now on requests are made from the newest rack, but for
 * those of a layer that is open. */
static void adopt(sim_coord *c) {
    const placement *oldest = c->now.where;
    for (uint32_t i = 0; i < DISPATCH_LANES; i++) {
        if (!c->lanes[i].in_layer) continue;
        const placement *open = c->lanes[i].during;
        if (placement_epoch(open) < placement_epoch(oldest)) oldest = open;
    }
    c->epoch = placement_epoch(oldest);
    c->source = placement_source(oldest);
}

static void take_rack(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    if (c->posted.where == NULL) return;
    placement_unref(c->now.where);
    c->now = c->posted;
    c->posted = (sim_rack){0};
    for (uint32_t i = 0; i < SIM_NODES; i++) {
        bool same =
            c->links[i].up == c->now.at[i].up &&
            (!c->links[i].up || (c->links[i].boot == c->now.at[i].boot &&
                                 c->links[i].serial == c->now.at[i].serial));
        if (!same) {
            link_down(s, coord, i);
            if (c->now.at[i].up) link_up(c, i);
        }
        dispatch_node_trust(c->machine, i, c->now.at[i].trust);
    }
    scheduler_wake(c->plan);
    if (!in_layer(c)) adopt(c);
}

/* ---- sequences ---- */

static sim_sequence *find_sequence(sim_coord *c, uint64_t id) {
    for (uint32_t i = 0; i < SIM_SEQUENCES; i++) {
        if (c->sequences[i].used && c->sequences[i].id == id) {
            return &c->sequences[i];
        }
    }
    return NULL;
}

static sim_sequence *free_sequence(sim_coord *c) {
    for (uint32_t i = 0; i < SIM_SEQUENCES; i++) {
        if (!c->sequences[i].used) return &c->sequences[i];
    }
    return NULL;
}

/* The end of a request, for its client and here: what somebody else may reach
 * is his to say. */
static void end_sequence(sim *s, uint32_t coord, uint64_t id, int code) {
    sim_sequence *q = find_sequence(&s->coords[coord], id);
    if (q != NULL) q->used = false;
    if (code == ERR_UNAVAILABLE && !sim_rack_sees_all(s, coord)) {
        code = ERR_CLOSED;
    }
    sim_client_tell(s, id, true, 0, 0, code);
}

static void submit(sim *s, uint32_t coord, const sim_asking *a) {
    sim_coord *c = &s->coords[coord];
    const scheduler_request r = {
        .id = a->id,
        .n_prompt = a->n_tokens,
        .max_new = a->n_new,
        .chunk = (uint32_t)(a->id >> 8) % 4,
        .timeout_ms = SIM_REQUEST_MS,
    };
    int rc = c->drained ? ERR_CLOSED : 0;
    if (rc == 0) rc = scheduler_submit(c->plan, sim_mono_ms(s, coord), &r);
    if (rc < 0) {
        sim_client_tell(s, a->id, true, 0, 0, rc);
        return;
    }
    sim_sequence *q = free_sequence(c);
    assert(q != NULL); /* the scheduler has no more capacity */
    q->used = true;
    q->id = a->id;
    q->n_prompt = q->n_tokens = a->n_tokens;
    q->n_new = a->n_new;
    q->first_index = a->first_index;
    memcpy(q->tokens, a->tokens, sizeof(q->tokens));
}

static void obey(sim *s, uint32_t coord, const sim_asking *a) {
    sim_coord *c = &s->coords[coord];
    sim_sequence *q = find_sequence(c, a->id);
    switch (a->kind) {
    case ASK_GENERATE:
        submit(s, coord, a);
        break;
    case ASK_CANCEL:
        if (scheduler_cancel(c->plan, a->id) == 0 && q != NULL) {
            q->used = false;
        }
        break;
    case ASK_HOLD:
    case ASK_RELEASE:
        scheduler_hold(c->plan, a->id, a->kind == ASK_HOLD);
        break;
    }
}

void sim_step_asked(sim *s, uint32_t coord, const sim_asking *a) {
    sim_coord *c = &s->coords[coord];
    assert(c->n_commands < SIM_COMMANDS);
    c->commands[c->n_commands++] = a;
    if (!c->in_step) next_step(s, coord, 0);
}

/* ---- layers ---- */

static bool item_lost(const sim_coord *c, const sim_sequence *q) {
    for (uint32_t i = 0; i < c->n_rows; i++) {
        if (c->rows[i].sequence == q && c->rows[i].lost) return true;
    }
    return false;
}

static uint32_t route_rows(sim *s, sim_coord *c, uint32_t *units) {
    uint32_t n_units = 0;
    c->lane->n_live = 0;
    for (uint32_t j = 0; j < c->lane->n_rows; j++) {
        uint32_t i = c->lane->first + j;
        sim_row *row = &c->rows[i];
        sim_sequence *q = row->sequence;
        if (item_lost(c, q)) continue;
        sim_attend(q->kv[c->lane->layer], row->position, row->x, row->h);
        c->lane->live[c->lane->n_live++] = i;
        if (sim_is_dense(&s->model, c->lane->layer)) continue;
        sim_route(&s->model, sim_topic(q->tokens[0]), c->lane->layer, row->h,
                  &row->routing);
        memcpy(row->arrived, row->h, sizeof(row->h));
        for (uint32_t k = 0; k < SIM_USED * s->slices; k++) {
            units[n_units++] =
                row->routing.experts[k / s->slices] * s->slices + k % s->slices;
        }
    }
    return n_units;
}

/* A layer without experts is done at once. */
static void run_dense(sim_coord *c) {
    for (uint32_t i = 0; i < c->lane->n_live; i++) {
        sim_row *row = &c->rows[c->lane->live[i]];
        memcpy(row->x, row->h, sizeof(row->x));
    }
}

/* By which dispatch knows rows that come back. */
static void make_keys(const sim_coord *c, uint64_t *keys) {
    for (uint32_t i = 0; i < c->lane->n_live; i++) {
        const sim_row *row = &c->rows[c->lane->live[i]];
        keys[i] = XXH3_64bits(row->h, sizeof(row->h));
    }
}

static void begin_layer(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    uint32_t units[SIM_PAIRS], k = SIM_USED * s->slices;
    bool skip = s->options.plant == PLANT_SKIP_LOST;
    c->lane->number = ++c->layer_number;
    (void)route_rows(s, c, units);
    if (sim_is_dense(&s->model, c->lane->layer)) {
        run_dense(c);
        return;
    }
    memset(c->lane->pinned, 0, sizeof(c->lane->pinned));
    /* Stale values, so that a pair that nobody computed shows. */
    memset(c->lane->outputs, skip ? 0 : 0x7f,
           sizeof(c->lane->outputs[0]) * c->lane->n_live * k);
    sim_exchange_sweep(c, sim_mono_us(s, coord));
    adopt(c);
    c->lane->during = placement_ref(c->now.where);
    if (dispatch_reserve(c->machine, SIM_BATCH * k) < 0 ||
        dispatch_begin(c->machine, sim_mono_us(s, coord), c->lane->layer, units,
                       c->lane->n_live, k, c->lane->during) < 0) {
        abort();
    }
    if (dispatch_has_kept(c->machine, c->lane->layer)) {
        uint64_t keys[SIM_BATCH];
        make_keys(c, keys);
        dispatch_resume(c->machine, sim_mono_us(s, coord), keys);
    }
    c->lane->in_layer = true;
}

/* For people who look for the reason. */
static void trace_holders(sim *s, uint32_t coord, uint32_t unit) {
    const sim_coord *c = &s->coords[coord];
    unit_set assigned[SIM_NODES];
    if (!s->options.trace) return;
    sim_rack_assigned(s, c->assignment, assigned);
    for (uint32_t i = 0; i < s->n_nodes; i++) {
        const sim_seen *n = &c->seen[i];
        if (!n->there) continue;
        sim_trace(
            s, "  node %u: %s, %s%s%s%strust %d", i,
            node_state_name(membership_state(c->members, n->place)),
            unit_set_has(&assigned[i], c->lane->layer, unit) ? "assigned, "
                                                             : "",
            unit_set_has(&n->held, c->lane->layer, unit) ? "held, " : "",
            unit_set_has(&n->doubted, c->lane->layer, unit) ? "doubted, " : "",
            sim_coord_uses(s, coord, i, c->lane->layer, unit, UINT64_MAX, 0)
                ? "used, "
                : "",
            (int)membership_trust(c->members, n->place, NULL, NULL));
    }
}

/* Somebody could have been asked, unless this coordinator was left behind and
 * goes by a placement that is gone, or a node is in trouble: of two copies one
 * may be just about to move, and not be known yet where it is. */
static void note_lost(sim *s, uint32_t coord) {
    uint32_t expert;
    if (!dispatch_lost_expert(s->coords[coord].machine, &expert)) return;
    sim_trace(s, "%s gives up unit %u of layer %u", s->members[coord].name,
              expert, s->coords[coord].lane->layer);
    trace_holders(s, coord, expert);
    if (!s->strict || s->clock.now_us < s->lag_until_us ||
        s->clock.now_us < s->costs_until_us) {
        return;
    }
    sim_fail(s, "%s gave up unit %u of layer %u", s->members[coord].name,
             expert, s->coords[coord].lane->layer);
}

static void end_layer(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    const uint32_t k = SIM_USED * s->slices;
    bool skip = s->options.plant == PLANT_SKIP_LOST;
    uint32_t expert;
    if (dispatch_lost_expert(c->machine, &expert) &&
        dispatch_owes(c->machine)) {
        uint64_t keys[SIM_BATCH];
        make_keys(c, keys);
        dispatch_keep(c->machine, keys);
    }
    for (uint32_t i = 0; i < c->lane->n_live; i++) {
        sim_row *row = &c->rows[c->lane->live[i]];
        row->lost = dispatch_row_lost(c->machine, i) && !skip;
        if (row->lost) {
            note_lost(s, coord);
            continue;
        }
        if (s->options.plant == PLANT_ARRIVAL_ORDER) {
            memcpy(row->x, row->arrived, sizeof(row->x));
            sim_squash(row->x);
        } else {
            sim_combine(row->h, &row->routing, s->slices,
                        (const float(*)[SIM_WIDTH])c->lane->outputs + i * k,
                        s->options.plant == PLANT_SLICE_ORDER, row->x);
        }
    }
    placement_unref(c->lane->during);
    c->lane->during = NULL;
    c->lane->in_layer = false;
}

/* Do what dispatch says of one layer, until it has nothing to do; when it is
 * to be asked again. */
static uint64_t pump_lane(sim *s, uint32_t coord, uint32_t lane) {
    sim_coord *c = &s->coords[coord];
    dispatch_action a;

    sim_step_choose(c, lane);
    for (uint32_t turns = 0; c->lane->in_layer && !c->computing_here; turns++) {
        if (turns > 1000) {
            sim_fail(s, "dispatch never rests");
            break;
        }
        uint64_t now_us = sim_mono_us(s, coord);
        dispatch_next(c->machine, now_us, &a);
        if (a.kind == DISPATCH_SEND) sim_exchange_send(s, coord, &a);
        if (a.kind == DISPATCH_LOCAL) sim_exchange_begin_here(s, coord, &a);
        if (a.kind == DISPATCH_DONE) end_layer(s, coord);
        if (a.kind != DISPATCH_WAIT) continue;
        if (a.wake_us <= now_us) sim_fail(s, "a wait for the past");
        if (a.wake_us == UINT64_MAX) sim_fail(s, "a wait without an end");
        return a.wake_us - now_us;
    }
    return UINT64_MAX;
}

static void take_turn(sim *s, uint32_t coord);

static void pump(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    uint64_t soonest_us = UINT64_MAX;
    for (uint32_t i = 0; i < DISPATCH_LANES; i++) {
        uint64_t us = pump_lane(s, coord, i);
        if (us < soonest_us) soonest_us = us;
    }
    if (soonest_us != UINT64_MAX)
        set_timer(s, coord, EVENT_LAYER, &c->layer_timer, soonest_us);
    sim_exchange_check(s, coord);
    take_turn(s, coord);
}

/* The lanes take turns, layer by layer; one that has a layer open is waited
 * for.  What is between two layers takes a while. */
static void take_turn(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    if (!c->in_step || c->in_turn || c->computing_here) return;
    if (c->lanes[c->turn_lane].in_layer) return;
    c->in_turn = true;
    next_step(s, coord, 50 + sim_below(s, 200));
}

/* ---- steps ---- */

static void give_token(sim *s, uint32_t coord, sim_sequence *q,
                       const sim_row *last) {
    const sim_coord *c = &s->coords[coord];
    uint32_t token = sim_token(last->x);
    uint32_t made = q->n_tokens - q->n_prompt;
    sim_client_tell(s, q->id, false, q->first_index + made, token, 0);
    q->tokens[q->n_tokens++] = token;
    if (made + 1 < q->n_new) return;
    scheduler_finish(c->plan, q->id);
    end_sequence(s, coord, q->id, 0);
}

static void stall(sim *s, uint32_t coord, sim_sequence *q) {
    sim_coord *c = &s->coords[coord];
    if (s->options.plant == PLANT_STALL_DROPS) {
        scheduler_finish(c->plan, q->id);
        q->used = false;
        return;
    }
    scheduler_stall(c->plan, sim_mono_ms(s, coord), q->id, ERR_UNAVAILABLE);
}

static void end_step(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    uint32_t row = 0;
    for (uint32_t i = 0; i < c->n_items; i++) {
        const scheduler_item *item = &c->items[i];
        sim_sequence *q = c->rows[row].sequence;
        row += item->n_tokens;
        if (item_lost(c, q)) {
            stall(s, coord, q);
            continue;
        }
        scheduler_advance(c->plan, sim_mono_ms(s, coord), q->id);
        if (item->last_of_prompt) give_token(s, coord, q, &c->rows[row - 1]);
    }
    c->in_step = false;
    next_step(s, coord, 50);
}

/* In one part, or in two. */
static void deal_rows(sim *s, sim_coord *c) {
    c->n_lanes = c->n_rows > 1 && sim_chance(s, 50) ? 2 : 1;
    c->turn_lane = c->turn_layer = 0;
    uint32_t half = c->n_rows / c->n_lanes;
    c->lanes[0].first = 0;
    c->lanes[0].n_rows = half;
    c->lanes[1].first = half;
    c->lanes[1].n_rows = c->n_rows - half;
}

static void begin_step(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    c->n_rows = 0;
    for (uint32_t i = 0; i < c->n_items; i++) {
        const scheduler_item *item = &c->items[i];
        sim_sequence *q = find_sequence(c, item->id);
        if (q == NULL) {
            sim_fail(s, "a request that ended is planned");
            return;
        }
        for (uint32_t t = 0; t < item->n_tokens; t++) {
            assert(c->n_rows < SIM_BATCH);
            sim_row *row = &c->rows[c->n_rows++];
            *row = (sim_row){.sequence = q, .position = item->first + t};
            assert(row->position < q->n_tokens);
            sim_embed(q->tokens[row->position], row->position, row->x);
        }
    }
    deal_rows(s, c);
    c->in_step = true;
    take_turn(s, coord);
}

/* Between steps: commands, what ran out of time, the next plan. */
static void turn(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    uint64_t now_ms = sim_mono_ms(s, coord), id;
    int code;

    for (uint32_t i = 0; i < c->n_commands; i++)
        obey(s, coord, c->commands[i]);
    c->n_commands = 0;
    while (scheduler_expired(c->plan, now_ms, &id, &code))
        end_sequence(s, coord, id, code);
    c->n_items = scheduler_plan(c->plan, now_ms, c->items);
    if (c->n_items > 0) {
        begin_step(s, coord);
        return;
    }
    adopt(c);
    uint64_t next_ms = scheduler_next_ms(c->plan, now_ms);
    if (next_ms == UINT64_MAX) return;
    if (next_ms <= now_ms) next_ms = now_ms + 1;
    next_step(s, coord, next_ms * 1000 - sim_mono_us(s, coord));
}

/* The layer of the lane whose turn it is; after the last one it is done. */
static void go_on(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    if (!c->in_step) {
        turn(s, coord);
        return;
    }
    c->in_turn = false;
    if (c->computing_here) return; /* then it is taken anew */
    sim_step_choose(c, c->turn_lane);
    c->lane->layer = c->turn_layer;
    if (c->turn_layer < SIM_LAYERS) begin_layer(s, coord);
    c->turn_lane = (c->turn_lane + 1) % c->n_lanes;
    if (c->turn_lane == 0) c->turn_layer++;
    if (c->turn_layer > SIM_LAYERS) {
        end_step(s, coord);
    } else {
        pump(s, coord);
    }
}

/* ---- events ---- */

void sim_step_message(sim *s, uint32_t coord, sim_message *m) {
    sim_coord *c = &s->coords[coord];
    if (c->computing_here) {
        assert(c->n_inbox < SIM_INBOX);
        c->inbox[c->n_inbox++] = m;
        return;
    }
    sim_exchange_answer(s, coord, m);
    sim_message_done(s, m);
    pump(s, coord);
}

void sim_step_broken(sim *s, uint32_t coord, uint32_t node) {
    sim_coord *c = &s->coords[coord];
    for (uint32_t i = 0; i < SIM_NODES; i++) {
        if (!c->links[i].up || c->links[i].node != node) continue;
        dispatch_node_broken(c->machine, sim_mono_us(s, coord), i);
        sim_exchange_forget(c, i);
        if (!c->computing_here) pump(s, coord);
    }
}

static void after_here(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    sim_exchange_end_here(s, coord);
    for (uint32_t i = 0; i < c->n_inbox; i++) {
        sim_exchange_answer(s, coord, c->inbox[i]);
        sim_message_done(s, c->inbox[i]);
    }
    c->n_inbox = 0;
    if (c->rack_waits) take_rack(s, coord);
    c->rack_waits = false;
    pump(s, coord);
}

void sim_step_event(sim *s, uint32_t coord, const sim_event *e) {
    sim_coord *c = &s->coords[coord];
    switch (e->kind) {
    case EVENT_RACK:
        if (c->computing_here) {
            c->rack_waits = true;
            break;
        }
        take_rack(s, coord);
        pump(s, coord);
        if (!c->in_step) next_step(s, coord, 0);
        break;
    case EVENT_STEP:
        if (e->number == c->step_timer) go_on(s, coord);
        break;
    case EVENT_LAYER:
        if (e->number == c->layer_timer) pump(s, coord);
        break;
    case EVENT_HERE:
        after_here(s, coord);
        break;
    default:
        assert(!"an event of nobody's");
    }
}

/* ---- life ---- */

void sim_step_start(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    dispatch_config d = dispatching;
    scheduler_limits limits = scheduling;
    d.local = s->local;
    limits.max_queued = s->strict ? SIM_SEQUENCES - limits.max_running : 3;
    if (dispatch_new(&c->machine, &d) < 0) abort();
    sim_step_choose(c, 0);
    if (scheduler_new(&c->plan, &limits) < 0) abort();
    const placement_shape nothing = {.n_layers = SIM_LAYERS,
                                     .n_experts = s->model.n_experts,
                                     .slices = s->slices,
                                     .layer_slices = s->layer_slices};
    const holdings *nobody[1] = {NULL};
    if (placement_new(&c->now.where, &nothing, nobody, 0) < 0) abort();
}

void sim_step_stop(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    dispatch_stats stats;
    dispatch_totals(c->machine, &stats);
    sim_add(s, COUNT_HEDGES, stats.hedges);
    sim_add(s, COUNT_TAKEOVERS, stats.takeover_pairs);
    sim_add(s, COUNT_LOCAL, stats.local_pairs);
    sim_add(s, COUNT_REFUSALS, stats.refusals);
    sim_add(s, COUNT_LATE, stats.late_rows);
    sim_add(s, COUNT_LOST, stats.lost_pairs);
    dispatch_free(c->machine);
    scheduler_free(c->plan);
    for (uint32_t i = 0; i < DISPATCH_LANES; i++)
        placement_unref(c->lanes[i].during);
    sim_rack_fini(&c->now);
}

bool sim_step_idle(const sim *s, uint32_t coord) {
    const sim_coord *c = &s->coords[coord];
    scheduler_counts n;
    scheduler_count(c->plan, &n);
    return n.queued + n.running + n.parked == 0 && !c->in_step;
}

void sim_step_check_end(sim *s, uint32_t coord) {
    sim_coord *c = &s->coords[coord];
    const char *name = s->members[coord].name;
    scheduler_counts n;
    scheduler_count(c->plan, &n);
    if (n.free_pages != SIM_PAGES) {
        sim_fail(s, "%s has %u pages left", name, n.free_pages);
    }
    for (uint32_t i = 0; i < DISPATCH_LANES; i++) {
        dispatch_action a;
        sim_step_choose(c, i);
        dispatch_next(c->machine, sim_mono_us(s, coord), &a);
        if (a.kind != DISPATCH_DONE) sim_fail(s, "dispatch is not done");
    }
    for (uint32_t i = 0; i < SIM_NODES; i++) {
        dispatch_node_stats stats;
        dispatch_node(c->machine, i, &stats);
        if (c->links[i].up && stats.outstanding_bytes != 0) {
            sim_fail(s, "%s waits for %llu bytes of place %u for ever", name,
                     (unsigned long long)stats.outstanding_bytes, i);
        }
    }
}
