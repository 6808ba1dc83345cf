/* test_cross_check.c - answers of replicas are compared: who is asked, what is
 * concluded, and that nothing hangs on it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "coordinator/cross_check.h"
#include "engine/err.h"

#define WIDTH 4
#define IN_BYTES 8
#define EVERY 10

static const cross_check_party one = {.node = 1, .boot_id = 101};
static const cross_check_party two = {.node = 2, .boot_id = 102};
static const cross_check_party three = {.node = 3, .boot_id = 103};

static const float right[2 * WIDTH] = {1, 2, 3, 4, 5, 6, 7, 8};
static const float wrong[2 * WIDTH] = {1, 2, 3, 4, 5, 6, 7, 9};
static const float other[2 * WIDTH] = {1, 2, 3, 4, 5, 6, 7, 10};

typedef struct {
    cross_check *c;
    uint64_t now;
    cross_check_action a;
} rig;

static rig open_rig(void) {
    rig r = {.now = 1000000};
    assert_int_equal(cross_check_new(&r.c, EVERY, IN_BYTES, WIDTH), 0);
    return r;
}

/* Until a request of this party is to be a sample; how many it took. */
static uint32_t until_due(rig *r, const cross_check_party *from) {
    for (uint32_t n = 1; n < 100000; n++) {
        if (cross_check_due(r->c, r->now, from->boot_id)) return n;
    }
    fail_msg("no sample");
    return 0;
}

/* Two rows of unit 9, of two slices an expert, answered by `from`. */
static void begin(rig *r, const cross_check_party *from, const float *answer,
                  const cross_check_party *others, uint32_t n, bool here) {
    static const uint8_t in[2][IN_BYTES] = {{1, 2, 3}, {4, 5, 6}};
    const void *rows[] = {in[0], in[1]};
    const float *out[] = {answer, answer + WIDTH};
    const cross_check_sample s = {
        .layer = 3,
        .slices = 2,
        .unit = 9,
        .n_rows = 2,
        .in_bytes = IN_BYTES,
        .in = rows,
        .out = out,
        .from = *from,
        .others = others,
        .n_others = n,
        .here = here,
    };
    cross_check_begin(r->c, r->now, &s);
}

static uint64_t expect_ask(rig *r, const cross_check_party *whom) {
    cross_check_next(r->c, r->now, &r->a);
    assert_int_equal(r->a.kind, CROSS_CHECK_ASK);
    assert_int_equal(r->a.whom.here, whom->here);
    assert_int_equal(r->a.whom.boot_id, whom->boot_id);
    assert_true((r->a.request_id & CROSS_CHECK_ID) != 0);
    return r->a.request_id;
}

static void expect_nothing(rig *r) {
    cross_check_next(r->c, r->now, &r->a);
    assert_int_equal(r->a.kind, CROSS_CHECK_NOTHING);
}

/* The next party that is asked is this one, and answers so. */
static void answered(rig *r, const cross_check_party *by, const float *rows) {
    uint64_t id = expect_ask(r, by);
    cross_check_rows(r->c, r->now, id, rows);
}

static cross_check_stats stats(const rig *r) {
    cross_check_stats s;
    cross_check_look(r->c, &s);
    return s;
}

static void takes_one_request_in_so_many(void **state) {
    (void)state;
    rig r = open_rig();
    for (int i = 0; i < 5; i++) {
        assert_int_equal(until_due(&r, &one), EVERY);
        begin(&r, &one, right, &two, 1, false);
        answered(&r, &two, right);
    }
    assert_int_equal(stats(&r).agreed, 5);
    cross_check_free(r.c);
}

static void takes_none_if_it_is_off(void **state) {
    (void)state;
    cross_check *c;
    assert_int_equal(cross_check_new(&c, 0, IN_BYTES, WIDTH), 0);
    for (int i = 0; i < 1000; i++)
        assert_false(cross_check_due(c, 1, 101));
    cross_check_free(c);
    assert_int_equal(cross_check_new(&c, 1, IN_BYTES, 0), ERR_RANGE);
    assert_null(c);
}

static void takes_one_at_a_time(void **state) {
    (void)state;
    rig r = open_rig();
    until_due(&r, &one);
    begin(&r, &one, right, &two, 1, false);
    for (int i = 0; i < 100; i++)
        assert_false(cross_check_due(r.c, r.now, 101));
    answered(&r, &two, right);
    assert_true(cross_check_due(r.c, r.now, 101)); /* it was due long ago */
    cross_check_free(r.c);
}

static void takes_no_sample_that_nobody_else_holds(void **state) {
    (void)state;
    rig r = open_rig();
    until_due(&r, &one);
    begin(&r, &one, right, NULL, 0, true);
    expect_nothing(&r);
    assert_true(cross_check_due(r.c, r.now, 101)); /* another one, then */
    cross_check_free(r.c);
}

static void asks_for_what_the_first_was_asked(void **state) {
    (void)state;
    static const uint8_t in[] = {1, 2, 3, 0, 0, 0, 0, 0,
                                 4, 5, 6, 0, 0, 0, 0, 0};
    uint32_t layer, n_rows;
    rig r = open_rig();
    until_due(&r, &one);
    begin(&r, &one, right, &two, 1, false);
    uint64_t id = expect_ask(&r, &two);
    assert_int_equal(r.a.layer, 3);
    assert_int_equal(r.a.unit, 9);
    assert_int_equal(r.a.slices, 2);
    assert_int_equal(r.a.n_rows, 2);
    assert_memory_equal(r.a.in, in, sizeof(in));
    assert_true(cross_check_expects(r.c, 2, id, &layer, &n_rows));
    assert_int_equal(layer, 3);
    assert_int_equal(n_rows, 2);
    assert_false(cross_check_expects(r.c, 1, id, &layer, &n_rows));
    assert_false(cross_check_expects(r.c, 2, id + 1, &layer, &n_rows));
    cross_check_free(r.c);
}

static void a_third_holder_convicts_the_second(void **state) {
    (void)state;
    const cross_check_party others[] = {two, three};
    cross_check_verdict v;
    rig r = open_rig();
    until_due(&r, &one);
    begin(&r, &one, right, others, 2, true);
    answered(&r, &two, wrong);
    answered(&r, &three, right);
    assert_true(cross_check_take_verdict(r.c, &v));
    assert_int_equal(v.wrong, 1);
    assert_int_equal(v.parties[1].boot_id, 102);
    assert_int_equal(v.layer, 3);
    assert_int_equal(v.expert, 4); /* unit 9 is its second slice */
    assert_false(cross_check_take_verdict(r.c, &v)); /* once */
    cross_check_free(r.c);
}

static void a_third_holder_convicts_the_first(void **state) {
    (void)state;
    const cross_check_party others[] = {two, three};
    cross_check_verdict v;
    rig r = open_rig();
    until_due(&r, &one);
    begin(&r, &one, wrong, others, 2, false);
    answered(&r, &two, right);
    answered(&r, &three, right);
    assert_true(cross_check_take_verdict(r.c, &v));
    assert_int_equal(v.wrong, 0);
    assert_int_equal(v.parties[0].boot_id, 101);
    cross_check_free(r.c);
}

static void our_own_file_decides_if_nobody_else_can(void **state) {
    (void)state;
    const cross_check_party here = {.here = true};
    cross_check_verdict v;
    rig r = open_rig();
    until_due(&r, &one);
    begin(&r, &one, right, &two, 1, true);
    answered(&r, &two, wrong);
    answered(&r, &here, right);
    assert_true(cross_check_take_verdict(r.c, &v));
    assert_int_equal(v.wrong, 1);
    assert_true(v.parties[2].here);
    cross_check_free(r.c);
}

static void our_own_file_is_not_read_to_compare(void **state) {
    (void)state;
    rig r = open_rig();
    until_due(&r, &one);
    begin(&r, &one, right, &two, 1, true);
    cross_check_rows(r.c, r.now, expect_ask(&r, &two), NULL); /* refused */
    expect_nothing(&r);
    cross_check_free(r.c);
}

static void names_both_if_nobody_can_decide(void **state) {
    (void)state;
    cross_check_verdict v;
    rig r = open_rig();
    until_due(&r, &one);
    begin(&r, &one, right, &two, 1, false);
    answered(&r, &two, wrong);
    expect_nothing(&r);
    assert_true(cross_check_take_verdict(r.c, &v));
    assert_int_equal(v.wrong, -1);
    assert_int_equal(v.parties[0].boot_id, 101);
    assert_int_equal(v.parties[1].boot_id, 102);
    assert_int_equal(stats(&r).undecided, 1);
    cross_check_free(r.c);
}

static void compares_suspects_with_others_until_it_knows(void **state) {
    (void)state;
    const cross_check_party others[] = {one, three};
    cross_check_verdict v;
    rig r = open_rig();
    until_due(&r, &one);
    begin(&r, &one, right, &two, 1, false);
    answered(&r, &two, wrong);
    expect_nothing(&r);
    assert_true(cross_check_take_verdict(r.c, &v));

    /* Of others no more than usual; of the suspects at once, and often. */
    assert_false(cross_check_due(r.c, r.now, 103));
    assert_true(cross_check_due(r.c, r.now, 102));
    begin(&r, &two, right, others, 2, false); /* now and then it is right */
    answered(&r, &three, right);
    assert_false(cross_check_due(r.c, r.now, 102));
    r.now += 60000;
    assert_true(cross_check_due(r.c, r.now, 102));
    begin(&r, &two, wrong, others, 2, false);
    answered(&r, &three, right); /* who is no suspect, first */
    answered(&r, &one, right);
    assert_true(cross_check_take_verdict(r.c, &v));
    assert_int_equal(v.wrong, 0);
    assert_int_equal(v.parties[0].boot_id, 102);

    r.now += 60000; /* and then they are treated as everybody */
    assert_false(cross_check_due(r.c, r.now, 101));
    cross_check_free(r.c);
}

static void does_not_tell_again_what_is_known(void **state) {
    (void)state;
    cross_check_verdict v;
    rig r = open_rig();
    for (int i = 0; i < 5; i++) {
        until_due(&r, &one);
        begin(&r, &one, right, &two, 1, false);
        answered(&r, &two, wrong);
        expect_nothing(&r);
        assert_int_equal(cross_check_take_verdict(r.c, &v), i == 0);
        r.now += 60000;
    }
    assert_int_equal(stats(&r).undecided, 5);
    cross_check_free(r.c);
}

static void concludes_nothing_from_three_that_differ(void **state) {
    (void)state;
    const cross_check_party others[] = {two, three};
    cross_check_verdict v;
    rig r = open_rig();
    until_due(&r, &one);
    begin(&r, &one, right, others, 2, false);
    answered(&r, &two, wrong);
    answered(&r, &three, other);
    expect_nothing(&r);
    assert_true(cross_check_take_verdict(r.c, &v));
    assert_int_equal(v.wrong, -1);
    cross_check_free(r.c);
}

static void goes_on_when_an_answer_does_not_come(void **state) {
    (void)state;
    const cross_check_party others[] = {two, three};
    rig r = open_rig();
    until_due(&r, &one);
    begin(&r, &one, right, others, 2, false);
    uint64_t lost = expect_ask(&r, &two);
    r.now += 1000000;
    expect_nothing(&r);
    r.now += 1000000;
    uint64_t id = expect_ask(&r, &three);
    cross_check_rows(r.c, r.now, lost, wrong); /* too late to count */
    cross_check_rows(r.c, r.now, id, right);
    assert_int_equal(stats(&r).agreed, 1);
    assert_int_equal(stats(&r).differed, 0);
    cross_check_free(r.c);
}

static void forgets_a_sample_that_nobody_answers(void **state) {
    (void)state;
    rig r = open_rig();
    until_due(&r, &one);
    begin(&r, &one, right, &two, 1, false);
    expect_ask(&r, &two);
    r.now += 2000000;
    expect_nothing(&r);
    assert_int_equal(until_due(&r, &one), EVERY);
    cross_check_free(r.c);
}

static void compares_bits_not_numbers(void **state) {
    (void)state;
    static const float zero[2 * WIDTH] = {0};
    float minus[2 * WIDTH] = {0};
    minus[3] = -0.0f;
    rig r = open_rig();
    until_due(&r, &one);
    begin(&r, &one, zero, &two, 1, false);
    answered(&r, &two, minus);
    assert_int_equal(stats(&r).differed, 1);
    cross_check_free(r.c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_one_request_in_so_many),
        cmocka_unit_test(takes_none_if_it_is_off),
        cmocka_unit_test(takes_one_at_a_time),
        cmocka_unit_test(takes_no_sample_that_nobody_else_holds),
        cmocka_unit_test(asks_for_what_the_first_was_asked),
        cmocka_unit_test(a_third_holder_convicts_the_second),
        cmocka_unit_test(a_third_holder_convicts_the_first),
        cmocka_unit_test(our_own_file_decides_if_nobody_else_can),
        cmocka_unit_test(our_own_file_is_not_read_to_compare),
        cmocka_unit_test(names_both_if_nobody_can_decide),
        cmocka_unit_test(compares_suspects_with_others_until_it_knows),
        cmocka_unit_test(does_not_tell_again_what_is_known),
        cmocka_unit_test(concludes_nothing_from_three_that_differ),
        cmocka_unit_test(goes_on_when_an_answer_does_not_come),
        cmocka_unit_test(forgets_a_sample_that_nobody_answers),
        cmocka_unit_test(compares_bits_not_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
