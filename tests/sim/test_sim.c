/* test_sim.c - many seeds of a simulated rack with faults; and proof that the
 * simulator notices mistakes, by making some.
 *
 *   SIM_SEEDS=N           how many seeds (300)
 *   --seeds FROM-TO       these, and nothing else
 *   --seed N [--trace]    replay one and print what happens
 *   --plant NAME          with a planted mistake
 *   --plants              which there are */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/util.h"
#include "tests/sim/sim.h"
#include "tests/sim/sim_many.h"

#define SEEDS 300
#define SEEDS_QUICK 40 /* under a sanitizer */
#define SEEDS_OF_SAME 12
#define SEEDS_OF_SAME_QUICK 3
#define PLANT_SEEDS 3000 /* a planted mistake must show by then */

static bool is_quick(void) {
    return getenv("ROSTER_TEST_QUICK") != NULL;
}

static uint64_t seeds_wanted(void) {
    const char *text = getenv("SIM_SEEDS");
    uint64_t n = text != NULL ? strtoull(text, NULL, 10) : 0;
    if (n > 0) return n;
    return is_quick() ? SEEDS_QUICK : SEEDS;
}

static void keeps_its_promises_whatever_fails(void **state) {
    sim_many_result sum;
    uint64_t seeds = seeds_wanted();
    (void)state;

    assert_int_equal(sim_many(1, seeds, PLANT_NONE, NULL, &sum), 0);
    sim_many_print(&sum);
    assert_true(sum.runs == seeds);
    assert_true(sum.failures == 0);
    assert_true(sum.worst_faults >= SIM_FAULTS_LEAST);
    if (seeds < 300) return;
    /* The faults were felt, and most requests finished all the same. */
    for (int i = 0; i < FAULT_KINDS; i++)
        assert_true(sum.faults[i] > 0);
    for (int i = 0; i < SIM_COUNTS; i++) {
        if (i != COUNT_STALE) assert_true(sum.count[i] > 0);
    }
    assert_true(sum.count[COUNT_FINISHED] > 5 * sum.count[COUNT_FAILED]);
}

/* Each once showed something that no unit test had thought of. */
static void keeps_its_promises_where_it_did_not(void **state) {
    static const uint64_t seeds[] = {
        1520,         /* a node left with the answers that a layer waited for */
        16666, 20226, /* what a restored store lacks is not undone */
        19754,        /* an empty etcd was led by who knew nothing */
        21102,        /* two that missed a dead node sent clients to and fro */
        23256,        /* a recovery forgot who had not registered again yet */
        26670,        /* a unit was given to a node that was dead already */
        29395, 40007, 43526, /* an old etcd was led by who knew no more */
        30124,        /* a coordinator that lagged behind spoke for all */
        77704, 88136, /* so did one that did not know where a node was */
        30195, 39330, /* a placement was known that nobody held */
        30614,        /* one number for two placements */
        32467,        /* ... and a node dropped what one assigned */
        32884,        /* a coordinator began before a node was listed */
        50567,        /* a third copy left no room for a second one */
        52799,        /* another one knew a recovery that was lost */
        56613,        /* memory lost beyond the spare */
        60618,        /* a recovery knew less than nodes not listed */
        64468,        /* a node was listed long after etcd was back */
        97685,        /* moves to a node that came back with less */
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(seeds); i++) {
        sim_result r;
        sim_run(&(sim_options){.seed = seeds[i]}, &r);
        if (!r.ok) {
            fail_msg("seed %llu: %s", (unsigned long long)seeds[i], r.why);
        }
    }
}

static void repeats_a_seed_exactly(void **state) {
    (void)state;
    uint64_t seeds = is_quick() ? SEEDS_OF_SAME_QUICK : SEEDS_OF_SAME;
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        sim_result a, b;
        sim_run(&(sim_options){.seed = seed}, &a);
        sim_run(&(sim_options){.seed = seed}, &b);
        assert_true(a.hash == b.hash);
        assert_true(a.at_us == b.at_us);
    }
}

/* With the complaint that the mistake deserves. */
static void expect_caught(sim_plant plant) {
    const sim_plant_entry *p = &sim_plants[plant];
    sim_many_result sum;
    assert_int_equal(sim_many(1, PLANT_SEEDS, plant, p->complaint, &sum), 0);
    if (sum.failures == 0) fail_msg("nobody noticed that %s", p->what);
    printf("%s: caught by seed %llu: %s\n", p->name,
           (unsigned long long)sum.failed[0].seed, sum.failed[0].why);
}

static void notices_every_planted_mistake(void **state) {
    (void)state;
    if (is_quick()) return; /* slow, and nothing new for a sanitizer */
    for (int i = PLANT_NONE + 1; i < PLANT_COUNT; i++)
        expect_caught((sim_plant)i);
}

/* ---- the command line ---- */

static int replay(uint64_t seed, sim_plant plant, bool trace) {
    sim_result r;
    sim_run(&(sim_options){.seed = seed, .plant = plant, .trace = trace}, &r);
    printf("seed %llu: %s, %.3f s, %llu faults, hash %016llx\n",
           (unsigned long long)seed, r.ok ? "ok" : r.why, (double)r.at_us / 1e6,
           (unsigned long long)r.count[COUNT_FAULTS],
           (unsigned long long)r.hash);
    return r.ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int run_range(const char *text, sim_plant plant) {
    char *end;
    uint64_t from = strtoull(text, &end, 10), to = from;
    if (*end == '-') to = strtoull(end + 1, &end, 10);
    if (*end != '\0' || from == 0 || to < from) {
        fprintf(stderr, "--seeds: '%s' is not FROM-TO\n", text);
        return 2;
    }
    sim_many_result sum;
    int rc = sim_many(from, to, plant, NULL, &sum);
    if (rc < 0) {
        fprintf(stderr, "a worker failed: %s\n", strerror(-rc));
        return EXIT_FAILURE;
    }
    sim_many_print(&sum);
    printf("%llu of %llu runs failed\n", (unsigned long long)sum.failures,
           (unsigned long long)sum.runs);
    return sum.failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int list_plants(void) {
    for (int i = PLANT_NONE + 1; i < PLANT_COUNT; i++) {
        printf("%-17s %s\n", sim_plants[i].name, sim_plants[i].what);
    }
    return EXIT_SUCCESS;
}

static int usage(void) {
    fprintf(stderr, "usage: test_sim [--seeds FROM-TO | --seed N [--trace]] "
                    "[--plant NAME] | --plants\n");
    return 2;
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_its_promises_whatever_fails),
        cmocka_unit_test(keeps_its_promises_where_it_did_not),
        cmocka_unit_test(repeats_a_seed_exactly),
        cmocka_unit_test(notices_every_planted_mistake),
    };
    const char *range = NULL;
    uint64_t seed = 0;
    sim_plant plant = PLANT_NONE;
    bool trace = false;
    if (argc == 1) return cmocka_run_group_tests(tests, NULL, NULL);
    for (int i = 1; i < argc; i++) {
        bool more = i + 1 < argc;
        if (strcmp(argv[i], "--plants") == 0) {
            return list_plants();
        } else if (strcmp(argv[i], "--trace") == 0) {
            trace = true;
        } else if (strcmp(argv[i], "--seed") == 0 && more) {
            seed = strtoull(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--seeds") == 0 && more) {
            range = argv[++i];
        } else if (strcmp(argv[i], "--plant") == 0 && more) {
            plant = sim_plant_find(argv[++i]);
            if (plant == PLANT_COUNT) return usage();
        } else {
            return usage();
        }
    }
    if (range != NULL) return run_range(range, plant);
    return seed > 0 ? replay(seed, plant, trace) : usage();
}
