/* test_perplexity.c - the measure, by values worked out on paper. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include "client/perplexity.h"
#include "engine/err.h"
#include "engine/util.h"

static void is_the_vocabulary_for_a_model_that_knows_nothing(void **state) {
    const float logits[5] = {3.0f, 3.0f, 3.0f, 3.0f, 3.0f};
    perplexity p = {0};
    (void)state;
    for (uint32_t token = 0; token < 5; token++)
        assert_int_equal(perplexity_add(&p, logits, 5, token), 0);
    assert_float_equal(perplexity_value(&p), 5.0, 1e-12);
    assert_float_equal(perplexity_error(&p), 0.0, 1e-7);
}

/* Probabilities 1/2 and 1/8: the mean of log 2 and log 8 is log 4; the
 * deviation of the two from it is log 2. */
static void is_the_geometric_mean_of_what_was_unlikely(void **state) {
    const float half[2] = {0.0f, 0.0f};
    const float eighth[2] = {0.0f, 1.9459101f}; /* log 7 */
    perplexity p = {0};
    (void)state;
    assert_int_equal(perplexity_add(&p, half, 2, 0), 0);
    assert_int_equal(perplexity_add(&p, eighth, 2, 0), 0);
    assert_float_equal(perplexity_value(&p), 4.0, 1e-6);
    assert_float_equal(perplexity_error(&p), 4.0 * log(2.0), 1e-5);
}

static void bears_logits_that_overflow_an_exponential(void **state) {
    const float logits[2] = {30000.0f, 29999.0f};
    perplexity p = {0};
    (void)state;
    assert_int_equal(perplexity_add(&p, logits, 2, 0), 0);
    assert_float_equal(perplexity_value(&p), 1.0 + exp(-1.0), 1e-9);
}

static void scores_the_second_half_of_a_window(void **state) {
    (void)state;
    assert_int_equal(perplexity_needs(512), 1024);
    uint32_t scored = 0;
    for (uint32_t j = 0; j < 512; j++)
        scored += perplexity_scores(512, j) != 0;
    assert_int_equal(scored, 255); /* rows 256 to 510 */
    assert_false(perplexity_scores(512, 255));
    assert_true(perplexity_scores(512, 256));
    assert_true(perplexity_scores(512, 510));
    assert_false(perplexity_scores(512, 511)); /* nothing comes after it */
    assert_true(perplexity_scores(PERPLEXITY_CTX_LEAST, 2));
}

static void refuses_what_cannot_be_scored(void **state) {
    const float odd[] = {NAN, INFINITY, -INFINITY};
    perplexity p = {0};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(odd); i++) {
        const float logits[2] = {0.0f, odd[i]};
        assert_int_equal(perplexity_add(&p, logits, 2, 0), ERR_RANGE);
    }
    const float logits[2] = {0.0f, 0.0f};
    assert_int_equal(perplexity_add(&p, logits, 2, 2), ERR_RANGE);
    assert_int_equal(p.n_scored, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_the_vocabulary_for_a_model_that_knows_nothing),
        cmocka_unit_test(is_the_geometric_mean_of_what_was_unlikely),
        cmocka_unit_test(bears_logits_that_overflow_an_exponential),
        cmocka_unit_test(scores_the_second_half_of_a_window),
        cmocka_unit_test(refuses_what_cannot_be_scored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
