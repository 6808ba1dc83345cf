/* test_unit_cache.c - units on disk: kept, gone on with, bounded, and what
 * becomes of disks that are full or cannot be written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/failpoint.h"
#include "engine/log.h"
#include "engine/util.h"
#include "expert_node/unit_cache.h"
#include "tests/support/fixture.h"

#define PIECE 1000u
#define UNIT 2500u /* three pieces */
#define WAIT_MS 60000

static unit_cache *open_cache(const char *name, uint64_t max_bytes) {
    char why[300] = "";
    unit_cache *c;
    const unit_cache_config config = {.dir = fixture_path(name),
                                      .max_bytes = max_bytes};
    if (unit_cache_open(&c, &config, why, sizeof(why)) != 0)
        fail_msg("%s", why);
    return c;
}

static unit_key key_of(uint8_t number) {
    unit_key k = {{0}};
    k.bytes[0] = number;
    k.bytes[31] = (uint8_t)~number;
    return k;
}

static void fill(uint8_t number, uint8_t out[UNIT]) {
    for (size_t i = 0; i < UNIT; i++)
        out[i] = (uint8_t)(number + i * 7);
}

static size_t piece_bytes(uint32_t piece) {
    return piece < 2 ? PIECE : UNIT - 2 * PIECE;
}

static void put_piece(cache_part *p, uint8_t number, uint32_t piece) {
    uint8_t bytes[UNIT];
    fill(number, bytes);
    assert_int_equal(
        cache_part_put(p, piece, bytes + piece * PIECE, piece_bytes(piece)), 0);
}

static cache_part *open_part(unit_cache *c, uint8_t number) {
    cache_part *p;
    const unit_key k = key_of(number);
    assert_int_equal(cache_part_open(&p, c, &k, UNIT, PIECE), 0);
    return p;
}

static void keep_unit(unit_cache *c, uint8_t number) {
    cache_part *p = open_part(c, number);
    for (uint32_t i = 0; i < 3; i++)
        put_piece(p, number, 2 - i); /* in any order */
    assert_true(cache_part_complete(p));
    cache_part_keep(p);
}

/* Reopened, so that everything is written. */
static unit_cache *reopen(unit_cache *c, const char *name, uint64_t max_bytes) {
    unit_cache_close(c);
    return open_cache(name, max_bytes);
}

static bool has(unit_cache *c, uint8_t number) {
    uint8_t wanted[UNIT], got[UNIT];
    const unit_key k = key_of(number);
    fill(number, wanted);
    int rc = unit_cache_read(c, &k, UNIT, 0, UNIT, got);
    if (rc == 0) assert_memory_equal(got, wanted, UNIT);
    return rc == 0;
}

static void path_of(const char *folder, uint8_t number, const char *suffix,
                    char out[600]) {
    char hex[UNIT_KEY_HEX];
    const unit_key k = key_of(number);
    snprintf(out, 600, "%s/%s%s", fixture_path(folder), unit_key_hex(&k, hex),
             suffix);
}

/* ---- whole units ---- */

static void keeps_a_unit_by_its_key(void **state) {
    (void)state;
    unit_cache *c = open_cache("keep/deep/er", 1 << 20);
    int fd;
    const unit_key k = key_of(1), other = key_of(2);
    assert_false(has(c, 1));
    keep_unit(c, 1);
    c = reopen(c, "keep/deep/er", 1 << 20);
    assert_true(has(c, 1));
    assert_false(has(c, 2));
    assert_int_equal(unit_cache_find(c, &k, UNIT, &fd), 0);
    uint8_t wanted[UNIT], got[UNIT];
    fill(1, wanted);
    assert_int_equal(pread(fd, got, UNIT, 0), UNIT);
    assert_memory_equal(got, wanted, UNIT);
    close(fd);
    assert_int_equal(unit_cache_find(c, &other, UNIT, &fd), ERR_NOT_HERE);
    unit_cache_stats s = unit_cache_look(c);
    assert_int_equal(s.bytes, UNIT);
    assert_int_equal(s.hits, 1);
    unit_cache_close(c);
}

static void a_file_of_another_size_is_dropped(void **state) {
    (void)state;
    char path[600];
    int fd;
    const unit_key k = key_of(1);
    unit_cache *c = open_cache("short", 1 << 20);
    keep_unit(c, 1);
    c = reopen(c, "short", 1 << 20);
    path_of("short", 1, ".unit", path);
    assert_int_equal(truncate(path, UNIT - 1), 0);
    assert_int_equal(unit_cache_find(c, &k, UNIT, &fd), ERR_NOT_HERE);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(unit_cache_look(c).damaged, 1);
    keep_unit(c, 1);
    c = reopen(c, "short", 1 << 20);
    assert_true(has(c, 1));
    unit_cache_drop(c, &k);
    assert_false(has(c, 1));
    unit_cache_drop(c, &k); /* twice is fine */
    assert_int_equal(unit_cache_look(c).bytes, 0);
    unit_cache_close(c);
}

/* ---- units in the making ---- */

static void goes_on_with_what_was_left(void **state) {
    (void)state;
    uint8_t wanted[UNIT], got[PIECE];
    unit_cache *c = open_cache("left", 1 << 20);
    cache_part *p = open_part(c, 7);
    put_piece(p, 7, 1);
    cache_part_close(p);
    c = reopen(c, "left", 1 << 20);
    p = open_part(c, 7);
    assert_false(cache_part_has(p, 0));
    assert_true(cache_part_has(p, 1));
    assert_false(cache_part_complete(p));
    fill(7, wanted);
    assert_int_equal(cache_part_read(p, PIECE, PIECE, got), 0);
    assert_memory_equal(got, wanted + PIECE, PIECE);
    put_piece(p, 7, 0);
    put_piece(p, 7, 2);
    cache_part_keep(p);
    c = reopen(c, "left", 1 << 20);
    assert_true(has(c, 7));
    assert_int_equal(unit_cache_look(c).bytes, UNIT);
    unit_cache_close(c);
}

static void an_incomplete_part_is_not_made_whole(void **state) {
    (void)state;
    unit_cache *c = open_cache("part", 1 << 20);
    cache_part *p = open_part(c, 7);
    put_piece(p, 7, 1);
    cache_part_keep(p);
    c = reopen(c, "part", 1 << 20);
    assert_false(has(c, 7));
    p = open_part(c, 7);
    assert_true(cache_part_has(p, 1));
    cache_part_drop(p); /* damaged */
    p = open_part(c, 7);
    assert_false(cache_part_has(p, 1));
    cache_part_close(p);
    unit_cache_close(c);
}

/* Of another piece size, cut short, or rubbish: it is begun anew. */
static void a_part_that_is_not_what_it_should_be_is_begun_anew(void **state) {
    (void)state;
    char path[600];
    cache_part *p;
    const unit_key k = key_of(7);
    unit_cache *c = open_cache("rubbish", 1 << 20);
    path_of("rubbish", 7, ".part", path);
    p = open_part(c, 7);
    put_piece(p, 7, 0);
    cache_part_close(p);
    assert_int_equal(cache_part_open(&p, c, &k, UNIT, PIECE / 2), 0);
    assert_false(cache_part_has(p, 0));
    cache_part_close(p);
    p = open_part(c, 7);
    put_piece(p, 7, 0);
    cache_part_close(p);
    assert_int_equal(truncate(path, UNIT + 10), 0);
    p = open_part(c, 7);
    assert_false(cache_part_has(p, 0));
    cache_part_close(p);
    fixture_write(path, "rubbish", 7);
    p = open_part(c, 7);
    assert_false(cache_part_has(p, 0));
    cache_part_close(p);
    unit_cache_close(c);
}

static void a_part_belongs_to_one_at_a_time(void **state) {
    (void)state;
    unit_cache *c = open_cache("shared", 1 << 20);
    unit_cache *other = open_cache("shared", 1 << 20);
    cache_part *p = open_part(c, 3), *second;
    const unit_key k = key_of(3);
    assert_int_equal(cache_part_open(&second, other, &k, UNIT, PIECE),
                     ERR_OVERLOADED);
    assert_null(second);
    for (uint32_t i = 0; i < 3; i++)
        put_piece(p, 3, i);
    cache_part_keep(p);
    unit_cache_close(c);
    assert_true(has(other, 3)); /* and what is whole, to everybody */
    unit_cache_close(other);
}

/* ---- bounds ---- */

/* `seconds` ago it was used. */
static void age(const char *folder, uint8_t number, time_t seconds) {
    char path[600];
    const struct timespec then = {.tv_sec = time(NULL) - seconds};
    const struct timespec times[2] = {then, then};
    path_of(folder, number, ".unit", path);
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void the_longest_unused_goes_and_what_is_pinned_stays(void **state) {
    (void)state;
    const uint64_t room = 4 * UNIT + UNIT / 2;
    unit_cache *c = open_cache("bounded", room);
    for (uint8_t i = 1; i <= 4; i++)
        keep_unit(c, i);
    c = reopen(c, "bounded", room);
    for (uint8_t i = 1; i <= 4; i++)
        age("bounded", i, 100 * (5 - i));
    const unit_key first = key_of(1), third = key_of(3);
    assert_int_equal(unit_cache_pin(c, &first, true), 0);
    assert_int_equal(unit_cache_pin(c, &third, true), 0);
    assert_int_equal(unit_cache_pin(c, &third, false), 0);
    keep_unit(c, 5);
    assert_true(has(c, 1)); /* the oldest, but pinned */
    assert_false(has(c, 2));
    assert_true(has(c, 3));
    assert_true(has(c, 4));
    int fd; /* used: now the fourth is older */
    assert_int_equal(unit_cache_find(c, &third, UNIT, &fd), 0);
    close(fd);
    c = reopen(c, "bounded", room);
    assert_int_equal(unit_cache_pin(c, &first, true), 0);
    age("bounded", 5, 1);
    keep_unit(c, 6);
    assert_false(has(c, 4));
    assert_true(has(c, 3));
    assert_true(unit_cache_look(c).bytes <= room);
    unit_cache_close(c);
}

static void nothing_pinned_goes_for_what_does_not_fit(void **state) {
    (void)state;
    unit_cache *c = open_cache("full", 2 * UNIT);
    cache_part *p;
    for (uint8_t i = 1; i <= 2; i++) {
        const unit_key k = key_of(i);
        keep_unit(c, i);
        assert_int_equal(unit_cache_pin(c, &k, true), 0);
    }
    const unit_key third = key_of(3);
    assert_int_equal(cache_part_open(&p, c, &third, UNIT, PIECE),
                     ERR_TOO_LARGE);
    assert_int_equal(unit_cache_look(c).skipped, 1);
    /* For a while it is not even tried. */
    assert_int_equal(cache_part_open(&p, c, &third, UNIT, PIECE),
                     ERR_TOO_LARGE);
    assert_int_equal(unit_cache_look(c).skipped, 1);
    c = reopen(c, "full", 2 * UNIT);
    assert_true(has(c, 1));
    assert_true(has(c, 2));
    unit_cache_close(c);
}

static void pins_of_many_units_are_found_again(void **state) {
    (void)state;
    unit_cache *c = open_cache("pins", 1 << 20);
    keep_unit(c, 200);
    for (int round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < 500; i++) {
            unit_key k = key_of((uint8_t)(i % 250 + 1));
            k.bytes[1] = (uint8_t)(i / 250);
            assert_int_equal(unit_cache_pin(c, &k, round == 0), 0);
        }
    }
    const unit_key k = key_of(200);
    assert_int_equal(unit_cache_pin(c, &k, false), 0); /* it is not */
    unit_cache_close(c);
    c = open_cache("pins", UNIT + UNIT / 2);
    keep_unit(c, 1);
    assert_false(has(c, 200));
    unit_cache_close(c);
}

/* ---- bad disks ---- */

static void arm(const char *points) {
    char why[200] = "";
    setenv("ROSTER_FAILPOINTS", points, 1);
    assert_int_equal(failpoint_setup(why, sizeof(why)), 0);
}

static void a_full_disk_is_said_and_everything_goes_on(void **state) {
    (void)state;
    char path[600];
    uint8_t bytes[UNIT];
    cache_part *p = NULL;
    const unit_key k = key_of(1);
    unit_cache *c = open_cache("nospace", 1 << 20);
    path_of("nospace", 1, ".part", path);
    p = open_part(c, 1);
    put_piece(p, 1, 0);
    arm("unit_cache.write=fail");
    fill(1, bytes);
    assert_int_equal(cache_part_put(p, 1, bytes + PIECE, PIECE), -ENOSPC);
    assert_int_equal(cache_part_put(p, 2, bytes, 500), ERR_CLOSED);
    assert_false(cache_part_complete(p));
    assert_int_not_equal(access(path, F_OK), 0);
    cache_part_keep(p); /* nothing to keep */
    assert_int_equal(unit_cache_look(c).trouble, -ENOSPC);
    failpoints_armed = false;
    /* It rests: nothing is tried for a while. */
    assert_int_equal(cache_part_open(&p, c, &k, UNIT, PIECE), -ENOSPC);
    assert_int_equal(unit_cache_look(c).bytes, 0);
    unit_cache_close(c);
}

/* What others wrote is gone again. */
static void a_disk_that_has_room_again_is_used_again(void **state) {
    (void)state;
    const unit_cache_config config = {
        .dir = fixture_path("room"), .max_bytes = 1 << 20, .rest_ms = 1};
    char why[300] = "";
    uint8_t bytes[UNIT];
    unit_cache *c;
    assert_int_equal(unit_cache_open(&c, &config, why, sizeof(why)), 0);
    cache_part *p = open_part(c, 1);
    arm("unit_cache.write=fail");
    fill(1, bytes);
    assert_int_equal(cache_part_put(p, 0, bytes, PIECE), -ENOSPC);
    failpoints_armed = false;
    cache_part_keep(p);
    assert_int_equal(unit_cache_look(c).max_bytes, 0);
    usleep(2000);
    keep_unit(c, 1);
    assert_int_equal(unit_cache_look(c).trouble, 0);
    c = reopen(c, "room", 1 << 20);
    assert_true(has(c, 1));
    unit_cache_close(c);
}

static void a_folder_that_was_removed_is_made_again(void **state) {
    (void)state;
    const unit_cache_config config = {
        .dir = fixture_path("removed"), .max_bytes = 1 << 20, .rest_ms = 1};
    char why[300] = "";
    const unit_key k = key_of(1);
    unit_cache *c;
    cache_part *p;
    assert_int_equal(unit_cache_open(&c, &config, why, sizeof(why)), 0);
    assert_int_equal(rmdir(config.dir), 0);
    assert_int_equal(cache_part_open(&p, c, &k, UNIT, PIECE), -ENOENT);
    usleep(2000);
    keep_unit(c, 1);
    c = reopen(c, "removed", 1 << 20);
    assert_true(has(c, 1));
    unit_cache_close(c);
}

static void says_that_it_may_not_write(void **state) {
    (void)state;
    cache_part *p;
    const unit_key k = key_of(1);
    unit_cache *c = open_cache("denied", 1 << 20);
    arm("unit_cache.open=fail");
    assert_int_equal(cache_part_open(&p, c, &k, UNIT, PIECE), -EACCES);
    failpoints_armed = false;
    assert_int_equal(unit_cache_look(c).trouble, -EACCES);
    unit_cache_close(c);
}

/* A part that is another user's cannot be opened, as a link is not. */
static void a_part_that_is_not_ours_leaves_the_others_alone(void **state) {
    (void)state;
    char path[600];
    cache_part *p;
    const unit_key first = key_of(1);
    unit_cache *c = open_cache("foreign", 1 << 20);
    path_of("foreign", 1, ".part", path);
    assert_int_equal(symlink("/dev/null", path), 0);
    assert_int_equal(cache_part_open(&p, c, &first, UNIT, PIECE), -ELOOP);
    assert_null(p);
    assert_int_equal(unit_cache_look(c).trouble, 0);
    assert_int_equal(unit_cache_look(c).skipped, 1);
    keep_unit(c, 2);
    c = reopen(c, "foreign", 1 << 20);
    assert_true(has(c, 2));
    assert_int_equal(unlink(path), 0); /* it is there still */
    keep_unit(c, 1);
    c = reopen(c, "foreign", 1 << 20);
    assert_true(has(c, 1));
    unit_cache_close(c);
}

/* As is another user's unit where only its owner may replace it. */
static void a_name_that_is_taken_leaves_the_others_alone(void **state) {
    (void)state;
    char path[600];
    unit_cache *c = open_cache("taken", 1 << 20);
    path_of("taken", 1, ".unit", path);
    assert_int_equal(mkdir(path, 0700), 0);
    keep_unit(c, 1);
    keep_unit(c, 2);
    const uint64_t until = now_ms() + WAIT_MS;
    while (unit_cache_look(c).skipped == 0 && now_ms() < until)
        usleep(1000);
    assert_int_equal(unit_cache_look(c).skipped, 1);
    assert_int_equal(unit_cache_look(c).trouble, 0);
    keep_unit(c, 3);
    c = reopen(c, "taken", 1 << 20);
    assert_int_equal(unit_cache_look(c).bytes, 2 * UNIT);
    assert_false(has(c, 1));
    assert_true(has(c, 2) && has(c, 3));
    unit_cache_close(c);
}

/* Or its unit would be damaged at each attempt. */
static void what_is_damaged_and_stays_is_not_read_again(void **state) {
    (void)state;
    int fd;
    uint8_t bytes[UNIT];
    const unit_key k = key_of(1);
    unit_cache *c = open_cache("stays", 1 << 20);
    keep_unit(c, 1);
    c = reopen(c, "stays", 1 << 20);
    arm("unit_cache.remove=fail");
    unit_cache_drop(c, &k);
    failpoints_armed = false;
    assert_int_equal(unit_cache_look(c).damaged, 1);
    assert_int_equal(unit_cache_look(c).trouble, 0);
    assert_int_equal(unit_cache_find(c, &k, UNIT, &fd), ERR_NOT_HERE);
    assert_int_equal(unit_cache_read(c, &k, UNIT, 0, UNIT, bytes),
                     ERR_NOT_HERE);
    keep_unit(c, 1); /* anew */
    const uint64_t until = now_ms() + WAIT_MS;
    while (!has(c, 1) && now_ms() < until)
        usleep(1000);
    assert_true(has(c, 1));
    unit_cache_close(c);
}

/* Two processes may find the same one. */
static void what_another_process_removed_is_no_trouble(void **state) {
    (void)state;
    char path[600];
    const unit_key k = key_of(1);
    unit_cache *c = open_cache("quicker", 1 << 20);
    keep_unit(c, 1);
    c = reopen(c, "quicker", 1 << 20);
    path_of("quicker", 1, ".unit", path);
    assert_int_equal(unlink(path), 0);
    unit_cache_drop(c, &k);
    assert_int_equal(unit_cache_look(c).trouble, 0);
    unit_cache_close(c);
}

static void a_name_that_waits_for_a_writer_is_not_waited_for(void **state) {
    (void)state;
    int fd;
    char path[600];
    const unit_key k = key_of(1);
    unit_cache *c = open_cache("pipe", 1 << 20);
    path_of("pipe", 1, ".unit", path);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(unit_cache_find(c, &k, UNIT, &fd), ERR_NOT_HERE);
    keep_unit(c, 1);
    c = reopen(c, "pipe", 1 << 20);
    assert_true(has(c, 1));
    unit_cache_close(c);
}

/* What was begun before the trouble says nothing of what begins now. */
static void an_older_part_does_not_end_the_rest(void **state) {
    (void)state;
    cache_part *p;
    const unit_key third = key_of(3);
    unit_cache *c = open_cache("rest", 2 * UNIT);
    cache_part *first = open_part(c, 1), *second = open_part(c, 2);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(cache_part_open(&p, c, &third, UNIT, PIECE),
                         ERR_TOO_LARGE);
        put_piece(first, 1, i);
        put_piece(second, 2, i);
        assert_int_equal(unit_cache_look(c).trouble, ERR_TOO_LARGE);
    }
    assert_int_equal(unit_cache_look(c).skipped, 1);
    cache_part_keep(first);
    cache_part_keep(second);
    c = reopen(c, "rest", 2 * UNIT);
    assert_true(has(c, 1) && has(c, 2));
    unit_cache_close(c);
}

static void names_a_folder_that_cannot_be_used(void **state) {
    (void)state;
    char why[300] = "", path[600];
    unit_cache *c;
    fixture_write(fixture_path("a-file"), "x", 1);
    snprintf(path, sizeof(path), "%s/cache", fixture_path("a-file"));
    const unit_cache_config config = {.dir = path, .max_bytes = 1 << 20};
    assert_int_equal(unit_cache_open(&c, &config, why, sizeof(why)), -ENOTDIR);
    assert_null(c);
    assert_non_null(strstr(why, path));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_a_unit_by_its_key),
        cmocka_unit_test(a_file_of_another_size_is_dropped),
        cmocka_unit_test(goes_on_with_what_was_left),
        cmocka_unit_test(an_incomplete_part_is_not_made_whole),
        cmocka_unit_test(a_part_that_is_not_what_it_should_be_is_begun_anew),
        cmocka_unit_test(a_part_belongs_to_one_at_a_time),
        cmocka_unit_test(the_longest_unused_goes_and_what_is_pinned_stays),
        cmocka_unit_test(nothing_pinned_goes_for_what_does_not_fit),
        cmocka_unit_test(pins_of_many_units_are_found_again),
        cmocka_unit_test(a_full_disk_is_said_and_everything_goes_on),
        cmocka_unit_test(a_disk_that_has_room_again_is_used_again),
        cmocka_unit_test(a_folder_that_was_removed_is_made_again),
        cmocka_unit_test(says_that_it_may_not_write),
        cmocka_unit_test(a_part_that_is_not_ours_leaves_the_others_alone),
        cmocka_unit_test(a_name_that_is_taken_leaves_the_others_alone),
        cmocka_unit_test(what_is_damaged_and_stays_is_not_read_again),
        cmocka_unit_test(what_another_process_removed_is_no_trouble),
        cmocka_unit_test(a_name_that_waits_for_a_writer_is_not_waited_for),
        cmocka_unit_test(an_older_part_does_not_end_the_rest),
        cmocka_unit_test(names_a_folder_that_cannot_be_used),
    };
    log_setup("test", (log_level)(LOG_ERROR + 1));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
