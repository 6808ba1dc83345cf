/* test_scheduler.c - who is in which batch step, who waits, who expires. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "coordinator/scheduler.h"
#include "engine/err.h"

#define PAGE 10

static const scheduler_limits limits = {
    .max_running = 4,
    .max_queued = 3,
    .batch_tokens = 16,
    .page_tokens = PAGE,
    .n_pages = 100,
    .max_context = 500,
    .queue_timeout_ms = 600,
};

typedef struct {
    scheduler *s;
    scheduler_item items[8]; /* of the last plan */
    uint32_t n;
} rig;

static rig open_rig(const scheduler_limits *l) {
    rig r;
    memset(&r, 0, sizeof(r));
    assert_int_equal(scheduler_new(&r.s, l), 0);
    return r;
}

static int submit(rig *r, uint64_t now_ms, uint64_t id, uint32_t n_prompt,
                  uint32_t max_new) {
    scheduler_request q = {id, n_prompt, max_new, 0, 100};
    return scheduler_submit(r->s, now_ms, &q);
}

static void must_submit(rig *r, uint64_t id, uint32_t n_prompt,
                        uint32_t max_new) {
    assert_int_equal(submit(r, 0, id, n_prompt, max_new), 0);
}

static void plan(rig *r, uint64_t now_ms) {
    r->n = scheduler_plan(r->s, now_ms, r->items);
}

static void advance_all(rig *r, uint64_t now_ms) {
    for (uint32_t i = 0; i < r->n; i++) {
        scheduler_advance(r->s, now_ms, r->items[i].id);
    }
}

static void step(rig *r, uint64_t now_ms) {
    plan(r, now_ms);
    advance_all(r, now_ms);
}

/* Item i of the last plan is this part of this request. */
static void expect_item(const rig *r, uint32_t i, uint64_t id, uint32_t first,
                        uint32_t n_tokens) {
    assert_true(i < r->n);
    assert_int_equal(r->items[i].id, id);
    assert_int_equal(r->items[i].first, first);
    assert_int_equal(r->items[i].n_tokens, n_tokens);
}

static scheduler_counts counts(const rig *r) {
    scheduler_counts c;
    scheduler_count(r->s, &c);
    return c;
}

/* ---- limits ---- */

static void refuses_limits_that_cannot_work(void **state) {
    (void)state;
    scheduler *s;
    scheduler_limits l = limits;
    l.max_running = 0;
    assert_int_equal(scheduler_new(&s, &l), ERR_RANGE);
    l = limits;
    l.batch_tokens = l.max_running - 1; /* a step must hold every decoder */
    assert_int_equal(scheduler_new(&s, &l), ERR_RANGE);
    l = limits;
    l.page_tokens = 0;
    assert_int_equal(scheduler_new(&s, &l), ERR_RANGE);
    assert_null(s);
    scheduler_free(NULL);
}

static void refuses_what_can_never_fit(void **state) {
    (void)state;
    rig r = open_rig(&limits);
    assert_int_equal(submit(&r, 0, 1, 0, 1), ERR_RANGE);
    assert_int_equal(submit(&r, 0, 1, 500, 1), ERR_CONTEXT);
    assert_int_equal(submit(&r, 0, 1, 1, UINT32_MAX), ERR_CONTEXT);
    assert_int_equal(submit(&r, 0, 1, UINT32_MAX, UINT32_MAX), ERR_CONTEXT);
    assert_int_equal(submit(&r, 0, 1, 499, 1), 0);
    scheduler_free(r.s);

    scheduler_limits l = limits;
    l.n_pages = 2;
    r = open_rig(&l);
    assert_int_equal(submit(&r, 0, 1, 2 * PAGE, 1), ERR_CONTEXT);
    assert_int_equal(submit(&r, 0, 1, 2 * PAGE - 1, 1), 0);
    scheduler_free(r.s);
}

static void refuses_beyond_the_queue(void **state) {
    (void)state;
    rig r = open_rig(&limits);
    for (uint64_t id = 1; id <= 7; id++)
        must_submit(&r, id, 1, 1);
    assert_int_equal(submit(&r, 0, 8, 1, 1), ERR_OVERLOADED);
    plan(&r, 0);
    assert_int_equal(submit(&r, 0, 8, 1, 1), ERR_OVERLOADED);
    advance_all(&r, 0);
    scheduler_finish(r.s, 1);
    assert_int_equal(submit(&r, 0, 8, 1, 1), 0);
    assert_int_equal(submit(&r, 0, 9, 1, 1), ERR_OVERLOADED);
    scheduler_free(r.s);
}

static void works_without_a_queue(void **state) {
    (void)state;
    scheduler_limits l = limits;
    l.max_queued = 0;
    rig r = open_rig(&l);
    for (uint64_t id = 1; id <= 4; id++)
        must_submit(&r, id, 1, 1);
    assert_int_equal(submit(&r, 0, 5, 1, 1), ERR_OVERLOADED);
    scheduler_free(r.s);
}

/* ---- plans ---- */

static void plans_nothing_without_requests(void **state) {
    (void)state;
    rig r = open_rig(&limits);
    plan(&r, 0);
    assert_int_equal(r.n, 0);
    assert_true(scheduler_next_ms(r.s, 5) == UINT64_MAX);
    scheduler_free(r.s);
}

static void feeds_a_prompt_in_chunks_then_decodes(void **state) {
    (void)state;
    rig r = open_rig(&limits);
    must_submit(&r, 1, 20, 3);
    plan(&r, 0);
    expect_item(&r, 0, 1, 0, 16);
    assert_true(r.items[0].admitted);
    assert_false(r.items[0].last_of_prompt);
    advance_all(&r, 0);
    plan(&r, 0);
    expect_item(&r, 0, 1, 16, 4);
    assert_false(r.items[0].admitted);
    assert_true(r.items[0].last_of_prompt);
    advance_all(&r, 0);
    for (uint32_t position = 20; position < 22; position++) {
        plan(&r, 0);
        expect_item(&r, 0, 1, position, 1);
        assert_true(r.items[0].last_of_prompt);
        advance_all(&r, 0);
    }
    scheduler_finish(r.s, 1);
    assert_int_equal(counts(&r).free_pages, limits.n_pages);
    scheduler_free(r.s);
}

static void keeps_to_the_chunk_that_was_asked_for(void **state) {
    (void)state;
    rig r = open_rig(&limits);
    scheduler_request q = {1, 12, 0, 5, 100};
    assert_int_equal(scheduler_submit(r.s, 0, &q), 0);
    const uint32_t sizes[] = {5, 5, 2};
    for (uint32_t i = 0; i < 3; i++) {
        plan(&r, 0);
        expect_item(&r, 0, 1, 5 * i, sizes[i]);
        advance_all(&r, 0);
    }
    scheduler_free(r.s);
}

static void cuts_a_chunk_larger_than_the_step(void **state) {
    (void)state;
    rig r = open_rig(&limits);
    scheduler_request q = {1, 100, 0, 90, 100};
    assert_int_equal(scheduler_submit(r.s, 0, &q), 0);
    plan(&r, 0);
    expect_item(&r, 0, 1, 0, limits.batch_tokens);
    scheduler_free(r.s);
}

static void decoding_goes_before_prompts(void **state) {
    (void)state;
    rig r = open_rig(&limits);
    must_submit(&r, 1, 400, 1);
    must_submit(&r, 2, 1, 9);
    step(&r, 0);
    plan(&r, 0);
    assert_int_equal(r.n, 2);
    expect_item(&r, 0, 2, 1, 1);
    assert_int_equal(r.items[1].id, 1);
    assert_int_equal(r.items[1].n_tokens, limits.batch_tokens - 1);
    scheduler_free(r.s);
}

static void a_short_prompt_is_not_stuck_behind_long_ones(void **state) {
    (void)state;
    rig r = open_rig(&limits);
    must_submit(&r, 1, 200, 1);
    must_submit(&r, 2, 200, 1);
    must_submit(&r, 3, 2, 1);
    plan(&r, 0);
    assert_int_equal(r.n, 3);
    expect_item(&r, 0, 1, 0, 12); /* the first has most of the step ... */
    expect_item(&r, 1, 2, 0, 2);
    expect_item(&r, 2, 3, 0, 2); /* ... and nobody has nothing */
    assert_true(r.items[2].last_of_prompt);
    scheduler_free(r.s);
}

static void a_full_step_has_a_token_for_every_sequence(void **state) {
    (void)state;
    scheduler_limits l = limits;
    l.batch_tokens = l.max_running;
    rig r = open_rig(&l);
    must_submit(&r, 1, 1, 50);
    step(&r, 0);
    for (uint64_t id = 2; id <= 4; id++)
        must_submit(&r, id, 40, 1);
    plan(&r, 0);
    assert_int_equal(r.n, 4);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(r.items[i].n_tokens, 1);
    }
    scheduler_free(r.s);
}

static void never_plans_more_than_a_step_holds(void **state) {
    (void)state;
    rig r = open_rig(&limits);
    for (uint64_t id = 1; id <= 7; id++) {
        must_submit(&r, id, (uint32_t)(1 + 13 * id % 40), 5);
    }
    for (int i = 0; i < 200; i++) {
        plan(&r, 0);
        uint32_t total = 0;
        for (uint32_t j = 0; j < r.n; j++) {
            assert_true(r.items[j].n_tokens > 0);
            total += r.items[j].n_tokens;
        }
        assert_true(r.n <= limits.max_running);
        assert_true(total <= limits.batch_tokens);
        advance_all(&r, 0);
    }
    scheduler_free(r.s);
}

/* ---- admission ---- */

static void admits_in_order_of_arrival(void **state) {
    (void)state;
    rig r = open_rig(&limits);
    for (uint64_t id = 1; id <= 6; id++)
        must_submit(&r, id, 1, 1);
    plan(&r, 0);
    assert_int_equal(r.n, 4);
    for (uint32_t i = 0; i < 4; i++)
        expect_item(&r, i, i + 1, 0, 1);
    assert_int_equal(counts(&r).queued, 2);
    advance_all(&r, 0);
    scheduler_finish(r.s, 2);
    plan(&r, 0);
    assert_int_equal(r.items[3].id, 5);
    scheduler_free(r.s);
}

static void reserves_the_pages_of_the_whole_answer(void **state) {
    (void)state;
    rig r = open_rig(&limits);
    must_submit(&r, 1, 1, 2 * PAGE); /* 21 positions */
    plan(&r, 0);
    assert_int_equal(counts(&r).free_pages, limits.n_pages - 3);
    advance_all(&r, 0);
    assert_int_equal(scheduler_cancel(r.s, 1), 0);
    assert_int_equal(counts(&r).free_pages, limits.n_pages);
    scheduler_free(r.s);
}

static void a_large_request_is_not_overtaken(void **state) {
    (void)state;
    scheduler_limits l = limits;
    l.n_pages = 10;
    rig r = open_rig(&l);
    must_submit(&r, 1, 6 * PAGE, 0);
    must_submit(&r, 2, 5 * PAGE, 0);
    must_submit(&r, 3, 1, 0); /* would fit */
    plan(&r, 0);
    assert_int_equal(r.n, 1);
    assert_int_equal(counts(&r).queued, 2);
    advance_all(&r, 0);
    scheduler_finish(r.s, 1);
    plan(&r, 0);
    assert_int_equal(r.n, 2);
    scheduler_free(r.s);
}

/* ---- cancelling and holding ---- */

static void forgets_a_cancelled_request_in_every_state(void **state) {
    (void)state;
    rig r = open_rig(&limits);
    for (uint64_t id = 1; id <= 6; id++)
        must_submit(&r, id, 30, 1);
    plan(&r, 0);
    scheduler_stall(r.s, 0, 1, ERR_UNAVAILABLE);
    for (uint32_t i = 1; i < r.n; i++) {
        scheduler_advance(r.s, 0, r.items[i].id);
    }
    assert_int_equal(scheduler_cancel(r.s, 1), 0); /* parked */
    assert_int_equal(scheduler_cancel(r.s, 3), 0); /* running */
    assert_int_equal(scheduler_cancel(r.s, 6), 0); /* queued */
    assert_int_equal(scheduler_cancel(r.s, 6), ERR_NOT_HERE);
    plan(&r, 0);
    assert_int_equal(r.n, 3);
    assert_int_equal(r.items[0].id, 2);
    assert_int_equal(r.items[1].id, 4);
    assert_int_equal(r.items[2].id, 5);
    advance_all(&r, 0);
    for (uint64_t id = 2; id <= 5; id++)
        (void)scheduler_cancel(r.s, id);
    assert_int_equal(counts(&r).free_pages, limits.n_pages);
    scheduler_free(r.s);
}

static void holds_a_request_back_while_others_go_on(void **state) {
    (void)state;
    rig r = open_rig(&limits);
    must_submit(&r, 1, 1, 9);
    must_submit(&r, 2, 1, 9);
    step(&r, 0);
    scheduler_hold(r.s, 1, true);
    scheduler_hold(r.s, 99, true); /* unknown: nothing happens */
    plan(&r, 0);
    assert_int_equal(r.n, 1);
    assert_int_equal(r.items[0].id, 2);
    advance_all(&r, 0);
    scheduler_hold(r.s, 1, false);
    plan(&r, 0);
    assert_int_equal(r.n, 2);
    scheduler_free(r.s);
}

static void a_held_request_asks_for_no_turn(void **state) {
    (void)state;
    rig r = open_rig(&limits);
    must_submit(&r, 1, 1, 9);
    step(&r, 10);
    assert_true(scheduler_next_ms(r.s, 10) == 10); /* it can run now */
    scheduler_hold(r.s, 1, true);
    assert_true(scheduler_next_ms(r.s, 10) == 110); /* only expire */
    scheduler_free(r.s);
}

static void being_held_does_not_stop_the_clock(void **state) {
    (void)state;
    rig r = open_rig(&limits);
    must_submit(&r, 1, 1, 9);
    step(&r, 10);
    scheduler_hold(r.s, 1, true);
    uint64_t id;
    int code;
    assert_false(scheduler_expired(r.s, 109, &id, &code));
    assert_true(scheduler_expired(r.s, 110, &id, &code));
    assert_int_equal(code, ERR_DEADLINE);
    scheduler_free(r.s);
}

/* ---- stalls ---- */

static void a_stalled_part_is_fed_again(void **state) {
    (void)state;
    rig r = open_rig(&limits);
    must_submit(&r, 1, 20, 2);
    step(&r, 0);
    plan(&r, 0);
    scheduler_stall(r.s, 0, 1, ERR_UNAVAILABLE);
    assert_int_equal(counts(&r).parked, 1);
    plan(&r, 19);
    assert_int_equal(r.n, 0);
    assert_true(scheduler_next_ms(r.s, 19) == 20);
    plan(&r, 20);
    expect_item(&r, 0, 1, 16, 4);
    assert_false(r.items[0].admitted);
    scheduler_free(r.s);
}

static void waits_longer_after_each_stall(void **state) {
    (void)state;
    rig r = open_rig(&limits);
    scheduler_request q = {1, 1, 1, 0, 0}; /* no timeout */
    assert_int_equal(scheduler_submit(r.s, 0, &q), 0);
    const uint32_t waits[] = {20, 40, 80, 160, 320, 500, 500};
    uint64_t now_ms = 0;
    for (uint32_t i = 0; i < 7; i++) {
        plan(&r, now_ms);
        assert_int_equal(r.n, 1);
        scheduler_stall(r.s, now_ms, 1, ERR_UNAVAILABLE);
        assert_true(scheduler_next_ms(r.s, now_ms) == now_ms + waits[i]);
        now_ms += waits[i];
    }
    step(&r, now_ms); /* progress: the next wait is short again */
    plan(&r, now_ms);
    scheduler_stall(r.s, now_ms, 1, ERR_UNAVAILABLE);
    assert_true(scheduler_next_ms(r.s, now_ms) == now_ms + 20);
    scheduler_free(r.s);
}

static void tries_parked_requests_at_once_when_woken(void **state) {
    (void)state;
    rig r = open_rig(&limits);
    must_submit(&r, 1, 1, 1);
    plan(&r, 0);
    scheduler_stall(r.s, 0, 1, ERR_UNAVAILABLE);
    scheduler_wake(r.s);
    assert_true(scheduler_next_ms(r.s, 1) <= 1);
    plan(&r, 1);
    assert_int_equal(r.n, 1);
    scheduler_free(r.s);
}

static void gives_a_parked_request_up_after_its_limit(void **state) {
    (void)state;
    scheduler_limits l = limits;
    l.park_timeout_ms = 60;
    rig r = open_rig(&l);
    must_submit(&r, 1, 5, 5);
    uint64_t id;
    int code;
    uint64_t parked = 20, now = 20;
    for (;; now += 10) {
        plan(&r, now);
        if (r.n > 0) { /* while it is tried it is not judged */
            assert_false(scheduler_expired(r.s, now + 1000, &id, &code));
            scheduler_stall(r.s, now, 1, ERR_UNAVAILABLE);
        }
        if (scheduler_expired(r.s, now, &id, &code)) break;
        assert_true(scheduler_next_ms(r.s, now) <= parked + 60);
    }
    assert_int_equal(code, ERR_UNAVAILABLE);
    assert_in_range(now, parked + 60, parked + 70);
    scheduler_free(r.s);
}

static void counts_the_limit_of_parking_from_the_last_progress(void **state) {
    (void)state;
    scheduler_limits l = limits;
    l.park_timeout_ms = 50;
    rig r = open_rig(&l);
    must_submit(&r, 1, 1, 5);
    uint64_t id;
    int code;
    for (uint64_t now = 0; now < 500; now += 40) {
        plan(&r, now);
        assert_int_equal(r.n, 1);
        scheduler_stall(r.s, now, 1, ERR_UNAVAILABLE);
        assert_false(scheduler_expired(r.s, now + 20, &id, &code));
        plan(&r, now + 25); /* a holder is back */
        advance_all(&r, now + 25);
        if (now >= 120) break; /* all tokens are made */
    }
    scheduler_free(r.s);
}

static void others_go_on_beside_a_parked_request(void **state) {
    (void)state;
    rig r = open_rig(&limits);
    must_submit(&r, 1, 1, 9);
    must_submit(&r, 2, 1, 9);
    plan(&r, 0);
    scheduler_stall(r.s, 0, 1, ERR_UNAVAILABLE);
    scheduler_advance(r.s, 0, 2);
    plan(&r, 0);
    assert_int_equal(r.n, 1);
    expect_item(&r, 0, 2, 1, 1);
    scheduler_free(r.s);
}

/* ---- time ---- */

static void expires_with_the_code_of_what_it_waited_for(void **state) {
    (void)state;
    rig r = open_rig(&limits);
    must_submit(&r, 1, 1, 9);
    plan(&r, 0);
    assert_true(r.items[0].expires_ms == 100);
    scheduler_stall(r.s, 50, 1, ERR_UNAVAILABLE);
    uint64_t id;
    int code;
    assert_false(scheduler_expired(r.s, 99, &id, &code));
    assert_true(scheduler_expired(r.s, 100, &id, &code));
    assert_int_equal(id, 1);
    assert_int_equal(code, ERR_UNAVAILABLE);
    assert_int_equal(counts(&r).free_pages, limits.n_pages);
    assert_false(scheduler_expired(r.s, 100, &id, &code));
    scheduler_free(r.s);
}

static void progress_starts_the_clock_anew(void **state) {
    (void)state;
    rig r = open_rig(&limits);
    must_submit(&r, 1, 40, 9);
    step(&r, 90);
    uint64_t id;
    int code;
    assert_false(scheduler_expired(r.s, 189, &id, &code));
    step(&r, 189);
    assert_false(scheduler_expired(r.s, 288, &id, &code));
    assert_true(scheduler_expired(r.s, 289, &id, &code));
    scheduler_free(r.s);
}

static void a_planned_request_does_not_expire(void **state) {
    (void)state;
    rig r = open_rig(&limits);
    must_submit(&r, 1, 1, 9);
    plan(&r, 0);
    uint64_t id;
    int code;
    assert_false(scheduler_expired(r.s, 1000, &id, &code));
    advance_all(&r, 1000);
    assert_false(scheduler_expired(r.s, 1000, &id, &code));
    scheduler_free(r.s);
}

static void a_queued_request_expires_by_its_own_timeout(void **state) {
    (void)state;
    scheduler_limits l = limits;
    l.max_running = 1;
    rig r = open_rig(&l);
    must_submit(&r, 1, 1, 200);
    assert_int_equal(submit(&r, 30, 2, 1, 1), 0);
    uint64_t id;
    int code;
    for (uint64_t now_ms = 30; now_ms < 130; now_ms += 20) {
        step(&r, now_ms);
        assert_false(scheduler_expired(r.s, now_ms, &id, &code));
    }
    assert_true(scheduler_expired(r.s, 130, &id, &code));
    assert_int_equal(id, 2);
    assert_int_equal(code, ERR_OVERLOADED);
    scheduler_free(r.s);
}

static void the_queue_has_a_limit_of_its_own(void **state) {
    (void)state;
    scheduler_limits l = limits;
    l.max_running = 1;
    l.queue_timeout_ms = 40;
    rig r = open_rig(&l);
    must_submit(&r, 1, 1, 200);
    must_submit(&r, 2, 1, 1);
    step(&r, 0);
    assert_true(scheduler_next_ms(r.s, 0) == 0);
    uint64_t id;
    int code;
    assert_false(scheduler_expired(r.s, 39, &id, &code));
    assert_true(scheduler_expired(r.s, 40, &id, &code));
    assert_int_equal(id, 2);
    scheduler_free(r.s);
}

static void admission_is_no_progress(void **state) {
    (void)state;
    scheduler_limits l = limits;
    l.max_running = 1;
    rig r = open_rig(&l);
    must_submit(&r, 1, 1, 1);
    must_submit(&r, 2, 1, 1);
    step(&r, 60);
    scheduler_finish(r.s, 1);
    plan(&r, 60);
    assert_true(r.items[0].expires_ms == 100);
    scheduler_stall(r.s, 60, 2, ERR_UNAVAILABLE);
    uint64_t id;
    int code;
    assert_true(scheduler_expired(r.s, 100, &id, &code));
    assert_int_equal(code, ERR_UNAVAILABLE);
    scheduler_free(r.s);
}

static void the_longest_timeout_does_not_wrap(void **state) {
    (void)state;
    rig r = open_rig(&limits);
    scheduler_request q = {1, 1, 1, 0, UINT32_MAX};
    assert_int_equal(scheduler_submit(r.s, 5, &q), 0);
    plan(&r, 5);
    assert_true(r.items[0].expires_ms == 5 + (uint64_t)UINT32_MAX);
    scheduler_free(r.s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_limits_that_cannot_work),
        cmocka_unit_test(refuses_what_can_never_fit),
        cmocka_unit_test(refuses_beyond_the_queue),
        cmocka_unit_test(works_without_a_queue),
        cmocka_unit_test(plans_nothing_without_requests),
        cmocka_unit_test(feeds_a_prompt_in_chunks_then_decodes),
        cmocka_unit_test(keeps_to_the_chunk_that_was_asked_for),
        cmocka_unit_test(cuts_a_chunk_larger_than_the_step),
        cmocka_unit_test(decoding_goes_before_prompts),
        cmocka_unit_test(a_short_prompt_is_not_stuck_behind_long_ones),
        cmocka_unit_test(a_full_step_has_a_token_for_every_sequence),
        cmocka_unit_test(never_plans_more_than_a_step_holds),
        cmocka_unit_test(admits_in_order_of_arrival),
        cmocka_unit_test(reserves_the_pages_of_the_whole_answer),
        cmocka_unit_test(a_large_request_is_not_overtaken),
        cmocka_unit_test(forgets_a_cancelled_request_in_every_state),
        cmocka_unit_test(holds_a_request_back_while_others_go_on),
        cmocka_unit_test(a_held_request_asks_for_no_turn),
        cmocka_unit_test(being_held_does_not_stop_the_clock),
        cmocka_unit_test(a_stalled_part_is_fed_again),
        cmocka_unit_test(waits_longer_after_each_stall),
        cmocka_unit_test(tries_parked_requests_at_once_when_woken),
        cmocka_unit_test(gives_a_parked_request_up_after_its_limit),
        cmocka_unit_test(counts_the_limit_of_parking_from_the_last_progress),
        cmocka_unit_test(others_go_on_beside_a_parked_request),
        cmocka_unit_test(expires_with_the_code_of_what_it_waited_for),
        cmocka_unit_test(progress_starts_the_clock_anew),
        cmocka_unit_test(a_planned_request_does_not_expire),
        cmocka_unit_test(a_queued_request_expires_by_its_own_timeout),
        cmocka_unit_test(the_queue_has_a_limit_of_its_own),
        cmocka_unit_test(admission_is_no_progress),
        cmocka_unit_test(the_longest_timeout_does_not_wrap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
