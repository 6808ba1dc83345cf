/* test_service.c - a shard and its worker: started, cut anew while it computes,
 * stopped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <semaphore.h>
#include <string.h>
#include "engine/err.h"
#include "engine/log.h"
#include "expert_node/service.h"
#include "tests/support/fixture.h"
#include "tests/support/model_gen.h"

typedef struct {
    node_config config;
    service *s;
    struct link *client, *server;
    sem_t news;
    char why[256];
} rig;

static void on_news(void *ctx) {
    rig *r = ctx;
    sem_post(&r->news);
}

static void rig_open(rig *r) {
    *r = (rig){
        .config = {.cluster = "test", .threads = 1, .max_queue = 64 << 20}};
    model_shape shape = model_shape_small();
    shape.expert_width = 256;
    const char *path = fixture_path("service.gguf");
    shard *held;
    if (model_gen(&shape, path, r->why, sizeof(r->why)) != 0 ||
        shard_open(&held, path, r->why, sizeof(r->why)) != 0) {
        fail_msg("%s", r->why);
    }
    sem_init(&r->news, 0, 0);
    assert_int_equal(link_memory(&r->client, &r->server, 4), 0);
    const service_config c = {.config = &r->config,
                              .boot_id = 77,
                              .data = r->server,
                              .on_news = on_news,
                              .ctx = r};
    assert_int_equal(service_new(&r->s, &c), 0);
    assert_null(service_shard(r->s));
    service_adopt(r->s, held);
    assert_ptr_equal(service_shard(r->s), held);
    assert_null(service_worker(r->s));
}

static void rig_close(rig *r) {
    service_free(r->s);
    link_close(r->client);
    link_close(r->server);
    sem_destroy(&r->news);
}

static void stop(rig *r) {
    int rc;
    service_stop(r->s);
    while (!service_ended(r->s, &rc))
        sem_wait(&r->news);
    assert_int_equal(rc, 0);
}

static void has_ended_before_it_was_started(void **state) {
    (void)state;
    rig r;
    int rc;
    rig_open(&r);
    assert_true(service_ended(r.s, &rc));
    service_stop(r.s);
    rig_close(&r);
    service_free(NULL);
}

static void computes_until_it_is_stopped(void **state) {
    (void)state;
    rig r;
    int rc;
    rig_open(&r);
    assert_int_equal(shard_cut(service_shard(r.s), 1, r.why, sizeof(r.why)), 0);
    assert_int_equal(service_start(r.s, r.why, sizeof(r.why)), 0);
    assert_false(service_ended(r.s, &rc));
    assert_int_equal(worker_threads(service_worker(r.s)), 1);
    stop(&r);
    rig_close(&r);
}

static void load(rig *r, uint32_t unit) {
    shard *s = service_shard(r->s);
    if (expert_store_load(s->store, 0, unit, r->why, sizeof(r->why)) < 0)
        fail_msg("%s", r->why);
}

static void is_cut_anew_while_it_runs(void **state) {
    (void)state;
    const uint32_t cuts[] = {1, 4, 2, 8};
    rig r;
    rig_open(&r);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(service_cut(r.s, cuts[i], r.why, sizeof(r.why)), 0);
        assert_int_equal(service_shard(r.s)->slices, cuts[i]);
        assert_int_equal(expert_store_count(service_shard(r.s)->store), 0);
        load(&r, 4 * cuts[i] - 1);
        assert_int_equal(worker_drop(service_worker(r.s), 0, 0), 0);
    }
    stop(&r);
    rig_close(&r);
}

static void goes_on_after_a_cut_that_cannot_be(void **state) {
    (void)state;
    rig r;
    int rc;
    rig_open(&r);
    assert_int_equal(service_cut(r.s, 2, r.why, sizeof(r.why)), 0);
    assert_int_equal(service_cut(r.s, 3, r.why, sizeof(r.why)), ERR_RANGE);
    assert_null(service_worker(r.s));
    assert_true(service_ended(r.s, &rc));
    assert_int_equal(service_cut(r.s, 2, r.why, sizeof(r.why)), 0);
    stop(&r);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(has_ended_before_it_was_started),
        cmocka_unit_test(computes_until_it_is_stopped),
        cmocka_unit_test(is_cut_anew_while_it_runs),
        cmocka_unit_test(goes_on_after_a_cut_that_cannot_be),
    };
    log_setup("test", LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
