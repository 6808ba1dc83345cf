/* test_fetch.c - a model's bytes from coordinators: whole, in pieces, from the
 * next one when one fails, and what is not believed. */
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
#include <unistd.h>
#include "engine/err.h"
#include "engine/log.h"
#include "engine/util.h"
#include "expert_node/fetch.h"
#include "tests/support/fixture.h"
#include "tests/support/model_gen.h"
#include "tests/support/weights_source.h"

#define STALL_MS 300

typedef struct {
    weights_source sources[2];
    size_t n_sources;
    fetch *f;
    uint8_t *file; /* the model as it is on disk */
    size_t file_bytes;
    char why[512];
} rig;

static void list_sources(rig *r, size_t first, size_t n) {
    const char *endpoints[2];
    for (size_t i = 0; i < n; i++)
        endpoints[i] = r->sources[first + i].endpoint;
    fetch_set_sources(r->f, endpoints, n);
}

static void rig_open(rig *r, size_t n_sources, uint32_t stall_ms) {
    *r = (rig){.n_sources = n_sources};
    model_shape shape = model_shape_small();
    shape.width = 128;
    shape.expert_width = 512; /* more than a MiB */
    const char *path = fixture_path("fetch.gguf");
    if (model_gen(&shape, path, r->why, sizeof(r->why)) != 0)
        fail_msg("%s", r->why);
    for (size_t i = 0; i < n_sources; i++)
        weights_source_start(&r->sources[i], path);

    int fd = open(path, O_RDONLY | O_CLOEXEC);
    r->file_bytes = (size_t)lseek(fd, 0, SEEK_END);
    r->file = malloc(r->file_bytes);
    assert_int_equal(pread(fd, r->file, r->file_bytes, 0), r->file_bytes);
    close(fd);
    const fetch_config c = {
        .cluster = "test", .boot_id = 5, .stall_ms = stall_ms};
    assert_int_equal(fetch_new(&r->f, &c), 0);
    list_sources(r, 0, n_sources);
}

static void rig_close(rig *r) {
    fetch_free(r->f);
    for (size_t i = 0; i < r->n_sources; i++)
        weights_source_stop(&r->sources[i]);
    free(r->file);
}

/* The whole file, or what went wrong. */
static int read_all(rig *r) {
    uint8_t *got = calloc(1, r->file_bytes);
    const expert_span span = {.bytes = r->file_bytes, .count = 1};
    int rc = fetch_read(r->f, 0, &span, got, r->why, sizeof(r->why));
    if (rc == 0) assert_memory_equal(got, r->file, r->file_bytes);
    free(got);
    return rc;
}

static void expect_failure(rig *r, int code, const char *part) {
    int rc = read_all(r);
    assert_string_equal(err_name(rc), err_name(code));
    if (strstr(r->why, part) == NULL) fail_msg("'%s': no '%s'", r->why, part);
}

static void learns_what_the_model_is(void **state) {
    (void)state;
    rig r;
    fetch_model m;
    char source[FETCH_SOURCE_SIZE];
    rig_open(&r, 1, 0);
    assert_string_equal(fetch_source(r.f, source), "");
    assert_int_equal(fetch_ask(r.f, &m, r.why, sizeof(r.why)), 0);
    assert_int_equal(m.n_files, 1);
    assert_int_equal(m.files[0].bytes, r.file_bytes);
    assert_non_null(strstr(m.files[0].name, "fetch.gguf"));
    assert_true(m.manifest_bytes > 0);
    assert_true(fingerprint_equal(&m.print, &r.sources[0].print));
    assert_string_equal(fetch_source(r.f, source), r.sources[0].endpoint);
    fetch_model_fini(&m);
    rig_close(&r);
}

static void reads_a_file_of_many_pieces(void **state) {
    (void)state;
    rig r;
    rig_open(&r, 1, 0);
    assert_true(r.file_bytes > 4 * (256 << 10)); /* more than the window */
    assert_int_equal(read_all(&r), 0);
    assert_int_equal(read_all(&r), 0);
    rig_close(&r);
}

static void reads_columns(void **state) {
    (void)state;
    rig r;
    rig_open(&r, 1, 0);
    const expert_span span = {
        .offset = 1000, .stride = 700, .bytes = 300, .count = 1500};
    uint8_t *got = malloc(span.bytes * span.count);
    assert_true(1000 + 700 * 1500 < r.file_bytes);
    assert_int_equal(fetch_read(r.f, 0, &span, got, r.why, sizeof(r.why)), 0);
    for (size_t i = 0; i < span.count; i++) {
        assert_memory_equal(got + i * 300, r.file + 1000 + i * 700, 300);
    }
    free(got);
    rig_close(&r);
}

static void waits_for_a_busy_source(void **state) {
    (void)state;
    rig r;
    rig_open(&r, 1, 0);
    atomic_store(&r.sources[0].manner, SOURCE_BUSY);
    assert_int_equal(read_all(&r), 0);
    rig_close(&r);
}

static void goes_to_the_next_source_when_one_says_nothing(void **state) {
    (void)state;
    rig r;
    char source[FETCH_SOURCE_SIZE];
    rig_open(&r, 2, STALL_MS);
    atomic_store(&r.sources[0].manner, SOURCE_SILENT);
    assert_int_equal(read_all(&r), 0);
    assert_string_equal(fetch_source(r.f, source), r.sources[1].endpoint);
    rig_close(&r);
}

static void goes_on_where_a_source_stopped(void **state) {
    (void)state;
    rig r;
    rig_open(&r, 2, STALL_MS);
    atomic_store(&r.sources[0].stop_after, 3);
    atomic_store(&r.sources[0].manner, SOURCE_STOPS);
    assert_int_equal(read_all(&r), 0);
    unsigned first = atomic_load(&r.sources[0].answers);
    assert_true(first >= 3);
    /* What had come was not asked for again. */
    size_t pieces = (r.file_bytes + (256 << 10) - 1) / (256 << 10);
    assert_int_equal(atomic_load(&r.sources[1].answers), pieces - 3);
    rig_close(&r);
}

static void goes_to_the_next_source_when_one_refuses(void **state) {
    (void)state;
    rig r;
    rig_open(&r, 2, 0);
    atomic_store(&r.sources[0].manner, SOURCE_REFUSES);
    assert_int_equal(read_all(&r), 0);
    rig_close(&r);
}

/* Whatever a peer says it with: it must not be waited for. */
static void goes_on_at_once_after_any_refusal(void **state) {
    (void)state;
    const int codes[] = {-EAGAIN, -EINTR, ERR_DEADLINE, ERR_CANCELLED};
    rig r;
    rig_open(&r, 2, 3600 * 1000);
    atomic_store(&r.sources[0].manner, SOURCE_REFUSES);
    for (size_t i = 0; i < ARRAY_LEN(codes); i++) {
        atomic_store(&r.sources[0].refusal, codes[i]);
        list_sources(&r, 0, 1);
        expect_failure(&r, codes[i], "refused");
        list_sources(&r, 0, 2);
        assert_int_equal(read_all(&r), 0);
    }
    rig_close(&r);
}

static void says_why_when_all_have_failed(void **state) {
    (void)state;
    rig r;
    rig_open(&r, 2, STALL_MS);
    atomic_store(&r.sources[0].manner, SOURCE_SILENT);
    atomic_store(&r.sources[1].manner, SOURCE_SILENT);
    expect_failure(&r, ERR_DEADLINE, "2 coordinators");
    atomic_store(&r.sources[0].manner, SOURCE_REFUSES);
    atomic_store(&r.sources[1].manner, SOURCE_REFUSES);
    expect_failure(&r, ERR_WRONG_MODEL, "another model");
    atomic_store(&r.sources[1].manner, SOURCE_SOUND);
    assert_int_equal(read_all(&r), 0);
    rig_close(&r);
}

static void refuses_pieces_of_a_wrong_size_or_kind(void **state) {
    (void)state;
    rig r;
    rig_open(&r, 1, 0);
    atomic_store(&r.sources[0].manner, SOURCE_SHORT_PIECE);
    expect_failure(&r, ERR_MALFORMED, "size");
    atomic_store(&r.sources[0].manner, SOURCE_OTHER_KIND);
    expect_failure(&r, ERR_MALFORMED, "kind");
    fetch_model m;
    assert_int_equal(fetch_ask(r.f, &m, r.why, sizeof(r.why)), ERR_MALFORMED);
    rig_close(&r);
}

static void takes_nothing_from_who_serves_another_model(void **state) {
    (void)state;
    rig r;
    rig_open(&r, 1, 0);
    fingerprint other = r.sources[0].print;
    other.bytes[7] ^= 1;
    fetch_expect(r.f, &other);
    expect_failure(&r, ERR_WRONG_MODEL, "model");
    fetch_expect(r.f, &r.sources[0].print);
    assert_int_equal(read_all(&r), 0);
    rig_close(&r);
}

static void says_that_it_knows_no_source(void **state) {
    (void)state;
    rig r;
    rig_open(&r, 1, STALL_MS);
    fetch_set_sources(r.f, NULL, 0);
    expect_failure(&r, ERR_UNAVAILABLE, "no coordinator");
    rig_close(&r);
}

static void refuses_sources_beyond_loopback_unless_allowed(void **state) {
    (void)state;
    rig r;
    rig_open(&r, 1, STALL_MS);
    const char *const away[] = {"tcp://192.0.2.1:7000"};
    fetch_set_sources(r.f, away, 1);
    expect_failure(&r, ERR_USAGE, "192.0.2.1");
    rig_close(&r);
}

static void *read_in_thread(void *arg) {
    rig *r = arg;
    return (void *)(intptr_t)read_all(r);
}

static void stops_in_the_middle_of_a_read(void **state) {
    (void)state;
    rig r;
    pthread_t thread;
    void *rc;
    rig_open(&r, 1, 60000);
    atomic_store(&r.sources[0].manner, SOURCE_SILENT);
    assert_int_equal(pthread_create(&thread, NULL, read_in_thread, &r), 0);
    while (atomic_load(&r.sources[0].answers) == 0)
        usleep(1000);
    fetch_stop(r.f);
    pthread_join(thread, &rc);
    assert_int_equal((intptr_t)rc, ERR_CANCELLED);
    rig_close(&r);
}

static void leaves_a_source_that_is_not_listed_any_more(void **state) {
    (void)state;
    rig r;
    pthread_t thread;
    void *rc;
    rig_open(&r, 2, 60000);
    list_sources(&r, 0, 1);
    atomic_store(&r.sources[0].manner, SOURCE_SILENT);
    assert_int_equal(pthread_create(&thread, NULL, read_in_thread, &r), 0);
    while (atomic_load(&r.sources[0].answers) == 0)
        usleep(1000);
    list_sources(&r, 1, 1);
    pthread_join(thread, &rc);
    assert_int_equal((intptr_t)rc, 0);
    rig_close(&r);
}

/* ZeroMQ hands messages from thread to thread unseen by ThreadSanitizer. */
extern void __tsan_init(void) __attribute__((weak));

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(learns_what_the_model_is),
        cmocka_unit_test(reads_a_file_of_many_pieces),
        cmocka_unit_test(reads_columns),
        cmocka_unit_test(waits_for_a_busy_source),
        cmocka_unit_test(goes_to_the_next_source_when_one_says_nothing),
        cmocka_unit_test(goes_on_where_a_source_stopped),
        cmocka_unit_test(goes_to_the_next_source_when_one_refuses),
        cmocka_unit_test(goes_on_at_once_after_any_refusal),
        cmocka_unit_test(says_why_when_all_have_failed),
        cmocka_unit_test(refuses_pieces_of_a_wrong_size_or_kind),
        cmocka_unit_test(takes_nothing_from_who_serves_another_model),
        cmocka_unit_test(says_that_it_knows_no_source),
        cmocka_unit_test(refuses_sources_beyond_loopback_unless_allowed),
        cmocka_unit_test(stops_in_the_middle_of_a_read),
        cmocka_unit_test(leaves_a_source_that_is_not_listed_any_more),
    };
    if (__tsan_init != NULL) {
        puts("skipped: ThreadSanitizer cannot see into ZeroMQ's threads");
        printf("[  SKIPPED ] %zu test(s), listed below:\n",
               sizeof(tests) / sizeof(tests[0]));
        return 0;
    }
    log_setup("test", LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
