/* test_heat_memory.c - what was needed most is known after a restart. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "engine/err.h"
#include "expert_node/heat_memory.h"
#include "tests/support/fixture.h"

static heat_memory_config config(const char *dir) {
    return (heat_memory_config){.dir = fixture_path(dir),
                                .cluster = "roster",
                                .name = "one",
                                .model = {1, 2, 3},
                                .n_layers = 2,
                                .n_experts = 4};
}

static heat_memory *reopen(const heat_memory_config *c) {
    heat_memory *h;
    assert_int_equal(heat_memory_open(&h, c), 0);
    return h;
}

/* The file's path, found by its name's end. */
static void only_file(const char *dir, char out[600]) {
    char command[700];
    snprintf(command, sizeof(command), "ls %s/*.heat", dir);
    FILE *p = popen(command, "r");
    assert_non_null(p);
    assert_non_null(fgets(out, 600, p));
    out[strcspn(out, "\n")] = '\0';
    pclose(p);
}

static void remembers_over_a_restart(void **state) {
    heat_memory_config c = config("heat-a");
    (void)state;
    heat_memory *h = reopen(&c);
    assert_true(heat_memory_of(h, 1, 2) == 0);
    heat_memory_add(h, 1, 2, 1000);
    heat_memory_add(h, 0, 3, 10);
    assert_int_equal(heat_memory_save(h), 0);
    heat_memory_close(h);

    h = reopen(&c);
    assert_true(heat_memory_of(h, 1, 2) > heat_memory_of(h, 0, 3));
    assert_true(heat_memory_of(h, 0, 3) > 0);
    assert_true(heat_memory_of(h, 0, 0) == 0);
    heat_memory_close(h);
}

static void fades_what_is_not_needed_any_more(void **state) {
    heat_memory_config c = config("heat-b");
    (void)state;
    heat_memory *h = reopen(&c);
    heat_memory_add(h, 0, 0, 1000);
    for (int i = 0; i < 8; i++) {
        heat_memory_add(h, 0, 1, 100);
        assert_int_equal(heat_memory_save(h), 0);
    }
    assert_true(heat_memory_of(h, 0, 1) > heat_memory_of(h, 0, 0));
    uint64_t before = heat_memory_of(h, 0, 1);
    assert_int_equal(heat_memory_save(h), 0); /* nothing new: as it was */
    assert_true(heat_memory_of(h, 0, 1) == before);
    heat_memory_close(h);
}

static void does_not_take_what_is_not_for_it(void **state) {
    heat_memory_config c = config("heat-c");
    (void)state;
    heat_memory *h = reopen(&c);
    heat_memory_add(h, 0, 0, 1000);
    assert_int_equal(heat_memory_save(h), 0);
    heat_memory_close(h);

    heat_memory_config others[4] = {c, c, c, c};
    others[0].model[5] = 9;
    others[1].n_experts = 8;
    others[2].name = "two";
    others[3].cluster = "other";
    for (int i = 0; i < 4; i++) {
        h = reopen(&others[i]);
        assert_true(heat_memory_of(h, 0, 0) == 0);
        heat_memory_close(h);
    }
}

static void is_cold_with_a_damaged_file(void **state) {
    heat_memory_config c = config("heat-d");
    char path[600];
    size_t n;
    (void)state;
    heat_memory *h = reopen(&c);
    heat_memory_add(h, 0, 0, 1000);
    assert_int_equal(heat_memory_save(h), 0);
    heat_memory_close(h);
    only_file(c.dir, path);
    uint8_t *bytes = fixture_read(path, &n);
    for (size_t at = 0; at < n; at += 7) {
        bytes[at] ^= 4;
        fixture_write(path, bytes, n);
        bytes[at] ^= 4;
        h = reopen(&c);
        assert_true(heat_memory_of(h, 0, 0) == 0);
        heat_memory_close(h);
    }
    fixture_write(path, bytes, n / 2);
    h = reopen(&c);
    assert_true(heat_memory_of(h, 0, 0) == 0);
    heat_memory_add(h, 0, 0, 1000); /* and is written anew */
    assert_int_equal(heat_memory_save(h), 0);
    heat_memory_close(h);
    h = reopen(&c);
    assert_true(heat_memory_of(h, 0, 0) > 0);
    heat_memory_close(h);
    free(bytes);
}

static void says_that_it_cannot_be_written(void **state) {
    heat_memory_config c = config("heat-e");
    heat_memory *h;
    (void)state;
    c.dir = "/proc/nowhere/at/all";
    h = reopen(&c);
    heat_memory_add(h, 0, 0, 1);
    assert_true(heat_memory_save(h) < 0);
    assert_true(heat_memory_of(h, 0, 0) > 0);
    heat_memory_close(h);
    c.n_layers = c.n_experts = 1u << 16;
    assert_int_equal(heat_memory_open(&h, &c), ERR_TOO_LARGE);
    assert_null(h);
}

static void counts_nothing_outside_the_model(void **state) {
    heat_memory_config c = config("heat-f");
    (void)state;
    heat_memory *h = reopen(&c);
    heat_memory_add(h, 2, 0, 5);
    heat_memory_add(h, 0, 4, 5);
    assert_true(heat_memory_of(h, 2, 0) == 0 && heat_memory_of(h, 0, 4) == 0);
    heat_memory_add(h, 0, 0, UINT64_MAX);
    heat_memory_add(h, 0, 0, UINT64_MAX);
    assert_true(heat_memory_of(h, 0, 0) == UINT64_MAX);
    heat_memory_close(h);
    heat_memory_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(remembers_over_a_restart),
        cmocka_unit_test(fades_what_is_not_needed_any_more),
        cmocka_unit_test(does_not_take_what_is_not_for_it),
        cmocka_unit_test(is_cold_with_a_damaged_file),
        cmocka_unit_test(says_that_it_cannot_be_written),
        cmocka_unit_test(counts_nothing_outside_the_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
