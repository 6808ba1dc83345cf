/* test_worker_orders.c - what a node's loop tells its worker: units to drop,
 * coordinators to refuse. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <semaphore.h>
#include "engine/err.h"
#include "engine/log.h"
#include "tests/support/node_rig.h"

static sem_t dropped;

static void on_dropped(void *ctx) {
    sem_post(ctx);
}

static void rig_open(node_rig *r) {
    model_shape shape = model_shape_small();
    node_rig_make(r, &shape);
    sem_init(&dropped, 0, 0);
    r->config.on_dropped = on_dropped;
    r->config.ctx = &dropped;
    node_rig_connect(r, 1, 8);
}

static void rig_close(node_rig *r) {
    node_rig_fini(r);
    sem_destroy(&dropped);
}

static uint64_t drops(const node_rig *r) {
    worker_counts n;
    worker_read_counts(r->worker, &n);
    return n.drops;
}

static void refuses_what_waited_for_a_unit_that_was_dropped(void **state) {
    (void)state;
    node_rig r;
    rig_open(&r);
    node_rig_request needs = node_rig_make_request(&r, 1, 0, 2, 2);
    node_rig_request other = node_rig_make_request(&r, 2, 0, 2, 1);
    node_rig_send_request(r.clients[0], &needs);
    node_rig_send_request(r.clients[0], &other);
    assert_int_equal(worker_drop(r.worker, 0, 1), 0);
    node_rig_start(&r);

    node_rig_expect_refusal(r.clients[0], 1, ERR_NOT_HERE, "");
    node_rig_expect_rows(&r, r.clients[0], &other);
    assert_int_equal(drops(&r), 1);
    assert_null(expert_store_get(r.store, 0, 1));
    node_rig_send_request(r.clients[0], &needs);
    node_rig_expect_refusal(r.clients[0], 1, ERR_NOT_HERE, "");
    node_rig_request_fini(&needs);
    node_rig_request_fini(&other);
    rig_close(&r);
}

static void gives_memory_back_while_it_sleeps(void **state) {
    (void)state;
    node_rig r;
    rig_open(&r);
    uint64_t before = expert_store_bytes(r.store);
    node_rig_start(&r);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(worker_drop(r.worker, 0, i), 0);
        sem_wait(&dropped);
        assert_int_equal(drops(&r), i + 1);
    }
    assert_int_equal(expert_store_bytes(r.store),
                     before - 3 * expert_store_unit_bytes(r.store, 0));
    assert_int_equal(worker_drop(r.worker, 0, 0), 0); /* not there: fine */
    sem_wait(&dropped);
    rig_close(&r);
}

static void takes_so_many_orders_and_no_more(void **state) {
    (void)state;
    node_rig r;
    rig_open(&r);
    for (uint32_t i = 0; i < ORDERS_MAX_DROPS; i++)
        assert_int_equal(worker_drop(r.worker, 0, 0), 0);
    assert_int_equal(worker_drop(r.worker, 0, 0), -EAGAIN);
    node_rig_start(&r);
    sem_wait(&dropped);
    assert_int_equal(drops(&r), ORDERS_MAX_DROPS);
    assert_int_equal(worker_drop(r.worker, 0, 0), 0);
    for (uint64_t i = 1; i <= ORDERS_MAX_STALE; i++)
        assert_int_equal(worker_set_stale(r.worker, i, true), 0);
    assert_int_equal(worker_set_stale(r.worker, 1, true), 0); /* known */
    assert_int_equal(worker_set_stale(r.worker, 999, true), -EAGAIN);
    assert_int_equal(worker_set_stale(r.worker, 1, false), 0);
    assert_int_equal(worker_set_stale(r.worker, 999, true), 0);
    rig_close(&r);
}

static void refuses_a_stale_coordinator_until_it_has_caught_up(void **state) {
    (void)state;
    node_rig r;
    rig_open(&r);
    node_rig_request q = node_rig_make_request(&r, 1, 0, 2, 2);
    assert_int_equal(worker_set_stale(r.worker, q.m.boot_id, true), 0);
    node_rig_start(&r);
    node_rig_send_request(r.clients[0], &q);
    node_rig_expect_refusal(r.clients[0], 1, ERR_STALE, "placement");
    assert_int_equal(worker_set_stale(r.worker, q.m.boot_id, false), 0);
    assert_int_equal(worker_set_stale(r.worker, 12345, false), 0);
    node_rig_send_request(r.clients[0], &q);
    node_rig_expect_rows(&r, r.clients[0], &q);
    node_rig_request_fini(&q);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_what_waited_for_a_unit_that_was_dropped),
        cmocka_unit_test(gives_memory_back_while_it_sleeps),
        cmocka_unit_test(takes_so_many_orders_and_no_more),
        cmocka_unit_test(refuses_a_stale_coordinator_until_it_has_caught_up),
    };
    log_setup("test", LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
