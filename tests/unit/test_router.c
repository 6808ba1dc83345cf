/* test_router.c - which experts a row goes to, and with what weight.
 *
 * Each step by values derived by hand; then all of them together against the
 * formulas as router.h writes them down, in double precision and by sorting. */
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
#include "engine/util.h"

#define MOST 4096

static const routing_rule softmax = {.gating = GATING_SOFTMAX};
static const routing_rule sigmoid = {.gating = GATING_SIGMOID};
static const routing_rule mixtral = {.gating = GATING_SOFTMAX,
                                     .renormalize = true};
static const routing_rule gpt_oss = {.gating = GATING_CHOSEN_SOFTMAX};
static const routing_rule softplus = {
    .gating = GATING_SQRT_SOFTPLUS, .renormalize = true, .scale = 1.5f};
static const routing_rule llama4 = {
    .gating = GATING_SIGMOID, .by_logit = true, .scale_input = true};
static const routing_rule deepseek = {.gating = GATING_SIGMOID,
                                      .renormalize = true,
                                      .scale = 2.5f,
                                      .n_groups = 8,
                                      .n_groups_used = 4};

/* What was chosen, best first. */
static uint32_t experts[MOST];
static float weights[MOST];

static int choose(const router *r, const float *z) {
    static float scores[MOST];
    router_scratch scratch;
    memcpy(scores, z, r->n_experts * sizeof(*z));
    assert_int_equal(router_scratch_init(&scratch, r->rule, r->n_experts), 0);
    int rc = router_choose(r, &scratch, scores, experts, weights);
    router_scratch_fini(&scratch);
    return rc;
}

static void choose_plain(const routing_rule *rule, uint32_t n, uint32_t k,
                         const float *z) {
    const router r = {.rule = rule, .n_experts = n, .n_used = k};
    assert_int_equal(choose(&r, z), 0);
}

static void assert_experts(size_t k, const uint32_t *expected) {
    for (size_t i = 0; i < k; i++) {
        assert_int_equal(experts[i], expected[i]);
    }
}

static void assert_weights(size_t k, const double *expected) {
    for (size_t i = 0; i < k; i++) {
        double off = fabs((double)weights[i] - expected[i]);
        assert_true(off <= 1e-6 * fabs(expected[i]) + 1e-12);
    }
}

/* ---- step by step ---- */

static void a_bias_is_added_to_the_logits(void **state) {
    (void)state;
    const float z[3] = {0.0f, 0.0f, 0.0f};
    const float bias[3] = {0.0f, 0.693147181f, 1.60943791f}; /* ln 1, 2, 5 */
    const router r = {
        .rule = &softmax, .n_experts = 3, .n_used = 2, .bias = bias};
    assert_int_equal(choose(&r, z), 0);
    assert_experts(2, (uint32_t[]){2, 1});
    assert_weights(2, (double[]){5.0 / 8, 2.0 / 8});
}

static void softmax_is_over_all_experts(void **state) {
    (void)state;
    const float z[3] = {0.0f, 0.693147181f, 1.60943791f};
    choose_plain(&softmax, 3, 2, z);
    assert_experts(2, (uint32_t[]){2, 1});
    assert_weights(2, (double[]){0.625, 0.25});
}

static void sigmoid_is_of_each_expert(void **state) {
    (void)state;
    const float z[3] = {-1.09861229f, 0.0f, 1.09861229f}; /* ln 1/3, 1, 3 */
    choose_plain(&sigmoid, 3, 3, z);
    assert_experts(3, (uint32_t[]){2, 1, 0});
    assert_weights(3, (double[]){0.75, 0.5, 0.25});
}

static void softmax_may_be_over_the_chosen_logits_alone(void **state) {
    (void)state;
    const float z[4] = {-3.0f, 1.09861229f, 0.0f, -0.1f};
    choose_plain(&gpt_oss, 4, 2, z);
    assert_experts(2, (uint32_t[]){1, 2});
    assert_weights(2, (double[]){0.75, 0.25});
}

/* ln(e - 1), ln(e^4 - 1): softplus 1 and 4; and both tails. */
static void square_roots_of_softplus(void **state) {
    (void)state;
    const routing_rule rule = {.gating = GATING_SQRT_SOFTPLUS};
    const float z[4] = {0.541324855f, 3.98151445f, -40.0f, 100.0f};
    choose_plain(&rule, 4, 4, z);
    assert_experts(4, (uint32_t[]){3, 1, 0, 2});
    assert_weights(4, (double[]){10.0, 2.0, 1.0, 2.0611536224385579e-9});
}

static void the_selection_bias_chooses_and_does_not_weigh(void **state) {
    (void)state;
    const float z[3] = {1.09861229f, 0.0f, -9.0f};
    const float bias[3] = {0.0f, 0.5f, 0.0f};
    const router r = {
        .rule = &sigmoid, .n_experts = 3, .n_used = 2, .selection_bias = bias};
    assert_int_equal(choose(&r, z), 0);
    assert_experts(2, (uint32_t[]){1, 0}); /* 1.0 before 0.75 */
    assert_weights(2, (double[]){0.5, 0.75});
}

/* Logits of which sigmoid makes the same 1.0f. */
static void choice_may_be_by_logit(void **state) {
    (void)state;
    const float z[2] = {30.0f, 40.0f};
    choose_plain(&sigmoid, 2, 1, z);
    assert_int_equal(experts[0], 0);
    choose_plain(&llama4, 2, 1, z);
    assert_int_equal(experts[0], 1);
    assert_true(weights[0] == 1.0f);
}

/* Selection scores are given as the bias of scores that are all alike. */
static void choose_in_groups(uint32_t n, uint32_t k, uint32_t n_groups,
                             uint32_t n_used, const float *s) {
    const routing_rule rule = {.gating = GATING_SIGMOID,
                               .n_groups = n_groups,
                               .n_groups_used = n_used};
    static const float z[MOST];
    const router r = {
        .rule = &rule, .n_experts = n, .n_used = k, .selection_bias = s};
    assert_int_equal(choose(&r, z), 0);
}

static void groups_count_by_their_two_best(void **state) {
    (void)state;
    /* sums 1.0, 1.1, 0.5: the best expert is not in the best group */
    const float pairs[6] = {0.9f, 0.1f, 0.6f, 0.5f, 0.2f, 0.3f};
    choose_in_groups(6, 2, 3, 1, pairs);
    assert_experts(2, (uint32_t[]){2, 3});
    choose_in_groups(6, 3, 3, 2, pairs);
    assert_experts(3, (uint32_t[]){0, 2, 3});
    /* only two count: 0.9 + 0.2 beats 0.5 + 0.5, whose third is large too */
    const float triples[6] = {0.5f, 0.5f, 0.5f, 0.9f, 0.2f, 0.0f};
    choose_in_groups(6, 1, 2, 1, triples);
    assert_experts(1, (uint32_t[]){3});
    /* negative scores have sums as well */
    const float negative[4] = {-0.9f, -0.1f, -0.4f, -0.5f};
    choose_in_groups(4, 2, 2, 1, negative);
    assert_experts(2, (uint32_t[]){2, 3});
}

static void a_group_of_one_counts_by_its_expert(void **state) {
    (void)state;
    const float s[4] = {0.1f, 0.7f, -0.2f, 0.4f};
    choose_in_groups(4, 2, 4, 2, s);
    assert_experts(2, (uint32_t[]){1, 3});
}

static void a_tie_of_groups_goes_to_the_lower_one(void **state) {
    (void)state;
    const float s[6] = {0.0f, 0.1f, 0.5f, 0.25f, 0.25f, 0.5f};
    choose_in_groups(6, 2, 3, 1, s);
    assert_experts(2, (uint32_t[]){2, 3});
}

static void weights_are_made_to_sum_to_one(void **state) {
    (void)state;
    const float z[3] = {0.0f, 0.693147181f, 1.60943791f};
    choose_plain(&mixtral, 3, 2, z);
    assert_weights(2, (double[]){5.0 / 7, 2.0 / 7});
}

static void tiny_weights_are_not_blown_up(void **state) {
    (void)state;
    /* sigmoid(-40) is about 4e-18: the divisor's floor keeps the sum small */
    const routing_rule rule = {.gating = GATING_SIGMOID, .renormalize = true};
    const float z[3] = {-40.0f, -41.0f, -42.0f};
    choose_plain(&rule, 3, 2, z);
    assert_true(weights[0] > 0.0f && weights[0] + weights[1] < 1e-12f);
    assert_weights(1, (double[]){4.248354255291589e-18 / 6.1035e-5});
}

static void a_scale_multiplies_the_weights(void **state) {
    (void)state;
    const float z[2] = {0.0f, 1.09861229f};
    const float scales[] = {0.0f, 1.0f, 2.5f, 0.5f};
    for (size_t i = 0; i < ARRAY_LEN(scales); i++) {
        routing_rule rule = {.gating = GATING_SIGMOID, .scale = scales[i]};
        double by = scales[i] == 0.0f ? 1.0 : (double)scales[i];
        choose_plain(&rule, 2, 2, z);
        assert_weights(2, (double[]){0.75 * by, 0.5 * by});
    }
}

/* ---- all steps together ---- */

static uint32_t random_state;

static float draw(void) {
    random_state = random_state * 1664525 + 1013904223;
    return (float)(int32_t)random_state / 2147483648.0f * 6.0f;
}

typedef struct {
    double s, p;
    uint32_t item;
} scored;

static int best_first(const void *a, const void *b) {
    const scored *x = a, *y = b;
    if (x->s != y->s) return x->s > y->s ? -1 : 1;
    return x->item < y->item ? -1 : 1;
}

static double score(gating_func gating, double z, double most, double sum) {
    switch (gating) {
    case GATING_SOFTMAX:
        return exp(z - most) / sum;
    case GATING_SIGMOID:
        return 1.0 / (1.0 + exp(-z));
    case GATING_SQRT_SOFTPLUS:
        return sqrt(log1p(exp(z)));
    default:
        return z;
    }
}

static void drop_groups(const routing_rule *rule, uint32_t n, scored *all) {
    static scored groups[MOST], of_group[MOST];
    uint32_t size = n / rule->n_groups;
    for (uint32_t g = 0; g < rule->n_groups; g++) {
        memcpy(of_group, all + (size_t)g * size, size * sizeof(*all));
        qsort(of_group, size, sizeof(*all), best_first);
        double sum = of_group[0].s + (size > 1 ? of_group[1].s : 0.0);
        groups[g] = (scored){sum, 0.0, g};
    }
    qsort(groups, rule->n_groups, sizeof(*groups), best_first);
    for (uint32_t i = rule->n_groups_used; i < rule->n_groups; i++) {
        for (uint32_t e = 0; e < size; e++) {
            all[groups[i].item * size + e].s = -INFINITY;
        }
    }
}

/* The chosen are left in front, p being their weights. */
static void reference(const router *r, const float *z, scored *out) {
    const routing_rule *rule = r->rule;
    double most = -INFINITY, sum = 0.0, chosen = 0.0;
    for (uint32_t e = 0; e < r->n_experts; e++)
        most = fmax(most, (double)z[e]);
    for (uint32_t e = 0; e < r->n_experts; e++)
        sum += exp((double)z[e] - most);
    for (uint32_t e = 0; e < r->n_experts; e++) {
        double p = score(rule->gating, (double)z[e], most, sum);
        double bias = r->selection_bias != NULL ? r->selection_bias[e] : 0.0;
        out[e] = (scored){(rule->by_logit ? (double)z[e] : p) + bias, p, e};
    }
    if (rule->n_groups > 1) drop_groups(rule, r->n_experts, out);
    qsort(out, r->n_experts, sizeof(*out), best_first);
    if (rule->gating == GATING_CHOSEN_SOFTMAX) {
        most = out[0].p; /* no bias goes with it here */
        for (uint32_t i = 0; i < r->n_used; i++)
            out[i].p = exp(out[i].p - most);
    }
    for (uint32_t i = 0; i < r->n_used; i++)
        chosen += out[i].p;
    for (uint32_t i = 0; i < r->n_used; i++) {
        if (rule->gating == GATING_CHOSEN_SOFTMAX) out[i].p /= chosen;
        if (rule->renormalize) out[i].p /= fmax(chosen, 6.1035e-5);
        if (rule->scale != 0.0f) out[i].p *= (double)rule->scale;
    }
}

static void compare(const routing_rule *rule, uint32_t n, uint32_t k,
                    bool biased) {
    static float z[MOST], bias[MOST];
    static scored expected[MOST];
    const router r = {.rule = rule,
                      .n_experts = n,
                      .n_used = k,
                      .selection_bias = biased ? bias : NULL};
    for (uint32_t e = 0; e < n; e++) {
        z[e] = draw();
        bias[e] = draw() / 20.0f;
    }
    reference(&r, z, expected);
    assert_int_equal(choose(&r, z), 0);
    for (uint32_t i = 0; i < k; i++) {
        assert_int_equal(experts[i], expected[i].item);
        assert_true(fabs((double)weights[i] - expected[i].p) <
                    1e-5 * expected[i].p + 1e-9);
    }
}

static void follows_the_formulas(void **state) {
    (void)state;
    const routing_rule *rules[] = {&mixtral, &softmax,  &sigmoid,
                                   &gpt_oss, &softplus, &llama4};
    random_state = 1;
    for (uint32_t i = 0; i < 300; i++) {
        const routing_rule *rule = rules[i % ARRAY_LEN(rules)];
        bool biased = i % 2 == 0 && rule->gating != GATING_CHOSEN_SOFTMAX;
        compare(rule, 8, 2, biased);
        compare(rule, 1 + i % 40, 1 + i % (1 + i % 40), biased);
        compare(&deepseek, 256, 8, biased);
    }
}

static void chooses_among_thousands(void **state) {
    (void)state;
    random_state = 7;
    compare(&softmax, MOST, 8, false);
    compare(&mixtral, MOST, 1, false);
    compare(&mixtral, MOST, 1000, true);
    compare(&deepseek, MOST, MOST / 2, true);
}

static void chooses_all_of_thousands(void **state) {
    (void)state;
    random_state = 8;
    compare(&sigmoid, MOST, MOST, true);
    compare(&gpt_oss, MOST, MOST, false);
}

/* ---- ties, and logits that are none ---- */

static void gives_a_tie_to_the_lower_expert(void **state) {
    (void)state;
    const float z[6] = {1.0f, 2.0f, 1.0f, 2.0f, 1.0f, 2.0f};
    choose_plain(&softmax, 6, 4, z);
    assert_experts(4, (uint32_t[]){1, 3, 5, 0});
    assert_true(weights[0] == weights[1] && weights[1] == weights[2]);
}

static void a_zero_of_either_sign_is_a_tie(void **state) {
    (void)state;
    const float z[3] = {-0.0f, 0.0f, -0.0f};
    choose_plain(&sigmoid, 3, 2, z);
    assert_experts(2, (uint32_t[]){0, 1});
    choose_plain(&gpt_oss, 3, 2, z);
    assert_experts(2, (uint32_t[]){0, 1});
}

static void never_prefers_what_is_not_a_number(void **state) {
    (void)state;
    const float z[4] = {NAN, -50.0f, NAN, 1.0f};
    choose_plain(&sigmoid, 4, 3, z);
    assert_experts(3, (uint32_t[]){3, 1, 0});
    choose_plain(&softplus, 4, 3, z);
    assert_experts(3, (uint32_t[]){3, 1, 0});
}

/* Whatever the scores are, the experts exist and differ: other code relies on
 * it. */
static void chooses_real_experts_from_any_scores(void **state) {
    (void)state;
    const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 0.0f};
    const routing_rule grouped = {
        .gating = GATING_SIGMOID, .n_groups = 4, .n_groups_used = 3};
    const routing_rule *rules[] = {&mixtral,  &softmax, &sigmoid, &gpt_oss,
                                   &softplus, &llama4,  &grouped};
    random_state = 3;
    for (uint32_t round = 0; round < 2000; round++) {
        float z[8];
        uint32_t seen = 0;
        for (uint32_t e = 0; e < 8; e++) {
            random_state = random_state * 1664525 + 1013904223;
            z[e] = odd[(random_state >> 16) % 6];
        }
        choose_plain(rules[round % ARRAY_LEN(rules)], 8, 5, z);
        for (uint32_t i = 0; i < 5; i++) {
            assert_true(experts[i] < 8);
            assert_false(seen >> experts[i] & 1);
            seen |= 1u << experts[i];
        }
    }
}

static void refuses_a_choice_that_is_none(void **state) {
    (void)state;
    const float z[2] = {1.0f, 2.0f};
    router r = {.rule = &mixtral, .n_experts = 2, .n_used = 0};
    assert_int_equal(choose(&r, z), ERR_RANGE);
    r.n_used = 3;
    assert_int_equal(choose(&r, z), ERR_RANGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bias_is_added_to_the_logits),
        cmocka_unit_test(softmax_is_over_all_experts),
        cmocka_unit_test(sigmoid_is_of_each_expert),
        cmocka_unit_test(softmax_may_be_over_the_chosen_logits_alone),
        cmocka_unit_test(square_roots_of_softplus),
        cmocka_unit_test(the_selection_bias_chooses_and_does_not_weigh),
        cmocka_unit_test(choice_may_be_by_logit),
        cmocka_unit_test(groups_count_by_their_two_best),
        cmocka_unit_test(a_group_of_one_counts_by_its_expert),
        cmocka_unit_test(a_tie_of_groups_goes_to_the_lower_one),
        cmocka_unit_test(weights_are_made_to_sum_to_one),
        cmocka_unit_test(tiny_weights_are_not_blown_up),
        cmocka_unit_test(a_scale_multiplies_the_weights),
        cmocka_unit_test(follows_the_formulas),
        cmocka_unit_test(chooses_among_thousands),
        cmocka_unit_test(chooses_all_of_thousands),
        cmocka_unit_test(gives_a_tie_to_the_lower_expert),
        cmocka_unit_test(a_zero_of_either_sign_is_a_tie),
        cmocka_unit_test(never_prefers_what_is_not_a_number),
        cmocka_unit_test(chooses_real_experts_from_any_scores),
        cmocka_unit_test(refuses_a_choice_that_is_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
