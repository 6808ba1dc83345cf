/* test_server_unseen.c - what clients are told of experts that nobody can be
 * asked for, by a coordinator that sees the whole rack, and by one that does
 * not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "tests/support/over_tcp.h"
#include "tests/unit/rack_rig.h"
#include "tests/unit/server_rig.h"

#define SOON_MS 20

/* A request that needs experts fails; in this way. */
static void expect_failure(rig *r, uint64_t id, int code, const char *part) {
    message m = generate(id, 3);
    m.generate.timeout_ms = SOON_MS;
    ask(r, &m);
    assert_int_equal(hear(r), MESSAGE_ACCEPTED);
    expect_error(r, id, code, part);
    assert_non_null(strstr(r->m.error.text, "no live node holds layer 0"));
}

static void says_that_nobody_holds_what_a_list_lacks(void **state) {
    (void)state;
    open_small_model(state);
    rig *r = open_rig_of(false);
    expect_failure(r, 1, ERR_UNAVAILABLE, "expert");
    close_rig(r);
    close_model(state);
}

static void sends_clients_elsewhere_until_it_sees_all(void **state) {
    rack_rig a;
    open_small_model(state);
    rig *r = open_rig_of(false);
    open_rack(&a, 1);
    server_set_nodes(r->server, a.r->nodes);
    feed_one(&a, "one", &a.r->one);
    feed_placement(&a, 1, even_on_first);
    take_up(&a);
    expect_failure(r, 1, ERR_CLOSED, "newest placement");
    exchange_idle(memory_rack_exchange(a.r->rack));
    expect_failure(r, 2, ERR_CLOSED, "where node two is");
    feed_one(&a, "two", &a.r->two);
    take_up(&a);
    expect_failure(r, 3, ERR_UNAVAILABLE, "expert");
    close_rig(r);
    close_rack(&a);
    close_model(state);
}

int main(void) {
    if (cpu_setup(NULL, 0) < 0) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(says_that_nobody_holds_what_a_list_lacks),
        over_tcp(sends_clients_elsewhere_until_it_sees_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
