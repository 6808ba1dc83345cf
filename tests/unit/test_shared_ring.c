/* test_shared_ring.c - whole messages through a ring in shared memory: given
 * back in any order or never, full, and from a peer that writes nonsense. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "engine/err.h"
#include "proto/shared_ring.h"

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

/* Both ends in one process, each with a map of its own, as two have. */
typedef struct {
    uint8_t *memory; /* as the writer sees it */
    shared_map *writers, *readers;
    shared_writer *out;
    shared_reader *in;
} fixture;

static uint8_t *map(int fd) {
    void *memory = mmap(NULL, SHARED_RING_BYTES, PROT_READ | PROT_WRITE,
                        MAP_SHARED, fd, 0);
    assert_ptr_not_equal(memory, MAP_FAILED);
    return memory;
}

static int open_ring(void **state) {
    fixture *x = calloc(1, sizeof(*x));
    assert_non_null(x);
    int fd = memfd_create("ring", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)SHARED_RING_BYTES), 0);
    x->memory = map(fd);
    x->writers = shared_map_new(x->memory, SHARED_RING_BYTES);
    x->readers = shared_map_new(map(fd), SHARED_RING_BYTES);
    close(fd);
    x->out = shared_writer_new(x->writers, 0);
    x->in = shared_reader_new(x->readers, 0);
    assert_non_null(x->out);
    assert_non_null(x->in);
    *state = x;
    return 0;
}

static int close_ring(void **state) {
    fixture *x = *state;
    shared_writer_free(x->out);
    shared_reader_free(x->in);
    shared_map_release(x->writers);
    shared_map_release(x->readers);
    free(x);
    return 0;
}

/* A message of a number and `bytes` bytes made from it. */
static void make(frames *f, uint32_t number, size_t bytes) {
    frames_init(f);
    memcpy(frames_add(f, sizeof(number)), &number, sizeof(number));
    memset(frames_add(f, bytes), (int)(number % 251), bytes);
}

static int put(fixture *x, uint32_t number, size_t bytes) {
    frames f;
    bool wake;
    make(&f, number, bytes);
    int rc = shared_put(x->out, &f, &wake);
    assert_int_equal(f.count, 2); /* it is copied */
    frames_fini(&f);
    return rc;
}

static void check(frames *f, uint32_t number, size_t bytes) {
    frames wanted;
    make(&wanted, number, bytes);
    assert_int_equal(f->count, 2);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(frames_bytes(f, i), frames_bytes(&wanted, i));
        assert_memory_equal(frames_data(f, i), frames_data(&wanted, i),
                            frames_bytes(f, i));
        assert_int_equal((uintptr_t)frames_data(f, i) % FRAMES_ALIGN, 0);
    }
    frames_fini(&wanted);
}

static void take(fixture *x, frames *f, uint32_t number, size_t bytes) {
    frames_init(f);
    assert_int_equal(shared_take(x->in, f), 0);
    check(f, number, bytes);
}

static void carries_messages_of_any_size(void **state) {
    fixture *x = *state;
    for (uint32_t i = 0; i < 3000; i++) {
        size_t bytes = i * 7919u % 200000;
        frames f;
        assert_int_equal(put(x, i, bytes), 0);
        take(x, &f, i, bytes);
        frames_fini(&f);
    }
    frames none;
    frames_init(&none);
    assert_int_equal(shared_take(x->in, &none), -EAGAIN);
}

static void is_full_at_some_point_and_loses_nothing(void **state) {
    fixture *x = *state;
    for (uint32_t round = 0; round < 3; round++) {
        uint32_t n = 0;
        while (put(x, n, MIB - 300 * round) == 0)
            n++;
        assert_in_range(n, 62, 64);
        for (uint32_t i = 0; i < n; i++) {
            frames f;
            take(x, &f, i, MIB - 300 * round);
            frames_fini(&f);
        }
    }
}

static void counts_small_messages_too(void **state) {
    fixture *x = *state;
    uint32_t n = 0;
    while (put(x, n, 1) == 0)
        n++;
    assert_int_equal(n, SHARED_RING_SLOTS);
    for (uint32_t i = 0; i < n; i++) {
        frames f;
        take(x, &f, i, 1);
        frames_fini(&f);
    }
}

static void takes_room_back_in_any_order(void **state) {
    fixture *x = *state;
    frames f[8];
    uint32_t n = 0;
    for (; n < 8; n++) {
        assert_int_equal(put(x, n, 3 * MIB), 0);
        take(x, &f[n], n, 3 * MIB);
    }
    for (uint32_t i = 1; i < 8; i += 2)
        frames_fini(&f[i]);
    while (put(x, n, 3 * MIB) == 0)
        n++;
    assert_in_range(n, 8 + 4 + 12, 8 + 4 + 13);
    for (uint32_t i = 0; i < 8; i += 2) {
        check(&f[i], i, 3 * MIB);
        frames_fini(&f[i]);
    }
}

/* One that is held for long, as answers are for a sequence that waits. */
static void goes_around_what_is_held(void **state) {
    fixture *x = *state;
    frames held, f;
    assert_int_equal(put(x, 1, 3 * MIB), 0);
    take(x, &held, 1, 3 * MIB);
    for (uint32_t i = 2; i < 3 * SHARED_RING_SLOTS; i++) {
        size_t bytes = i % 50 == 0 ? 9 * MIB : 3000;
        assert_int_equal(put(x, i, bytes), 0);
        take(x, &f, i, bytes);
        frames_fini(&f);
    }
    check(&held, 1, 3 * MIB);
    frames_fini(&held);
}

/* All answers of a layer are kept until the last of them is there. */
static void has_room_while_everything_is_held(void **state) {
    static const size_t sizes[] = {100, 512 * KIB};
    enum { MOST = 2 * SHARED_RING_SLOTS };
    fixture *x = *state;
    frames *f = calloc(MOST, sizeof(*f));
    assert_non_null(f);
    for (size_t k = 0; k < 2; k++) {
        uint32_t n = k == 0 ? MOST : 2 * SHARED_RING_BYTES / (512 * KIB);
        for (uint32_t i = 0; i < n; i++) {
            assert_int_equal(put(x, i, sizes[k]), 0);
            take(x, &f[i], i, sizes[k]);
        }
        for (uint32_t i = 0; i < n; i++) {
            check(&f[i], i, sizes[k]);
            frames_fini(&f[i]);
        }
    }
    free(f);
}

static void refuses_what_will_never_fit(void **state) {
    fixture *x = *state;
    frames f;
    assert_int_equal(put(x, 1, SHARED_RING_BYTES / 4), ERR_TOO_LARGE);
    for (uint32_t i = 0; i < 20; i++) {
        assert_int_equal(put(x, i, 15 * MIB - i * 100 * KIB), 0);
        take(x, &f, i, 15 * MIB - i * 100 * KIB);
        frames_fini(&f);
    }
}

static void parts_outlive_the_ends(void **state) {
    fixture *x = *state;
    frames f;
    assert_int_equal(put(x, 5, 1000), 0);
    take(x, &f, 5, 1000);
    shared_reader_free(x->in);
    x->in = NULL;
    shared_map_release(x->readers);
    x->readers = NULL;
    check(&f, 5, 1000);
    frames_fini(&f);
}

static void wakes_who_said_that_he_sleeps(void **state) {
    fixture *x = *state;
    frames f, none;
    bool wake = true;
    make(&f, 1, 1);
    assert_int_equal(shared_put(x->out, &f, &wake), 0);
    assert_false(wake);
    shared_wait(x->in);
    assert_int_equal(shared_put(x->out, &f, &wake), 0);
    assert_true(wake);
    assert_int_equal(shared_put(x->out, &f, &wake), 0);
    assert_false(wake); /* once */
    frames_fini(&f);
    for (int i = 0; i < 3; i++) {
        frames_init(&none);
        assert_int_equal(shared_take(x->in, &none), 0);
        frames_fini(&none);
    }
}

/* The second part's bytes stand in the first record; a head, and where each of
 * the records is, come before it. */
#define WHERE_AT ((size_t)128)
#define SIZES_AT (WHERE_AT + SHARED_RING_SLOTS * sizeof(uint32_t))

static int take_after(size_t at, uint32_t word) {
    void *own;
    open_ring(&own);
    fixture *x = own;
    assert_int_equal(put(x, 1, 500), 0);
    memcpy(x->memory + at, &word, sizeof(word));
    frames f;
    frames_init(&f);
    int rc = shared_take(x->in, &f);
    frames_fini(&f);
    close_ring(&own);
    return rc;
}

/* Each 32-bit word of a record's sizes, overwritten by a peer. */
static void believes_no_size_that_cannot_be(void **state) {
    static const uint32_t nonsense[] = {0, 1, 63, 0x7fffffc0, UINT32_MAX};
    (void)state;
    assert_int_equal(take_after(SIZES_AT + 4, 2), 0); /* it is the count */
    for (size_t word = 0; word < 4; word++) {
        for (size_t i = 0; i < sizeof(nonsense) / sizeof(nonsense[0]); i++) {
            /* Sizes that happen to fit the record are as good as others. */
            if (word == 2 && nonsense[i] <= 63) continue;
            assert_int_equal(take_after(SIZES_AT + 4 * word, nonsense[i]),
                             ERR_MALFORMED);
        }
    }
}

static void believes_no_place_that_cannot_be(void **state) {
    static const uint32_t nonsense[] = {1, 63, SHARED_RING_BYTES - 64,
                                        SHARED_RING_BYTES, 0xffffffc0};
    (void)state;
    for (size_t i = 0; i < sizeof(nonsense) / sizeof(nonsense[0]); i++)
        assert_int_equal(take_after(WHERE_AT, nonsense[i]), ERR_MALFORMED);
}

int main(void) {
#define RING(test) cmocka_unit_test_setup_teardown(test, open_ring, close_ring)
    const struct CMUnitTest tests[] = {
        RING(carries_messages_of_any_size),
        RING(is_full_at_some_point_and_loses_nothing),
        RING(counts_small_messages_too),
        RING(takes_room_back_in_any_order),
        RING(goes_around_what_is_held),
        RING(has_room_while_everything_is_held),
        RING(refuses_what_will_never_fit),
        RING(parts_outlive_the_ends),
        RING(wakes_who_said_that_he_sleeps),
        cmocka_unit_test(believes_no_size_that_cannot_be),
        cmocka_unit_test(believes_no_place_that_cannot_be),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
