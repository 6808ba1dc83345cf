/* test_fetch.c - a model's bytes from those who have them: from several at
 * once, from the others when one fails, and what is not believed. */
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
#include "proto/message.h"
#include "tests/support/over_tcp.h"
#include "tests/support/weights_source.h"

#define STALL_MS 1500

typedef struct {
    weights_source sources[3];
    size_t n_sources;
    fetch *f;
    uint8_t *file; /* the model as it is on disk */
    size_t file_bytes;
    gguf *g;
    manifest *checks;
    model_config model;
    char why[512];
} rig;

static void list_sources(rig *r, size_t first, size_t n) {
    const char *endpoints[3];
    for (size_t i = 0; i < n; i++)
        endpoints[i] = r->sources[first + i].endpoint;
    fetch_set_sources(r->f, endpoints, n);
}

static void rig_open(rig *r, size_t n_sources, uint32_t stall_ms) {
    *r = (rig){.n_sources = n_sources};
    model_shape shape = model_shape_small();
    shape.width = 256;
    shape.expert_width = 4096; /* a unit of 3 MiB and a bit */
    shape.n_layers = 1;
    shape.n_experts = 2;
    const char *path = fixture_path("fetch.gguf");
    if (model_gen(&shape, path, r->why, sizeof(r->why)) != 0)
        fail_msg("%s", r->why);
    for (size_t i = 0; i < n_sources; i++)
        weights_source_start(&r->sources[i], path);

    if (gguf_open(&r->g, path, r->why, sizeof(r->why)) != 0 ||
        manifest_open(&r->checks, r->g, true, r->why, sizeof(r->why)) != 0 ||
        model_read(&r->model, r->g, r->why, sizeof(r->why)) != 0) {
        fail_msg("%s", r->why);
    }
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

/* As if the process ended and another one began: what was fetched has gone to
 * the cache. */
static void restart(rig *r) {
    const fetch_config c = {.cluster = "test", .boot_id = 6};
    fetch_free(r->f);
    assert_int_equal(fetch_new(&r->f, &c), 0);
    list_sources(r, 0, r->n_sources);
}

static void rig_close(rig *r) {
    fetch_free(r->f);
    for (size_t i = 0; i < r->n_sources; i++)
        weights_source_stop(&r->sources[i]);
    manifest_close(r->checks);
    gguf_close(r->g);
    free(r->file);
}

/* The whole file, or what went wrong. */
static int read_all(rig *r) {
    uint8_t *got = calloc(1, r->file_bytes);
    int rc = fetch_read(r->f, 0, 0, r->file_bytes, got, r->why, sizeof(r->why));
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
    rig_open(&r, 1, 0);
    assert_int_equal(fetch_ask(r.f, &m, r.why, sizeof(r.why)), 0);
    assert_int_equal(m.n_files, 1);
    assert_int_equal(m.files[0].bytes, r.file_bytes);
    assert_non_null(strstr(m.files[0].name, "fetch.gguf"));
    assert_true(m.manifest_bytes > 0);
    assert_true(fingerprint_equal(&m.print, &r.sources[0].print));
    fetch_model_fini(&m);
    rig_close(&r);
}

static void reads_a_file_of_many_pieces(void **state) {
    (void)state;
    rig r;
    rig_open(&r, 1, 0);
    assert_true(r.file_bytes > 6 * MESSAGE_PIECE_MAX);
    assert_int_equal(read_all(&r), 0);
    assert_int_equal(read_all(&r), 0);
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
    rig_open(&r, 2, STALL_MS);
    atomic_store(&r.sources[0].manner, SOURCE_SILENT);
    assert_int_equal(read_all(&r), 0);
    rig_close(&r);
}

/* Which source is connected first is chance: until the first one was asked for
 * something that it did not bring. */
static void goes_on_where_a_source_stopped(void **state) {
    (void)state;
    rig r;
    rig_open(&r, 2, STALL_MS);
    atomic_store(&r.sources[0].stop_after, 3);
    atomic_store(&r.sources[0].manner, SOURCE_STOPS);
    size_t reads = 0,
           each = (r.file_bytes + MESSAGE_PIECE_MAX - 1) / MESSAGE_PIECE_MAX;
    while (atomic_load(&r.sources[0].answers) <= 3 && reads < 100) {
        assert_int_equal(read_all(&r), 0);
        reads++;
    }
    assert_true(reads < 100);
    /* What had come was not asked for again; on a slow computer a piece may be
     * asked for twice before it comes. */
    assert_int_equal(atomic_load(&r.sources[0].pieces), 3);
    assert_in_range(atomic_load(&r.sources[1].pieces), reads * each - 3,
                    reads * each - 1);
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
    expect_failure(&r, ERR_DEADLINE, "2 sources");
    atomic_store(&r.sources[0].manner, SOURCE_REFUSES);
    atomic_store(&r.sources[1].manner, SOURCE_REFUSES);
    /* On a busy machine they may be too slow to be connected again. */
    for (int i = 0; i < 50 && read_all(&r) == ERR_DEADLINE; i++)
        continue;
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

/* ---- units ---- */

static unit_cache *open_cache(const char *name) {
    char why[256] = "";
    unit_cache *c;
    const unit_cache_config config = {.dir = fixture_path(name),
                                      .max_bytes = (uint64_t)1 << 28};
    if (unit_cache_open(&c, &config, why, sizeof(why)) != 0)
        fail_msg("%s", why);
    return c;
}

static fetch_unit *begin_unit(rig *r, uint32_t unit, unit_cache *cache,
                              const char *const *holders, size_t n) {
    fetch_unit *u;
    fetch_order o = {.cache = cache, .holders = holders, .n_holders = n};
    assert_int_equal(unit_image_of(&o.image, r->g, &r->model, 0, unit, 1,
                                   r->why, sizeof(r->why)),
                     0);
    assert_int_equal(unit_image_key(&o.image, r->checks, &o.key), 0);
    assert_int_equal(fetch_unit_begin(r->f, &o, &u), 0);
    return u;
}

/* Read it in odd portions and check it; ends it with what a store would say. */
static int read_unit(rig *r, fetch_unit *u, uint32_t unit) {
    unit_image image;
    unit_check *check;
    static uint8_t portion[700001];
    assert_int_equal(
        unit_image_of(&image, r->g, &r->model, 0, unit, 1, NULL, 0), 0);
    assert_int_equal(unit_check_open(&check, &image, r->checks), 0);
    int rc = 0;
    for (uint64_t at = 0; at < image.bytes && rc == 0;) {
        size_t n = size_min(sizeof(portion), image.bytes - at);
        rc = fetch_unit_read(u, at, n, portion, r->why, sizeof(r->why));
        if (rc == 0) unit_check_add(check, portion, n);
        at += n;
    }
    if (rc == 0) rc = unit_check_result(check);
    unit_check_close(check);
    fetch_unit_end(u, rc);
    return rc;
}

static int bring_unit(rig *r, uint32_t unit, unit_cache *cache) {
    return read_unit(r, begin_unit(r, unit, cache, NULL, 0), unit);
}

static unsigned long long given(const rig *r) {
    unsigned long long n = 0;
    for (size_t i = 0; i < r->n_sources; i++)
        n += atomic_load(&r->sources[i].unit_bytes);
    return n;
}

static uint64_t unit_bytes(const rig *r) {
    unit_image image;
    assert_int_equal(unit_image_of(&image, r->g, &r->model, 0, 0, 1, NULL, 0),
                     0);
    return image.bytes;
}

static size_t count_givers(const rig *r) {
    size_t n = 0;
    for (size_t i = 0; i < r->n_sources; i++)
        n += atomic_load(&r->sources[i].unit_bytes) > 0;
    return n;
}

static void brings_a_unit_from_several_sources_at_once(void **state) {
    (void)state;
    rig r;
    rig_open(&r, 3, 0);
    fetch_unit *first = begin_unit(&r, 0, NULL, NULL, 0);
    fetch_unit *second = begin_unit(&r, 1, NULL, NULL, 0);
    assert_int_equal(read_unit(&r, first, 0), 0);
    assert_int_equal(read_unit(&r, second, 1), 0);
    uint64_t units = 2;
    for (int i = 0; i < 100 && count_givers(&r) < 3; i++, units++)
        assert_int_equal(bring_unit(&r, i % 2, NULL), 0);
    assert_int_equal(count_givers(&r), 3);
    assert_true(given(&r) == units * unit_bytes(&r));
    fetch_figures f;
    fetch_look(r.f, &f);
    assert_true(f.fetched_bytes == units * unit_bytes(&r));
    assert_int_equal(f.n_sources, 3);
    rig_close(&r);
}

static void
asks_a_node_that_holds_it_and_passes_over_one_that_has_not(void **state) {
    (void)state;
    rig r;
    rig_open(&r, 3, 0);
    list_sources(&r, 0, 1); /* the others are nodes */
    atomic_store(&r.sources[1].manner, SOURCE_EMPTY);
    const char *const nodes[] = {r.sources[1].endpoint, r.sources[2].endpoint};
    fetch_unit *u = begin_unit(&r, 0, NULL, nodes, 2);
    assert_int_equal(read_unit(&r, u, 0), 0);
    for (int i = 0; i < 100 && atomic_load(&r.sources[2].unit_bytes) == 0;
         i++) {
        u = begin_unit(&r, 0, NULL, nodes, 2);
        assert_int_equal(read_unit(&r, u, 0), 0);
    }
    assert_true(atomic_load(&r.sources[2].unit_bytes) > 0);
    assert_true(atomic_load(&r.sources[1].unit_bytes) == 0);
    /* Nobody else has it: what it says is said. */
    fetch_set_sources(r.f, NULL, 0);
    u = begin_unit(&r, 1, NULL, nodes, 1);
    assert_int_equal(read_unit(&r, u, 1), ERR_NOT_HERE);
    assert_non_null(strstr(r.why, "refused"));
    rig_close(&r);
}

static void goes_on_with_the_others_when_a_source_breaks_off(void **state) {
    (void)state;
    rig r;
    rig_open(&r, 2, STALL_MS);
    atomic_store(&r.sources[0].stop_after, 1);
    atomic_store(&r.sources[0].manner, SOURCE_STOPS);
    uint64_t units = 0;
    while (atomic_load(&r.sources[0].answers) <= 1 && units < 100) {
        assert_int_equal(bring_unit(&r, units % 2, NULL), 0);
        units++;
    }
    assert_true(units < 100);
    assert_true(given(&r) == units * unit_bytes(&r));
    rig_close(&r);
}

/* Several sources, one of which gives damaged bytes that are soundly sealed:
 * after a few tries the unit comes from a sound one alone. */
static void finds_out_whose_bytes_are_damaged(void **state) {
    (void)state;
    rig r;
    rig_open(&r, 2, STALL_MS);
    atomic_store(&r.sources[0].manner, SOURCE_ROTTEN);
    unit_cache *cache = open_cache("doubt");
    int rc = 0;
    for (int i = 0; i < 100 && rc == 0; i++)
        rc = bring_unit(&r, 0, NULL); /* until it is asked, too */
    assert_int_equal(rc, ERR_CHECKSUM);
    for (int i = 0; i < 4 && rc == ERR_CHECKSUM; i++)
        rc = bring_unit(&r, 0, cache);
    assert_int_equal(rc, 0);
    fetch_figures f;
    fetch_look(r.f, &f);
    assert_true(f.damaged > 0);
    /* Nothing damaged is kept: the sources are not needed for it any more. */
    restart(&r);
    unit_cache_close(cache); /* it is written */
    cache = open_cache("doubt");
    fetch_set_sources(r.f, NULL, 0);
    assert_int_equal(bring_unit(&r, 0, cache), 0);
    fetch_free(r.f);
    r.f = NULL;
    unit_cache_close(cache);
    rig_close(&r);
}

static void keeps_a_unit_and_does_not_fetch_it_again(void **state) {
    (void)state;
    rig r;
    rig_open(&r, 1, 0);
    unit_cache *cache = open_cache("kept");
    assert_int_equal(bring_unit(&r, 0, cache), 0);
    restart(&r);
    unit_cache_close(cache); /* it is written */
    cache = open_cache("kept");
    unsigned long long before = given(&r);
    assert_int_equal(bring_unit(&r, 0, cache), 0);
    assert_true(given(&r) == before);
    fetch_figures f;
    fetch_look(r.f, &f);
    assert_true(f.cached_bytes == unit_bytes(&r));
    fetch_free(r.f);
    r.f = NULL;
    unit_cache_close(cache);
    rig_close(&r);
}

static void resumes_what_an_earlier_process_left(void **state) {
    (void)state;
    rig r;
    rig_open(&r, 1, STALL_MS);
    unit_cache *cache = open_cache("left");
    atomic_store(&r.sources[0].stop_after, 2);
    atomic_store(&r.sources[0].manner, SOURCE_STOPS);
    assert_int_equal(bring_unit(&r, 0, cache), ERR_DEADLINE);
    restart(&r);
    unit_cache_close(cache);
    cache = open_cache("left");
    unsigned long long before = given(&r);
    atomic_store(&r.sources[0].manner, SOURCE_SOUND);
    assert_int_equal(bring_unit(&r, 0, cache), 0);
    assert_true(given(&r) - before == unit_bytes(&r) - 2 * MESSAGE_PIECE_MAX);
    fetch_figures f;
    fetch_look(r.f, &f);
    assert_true(f.resumed_bytes == 2 * MESSAGE_PIECE_MAX);
    fetch_free(r.f);
    r.f = NULL;
    unit_cache_close(cache);
    rig_close(&r);
}

static void flip_kept_byte(rig *r, const char *folder) {
    char path[600], hex[UNIT_KEY_HEX];
    unit_image image;
    unit_key key;
    uint8_t byte;
    assert_int_equal(unit_image_of(&image, r->g, &r->model, 0, 0, 1, NULL, 0),
                     0);
    assert_int_equal(unit_image_key(&image, r->checks, &key), 0);
    snprintf(path, sizeof(path), "%s/%s.unit", fixture_path(folder),
             unit_key_hex(&key, hex));
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, 2000000), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, 2000000), 1);
    close(fd);
}

static void a_flipped_byte_on_disk_is_found_and_fetched_anew(void **state) {
    (void)state;
    rig r;
    rig_open(&r, 1, 0);
    unit_cache *cache = open_cache("flipped");
    assert_int_equal(bring_unit(&r, 0, cache), 0);
    restart(&r);
    unit_cache_close(cache);
    flip_kept_byte(&r, "flipped");
    cache = open_cache("flipped");
    assert_int_equal(bring_unit(&r, 0, cache), ERR_CHECKSUM);
    unsigned long long before = given(&r);
    assert_int_equal(bring_unit(&r, 0, cache), 0);
    assert_true(given(&r) - before == unit_bytes(&r));
    assert_int_equal(unit_cache_look(cache).damaged, 1);
    fetch_free(r.f);
    r.f = NULL;
    unit_cache_close(cache);
    rig_close(&r);
}

static void ends_units_that_nobody_read(void **state) {
    (void)state;
    rig r;
    rig_open(&r, 1, 0);
    for (uint32_t i = 0; i < 20; i++)
        fetch_unit_end(begin_unit(&r, i % 2, NULL, NULL, 0), ERR_CANCELLED);
    assert_int_equal(bring_unit(&r, 0, NULL), 0);
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

int main(void) {
    const struct CMUnitTest tests[] = {
        over_tcp(learns_what_the_model_is),
        over_tcp(reads_a_file_of_many_pieces),
        over_tcp(waits_for_a_busy_source),
        over_tcp(goes_to_the_next_source_when_one_says_nothing),
        over_tcp(goes_on_where_a_source_stopped),
        over_tcp(goes_to_the_next_source_when_one_refuses),
        over_tcp(goes_on_at_once_after_any_refusal),
        over_tcp(says_why_when_all_have_failed),
        over_tcp(refuses_pieces_of_a_wrong_size_or_kind),
        over_tcp(takes_nothing_from_who_serves_another_model),
        over_tcp(brings_a_unit_from_several_sources_at_once),
        over_tcp(asks_a_node_that_holds_it_and_passes_over_one_that_has_not),
        over_tcp(goes_on_with_the_others_when_a_source_breaks_off),
        over_tcp(finds_out_whose_bytes_are_damaged),
        over_tcp(keeps_a_unit_and_does_not_fetch_it_again),
        over_tcp(resumes_what_an_earlier_process_left),
        over_tcp(a_flipped_byte_on_disk_is_found_and_fetched_anew),
        over_tcp(ends_units_that_nobody_read),
        over_tcp(says_that_it_knows_no_source),
        over_tcp(refuses_sources_beyond_loopback_unless_allowed),
        over_tcp(stops_in_the_middle_of_a_read),
        over_tcp(leaves_a_source_that_is_not_listed_any_more),
    };
    log_setup("test", LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
