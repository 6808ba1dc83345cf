/* test_kept_rows.c - which rows are the same, and for how long that is known.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include <xxhash.h>
#include "coordinator/kept_rows.h"
#include "engine/err.h"

#define ROW 32

static kept_rows *some(uint32_t capacity) {
    kept_rows *k;
    assert_int_equal(kept_rows_new(&k, capacity, ROW), 0);
    return k;
}

static void finds_what_was_added(void **state) {
    uint8_t one[ROW] = {1}, two[ROW] = {2};
    (void)state;

    kept_rows *k = some(4);
    assert_int_equal(kept_rows_find(k, one, ROW, 1), 0);
    uint64_t number = kept_rows_add(k, one, ROW, 1);
    assert_int_not_equal(number, 0);
    assert_int_equal(kept_rows_find(k, one, ROW, 1), number);
    assert_int_equal(kept_rows_add(k, one, ROW, 1), number);
    assert_int_equal(kept_rows_find(k, two, ROW, 1), 0);
    assert_int_not_equal(kept_rows_add(k, two, ROW, 1), number);
    kept_rows_free(k);
}

static void tells_rows_of_another_cut_or_length_apart(void **state) {
    uint8_t row[ROW] = {1};
    (void)state;

    kept_rows *k = some(4);
    uint64_t number = kept_rows_add(k, row, ROW, 1);
    assert_int_equal(kept_rows_find(k, row, ROW, 2), 0);
    assert_int_equal(kept_rows_find(k, row, ROW / 2, 1), 0);
    assert_int_not_equal(kept_rows_add(k, row, ROW, 2), number);
    kept_rows_free(k);
}

/* XXH3 multiplies pairs of words that were xor-ed with a secret everybody
 * knows: where the first is the secret itself, the second does not count. */
static void tells_rows_with_the_same_hash_apart(void **state) {
    const uint8_t secret[8] = {0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe};
    uint8_t one[ROW] = {0}, two[ROW] = {0};
    (void)state;

    memcpy(one, secret, sizeof(secret));
    memcpy(two, secret, sizeof(secret));
    one[8] = 1;
    two[8] = 2;
    assert_true(XXH3_64bits(one, ROW) == XXH3_64bits(two, ROW));
    kept_rows *k = some(4);
    uint64_t number = kept_rows_add(k, one, ROW, 1);
    assert_int_equal(kept_rows_find(k, two, ROW, 1), 0);
    assert_int_not_equal(kept_rows_add(k, two, ROW, 1), number);
    assert_int_equal(kept_rows_find(k, one, ROW, 1), number);
    kept_rows_free(k);
}

static void forgets_the_oldest_when_it_is_full(void **state) {
    uint8_t row[ROW] = {0};
    (void)state;

    kept_rows *k = some(2);
    for (uint8_t i = 1; i <= 5; i++) {
        row[0] = i;
        assert_int_equal(kept_rows_add(k, row, ROW, 1), i);
    }
    row[0] = 3;
    assert_int_equal(kept_rows_find(k, row, ROW, 1), 0);
    row[0] = 4;
    assert_int_equal(kept_rows_find(k, row, ROW, 1), 4);
    row[0] = 3; /* a number is never given twice */
    assert_int_equal(kept_rows_add(k, row, ROW, 1), 6);
    kept_rows_free(k);
}

static void refuses_to_keep_nothing(void **state) {
    kept_rows *k;
    (void)state;

    assert_int_equal(kept_rows_new(&k, 0, ROW), ERR_RANGE);
    assert_null(k);
    assert_int_equal(kept_rows_new(&k, UINT32_MAX, SIZE_MAX / 2), ERR_RANGE);
    kept_rows_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_what_was_added),
        cmocka_unit_test(tells_rows_of_another_cut_or_length_apart),
        cmocka_unit_test(tells_rows_with_the_same_hash_apart),
        cmocka_unit_test(forgets_the_oldest_when_it_is_full),
        cmocka_unit_test(refuses_to_keep_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
