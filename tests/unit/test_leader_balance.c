/* test_leader_balance.c - when a leader asks the balancer, and what it makes of
 * the answer. */
#define EXPERTS 16
#include "tests/unit/leader_desk.h"

#include <errno.h>
#include "coordinator/leader_job.h"

/* ---- heat ---- */

static void show_heat(desk *d) {
    uint32_t units[LAYERS];
    for (uint32_t l = 0; l < LAYERS; l++)
        units[l] = EXPERTS * d->slices[l];
    assert_int_equal(heat_new(&d->heat, LAYERS, units), 0);
    look(d);
}

/* Steady traffic: what a second adds, now. */
static void warm(desk *d, uint32_t layer, uint32_t unit, double pairs) {
    heat_add(d->heat, layer, unit, pairs);
}

static void cool(desk *d) {
    heat_decay(d->heat, UINT64_MAX - 1);
    heat_free(d->heat);
    d->heat = NULL;
    show_heat(d);
}

static bool holds(const desk *d, const char *name, uint32_t layer,
                  uint32_t unit) {
    const rack_placement *p = rack_view_placement(d->view);
    int32_t at = rack_placement_node(p, name);
    return at >= 0 && rack_placement_assigns(p, at, layer, unit);
}

/* All that `name` holds is three times as hot as the rest. */
static void make_uneven(desk *d, const char *name) {
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t u = 0; u < EXPERTS; u++)
            warm(d, l, u, holds(d, name, l, u) ? 3000 + u : 1000 + u);
    }
}

static void make_even(desk *d) {
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t u = 0; u < EXPERTS; u++)
            warm(d, l, u, 1000);
    }
}

/* The write that was asked for works. */
static void write_now(desk *d) {
    assert_int_equal(d->action.kind, LEADER_WRITE);
    commit(d, d->action.step);
    leader_wrote(d->machine, d->now_ms, LEADER_DONE);
    look(d);
}

/* The next write, or nothing; compacting is another test's. */
static leader_kind next_write(desk *d) {
    while (next(d) == LEADER_COMPACT)
        ;
    return d->action.kind;
}

/* Everything that is to be done is done, until nothing is. */
static uint32_t settle(desk *d) {
    uint32_t writes = 0;
    while (next_write(d) == LEADER_WRITE) {
        write_now(d);
        report_all(d);
        look(d);
        assert_true(++writes < 50);
    }
    return writes;
}

static leader_figures figures(desk *d) {
    leader_figures f;
    leader_look_at(d->machine, d->now_ms, &f);
    return f;
}

/* ---- by itself ---- */

static void evens_out_what_is_uneven(void **state) {
    desk d;
    (void)state;
    begin(&d, 1);
    show_heat(&d);
    make_uneven(&d, "a");
    assert_int_equal(next(&d), LEADER_WAIT); /* once is chance */
    assert_true(figures(&d).pays && figures(&d).started == 0);
    assert_true(figures(&d).before.rack > 1.4);
    assert_int_equal(d.action.wake_ms, d.now_ms + 2000);
    d.now_ms += 2000;
    assert_int_equal(next(&d), LEADER_WRITE);
    assert_true(d.action.step->added > 0);
    assert_int_equal(d.action.step->removed, 0);
    leader_figures f = figures(&d);
    assert_true(f.moving && f.to_load > 0 && f.to_drop > 0);
    assert_int_equal(f.bytes_left, f.to_load * 100);
    write_now(&d);
    report_all(&d);
    look(&d);
    assert_true(settle(&d) > 0);
    f = figures(&d);
    assert_true(f.started == 1 && f.reached == 1 && !f.moving);
    assert_true(f.target_after.rack < 1.06);
    d.now_ms += 2000;
    assert_int_equal(settle(&d), 0);
    assert_false(figures(&d).pays);
    desk_fini(&d);
}

static uint64_t seed;

static uint32_t below(uint32_t n) {
    uint64_t z = seed += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (uint32_t)((z ^ (z >> 31)) % n);
}

/* Tokens of even traffic come in runs of the same experts, as texts have them.
 */
static void leaves_even_traffic_alone(void **state) {
    static const uint32_t rates[] = {20, 200, 5000};
    (void)state;
    for (uint32_t i = 0; i < 3; i++) {
        desk d;
        begin(&d, 1);
        show_heat(&d);
        seed = i;
        for (uint32_t t = 0; t < 300; t++) {
            d.now_ms += 1000;
            heat_decay(d.heat, d.now_ms);
            for (uint32_t n = 0; n < rates[i]; n += 3) {
                warm(&d, 0, below(EXPERTS), 3);
                warm(&d, 1, below(EXPERTS), 3);
            }
            assert_int_equal(next_write(&d), LEADER_WAIT);
        }
        desk_fini(&d);
    }
}

static void waits_for_enough_heat(void **state) {
    desk d;
    (void)state;
    begin(&d, 1);
    show_heat(&d);
    for (uint32_t l = 0; l < LAYERS; l++)
        warm(&d, l, 0, 60);
    for (uint32_t i = 0; i < 5; i++) {
        d.now_ms += 2000;
        assert_int_equal(next(&d), LEADER_WAIT);
    }
    assert_int_equal(figures(&d).at_ms, 0);
    desk_fini(&d);
}

static void copies_what_is_too_hot_and_keeps_the_copy(void **state) {
    desk d;
    (void)state;
    begin(&d, 1);
    show_heat(&d);
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t u = 0; u < EXPERTS; u++)
            warm(&d, l, u, u == 3 ? 40000 : 1000);
    }
    assert_int_equal(next(&d), LEADER_WAIT);
    d.now_ms += 2000;
    assert_true(settle(&d) > 0);
    assert_true(holds(&d, "a", 0, 3) && holds(&d, "b", 0, 3));
    /* No traffic at all for an hour: nothing says that it is not needed. */
    cool(&d);
    for (uint32_t i = 0; i < 360; i++) {
        d.now_ms += 10000;
        assert_int_equal(next_write(&d), LEADER_WAIT);
    }
    /* Traffic that is even for half a minute does. */
    make_even(&d);
    d.now_ms += 2000;
    assert_int_equal(next(&d), LEADER_WAIT);
    d.now_ms += 20000;
    assert_int_equal(next(&d), LEADER_WAIT);
    d.now_ms += 10000;
    assert_true(settle(&d) > 0);
    assert_true(holds(&d, "a", 0, 3) != holds(&d, "b", 0, 3));
    desk_fini(&d);
}

static void asks_nothing_if_that_is_turned_off(void **state) {
    desk d;
    (void)state;
    begin(&d, 1);
    leader_free(d.machine);
    leader_config c = {
        .name = "first",
        .no_balance = true,
        .profile = {.version = 1, .activation = "a8", .rows = "f32"}};
    assert_int_equal(leader_new(&d.machine, &c), 0);
    show_heat(&d);
    make_uneven(&d, "a");
    for (uint32_t i = 0; i < 10; i++) {
        d.now_ms += 2000;
        assert_int_equal(next(&d), LEADER_WAIT);
    }
    desk_fini(&d);
}

static void asks_nothing_while_nodes_load(void **state) {
    desk d;
    (void)state;
    begin(&d, 1);
    show_heat(&d);
    make_uneven(&d, "a");
    assert_int_equal(next(&d), LEADER_WAIT);
    d.now_ms += 2000;
    write_it(&d); /* and nobody reports */
    uint64_t last = figures(&d).at_ms;
    for (uint32_t i = 0; i < 5; i++) {
        d.now_ms += 2000;
        assert_int_equal(next(&d), LEADER_WAIT);
    }
    assert_int_equal(figures(&d).at_ms, last);
    assert_true(figures(&d).moving);
    desk_fini(&d);
}

/* So it is measured, every second. */
static void hear_speed(desk *d, const char *name, double speed,
                       uint32_t seconds) {
    for (uint32_t i = 0; i < seconds; i++) {
        d->now_ms += 1000;
        assert_int_equal(leader_set_speed(d->machine, d->now_ms, name, speed),
                         0);
    }
}

static void knows_a_fast_node(void **state) {
    desk d;
    (void)state;
    begin(&d, 1);
    show_heat(&d);
    make_even(&d);
    hear_speed(&d, "b", 3.1, 58); /* not for long enough */
    d.now_ms += 2000;
    assert_int_equal(settle(&d), 0);
    hear_speed(&d, "b", 3.1, 4);
    d.now_ms += 2000;
    assert_int_equal(next(&d), LEADER_WAIT);
    d.now_ms += 2000;
    assert_true(settle(&d) > 0);
    assert_in_range(units_of(&d, "b"), 22, 26); /* of 32 */
    desk_fini(&d);
}

/* ---- racks that change ---- */

/* Another coordinator takes over a rack with copies. */
static void begin_with_copies(desk *d) {
    begin(d, 1);
    show_heat(d);
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t u = 0; u < EXPERTS; u++)
            warm(d, l, u, u == 3 ? 40000 : 1000);
    }
    assert_int_equal(next(d), LEADER_WAIT);
    d->now_ms += 2000;
    assert_true(settle(d) > 0);
    leader_free(d->machine);
    leader_config c = {
        .name = "second",
        .profile = {.version = 1, .activation = "a8", .rows = "f32"}};
    assert_int_equal(leader_new(&d->machine, &c), 0);
    d->term++;
}

static void asks_before_it_plans_when_it_is_new(void **state) {
    desk d;
    (void)state;
    begin_with_copies(&d);
    look(&d);
    d.now_ms += 1000;
    assert_int_equal(settle(&d), 0);
    assert_true(figures(&d).at_ms != 0);
    assert_true(holds(&d, "a", 0, 3) && holds(&d, "b", 0, 3));
    desk_fini(&d);
}

/* A node that somebody wants to be empty. */
static void drain(desk *d, const char *name) {
    char key[100];
    const drain_record r = {.by = "x", .at = "2026-01-01T00:00:00Z"};
    snprintf(key, sizeof(key), "drain/%s", name);
    put_text(d, key, drain_record_pack(&r));
    settle_view(d);
}

static uint64_t all_units(const desk *d) {
    return units_of(d, "a") + units_of(d, "b");
}

static void waits_for_heat_when_it_is_new(void **state) {
    desk d;
    (void)state;
    begin_with_copies(&d);
    heat_free(d.heat);
    show_heat(&d);
    uint64_t begun_ms = d.now_ms;
    d.now_ms += 1000;
    assert_int_equal(next(&d), LEADER_WAIT);
    assert_int_equal(d.action.wake_ms, begun_ms + 4000);
    desk_fini(&d);
}

/* Nobody asks for anything: who has copies keeps them until it is known that
 * they are cold. */
static void keeps_copies_while_nothing_is_known(void **state) {
    desk d;
    (void)state;
    begin_with_copies(&d);
    heat_free(d.heat);
    show_heat(&d);
    uint64_t units = all_units(&d);
    d.now_ms += 4000;
    assert_int_equal(settle(&d), 0);
    assert_true(holds(&d, "a", 0, 3) && holds(&d, "b", 0, 3));
    assert_int_equal(all_units(&d), units);
    desk_fini(&d);
}

static void drains_a_node_while_nothing_is_known(void **state) {
    desk d;
    (void)state;
    begin_with_copies(&d);
    heat_free(d.heat);
    show_heat(&d);
    d.now_ms += 4000;
    assert_int_equal(settle(&d), 0);
    drain(&d, "b");
    look(&d);
    d.now_ms += 1000;
    assert_true(settle(&d) > 0);
    assert_int_equal(units_of(&d, "b"), 0);
    assert_int_equal(units_of(&d, "a"), LAYERS * EXPERTS);
    desk_fini(&d);
}

/* Part of the moves is made, and nobody is left who knows the rest. */
static void is_drained_in_the_middle_of_moves(void **state) {
    desk d;
    (void)state;
    begin(&d, 1);
    show_heat(&d);
    make_uneven(&d, "a");
    assert_int_equal(next(&d), LEADER_WAIT);
    d.now_ms += 2000;
    assert_int_equal(next(&d), LEADER_WRITE);
    write_now(&d);
    drain(&d, "a");
    look(&d);
    report_all(&d);
    look(&d);
    d.now_ms += 1000;
    assert_true(settle(&d) > 0);
    assert_int_equal(units_of(&d, "a"), 0);
    assert_int_equal(units_of(&d, "b"), LAYERS * EXPERTS);
    desk_fini(&d);
}

/* A first placement does not wait, nor the rest of one that was begun. */
static void places_what_never_was_placed_at_once(void **state) {
    desk d;
    (void)state;
    desk_init(&d, 1);
    show_heat(&d);
    join(&d, "a");
    look(&d);
    d.now_ms += 1000;
    assert_int_equal(next(&d), LEADER_WRITE);
    planner_step part = *d.action.step;
    part.n_layers = 1; /* the other one is another step's */
    commit(&d, &part);
    leader_wrote(d.machine, d.now_ms, LEADER_DONE);
    look(&d);
    assert_int_equal(next(&d), LEADER_WRITE);
    assert_int_equal(d.action.step->n_layers, 1);
    desk_fini(&d);
}

static void gives_a_new_node_its_part(void **state) {
    desk d;
    (void)state;
    begin(&d, 1);
    show_heat(&d);
    make_even(&d);
    d.now_ms += 2000;
    assert_int_equal(next(&d), LEADER_WAIT);
    join(&d, "c");
    look(&d);
    d.now_ms += 1000;
    assert_true(settle(&d) > 0);
    assert_in_range(units_of(&d, "c"), 8, 12);
    desk_fini(&d);
}

static void replaces_a_node_that_is_gone(void **state) {
    desk d;
    (void)state;
    begin(&d, 1);
    show_heat(&d);
    make_uneven(&d, "a");
    leave(&d, "b");
    look(&d);
    d.now_ms += 1000;
    assert_int_equal(next(&d), LEADER_WAIT);
    d.now_ms += 15000;
    assert_true(settle(&d) > 0);
    assert_int_equal(units_of(&d, "a"), LAYERS * EXPERTS);
    desk_fini(&d);
}

/* ---- nothing is undone so soon ---- */

#define WATCHED 2

typedef struct {
    bool held[WATCHED][LAYERS][EXPERTS];
    uint64_t touched_ms[WATCHED][LAYERS][EXPERTS];
} watch;

static uint32_t compare(desk *d, watch *w, bool first) {
    static const char *const nodes[WATCHED] = {"a", "b"};
    uint32_t changes = 0;
    for (uint32_t i = 0; i < WATCHED; i++) {
        for (uint32_t l = 0; l < LAYERS; l++) {
            for (uint32_t u = 0; u < EXPERTS; u++) {
                bool held = holds(d, nodes[i], l, u);
                uint64_t *at = &w->touched_ms[i][l][u];
                if (held == w->held[i][l][u]) continue;
                w->held[i][l][u] = held;
                if (first) continue;
                if (*at != 0) assert_true(d->now_ms >= *at + 60000);
                *at = d->now_ms;
                changes++;
            }
        }
    }
    return changes;
}

/* ---- a node that is lost while memory is short ---- */

static void join_with(desk *d, const char *name, uint64_t memory_bytes) {
    node_record r = node_of(d, name);
    r.memory_bytes = memory_bytes;
    put_node(d, &r);
}

/* Who held something alone is gone: what it held goes where there is room, and
 * does not move on from there when the others have made room. */
static void lose_one(uint64_t number) {
    desk d;
    watch w = {0};
    seed = number;
    desk_init(&d, 1);
    join_with(&d, "a", 100 * (18 + below(8)));
    join_with(&d, "b", 100 * (18 + below(8)));
    join_with(&d, "c", 100 * (8 + below(12)));
    look(&d);
    d.now_ms += 1000;
    write_it(&d);
    report_all(&d);
    look(&d);
    show_heat(&d);
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t u = 0; u < EXPERTS; u++)
            warm(&d, l, u, below(4) == 0 ? 40000 : 4000 + below(4000));
    }
    settle(&d);
    d.now_ms += 2000;
    settle(&d);
    d.now_ms += 61000;
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t u = 0; u < EXPERTS; u++)
            warm(&d, l, u, below(4) == 0 ? 4e7 : 4e6 + below(4000000));
    }
    compare(&d, &w, true);
    leave(&d, "c");
    look(&d);
    d.now_ms += 15000;
    for (uint32_t writes = 0; next_write(&d) == LEADER_WRITE; writes++) {
        assert_true(writes < 50);
        write_now(&d);
        report_all(&d);
        look(&d);
        compare(&d, &w, false);
    }
    desk_fini(&d);
}

static void leaves_what_was_lost_where_it_found_room(void **state) {
    (void)state;
    for (uint64_t i = 1; i <= 300; i++)
        lose_one(i);
}

static void drops_an_answer_to_an_old_question(void **state) {
    desk d;
    (void)state;
    begin(&d, 1);
    show_heat(&d);
    make_uneven(&d, "a");
    d.now_ms += 2000;
    assert_int_equal(leader_next(d.machine, d.now_ms, &d.action), 0);
    assert_int_equal(d.action.kind, LEADER_THINK);
    leader_job *job = d.action.job;
    leader_job_run(job);
    assert_int_equal(leader_next(d.machine, d.now_ms, &d.action), 0);
    assert_int_equal(d.action.kind, LEADER_WAIT); /* one at a time */
    d.term = 0;
    look(&d);
    assert_int_equal(leader_thought(d.machine, d.now_ms, job), 0);
    assert_int_equal(figures(&d).at_ms, 0);
    desk_fini(&d);
}

static void frees_a_job_that_nobody_runs(void **state) {
    desk d;
    (void)state;
    begin(&d, 1);
    show_heat(&d);
    make_uneven(&d, "a");
    d.now_ms += 2000;
    assert_int_equal(leader_next(d.machine, d.now_ms, &d.action), 0);
    leader_job_free(d.action.job);
    desk_fini(&d);
    leader_job_free(NULL);
}

/* ---- operators ---- */

/* Nobody is asked again at once: what failed fails again. */
static void rests_after_a_question_that_failed(void **state) {
    desk d;
    char why[200] = "";
    (void)state;
    begin(&d, 1);
    show_heat(&d);
    make_uneven(&d, "a");
    assert_int_equal(leader_rebalance(d.machine, false, why, sizeof(why)), 0);
    assert_int_equal(leader_next(d.machine, d.now_ms, &d.action), 0);
    assert_int_equal(d.action.kind, LEADER_THINK);
    d.action.job->rc = -ENOMEM;
    assert_int_equal(leader_thought(d.machine, d.now_ms, d.action.job),
                     -ENOMEM);
    assert_int_equal(next(&d), LEADER_WAIT);
    assert_int_equal(d.action.wake_ms, d.now_ms + 8000);
    assert_true(leader_is_asked(d.machine));
    d.now_ms += 8000;
    assert_int_equal(next(&d), LEADER_WRITE);
    desk_fini(&d);
}

static void does_nothing_for_who_has_gone(void **state) {
    desk d;
    char why[200] = "";
    (void)state;
    begin(&d, 1);
    show_heat(&d);
    make_uneven(&d, "a");
    assert_int_equal(leader_rebalance(d.machine, false, why, sizeof(why)), 0);
    assert_int_equal(leader_next(d.machine, d.now_ms, &d.action), 0);
    leader_unask(d.machine);
    leader_job_run(d.action.job);
    assert_int_equal(leader_thought(d.machine, d.now_ms, d.action.job), 0);
    assert_null(leader_answer(d.machine));
    assert_false(leader_is_asked(d.machine));
    assert_int_equal(next(&d), LEADER_WAIT);
    desk_fini(&d);
}

static void says_what_it_would_do(void **state) {
    desk d;
    char why[200] = "";
    (void)state;
    begin(&d, 1);
    show_heat(&d);
    make_uneven(&d, "a");
    assert_false(leader_is_asked(d.machine));
    assert_int_equal(leader_rebalance(d.machine, true, why, sizeof(why)), 0);
    assert_null(leader_answer(d.machine));
    assert_true(leader_is_asked(d.machine));
    assert_int_equal(next(&d), LEADER_WAIT);
    const leader_report *r = leader_answer(d.machine);
    assert_non_null(r);
    assert_true(r->dry_run && r->pays && !r->started);
    assert_true(r->before.rack > 1.4 && r->after.rack < 1.06);
    assert_int_equal(r->n_moves, r->added + r->removed);
    assert_int_equal(r->moved_bytes, 100 * r->added);
    for (uint32_t i = 0; i < r->n_moves; i++) {
        const leader_move *m = &r->moves[i];
        assert_int_equal(holds(&d, m->node, m->layer, m->unit), !m->added);
    }
    desk_fini(&d);
}

/* What an operator asks for is done at once, and if it gains next to nothing.
 */
static void does_what_an_operator_asks_for(void **state) {
    desk d;
    char why[200] = "";
    (void)state;
    begin(&d, 1);
    show_heat(&d);
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t u = 0; u < EXPERTS; u++)
            warm(&d, l, u,
                 holds(&d, "a", l, u) ? 104200 + 800 * u : 100000 - 800 * u);
    }
    d.now_ms += 2000;
    assert_int_equal(next(&d), LEADER_WAIT);
    assert_int_equal(leader_rebalance(d.machine, false, why, sizeof(why)), 0);
    assert_int_equal(next(&d), LEADER_WRITE);
    const leader_report *r = leader_answer(d.machine);
    assert_non_null(r);
    assert_true(!r->dry_run && r->started && r->added > 0);
    write_now(&d);
    report_all(&d);
    look(&d);
    settle(&d);
    desk_fini(&d);
}

static void refuses_operators_where_it_does_not_lead(void **state) {
    desk d;
    char why[200] = "";
    (void)state;
    begin(&d, 1);
    assert_int_equal(leader_rebalance(d.machine, true, why, sizeof(why)), 0);
    d.term = 0;
    look(&d);
    assert_false(leader_is_asked(d.machine));
    assert_int_equal(leader_rebalance(d.machine, true, why, sizeof(why)),
                     ERR_NOT_LEADER);
    assert_non_null(strstr(why, "does not lead"));
    d.term = TERM + 1;
    d.live_since_ms = 0;
    look(&d);
    assert_int_equal(leader_rebalance(d.machine, true, why, sizeof(why)),
                     ERR_NOT_LEADER);
    assert_non_null(strstr(why, "etcd"));
    desk_fini(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(evens_out_what_is_uneven),
        cmocka_unit_test(leaves_even_traffic_alone),
        cmocka_unit_test(waits_for_enough_heat),
        cmocka_unit_test(copies_what_is_too_hot_and_keeps_the_copy),
        cmocka_unit_test(asks_nothing_if_that_is_turned_off),
        cmocka_unit_test(asks_nothing_while_nodes_load),
        cmocka_unit_test(knows_a_fast_node),
        cmocka_unit_test(asks_before_it_plans_when_it_is_new),
        cmocka_unit_test(waits_for_heat_when_it_is_new),
        cmocka_unit_test(keeps_copies_while_nothing_is_known),
        cmocka_unit_test(drains_a_node_while_nothing_is_known),
        cmocka_unit_test(is_drained_in_the_middle_of_moves),
        cmocka_unit_test(places_what_never_was_placed_at_once),
        cmocka_unit_test(gives_a_new_node_its_part),
        cmocka_unit_test(replaces_a_node_that_is_gone),
        cmocka_unit_test(leaves_what_was_lost_where_it_found_room),
        cmocka_unit_test(drops_an_answer_to_an_old_question),
        cmocka_unit_test(frees_a_job_that_nobody_runs),
        cmocka_unit_test(rests_after_a_question_that_failed),
        cmocka_unit_test(does_nothing_for_who_has_gone),
        cmocka_unit_test(says_what_it_would_do),
        cmocka_unit_test(does_what_an_operator_asks_for),
        cmocka_unit_test(refuses_operators_where_it_does_not_lead),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
