/* test_control.c - whom a node welcomes, and what it tells about itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <string.h>
#include "engine/err.h"
#include "engine/log.h"
#include "expert_node/control.h"
#include "expert_node/refusals.h"
#include "tests/support/fixture.h"
#include "tests/support/model_gen.h"

#define OUR_BOOT 77

typedef struct {
    model_config model;
    expert_store *store;
    holdings held;
    struct link *client, *server;
    worker *worker; /* never runs: only its counters are asked for */
    control *control;
    message_arena *arena;
    frames f;  /* the last answer */
    message m; /* opened */
} rig;

static void make_worker(rig *r) {
    const worker_config c = {
        .store = r->store,
        .width = r->model.n_embd,
        .expert_dim = r->model.expert_dim,
        .cluster = "test",
        .threads = 1,
        .max_reply_bytes = 1 << 20,
    };
    assert_int_equal(link_memory(&r->client, &r->server, 4), 0);
    assert_int_equal(worker_new(&r->worker, &c, r->server), 0);
}

static void rig_open(rig *r) {
    *r = (rig){0};
    char why[256] = "";
    gguf *g = NULL;
    model_shape shape = model_shape_small();
    const char *path = fixture_path("control.gguf");
    if (model_gen(&shape, path, why, sizeof(why)) != 0 ||
        gguf_open(&g, path, why, sizeof(why)) != 0 ||
        model_read(&r->model, g, why, sizeof(why)) != 0) {
        fail_msg("%s", why);
    }
    const expert_store_config store = {.g = g, .model = &r->model};
    if (expert_store_new(&r->store, &store, why, sizeof(why)) != 0)
        fail_msg("%s", why);
    gguf_close(g);
    make_worker(r);
    assert_int_equal(holdings_init(&r->held, 2, 4), 0);
    holdings_add(&r->held, 1, 2);

    const control_config c = {
        .name = "n1",
        .cluster = "test",
        .model = "small",
        .fingerprint = {1, 2, 3},
        .boot_id = OUR_BOOT,
        .held = &r->held,
        .resident_bytes = 12345,
        .max_reply_bytes = 4096,
        .data_port = 7102,
        .worker = r->worker,
    };
    assert_int_equal(control_new(&r->control, &c), 0);
    assert_int_equal(message_arena_new(&r->arena, MESSAGE_ARENA_MAX), 0);
    frames_init(&r->f);
}

static void rig_close(rig *r) {
    frames_fini(&r->f);
    message_arena_free(r->arena);
    control_free(r->control);
    link_close(r->client);
    link_close(r->server);
    worker_free(r->worker);
    holdings_fini(&r->held);
    expert_store_free(r->store);
}

static message hello(void) {
    message m = {
        .kind = MESSAGE_HELLO,
        .cluster = "test",
        .fingerprint = {1, 2, 3},
        .has_fingerprint = true,
        .boot_id = 5,
        .request_id = 9,
    };
    m.hello.role = ROLE_COORDINATOR;
    m.hello.name = "c1";
    m.hello.has_profile = true;
    m.hello.profile =
        (profile){PROFILE_VERSION, "a8", "f32", "f16", "absorbed", "x"};
    return m;
}

static void ask(rig *r, const message *m) {
    char why[256] = "";
    frames_fini(&r->f);
    assert_non_null(frames_add(&r->f, 0));
    assert_int_equal(message_seal(&r->f, m), 0);
    memcpy(r->f.address, "addr", 4);
    r->f.address_bytes = 4;
    control_answer(r->control, &r->f);
    if (r->f.count == 0) return;

    if (message_open(&r->f, r->arena, &r->m, why, sizeof(why)) != 0) {
        fail_msg("%s", why);
    }
    assert_int_equal(r->f.address_bytes, 4);
    assert_memory_equal(r->f.address, "addr", 4);
    assert_int_equal(r->m.request_id, m->request_id);
    assert_int_equal(r->m.to_boot_id, m->boot_id);
    assert_int_equal(r->m.boot_id, OUR_BOOT);
}

static void expect_refusal(rig *r, const message *m, int code) {
    ask(r, m);
    assert_int_equal(r->m.kind, MESSAGE_ERROR);
    assert_string_equal(err_name(r->m.error.code), err_name(code));
}

static void welcomes_a_coordinator_with_what_it_holds(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    message m = hello();
    ask(&r, &m);

    assert_int_equal(r.m.kind, MESSAGE_WELCOME);
    assert_int_equal(r.m.welcome.role, ROLE_NODE);
    assert_string_equal(r.m.welcome.name, "n1");
    assert_string_equal(r.m.welcome.profile.activation, "a8");
    assert_int_equal(r.m.welcome.data_port, 7102);
    assert_int_equal(r.m.welcome.n_layers, 2);
    assert_int_equal(r.m.welcome.n_experts, 4);
    assert_int_equal(r.m.welcome.holdings_bytes, 1);
    assert_int_equal(r.m.welcome.holdings[0], 1 << (1 * 4 + 2));
    assert_int_equal(r.m.welcome.resident_bytes, 12345);
    assert_int_equal(r.m.welcome.max_reply_bytes, 4096);
    assert_int_equal(r.m.welcome.threads, 1);
    assert_int_equal(r.m.fingerprint[2], 3);
    rig_close(&r);
}

static void welcomes_who_greeted_the_process_before_it(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    message m = hello();
    m.to_boot_id = OUR_BOOT - 1;
    ask(&r, &m);
    assert_int_equal(r.m.kind, MESSAGE_WELCOME);
    rig_close(&r);
}

static void welcomes_a_client_without_model_or_profile(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    message m = hello();
    m.hello.role = ROLE_CLIENT;
    m.hello.has_profile = false;
    m.has_fingerprint = false;
    ask(&r, &m);
    assert_int_equal(r.m.kind, MESSAGE_WELCOME);
    rig_close(&r);
}

static void refuses_who_would_get_other_bits(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    message m = hello();
    m.cluster = "other";
    expect_refusal(&r, &m, ERR_WRONG_CLUSTER);

    m = hello();
    m.fingerprint[0] ^= 1;
    expect_refusal(&r, &m, ERR_WRONG_MODEL);

    m = hello();
    m.has_fingerprint = false;
    expect_refusal(&r, &m, ERR_WRONG_MODEL);

    m = hello();
    m.hello.profile.activation = "f32";
    expect_refusal(&r, &m, ERR_WRONG_PROFILE);
    assert_non_null(strstr(r.m.error.text, "activation"));

    m = hello();
    m.hello.profile.version++;
    expect_refusal(&r, &m, ERR_WRONG_PROFILE);

    m = hello();
    m.hello.has_profile = false;
    expect_refusal(&r, &m, ERR_WRONG_PROFILE);

    m = hello();
    m.protocol = PROTOCOL_VERSION + 2;
    expect_refusal(&r, &m, ERR_WRONG_VERSION);

    m = hello();
    m.hello.role = ROLE_NODE;
    expect_refusal(&r, &m, ERR_MALFORMED);
    assert_int_equal(control_refused(r.control), 8);
    rig_close(&r);
}

static void talks_to_its_neighbour_version(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    message m = hello();
    m.protocol = PROTOCOL_VERSION + 1;
    ask(&r, &m);
    assert_int_equal(r.m.kind, MESSAGE_WELCOME);
    rig_close(&r);
}

static void answers_a_ping_with_its_counters(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    message m = {.kind = MESSAGE_PING,
                 .cluster = "test",
                 .boot_id = 5,
                 .to_boot_id = OUR_BOOT,
                 .request_id = 10};
    ask(&r, &m);
    assert_int_equal(r.m.kind, MESSAGE_PONG);
    assert_int_equal(r.m.pong.resident_bytes, 12345);
    assert_int_equal(r.m.pong.queued_jobs, 0);
    rig_close(&r);
}

static void refuses_a_ping_for_the_process_before_it(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    message m = {.kind = MESSAGE_PING,
                 .cluster = "test",
                 .boot_id = 5,
                 .to_boot_id = OUR_BOOT - 1};
    expect_refusal(&r, &m, ERR_WRONG_BOOT);
    rig_close(&r);
}

static void tells_its_state_as_json(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    message m = {.kind = MESSAGE_STATUS_REQUEST, .cluster = "test"};
    ask(&r, &m);
    assert_int_equal(r.m.kind, MESSAGE_STATUS);

    json_t *root = json_loads(r.m.status.json.data, 0, NULL);
    assert_non_null(root);
    assert_string_equal(json_string_value(json_object_get(root, "name")), "n1");
    assert_int_equal(json_integer_value(json_object_get(root, "experts")), 1);
    assert_string_equal(json_string_value(json_object_get(
                            json_object_get(root, "profile"), "activation")),
                        "a8");
    json_decref(root);
    rig_close(&r);
}

static void refuses_what_has_no_place_here(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    message m = {.kind = MESSAGE_CANCEL, .cluster = "test"};
    expect_refusal(&r, &m, ERR_MALFORMED);

    m = (message){.kind = MESSAGE_ERROR, .cluster = "test"};
    m.error.code = ERR_INTERNAL;
    m.error.text = "x";
    ask(&r, &m);
    assert_int_equal(r.f.count, 0); /* errors are not answered */
    rig_close(&r);
}

static void answers_bytes_that_are_no_message(void **state) {
    (void)state;
    rig r;
    char why[256];
    rig_open(&r);
    uint8_t *junk = frames_add(&r.f, 100);
    memset(junk, 0xff, 100);
    control_answer(r.control, &r.f);
    assert_int_equal(message_open(&r.f, r.arena, &r.m, why, sizeof(why)), 0);
    assert_int_equal(r.m.kind, MESSAGE_ERROR);
    rig_close(&r);
}

static void logs_a_few_refusals_and_counts_the_rest(void **state) {
    (void)state;
    refusals all;
    uint32_t left_out;
    refusals_init(&all);
    for (int i = 0; i < 10; i++) {
        bool logged = refusals_note(&all, 1000, ERR_MALFORMED, &left_out);
        assert_int_equal(logged, i < REFUSALS_LINES);
        assert_int_equal(left_out, 0);
    }
    assert_true(refusals_note(&all, 1000, ERR_CHECKSUM, &left_out));
    assert_true(refusals_note(&all, 1000 + REFUSALS_PERIOD_US, ERR_MALFORMED,
                              &left_out));
    assert_int_equal(left_out, 10 - REFUSALS_LINES);
    assert_int_equal(refusals_total(&all), 12);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(welcomes_a_coordinator_with_what_it_holds),
        cmocka_unit_test(welcomes_who_greeted_the_process_before_it),
        cmocka_unit_test(welcomes_a_client_without_model_or_profile),
        cmocka_unit_test(refuses_who_would_get_other_bits),
        cmocka_unit_test(talks_to_its_neighbour_version),
        cmocka_unit_test(answers_a_ping_with_its_counters),
        cmocka_unit_test(refuses_a_ping_for_the_process_before_it),
        cmocka_unit_test(tells_its_state_as_json),
        cmocka_unit_test(refuses_what_has_no_place_here),
        cmocka_unit_test(answers_bytes_that_are_no_message),
        cmocka_unit_test(logs_a_few_refusals_and_counts_the_rest),
    };
    log_setup("test", LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
