/* test_batch.c - a request while it waits: what it asks for may be dropped
 * before it is computed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "engine/err.h"
#include "expert_node/account.h"
#include "expert_node/executor.h"
#include "tests/support/node_rig.h"

/* Accept two rows to two experts of layer 0. */
static void take(node_rig *r, batch *b, account **a) {
    node_rig_request q = node_rig_make_request(r, 1, 0, 2, 2);
    const batch_rules rules = {r->store, r->model.n_embd, false};
    message_arena *arena;
    message m;
    frames f;
    char why[256] = "";
    frames_init(&f);
    node_rig_seal_request(&q, &f);
    assert_int_equal(message_arena_new(&arena, 1 << 20), 0);
    assert_int_equal(message_open(&f, arena, &m, why, sizeof(why)), 0);
    assert_int_equal(batch_check(&rules, &f, &m, why, sizeof(why)), 0);
    *a = account_new();
    assert_non_null(*a);
    assert_int_equal(batch_accept(b, *a, &f, &m, 0), 0);
    frames_fini(&f);
    message_arena_free(arena);
    node_rig_request_fini(&q);
}

static void nothing(void *ctx) {
    (void)ctx;
}

static int compute(node_rig *r, batch *b) {
    const executor_config c = {.store = r->store,
                               .width = r->model.n_embd,
                               .expert_dim = r->model.expert_dim,
                               .threads = 1};
    executor *e;
    assert_int_equal(executor_new(&e, &c), 0);
    int rc = executor_run(e, &b, 1, nothing, NULL);
    executor_free(e);
    return rc;
}

static void notices_what_was_dropped_while_it_waited(void **state) {
    (void)state;
    node_rig r;
    model_shape shape = model_shape_small();
    account *a;
    char why[256] = "";
    node_rig_make(&r, &shape);
    batch b;
    take(&r, &b, &a);
    assert_int_equal(batch_still_held(&b, r.store, why, sizeof(why)), 0);
    assert_int_equal(compute(&r, &b), 0);

    expert_store_drop(r.store, 0, 1);
    assert_int_equal(batch_still_held(&b, r.store, why, sizeof(why)),
                     ERR_NOT_HERE);
    assert_non_null(strstr(why, "expert 1 of layer 0"));
    assert_int_equal(compute(&r, &b), ERR_NOT_HERE); /* not a crash */
    batch_fini(&b);
    account_release(a);
    node_rig_fini(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(notices_what_was_dropped_while_it_waited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
