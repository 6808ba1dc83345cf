/* test_router.c - which experts a row goes to, and with what weight.
 *
 * The reference is the routing of tests/golden (softmax or sigmoid, the k best,
 * renormalised, scaled), in double precision and by full sorting. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/router.h"
#include "engine/err.h"

#define MOST 4096

static const routing_rule mixtral = {GATING_SOFTMAX, true, 0.0f};
static const routing_rule olmoe = {GATING_SOFTMAX, false, 0.0f};
static const routing_rule scaled = {GATING_SIGMOID, true, 2.5f};

static uint32_t random_state;

static float draw(void) {
    random_state = random_state * 1664525 + 1013904223;
    return (float)(int32_t)random_state / 2147483648.0f * 6.0f;
}

/* ---- the formulas, as they are written down ---- */

typedef struct {
    double p;
    uint32_t expert;
} scored;

static int best_first(const void *a, const void *b) {
    const scored *x = a, *y = b;
    if (x->p != y->p) return x->p > y->p ? -1 : 1;
    return x->expert < y->expert ? -1 : 1;
}

static void reference(const routing_rule *rule, uint32_t n, uint32_t k,
                      const float *z, scored *out) {
    double most = -INFINITY, sum = 0.0;
    for (uint32_t e = 0; e < n; e++)
        most = fmax(most, z[e]);
    for (uint32_t e = 0; e < n; e++)
        sum += exp(z[e] - most);
    for (uint32_t e = 0; e < n; e++) {
        double p = rule->gating == GATING_SOFTMAX ? exp(z[e] - most) / sum
                                                  : 1.0 / (1.0 + exp(-z[e]));
        out[e] = (scored){p, e};
    }
    qsort(out, n, sizeof(*out), best_first);
    double chosen = 0.0;
    for (uint32_t i = 0; i < k; i++)
        chosen += out[i].p;
    for (uint32_t i = 0; i < k; i++) {
        if (rule->renormalize) out[i].p /= fmax(chosen, 6.1035e-5);
        if (rule->scale != 0.0f) out[i].p *= (double)rule->scale;
    }
}

static void compare(const routing_rule *rule, uint32_t n, uint32_t k) {
    static float scores[MOST], weights[MOST];
    static uint32_t experts[MOST];
    static scored expected[MOST];
    for (uint32_t e = 0; e < n; e++)
        scores[e] = draw();
    reference(rule, n, k, scores, expected);
    assert_int_equal(router_choose(rule, n, k, scores, experts, weights), 0);
    for (uint32_t i = 0; i < k; i++) {
        assert_int_equal(experts[i], expected[i].expert);
        assert_true(fabs((double)weights[i] - expected[i].p) <
                    1e-5 * expected[i].p + 1e-9);
    }
}

static void follows_the_formulas(void **state) {
    (void)state;
    const routing_rule *rules[] = {&mixtral, &olmoe, &scaled};
    random_state = 1;
    for (uint32_t i = 0; i < 300; i++) {
        compare(rules[i % 3], 8, 2);
        compare(rules[i % 3], 1 + i % 40, 1 + i % (1 + i % 40));
    }
}

static void chooses_among_thousands(void **state) {
    (void)state;
    random_state = 7;
    compare(&olmoe, MOST, 8);
    compare(&mixtral, MOST, 1);
    compare(&mixtral, MOST, 32);
}

static void takes_all_when_k_is_n(void **state) {
    (void)state;
    float scores[4] = {0.1f, 3.0f, -1.0f, 2.0f}, weights[4];
    uint32_t experts[4];
    assert_int_equal(router_choose(&mixtral, 4, 4, scores, experts, weights),
                     0);
    const uint32_t order[4] = {1, 3, 0, 2};
    assert_memory_equal(experts, order, sizeof(order));
    float sum = weights[0] + weights[1] + weights[2] + weights[3];
    assert_float_equal(sum, 1.0f, 1e-6f);
}

static void gives_a_tie_to_the_lower_expert(void **state) {
    (void)state;
    float scores[6] = {1.0f, 2.0f, 1.0f, 2.0f, 1.0f, 2.0f}, weights[4];
    uint32_t experts[4];
    assert_int_equal(router_choose(&olmoe, 6, 4, scores, experts, weights), 0);
    const uint32_t order[4] = {1, 3, 5, 0};
    assert_memory_equal(experts, order, sizeof(order));
    assert_true(weights[0] == weights[1] && weights[1] == weights[2]);
}

static void a_zero_of_either_sign_is_a_tie(void **state) {
    (void)state;
    float scores[3] = {-0.0f, 0.0f, -0.0f}, weights[2];
    uint32_t experts[2];
    assert_int_equal(router_choose(&scaled, 3, 2, scores, experts, weights), 0);
    assert_int_equal(experts[0], 0);
    assert_int_equal(experts[1], 1);
}

static void never_prefers_what_is_not_a_number(void **state) {
    (void)state;
    float scores[4] = {NAN, -50.0f, NAN, 1.0f}, weights[3];
    uint32_t experts[3];
    assert_int_equal(router_choose(&scaled, 4, 3, scores, experts, weights), 0);
    const uint32_t order[3] = {3, 1, 0};
    assert_memory_equal(experts, order, sizeof(order));
}

/* Whatever the scores are, the experts exist and differ: other code relies on
 * it. */
static void chooses_real_experts_from_any_scores(void **state) {
    (void)state;
    const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 0.0f};
    const routing_rule *rules[] = {&mixtral, &olmoe, &scaled};
    random_state = 3;
    for (uint32_t round = 0; round < 2000; round++) {
        float scores[8], weights[5];
        uint32_t experts[5], seen = 0;
        for (uint32_t e = 0; e < 8; e++) {
            random_state = random_state * 1664525 + 1013904223;
            scores[e] = odd[(random_state >> 16) % 6];
        }
        assert_int_equal(
            router_choose(rules[round % 3], 8, 5, scores, experts, weights), 0);
        for (uint32_t i = 0; i < 5; i++) {
            assert_true(experts[i] < 8);
            assert_false(seen >> experts[i] & 1);
            seen |= 1u << experts[i];
        }
    }
}

static void tiny_weights_are_not_blown_up(void **state) {
    (void)state;
    /* sigmoid(-40) is about 4e-18: the divisor's floor keeps the sum small */
    float scores[3] = {-40.0f, -41.0f, -42.0f}, weights[2];
    uint32_t experts[2];
    routing_rule rule = {GATING_SIGMOID, true, 1.0f};
    assert_int_equal(router_choose(&rule, 3, 2, scores, experts, weights), 0);
    assert_true(weights[0] > 0.0f && weights[0] + weights[1] < 1e-12f);
}

static void refuses_a_choice_that_is_none(void **state) {
    (void)state;
    float scores[2] = {1.0f, 2.0f}, weights[3];
    uint32_t experts[3];
    assert_int_equal(router_choose(&mixtral, 2, 0, scores, experts, weights),
                     ERR_RANGE);
    assert_int_equal(router_choose(&mixtral, 2, 3, scores, experts, weights),
                     ERR_RANGE);
    assert_true(scores[0] == 1.0f); /* untouched */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(follows_the_formulas),
        cmocka_unit_test(chooses_among_thousands),
        cmocka_unit_test(takes_all_when_k_is_n),
        cmocka_unit_test(gives_a_tie_to_the_lower_expert),
        cmocka_unit_test(a_zero_of_either_sign_is_a_tie),
        cmocka_unit_test(never_prefers_what_is_not_a_number),
        cmocka_unit_test(chooses_real_experts_from_any_scores),
        cmocka_unit_test(tiny_weights_are_not_blown_up),
        cmocka_unit_test(refuses_a_choice_that_is_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
