/* test_shard.c - a node's part of a model: from its own file, and pulled from a
 * source that has it, honest or not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "engine/err.h"
#include "engine/log.h"
#include "expert_node/shard.h"
#include "expert_node/skeleton.h"
#include "tests/support/fixture.h"
#include "tests/support/model_gen.h"
#include "tests/support/over_tcp.h"
#include "tests/support/weights_source.h"

typedef struct {
    const char *path;
    weights_source source;
    fetch *f;
    shard *s;
    char folder[64]; /* TMPDIR, to see what is left in it */
    char why[512];
} rig;

static void make_model(rig *r) {
    *r = (rig){0};
    model_shape shape = model_shape_small();
    shape.expert_width = 256; /* eight segments */
    r->path = fixture_path("shard.gguf");
    if (model_gen(&shape, r->path, r->why, sizeof(r->why)) != 0)
        fail_msg("%s", r->why);
}

static void open_fetch(rig *r, uint32_t stall_ms) {
    const fetch_config c = {
        .cluster = "test", .boot_id = 5, .stall_ms = stall_ms};
    assert_int_equal(fetch_new(&r->f, &c), 0);
    const char *const endpoints[] = {r->source.endpoint};
    fetch_set_sources(r->f, endpoints, 1);
}

static void rig_open(rig *r) {
    make_model(r);
    snprintf(r->folder, sizeof(r->folder), "/tmp/roster-shard-XXXXXX");
    assert_non_null(mkdtemp(r->folder));
    setenv("TMPDIR", r->folder, 1);
    weights_source_start(&r->source, r->path);
    open_fetch(r, 0);
}

static uint32_t files_left(const rig *r) {
    uint32_t n = 0;
    DIR *d = opendir(r->folder);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static void rig_close(rig *r) {
    shard_close(r->s);
    fetch_free(r->f);
    weights_source_stop(&r->source);
    assert_int_equal(files_left(r), 0);
    remove(r->folder);
    unsetenv("TMPDIR");
}

static int pull(rig *r) {
    const shard_origin from = {.fetch = r->f};
    return shard_pull(&r->s, &from, r->why, sizeof(r->why));
}

static void expect_refusal(rig *r, int code, const char *part) {
    int rc = pull(r);
    assert_string_equal(err_name(rc), err_name(code));
    assert_null(r->s);
    if (strstr(r->why, part) == NULL) fail_msg("'%s': no '%s'", r->why, part);
}

/* ---- of a file ---- */

static void fills_itself_with_its_share_of_units(void **state) {
    (void)state;
    rig r;
    make_model(&r);
    const option_list none = {0};
    const shard_plan plan = {"1/2", &none, 2};
    assert_int_equal(shard_open(&r.s, r.path, r.why, sizeof(r.why)), 0);
    assert_int_equal(shard_cut(r.s, 2, r.why, sizeof(r.why)), 0);
    assert_int_equal(shard_fill(r.s, &plan, r.why, sizeof(r.why)), 0);
    assert_int_equal(holdings_count(&r.s->held), 2 * 4 * 2 / 2);
    assert_int_equal(expert_store_count(r.s->store), 8);
    assert_null(r.s->g); /* the file is closed */
    for (uint32_t u = 0; u < 8; u++) {
        assert_int_equal(holdings_has(&r.s->held, 0, u), u % 2 == 1);
        assert_int_equal(expert_store_get(r.s->store, 0, u) != NULL, u % 2);
    }
    shard_close(r.s);
}

static void is_cut_anew_and_empty(void **state) {
    (void)state;
    rig r;
    make_model(&r);
    assert_int_equal(shard_open(&r.s, r.path, r.why, sizeof(r.why)), 0);
    assert_int_equal(shard_cut(r.s, 1, r.why, sizeof(r.why)), 0);
    assert_int_equal(expert_store_load(r.s->store, 0, 3, r.why, sizeof(r.why)),
                     0);
    holdings_add(&r.s->held, 0, 3);
    assert_int_equal(shard_cut(r.s, 4, r.why, sizeof(r.why)), 0);
    assert_int_equal(r.s->slices, 4);
    assert_int_equal(holdings_count(&r.s->held), 0);
    assert_int_equal(expert_store_units(r.s->store, 0), 16);
    assert_int_equal(expert_store_load(r.s->store, 0, 15, r.why, sizeof(r.why)),
                     0);
    assert_int_equal(shard_cut(r.s, 3, r.why, sizeof(r.why)), ERR_RANGE);
    shard_close(r.s);
}

static void names_the_file_that_is_not_there(void **state) {
    (void)state;
    rig r;
    make_model(&r);
    assert_int_equal(shard_open(&r.s, "/nowhere/m.gguf", r.why, sizeof(r.why)),
                     -ENOENT);
    assert_non_null(strstr(r.why, "/nowhere/m.gguf"));
    assert_null(r.s);
}

/* ---- pulled ---- */

static void is_pulled_without_the_weights(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    assert_int_equal(pull(&r), 0);
    assert_true(fingerprint_equal(&r.s->print, &r.source.print));
    assert_int_equal(r.s->model.n_experts, 4);
    struct stat st;
    assert_int_not_equal(stat(gguf_file_path(r.s->g, 0), &st), 0); /* gone */
    rig_close(&r);
}

static void same_unit(const shard *a, const shard *b, uint32_t unit) {
    const ffn_weights *x = expert_store_get(a->store, 1, unit);
    const ffn_weights *y = expert_store_get(b->store, 1, unit);
    assert_non_null(x);
    assert_non_null(y);
    assert_int_equal(x->gate.bytes, y->gate.bytes);
    assert_memory_equal(x->gate.data, y->gate.data, x->gate.bytes);
    assert_memory_equal(x->up.data, y->up.data, x->up.bytes);
    assert_memory_equal(x->down.data, y->down.data, x->down.bytes);
}

static void loads_the_same_bytes_as_from_the_file(void **state) {
    (void)state;
    const uint32_t cuts[] = {1, 2, 8};
    rig r;
    shard *own;
    rig_open(&r);
    assert_int_equal(pull(&r), 0);
    assert_int_equal(shard_open(&own, r.path, r.why, sizeof(r.why)), 0);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(shard_cut(r.s, cuts[i], r.why, sizeof(r.why)), 0);
        assert_int_equal(shard_cut(own, cuts[i], r.why, sizeof(r.why)), 0);
        for (uint32_t u = 0; u < 4 * cuts[i]; u++) {
            if (shard_load(r.s, 1, u, r.why, sizeof(r.why)) < 0)
                fail_msg("%s", r.why);
            assert_int_equal(
                expert_store_load(own->store, 1, u, r.why, sizeof(r.why)), 0);
            same_unit(r.s, own, u);
        }
    }
    shard_close(own);
    rig_close(&r);
}

static void a_load_fails_while_the_source_is_away(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    fetch_free(r.f);
    open_fetch(&r, 1000);
    assert_int_equal(pull(&r), 0);
    assert_int_equal(shard_cut(r.s, 1, r.why, sizeof(r.why)), 0);
    atomic_store(&r.source.manner, SOURCE_SILENT);
    assert_int_equal(shard_load(r.s, 0, 0, r.why, sizeof(r.why)), ERR_DEADLINE);
    assert_int_equal(expert_store_count(r.s->store), 0);
    atomic_store(&r.source.manner, SOURCE_SOUND);
    int rc = ERR_DEADLINE; /* again, if the machine is that busy */
    for (int i = 0; i < 20 && rc == ERR_DEADLINE; i++)
        rc = shard_load(r.s, 0, 0, r.why, sizeof(r.why));
    assert_int_equal(rc, 0);
    rig_close(&r);
}

static void refuses_what_is_not_what_its_fingerprint_says(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    r.source.print.bytes[3] ^= 1;
    expect_refusal(&r, ERR_CHECKSUM, "fingerprint");
    rig_close(&r);
}

static void refuses_sizes_that_no_model_has(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    r.source.more_head = (uint64_t)1 << 40; /* more than its file */
    expect_refusal(&r, ERR_MALFORMED, "");
    r.source.more_head = 0;
    r.source.more_manifest = (uint64_t)1 << 40;
    expect_refusal(&r, ERR_TOO_LARGE, "manifest");
    rig_close(&r);
}

static void refuses_names_that_lead_elsewhere(void **state) {
    (void)state;
    const char *const names[] = {"../m.gguf", "a/b.gguf", ".hidden", ".."};
    rig r;
    rig_open(&r);
    for (size_t i = 0; i < 4; i++) {
        r.source.other_name = names[i];
        int rc = pull(&r);
        assert_int_equal(rc, ERR_MALFORMED);
        assert_int_equal(files_left(&r), 0);
    }
    rig_close(&r);
}

static void never_sums_the_holes_of_a_damaged_manifest(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    r.source.more_head = 1; /* still a head; but the manifest is cut short */
    r.source.more_manifest = (uint64_t)0 - 8;
    expect_refusal(&r, ERR_NOT_HERE, "manifest");
    rig_close(&r);
}

static void says_where_it_cannot_write(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    setenv("TMPDIR", "/nowhere", 1);
    expect_refusal(&r, -ENOENT, "/nowhere");
    rig_close(&r);
}

/* A folder as a pull makes it, with a file in it, `age_s` old. */
static void leave_folder(const rig *r, const char *name, time_t age_s) {
    char path[200];
    const struct timespec then = {.tv_sec = time(NULL) - age_s};
    const struct timespec times[2] = {then, then};
    snprintf(path, sizeof(path), "%s/%s", r->folder, name);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof(path), "%s/%s/m.gguf", r->folder, name);
    fixture_write(path, "GGUF", 4);
    snprintf(path, sizeof(path), "%s/%s", r->folder, name);
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

/* Is it there?  Not any more, afterwards. */
static bool folder_left(const rig *r, const char *name) {
    char path[200];
    snprintf(path, sizeof(path), "%s/%s/m.gguf", r->folder, name);
    bool left = unlink(path) == 0;
    snprintf(path, sizeof(path), "%s/%s", r->folder, name);
    return rmdir(path) == 0 && left;
}

static void removes_what_a_killed_pull_left_behind(void **state) {
    (void)state;
    rig r;
    char path[200];
    rig_open(&r);
    leave_folder(&r, "roster-model-killed", 3600);
    leave_folder(&r, "roster-model-at_it_", 3600);
    leave_folder(&r, "roster-model-newest", 0);
    leave_folder(&r, "roster-model-of-mine", 3600);
    snprintf(path, sizeof(path), "%s/roster-model-at_it_", r.folder);
    int held = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(flock(held, LOCK_EX | LOCK_NB), 0);

    assert_int_equal(pull(&r), 0);
    assert_false(folder_left(&r, "roster-model-killed"));
    assert_true(folder_left(&r, "roster-model-at_it_")); /* by another one */
    assert_true(folder_left(&r, "roster-model-newest"));
    assert_true(folder_left(&r, "roster-model-of-mine"));
    close(held);
    rig_close(&r);
}

static void is_kept_and_opened_without_a_source(void **state) {
    (void)state;
    rig r;
    char path[600];
    rig_open(&r);
    const char *dir = fixture_path("shard-cache");
    unit_cache *cache;
    const unit_cache_config c = {.dir = dir, .max_bytes = 1 << 26};
    assert_int_equal(unit_cache_open(&cache, &c, r.why, sizeof(r.why)), 0);
    const shard_origin from = {
        .fetch = r.f, .cache = cache, .wanted = &r.source.print};
    assert_int_equal(shard_pull(&r.s, &from, r.why, sizeof(r.why)), 0);
    assert_int_equal(shard_cut(r.s, 1, r.why, sizeof(r.why)), 0);
    assert_int_equal(shard_load(r.s, 1, 2, r.why, sizeof(r.why)), 0);
    shard_close(r.s);
    fetch_free(r.f);         /* what it still has to keep is the cache's now */
    unit_cache_close(cache); /* everything is written */
    assert_int_equal(unit_cache_open(&cache, &c, r.why, sizeof(r.why)), 0);

    open_fetch(&r, 0);
    fetch_set_sources(r.f, NULL, 0);
    const shard_origin again = {
        .fetch = r.f, .cache = cache, .wanted = &r.source.print};
    assert_int_equal(shard_pull(&r.s, &again, r.why, sizeof(r.why)), 0);
    assert_true(fingerprint_equal(&r.s->print, &r.source.print));
    assert_int_equal(shard_cut(r.s, 1, r.why, sizeof(r.why)), 0);
    assert_int_equal(shard_load(r.s, 1, 2, r.why, sizeof(r.why)), 0);
    assert_int_equal(shard_load(r.s, 1, 3, r.why, sizeof(r.why)),
                     ERR_UNAVAILABLE);
    shard_close(r.s);

    /* What is damaged is removed, and has to come anew. */
    char hex[FINGERPRINT_HEX_SIZE];
    snprintf(path, sizeof(path), "%s/model-%s/%s.roster", dir,
             fingerprint_hex(&r.source.print, hex), strrchr(r.path, '/') + 1);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "damage", 6, 300), 6);
    close(fd);
    assert_true(skeleton_is_kept(dir, &r.source.print));
    assert_int_equal(shard_pull(&r.s, &again, r.why, sizeof(r.why)),
                     ERR_UNAVAILABLE);
    assert_false(skeleton_is_kept(dir, &r.source.print));
    fetch_free(r.f);
    r.f = NULL;
    unit_cache_close(cache);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        over_tcp(fills_itself_with_its_share_of_units),
        over_tcp(is_cut_anew_and_empty),
        over_tcp(names_the_file_that_is_not_there),
        over_tcp(is_pulled_without_the_weights),
        over_tcp(loads_the_same_bytes_as_from_the_file),
        over_tcp(a_load_fails_while_the_source_is_away),
        over_tcp(refuses_what_is_not_what_its_fingerprint_says),
        over_tcp(refuses_sizes_that_no_model_has),
        over_tcp(refuses_names_that_lead_elsewhere),
        over_tcp(never_sums_the_holes_of_a_damaged_manifest),
        over_tcp(says_where_it_cannot_write),
        over_tcp(is_kept_and_opened_without_a_source),
        over_tcp(removes_what_a_killed_pull_left_behind),
    };
    log_setup("test", LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
