/* test_fingerprint.c - which model it is, and whether its bytes are whole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/failpoint.h"
#include "engine/fingerprint.h"
#include "engine/log.h"
#include "engine/util.h"
#include "tests/support/fixture.h"
#include "tests/support/model_gen.h"

static char why[512];
static const char *model;  /* a file of the test's own */
static const char *beside; /* its manifest */
static const char *cache;  /* $XDG_CACHE_HOME */

/* A new model in a folder of its own, an hour old: a manifest that is written
 * in the same moment as the model is not believed. */
static void make_old(const char *path) {
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    struct timespec times[2] = {st.st_atim, st.st_mtim};
    times[1].tv_sec -= 3600;
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static int make_model(void **state) {
    (void)state;
    static int count;
    char name[64];
    snprintf(name, sizeof(name), "dir%d", ++count);
    assert_int_equal(mkdir(fixture_path(name), 0755), 0);
    snprintf(name, sizeof(name), "dir%d/m.gguf", count);
    model = fixture_path(name);
    snprintf(name, sizeof(name), "dir%d/m.gguf.roster", count);
    beside = fixture_path(name);
    snprintf(name, sizeof(name), "dir%d/cache", count);
    cache = fixture_path(name);
    setenv("XDG_CACHE_HOME", cache, 1);

    model_shape s = model_shape_small();
    if (model_gen(&s, model, why, sizeof(why)) < 0) return -1;
    make_old(model);
    return 0;
}

static gguf *open_model(void) {
    gguf *g;
    assert_int_equal(gguf_open(&g, model, why, sizeof(why)), 0);
    return g;
}

static fingerprint take(bool write_cache) {
    fingerprint f;
    manifest *m;
    gguf *g = open_model();
    assert_int_equal(manifest_open(&m, g, write_cache, why, sizeof(why)), 0);
    assert_int_equal(fingerprint_of(g, m, &f), 0);
    manifest_close(m);
    gguf_close(g);
    return f;
}

static bool exists(const char *path) {
    return access(path, F_OK) == 0;
}

/* Change one byte `back` bytes from the end of a file. */
static void flip(const char *path, long back) {
    size_t n;
    uint8_t *bytes = fixture_read(path, &n);
    bytes[n - (size_t)back] ^= 0x40;
    fixture_write(path, bytes, n);
    free(bytes);
}

static size_t count_files(const char *folder) {
    size_t n = 0;
    DIR *d = opendir(folder);
    if (d == NULL) return 0;
    for (struct dirent *e = readdir(d); e != NULL; e = readdir(d))
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

/* ---- the fingerprint ---- */

static void is_the_same_with_and_without_a_kept_manifest(void **state) {
    (void)state;
    fingerprint computed = take(false);
    assert_false(exists(beside));
    fingerprint stored = take(true);
    assert_true(exists(beside));
    fingerprint loaded = take(true);
    assert_true(fingerprint_equal(&computed, &stored));
    assert_true(fingerprint_equal(&computed, &loaded));
}

static void does_not_depend_on_the_files_name(void **state) {
    (void)state;
    fingerprint first = take(false);
    make_model(state);
    fingerprint second = take(false);
    assert_true(fingerprint_equal(&first, &second));
}

static void changes_with_every_part_of_the_file(void **state) {
    (void)state;
    fingerprint right = take(true);
    size_t n, head;
    uint8_t *bytes = fixture_read(model, &n);
    uint8_t *name = memmem(bytes, n, "random weights", 14);
    assert_non_null(name);
    gguf *g = open_model();
    gguf_head(g, 0, &head);
    gguf_close(g);

    /* The last weight, the first, and the model's name. */
    const size_t places[] = {n - 1, round_up(head, 32), (size_t)(name - bytes)};
    free(bytes);
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        flip(model, (long)(n - places[i]));
        fingerprint wrong = take(false);
        assert_false(fingerprint_equal(&right, &wrong));
        flip(model, (long)(n - places[i]));
    }
    fingerprint again = take(false);
    assert_true(fingerprint_equal(&right, &again));
}

static void writes_hex(void **state) {
    (void)state;
    fingerprint f = {{0x0a, 0xf5}};
    char hex[FINGERPRINT_HEX_SIZE];
    f.bytes[FINGERPRINT_BYTES - 1] = 0xc0;
    assert_ptr_equal(fingerprint_hex(&f, hex), hex);
    assert_int_equal(strlen(hex), 64);
    assert_memory_equal(hex, "0af50000", 8);
    assert_string_equal(hex + 60, "00c0");
}

/* ---- the kept manifest ---- */

/* The checksums that are read now: those in the file if it is believed. */
static uint64_t first_sum(void) {
    gguf *g = open_model();
    manifest *m;
    size_t n;
    assert_int_equal(manifest_open(&m, g, true, why, sizeof(why)), 0);
    uint64_t sum = manifest_sums(m, &n)[0];
    manifest_close(m);
    gguf_close(g);
    return sum;
}

static void computes_a_damaged_manifest_anew(void **state) {
    (void)state;
    fingerprint right = take(true);
    size_t n;
    uint8_t *whole = fixture_read(beside, &n);
    for (size_t at = 0; at < n; at += at < 64 ? 1 : 97) {
        flip(beside, (long)(n - at));
        fingerprint f = take(true);
        assert_true(fingerprint_equal(&right, &f));
        size_t n_now;
        uint8_t *now = fixture_read(beside, &n_now);
        assert_int_equal(n_now, n);
        assert_memory_equal(now, whole, n);
        free(now);
    }
    free(whole);
}

static void computes_a_cut_manifest_anew(void **state) {
    (void)state;
    fingerprint right = take(true);
    struct stat st;
    assert_int_equal(stat(beside, &st), 0);
    for (off_t size = 0; size < st.st_size; size += 101) {
        assert_int_equal(truncate(beside, size), 0);
        fingerprint f = take(true);
        assert_true(fingerprint_equal(&right, &f));
    }
}

static void does_not_believe_a_manifest_of_another_state(void **state) {
    (void)state;
    uint64_t before = first_sum();
    assert_true(exists(beside));
    size_t head;
    gguf *g = open_model();
    size_t file_bytes = (size_t)gguf_file_bytes(g, 0);
    gguf_head(g, 0, &head);
    gguf_close(g);

    /* Another weight, the same size, another time of modification. */
    flip(model, (long)(file_bytes - round_up(head, 32)));
    assert_true(first_sum() != before);
}

static void does_not_believe_a_manifest_of_the_same_moment(void **state) {
    (void)state;
    first_sum();
    struct stat st;
    assert_int_equal(stat(beside, &st), 0);
    struct timespec times[2] = {st.st_atim, st.st_mtim};
    assert_int_equal(utimensat(AT_FDCWD, model, times, 0), 0);
    ino_t before = st.st_ino;
    first_sum(); /* another time: computed and written anew ... */
    assert_int_equal(stat(beside, &st), 0);
    assert_true(st.st_ino != before);
    times[1] = st.st_mtim;
    assert_int_equal(utimensat(AT_FDCWD, model, times, 0), 0);
    assert_int_equal(utimensat(AT_FDCWD, beside, times, 0), 0);
    before = st.st_ino;
    first_sum();
    assert_int_equal(stat(beside, &st), 0);
    assert_true(st.st_ino != before);
}

static void keeps_it_in_the_cache_folder_otherwise(void **state) {
    (void)state;
    char folder[4096];
    snprintf(folder, sizeof(folder), "%s/roster", cache);
    /* A folder in its place: nothing can be renamed to it, not even by root. */
    assert_int_equal(mkdir(beside, 0755), 0);
    fingerprint first = take(true);
    assert_int_equal(count_files(folder), 1);
    fingerprint second = take(true);
    assert_true(fingerprint_equal(&first, &second));
    assert_int_equal(count_files(folder), 1);
}

static void goes_on_when_it_can_be_kept_nowhere(void **state) {
    (void)state;
    assert_int_equal(mkdir(beside, 0755), 0);
    fixture_write(cache, "", 0); /* a file where the folder should be */
    fingerprint first = take(true), second = take(false);
    assert_true(fingerprint_equal(&first, &second));
}

static void leaves_no_half_of_a_file(void **state) {
    (void)state;
    setenv("ROSTER_FAILPOINTS", "manifest_write=fail", 1);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        failpoint_setup(why, sizeof(why));
        take(true);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    unsetenv("ROSTER_FAILPOINTS");

    char folder[4096], *slash;
    snprintf(folder, sizeof(folder), "%s", model);
    slash = strrchr(folder, '/');
    assert_non_null(slash);
    *slash = '\0';
    assert_int_equal(count_files(folder), 2); /* the model and "cache" */
    snprintf(folder, sizeof(folder), "%s/roster", cache);
    assert_int_equal(count_files(folder), 0);
}

static void stays_whole_when_processes_start_together(void **state) {
    (void)state;
    enum { N = 6 };
    pid_t pids[N];
    fingerprint right = take(false);
    for (int i = 0; i < N; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] > 0) continue;
        bool good = true;
        for (int round = 0; round < 5; round++) {
            fingerprint f = take(true);
            good = good && fingerprint_equal(&right, &f);
            if (i == 0) unlink(beside);
        }
        _exit(good ? 0 : 1);
    }
    for (int i = 0; i < N; i++) {
        int status;
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }
    fingerprint f = take(true);
    assert_true(fingerprint_equal(&right, &f));
}

/* ---- checking what was loaded ---- */

static size_t tensor_index(const gguf *g, const char *name) {
    const gguf_tensor *t = gguf_find_tensor(g, name);
    assert_non_null(t);
    return (size_t)(t - gguf_tensor_at(g, 0));
}

/* What a check says of `data` as a slice of a slab. */
static int check(const manifest *m, size_t tensor, uint64_t slab,
                 uint32_t slice, uint32_t slices, const void *data,
                 size_t bytes) {
    manifest_check *c;
    int rc = manifest_check_open(&c, m, tensor, slab, slice, slices);
    if (rc < 0) return rc;
    size_t first = bytes / 3; /* not a bound of anything */
    manifest_check_add(c, data, first);
    manifest_check_add(c, (const uint8_t *)data + first, bytes - first);
    rc = manifest_check_result(c);
    manifest_check_close(c);
    return rc;
}

static void checks_every_slab_of_every_tensor(void **state) {
    (void)state;
    gguf *g = open_model();
    manifest *m;
    assert_int_equal(manifest_open(&m, g, true, why, sizeof(why)), 0);
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        uint64_t n = manifest_slabs(m, i), slab_bytes = t->bytes / n;
        const uint8_t *data = gguf_data(g, t);
        for (uint64_t slab = 0; slab < n; slab++) {
            assert_int_equal(check(m, i, slab, 0, 1, data + slab * slab_bytes,
                                   (size_t)slab_bytes),
                             0);
        }
    }
    manifest_close(m);
    gguf_close(g);
}

static void cuts_experts_into_slabs_and_segments(void **state) {
    (void)state;
    gguf *g = open_model();
    manifest *m;
    assert_int_equal(manifest_open(&m, g, true, why, sizeof(why)), 0);
    static const char *const names[] = {"blk.0.ffn_gate_exps.weight",
                                        "blk.1.ffn_up_exps.weight",
                                        "blk.1.ffn_down_exps.weight"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        size_t tensor = tensor_index(g, names[i]);
        assert_int_equal(manifest_slabs(m, tensor), 4);
        assert_int_equal(manifest_segments(m, tensor), 8);
    }
    size_t plain = tensor_index(g, "blk.0.attn_q.weight");
    assert_int_equal(manifest_slabs(m, plain), 1);
    assert_int_equal(manifest_segments(m, plain), 1);
    manifest_close(m);
    gguf_close(g);
}

static void finds_one_wrong_bit_in_a_slab(void **state) {
    (void)state;
    gguf *g = open_model();
    manifest *m;
    assert_int_equal(manifest_open(&m, g, true, why, sizeof(why)), 0);
    size_t tensor = tensor_index(g, "blk.0.ffn_up_exps.weight");
    const gguf_tensor *t = gguf_tensor_at(g, tensor);
    size_t bytes = (size_t)t->bytes / 4, segment = bytes / 8;
    uint8_t *slab = malloc(bytes);
    assert_non_null(slab);
    assert_int_equal(gguf_read(g, t, 2 * bytes, bytes, slab), 0);

    assert_int_equal(check(m, tensor, 2, 0, 1, slab, bytes), 0);
    assert_int_equal(check(m, tensor, 1, 0, 1, slab, bytes), ERR_CHECKSUM);
    slab[5 * segment] ^= 1;
    assert_int_equal(check(m, tensor, 2, 0, 1, slab, bytes), ERR_CHECKSUM);
    for (uint32_t i = 0; i < 8; i++) {
        assert_int_equal(check(m, tensor, 2, i, 8, slab + i * segment, segment),
                         i == 5 ? ERR_CHECKSUM : 0);
    }
    free(slab);
    manifest_close(m);
    gguf_close(g);
}

/* Its segments are columns: a damaged byte belongs to one part of a row. */
static void finds_one_wrong_bit_in_a_slice_of_columns(void **state) {
    (void)state;
    gguf *g = open_model();
    manifest *m;
    assert_int_equal(manifest_open(&m, g, true, why, sizeof(why)), 0);
    size_t tensor = tensor_index(g, "blk.0.ffn_down_exps.weight");
    const gguf_tensor *t = gguf_tensor_at(g, tensor);
    size_t bytes = (size_t)t->bytes / 4, row = bytes / t->dims[1];
    uint8_t *slab = malloc(bytes), *part = malloc(bytes);
    assert_non_null(slab);
    assert_non_null(part);
    assert_int_equal(gguf_read(g, t, 3 * bytes, bytes, slab), 0);
    slab[7 * row + row / 8 * 5] ^= 4;

    for (uint32_t slices = 1; slices <= 8; slices *= 2) {
        size_t width = row / slices;
        for (uint32_t slice = 0; slice < slices; slice++) {
            for (size_t r = 0; r < t->dims[1]; r++)
                memcpy(part + r * width, slab + r * row + slice * width, width);
            assert_int_equal(
                check(m, tensor, 3, slice, slices, part, bytes / slices),
                slice == 5 * slices / 8 ? ERR_CHECKSUM : 0);
        }
    }
    free(slab);
    free(part);
    manifest_close(m);
    gguf_close(g);
}

static void refuses_slabs_that_do_not_exist(void **state) {
    (void)state;
    gguf *g = open_model();
    manifest *m;
    assert_int_equal(manifest_open(&m, g, true, why, sizeof(why)), 0);
    size_t tensor = tensor_index(g, "blk.0.ffn_up_exps.weight");
    const gguf_tensor *t = gguf_tensor_at(g, tensor);
    size_t bytes = (size_t)t->bytes / 4;
    const void *data = gguf_data(g, t);
    assert_int_equal(check(m, tensor, 4, 0, 1, data, bytes), ERR_RANGE);
    assert_int_equal(check(m, gguf_n_tensors(g), 0, 0, 1, data, bytes),
                     ERR_RANGE);
    assert_int_equal(check(m, tensor, 0, 8, 8, data, bytes / 8), ERR_RANGE);
    assert_int_equal(check(m, tensor, 0, 0, 16, data, bytes / 16), ERR_RANGE);
    assert_int_equal(check(m, tensor, 0, 0, 0, data, bytes), ERR_RANGE);
    /* nor more or fewer bytes than there are */
    assert_int_equal(check(m, tensor, 0, 0, 1, data, bytes - 1), ERR_RANGE);
    assert_int_equal(check(m, tensor, 0, 0, 1, data, bytes + 1), ERR_RANGE);
    assert_int_equal(check(m, tensor, 0, 0, 8, data, bytes), ERR_RANGE);
    manifest_close(m);
    gguf_close(g);
}

static void says_which_tensor_cannot_be_read(void **state) {
    (void)state;
    gguf *g = open_model();
    assert_int_equal(truncate(model, (off_t)gguf_file_bytes(g, 0) - 4096), 0);
    manifest *m;
    assert_int_equal(manifest_open(&m, g, true, why, sizeof(why)), ERR_FORMAT);
    assert_null(m);
    assert_non_null(strstr(why, "blk.1.ffn_down_exps.weight"));
    gguf_close(g);
}

#define TEST(name) cmocka_unit_test_setup(name, make_model)

int main(void) {
    log_setup("test_fingerprint", LOG_ERROR);
    const struct CMUnitTest tests[] = {
        TEST(is_the_same_with_and_without_a_kept_manifest),
        TEST(does_not_depend_on_the_files_name),
        TEST(changes_with_every_part_of_the_file),
        TEST(writes_hex),
        TEST(computes_a_damaged_manifest_anew),
        TEST(computes_a_cut_manifest_anew),
        TEST(does_not_believe_a_manifest_of_another_state),
        TEST(does_not_believe_a_manifest_of_the_same_moment),
        TEST(keeps_it_in_the_cache_folder_otherwise),
        TEST(goes_on_when_it_can_be_kept_nowhere),
        TEST(leaves_no_half_of_a_file),
        TEST(stays_whole_when_processes_start_together),
        TEST(checks_every_slab_of_every_tensor),
        TEST(cuts_experts_into_slabs_and_segments),
        TEST(finds_one_wrong_bit_in_a_slab),
        TEST(finds_one_wrong_bit_in_a_slice_of_columns),
        TEST(refuses_slabs_that_do_not_exist),
        TEST(says_which_tensor_cannot_be_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
