/* test_placement_sim.c - many seeds of a simulated rack that organizes itself;
 * and proof that the simulator notices mistakes, by making some.
 *
 *   SIM_SEEDS=N  how many seeds (500)
 *   --seed N     replay one seed and print what happens
 *   --plant N    with a planted mistake, see place_plant */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tests/sim/place_sim.h"

#define SEEDS 500
#define PLANT_SEEDS 400 /* a planted mistake must show by then */

static uint64_t seeds_wanted(void) {
    const char *text = getenv("SIM_SEEDS");
    uint64_t n = text != NULL ? strtoull(text, NULL, 10) : SEEDS;
    return n > 0 ? n : SEEDS;
}

static void add_up(place_result *sum, const place_result *r) {
    sum->events += r->events;
    sum->epochs += r->epochs;
    sum->terms += r->terms;
    sum->fenced += r->fenced;
    sum->unknown += r->unknown;
    sum->loads += r->loads;
    sum->unloads += r->unloads;
    sum->stale += r->stale;
    sum->kills += r->kills;
    sum->freezes += r->freezes;
    sum->outages += r->outages;
}

static void print_sum(const place_result *r) {
    printf("%llu epochs in %llu terms, %llu writes refused, %llu unknown; "
           "%llu loads, %llu unloads, %llu times stale; %llu kills, %llu "
           "freezes, %llu outages; %llu events\n",
           (unsigned long long)r->epochs, (unsigned long long)r->terms,
           (unsigned long long)r->fenced, (unsigned long long)r->unknown,
           (unsigned long long)r->loads, (unsigned long long)r->unloads,
           (unsigned long long)r->stale, (unsigned long long)r->kills,
           (unsigned long long)r->freezes, (unsigned long long)r->outages,
           (unsigned long long)r->events);
}

static void keeps_every_unit_whatever_fails(void **state) {
    place_result sum = {0};
    uint64_t seeds = seeds_wanted();
    (void)state;

    for (uint64_t seed = 1; seed <= seeds; seed++) {
        place_result r;
        place_sim_run(&(place_options){.seed = seed}, &r);
        if (!r.ok) {
            fail_msg("seed %llu: %s (replay: test_placement_sim --seed %llu)",
                     (unsigned long long)seed, r.why, (unsigned long long)seed);
        }
        add_up(&sum, &r);
    }
    print_sum(&sum);
    if (seeds < 100) return;
    /* The faults were felt. */
    assert_true(sum.terms > seeds && sum.epochs > 2 * seeds);
    assert_true(sum.fenced > 0 && sum.unknown > 0 && sum.stale > 0);
    assert_true(sum.unloads > 0 && sum.kills > 0 && sum.outages > 0);
}

static void repeats_a_seed_exactly(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        place_result a, b;
        place_sim_run(&(place_options){.seed = seed}, &a);
        place_sim_run(&(place_options){.seed = seed}, &b);
        assert_true(a.hash == b.hash);
        assert_true(a.events == b.events);
    }
}

/* The first complaint must be of the kind that the mistake deserves. */
static void expect_caught(place_plant plant, const char *complaint) {
    for (uint64_t seed = 1; seed <= PLANT_SEEDS; seed++) {
        place_result r;
        place_sim_run(&(place_options){.seed = seed, .plant = plant}, &r);
        if (r.ok) continue;
        printf("caught by seed %llu: %s\n", (unsigned long long)seed, r.why);
        assert_non_null(strstr(r.why, complaint));
        return;
    }
    fail_msg("a planted mistake was not noticed");
}

static void notices_a_write_without_a_fence(void **state) {
    (void)state;
    expect_caught(PLACE_NO_FENCE, "stale term");
}

static void notices_unloading_without_waiting(void **state) {
    (void)state;
    expect_caught(PLACE_NO_WAIT, "still uses");
}

static void notices_reports_before_loading(void **state) {
    (void)state;
    expect_caught(PLACE_EARLY_READY, "last copy");
}

static int replay(uint64_t seed, place_plant plant) {
    place_result r;
    place_sim_run(&(place_options){.seed = seed, .plant = plant, .trace = true},
                  &r);
    print_sum(&r);
    printf("seed %llu: %s, hash %016llx\n", (unsigned long long)seed,
           r.ok ? "ok" : r.why, (unsigned long long)r.hash);
    return r.ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_every_unit_whatever_fails),
        cmocka_unit_test(repeats_a_seed_exactly),
        cmocka_unit_test(notices_a_write_without_a_fence),
        cmocka_unit_test(notices_unloading_without_waiting),
        cmocka_unit_test(notices_reports_before_loading),
    };
    uint64_t seed = 0;
    int plant = PLACE_SOUND;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--seed") == 0) {
            seed = strtoull(argv[i + 1], NULL, 10);
        }
        if (strcmp(argv[i], "--plant") == 0) plant = atoi(argv[i + 1]);
    }
    if (seed > 0) return replay(seed, (place_plant)plant);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
