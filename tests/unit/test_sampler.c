/* test_sampler.c - the choice of a token: filters, ties, odd logits, and the
 * generator's published and independently computed values. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "engine/err.h"
#include "engine/sampler.h"
#include "engine/util.h"

static const sampler_params plain = {.temperature = 1.0f, .top_p = 1.0f};

/* One pick with a sampler of its own. */
static int32_t pick(const sampler_params *p, uint64_t position,
                    const float *logits, size_t n) {
    sampler *s;
    assert_int_equal(sampler_new(&s, n), 0);
    int32_t id = sampler_pick(s, p, position, logits);
    sampler_free(s);
    assert_in_range(id, 0, n - 1);
    return id;
}

/* How often each token comes up in `draws` positions. */
static void count_picks(const sampler_params *p, const float *logits, size_t n,
                        size_t draws, uint32_t *counts) {
    sampler *s;
    assert_int_equal(sampler_new(&s, n), 0);
    memset(counts, 0, n * sizeof(*counts));
    for (size_t i = 0; i < draws; i++)
        counts[sampler_pick(s, p, i, logits)]++;
    sampler_free(s);
}

/* ---- the generator ---- */

static void generates_the_published_philox_numbers(void **state) {
    (void)state;
    /* Known answer of the authors' library: counter 0, key 0. */
    assert_true(sampler_uniform(0, 0, 0) ==
                (float)(0x6627e8d5u >> 8) * 0x1p-24f);
}

static void generates_numbers_of_an_independent_implementation(void **state) {
    static const struct {
        uint64_t seed;
        uint32_t choice;
        uint64_t position;
        uint32_t word;
    } cases[] = {
        {0x0u, 0x0u, 0x1u, 0xf8e4cca4u},
        {0x0u, 0x1u, 0x0u, 0x844515e1u},
        {0x1u, 0x0u, 0x0u, 0xe3e80670u},
        {0x299f31d0a4093822u, 0x13198a2eu, 0x85a308d3243f6a88u, 0xae120e9du},
        {0xffffffffffffffffu, 0xffffffffu, 0xffffffffffffffffu, 0xeec03824u},
        {0x2au, 0x0u, 0x100000000u, 0x42e0b8b3u},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        float u =
            sampler_uniform(cases[i].seed, cases[i].choice, cases[i].position);
        assert_true(u == (float)(cases[i].word >> 8) * 0x1p-24f);
        assert_true(u >= 0.0f && u < 1.0f);
    }
}

static void spreads_its_numbers_evenly(void **state) {
    enum { BINS = 64, DRAWS = 64000 };
    uint32_t counts[BINS] = {0};
    double chi2 = 0.0;
    (void)state;

    for (uint64_t i = 0; i < DRAWS; i++)
        counts[(int)(sampler_uniform(7, 3, i) * BINS)]++;
    for (size_t i = 0; i < BINS; i++) {
        double d = counts[i] - (double)DRAWS / BINS;
        chi2 += d * d / ((double)DRAWS / BINS);
    }
    assert_true(chi2 < 103.4); /* 63 degrees of freedom, p = 0.001 */
}

static void differs_by_seed_choice_and_position(void **state) {
    (void)state;
    float u = sampler_uniform(1, 1, 1);
    assert_true(u != sampler_uniform(2, 1, 1));
    assert_true(u != sampler_uniform(1, 2, 1));
    assert_true(u != sampler_uniform(1, 1, 2));
    assert_true(u != sampler_uniform(1 | (uint64_t)1 << 32, 1, 1));
    assert_true(u != sampler_uniform(1, 1, 1 | (uint64_t)1 << 32));
}

/* ---- greedy ---- */

static void picks_the_largest_logit_at_temperature_zero(void **state) {
    const float logits[] = {0.5f, -1.0f, 3.0f, 2.9f};
    sampler_params p = {.temperature = 0.0f, .top_p = 1.0f};
    (void)state;
    for (uint64_t position = 0; position < 20; position++)
        assert_int_equal(pick(&p, position, logits, 4), 2);
}

static void gives_a_tie_to_the_lower_token(void **state) {
    const float logits[] = {1.0f, 2.0f, 2.0f, 2.0f};
    sampler_params greedy = {.temperature = 0.0f, .top_p = 1.0f};
    sampler_params top1 = {.temperature = 1.0f, .top_k = 1, .top_p = 1.0f};
    sampler_params nucleus = {.temperature = 1.0f, .top_p = 0.0f};
    (void)state;
    for (uint64_t position = 0; position < 20; position++) {
        assert_int_equal(pick(&greedy, position, logits, 4), 1);
        assert_int_equal(pick(&top1, position, logits, 4), 1);
        assert_int_equal(pick(&nucleus, position, logits, 4), 1);
    }
}

static void keeps_the_lower_tokens_of_a_tie_at_the_edge_of_top_k(void **state) {
    const float logits[] = {0.0f, 1.0f, 5.0f, 1.0f, 1.0f, 1.0f};
    sampler_params p = {.temperature = 100.0f, .top_k = 3, .top_p = 1.0f};
    uint32_t counts[6];
    (void)state;

    count_picks(&p, logits, 6, 500, counts);
    assert_true(counts[1] > 0 && counts[2] > 0 && counts[3] > 0);
    assert_int_equal(counts[0] + counts[4] + counts[5], 0);
}

/* ---- distributions ---- */

/* Pearson's statistic of a draw against probabilities. */
static double chi_square(const uint32_t *counts, const double *probs, size_t n,
                         size_t draws) {
    double chi2 = 0.0;
    for (size_t i = 0; i < n; i++) {
        double expected = probs[i] * (double)draws;
        if (expected <= 0.0) {
            assert_int_equal(counts[i], 0);
            continue;
        }
        double d = counts[i] - expected;
        chi2 += d * d / expected;
    }
    return chi2;
}

static void draws_in_proportion_to_the_softmax(void **state) {
    enum { DRAWS = 20000 };
    const float logits[5] = {0.0f, 1.0f, -1.0f, 2.0f, 0.5f};
    uint32_t counts[5];
    (void)state;

    for (int round = 0; round < 3; round++) {
        const float temperatures[] = {0.5f, 1.0f, 2.0f};
        sampler_params p = plain;
        p.temperature = temperatures[round];
        p.seed = 42 + (uint64_t)round;
        double probs[5], sum = 0.0;
        for (size_t i = 0; i < 5; i++)
            sum += probs[i] = exp((double)logits[i] / (double)p.temperature);
        for (size_t i = 0; i < 5; i++)
            probs[i] /= sum;
        count_picks(&p, logits, 5, DRAWS, counts);
        /* 4 degrees of freedom, p = 0.001 */
        assert_true(chi_square(counts, probs, 5, DRAWS) < 18.47);
    }
}

static void renormalizes_what_top_k_keeps(void **state) {
    enum { DRAWS = 20000 };
    const float logits[5] = {0.0f, 1.0f, -1.0f, 2.0f, 0.5f};
    const double kept = exp(1.0) + exp(2.0);
    const double probs[5] = {0.0, exp(1.0) / kept, 0.0, exp(2.0) / kept, 0.0};
    sampler_params p = plain;
    uint32_t counts[5];
    (void)state;

    p.top_k = 2;
    count_picks(&p, logits, 5, DRAWS, counts);
    assert_true(chi_square(counts, probs, 5, DRAWS) < 10.83);
}

/* Weights 8, 4, 2, 1, 1 of 16. */
static const float halves[5] = {2.0794415f, 1.3862944f, 0.6931472f, 0.0f, 0.0f};

static void keeps_the_fewest_that_reach_top_p(void **state) {
    sampler_params p = plain;
    uint32_t counts[5];
    (void)state;

    p.top_p = 0.6f; /* 8/16 is too little, 12/16 enough */
    count_picks(&p, halves, 5, 1000, counts);
    assert_true(counts[0] > 0 && counts[1] > 0);
    assert_int_equal(counts[2] + counts[3] + counts[4], 0);

    p.top_p = 0.9f; /* 14/16 is too little: one of the equal last two */
    count_picks(&p, halves, 5, 2000, counts);
    assert_true(counts[2] > 0 && counts[3] > 0);
    assert_int_equal(counts[4], 0);

    p.top_p = 0.0f;
    count_picks(&p, halves, 5, 100, counts);
    assert_int_equal(counts[0], 100);
}

static void drops_what_is_below_min_p_of_the_best(void **state) {
    sampler_params p = plain;
    uint32_t counts[5];
    (void)state;

    p.min_p = 0.2f; /* 2/8 stays, 1/8 goes */
    count_picks(&p, halves, 5, 1000, counts);
    assert_true(counts[0] > 0 && counts[1] > 0 && counts[2] > 0);
    assert_int_equal(counts[3] + counts[4], 0);

    p.min_p = 1.0f;
    count_picks(&p, halves, 5, 100, counts);
    assert_int_equal(counts[0], 100);
}

static void applies_the_filters_one_after_another(void **state) {
    sampler_params p = plain;
    uint32_t counts[5];
    (void)state;

    /* Of the 14 that top-k leaves, 12 are 0.857. */
    p.top_k = 3;
    p.top_p = 0.85f;
    count_picks(&p, halves, 5, 1000, counts);
    assert_true(counts[0] > 0 && counts[1] > 0);
    assert_int_equal(counts[2] + counts[3] + counts[4], 0);

    p.min_p = 0.6f;
    count_picks(&p, halves, 5, 100, counts);
    assert_int_equal(counts[0], 100);
}

/* The same by sorting everything, for what a heap might get wrong. */
static int by_logit(const void *a, const void *b, void *logits) {
    const float *l = logits;
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    if (l[x] != l[y]) return l[x] > l[y] ? -1 : 1;
    return x < y ? -1 : 1;
}

static void agrees_with_sorting_on_large_vocabularies(void **state) {
    enum { N = 5000, K = 37 };
    static float logits[N];
    static int32_t order[N];
    static uint32_t counts[N];
    sampler_params p = {.temperature = 50.0f, .top_k = K, .top_p = 1.0f};
    (void)state;

    for (int round = 0; round < 5; round++) {
        for (int32_t i = 0; i < N; i++) {
            /* Few values, so that there are many ties. */
            logits[i] =
                (float)((int)(sampler_uniform((uint64_t)round, 9, (uint64_t)i) *
                              300.0f)) /
                8.0f;
            order[i] = i;
        }
        qsort_r(order, N, sizeof(*order), by_logit, logits);
        count_picks(&p, logits, N, 3000, counts);
        uint32_t kept = 0;
        for (size_t i = 0; i < K; i++) {
            assert_true(counts[order[i]] > 0);
            kept += counts[order[i]];
        }
        assert_int_equal(kept, 3000);
    }
}

static void takes_the_same_token_whatever_filter_does_nothing(void **state) {
    const sampler_params same[] = {
        {.temperature = 1.0f, .top_p = 1.0f, .seed = 5},
        {.temperature = 1.0f, .top_p = 1.0f, .seed = 5, .top_k = 5},
        {.temperature = 1.0f, .top_p = 1.0f, .seed = 5, .top_k = 4000000000u},
        {.temperature = 1.0f, .top_p = 1.0f, .seed = 5, .min_p = 0.001f},
        {.temperature = 1.0f, .top_p = 0.99999f, .seed = 5},
    };
    (void)state;
    for (uint64_t position = 0; position < 200; position++) {
        int32_t first = pick(&same[0], position, halves, 5);
        for (size_t i = 1; i < ARRAY_LEN(same); i++)
            assert_int_equal(pick(&same[i], position, halves, 5), first);
    }
}

static void repeats_itself_without_state(void **state) {
    sampler_params p = plain;
    int32_t first[50];
    sampler *s;
    (void)state;

    p.seed = 99;
    assert_int_equal(sampler_new(&s, 5), 0);
    for (uint64_t i = 0; i < 50; i++)
        first[i] = sampler_pick(s, &p, i, halves);
    for (uint64_t i = 50; i-- > 0;)
        assert_int_equal(sampler_pick(s, &p, i, halves), first[i]);
    sampler_free(s);
}

/* ---- odd logits ---- */

static void never_chooses_a_nan(void **state) {
    const float logits[4] = {NAN, 1.0f, NAN, 1.5f};
    sampler_params p = plain, greedy = {.temperature = 0.0f, .top_p = 1.0f};
    uint32_t counts[4];
    (void)state;

    assert_int_equal(pick(&greedy, 0, logits, 4), 3);
    for (int filter = 0; filter < 4; filter++) {
        p.top_k = filter == 1 ? 2 : 0;
        p.top_p = filter == 2 ? 0.99f : 1.0f;
        p.min_p = filter == 3 ? 0.1f : 0.0f;
        count_picks(&p, logits, 4, 500, counts);
        assert_int_equal(counts[0] + counts[2], 0);
        assert_true(counts[1] > 0 && counts[3] > 0);
    }
}

static void chooses_token_zero_if_all_are_nan(void **state) {
    const float logits[3] = {NAN, NAN, NAN};
    sampler_params p = plain, greedy = {.temperature = 0.0f, .top_p = 1.0f};
    (void)state;
    assert_int_equal(pick(&p, 3, logits, 3), 0);
    assert_int_equal(pick(&greedy, 3, logits, 3), 0);
}

static void survives_infinities(void **state) {
    const float up[4] = {0.0f, INFINITY, 5.0f, INFINITY};
    const float down[3] = {-INFINITY, -INFINITY, -INFINITY};
    const float masked[3] = {-INFINITY, 0.0f, -INFINITY};
    sampler_params p = plain;
    uint32_t counts[4];
    (void)state;

    count_picks(&p, up, 4, 200, counts);
    assert_int_equal(counts[1] + counts[3], 200);
    assert_true(counts[1] > 50 && counts[3] > 50);
    count_picks(&p, down, 3, 300, counts);
    assert_true(counts[0] > 50 && counts[1] > 50 && counts[2] > 50);
    count_picks(&p, masked, 3, 100, counts);
    assert_int_equal(counts[1], 100);
}

static void becomes_greedy_as_the_temperature_goes_to_zero(void **state) {
    const float logits[3] = {1.0f, 1.0001f, -30.0f};
    sampler_params p = plain;
    (void)state;
    const float tiny[] = {1e-6f, 1e-20f, 1e-42f};
    for (size_t i = 0; i < ARRAY_LEN(tiny); i++) {
        p.temperature = tiny[i];
        for (uint64_t position = 0; position < 20; position++)
            assert_int_equal(pick(&p, position, logits, 3), 1);
    }
}

static void leaves_the_logits_alone(void **state) {
    float logits[5], before[5];
    sampler_params p = {
        .temperature = 0.7f, .top_k = 3, .top_p = 0.8f, .min_p = 0.1f};
    (void)state;
    memcpy(logits, halves, sizeof(logits));
    memcpy(before, halves, sizeof(before));
    pick(&p, 1, logits, 5);
    assert_memory_equal(logits, before, sizeof(before));
}

static void works_with_a_vocabulary_of_one(void **state) {
    const float logit = -3.0f;
    sampler_params p = plain;
    (void)state;
    assert_int_equal(pick(&p, 0, &logit, 1), 0);
}

/* ---- parameters ---- */

static void refuses_parameters_out_of_range_by_name(void **state) {
    static const struct {
        sampler_params p;
        const char *name;
    } bad[] = {
        {{.temperature = -0.1f, .top_p = 1.0f}, "temperature"},
        {{.temperature = NAN, .top_p = 1.0f}, "temperature"},
        {{.temperature = INFINITY, .top_p = 1.0f}, "temperature"},
        {{.temperature = 1.0f, .top_p = 1.5f}, "top_p"},
        {{.temperature = 1.0f, .top_p = -0.5f}, "top_p"},
        {{.temperature = 1.0f, .top_p = NAN}, "top_p"},
        {{.temperature = 1.0f, .top_p = 1.0f, .min_p = 2.0f}, "min_p"},
        {{.temperature = 1.0f, .top_p = 1.0f, .min_p = NAN}, "min_p"},
    };
    char why[128];
    (void)state;

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(sampler_check(&bad[i].p, why, sizeof(why)), ERR_RANGE);
        assert_non_null(strstr(why, bad[i].name));
    }
    assert_int_equal(sampler_check(&plain, why, sizeof(why)), 0);
    assert_int_equal(sampler_check(&plain, NULL, 0), 0);
}

static void refuses_an_empty_vocabulary(void **state) {
    sampler *s;
    (void)state;
    assert_int_equal(sampler_new(&s, 0), ERR_RANGE);
    assert_null(s);
    sampler_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(generates_the_published_philox_numbers),
        cmocka_unit_test(generates_numbers_of_an_independent_implementation),
        cmocka_unit_test(spreads_its_numbers_evenly),
        cmocka_unit_test(differs_by_seed_choice_and_position),
        cmocka_unit_test(picks_the_largest_logit_at_temperature_zero),
        cmocka_unit_test(gives_a_tie_to_the_lower_token),
        cmocka_unit_test(keeps_the_lower_tokens_of_a_tie_at_the_edge_of_top_k),
        cmocka_unit_test(draws_in_proportion_to_the_softmax),
        cmocka_unit_test(renormalizes_what_top_k_keeps),
        cmocka_unit_test(keeps_the_fewest_that_reach_top_p),
        cmocka_unit_test(drops_what_is_below_min_p_of_the_best),
        cmocka_unit_test(applies_the_filters_one_after_another),
        cmocka_unit_test(agrees_with_sorting_on_large_vocabularies),
        cmocka_unit_test(takes_the_same_token_whatever_filter_does_nothing),
        cmocka_unit_test(repeats_itself_without_state),
        cmocka_unit_test(never_chooses_a_nan),
        cmocka_unit_test(chooses_token_zero_if_all_are_nan),
        cmocka_unit_test(survives_infinities),
        cmocka_unit_test(becomes_greedy_as_the_temperature_goes_to_zero),
        cmocka_unit_test(leaves_the_logits_alone),
        cmocka_unit_test(works_with_a_vocabulary_of_one),
        cmocka_unit_test(refuses_parameters_out_of_range_by_name),
        cmocka_unit_test(refuses_an_empty_vocabulary),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
