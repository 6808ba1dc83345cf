/* test_server.c - what a client gets for what it asks, well or badly: the
 * server, the step thread and the model in one process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "coordinator/conductor_balance.h"
#include "coordinator/conductor_recover.h"
#include "tests/unit/server_rig.h"

/* ---- what is answered ---- */

static void streams_what_was_asked_for(void **state) {
    (void)state;
    rig *r = open_rig();
    message m = generate(1, 3);
    ask(r, &m);
    assert_int_equal(hear(r), MESSAGE_ACCEPTED);
    assert_int_equal(r->m.accepted.max_tokens, 3);
    assert_int_equal(r->m.accepted.timeout_ms, 50000);
    assert_true(r->m.accepted.sampling.has_seed);
    assert_int_equal(r->m.accepted.prompt_tokens.count, ARRAY_LEN(prompt));
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(hear(r), MESSAGE_TOKEN);
        assert_int_equal(r->m.token.index, i);
    }
    assert_int_equal(hear(r), MESSAGE_FINISHED);
    assert_int_equal(r->m.finished.reason, FINISH_LENGTH);
    assert_int_equal(r->m.finished.generated_tokens, 3);
    assert_true(server_idle(r->server));
    close_rig(r);
}

static void bounds_what_a_client_wishes(void **state) {
    (void)state;
    rig *r = open_rig();
    const struct {
        uint32_t asked_ms, given_ms;
    } timeouts[] = {
        {0, 50000}, {1, 100}, {700, 700}, {UINT32_MAX, 24 * 3600 * 1000}};
    for (uint32_t i = 0; i < ARRAY_LEN(timeouts); i++) {
        message m = generate(i, UINT32_MAX);
        m.generate.timeout_ms = timeouts[i].asked_ms;
        m.generate.sampling.top_k = UINT32_MAX;
        m.generate.sampling.temperature = 1e30f;
        ask(r, &m);
        assert_int_equal(hear(r), MESSAGE_ACCEPTED);
        assert_int_equal(r->m.accepted.timeout_ms, timeouts[i].given_ms);
        assert_int_equal(r->m.accepted.max_tokens, CONTEXT - ARRAY_LEN(prompt));
        message stop = {.kind = MESSAGE_CANCEL, .request_id = i};
        ask(r, &stop);
        while (hear(r) == MESSAGE_TOKEN)
            continue;
        assert_int_equal(r->m.kind, MESSAGE_FINISHED);
        assert_int_equal(r->m.finished.reason, FINISH_CANCELLED);
    }
    close_rig(r);
}

static void refuses_what_makes_no_sense(void **state) {
    (void)state;
    rig *r = open_rig();
    message m = generate(1, 3);
    m.generate.sampling.top_p = -0.5f;
    ask(r, &m);
    expect_error(r, 1, ERR_RANGE, "top_p");
    m = generate(2, 3);
    m.generate.sampling.temperature = -1.0f;
    ask(r, &m);
    expect_error(r, 2, ERR_RANGE, "temperature");
    m = generate(3, 3);
    m.generate.tokens.count = 0;
    ask(r, &m);
    expect_error(r, 3, ERR_RANGE, "empty");
    const uint32_t outside[] = {1, 4096};
    m = generate(4, 3);
    m.generate.tokens = (message_u32s){outside, 2};
    ask(r, &m);
    expect_error(r, 4, ERR_RANGE, "4096");
    m = eval(5, outside, 2);
    ask(r, &m);
    expect_error(r, 5, ERR_RANGE, "4096");
    uint32_t many[CONTEXT + 1] = {0};
    m = generate(6, 3);
    m.generate.tokens = (message_u32s){many, CONTEXT};
    ask(r, &m);
    expect_error(r, 6, ERR_CONTEXT, "450");
    m = eval(7, many, CONTEXT + 1);
    ask(r, &m);
    expect_error(r, 7, ERR_CONTEXT, "451");
    m = (message){.kind = MESSAGE_PONG, .request_id = 8};
    ask(r, &m);
    expect_error(r, 8, ERR_MALFORMED, "pong");
    m = generate(9, 3);
    m.cluster = "other";
    ask(r, &m);
    expect_error(r, 9, ERR_WRONG_CLUSTER, "test");
    m = generate(10, 3);
    m.to_boot_id = 78;
    ask(r, &m);
    expect_error(r, 10, ERR_WRONG_BOOT, "earlier");
    assert_true(server_idle(r->server));
    close_rig(r);
}

static void refuses_a_request_id_twice_and_serves_the_first(void **state) {
    (void)state;
    rig *r = open_rig();
    message m = generate(1, 400);
    ask(r, &m);
    ask(r, &m);
    uint32_t tokens = 0, errors = 0;
    while (hear(r) != MESSAGE_FINISHED) {
        if (r->m.kind == MESSAGE_TOKEN) tokens++;
        if (r->m.kind == MESSAGE_ERROR) errors++;
    }
    assert_int_equal(errors, 1);
    assert_int_equal(tokens, 400);
    close_rig(r);
}

static void refuses_at_once_what_exceeds_the_queue(void **state) {
    (void)state;
    rig *r = open_rig();
    uint32_t refused = 0, finished = 0;
    for (uint64_t id = 1; id <= 40; id++) {
        message m = generate(id, 60);
        ask(r, &m);
    }
    while (refused + finished < 40) {
        message_kind kind = hear(r);
        if (kind == MESSAGE_FINISHED) finished++;
        if (kind != MESSAGE_ERROR) continue;
        assert_int_equal(r->m.error.code, ERR_OVERLOADED);
        refused++;
    }
    assert_true(finished >= 16); /* at least those that there is room for */
    close_rig(r);
}

/* ---- a client that does not read ---- */

static void a_slow_client_gets_everything_in_the_end(void **state) {
    (void)state;
    rig *r = open_rig();
    uint32_t tokens[400];
    for (uint32_t i = 0; i < 400; i++)
        tokens[i] = 3 + i % 300;
    const uint64_t evals = 7; /* more than an outbox holds before it is full */
    for (uint64_t id = 1; id <= evals; id++) {
        message m = eval(id, tokens, 400);
        ask(r, &m);
    }
    uint64_t until = now_ms() + WAIT_MS;
    step_stats s = {0};
    uint64_t enough = (uint64_t)34 * 1024 * 1024 / (4096 * sizeof(float));
    while (s.tokens < enough) {
        assert_true(now_ms() < until);
        turn(r);
        step_read_stats(r->steps, &s);
        wait_for_news(r);
    }
    for (int i = 0; i < 20; i++)
        turn(r);
    message late = generate(100, 5); /* while the client is held back */
    ask(r, &late);
    uint64_t finished = 0, rows = 0, told = 0;
    while (finished < evals + 1) {
        message_kind kind = hear(r);
        if (kind == MESSAGE_LOGITS) rows += r->m.logits.n_rows;
        if (kind == MESSAGE_TOKEN) told++;
        if (kind == MESSAGE_FINISHED) finished++;
        assert_int_not_equal(kind, MESSAGE_ERROR);
    }
    assert_int_equal(rows, evals * 400);
    assert_int_equal(told, 5);
    close_rig(r);
}

/* ---- the end ---- */

static void refuses_work_but_answers_when_it_ends(void **state) {
    (void)state;
    rig *r = open_rig();
    server_refuse(r->server);
    message m = generate(1, 3);
    ask(r, &m);
    expect_error(r, 1, ERR_CLOSED, "ending");
    m = (message){.kind = MESSAGE_STATUS_REQUEST, .request_id = 2};
    ask(r, &m);
    assert_int_equal(hear(r), MESSAGE_STATUS);
    close_rig(r);
}

static void tells_those_who_are_cut_off(void **state) {
    (void)state;
    rig *r = open_rig();
    for (uint64_t id = 1; id <= 3; id++) {
        message m = generate(id, 400);
        ask(r, &m);
    }
    uint32_t accepted = 0, told = 0;
    while (accepted < 3) {
        if (hear(r) == MESSAGE_ACCEPTED) accepted++;
    }
    assert_false(server_idle(r->server));
    server_cut_off(r->server, "no more");
    while (told < 3) {
        if (hear(r) != MESSAGE_ERROR) continue;
        assert_int_equal(r->m.error.code, ERR_CLOSED);
        assert_string_equal(r->m.error.text, "no more");
        told++;
    }
    assert_true(server_idle(r->server));
    close_rig(r);
}

static void a_bad_listen_is_said_at_once(void **state) {
    (void)state;
    rig *r = open_rig();
    const char *const bad[] = {ENDPOINT, "nonsense", "tcp://10.1.2.3:80"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char why[256] = "";
        server *s;
        server_config c = {.loop = &r->loop,
                           .links = {.zmq = r->zmq, .queue_messages = QUEUE},
                           .listen = bad[i]};
        assert_true(server_open(&s, &c, why, sizeof(why)) < 0);
        assert_true(why[0] != '\0');
        server_close(s);
        server_close(s); /* twice is fine */
        uv_run(&r->loop, UV_RUN_NOWAIT);
        server_free(s);
    }
    close_rig(r);
}

/* ---- the rack, where etcd is: a conductor that a test plays ---- */

struct conductor {
    bool drained;
    int refuse_with; /* conductor_drain() itself */
    conductor_done done;
    void *ctx;
    char name[32];
    bool undo;
    conductor_reported reported;
    conductor_recovered recovered;
};

bool conductor_drained(const conductor *c) {
    return c->drained;
}

const rack_view *conductor_view(const conductor *c) {
    (void)c;
    return NULL;
}

int conductor_status(conductor *c, json_t *into) {
    (void)c;
    return json_object_set_new(into, "coordinators",
                               json_pack("[{s:s, s:b, s:s}]", "name", "served",
                                         "us", true, "state", "up"));
}

int conductor_drain(conductor *c, const char *name, bool undo,
                    conductor_done done, void *ctx, char *why,
                    size_t why_size) {
    if (c->refuse_with < 0) {
        return err_why(why, why_size, c->refuse_with, "nobody is %s", name);
    }
    c->done = done;
    c->ctx = ctx;
    snprintf(c->name, sizeof(c->name), "%s", name);
    c->undo = undo;
    return 0;
}

int conductor_rebalance(conductor *c, bool dry_run, conductor_reported done,
                        void *ctx, char *why, size_t why_size) {
    if (c->refuse_with < 0)
        return err_why(why, why_size, c->refuse_with, "c2 leads");
    c->reported = done;
    c->ctx = ctx;
    c->undo = dry_run;
    return 0;
}

int conductor_recover(conductor *c, bool dry_run, const char *by,
                      conductor_recovered done, void *ctx, char *why,
                      size_t why_size) {
    if (c->refuse_with < 0)
        return err_why(why, why_size, c->refuse_with, "etcd is away");
    c->recovered = done;
    c->ctx = ctx;
    snprintf(c->name, sizeof(c->name), "%s", by);
    c->undo = dry_run;
    return 0;
}

static message drain(uint64_t id, const char *name, bool undo) {
    message m = {.kind = MESSAGE_DRAIN, .request_id = id};
    m.drain.name = name;
    m.drain.undo = undo;
    return m;
}

static void expect_state(rig *r, const char *state) {
    message m = {.kind = MESSAGE_STATUS_REQUEST};
    ask(r, &m);
    assert_int_equal(hear(r), MESSAGE_STATUS);
    json_t *root =
        json_loadb(r->m.status.json.data, r->m.status.json.len, 0, NULL);
    assert_non_null(root);
    assert_string_equal(json_string_value(json_object_get(root, "state")),
                        state);
    json_t *own = json_array_get(json_object_get(root, "coordinators"), 0);
    if (own != NULL) {
        assert_string_equal(json_string_value(json_object_get(own, "state")),
                            state);
    }
    json_decref(root);
}

static void drains_nothing_without_an_etcd(void **state) {
    (void)state;
    rig *r = open_rig();
    message m = drain(1, "one", false);
    ask(r, &m);
    expect_error(r, 1, ERR_NOT_LEADER, "no etcd");
    close_rig(r);
}

static void answers_a_drain_when_it_is_recorded(void **state) {
    (void)state;
    rig *r = open_rig();
    conductor played = {0};
    server_set_conductor(r->server, &played);
    message m = drain(1, "one", true);
    ask(r, &m);
    while (played.done == NULL)
        turn(r);
    assert_string_equal(played.name, "one");
    assert_true(played.undo);
    m = generate(2, 1); /* something else meanwhile */
    ask(r, &m);
    assert_int_equal(hear(r), MESSAGE_ACCEPTED);
    assert_int_equal(hear(r), MESSAGE_TOKEN);
    assert_int_equal(hear(r), MESSAGE_FINISHED);
    played.done(played.ctx, 0, "");
    assert_int_equal(hear(r), MESSAGE_DONE);
    assert_int_equal(r->m.request_id, 1);

    m = drain(3, "one", false);
    played.done = NULL;
    ask(r, &m);
    while (played.done == NULL)
        turn(r);
    played.done(played.ctx, ERR_NOT_LEADER, "no quorum");
    expect_error(r, 3, ERR_NOT_LEADER, "no quorum");
    close_rig(r);
}

static void says_why_a_drain_cannot_be(void **state) {
    (void)state;
    rig *r = open_rig();
    conductor played = {.refuse_with = ERR_RANGE};
    server_set_conductor(r->server, &played);
    message m = drain(1, "elsewhere", false);
    ask(r, &m);
    expect_error(r, 1, ERR_RANGE, "nobody is elsewhere");
    close_rig(r);
}

static void a_drain_may_outlive_its_client_and_the_server(void **state) {
    (void)state;
    rig *r = open_rig();
    conductor played = {0};
    server_set_conductor(r->server, &played);
    message m = drain(1, "one", false);
    ask(r, &m);
    while (played.done == NULL)
        turn(r);
    server_close(r->server);
    played.done(played.ctx, ERR_CLOSED, "");
    close_rig(r);
}

static void reports_what_a_rebalance_would_do(void **state) {
    (void)state;
    rig *r = open_rig();
    conductor played = {.refuse_with = ERR_NOT_LEADER};
    message m = {.kind = MESSAGE_REBALANCE, .request_id = 1};
    m.rebalance.dry_run = true;
    ask(r, &m);
    expect_error(r, 1, ERR_NOT_LEADER, "no etcd");
    server_set_conductor(r->server, &played);
    ask(r, &m);
    expect_error(r, 1, ERR_NOT_LEADER, "c2 leads");

    played.refuse_with = 0;
    ask(r, &m);
    while (played.reported == NULL)
        turn(r);
    assert_true(played.undo);
    played.reported(played.ctx, 0, "{}");
    assert_int_equal(hear(r), MESSAGE_REPORT);
    assert_int_equal(r->m.request_id, 1);
    assert_memory_equal(r->m.report.json.data, "{}", 2);
    played.reported = NULL;
    ask(r, &m);
    while (played.reported == NULL)
        turn(r);
    played.reported(played.ctx, ERR_DEADLINE, "");
    expect_error(r, 1, ERR_DEADLINE, err_text(ERR_DEADLINE));
    close_rig(r);
}

static void reports_what_a_recovery_found(void **state) {
    (void)state;
    rig *r = open_rig();
    conductor played = {.refuse_with = ERR_NOT_LEADER};
    message m = {.kind = MESSAGE_RECOVER, .request_id = 1};
    m.recover.by = "somebody";
    ask(r, &m);
    expect_error(r, 1, ERR_UNSUPPORTED, "etcd");
    server_set_conductor(r->server, &played);
    ask(r, &m);
    expect_error(r, 1, ERR_NOT_LEADER, "etcd is away");

    played.refuse_with = 0;
    ask(r, &m);
    while (played.recovered == NULL)
        turn(r);
    assert_false(played.undo);
    assert_string_equal(played.name, "somebody");
    json_t *report = json_pack("{s:i}", "incarnation", 2);
    played.recovered(played.ctx, 0, "", report);
    json_decref(report);
    assert_int_equal(hear(r), MESSAGE_REPORT);
    assert_true(r->m.report.json.len > 10);
    close_rig(r);
}

static void declines_work_until_it_may_go_on(void **state) {
    (void)state;
    rig *r = open_rig();
    conductor played = {0};
    server_set_conductor(r->server, &played);
    expect_state(r, "up");
    message m = generate(1, 200);
    ask(r, &m);
    assert_int_equal(hear(r), MESSAGE_ACCEPTED);

    played.drained = true;
    server_decline(r->server, ERR_CLOSED, "drained for today");
    m = generate(2, 1);
    ask(r, &m);
    message_kind kind;
    while ((kind = hear(r)) == MESSAGE_TOKEN)
        continue; /* of the request that runs */
    if (kind == MESSAGE_ERROR) {
        assert_int_equal(r->m.error.code, ERR_CLOSED);
        assert_string_equal(r->m.error.text, "drained for today");
        while ((kind = hear(r)) == MESSAGE_TOKEN)
            continue;
    } else {
        expect_error(r, 2, ERR_CLOSED, "drained for today");
    }
    assert_true(server_idle(r->server));
    expect_state(r, "drained");

    played.drained = false;
    server_decline(r->server, 0, "");
    m = generate(3, 1);
    ask(r, &m);
    assert_int_equal(hear(r), MESSAGE_ACCEPTED);
    assert_int_equal(hear(r), MESSAGE_TOKEN);
    assert_int_equal(hear(r), MESSAGE_FINISHED);
    server_decline(r->server, ERR_WRONG_MODEL, "another model's rack");
    expect_state(r, "refusing");
    close_rig(r);
}

int main(void) {
    if (cpu_setup(NULL, 0) < 0) return 1;
    log_setup("test", (log_level)(LOG_ERROR + 1));
    const struct CMUnitTest tests[] = {
        WITH_LARGE(streams_what_was_asked_for),
        WITH_LARGE(bounds_what_a_client_wishes),
        WITH_LARGE(refuses_what_makes_no_sense),
        WITH_SMALL(refuses_a_request_id_twice_and_serves_the_first),
        WITH_SMALL(refuses_at_once_what_exceeds_the_queue),
        WITH_LARGE(a_slow_client_gets_everything_in_the_end),
        WITH_SMALL(refuses_work_but_answers_when_it_ends),
        WITH_SMALL(tells_those_who_are_cut_off),
        WITH_SMALL(a_bad_listen_is_said_at_once),
        WITH_SMALL(drains_nothing_without_an_etcd),
        WITH_SMALL(reports_what_a_rebalance_would_do),
        WITH_SMALL(reports_what_a_recovery_found),
        WITH_SMALL(answers_a_drain_when_it_is_recorded),
        WITH_SMALL(says_why_a_drain_cannot_be),
        WITH_SMALL(a_drain_may_outlive_its_client_and_the_server),
        WITH_SMALL(declines_work_until_it_may_go_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
