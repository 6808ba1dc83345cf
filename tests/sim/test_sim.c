/* test_sim.c - many seeds of a simulated cluster with faults; and proof that
 * the simulator notices mistakes, by making some.
 *
 *   SIM_SEEDS=N  how many seeds (1,000)
 *   --seed N     replay one seed and print what happens
 *   --plant N    with a planted mistake, see sim_plant */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tests/sim/sim.h"

#define SEEDS 1000
#define PLANT_SEEDS 400 /* a planted mistake must show by then */

static uint64_t seeds_wanted(void) {
    const char *text = getenv("SIM_SEEDS");
    uint64_t n = text != NULL ? strtoull(text, NULL, 10) : SEEDS;
    return n > 0 ? n : SEEDS;
}

static void add_up(sim_result *sum, const sim_result *r) {
    sum->finished += r->finished;
    sum->failed += r->failed;
    sum->cancelled += r->cancelled;
    sum->unavailable += r->unavailable;
    sum->hedges += r->hedges;
    sum->takeovers += r->takeovers;
    sum->local += r->local;
    sum->refusals += r->refusals;
    sum->late_rows += r->late_rows;
    sum->lost_pairs += r->lost_pairs;
    sum->events += r->events;
}

static void print_sum(const sim_result *sum) {
    printf("%u finished, %u failed (%u without a holder), %u cancelled; %llu "
           "hedges, %llu pairs taken "
           "over, %llu here, %llu refusals, %llu late rows, %llu lost pairs; "
           "%llu events\n",
           sum->finished, sum->failed, sum->unavailable, sum->cancelled,
           (unsigned long long)sum->hedges, (unsigned long long)sum->takeovers,
           (unsigned long long)sum->local, (unsigned long long)sum->refusals,
           (unsigned long long)sum->late_rows,
           (unsigned long long)sum->lost_pairs,
           (unsigned long long)sum->events);
}

static void keeps_its_promises_whatever_fails(void **state) {
    sim_result sum = {0};
    uint64_t seeds = seeds_wanted();
    (void)state;

    for (uint64_t seed = 1; seed <= seeds; seed++) {
        sim_result r;
        sim_run(&(sim_options){.seed = seed}, &r);
        if (!r.ok) {
            fail_msg("seed %llu: %s (replay: test_sim --seed %llu)",
                     (unsigned long long)seed, r.why, (unsigned long long)seed);
        }
        add_up(&sum, &r);
    }
    print_sum(&sum);
    if (seeds < 100) return;
    /* The faults were felt, and most requests finished all the same. */
    assert_true(sum.hedges > 0 && sum.takeovers > 0 && sum.local > 0);
    assert_true(sum.refusals > 0 && sum.late_rows > 0 && sum.lost_pairs > 0);
    assert_true(sum.cancelled > 0 && sum.unavailable > 0);
    assert_true(sum.finished > 5 * sum.failed);
}

static void repeats_a_seed_exactly(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        sim_result a, b;
        sim_run(&(sim_options){.seed = seed}, &a);
        sim_run(&(sim_options){.seed = seed}, &b);
        assert_true(a.hash == b.hash);
        assert_true(a.events == b.events);
    }
}

/* The first complaint must be of the kind that the mistake deserves. */
static void expect_caught(sim_plant plant, const char *complaint) {
    for (uint64_t seed = 1; seed <= PLANT_SEEDS; seed++) {
        sim_result r;
        sim_run(&(sim_options){.seed = seed, .plant = plant}, &r);
        if (r.ok) continue;
        printf("caught by seed %llu: %s\n", (unsigned long long)seed, r.why);
        assert_non_null(strstr(r.why, complaint));
        return;
    }
    fail_msg("a planted mistake was not noticed");
}

static void notices_sums_in_the_order_of_arrival(void **state) {
    (void)state;
    expect_caught(PLANT_ARRIVAL_ORDER, "token");
}

static void notices_a_doubled_answer_that_counts_twice(void **state) {
    (void)state;
    expect_caught(PLANT_DOUBLE_COUNT, "token");
}

static void notices_an_answer_of_an_earlier_layer(void **state) {
    (void)state;
    expect_caught(PLANT_LATE_LAYER, "token");
}

static void notices_credit_that_is_not_returned(void **state) {
    (void)state;
    expect_caught(PLANT_KEEP_CREDIT, "credit");
}

static void notices_slices_that_are_not_added_as_a_tree(void **state) {
    (void)state;
    expect_caught(PLANT_SLICE_ORDER, "token");
}

static int replay(uint64_t seed, sim_plant plant) {
    sim_result r;
    sim_run(&(sim_options){.seed = seed, .plant = plant, .trace = true}, &r);
    print_sum(&r);
    printf("seed %llu: %s, hash %016llx\n", (unsigned long long)seed,
           r.ok ? "ok" : r.why, (unsigned long long)r.hash);
    return r.ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_its_promises_whatever_fails),
        cmocka_unit_test(repeats_a_seed_exactly),
        cmocka_unit_test(notices_sums_in_the_order_of_arrival),
        cmocka_unit_test(notices_a_doubled_answer_that_counts_twice),
        cmocka_unit_test(notices_an_answer_of_an_earlier_layer),
        cmocka_unit_test(notices_credit_that_is_not_returned),
        cmocka_unit_test(notices_slices_that_are_not_added_as_a_tree),
    };
    uint64_t seed = 0;
    int plant = PLANT_NONE;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--seed") == 0) {
            seed = strtoull(argv[i + 1], NULL, 10);
        }
        if (strcmp(argv[i], "--plant") == 0) plant = atoi(argv[i + 1]);
    }
    if (seed > 0) return replay(seed, (sim_plant)plant);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
