/* test_stopwatch.c - whose time it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "coordinator/stopwatch.h"

static uint64_t sum(const stopwatch *w) {
    uint64_t ns = 0;
    for (stage s = 0; s < STAGES; s++)
        ns += w->ns[s];
    return ns;
}

/* Until the clock has moved. */
static void pass(stopwatch *w, stage s, uint64_t ns) {
    uint64_t until = w->ns[s] + ns;
    stage before = stopwatch_enter(w, s);
    while (w->ns[s] < until)
        stopwatch_enter(w, s);
    stopwatch_enter(w, before);
}

static void stages_add_up_to_all_of_the_time(void **state) {
    stopwatch w;
    (void)state;
    stopwatch_start(&w);
    uint64_t start_ns = w.since_ns;
    pass(&w, STAGE_ATTENTION, 1000);
    pass(&w, STAGE_WAIT, 1000);
    stopwatch_layer(&w);
    pass(&w, STAGE_ADD, 1000);
    assert_int_equal(sum(&w), w.since_ns - start_ns);
    assert_true(w.ns[STAGE_ATTENTION] >= 1000 && w.ns[STAGE_ADD] >= 1000);
}

static void a_callee_gives_the_time_back(void **state) {
    stopwatch w;
    (void)state;
    stopwatch_start(&w);
    assert_int_equal(stopwatch_enter(&w, STAGE_PACK), STAGE_IDLE);
    stage before = stopwatch_enter(&w, STAGE_EXPERTS);
    assert_int_equal(before, STAGE_PACK);
    assert_int_equal(stopwatch_enter(&w, before), STAGE_EXPERTS);
    assert_int_equal(w.now, STAGE_PACK);
}

/* The way of the answer: all that was waited, but for the node's microsecond.
 */
static void what_no_node_explains_is_the_wire(void **state) {
    stopwatch w;
    (void)state;
    stopwatch_start(&w);
    stopwatch_sent(&w, 7);
    pass(&w, STAGE_WAIT, 100000);
    uint64_t waited = w.ns[STAGE_WAIT];
    stopwatch_answered(&w, 7, 1);
    stopwatch_layer(&w);
    assert_int_equal(w.ns[STAGE_WIRE] + w.ns[STAGE_WAIT], waited);
    assert_true(w.ns[STAGE_WIRE] >= 99000);
    assert_true(w.ns[STAGE_WAIT] <= 1000);
}

static void what_the_node_explains_is_waiting(void **state) {
    stopwatch w;
    (void)state;
    stopwatch_start(&w);
    stopwatch_sent(&w, 7);
    pass(&w, STAGE_WAIT, 1000);
    uint64_t waited = w.ns[STAGE_WAIT];
    stopwatch_answered(&w, 7, 3600000000u); /* longer than we waited */
    stopwatch_layer(&w);
    assert_int_equal(w.ns[STAGE_WAIT], waited);
    assert_int_equal(w.ns[STAGE_WIRE], 0);
}

static void the_wire_takes_no_more_than_was_waited(void **state) {
    stopwatch w;
    (void)state;
    stopwatch_start(&w);
    stopwatch_sent(&w, 7);
    pass(&w, STAGE_DENSE, 100000); /* work beside the nodes' */
    pass(&w, STAGE_WAIT, 1000);
    uint64_t waited = w.ns[STAGE_WAIT];
    stopwatch_answered(&w, 7, 0);
    stopwatch_layer(&w);
    assert_int_equal(w.ns[STAGE_WIRE], waited);
    assert_int_equal(w.ns[STAGE_WAIT], 0);
    /* and a layer that nobody answered leaves it as it is */
    pass(&w, STAGE_WAIT, 1000);
    stopwatch_layer(&w);
    assert_int_equal(w.ns[STAGE_WIRE], waited);
}

static void an_unknown_answer_says_nothing(void **state) {
    stopwatch w;
    (void)state;
    stopwatch_start(&w);
    stopwatch_sent(&w, 7);
    stopwatch_sent(&w, 7 + STOPWATCH_SENT); /* takes its place */
    pass(&w, STAGE_WAIT, 1000);
    stopwatch_answered(&w, 7, 0);
    stopwatch_answered(&w, 0, 0);
    stopwatch_layer(&w);
    assert_int_equal(w.ns[STAGE_WIRE], 0);
}

static void nobody_needs_one(void **state) {
    (void)state;
    stopwatch_start(NULL);
    assert_int_equal(stopwatch_enter(NULL, STAGE_ADD), STAGE_ADD);
    stopwatch_sent(NULL, 1);
    stopwatch_answered(NULL, 1, 1);
    stopwatch_layer(NULL);
}

static void every_stage_has_a_name_of_its_own(void **state) {
    (void)state;
    for (stage s = 0; s < STAGES; s++) {
        assert_non_null(stage_name(s));
        for (stage t = 0; t < s; t++)
            assert_true(strcmp(stage_name(s), stage_name(t)) != 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stages_add_up_to_all_of_the_time),
        cmocka_unit_test(a_callee_gives_the_time_back),
        cmocka_unit_test(what_no_node_explains_is_the_wire),
        cmocka_unit_test(what_the_node_explains_is_waiting),
        cmocka_unit_test(the_wire_takes_no_more_than_was_waited),
        cmocka_unit_test(an_unknown_answer_says_nothing),
        cmocka_unit_test(nobody_needs_one),
        cmocka_unit_test(every_stage_has_a_name_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
