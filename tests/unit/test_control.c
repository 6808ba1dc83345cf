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
#include "engine/util.h"
#include "expert_node/control.h"
#include "expert_node/refusals.h"
#include "tests/support/fixture.h"
#include "tests/support/model_gen.h"
#include "tests/support/rack_feed.h"

#define OUR_BOOT 77

typedef struct {
    shard *shard;
    struct link *client, *server;
    tally *tally;
    worker *worker; /* never runs: only its counters are asked for */
    keeper *keeper;
    control *control;
    message_arena *arena;
    frames f;  /* the last answer */
    message m; /* opened */
} rig;

static void make_shard(rig *r) {
    char why[256] = "";
    model_shape shape = model_shape_small();
    const char *path = fixture_path("control.gguf");
    if (model_gen(&shape, path, why, sizeof(why)) != 0 ||
        shard_open(&r->shard, path, why, sizeof(why)) != 0 ||
        shard_cut(r->shard, 1, why, sizeof(why)) != 0 ||
        expert_store_load(r->shard->store, 1, 2, why, sizeof(why)) != 0) {
        fail_msg("%s", why);
    }
    holdings_add(&r->shard->held, 1, 2);
}

static void make_worker(rig *r) {
    assert_int_equal(tally_new(&r->tally), 0);
    assert_int_equal(
        tally_cut(r->tally, r->shard->store, r->shard->model.n_layers), 0);
    const worker_config c = {
        .store = r->shard->store,
        .width = r->shard->model.n_embd,
        .expert_dim = r->shard->model.expert_dim,
        .cluster = "test",
        .threads = 1,
        .max_reply_bytes = 1 << 20,
        .tally = r->tally,
    };
    assert_int_equal(link_memory(&r->client, &r->server, 4), 0);
    assert_int_equal(worker_new(&r->worker, &c, r->server), 0);
}

static json_t *more_status(void *ctx) {
    return json_pack("{s:s}", "epoch", (const char *)ctx);
}

/* Of a static list, or of a rack that organizes itself; nothing is served yet.
 */
static void rig_begin(rig *r, bool rack) {
    *r = (rig){0};
    make_shard(r);
    make_worker(r);
    const keeper_config k = {.name = "n1"};
    if (rack) assert_int_equal(keeper_new(&r->keeper, &k), 0);
    const control_config c = {
        .name = "n1",
        .cluster = "test",
        .boot_id = OUR_BOOT,
        .max_reply_bytes = 4096,
        .data_port = 7102,
        .threads = 3,
        .keeper = r->keeper,
        .more_status = rack ? more_status : NULL,
        .ctx = "1.12",
    };
    assert_int_equal(control_new(&r->control, &c), 0);
    assert_int_equal(message_arena_new(&r->arena, MESSAGE_ARENA_MAX), 0);
    frames_init(&r->f);
}

static void rig_open(rig *r) {
    rig_begin(r, false);
    control_serve(r->control, r->shard, r->worker);
}

static void rig_close(rig *r) {
    frames_fini(&r->f);
    message_arena_free(r->arena);
    control_free(r->control);
    keeper_free(r->keeper);
    link_close(r->client);
    link_close(r->server);
    worker_free(r->worker);
    tally_free(r->tally);
    shard_close(r->shard);
}

static message hello(const rig *r) {
    message m = message_from("test", r->shard->print.bytes, 5);
    m.kind = MESSAGE_HELLO;
    m.request_id = 9;
    m.hello.role = ROLE_COORDINATOR;
    m.hello.name = "c1";
    m.hello.has_profile = true;
    m.hello.profile =
        (profile){PROFILE_VERSION, "a8", "f32", "f16", "absorbed", "x"};
    return m;
}

static message ping(const rig *r, uint64_t epoch) {
    message m = message_from("test", r->shard->print.bytes, 5);
    m.kind = MESSAGE_PING;
    m.request_id = 10;
    m.epoch = epoch;
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
    message m = hello(&r);
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
    assert_int_equal(r.m.welcome.slices, 1);
    assert_int_equal(r.m.welcome.resident_bytes,
                     expert_store_bytes(r.shard->store));
    assert_int_equal(r.m.welcome.max_reply_bytes, 4096);
    assert_int_equal(r.m.welcome.threads, 3);
    assert_memory_equal(r.m.fingerprint, r.shard->print.bytes, 32);
    rig_close(&r);
}

static void welcomes_who_greeted_the_process_before_it(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    message m = hello(&r);
    m.to_boot_id = OUR_BOOT - 1;
    ask(&r, &m);
    assert_int_equal(r.m.kind, MESSAGE_WELCOME);
    rig_close(&r);
}

static void welcomes_a_client_without_model_or_profile(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    message m = hello(&r);
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
    message m = hello(&r);
    m.cluster = "other";
    expect_refusal(&r, &m, ERR_WRONG_CLUSTER);

    m = hello(&r);
    m.fingerprint[0] ^= 1;
    expect_refusal(&r, &m, ERR_WRONG_MODEL);

    m = hello(&r);
    m.has_fingerprint = false;
    expect_refusal(&r, &m, ERR_WRONG_MODEL);

    m = hello(&r);
    m.hello.profile.activation = "f32";
    expect_refusal(&r, &m, ERR_WRONG_PROFILE);
    assert_non_null(strstr(r.m.error.text, "activation"));

    m = hello(&r);
    m.hello.profile.version++;
    expect_refusal(&r, &m, ERR_WRONG_PROFILE);

    m = hello(&r);
    m.hello.has_profile = false;
    expect_refusal(&r, &m, ERR_WRONG_PROFILE);

    m = hello(&r);
    m.protocol = PROTOCOL_VERSION + 2;
    expect_refusal(&r, &m, ERR_WRONG_VERSION);

    m = hello(&r);
    m.hello.role = ROLE_NODE;
    expect_refusal(&r, &m, ERR_MALFORMED);
    assert_int_equal(control_refused(r.control), 8);
    rig_close(&r);
}

static void talks_to_its_neighbour_version(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    message m = hello(&r);
    m.protocol = PROTOCOL_VERSION + 1;
    ask(&r, &m);
    assert_int_equal(r.m.kind, MESSAGE_WELCOME);
    rig_close(&r);
}

static void answers_a_ping_with_its_counters(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    message m = ping(&r, 77);
    m.to_boot_id = OUR_BOOT;
    ask(&r, &m);
    assert_int_equal(r.m.kind, MESSAGE_PONG);
    assert_int_equal(r.m.pong.resident_bytes,
                     expert_store_bytes(r.shard->store));
    assert_int_equal(r.m.epoch, 77); /* it has none of its own */
    assert_int_equal(r.m.pong.queued_jobs, 0);
    rig_close(&r);
}

static message load_request(const rig *r) {
    message m = message_from("test", r->shard->print.bytes, 5);
    m.kind = MESSAGE_LOAD_REQUEST;
    m.request_id = 12;
    return m;
}

static void tells_what_each_unit_that_it_holds_computed(void **state) {
    (void)state;
    rig r;
    rig_open(&r);
    tally_add_run(r.tally, 1, 2, 70, 1000);
    tally_add_run(r.tally, 1, 2, 7, 1000);
    tally_add_run(r.tally, 0, 3, 5, 1000); /* not held any more */
    tally_add_busy(r.tally, 450);
    message m = load_request(&r);
    ask(&r, &m);
    assert_int_equal(r.m.kind, MESSAGE_LOAD);
    assert_int_equal(r.m.load.pairs, 82);
    assert_int_equal(r.m.load.runs, 3);
    assert_int_equal(r.m.load.weight_bytes, 3000);
    assert_int_equal(r.m.load.busy_us, 450);
    assert_int_equal(r.m.load.slices, 1);
    assert_int_equal(r.m.load.holdings_version, 1);
    assert_int_equal(r.m.load.holdings_bytes, 1);
    assert_int_equal(r.m.load.holdings[0], 1 << (1 * 4 + 2));
    uint32_t counter = 0;
    assert_int_equal(frames_bytes(&r.f, 1), sizeof(counter));
    memcpy(&counter, frames_data(&r.f, 1), sizeof(counter));
    assert_int_equal(counter, 77);

    holdings_add(&r.shard->held, 0, 3); /* in the order of the bits */
    ask(&r, &m);
    assert_int_equal(frames_bytes(&r.f, 1), 2 * sizeof(counter));
    memcpy(&counter, frames_data(&r.f, 1), sizeof(counter));
    assert_int_equal(counter, 5);
    rig_close(&r);
}

static void tells_no_load_before_there_is_any(void **state) {
    (void)state;
    rig r;
    rig_begin(&r, true);
    message m = load_request(&r);
    expect_refusal(&r, &m, ERR_NOT_HERE);
    control_serve(r.control, r.shard, NULL); /* known; nothing computes yet */
    ask(&r, &m);
    assert_int_equal(r.m.kind, MESSAGE_LOAD);
    assert_int_equal(r.m.load.pairs, 0);
    m.fingerprint[0] ^= 1;
    expect_refusal(&r, &m, ERR_WRONG_MODEL);
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

/* ---- in a rack that organizes itself ---- */

static void says_that_it_does_not_know_its_model_yet(void **state) {
    (void)state;
    rig r;
    rig_begin(&r, true);
    message m = hello(&r);
    expect_refusal(&r, &m, ERR_NOT_HERE);
    assert_non_null(strstr(r.m.error.text, "learning"));
    m = ping(&r, 1);
    ask(&r, &m);
    assert_int_equal(r.m.kind, MESSAGE_PONG);
    m = (message){.kind = MESSAGE_STATUS_REQUEST, .cluster = "test"};
    ask(&r, &m);
    assert_int_equal(r.m.kind, MESSAGE_STATUS);
    assert_non_null(strstr(r.m.status.json.data, "\"epoch\":\"1.12\""));
    assert_false(r.m.has_fingerprint);

    control_serve(r.control, r.shard, NULL); /* known; nothing computes yet */
    m = hello(&r);
    ask(&r, &m);
    assert_int_equal(r.m.kind, MESSAGE_WELCOME);
    assert_int_equal(r.m.welcome.threads, 3);
    rig_close(&r);
}

static uint32_t peers_of(const rig *r) {
    keeper_figures now;
    keeper_look(r->keeper, &now);
    return now.peers;
}

static void tells_the_keeper_who_is_connected(void **state) {
    (void)state;
    rig r;
    rig_begin(&r, true);
    control_serve(r.control, r.shard, r.worker);
    message m = hello(&r);
    m.fingerprint[0] ^= 1;
    expect_refusal(&r, &m, ERR_WRONG_MODEL);
    m = ping(&r, 3);
    m.fingerprint[0] ^= 1;
    ask(&r, &m);
    m = hello(&r);
    m.hello.role = ROLE_CLIENT;
    ask(&r, &m);
    assert_int_equal(peers_of(&r), 0);

    m = hello(&r);
    ask(&r, &m);
    assert_int_equal(r.m.kind, MESSAGE_WELCOME);
    assert_int_equal(r.m.welcome.holdings_version, keeper_version(r.keeper));
    assert_int_equal(peers_of(&r), 1);
    m = ping(&r, 3);
    m.boot_id = 6;
    ask(&r, &m);
    assert_int_equal(r.m.kind, MESSAGE_PONG);
    assert_int_equal(r.m.epoch, 0); /* our own */
    assert_int_equal(r.m.pong.holdings_version, keeper_version(r.keeper));
    assert_int_equal(peers_of(&r), 2);
    rig_close(&r);
}

/* Units (0, 0) and (0, 1) on nodes n1 and other; later only on other. */
static uint32_t on_both(uint32_t layer, uint32_t unit) {
    return layer == 0 && unit < 2 ? 3 : 2;
}
static uint32_t on_other(uint32_t layer, uint32_t unit) {
    (void)layer;
    (void)unit;
    return 2;
}

static void place(const rig *r, rack_feed *feed, uint64_t epoch,
                  uint32_t (*on)(uint32_t, uint32_t), uint64_t now) {
    const uint32_t cuts[] = {1, 1};
    const char *const nodes[] = {"n1", "other"};
    const rack_feed_plan p = {.epoch = epoch,
                              .n_layers = 2,
                              .n_experts = 4,
                              .max_slices = 1,
                              .slices = cuts,
                              .nodes = nodes,
                              .n_nodes = 2,
                              .on = on};
    rack_feed_placement(feed, &p);
    rack_feed_settle(feed);
    assert_int_equal(
        keeper_placement(r->keeper, now, rack_view_placement(feed->view)), 0);
}

/* What the keeper asks for, done at once. */
static void obey(const rig *r, uint64_t now) {
    keeper_action a;
    for (;;) {
        keeper_next(r->keeper, now, &a);
        if (a.kind == KEEPER_WAIT) return;
        if (a.kind == KEEPER_CUT) keeper_cut(r->keeper, now, 0, NULL);
        if (a.kind == KEEPER_LOAD)
            keeper_loaded(r->keeper, now, a.layer, a.unit, 0);
        if (a.kind == KEEPER_UNLOAD)
            keeper_unloaded(r->keeper, now, a.layer, a.unit);
    }
}

static void answers_a_laggard_that_it_is_stale(void **state) {
    (void)state;
    rig r;
    rack_feed feed;
    rig_begin(&r, true);
    rack_feed_open(&feed);
    control_serve(r.control, r.shard, r.worker);
    place(&r, &feed, 1, on_both, 1000);
    obey(&r, 1000);
    message m = ping(&r, epoch_pack(1, 1));
    ask(&r, &m);
    assert_int_equal(r.m.kind, MESSAGE_PONG);
    assert_true(r.m.epoch == epoch_pack(1, 1));
    assert_true(r.m.pong.holdings_version > 1);

    /* It was known long ago, and this one still pings with the old one. */
    uint64_t now = now_ms();
    place(&r, &feed, 2, on_other, now);
    obey(&r, now);
    m = ping(&r, epoch_pack(1, 1));
    ask(&r, &m);
    assert_int_equal(r.m.kind, MESSAGE_PONG);
    assert_int_equal(keeper_ping(r.keeper, now + 10000, 5, epoch_pack(1, 1), 0),
                     0);
    obey(&r, now + 10000);
    expect_refusal(&r, &m, ERR_STALE);
    m = ping(&r, epoch_pack(1, 2));
    ask(&r, &m);
    assert_int_equal(r.m.kind, MESSAGE_PONG);
    rack_feed_close(&feed);
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
        cmocka_unit_test(tells_what_each_unit_that_it_holds_computed),
        cmocka_unit_test(tells_no_load_before_there_is_any),
        cmocka_unit_test(refuses_a_ping_for_the_process_before_it),
        cmocka_unit_test(tells_its_state_as_json),
        cmocka_unit_test(says_that_it_does_not_know_its_model_yet),
        cmocka_unit_test(tells_the_keeper_who_is_connected),
        cmocka_unit_test(answers_a_laggard_that_it_is_stale),
        cmocka_unit_test(refuses_what_has_no_place_here),
        cmocka_unit_test(answers_bytes_that_are_no_message),
        cmocka_unit_test(logs_a_few_refusals_and_counts_the_rest),
    };
    log_setup("test", LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
