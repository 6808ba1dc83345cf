/* test_node_memory.c - what a node offers: of the machine, and of its cgroups.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "expert_node/memory.h"

/* A little /proc and /sys of our own. */
static char root[64];

static void put(const char *path, const char *text) {
    char full[256];
    snprintf(full, sizeof(full), "%s%s", root, path);
    for (char *at = full + strlen(root) + 1; *at != '\0'; at++) {
        if (*at != '/') continue;
        *at = '\0';
        mkdir(full, 0700);
        *at = '/';
    }
    FILE *file = fopen(full, "we");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static int make_root(void **state) {
    (void)state;
    snprintf(root, sizeof(root), "/tmp/roster-memory-XXXXXX");
    assert_non_null(mkdtemp(root));
    put("/proc/meminfo", "MemTotal: 4000 kB\nMemFree: 100 kB\n"
                         "MemAvailable:    2000 kB\nBuffers: 7 kB\n");
    return 0;
}

static int remove_root(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof(command), "rm -rf '%s'", root);
    return system(command);
}

static void offers_a_part_of_what_is_available(void **state) {
    (void)state;
    assert_int_equal(memory_available(root), 2000 << 10);
    assert_int_equal(memory_offer(root), (2000 << 10) / 100 * 80);
}

static void offers_nothing_where_nothing_can_be_told(void **state) {
    (void)state;
    assert_int_equal(memory_offer("/nowhere"), 0);
}

static void keeps_to_the_limit_of_its_cgroup(void **state) {
    (void)state;
    put("/proc/self/cgroup", "0::/rack/node\n");
    put("/sys/fs/cgroup/rack/node/memory.max", "1000000\n");
    put("/sys/fs/cgroup/rack/node/memory.current", "400000\n");
    assert_int_equal(memory_available(root), 600000);
}

static void keeps_to_the_limit_of_a_cgroup_above(void **state) {
    (void)state;
    put("/proc/self/cgroup", "0::/rack/node\n");
    put("/sys/fs/cgroup/rack/node/memory.max", "max\n");
    put("/sys/fs/cgroup/rack/node/memory.current", "400000\n");
    put("/sys/fs/cgroup/rack/memory.max", "500000\n");
    put("/sys/fs/cgroup/rack/memory.current", "450000\n");
    assert_int_equal(memory_available(root), 50000);
}

static void takes_the_top_one_for_its_own_in_a_container(void **state) {
    (void)state;
    put("/proc/self/cgroup", "0::/somewhere/on/the/host\n");
    put("/sys/fs/cgroup/memory.max", "300000\n");
    put("/sys/fs/cgroup/memory.current", "100000\n");
    assert_int_equal(memory_available(root), 200000);
}

static void knows_the_older_kind_of_cgroups(void **state) {
    (void)state;
    put("/proc/self/cgroup", "3:cpu:/a\n5:memory:/a\nnonsense\n0::/\n");
    put("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "900000\n");
    put("/sys/fs/cgroup/memory/a/memory.usage_in_bytes", "950000\n");
    assert_int_equal(memory_available(root), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(offers_a_part_of_what_is_available,
                                        make_root, remove_root),
        cmocka_unit_test(offers_nothing_where_nothing_can_be_told),
        cmocka_unit_test_setup_teardown(keeps_to_the_limit_of_its_cgroup,
                                        make_root, remove_root),
        cmocka_unit_test_setup_teardown(keeps_to_the_limit_of_a_cgroup_above,
                                        make_root, remove_root),
        cmocka_unit_test_setup_teardown(
            takes_the_top_one_for_its_own_in_a_container, make_root,
            remove_root),
        cmocka_unit_test_setup_teardown(knows_the_older_kind_of_cgroups,
                                        make_root, remove_root),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
