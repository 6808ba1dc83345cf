/* test_weight_pages.c - where packed weights lie: zeroed, apart, given back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "engine/weight_pages.h"

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)
#define N_BLOCKS 64
#define ROUNDS 2000

typedef struct {
    uint8_t *at;
    size_t bytes;
    uint8_t mark;
} block;

static bool holds(const uint8_t *at, size_t n, uint8_t value) {
    return n == 0 || (at[0] == value && memcmp(at, at + 1, n - 1) == 0);
}

static block make(size_t bytes, uint8_t mark) {
    block b = {weight_pages_new(bytes), bytes, mark};
    assert_non_null(b.at);
    assert_int_equal((uintptr_t)b.at % 64, 0);
    assert_true(holds(b.at, bytes, 0));
    memset(b.at, mark, bytes);
    return b;
}

static void drop(block *b) {
    assert_true(holds(b->at, b->bytes, b->mark));
    weight_pages_free(b->at, b->bytes);
    *b = (block){0};
}

/* Sizes from the heap, within a chunk, and with a mapping of their own. */
static void gives_zeroed_memory_of_any_size(void **state) {
    static const size_t sizes[] = {
        1, 64 * KIB - 1, 64 * KIB, 300 * KIB, 2 * MIB, 32 * MIB, 32 * MIB + 1};
    (void)state;
    uint64_t before = weight_pages_in_use();
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        block b = make(sizes[i], 7);
        drop(&b);
    }
    assert_int_equal(weight_pages_in_use(), before);
}

/* Blocks come and go in a fixed, mixed order; none ever sees another's bytes.
 */
static void keeps_blocks_apart_and_free_memory_zero(void **state) {
    block blocks[N_BLOCKS] = {0};
    uint32_t seed = 1;
    (void)state;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        seed = seed * 1664525u + 1013904223u;
        block *b = &blocks[seed >> 16 & (N_BLOCKS - 1)];
        if (b->at != NULL) drop(b);
        size_t bytes = 64 * KIB + (seed >> 8) % (700 * KIB);
        if (i % 3 != 0) *b = make(bytes, (uint8_t)(i | 1));
    }
    for (size_t i = 0; i < N_BLOCKS; i++) {
        if (blocks[i].at != NULL) drop(&blocks[i]);
    }
    assert_int_equal(weight_pages_in_use(), 0);
}

/* Many equal matrices, as experts are, take hardly more than their size. */
static void wastes_little(void **state) {
    static block blocks[200];
    const size_t bytes = 1216 * KIB + 64;
    (void)state;
    for (size_t i = 0; i < 200; i++)
        blocks[i] = make(bytes, 3);
    assert_true(weight_pages_in_use() <= 200 * bytes / 100 * 101);
    uintptr_t low = UINTPTR_MAX, high = 0;
    for (size_t i = 0; i < 50; i++) { /* those that one chunk has room for */
        uintptr_t at = (uintptr_t)blocks[i].at;
        if (at < low) low = at;
        if (at + bytes > high) high = at + bytes;
    }
    assert_true(high - low <= 64 * MIB);
    for (size_t i = 0; i < 200; i++)
        drop(&blocks[i]);
}

static void has_no_block_that_no_memory_can_hold(void **state) {
    (void)state;
    assert_null(weight_pages_new(SIZE_MAX));
    assert_null(weight_pages_new(SIZE_MAX / 2));
    assert_null(weight_pages_new(SIZE_MAX - 4096));
    weight_pages_free(NULL, 100);
    assert_int_equal(weight_pages_in_use(), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_zeroed_memory_of_any_size),
        cmocka_unit_test(keeps_blocks_apart_and_free_memory_zero),
        cmocka_unit_test(wastes_little),
        cmocka_unit_test(has_no_block_that_no_memory_can_hold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
