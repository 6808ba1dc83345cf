/* test_leader_peers.c - nodes by numbers, and which speeds of theirs count. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "coordinator/leader_peers.h"

/* Every second one of two speeds, for so long. */
static uint64_t hear(leader_peer *p, uint64_t now_ms, double even, double odd,
                     uint32_t seconds) {
    for (uint32_t i = 0; i < seconds; i++, now_ms += 1000)
        leader_peer_set_speed(p, now_ms, i % 2 == 0 ? even : odd);
    return now_ms;
}

static void counts_speeds_in_steps(void **state) {
    leader_peers p = {0};
    uint32_t one, two, again;
    (void)state;
    assert_int_equal(leader_peers_number(&p, "one", &one), 0);
    assert_int_equal(leader_peers_number(&p, "two", &two), 0);
    assert_int_equal(leader_peers_number(&p, "one", &again), 0);
    assert_true(one == again && one != two);

    leader_peer *peer = &p.items[one];
    static const double heard[] = {0,    1.1, 1.18, 0.83, 1.3, 1.12,
                                   1.05, 0,   0.6,  99,   0.01};
    static const double counts[] = {1,   1,   1,   1,  1.25, 1.25,
                                    1.0, 1.0, 0.5, 16, 0.25};
    uint64_t now_ms = 1000;
    for (uint32_t i = 0; i < sizeof(heard) / sizeof(heard[0]); i++) {
        now_ms = hear(peer, now_ms, heard[i], heard[i], 61);
        assert_true(peer->speed == counts[i]);
    }
    leader_peers_fini(&p);
}

/* Speeds as a busy computer shows them: never one side for a whole minute. */
static void believes_only_a_speed_that_lasts(void **state) {
    leader_peer p = {.speed = 1};
    uint64_t now_ms = 1000;
    (void)state;
    for (uint32_t i = 0; i < 20; i++) {
        now_ms = hear(&p, now_ms, 1.3, 2.5, 59);
        assert_true(p.speed == 1);
        now_ms = hear(&p, now_ms, i % 2 == 0 ? 0.6 : 0, 0.7, 5);
    }
    /* What was heard long ago says nothing of the time in between. */
    now_ms = hear(&p, now_ms, 0.5, 0.5, 2);
    now_ms = hear(&p, now_ms + 100000, 0.5, 0.5, 2);
    assert_true(p.speed == 1);
    /* It is as fast as it was at least. */
    (void)hear(&p, now_ms, 1.4, 2.5, 61);
    assert_true(p.speed == 1.5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_speeds_in_steps),
        cmocka_unit_test(believes_only_a_speed_that_lasts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
