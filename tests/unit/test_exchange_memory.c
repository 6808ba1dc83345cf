/* test_exchange_memory.c - what a layer's way to the nodes and back asks of the
 * allocator, once everything has its size: a request is a header and the rows,
 * each of them one block that is passed on, and nothing else.
 *
 * Calls are counted on the thread of the layer, by standing before the C
 * library's own. */
#include "tests/unit/exchange_rig.h"

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) &&                    \
    !defined(__SANITIZE_THREAD__)
#define COUNTS_CALLS 1

extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t n, size_t bytes);
extern void *__libc_realloc(void *p, size_t bytes);
extern void *__libc_memalign(size_t align, size_t bytes);

static _Thread_local unsigned n_calls;

/* For the libraries, too. */
#define SEEN __attribute__((visibility("default")))

SEEN void *malloc(size_t bytes) {
    n_calls++;
    return __libc_malloc(bytes);
}
SEEN void *calloc(size_t n, size_t bytes) {
    n_calls++;
    return __libc_calloc(n, bytes);
}
SEEN void *realloc(void *p, size_t bytes) {
    n_calls++;
    return __libc_realloc(p, bytes);
}
SEEN void *aligned_alloc(size_t align, size_t bytes) {
    n_calls++;
    return __libc_memalign(align, bytes);
}
#else
static unsigned n_calls;
#endif

#define WARM_UP 50
#define LAYERS 200

static void a_layer_allocates_only_its_messages(void **state) {
    (void)state;
#ifndef COUNTS_CALLS
    skip();
#endif
    rig *r = open_rig(GOOD, GOOD, PATIENT);
    post(r, BOTH, 0);
    for (uint32_t i = 0; i < WARM_UP; i++)
        assert_int_equal(run(r, i % 2), 0);
    uint64_t calls = totals(r).calls;
    unsigned before = n_calls;
    for (uint32_t i = 0; i < LAYERS; i++)
        assert_int_equal(run(r, i % 2), 0);
    unsigned made = n_calls - before;
    calls = totals(r).calls - calls;
    assert_true(calls >= LAYERS);
    assert_int_equal(made, 2 * calls); /* also: they are counted at all */
    close_rig(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_layer_allocates_only_its_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
