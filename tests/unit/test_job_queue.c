/* test_job_queue.c - which batches a node computes next. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include "engine/err.h"
#include "engine/util.h"
#include "expert_node/job_queue.h"

#define LARGE (JOB_SMALL_PAIRS + 1)
#define OUT 32

static const job_limits roomy = {
    .max_jobs = 64, .max_reply_bytes = 1 << 20, .max_merge_pairs = 256};

static job_queue *make(const job_limits *limits) {
    job_queue *q;
    assert_int_equal(job_queue_new(&q, limits), 0);
    return q;
}

static int push(job_queue *q, uint64_t peer, uint64_t id, uint32_t layer,
                uint32_t n_pairs) {
    const job j = {.peer = peer,
                   .request_id = id,
                   .layer = layer,
                   .n_pairs = n_pairs,
                   .reply_bytes = 100};
    return job_queue_push(q, &j);
}

/* Take once and expect these request ids, in this order. */
static void expect_take(job_queue *q, size_t n, const uint64_t *ids) {
    job out[OUT];
    assert_int_equal(job_queue_take(q, 1, out, OUT), n);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(out[i].request_id, ids[i]);
        job_queue_finish(q, &out[i]);
    }
}
#define EXPECT_TAKE(q, ...)                                                    \
    expect_take(q, ARRAY_LEN(((uint64_t[]){__VA_ARGS__})),                     \
                (uint64_t[]){__VA_ARGS__})

static void hands_out_in_order_of_arrival(void **state) {
    (void)state;
    job_queue *q = make(&roomy);
    push(q, 1, 10, 3, 1);
    push(q, 1, 11, 2, 1);
    push(q, 2, 12, 1, 1);

    EXPECT_TAKE(q, 10);
    EXPECT_TAKE(q, 11);
    EXPECT_TAKE(q, 12);
    assert_int_equal(job_queue_waiting(q), 0);
    job_queue_free(q);
}

static void has_nothing_when_empty(void **state) {
    (void)state;
    job_queue *q = make(&roomy);
    job out[OUT];

    assert_int_equal(job_queue_take(q, 1, out, OUT), 0);
    assert_int_equal(job_queue_expired(q, 1, out, OUT), 0);
    assert_int_equal(job_queue_forget(q, 1, out, OUT), 0);
    job_queue_free(q);
}

static void merges_batches_of_one_layer_from_several_peers(void **state) {
    (void)state;
    job_queue *q = make(&roomy);
    push(q, 1, 10, 3, 1);
    push(q, 2, 11, 4, 1);
    push(q, 2, 12, 3, 2);
    push(q, 3, 13, 3, 3);

    EXPECT_TAKE(q, 10, 12, 13);
    EXPECT_TAKE(q, 11);
    job_queue_free(q);
}

static void merges_no_more_pairs_than_the_limit(void **state) {
    (void)state;
    job_queue *q = make(&(job_limits){
        .max_jobs = 64, .max_reply_bytes = 1 << 20, .max_merge_pairs = 100});
    push(q, 1, 10, 0, 60);
    push(q, 1, 11, 0, 50);
    push(q, 1, 12, 0, 40);

    EXPECT_TAKE(q, 10, 12);
    EXPECT_TAKE(q, 11);
    job_queue_free(q);
}

static void takes_a_batch_above_the_merge_limit_alone(void **state) {
    (void)state;
    job_queue *q = make(&roomy);
    push(q, 1, 10, 0, 5000);
    push(q, 1, 11, 0, LARGE);

    EXPECT_TAKE(q, 10);
    EXPECT_TAKE(q, 11);
    job_queue_free(q);
}

static void merges_no_more_than_the_caller_has_room_for(void **state) {
    (void)state;
    job_queue *q = make(&roomy);
    job out[2];
    push(q, 1, 10, 0, 1);
    push(q, 1, 11, 0, 1);
    push(q, 1, 12, 0, 1);

    assert_int_equal(job_queue_take(q, 1, out, 0), 0);
    assert_int_equal(job_queue_take(q, 1, out, 2), 2);
    assert_int_equal(job_queue_waiting(q), 1);
    job_queue_free(q);
}

static void prefers_small_batches(void **state) {
    (void)state;
    job_queue *q = make(&roomy);
    push(q, 1, 10, 0, LARGE);
    push(q, 2, 11, 5, 1);

    EXPECT_TAKE(q, 11);
    EXPECT_TAKE(q, 10);
    job_queue_free(q);
}

static void does_not_make_a_small_batch_wait_for_a_large_one(void **state) {
    (void)state;
    job_queue *q = make(&roomy);
    push(q, 1, 10, 0, LARGE);
    push(q, 2, 11, 0, 1); /* of the same layer */

    EXPECT_TAKE(q, 11);
    EXPECT_TAKE(q, 10);
    job_queue_free(q);
}

static void lets_a_large_batch_wait_for_so_many_only(void **state) {
    (void)state;
    job_queue *q = make(&roomy);
    push(q, 1, 1, 0, LARGE);
    for (uint64_t i = 0; i < JOB_PATIENCE; i++) {
        push(q, 2, 100 + i, 1, 1);
        EXPECT_TAKE(q, 100 + i);
    }
    push(q, 2, 200, 1, 1);

    EXPECT_TAKE(q, 1);
    EXPECT_TAKE(q, 200);
    job_queue_free(q);
}

static void takes_small_ones_along_with_a_large_leader(void **state) {
    (void)state;
    job_queue *q = make(&roomy);
    push(q, 1, 1, 0, LARGE);
    for (uint64_t i = 0; i < JOB_PATIENCE; i++) {
        push(q, 2, 100 + i, 1, 1);
        EXPECT_TAKE(q, 100 + i);
    }
    push(q, 3, 2, 0, LARGE);
    push(q, 2, 3, 0, 1);

    EXPECT_TAKE(q, 1, 3, 2);
    job_queue_free(q);
}

static void refuses_more_jobs_than_the_limit(void **state) {
    (void)state;
    job_queue *q = make(&(job_limits){
        .max_jobs = 2, .max_reply_bytes = 1 << 20, .max_merge_pairs = 1});
    assert_int_equal(push(q, 1, 10, 0, 1), 0);
    assert_int_equal(push(q, 1, 11, 0, 1), 0);
    assert_int_equal(push(q, 1, 12, 0, 1), ERR_OVERLOADED);

    EXPECT_TAKE(q, 10);
    assert_int_equal(push(q, 1, 12, 0, 1), 0);
    job_queue_free(q);
}

static void refuses_one_peer_that_wants_all_places(void **state) {
    (void)state;
    job_queue *q = make(&(job_limits){.max_jobs = 4,
                                      .max_reply_bytes = 1 << 20,
                                      .max_merge_pairs = 1,
                                      .max_peer_jobs = 2});
    assert_int_equal(push(q, 1, 10, 0, 1), 0);
    assert_int_equal(push(q, 1, 11, 0, 1), 0);
    assert_int_equal(push(q, 1, 12, 0, 1), ERR_OVERLOADED);
    assert_int_equal(push(q, 2, 12, 0, 1), 0);
    job_queue_free(q);
}

static void counts_reply_bytes_until_a_job_is_finished(void **state) {
    (void)state;
    job_queue *q = make(&(job_limits){
        .max_jobs = 64, .max_reply_bytes = 250, .max_merge_pairs = 1});
    job out[OUT];
    assert_int_equal(push(q, 1, 10, 0, 1), 0);
    assert_int_equal(push(q, 1, 11, 1, 1), 0);
    assert_int_equal(push(q, 1, 12, 2, 1), ERR_OVERLOADED);
    assert_int_equal(job_queue_take(q, 1, out, OUT), 1);
    assert_int_equal(push(q, 1, 12, 2, 1), ERR_OVERLOADED);
    assert_int_equal(job_queue_reply_bytes(q), 200);

    job_queue_finish(q, &out[0]);
    assert_int_equal(job_queue_reply_bytes(q), 100);
    assert_int_equal(push(q, 1, 12, 2, 1), 0);
    job_queue_free(q);
}

static void knows_a_duplicate_that_waits(void **state) {
    (void)state;
    job_queue *q = make(&roomy);
    assert_int_equal(push(q, 1, 10, 0, 1), 0);
    assert_int_equal(push(q, 1, 10, 0, 1), -EALREADY);
    assert_int_equal(push(q, 2, 10, 0, 1), 0); /* another peer's */

    EXPECT_TAKE(q, 10, 10);
    assert_int_equal(push(q, 1, 10, 0, 1), 0); /* asked again later */
    job_queue_free(q);
}

static void hands_out_what_has_expired_and_computes_none_of_it(void **state) {
    (void)state;
    job_queue *q = make(&roomy);
    job j = {.peer = 1, .request_id = 10, .reply_bytes = 7, .expires_us = 50};
    job out[OUT];
    job_queue_push(q, &j);
    j = (job){.peer = 1, .request_id = 11, .expires_us = 51};
    job_queue_push(q, &j);

    assert_int_equal(job_queue_expired(q, 49, out, OUT), 0);
    assert_int_equal(job_queue_take(q, 50, out, OUT), 1);
    assert_int_equal(out[0].request_id, 11);
    assert_int_equal(job_queue_expired(q, 50, out, OUT), 1);
    assert_int_equal(out[0].request_id, 10);
    assert_int_equal(job_queue_waiting(q), 0);
    assert_int_equal(job_queue_reply_bytes(q), 0);
    job_queue_free(q);
}

static void forgets_a_peer_and_nobody_else(void **state) {
    (void)state;
    job_queue *q = make(&roomy);
    job out[1];
    push(q, 1, 10, 0, 1);
    push(q, 2, 11, 0, 1);
    push(q, 1, 12, 0, 1);

    assert_int_equal(job_queue_forget(q, 1, out, 1), 1);
    assert_int_equal(out[0].request_id, 10);
    assert_int_equal(job_queue_forget(q, 1, out, 1), 1);
    assert_int_equal(job_queue_forget(q, 1, out, 1), 0);
    assert_int_equal(job_queue_reply_bytes(q), 100);
    EXPECT_TAKE(q, 11);
    job_queue_free(q);
}

static void answers_everything_once_whatever_the_order(void **state) {
    (void)state;
    job_queue *q = make(&roomy);
    uint8_t seen[1000] = {0};
    uint64_t random = 1, next = 0;
    size_t taken = 0;
    while (taken < 1000) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        if (next < 1000 && random >> 63 != 0) {
            uint32_t pairs = (random >> 40) % 4 == 0 ? LARGE : 3;
            if (push(q, random >> 50 & 3, next, random >> 45 & 3, pairs) == 0) {
                next++;
            }
            continue;
        }
        job out[OUT];
        size_t n = job_queue_take(q, 1, out, OUT);
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(out[i].layer, out[0].layer);
            assert_int_equal(seen[out[i].request_id]++, 0);
            job_queue_finish(q, &out[i]);
        }
        taken += n;
    }
    assert_int_equal(job_queue_reply_bytes(q), 0);
    job_queue_free(q);
}

static void refuses_limits_of_zero(void **state) {
    (void)state;
    job_queue *q;
    assert_int_equal(job_queue_new(&q, &(job_limits){.max_jobs = 1}),
                     ERR_RANGE);
    assert_int_equal(job_queue_new(&q, &(job_limits){.max_reply_bytes = 1}),
                     ERR_RANGE);
    assert_null(q);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hands_out_in_order_of_arrival),
        cmocka_unit_test(has_nothing_when_empty),
        cmocka_unit_test(merges_batches_of_one_layer_from_several_peers),
        cmocka_unit_test(merges_no_more_pairs_than_the_limit),
        cmocka_unit_test(takes_a_batch_above_the_merge_limit_alone),
        cmocka_unit_test(merges_no_more_than_the_caller_has_room_for),
        cmocka_unit_test(prefers_small_batches),
        cmocka_unit_test(does_not_make_a_small_batch_wait_for_a_large_one),
        cmocka_unit_test(lets_a_large_batch_wait_for_so_many_only),
        cmocka_unit_test(takes_small_ones_along_with_a_large_leader),
        cmocka_unit_test(refuses_more_jobs_than_the_limit),
        cmocka_unit_test(refuses_one_peer_that_wants_all_places),
        cmocka_unit_test(counts_reply_bytes_until_a_job_is_finished),
        cmocka_unit_test(knows_a_duplicate_that_waits),
        cmocka_unit_test(hands_out_what_has_expired_and_computes_none_of_it),
        cmocka_unit_test(forgets_a_peer_and_nobody_else),
        cmocka_unit_test(answers_everything_once_whatever_the_order),
        cmocka_unit_test(refuses_limits_of_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
