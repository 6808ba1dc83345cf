/* test_exchange.c - a layer's way to the nodes and back, over links in memory,
 * with nodes that do what a test says.
 *
 * A node's answer for (expert, row) is expert * 100 + the row's first byte, in
 * every value.  Each node runs in a thread: it waits for batches and answers
 * them in its own manner. */
#include "tests/unit/exchange_rig.h"

/* ---- what goes well ---- */

static void gathers_every_pair(void **state) {
    (void)state;
    rig *r = open_rig(GOOD, GOOD, PATIENT);
    post(r, BOTH, 0);
    for (uint32_t i = 0; i < 20; i++) {
        assert_int_equal(run(r, i % 2), 0);
        assert_all_right(r);
    }
    assert_int_equal(totals(r).lost_pairs, 0);
    close_rig(r);
}

static void says_so_when_it_has_no_rack_yet(void **state) {
    (void)state;
    rig *r = open_rig(GOOD, GOOD, PATIENT);
    assert_false(exchange_has_news(r->x));
    assert_int_equal(run(r, 0), ERR_UNAVAILABLE);
    post(r, BOTH, 0);
    assert_true(exchange_has_news(r->x));
    assert_int_equal(run(r, 0), 0);
    assert_false(exchange_has_news(r->x));
    close_rig(r);
}

/* ---- what goes badly on one node of two ---- */

static void the_other_node_makes_up_for(manner bad) {
    rig *r = open_rig(bad, GOOD, PATIENT);
    post(r, BOTH, 0);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(run(r, i % 2), 0);
        assert_all_right(r);
        exchange_idle(r->x);
    }
    assert_true(atomic_load(&r->nodes[0].batches) > 0);
    close_rig(r);
}

static void a_replica_answers_for_a_silent_node(void **state) {
    (void)state;
    the_other_node_makes_up_for(SILENT);
}
static void an_answer_that_comes_twice_counts_once(void **state) {
    (void)state;
    the_other_node_makes_up_for(DOUBLED);
}
static void a_late_answer_is_dropped(void **state) {
    (void)state;
    the_other_node_makes_up_for(LATE);
}
static void answers_nobody_asked_for_are_dropped(void **state) {
    (void)state;
    the_other_node_makes_up_for(FORGED);
}
static void another_process_does_not_answer_for_the_node(void **state) {
    (void)state;
    the_other_node_makes_up_for(FOREIGN);
}
static void a_damaged_answer_is_asked_again_elsewhere(void **state) {
    (void)state;
    the_other_node_makes_up_for(DAMAGED);
}
static void garbage_is_no_answer(void **state) {
    (void)state;
    the_other_node_makes_up_for(GARBAGE);
}
static void an_answer_for_another_layer_is_refused(void **state) {
    (void)state;
    the_other_node_makes_up_for(WRONG_LAYER);
}
static void an_answer_of_another_length_is_refused(void **state) {
    (void)state;
    the_other_node_makes_up_for(TOO_FEW);
}
static void an_answer_of_another_width_is_refused(void **state) {
    (void)state;
    the_other_node_makes_up_for(TOO_NARROW);
}
static void a_refusal_goes_elsewhere(void **state) {
    (void)state;
    the_other_node_makes_up_for(REFUSING);
}
static void a_flood_does_not_hide_the_answer(void **state) {
    (void)state;
    the_other_node_makes_up_for(FLOODING);
}

static void a_busy_node_is_asked_again(void **state) {
    (void)state;
    rig *r = open_rig(BUSY, SILENT, PATIENT);
    post(r, 1, 0);
    assert_int_equal(run(r, 0), 0);
    assert_all_right(r);
    assert_true(totals(r).refusals > 0);
    close_rig(r);
}

/* ---- when nobody answers ---- */

static void rows_are_lost_when_nobody_answers(manner bad) {
    rig *r = open_rig(bad, bad, HASTY);
    post(r, 1, 0);
    assert_int_equal(run(r, 1), ROWS);
    for (uint32_t i = 0; i < ROWS; i++)
        assert_true(r->lost[i]);
    uint32_t layer, expert;
    exchange_missing(r->x, &layer, &expert);
    assert_int_equal(layer, 1);
    assert_int_equal(expert, experts[0]);

    /* what comes later, for the layer that is over, harms nobody */
    exchange_idle(r->x);
    atomic_store(&r->nodes[1].manner, GOOD);
    post(r, 2, 0);
    assert_int_equal(run(r, 0), 0);
    assert_all_right(r);
    close_rig(r);
}

static void gives_up_on_a_silent_rack(void **state) {
    (void)state;
    rows_are_lost_when_nobody_answers(SILENT);
}
static void gives_up_on_a_rack_that_refuses(void **state) {
    (void)state;
    rows_are_lost_when_nobody_answers(REFUSING);
}
static void gives_up_on_a_rack_of_damaged_answers(void **state) {
    (void)state;
    rows_are_lost_when_nobody_answers(DAMAGED);
}

static void a_rack_without_nodes_loses_rows_at_once(void **state) {
    (void)state;
    rig *r = open_rig(GOOD, GOOD, PATIENT);
    post(r, 0, 0);
    assert_int_equal(run(r, 0), ROWS);
    close_rig(r);
}

static void a_node_that_cannot_be_reached_is_not_up(void **state) {
    (void)state;
    rig *r = open_rig(GOOD, GOOD, PATIENT);
    const model_config *m = &r->model->config;
    const holdings *held[NODES] = {&r->all, NULL};
    rack_node seen[NODES] = {{.up = true, .endpoint = "nowhere"}};
    const placement_shape shape = {
        .epoch = 1, .n_layers = m->n_layers, .n_experts = m->n_experts};
    placement *where;
    rack *snapshot;
    assert_int_equal(placement_new(&where, &shape, held, NODES), 0);
    assert_int_equal(rack_new(&snapshot, where, seen, NODES), 0);
    exchange_post(r->x, snapshot);
    assert_int_equal(run(r, 0), ROWS);
    dispatch_node_stats s;
    exchange_node(r->x, 0, &s);
    assert_false(s.up);
    close_rig(r);
}

/* ---- racks that change ---- */

static void *post_good_node(void *arg) {
    rig *r = arg;
    while (atomic_load(&r->nodes[0].batches) == 0)
        poll(NULL, 0, 1);
    post(r, 2, 0); /* node 0 went away in the middle of the layer */
    return NULL;
}

static void a_node_that_goes_away_ends_the_wait(void **state) {
    (void)state;
    rig *r = open_rig(SILENT, GOOD, PATIENT);
    post(r, 1, 0);
    exchange_idle(r->x);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, post_good_node, r), 0);
    assert_int_equal(run(r, 0),
                     ROWS); /* this layer's placement knew one node */
    pthread_join(thread, NULL);
    assert_int_equal(run(r, 0), 0);
    assert_all_right(r);
    close_rig(r);
}

static void a_restarted_node_is_connected_anew(void **state) {
    (void)state;
    rig *r = open_rig(GOOD, GOOD, HASTY);
    post(r, 1, 0);
    assert_int_equal(run(r, 0), 0);
    post(r, 1, 5); /* the node signs with its old boot id: not this process */
    assert_int_equal(run(r, 0), ROWS);
    post(r, 1, 0);
    assert_int_equal(run(r, 0), 0);
    close_rig(r);
}

/* The loop may post between the step thread's look and its own wake-up; the
 * wake-up then finds nothing, and must not be found again and again. */
static void a_wake_up_without_news_is_used_up(void **state) {
    (void)state;
    rig *r = open_rig(GOOD, GOOD, PATIENT);
    post(r, BOTH, 0);
    exchange_idle(r->x);
    int fds[NODES + 1];
    assert_int_equal(exchange_fds(r->x, fds, NODES + 1), NODES + 1);
    uint64_t one = 1;
    assert_int_equal(write(fds[0], &one, sizeof(one)), sizeof(one));
    exchange_idle(r->x);
    struct pollfd fd = {.fd = fds[0], .events = POLLIN};
    assert_int_equal(poll(&fd, 1, 0), 0);
    assert_int_equal(exchange_fds(r->x, fds, 1), 1);
    close_rig(r);
}

/* ---- being looked after ---- */

typedef struct {
    rig *r;
    uint32_t looks, patience;
    uint32_t layer, expert;
} looker;

static bool look(void *ctx) {
    looker *l = ctx;
    exchange_missing(l->r->x, &l->layer, &l->expert);
    return ++l->looks < l->patience;
}

static void a_step_that_nobody_wants_ends(void **state) {
    (void)state;
    rig *r = open_rig(LATE, GOOD, PATIENT);
    looker l = {.r = r, .patience = 3};
    exchange_on_wait(r->x, look, &l);
    post(r, 1, 0);
    assert_int_equal(run(r, 1), ERR_CANCELLED);
    assert_int_equal(l.looks, 3);
    assert_int_equal(l.layer, 1);
    assert_true(l.expert < 4);

    /* The placement is not borrowed any more, and the late answer comes back
     * to a layer that is over. */
    post(r, BOTH, 0);
    exchange_idle(r->x);
    atomic_store(&r->nodes[0].manner, GOOD);
    uint64_t until = now_ms() + 20000;
    while (totals(r).late_rows == 0) {
        assert_true(now_ms() < until);
        exchange_idle(r->x);
        poll(NULL, 0, 1);
    }
    l.patience = UINT32_MAX; /* a good answer may be slow, too */
    assert_int_equal(run(r, 0), 0);
    assert_all_right(r);
    exchange_idle(r->x);
    close_rig(r);
}

static void a_layer_that_comes_through_is_not_looked_at(void **state) {
    (void)state;
    rig *r = open_rig(GOOD, GOOD, PATIENT);
    looker l = {.r = r, .patience = 0};
    exchange_on_wait(r->x, look, &l);
    post(r, BOTH, 0);
    int rc = run(r, 0);
    /* unless the machine stood still for so long */
    if (l.looks == 0) assert_int_equal(rc, 0);
    close_rig(r);
}

int main(void) {
    if (cpu_setup(NULL, 0) < 0) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gathers_every_pair),
        cmocka_unit_test(says_so_when_it_has_no_rack_yet),
        cmocka_unit_test(a_replica_answers_for_a_silent_node),
        cmocka_unit_test(an_answer_that_comes_twice_counts_once),
        cmocka_unit_test(a_late_answer_is_dropped),
        cmocka_unit_test(answers_nobody_asked_for_are_dropped),
        cmocka_unit_test(another_process_does_not_answer_for_the_node),
        cmocka_unit_test(a_damaged_answer_is_asked_again_elsewhere),
        cmocka_unit_test(garbage_is_no_answer),
        cmocka_unit_test(an_answer_for_another_layer_is_refused),
        cmocka_unit_test(an_answer_of_another_length_is_refused),
        cmocka_unit_test(an_answer_of_another_width_is_refused),
        cmocka_unit_test(a_refusal_goes_elsewhere),
        cmocka_unit_test(a_flood_does_not_hide_the_answer),
        cmocka_unit_test(a_busy_node_is_asked_again),
        cmocka_unit_test(gives_up_on_a_silent_rack),
        cmocka_unit_test(gives_up_on_a_rack_that_refuses),
        cmocka_unit_test(gives_up_on_a_rack_of_damaged_answers),
        cmocka_unit_test(a_rack_without_nodes_loses_rows_at_once),
        cmocka_unit_test(a_node_that_cannot_be_reached_is_not_up),
        cmocka_unit_test(a_node_that_goes_away_ends_the_wait),
        cmocka_unit_test(a_restarted_node_is_connected_anew),
        cmocka_unit_test(a_wake_up_without_news_is_used_up),
        cmocka_unit_test(a_step_that_nobody_wants_ends),
        cmocka_unit_test(a_layer_that_comes_through_is_not_looked_at),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
