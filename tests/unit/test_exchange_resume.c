/* test_exchange_resume.c - answers that come after their layer was given up,
 * and serve its next attempt: those of the same rows, and no others. */
#include "coordinator/exchange_internal.h"
#include "tests/unit/exchange_rig.h"

#define FIRST 1u /* the first node alone is up */

/* A layer is given up, and then its answers come, after which the node is as
 * it is to be. */
static void miss(rig *r) {
    atomic_store(&r->nodes[0].manner, WITHHOLDING);
    assert_in_range(run(r, 0), 1, ROWS);
}

static void let_arrive(rig *r, manner then) {
    dispatch_node_stats s;
    uint64_t until = now_ms() + 60000;
    while (atomic_load(&r->nodes[0].done) < totals(r).calls) {
        assert_true(now_ms() < until); /* one is still on its way there */
        poll(NULL, 0, 1);
    }
    atomic_store(&r->nodes[0].manner, (int)then);
    do {
        assert_true(now_ms() < until);
        exchange_idle(r->x);
        exchange_node(r->x, 0, &s);
    } while (s.outstanding_bytes > 0);
}

/* By what the rows are now. */
static void assert_computed_of_these_rows(const rig *r) {
    for (uint32_t i = 0; i < PAIRS; i++) {
        float value = (float)(experts[i] * 100 + r->rows[i / K][0]);
        assert_false(r->lost[i / K]);
        assert_true(r->outputs.rows[i][0] == value);
    }
}

/* false: this process stood still for so long that the answers are gone. */
static bool late_answers_serve(void) {
    rig *r = open_rig(WITHHOLDING, SILENT, HASTY);
    post(r, FIRST, 0);
    miss(r);
    let_arrive(r, SILENT);
    unsigned asked = atomic_load(&r->nodes[0].batches);
    bool served = run(r, 0) == 0;
    if (served) {
        assert_all_right(r);
        assert_int_equal(atomic_load(&r->nodes[0].batches), asked);
        assert_true(totals(r).resumed_pairs >= PAIRS);
    }
    close_rig(r);
    return served;
}

static void answers_that_come_too_late_serve_the_next_attempt(void **state) {
    (void)state;
    for (int i = 0; i < 10; i++) {
        if (late_answers_serve()) return;
    }
    fail_msg("they were never used");
}

static void another_row_gets_no_answer_of_an_earlier_one(void **state) {
    (void)state;
    rig *r = open_rig(WITHHOLDING, SILENT, HASTY);
    post(r, FIRST, 0);
    miss(r);
    let_arrive(r, GOOD);
    r->rows[2][0] = 99;
    r->rows[4][0] = r->rows[3][0]; /* and one as another one was */
    uint64_t until = now_ms() + 60000;
    while (run(r, 0) != 0) /* a starved node may be too slow for our haste */
        assert_true(now_ms() < until);
    assert_computed_of_these_rows(r);
    close_rig(r);
}

static void run_until_right(rig *r, uint32_t slices) {
    uint64_t until = now_ms() + 60000;
    atomic_store(&r->nodes[0].manner, GOOD);
    while (run(r, 0) != 0)
        assert_true(now_ms() < until);
    assert_all_slices_right(r, slices);
}

/* Units of another cut have the same numbers, and some have none. */
static void
a_rack_that_is_cut_anew_gets_no_answer_of_the_old_cut(void **state) {
    (void)state;
    rig *r = open_rig(WITHHOLDING, SILENT, HASTY);
    const uint32_t cuts[] = {1, 2, 1};
    for (uint32_t i = 0; i < 3; i++) {
        post_rack(r, i + 1, cuts[i], NODES, FIRST);
        if (i > 0) run_until_right(r, cuts[i]);
        miss(r);
        let_arrive(r, SILENT);
    }
    close_rig(r);
}

static bool nobody_waits(void *ctx) {
    (void)ctx;
    return false;
}

static void keeps_only_so_many(void **state) {
    (void)state;
    rig *r = open_rig(WITHHOLDING, SILENT, PATIENT);
    exchange_on_wait(r->x, nobody_waits, NULL);
    post(r, FIRST, 0);
    while (atomic_load(&r->nodes[0].batches) < EXCHANGE_HELD + 4) {
        for (uint32_t i = 0; i < ROWS; i++)
            r->rows[i][1]++; /* other rows, so nothing is taken up */
        assert_int_equal(run(r, 0), ERR_CANCELLED);
    }
    assert_int_equal(totals(r).resumed_pairs, 0);
    let_arrive(r, SILENT);
    assert_in_range(r->x->n_held, 0, EXCHANGE_HELD);
    assert_true(totals(r).late_rows > 0);
    close_rig(r); /* and with it, those that are kept */
}

int main(void) {
    if (cpu_setup(NULL, 0) < 0) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_that_come_too_late_serve_the_next_attempt),
        cmocka_unit_test(another_row_gets_no_answer_of_an_earlier_one),
        cmocka_unit_test(a_rack_that_is_cut_anew_gets_no_answer_of_the_old_cut),
        cmocka_unit_test(keeps_only_so_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
